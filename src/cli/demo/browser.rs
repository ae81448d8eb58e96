//! A page that watches over a session: what a browser shows of the gate.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpListener, sync::Mutex};

use super::issuer::{DemoIssuer, Login};

const USER: &str = "auth0|alice";

/// The page's own files; the module comes from the gate.
const FILES: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", include_str!("../../../examples/browser/index.html")),
    ("/app.js", "text/javascript; charset=utf-8", include_str!("../../../examples/browser/app.js")),
    ("/style.css", "text/css; charset=utf-8", include_str!("../../../examples/browser/style.css")),
];

/// No inline script and no inline style, for the module needs neither.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The site in front of which the gate stands.
pub(super) struct Site {
    issuer: Arc<DemoIssuer>,
    /// What a browser would know its login by, were there more than one browser.
    login: Mutex<Option<Login>>,
}

impl Site {
    pub(super) fn new(issuer: Arc<DemoIssuer>) -> Self {
        Self { issuer, login: Mutex::new(None) }
    }

    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let site = Arc::clone(&self);
            tokio::spawn(async move {
                let service = service_fn(move |request| Arc::clone(&site).answer(request));
                // A client that breaks off is none of our business.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let path = request.uri().path();
        if path == "/demo/token" {
            let same = request.uri().query() == Some("same=1");
            return Ok(match self.token(same).await {
                Ok(token) => response(StatusCode::OK, "application/json", json!({ "access_token": token }).to_string()),
                Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error:#}\n")),
            });
        }
        let file = FILES.iter().find(|(known, ..)| *known == path);
        Ok(file.map_or_else(
            || response(StatusCode::NOT_FOUND, "text/plain", "there is /\n"),
            |(_, kind, text)| response(StatusCode::OK, kind, *text),
        ))
    }

    /// A new login, or another token of the one there is.
    async fn token(&self, same: bool) -> anyhow::Result<String> {
        let mut login = self.login.lock().await;
        let login = match login.take() {
            Some(known) if same => login.insert(known),
            _ => login.insert(Login::new(USER)?),
        };
        self.issuer.token(login).await
    }
}

fn response(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.into()));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}
