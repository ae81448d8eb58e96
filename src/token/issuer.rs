//! Whom to trust: the settings of one issuer.

use std::{path::PathBuf, time::Duration};

use http::Uri;
use jsonwebtoken::Algorithm;
use secrecy::{ExposeSecret as _, SecretSlice};

use super::claims::IssuerName;
use crate::session::SessionLimits;

/// A trusted token issuer.
#[derive(Clone, PartialEq, Debug)]
pub struct IssuerSettings {
    /// Its short name: part of every store key, so it must never change.
    pub name: IssuerName,
    /// The exact values of `iss` that are its own, the first being the one that discovery must confirm.
    /// More than one where a tenant also issues under a custom domain.
    pub identifiers: Box<[Box<str>]>,
    /// A token must be for one of these (RFC 7519 §4.1.3). Never empty.
    pub audiences: Box<[Box<str>]>,
    /// The algorithms that its tokens may be signed with (RFC 8725 §3.1). Never empty.
    pub algorithms: Box<[Algorithm]>,
    /// Where its keys come from.
    pub keys: KeySource,
    /// Which `typ` its access tokens carry.
    pub profile: TokenProfile,
    /// The names of its claims.
    pub claims: ClaimNames,
    /// How long its sessions may last, where a route says nothing else.
    pub limits: SessionLimits,
    /// How often its keys are fetched in the background.
    pub refresh_interval: Duration,
    /// The least time between two fetches that unknown `kid`s cause.
    pub refetch_interval: Duration,
    /// How long one fetch may take.
    pub fetch_timeout: Duration,
}

impl IssuerSettings {
    /// An issuer whose discovery document tells its keys, with RS256, everything else by default.
    #[must_use]
    pub fn new(name: IssuerName, identifier: &str, audience: &str) -> Self {
        Self {
            name,
            identifiers: [identifier.into()].into(),
            audiences: [audience.into()].into(),
            algorithms: [Algorithm::RS256].into(),
            keys: KeySource::Discovery,
            profile: TokenProfile::default(),
            claims: ClaimNames::default(),
            limits: SessionLimits::default(),
            refresh_interval: Duration::from_secs(600),
            refetch_interval: Duration::from_secs(30),
            fetch_timeout: Duration::from_secs(5),
        }
    }

    /// Whether its keys are those of `other`, found and kept fresh in the same way.
    pub(super) fn has_keys_of(&self, other: &Self) -> bool {
        let place = |settings: &Self| match settings.keys {
            KeySource::Discovery => settings.identifiers.first().cloned(),
            KeySource::Url(_) | KeySource::File(_) | KeySource::Secret(_) => None,
        };
        let times = |settings: &Self| (settings.refresh_interval, settings.refetch_interval, settings.fetch_timeout);
        (&self.name, &self.algorithms, &self.keys) == (&other.name, &other.algorithms, &other.keys)
            && (place(self), times(self)) == (place(other), times(other))
    }
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// `jwks_uri` of the issuer's OpenID Connect Discovery document.
    Discovery,
    /// A JWK Set at this URL (RFC 7517 §5).
    Url(Uri),
    /// A JWK Set in a file, read again at each refresh.
    File(PathBuf),
    /// A shared secret, for HMAC algorithms only.
    Secret(SecretSlice<u8>),
}

/// Of settings: no comparison with what somebody sent.
impl PartialEq for KeySource {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Discovery, Self::Discovery) => true,
            (Self::Url(one), Self::Url(other)) => one == other,
            (Self::File(one), Self::File(other)) => one == other,
            (Self::Secret(one), Self::Secret(other)) => one.expose_secret() == other.expose_secret(),
            (Self::Discovery | Self::Url(_) | Self::File(_) | Self::Secret(_), _) => false,
        }
    }
}

/// What tells access tokens from other tokens of an issuer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum TokenProfile {
    /// `typ` may be absent, `JWT` or `at+jwt`: Auth0's default profile and most other issuers.
    #[default]
    Jwt,
    /// RFC 9068: `typ` must be `at+jwt`; `client_id` and `jti` are required.
    Rfc9068,
}

/// The names of the claims that issuers name differently. A plain name or a namespaced URI.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClaimNames {
    /// The session id.
    pub session: Box<str>,
    /// When the session began: epoch seconds, epoch milliseconds or RFC 3339.
    pub session_start: Box<str>,
    /// When the session is over at the latest, in the same forms; `None`: no token tells.
    pub session_expiry: Option<Box<str>>,
    /// The latest logout that the issuer knew of, in the same forms.
    pub last_logout: Box<str>,
    /// An e-mail address that events may know the subject by; `None`: no token tells.
    pub email: Option<Box<str>>,
    /// A phone number likewise.
    pub phone: Option<Box<str>>,
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self {
            session: "sid".into(),
            session_start: "auth_time".into(),
            session_expiry: None,
            last_logout: "last_logout".into(),
            email: None,
            phone: None,
        }
    }
}
