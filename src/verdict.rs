//! The verdict: one pure function decides, from what a request presents, what is known against it, and the time.
//!
//! Nothing else decides, whichever surface asks. [`RULES`] is the rule book, in order; [`decide`] takes the first rule
//! that refuses, [`explain`] shows what each of them says.

mod rules;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Serialize;

pub use self::rules::{RULES, Rule};
use crate::{
    clock::Timestamp,
    marker::Known,
    session::Lifetime,
    token::{TokenFault, claims::Claims},
};

/// What a request presents.
#[derive(Clone, Copy, Debug)]
pub enum Presented<'a> {
    /// No credentials.
    Nothing,
    /// More than one token, or a malformed one (RFC 6750 §2, §3.1).
    Malformed,
    /// A token that failed verification.
    Unverified(TokenFault),
    /// A token whose issuer's keys could not be had.
    KeysUnavailable,
    /// A verified token.
    Verified(&'a Claims),
}

/// What is known against a verified token.
#[derive(Clone, Copy, Debug)]
pub enum Knowledge<'a> {
    /// All of it, as of at most `max_staleness` ago.
    Current(&'a Known),
    /// What was cached; the store has been silent for longer than `max_staleness`.
    Stale(&'a Known),
}

impl Knowledge<'_> {
    /// The markers.
    #[must_use]
    pub const fn known(&self) -> &Known {
        match self {
            Self::Current(known) | Self::Stale(known) => known,
        }
    }
}

/// What to do while the store is silent.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutagePolicy {
    /// Refuse with 503 and `Retry-After`.
    #[default]
    Reject,
    /// Go on with what is cached; such requests are counted and flagged to the upstream.
    Allow,
}

/// What the operator decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How far the clocks of issuers and gateways may be apart.
    pub clock_skew: Duration,
    /// The longest `exp - iat` that is admitted.
    pub max_token_lifetime: Duration,
    /// What to do while the store is silent.
    pub outage: OutagePolicy,
    /// Scopes or permissions that the token must carry, all of them.
    pub required_scopes: Box<[Box<str>]>,
}

/// A skew of 1 s, 24 h, [`OutagePolicy::Reject`], no scopes.
impl Default for Settings {
    fn default() -> Self {
        Self {
            clock_skew: Duration::from_secs(1),
            max_token_lifetime: Duration::from_secs(24 * 3600),
            outage: OutagePolicy::default(),
            required_scopes: Box::default(),
        }
    }
}

/// Everything a verdict rests on.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// What the request presents.
    pub presented: Presented<'a>,
    /// What is known against it.
    pub knowledge: Knowledge<'a>,
    /// What is known of its session's time.
    pub lifetime: Lifetime,
    /// What the operator decided.
    pub settings: &'a Settings,
    /// The time.
    pub now: Timestamp,
}

/// Admit, or refuse with one reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The request goes on; its subject is active.
    Admit,
    /// The request stops here.
    Refuse(Reason),
}

/// Why a request is refused. [`Reason::code`] is public and stable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// No credentials.
    MissingToken,
    /// More than one token, or a malformed one.
    InvalidRequest,
    /// The token failed verification, or is not valid yet.
    InvalidToken,
    /// The token has expired.
    TokenExpired,
    /// The token lives longer than any marker that would stop it.
    TokenLifetime,
    /// The issuer's keys could not be had, so nothing can be said about the token.
    KeysUnavailable,
    /// The store has been silent for too long, so markers may have been missed.
    Stale,
    /// The token, its client's or its issuer's tokens were revoked.
    Revoked,
    /// The subject is blocked.
    UserBlocked,
    /// The subject logged out.
    LoggedOut,
    /// The session ended.
    SessionEnded,
    /// The session's absolute lifetime has passed: only a login helps.
    ReauthenticationRequired {
        /// The oldest authentication that is accepted (RFC 9470 §3).
        max_age: Duration,
    },
    /// The session was idle for too long.
    IdleTimeout,
    /// The token lacks a scope or permission that the route requires.
    InsufficientScope,
}

impl Reason {
    /// Every reason, for metrics and documents.
    pub const ALL: [Self; 14] = [
        Self::MissingToken,
        Self::InvalidRequest,
        Self::InvalidToken,
        Self::TokenExpired,
        Self::TokenLifetime,
        Self::KeysUnavailable,
        Self::Stale,
        Self::Revoked,
        Self::UserBlocked,
        Self::LoggedOut,
        Self::SessionEnded,
        Self::ReauthenticationRequired { max_age: Duration::ZERO },
        Self::IdleTimeout,
        Self::InsufficientScope,
    ];

    /// The public name: the `code` of problem bodies, logs and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::MissingToken => "missing_token",
            Self::InvalidRequest => "invalid_request",
            Self::InvalidToken => "invalid_token",
            Self::TokenExpired => "token_expired",
            Self::TokenLifetime => "token_lifetime",
            Self::KeysUnavailable => "keys_unavailable",
            Self::Stale => "stale",
            Self::Revoked => "revoked",
            Self::UserBlocked => "user_blocked",
            Self::LoggedOut => "logged_out",
            Self::SessionEnded => "session_ended",
            Self::ReauthenticationRequired { .. } => "reauthentication_required",
            Self::IdleTimeout => "idle_timeout",
            Self::InsufficientScope => "insufficient_scope",
        }
    }
}

/// Decides. The first rule that refuses gives the reason.
#[must_use]
pub fn decide(case: &Case<'_>) -> Verdict {
    RULES.iter().find_map(|rule| (rule.judge)(case)).map_or(Verdict::Admit, Verdict::Refuse)
}

/// What one rule says, for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Step {
    /// The rule.
    pub rule: &'static str,
    /// What it asks.
    pub asks: &'static str,
    /// The code of its refusal, if it refuses.
    pub refuses: Option<&'static str>,
}

/// Shows what each rule says, up to and including the first that refuses: later ones are not asked.
#[must_use]
pub fn explain(case: &Case<'_>) -> Vec<Step> {
    let mut steps = Vec::with_capacity(RULES.len());
    for rule in RULES {
        let refuses = (rule.judge)(case).map(Reason::code);
        steps.push(Step { rule: rule.name, asks: rule.asks, refuses });
        if refuses.is_some() {
            break;
        }
    }
    steps
}
