//! The gate's own endpoints on the public listener, under `/.portcullis/`.
//!
//! - [`logout`]: a token's own session, or all of its subject's; with a redirect to the issuer's logout.
//! - [`session`]: how much time a session has left, and more of it; [`module`]: the browser's side of it.
//! - [`last_logout`]: what the issuer's login asks before it issues a token.
//! - `events/<name>`: senders of events, see [`receiver`](crate::event::receiver).

pub mod cross_origin;
pub mod last_logout;
pub mod logout;
pub mod module;
mod page;
mod parameters;
pub mod session;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};

use self::{
    cross_origin::TrustedOrigins, last_logout::LastLogoutEndpoint, logout::LogoutEndpoint, session::SessionEndpoint,
};
use crate::{
    credential::{Credential, CredentialSources},
    event::receiver::Receivers,
    gate::problem,
    incoming::Incoming,
    marker::{Logout, Marker, MarkerClock},
    store::StoreError,
    upstream::{Body, fields::Downstream},
};

/// Where all of them are. No route can lead there.
pub const PREFIX: &str = "/.portcullis";

/// Where sources send events; the name of the source follows.
const EVENTS: &str = "/.portcullis/events/";

/// The endpoints.
#[derive(Debug)]
pub struct OwnEndpoints {
    /// `/.portcullis/logout`
    pub logout: LogoutEndpoint,
    /// `/.portcullis/session`
    pub session: SessionEndpoint,
    /// Pages elsewhere whose scripts may use these two.
    pub origins: TrustedOrigins,
    /// `/.portcullis/last-logout`, where it is configured.
    pub last_logout: Option<LastLogoutEndpoint>,
    /// `/.portcullis/events/`
    pub receivers: Arc<Receivers>,
}

impl OwnEndpoints {
    /// Whether a canonical path is one of theirs.
    #[must_use]
    pub fn owns(&self, path: &str) -> bool {
        path.strip_prefix(PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether those who ask there are machines with a credential of their own.
    #[must_use]
    pub fn is_for_machines(path: &str) -> bool {
        path.starts_with(EVENTS) || path.strip_prefix(PREFIX) == Some("/last-logout")
    }

    /// Answers a request for one of them.
    pub async fn serve(&self, request: Request<Incoming>, downstream: &Downstream) -> Response<Body> {
        if let Some(name) = request.uri().path().strip_prefix(EVENTS) {
            let name = name.to_owned();
            return self.receivers.serve(&name, request).await;
        }
        let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default();
        match (path, &self.last_logout) {
            ("/logout" | "/session" | "/session/continue", _) => self.serve_scripts(request, downstream).await,
            ("/session.js", _) => module::serve(&request.into_parts().0),
            ("/session.json", _) => module::describe(&request.into_parts().0),
            ("/last-logout", Some(last_logout)) => last_logout.serve(&request.into_parts().0, downstream).await,
            _ => problem::response(StatusCode::NOT_FOUND, "no_endpoint", "There is no such endpoint."),
        }
    }

    /// What scripts of trusted origins may use.
    async fn serve_scripts(&self, request: Request<Incoming>, downstream: &Downstream) -> Response<Body> {
        let (head, body) = request.into_parts();
        if let Some(response) = self.origins.preflight(&head) {
            return response;
        }
        let origin = self.origins.of(&head.headers).cloned();
        let mut response = match head.uri.path().strip_prefix(PREFIX) {
            Some("/session") => self.session.tell(&head).await,
            Some("/session/continue") => self.session.go_on(&head).await,
            _ => self.logout.serve(Request::from_parts(head, body), downstream).await,
        };
        self.origins.share(origin.as_ref(), response.headers_mut());
        response
    }
}

/// A cookie is sent by the browser whoever asks it to; only the site itself may ask (Fetch Metadata, or, in older browsers and without
/// TLS, `Origin`).
fn is_forged(sources: &CredentialSources, fields: &HeaderMap) -> bool {
    let Credential::Bearer { ambient: true, .. } = sources.find(fields) else { return false };
    match fields.get("sec-fetch-site") {
        Some(site) => !matches!(site.as_bytes(), b"same-origin" | b"none"),
        None => fields.get(header::ORIGIN).is_some_and(|origin| !is_own_origin(origin, fields)),
    }
}

/// Whether an origin (RFC 6454 §6.2) names the host that was asked.
fn is_own_origin(origin: &HeaderValue, fields: &HeaderMap) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let host = fields.get(header::HOST).and_then(|host| host.to_str().ok());
    matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

/// A logout by this gateway's clock.
const fn log_out_at(now: crate::clock::Timestamp) -> Marker {
    Marker::Logout(Logout { at: now, clock: MarkerClock::Gateway })
}

fn no_content() -> Response<Body> {
    let mut response = Response::new(Bytes::new().into());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Bytes::from(value.to_string()).into());
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn method_not_allowed(allow: &'static str) -> Response<Body> {
    let mut response = problem::response(StatusCode::METHOD_NOT_ALLOWED, "method", "This method is not served here.");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

/// What cannot be had at the moment: the caller must know, and try again.
fn unavailable(code: &'static str, detail: &'static str) -> Response<Body> {
    let mut response = problem::response(StatusCode::SERVICE_UNAVAILABLE, code, detail);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// The logout could not be stored.
fn store_failed(error: &StoreError) -> Response<Body> {
    tracing::error!(error = error as &dyn std::error::Error, "logout could not be stored");
    unavailable("not_stored", "The logout could not be stored; try again.")
}
