//! The admin listener: markers, look-ups, explanations, health, metrics. Described by the OpenAPI document it serves.
//!
//! 1. Everything but health, metrics and the document needs the bearer secret, where one is configured. Without one it
//!    listens on a loopback address only, and refuses what a browser may have been tricked into sending.
//! 2. A change is answered when it is durable, and leaves one audit line.
//! 3. Every refusal is a problem body with a stable `code` and says what to do.

mod answer;
mod auth;
mod health;
mod markers;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit, State},
    http::{HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::answer::problem;
pub use self::health::Readiness;
use crate::{
    config::Config,
    gate::{Judge, Policy},
    token::claims::IssuerName,
};

/// The description of everything served here.
pub const OPENAPI: &str = include_str!("admin/openapi.json");

/// The largest request body, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// The admin listener.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// Where it listens.
    pub address: SocketAddr,
    /// The bearer secret; without one, only on a loopback address.
    pub token: Option<SecretString>,
}

/// What the endpoints work with.
#[derive(Clone, Debug)]
pub struct Admin(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    token: Option<SecretString>,
    issuers: Vec<IssuerName>,
    policies: Vec<Policy>,
    judge: Judge,
    readiness: Arc<Readiness>,
    registry: Mutex<Registry>,
}

impl Admin {
    /// Endpoints over these parts.
    #[must_use]
    pub fn new(config: &Config, judge: Judge, readiness: Arc<Readiness>, registry: Registry) -> Self {
        Self(Arc::new(Inner {
            token: config.admin.token.clone(),
            issuers: config.issuers.iter().map(|issuer| issuer.name.clone()).collect(),
            policies: config.routes.iter().map(|route| route.policy.clone()).collect(),
            judge,
            readiness,
            registry: Mutex::new(registry),
        }))
    }

    fn router(self) -> Router {
        let guarded = Router::new()
            .route("/v1/subjects/{issuer}/{subject}", get(markers::look_up))
            .route("/v1/subjects/{issuer}/{subject}/logout", post(markers::log_out))
            .route("/v1/subjects/{issuer}/{subject}/block", put(markers::block).delete(markers::unblock))
            .route("/v1/sessions/{issuer}/{session}/end", post(markers::end_session))
            .route("/v1/tokens/{issuer}/{token}/revoke", post(markers::revoke_token))
            .route("/v1/clients/{issuer}/{client}/not-before", post(markers::client_not_before))
            .route("/v1/issuers/{issuer}/not-before", post(markers::issuer_not_before))
            .route("/v1/explain", post(markers::explain))
            .layer(middleware::from_fn_with_state(self.clone(), auth::check));
        Router::new()
            .route("/livez", get(health::live))
            .route("/healthz", get(health::live))
            .route("/readyz", get(health::ready))
            .route("/startupz", get(health::started))
            .route("/metrics", get(metrics))
            .route("/openapi.json", get(openapi))
            .merge(guarded)
            .fallback(|| async {
                problem(StatusCode::NOT_FOUND, "no_endpoint", "there is no such endpoint; see /openapi.json")
            })
            .method_not_allowed_fallback(|| async {
                problem(StatusCode::METHOD_NOT_ALLOWED, "method", "this method is not served here; see /openapi.json")
            })
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(self)
    }
}

/// Serves the admin endpoints until `stop` is cancelled.
pub async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken) {
    let service = admin.router().into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, service).with_graceful_shutdown(async move { stop.cancelled().await });
    if let Err(error) = served.await {
        tracing::error!(error = &error as &dyn std::error::Error, "admin listener failed");
    }
}

type Peer = ConnectInfo<SocketAddr>;

async fn metrics(State(Admin(admin)): State<Admin>) -> Response {
    admin.judge.maintain().await;
    let mut text = String::new();
    let encoded = encode(&mut text, &admin.registry.lock().unwrap_or_else(PoisonError::into_inner));
    if encoded.is_err() {
        return problem(StatusCode::INTERNAL_SERVER_ERROR, "metrics", "metrics could not be written");
    }
    let content_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], OPENAPI).into_response()
}
