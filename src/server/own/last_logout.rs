//! `/.portcullis/last-logout`: what the issuer asks while it issues a token, and tells when a password changed.
//!
//! 1. `GET ?sub=…` answers `{"last_logout": …, "blocked": …}`: when the subject last logged out, in epoch milliseconds, as the
//!    `last_logout` claim of the token is to be, or `null`; and whether it is blocked.
//! 2. `POST ?sub=…` logs the subject out everywhere, as of now.
//! 3. Each has a credential of its own, good for nothing else.
//! 4. Answers come from the store itself. While it does not answer, or other gateways may have been told something that this one has
//!    not, there is none: a token that was issued in ignorance of a logout would pass for one that knew of it.
//! 5. What cannot be read counts as blocked, and as logged out now: it refuses at the gate, too.

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{sync::Semaphore, time::timeout};

use super::{json, log_out_at, method_not_allowed, no_content, parameters::Parameters, store_failed, unavailable};
use crate::{
    clock::{Clock, Timestamp},
    gate::{Judge, problem},
    marker::{Marker, MarkerKey, MarkerRecord, Reading, Source},
    telemetry::audit::{self, Actor},
    token::claims::{IssuerName, Subject, SubjectId},
    upstream::{Body, fields::Downstream},
};

/// How many requests are worked on at once; further ones are asked to come back.
const AT_ONCE: usize = 64;

/// How long the store may take: a login waits for the answer, and gives up soon.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who may ask, and who may tell.
#[derive(Clone, Debug)]
pub struct LastLogoutSettings {
    /// The bearer secret of those who ask.
    pub token: SecretString,
    /// The bearer secret of those who tell; none: nobody may.
    pub write_token: Option<SecretString>,
}

/// The endpoint.
#[derive(Debug)]
pub struct LastLogoutEndpoint {
    settings: LastLogoutSettings,
    issuers: Vec<IssuerName>,
    judge: Judge,
    clock: Clock,
    places: Semaphore,
}

impl LastLogoutEndpoint {
    /// An endpoint for the subjects of these issuers.
    #[must_use]
    pub fn new(settings: LastLogoutSettings, issuers: Vec<IssuerName>, judge: Judge, clock: Clock) -> Self {
        Self { settings, issuers, judge, clock, places: Semaphore::new(AT_ONCE) }
    }

    pub(super) async fn serve(&self, head: &Parts, downstream: &Downstream) -> Response<Body> {
        let expected = match (&head.method, &self.settings.write_token) {
            (&Method::GET, _) => &self.settings.token,
            (&Method::POST, Some(write_token)) => write_token,
            (_, Some(_)) => return method_not_allowed("GET, POST"),
            (_, None) => return method_not_allowed("GET"),
        };
        if !is_authorized(head, expected) {
            return unauthorized();
        }
        let subject = match self.subject(head) {
            Ok(subject) => subject,
            Err(response) => return *response,
        };
        let Ok(_place) = self.places.try_acquire() else {
            return unavailable("busy", "Too many requests are under way; try again.");
        };
        if head.method == Method::POST { self.log_out(&subject, downstream).await } else { self.tell(&subject).await }
    }

    async fn tell(&self, subject: &Subject) -> Response<Body> {
        let ledger = &self.judge.parts().ledger;
        let (logout, block) = (MarkerKey::logout(subject), MarkerKey::block(subject));
        let read = async { tokio::try_join!(ledger.look_up(&logout), ledger.look_up(&block)) };
        // Asked afterwards: whoever answered is the one who is heard.
        match timeout(PATIENCE, read).await {
            Ok(Ok((logout, block))) if ledger.cache().is_current() => {
                let now = self.clock.now();
                json(&serde_json::json!({
                    "last_logout": logged_out(&logout, now).map(Timestamp::as_millis),
                    "blocked": is_blocked(&block, now),
                }))
            }
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "last logout not known");
                silent()
            }
            Ok(Ok(_)) | Err(_) => silent(),
        }
    }

    async fn log_out(&self, subject: &Subject, downstream: &Downstream) -> Response<Body> {
        let (key, marker) = (MarkerKey::logout(subject), log_out_at(self.clock.now()));
        let record = MarkerRecord {
            by: Some("issuer".to_owned()),
            reason: Some("credential change".to_owned()),
            ..MarkerRecord::new(marker).written_by(Source::Logout)
        };
        let result = self.judge.parts().ledger.write(&key, &record).await;
        let from = downstream.peer.to_str().ok().and_then(|peer| peer.parse().ok());
        audit::record(&Actor { who: "issuer".to_owned(), from, event: None }, "logout", &key, &marker, &result);
        result.map_or_else(|error| store_failed(&error), |_| no_content())
    }

    /// Whom it is about.
    fn subject(&self, head: &Parts) -> Result<Subject, Box<Response<Body>>> {
        let invalid = |detail| Box::new(problem::response(StatusCode::BAD_REQUEST, "invalid_parameters", detail));
        let parameters = Parameters::of_query(head.uri.query());
        let one = |name| parameters.one(&[name]).map_err(|_| invalid("A parameter is there twice, or not readable."));
        let id = one("sub")?.and_then(|sub| SubjectId::try_from(sub.as_str()).ok());
        let id = id.ok_or_else(|| invalid("`sub` must name a subject."))?;
        let issuer = match (one("issuer")?, &self.issuers[..]) {
            (Some(name), issuers) => issuers.iter().find(|issuer| issuer.as_str() == name),
            (None, [only]) => Some(only),
            (None, _) => return Err(invalid("`issuer` must name one of the issuers.")),
        };
        let unknown = || problem::response(StatusCode::NOT_FOUND, "unknown_issuer", "There is no such issuer.");
        let issuer = issuer.ok_or_else(|| Box::new(unknown()))?.clone();
        Ok(Subject { issuer, id })
    }
}

fn logged_out(reading: &Reading<MarkerRecord>, now: Timestamp) -> Option<Timestamp> {
    match reading {
        Reading::Absent => None,
        Reading::Present(MarkerRecord { marker: Marker::Logout(logout), .. }) => Some(logout.at),
        Reading::Present(_) | Reading::Unreadable => Some(now),
    }
}

fn is_blocked(reading: &Reading<MarkerRecord>, now: Timestamp) -> bool {
    match reading {
        Reading::Absent => false,
        Reading::Present(MarkerRecord { marker: Marker::Block(block), .. }) => block.holds(now),
        Reading::Present(_) | Reading::Unreadable => true,
    }
}

/// Whether the request carries this bearer secret, and only it. Takes as long for any value of the right length.
fn is_authorized(head: &Parts, expected: &SecretString) -> bool {
    let mut values = head.headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let Some((scheme, token)) = value.as_bytes().split_at_checked("Bearer ".len()) else { return false };
    scheme.eq_ignore_ascii_case(b"Bearer ")
        && verify_slices_are_equal(token, expected.expose_secret().as_bytes()).is_ok()
}

fn unauthorized() -> Response<Body> {
    let detail = "The caller's credential is missing or wrong.";
    let mut response = problem::response(StatusCode::UNAUTHORIZED, "unauthorized", detail);
    let challenge = HeaderValue::from_static("Bearer realm=\"portcullis last-logout\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

fn silent() -> Response<Body> {
    unavailable("stale", "The state of sessions cannot be had at the moment.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marker::{Block, Logout, MarkerClock};

    const NOW: Timestamp = Timestamp::from_millis(1_763_700_000_123);

    #[test]
    fn what_cannot_be_read_refuses() {
        assert_eq!(logged_out(&Reading::Unreadable, NOW), Some(NOW));
        assert!(is_blocked(&Reading::Unreadable, NOW));
        assert_eq!(logged_out(&Reading::Absent, NOW), None);
        assert!(!is_blocked(&Reading::Absent, NOW));
    }

    #[test]
    fn markers_are_told_as_they_are() {
        let at = NOW.minus(Duration::from_secs(5));
        let logout = Marker::Logout(Logout { at, clock: MarkerClock::Gateway });
        assert_eq!(logged_out(&Reading::Present(MarkerRecord::new(logout)), NOW), Some(at));
        for (blocked, until, expected) in
            [(true, None, true), (false, None, false), (true, Some(NOW), false), (true, Some(Timestamp::MAX), true)]
        {
            let block = Marker::Block(Block { blocked, at, until });
            assert_eq!(is_blocked(&Reading::Present(MarkerRecord::new(block)), NOW), expected, "{block:?}");
        }
    }
}
