//! A gate inside an axum service, with the embedded store: no proxy, no Redis.
//!
//! ```sh
//! cargo run --example axum --no-default-features --features embedded
//! ```
//!
//! `/login` stands for the identity provider here; `/me` and `/logout` are behind the gate:
//!
//! ```sh
//! TOKEN=$(curl -s 'http://127.0.0.1:3000/login?sub=alice')
//! curl -i -H "Authorization: Bearer $TOKEN" http://127.0.0.1:3000/me               # 200: admitted
//! curl -i -H "Authorization: Bearer $TOKEN" -X POST http://127.0.0.1:3000/logout   # 204: the session is over
//! curl -i -H "Authorization: Bearer $TOKEN" http://127.0.0.1:3000/me               # 401, code "session_ended"
//! TOKEN=$(curl -s 'http://127.0.0.1:3000/login?sub=alice')                         # another session
//! curl -i -H "Authorization: Bearer $TOKEN" http://127.0.0.1:3000/me               # 200
//! ```
//!
//! Markers and activity are in `data/`: what is over stays over when the service starts again.

use std::{error::Error, sync::Arc};

use axum::{
    Extension, Router,
    extract::{Query, State},
    http::StatusCode,
    routing::{get, post},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use portcullis::{
    clock::Clock,
    gate::{Admission, Engine, EngineSettings, Judge, Policy},
    marker::{Marker, MarkerKey, MarkerRecord},
    store::{
        Store,
        embedded::{EmbeddedSettings, EmbeddedStore},
    },
    token::issuer::{IssuerSettings, KeySource},
};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

type Failure = Box<dyn Error + Send + Sync>;

const ISSUER: &str = "https://issuer.example/";
const AUDIENCE: &str = "https://api.example";
// An issuer that publishes its keys needs none of this: leave `keys` and `algorithms` as `IssuerSettings::new` has them.
const SECRET: &[u8] = b"for this example only, 32 bytes+";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let issuer = IssuerSettings {
        algorithms: [Algorithm::HS256].into(),
        keys: KeySource::Secret(SECRET.to_vec().into()),
        ..IssuerSettings::new("example".try_into()?, ISSUER, AUDIENCE)
    };
    let engine = Engine::start(EngineSettings::new(vec![issuer]), |watcher, clock| {
        let settings = EmbeddedSettings { directory: "data".into() };
        Ok::<Arc<dyn Store>, Failure>(EmbeddedStore::open(&settings, watcher, clock)?)
    })?;

    let app = Router::new()
        .route("/me", get(me))
        .route("/logout", post(log_out))
        .layer(engine.layer(Policy::new("example")))
        // Below the layer: not behind the gate.
        .route("/login", get(log_in))
        .with_state(engine.judge().clone());

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let interrupted = async { drop(tokio::signal::ctrl_c().await) };
    axum::serve(listener, app).with_graceful_shutdown(interrupted).await?;
    engine.stop().await;
    Ok(())
}

/// Only the admitted get here, so there is always an `Admission`.
async fn me(Extension(admission): Extension<Admission>) -> String {
    format!("you are {}\n", admission.claims().subject.id.as_str())
}

/// Ends the caller's session. 204 when that is durable; every later request with one of its tokens is refused.
async fn log_out(State(judge): State<Judge>, Extension(admission): Extension<Admission>) -> StatusCode {
    let claims = admission.claims();
    let Some(session) = &claims.session else { return StatusCode::BAD_REQUEST };
    let key = MarkerKey::session(&claims.subject.issuer, session);
    let record = MarkerRecord::new(Marker::SessionEnd(Clock::System.now()));
    match judge.parts().ledger.write(&key, &record).await {
        Ok(_) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[derive(Deserialize)]
struct Login {
    sub: String,
}

/// What an identity provider does: a new session, and a token for it.
async fn log_in(Query(Login { sub }): Query<Login>) -> Result<String, StatusCode> {
    let now = Clock::System.now();
    let claims = json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": sub,
        "sid": format!("{sub}-{}", now.as_millis()),
        "iat": now.as_secs(),
        "exp": now.as_secs() + 3600,
    });
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET))
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}
