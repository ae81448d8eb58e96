//! How much time a session has left, told to its client.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    Decision,
    policy::{Mode, Policy},
};
use crate::{
    clock::Timestamp,
    session::{Deadlines, Lifetime},
};

/// Seconds until the session is over unless it is active before.
pub const IDLE: HeaderName = HeaderName::from_static("portcullis-session-idle");
/// Seconds until the session is over in any case.
pub const ABSOLUTE: HeaderName = HeaderName::from_static("portcullis-session-absolute");

/// Both, as scripts of other origins are let see them.
const EXPOSED: HeaderValue = HeaderValue::from_static("Portcullis-Session-Idle, Portcullis-Session-Absolute");

/// Whole seconds, rounded down: nobody is promised more than there is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TimeLeft {
    /// Until the idle limit.
    pub idle: Option<u64>,
    /// Until the absolute limit.
    pub absolute: Option<u64>,
}

impl TimeLeft {
    /// What an admitted request's session has left; `None`: nothing limits it, or nothing will come of it.
    #[must_use]
    pub fn of(decision: &Decision, policy: &Policy) -> Option<Self> {
        let claims = &decision.token.as_ref()?.claims;
        let unlimited = decision.lifetime == Lifetime::Unlimited && claims.session_expiry.is_none();
        if unlimited || decision.reason().is_some() || policy.mode == Mode::Observe {
            return None;
        }
        // Without the clocks' skew: it is for the gate to be lenient by, not for the client to rely on.
        let Deadlines { idle, absolute } = decision.lifetime.deadlines(claims, Duration::ZERO);
        let left = |deadline: Option<Timestamp>| deadline.map(|deadline| deadline.since(decision.at).as_secs());
        Some(Self { idle: left(idle), absolute: left(absolute) })
    }

    /// Tells it in a response.
    pub fn add(self, fields: &mut HeaderMap) {
        for (name, left) in [(IDLE, self.idle), (ABSOLUTE, self.absolute)] {
            if let Some(left) = left {
                fields.insert(name, HeaderValue::from(left));
            }
        }
        if fields.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            fields.append(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}
