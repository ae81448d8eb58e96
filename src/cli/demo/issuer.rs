//! A small issuer: its own key, discovery, JWKS, and tokens for whoever asks. What a real one does after a login, it does too:
//! it asks the gate for the user's last logout and puts it into the token.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use anyhow::Context;
use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    cli::client,
    clock::{Clock, Timestamp},
};

const KEY_ID: &str = "demo-key";
const AUDIENCE: &str = "https://api.demo.example";
const TOKEN_LIFETIME: i64 = 3600;

/// A login of a user, and the session it began.
pub(super) struct Login {
    user: String,
    session: String,
    at: i64,
}

impl Login {
    pub(super) fn new(user: &str) -> anyhow::Result<Self> {
        Ok(Self { user: user.to_owned(), session: random_id()?, at: Clock::System.now().as_secs() })
    }
}

pub(super) struct DemoIssuer {
    address: SocketAddr,
    key: KeyPair,
    jwks: Value,
    admin: OnceLock<SocketAddr>,
}

impl DemoIssuer {
    pub(super) fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let key = KeyPair::generate(KeySize::Rsa2048).context("no RSA key can be made")?;
        let public = key.public_key();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwks = json!({ "keys": [{
            "kty": "RSA",
            "use": "sig",
            "alg": "RS256",
            "kid": KEY_ID,
            "n": encode(public.modulus().big_endian_without_leading_zero()),
            "e": encode(public.exponent().big_endian_without_leading_zero()),
        }] });
        Ok(Self { address, key, jwks, admin: OnceLock::new() })
    }

    /// Its identifier. The slash at the end is how Auth0 writes it.
    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Where tokens for a user come from.
    pub(super) fn token_url(&self, user: &str) -> String {
        format!("http://{}/token?sub={}", self.address, utf8_percent_encode(user, NON_ALPHANUMERIC))
    }

    /// From now on, tokens say when their user last logged out.
    pub(super) fn ask_about_logouts(&self, admin: SocketAddr) {
        // Set once, at the start.
        let _ = self.admin.set(admin);
    }

    /// A login, and a token of it.
    pub(super) async fn log_in(&self, user: &str) -> anyhow::Result<String> {
        self.token(&Login::new(user)?).await
    }

    /// Another token of a login.
    pub(super) async fn token(&self, login: &Login) -> anyhow::Result<String> {
        let now = Clock::System.now().as_secs();
        let mut claims = json!({
            "iss": self.url(),
            "sub": login.user,
            "aud": AUDIENCE,
            "azp": "demo-app",
            "iat": now,
            "exp": now + TOKEN_LIFETIME,
            "auth_time": login.at,
            "scope": "read:echo",
            "sid": login.session,
        });
        if let Some(logout) = self.last_logout(&login.user).await {
            claims["last_logout"] = json!(logout.as_millis());
        }
        self.sign(&claims)
    }

    /// A JWS in compact form (RFC 7515 §7.1).
    fn sign(&self, claims: &Value) -> anyhow::Result<String> {
        let header = json!({ "alg": "RS256", "typ": "at+jwt", "kid": KEY_ID });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&header), encode(claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .context("the token cannot be signed")?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let issuer = Arc::clone(&self);
            tokio::spawn(async move {
                let service = service_fn(move |request| Arc::clone(&issuer).answer(request));
                // A client that breaks off is none of our business.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        Ok(match request.uri().path() {
            "/.well-known/openid-configuration" => {
                let jwks_uri = format!("{}.well-known/jwks.json", self.url());
                json_response(&json!({ "issuer": self.url(), "jwks_uri": jwks_uri }))
            }
            "/.well-known/jwks.json" => json_response(&self.jwks),
            "/token" => {
                let query = request.uri().query().unwrap_or_default();
                let user = query.split('&').find_map(|pair| pair.strip_prefix("sub=")).unwrap_or("alice");
                let user = percent_decode_str(user).decode_utf8_lossy();
                self.log_in(&user).await.map_or_else(
                    |error| status(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
                    |token| status(StatusCode::OK, token),
                )
            }
            _ => status(StatusCode::NOT_FOUND, "there is /token?sub=NAME\n".to_owned()),
        })
    }

    async fn last_logout(&self, user: &str) -> Option<Timestamp> {
        let user = utf8_percent_encode(user, NON_ALPHANUMERIC);
        let url: Uri = format!("http://{}/v1/subjects/demo/{user}", self.admin.get()?).parse().ok()?;
        let answer = client::send(Method::GET, &url, None, None).await.ok()?;
        answer.json().ok()?["logout"]["at"].as_str()?.parse().ok()
    }
}

fn random_id() -> anyhow::Result<String> {
    let mut bytes = [0; 12];
    aws_lc_rs::rand::fill(&mut bytes).context("no random numbers")?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn json_response(value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn status(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
