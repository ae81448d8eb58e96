//! What the operator decided for one route, or for a whole service.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use serde::Deserialize;

use crate::{credential::CredentialSources, session::SessionLimits, token::claims::IssuerName, verdict::Settings};

/// Whether a route asks for a token.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Authentication {
    /// A valid token is needed.
    #[default]
    Required,
    /// A request without a token goes on anonymously; one with a token is judged in full.
    Optional,
    /// Tokens are not looked at.
    None,
}

/// Whether verdicts take effect.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They do.
    #[default]
    Enforce,
    /// They are logged and counted, and everything with a valid signature goes on: for rolling out.
    Observe,
}

/// Whether requests count as activity of their session and subject.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ActivityRule {
    /// They do, unless they say that they come from the background ([`ACTIVITY`]).
    #[default]
    Counts,
    /// They do not, such as those of a page that asks for news by itself.
    Never,
    /// They do if they say that a person is behind them.
    WhenTold,
}

/// What a request says about itself: `user` or `background`.
pub const ACTIVITY: HeaderName = HeaderName::from_static("portcullis-activity");

impl ActivityRule {
    /// Whether a request with this header counts.
    #[must_use]
    pub fn counts(self, fields: &HeaderMap) -> bool {
        let says = |what: &str| fields.get(ACTIVITY).is_some_and(|value| value.as_bytes() == what.as_bytes());
        match self {
            Self::Counts => !says("background"),
            Self::Never => false,
            Self::WhenTold => says("user"),
        }
    }
}

/// What applies to one route.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The route's name in logs and metrics.
    pub name: Arc<str>,
    /// Whether it asks for a token.
    pub authentication: Authentication,
    /// Whether verdicts take effect.
    pub mode: Mode,
    /// The issuers whose tokens it takes; `None`: every configured one.
    pub issuers: Option<Box<[IssuerName]>>,
    /// Where a token may come from.
    pub sources: CredentialSources,
    /// What the verdict goes by.
    pub settings: Settings,
    /// How long sessions may last; where it says nothing, the limits of the token's issuer apply
    /// ([`SessionLimits::or`]).
    pub limits: SessionLimits,
    /// Whether its requests count as activity.
    pub activity: ActivityRule,
    /// Whether preflights (Fetch standard, CORS protocol) go on, which never carry a token.
    pub preflights: bool,
    /// Claims that become header fields: the field, and the claim's place among the verifier's forwarded claims.
    pub identity: Box<[(HeaderName, usize)]>,
    /// Whether the token itself goes on to the upstream.
    pub forward_token: bool,
    /// The `realm` of challenges (RFC 9110 §11.5).
    pub realm: Box<str>,
    /// Whether challenges and problem bodies describe the reason, or give the codes alone.
    pub describe: bool,
}

impl Policy {
    /// A policy that asks for a bearer token of any issuer and tells the upstream nothing, everything else by default.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            authentication: Authentication::Required,
            mode: Mode::Enforce,
            issuers: None,
            sources: CredentialSources::default(),
            settings: Settings::default(),
            limits: SessionLimits::default(),
            activity: ActivityRule::default(),
            preflights: false,
            identity: Box::default(),
            forward_token: true,
            realm: "portcullis".into(),
            describe: true,
        }
    }
}
