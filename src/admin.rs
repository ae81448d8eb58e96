//! The admin listener: markers, look-ups, explanations, health, metrics. Described by the OpenAPI document it serves.
//!
//! 1. Everything but health, metrics and the document needs the bearer secret, where one is configured. Without one it
//!    listens on a loopback address only, and refuses what a browser may have been tricked into sending.
//! 2. A change is answered when it is durable, and leaves one audit line.
//! 3. Every refusal is a problem body with a stable `code` and says what to do.

mod answer;
mod auth;
mod body;
mod change;
mod explain;
mod health;
mod inactive;
mod look_up;
mod names;
mod reload;
mod sessions;
mod sources;
#[cfg(test)]
mod tests;

use std::{
    future::IntoFuture,
    net::SocketAddr,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit, FromRef, State},
    http::{HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post, put},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::answer::Refusal;
pub use self::health::Readiness;
use crate::{
    gate::{Judge, Policy},
    inactive::records::Records,
    token::claims::IssuerName,
};

/// The description of everything served here.
pub const OPENAPI: &str = include_str!("admin/openapi.json");

/// The largest request body, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// How long a request may take to end once the gate stops: a client that does not go on must not keep it from stopping.
const GRACE: Duration = Duration::from_secs(2);

/// The admin listener.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// Where it listens.
    pub address: SocketAddr,
    /// The bearer secret; without one, only on a loopback address.
    pub token: Option<SecretString>,
}

/// What a request to the endpoints is answered by.
#[derive(Clone, Debug)]
pub struct Admin(Arc<Inner>);

/// What a configuration says of them.
#[derive(Debug)]
pub struct View {
    /// The bearer secret.
    pub token: Option<SecretString>,
    /// All issuers.
    pub issuers: Vec<IssuerName>,
    /// The policies of the routes.
    pub policies: Vec<Policy>,
    /// What judges.
    pub judge: Judge,
}

#[derive(Debug)]
struct Inner {
    view: View,
    lasting: Arc<Lasting>,
}

/// What outlives configurations.
#[derive(Debug)]
struct Lasting {
    readiness: Arc<Readiness>,
    records: Arc<dyn Records>,
    registry: Mutex<Registry>,
}

impl Deref for Inner {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

/// What the endpoints work with now. Clones share it.
#[derive(Clone, Debug)]
pub struct CurrentAdmin(Arc<ArcSwap<Inner>>);

impl FromRef<CurrentAdmin> for Admin {
    fn from_ref(current: &CurrentAdmin) -> Self {
        Self(current.0.load_full())
    }
}

impl CurrentAdmin {
    /// Endpoints over these parts.
    #[must_use]
    pub fn new(view: View, readiness: Arc<Readiness>, records: Arc<dyn Records>, registry: Registry) -> Self {
        let lasting = Arc::new(Lasting { readiness, records, registry: Mutex::new(registry) });
        Self(Arc::new(ArcSwap::from_pointee(Inner { view, lasting })))
    }

    /// From now on requests are answered by this.
    pub fn exchange(&self, view: View) {
        let lasting = Arc::clone(&self.0.load().lasting);
        self.0.store(Arc::new(Inner { view, lasting }));
    }

    fn router(self) -> Router {
        let routes = |endpoints: Vec<(&'static str, MethodRouter<Self>)>| {
            endpoints.into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods))
        };
        routes(guarded())
            .layer(middleware::from_fn_with_state(self.clone(), auth::check))
            .merge(routes(open()))
            .fallback(|| async {
                Refusal::new(StatusCode::NOT_FOUND, "no_endpoint", "there is no such endpoint; see /openapi.json")
            })
            .method_not_allowed_fallback(|| async {
                let detail = "this method is not served here; see /openapi.json";
                Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", detail)
            })
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(self)
    }
}

/// What only those may use who are let in.
fn guarded() -> Vec<(&'static str, MethodRouter<CurrentAdmin>)> {
    vec![
        ("/v1/subjects/{issuer}/{subject}", get(look_up::subject)),
        ("/v1/subjects/{issuer}/{subject}/logout", post(change::log_out)),
        ("/v1/subjects/{issuer}/{subject}/block", put(change::block).delete(change::unblock)),
        ("/v1/subjects/{issuer}/{subject}/sessions", get(sessions::list)),
        ("/v1/subjects/{issuer}/{subject}/activity", put(inactive::renew).delete(inactive::forget)),
        ("/v1/sessions/{issuer}/{session}", get(look_up::session)),
        ("/v1/sessions/{issuer}/{session}/end", post(change::end_session)),
        ("/v1/tokens/{issuer}/{token}", get(look_up::token)),
        ("/v1/tokens/{issuer}/{token}/revoke", post(change::revoke_token)),
        ("/v1/clients/{issuer}/{client}/not-before", get(look_up::client).post(change::client_not_before)),
        ("/v1/issuers/{issuer}/not-before", get(look_up::issuer).post(change::issuer_not_before)),
        ("/v1/issuers/{issuer}/activity", post(inactive::look_up).layer(DefaultBodyLimit::max(inactive::MAX_BODY))),
        ("/v1/issuers/{issuer}/inactive", get(inactive::list)),
        (
            "/v1/issuers/{issuer}/inactive/run",
            get(inactive::run)
                .put(inactive::hold)
                .delete(inactive::let_go)
                .layer(DefaultBodyLimit::max(inactive::MAX_BODY)),
        ),
        ("/v1/explain", post(explain::explain)),
        ("/v1/reload", get(reload::last).post(reload::reload)),
        ("/v1/sources", get(sources::list)),
        ("/v1/sources/{source}/events", post(sources::take).layer(DefaultBodyLimit::max(sources::MAX_BODY))),
    ]
}

/// What everybody may use who can reach it.
fn open() -> Vec<(&'static str, MethodRouter<CurrentAdmin>)> {
    vec![
        ("/livez", get(health::live)),
        ("/healthz", get(health::live)),
        ("/readyz", get(health::ready)),
        ("/startupz", get(health::started)),
        ("/metrics", get(metrics)),
        ("/openapi.json", get(openapi)),
    ]
}

/// Serves the admin endpoints until `stop` is cancelled, and then for what requests under way need, `GRACE` at most.
pub async fn serve(listener: TcpListener, admin: CurrentAdmin, stop: CancellationToken) {
    let service = admin.router().into_make_service_with_connect_info::<SocketAddr>();
    let stopping = stop.clone();
    let served = axum::serve(listener, service).with_graceful_shutdown(async move { stopping.cancelled().await });
    let patience = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = served.into_future() => {
            if let Err(error) = served {
                tracing::error!(error = &error as &dyn std::error::Error, "admin listener failed");
            }
        }
        () = patience => tracing::debug!("admin requests under way were cut off"),
    }
}

type Peer = ConnectInfo<SocketAddr>;

async fn metrics(State(Admin(admin)): State<Admin>) -> Response {
    admin.judge.maintain().await;
    // Some of them are read from files.
    let encoding = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        let registry = admin.lasting.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry).map(|()| text)
    });
    let Ok(Ok(text)) = encoding.await else {
        let detail = "metrics could not be written";
        return Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "metrics", detail).into_response();
    };
    let content_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], OPENAPI).into_response()
}
