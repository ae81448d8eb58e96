//! The gate's own endpoints on the public listener, under `/.portcullis/`.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use crate::{
    clock::{Clock, Timestamp},
    credential::Credential,
    event::receiver::Receivers,
    gate::{Judge, Judgement, Policy, problem, refusal::Refusals, tokens::KnownToken},
    marker::{Logout, Marker, MarkerClock, MarkerKey, MarkerRecord, Reading, Source},
    store::StoreError,
    telemetry::audit::{self, Actor},
    upstream::{Body, fields::Downstream},
    verdict::Reason,
};

/// Where all of them are. No route can lead there.
pub const PREFIX: &str = "/.portcullis";

/// Where sources send events; the name of the source follows.
const EVENTS: &str = "/.portcullis/events/";

/// The endpoints.
#[derive(Debug)]
pub struct OwnEndpoints {
    judge: Judge,
    policy: Arc<Policy>,
    refusals: Refusals,
    receivers: Arc<Receivers>,
    clock: Clock,
}

impl OwnEndpoints {
    /// Endpoints that take tokens by `policy`, and events for `receivers`.
    #[must_use]
    pub fn new(judge: Judge, policy: Policy, receivers: Arc<Receivers>, clock: Clock) -> Self {
        Self { judge, refusals: Refusals::new(&policy), policy: Arc::new(policy), receivers, clock }
    }

    /// Whether a canonical path is one of theirs.
    #[must_use]
    pub fn owns(&self, path: &str) -> bool {
        path.strip_prefix(PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Answers a request for one of them.
    pub async fn serve(&self, request: Request<Incoming>, downstream: &Downstream) -> Response<Body> {
        if let Some(name) = request.uri().path().strip_prefix(EVENTS) {
            let name = name.to_owned();
            return self.receivers.serve(&name, request).await;
        }
        match (request.uri().path().strip_prefix(PREFIX), request.method()) {
            (Some("/logout"), &Method::POST) => self.log_out(&request, downstream).await,
            (Some("/logout"), _) => method_not_allowed("POST"),
            _ => problem::response(StatusCode::NOT_FOUND, "no_endpoint", "There is no such endpoint."),
        }
    }

    /// Ends the session of the caller's token, or with `?everywhere` all sessions of its subject. Without a session id in
    /// the token there is only everywhere. 204 when it is durable.
    async fn log_out(&self, request: &Request<Incoming>, downstream: &Downstream) -> Response<Body> {
        let fields = request.headers();
        if self.is_forged(fields) {
            let detail = "A logout with a cookie must come from the site itself.";
            return problem::response(StatusCode::FORBIDDEN, "cross_site", detail);
        }
        let decision = match self.judge.judge(&self.policy, fields) {
            Judgement::Decided(decision) => decision,
            Judgement::Pending(decision) => decision.await,
        };
        let everywhere = everywhere(request);
        match (decision.reason(), &decision.token) {
            (None, Some(known)) => self.end(known, everywhere, downstream).await,
            // What is over already is over; but the end of one session is not the end of all.
            (Some(Reason::LoggedOut), Some(known)) => {
                let key = MarkerKey::logout(&known.token.claims.subject);
                self.confirm(&key, known, everywhere, downstream).await
            }
            (Some(Reason::SessionEnded), Some(known)) if !everywhere => {
                let claims = &known.token.claims;
                let session = |session| MarkerKey::session(&claims.subject.issuer, session);
                let key = claims.session.as_ref().map_or_else(|| MarkerKey::logout(&claims.subject), session);
                self.confirm(&key, known, everywhere, downstream).await
            }
            // Whether it still is, nobody knows while the store is silent; writing it again does no harm.
            (Some(Reason::SessionEnded), Some(known)) if decision.stale => {
                self.end(known, everywhere, downstream).await
            }
            (reason, _) => self.refusals.answer(reason.unwrap_or(Reason::MissingToken), fields),
        }
    }

    /// Answers once the marker that ended it is durable: whoever wrote it may not have been told that it is.
    async fn confirm(
        &self,
        key: &MarkerKey,
        known: &KnownToken,
        everywhere: bool,
        downstream: &Downstream,
    ) -> Response<Body> {
        let ledger = &self.judge.parts().ledger;
        let confirmed = match ledger.look_up(key).await {
            // Merged into itself it stays as it is, and is waited for.
            Ok(Reading::Present(record)) => ledger.write(key, &record).await.map(drop),
            Ok(Reading::Unreadable) => Ok(()),
            Ok(Reading::Absent) => return self.end(known, everywhere, downstream).await,
            Err(error) => Err(error),
        };
        confirmed.map_or_else(|error| store_failed(&error), |()| no_content())
    }

    async fn end(&self, known: &KnownToken, everywhere: bool, downstream: &Downstream) -> Response<Body> {
        let claims = &known.token.claims;
        let now = self.clock.now();
        let (what, key, marker) = match &claims.session {
            Some(session) if !everywhere => {
                ("session_end", MarkerKey::session(&claims.subject.issuer, session), Marker::SessionEnd(now))
            }
            _ => ("logout", MarkerKey::logout(&claims.subject), log_out_at(now)),
        };
        let by = claims.client.as_ref().map_or("self", |client| client.as_str());
        let record = MarkerRecord {
            by: Some(by.to_owned()),
            reason: Some("logout".to_owned()),
            ..MarkerRecord::new(marker).written_by(Source::Logout)
        };
        let result = self.judge.parts().ledger.write(&key, &record).await;
        let from = downstream.peer.to_str().ok().and_then(|peer| peer.parse().ok());
        audit::record(&Actor { who: "self".to_owned(), from, event: None }, what, &key, &marker, &result);
        result.map_or_else(|error| store_failed(&error), |_| no_content())
    }

    /// A cookie is sent by the browser whoever asks it to; only the site itself may ask (Fetch Metadata,
    /// or, in older browsers and without TLS, `Origin`).
    fn is_forged(&self, fields: &HeaderMap) -> bool {
        let Credential::Bearer { ambient: true, .. } = self.policy.sources.find(fields) else { return false };
        match fields.get("sec-fetch-site") {
            Some(site) => !matches!(site.as_bytes(), b"same-origin" | b"none"),
            None => fields.get(header::ORIGIN).is_some_and(|origin| !is_own_origin(origin, fields)),
        }
    }
}

/// A logout by this gateway's clock.
#[must_use]
pub const fn log_out_at(now: Timestamp) -> Marker {
    Marker::Logout(Logout { at: now, clock: MarkerClock::Gateway })
}

/// Whether an origin (RFC 6454 §6.2) names the host that was asked.
fn is_own_origin(origin: &HeaderValue, fields: &HeaderMap) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let host = fields.get(header::HOST).and_then(|host| host.to_str().ok());
    matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

fn everywhere<B>(request: &Request<B>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|pair| matches!(pair, "everywhere" | "everywhere=" | "everywhere=true" | "everywhere=1"))
}

fn no_content() -> Response<Body> {
    let mut response = Response::new(Bytes::new().into());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn method_not_allowed(allow: &'static str) -> Response<Body> {
    let mut response = problem::response(StatusCode::METHOD_NOT_ALLOWED, "method", "This method is not served here.");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

/// The logout could not be stored: the caller must know, and try again.
fn store_failed(error: &StoreError) -> Response<Body> {
    tracing::error!(error = error as &dyn std::error::Error, "logout could not be stored");
    let mut response =
        problem::response(StatusCode::SERVICE_UNAVAILABLE, "not_stored", "The logout could not be stored; try again.");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
