//! Verification: from the text of a token to what it says (RFC 7515 §5.2, RFC 7519 §7.2, RFC 8725 §3, RFC 9068 §4).
//!
//! The order; the first fault ends it:
//!
//! 1. Length, before anything is decoded. Three strict base64url segments.
//! 2. Header: strict JSON; a known `alg`; no `crit`, `b64`, `cty` or `zip`. Keys in it are never used.
//! 3. Payload: strict JSON, read once. The issuer is the one whose identifier equals `iss`, byte for byte; all that
//!    follows uses its settings and its keys only (RFC 8725 §3.8).
//! 4. `typ` is that of the kind of token that is asked for, and it is no security event; `alg` is allowed for the issuer.
//! 5. The key that `kid` and `alg` mean, and the signature.
//! 6. `aud`, the required claims, and no `cnf`.
//!
//! Times are read here and judged by the verdict, on every request, so that a verification can be cached.

use std::{collections::HashMap, fmt, sync::Arc};

use jsonwebtoken::Algorithm;
use secrecy::ExposeSecret;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    TokenFault,
    claims::{Claims, IssuerName},
    compact::{Compact, Header},
    issuer::{IssuerSettings, KeySource, TokenProfile},
    json::Object,
    jwks::{Fetcher, JwksError, KeySet, KeySetStatus, Origin},
    key::{Key, KeyFault, Lookup, is_symmetric},
};
use crate::{clock::Clock, http_client::HttpClient};

mod current;
mod forward;
mod payload;

pub use current::CurrentVerifier;
pub use forward::ForwardedClaims;

#[cfg(feature = "server")]
pub(crate) use payload::{ClaimReader, check_audience};

/// What holds for the tokens of all issuers.
#[derive(Clone, Debug)]
pub struct VerifierOptions {
    /// The longest token that is looked at, in bytes. Default 16 KiB.
    pub max_token_length: usize,
    /// The claims that are made into field values for the upstream, by name. Default none.
    pub forwarded_claims: Box<[Box<str>]>,
    /// Where the time of a fetch comes from.
    pub clock: Clock,
}

impl Default for VerifierOptions {
    fn default() -> Self {
        Self { max_token_length: 16 * 1024, forwarded_claims: Box::default(), clock: Clock::System }
    }
}

/// Settings that no verifier can be built from.
#[derive(Debug, thiserror::Error)]
pub enum VerifierError {
    /// An issuer without an identifier, audience or algorithm.
    #[error("issuer `{issuer}` has no {what}")]
    Missing {
        /// The issuer.
        issuer: IssuerName,
        /// `identifier`, `audience` or `algorithm`.
        what: &'static str,
    },
    /// Two issuers with one name.
    #[error("issuer `{issuer}` is there twice")]
    DoubledName {
        /// The name.
        issuer: IssuerName,
    },
    /// Two issuers with one identifier.
    #[error("issuer `{issuer}` has an identifier that is already taken")]
    DoubledIdentifier {
        /// The second of them.
        issuer: IssuerName,
    },
    /// HMAC with published keys, or a secret with other algorithms (RFC 8725 §3.1).
    #[error("issuer `{issuer}` has an algorithm that does not go with where its keys come from")]
    Algorithm {
        /// The issuer.
        issuer: IssuerName,
    },
    /// A secret that is shorter than the hash of its algorithm (RFC 7518 §3.2).
    #[error("secret of issuer `{issuer}` is not usable")]
    Secret {
        /// The issuer.
        issuer: IssuerName,
        /// Why.
        source: KeyFault,
    },
    /// A key set URL that is neither `http` nor `https`.
    #[error("key set URL of issuer `{issuer}` is neither http nor https")]
    Url {
        /// The issuer.
        issuer: IssuerName,
    },
    /// The TLS client for fetching keys cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// Why a token was not verified.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unverified {
    /// The token is at fault.
    #[error(transparent)]
    Fault(#[from] TokenFault),
    /// No key at hand has its `kid`. Its issuer may have a newer key.
    #[error("no key of issuer `{issuer}` has the `kid` of the token")]
    UnknownKey {
        /// Whose key.
        issuer: IssuerName,
    },
    /// The keys of its issuer have never been fetched: nothing is known about the token.
    #[error("keys of the issuer have not been fetched")]
    KeysUnavailable,
}

/// A token that is what it says. `Debug` shows no forwarded claims.
#[derive(Clone)]
pub struct VerifiedToken {
    /// What it says.
    pub claims: Claims,
    /// The key that verified it. Once it is no longer current, neither is this verification.
    pub key: Arc<Key>,
    /// The claims to forward.
    pub forwarded: ForwardedClaims,
    /// The e-mail address, if the settings name its claim and the token does not call it unverified.
    pub email: Option<Box<str>>,
    /// The phone number likewise.
    pub phone: Option<Box<str>>,
}

impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedToken").field("claims", &self.claims).field("key", &self.key).finish_non_exhaustive()
    }
}

/// Verifies the tokens of all trusted issuers.
#[derive(Debug)]
pub struct Verifier {
    issuers: Box<[Issuer]>,
    by_identifier: HashMap<Box<str>, usize, ahash::RandomState>,
    max_token_length: usize,
    forwarded_claims: Box<[Box<str>]>,
}

#[derive(Debug)]
struct Issuer {
    settings: IssuerSettings,
    keys: KeySet,
}

/// Why it ended, and at which issuer if it came that far.
struct Stopped {
    why: Unverified,
    issuer: Option<usize>,
}

impl From<TokenFault> for Stopped {
    fn from(fault: TokenFault) -> Self {
        Self { why: fault.into(), issuer: None }
    }
}

impl Verifier {
    /// A verifier without keys yet, other than shared secrets.
    ///
    /// # Errors
    /// [`VerifierError`] for settings that contradict each other.
    pub fn new(issuers: Vec<IssuerSettings>, options: VerifierOptions) -> Result<Self, VerifierError> {
        Self::after(&[], issuers, options)
    }

    /// One by other settings, which takes over what is known of the keys of those issuers whose keys are found in the same way.
    ///
    /// # Errors
    /// [`VerifierError`] for settings that contradict each other.
    pub fn succeed(&self, issuers: Vec<IssuerSettings>, options: VerifierOptions) -> Result<Self, VerifierError> {
        Self::after(&self.issuers, issuers, options)
    }

    fn after(former: &[Issuer], issuers: Vec<IssuerSettings>, options: VerifierOptions) -> Result<Self, VerifierError> {
        let mut by_identifier = HashMap::default();
        let mut client = None;
        let mut checked: Vec<Issuer> = Vec::with_capacity(issuers.len());
        for settings in issuers {
            check(&settings)?;
            if checked.iter().any(|other| other.settings.name == settings.name) {
                return Err(VerifierError::DoubledName { issuer: settings.name });
            }
            for identifier in &settings.identifiers {
                if by_identifier.insert(identifier.clone(), checked.len()).is_some() {
                    return Err(VerifierError::DoubledIdentifier { issuer: settings.name });
                }
            }
            let keys = match former.iter().find(|former| former.settings.has_keys_of(&settings)) {
                Some(former) => former.keys.clone(),
                None => KeySet::new(&settings, origin(&settings, &mut client)?, options.clock.clone()),
            };
            checked.push(Issuer { settings, keys });
        }
        Ok(Self {
            issuers: checked.into(),
            by_identifier,
            max_token_length: options.max_token_length,
            forwarded_claims: options.forwarded_claims,
        })
    }

    /// Keeps the keys of all issuers fresh, from now until the handle is told to stop or dropped. Must be called
    /// within a tokio runtime.
    #[must_use = "dropping the handle ends the refreshes"]
    pub fn start(&self) -> Refreshing {
        let mut refreshing = Refreshing { stop: CancellationToken::new(), tasks: JoinSet::new(), kept: Vec::new() };
        refreshing.follow(self);
        refreshing
    }

    /// Whether a token means the same to both: what one has verified need not be verified again by the other.
    #[must_use]
    pub fn reads_as(&self, other: &Self) -> bool {
        let settings =
            |verifier: &Self| verifier.issuers.iter().map(|issuer| issuer.settings.clone()).collect::<Vec<_>>();
        settings(self) == settings(other)
            && self.max_token_length == other.max_token_length
            && self.forwarded_claims == other.forwarded_claims
    }

    /// Fetches the keys that `former` does not have, and says which issuers still have none, and why.
    pub async fn load_new(&self, former: &Self) -> Vec<(IssuerName, Option<Arc<JwksError>>)> {
        let is_new = |issuer: &&Issuer| !former.issuers.iter().any(|former| former.keys.is(&issuer.keys));
        let missing = self.issuers.iter().filter(is_new).map(async |issuer| {
            let error = issuer.keys.fetch().await.err();
            (!issuer.keys.has_answered()).then(|| (issuer.settings.name.clone(), error))
        });
        futures_util::future::join_all(missing).await.into_iter().flatten().collect()
    }

    /// Fetches the keys of all issuers at once: for the start, and for a check of the settings.
    pub async fn load(&self) -> Vec<(IssuerName, Result<KeySetStatus, Arc<JwksError>>)> {
        let fetches = self.issuers.iter().map(|issuer| async {
            let fetched = issuer.keys.fetch().await;
            (issuer.settings.name.clone(), fetched.map(|()| issuer.keys.status()))
        });
        futures_util::future::join_all(fetches).await
    }

    /// Verifies an access token with the keys at hand.
    ///
    /// # Errors
    /// [`Unverified`].
    pub fn verify(&self, token: &str) -> Result<VerifiedToken, Unverified> {
        self.verify_access_token(token).map_err(|stopped| stopped.why)
    }

    /// Verifies an access token; where the keys at hand do not suffice, asks its issuer for newer ones and tries once
    /// more. How often issuers are asked is bounded, see [`jwks`](super::jwks).
    ///
    /// # Errors
    /// [`Unverified`].
    ///
    /// # Cancel safety
    /// Dropping the future has no effect on others.
    pub async fn verify_or_refetch(&self, token: &str) -> Result<VerifiedToken, Unverified> {
        match self.verify_access_token(token) {
            Ok(verified) => Ok(verified),
            Err(Stopped { why: Unverified::UnknownKey { .. } | Unverified::KeysUnavailable, issuer: Some(issuer) }) => {
                self.issuers[issuer].keys.refetch().await;
                self.verify(token)
            }
            Err(stopped) => Err(stopped.why),
        }
    }

    /// Asks an issuer for newer keys because a token names one that is not at hand. Rate-limited; the caller verifies
    /// again in any case.
    pub async fn refetch_for(&self, issuer: &IssuerName) {
        if let Some(issuer) = self.issuers.iter().find(|each| each.settings.name == *issuer) {
            issuer.keys.refetch().await;
        }
    }

    /// Verifies the signature of another kind of JWT of these issuers, such as a logout token, with the keys at hand.
    /// `accepts` judges the header's `typ`; each kind of token must be told apart from the others (RFC 8725 §3.11,
    /// §3.12). `read` is given the issuer and the payload once the signature is verified; `aud` and all other claims
    /// are its to check.
    ///
    /// # Errors
    /// [`Unverified`], or what `read` found.
    pub fn verify_signed<R>(
        &self,
        token: &str,
        accepts: impl FnOnce(&Header<'_>) -> bool,
        read: impl FnOnce(&IssuerSettings, &Object<'_>) -> Result<R, TokenFault>,
    ) -> Result<R, Unverified> {
        self.authenticate(token, |_, header, _| accepts(header), |settings, claims, _| read(settings, claims))
            .map_err(|stopped| stopped.why)
    }

    /// The issuer that has this `iss`.
    #[must_use]
    pub fn issuer_by_identifier(&self, identifier: &str) -> Option<&IssuerName> {
        self.by_identifier.get(identifier).map(|index| &self.issuers[*index].settings.name)
    }

    /// Does `verify`; where the keys of `issuer` at hand do not suffice for it, asks for newer ones and does it once more.
    ///
    /// # Errors
    /// [`Unverified`]. It is [`KeysUnavailable`](Unverified::KeysUnavailable), too, while newer keys cannot be had: the token may be good.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect on others.
    pub async fn with_newer_keys<R>(
        &self,
        issuer: &IssuerName,
        verify: impl Fn(&Self) -> Result<R, Unverified>,
    ) -> Result<R, Unverified> {
        match verify(self) {
            Err(Unverified::KeysUnavailable) => {}
            Err(Unverified::UnknownKey { issuer: whose }) if whose == *issuer => {}
            result => return result,
        }
        self.refetch_for(issuer).await;
        let verified = verify(self);
        let is_behind = |issuer: &IssuerName| {
            self.status().iter().any(|(name, status)| name == issuer && status.last_error.is_some())
        };
        match verified {
            Err(Unverified::UnknownKey { issuer: whose }) if is_behind(&whose) => Err(Unverified::KeysUnavailable),
            result => result,
        }
    }

    /// How the key set of each issuer is.
    #[must_use]
    pub fn status(&self) -> Vec<(IssuerName, KeySetStatus)> {
        self.issuers.iter().map(|issuer| (issuer.settings.name.clone(), issuer.keys.status())).collect()
    }

    /// Whether every issuer has given at least one key, ever.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.issuers.iter().all(|issuer| issuer.keys.has_answered())
    }

    fn verify_access_token(&self, token: &str) -> Result<VerifiedToken, Stopped> {
        self.authenticate(
            token,
            |settings, header, payload| is_access_token(settings.profile, header, payload),
            |settings, payload, key| {
                let claims = payload::read(settings, payload)?;
                let forwarded = self.forwarded_claims.iter().map(|name| forward::field_value(payload.get(name)?));
                let forwarded = forwarded.collect();
                let named = |name: &Option<Box<str>>| name.as_deref().and_then(|name| payload::contact(payload, name));
                let (email, phone) = (named(&settings.claims.email), named(&settings.claims.phone));
                Ok(VerifiedToken { claims, key, forwarded, email, phone })
            },
        )
    }

    /// Steps 1 to 5; `read` does what is left.
    fn authenticate<R>(
        &self,
        token: &str,
        accepts: impl FnOnce(&IssuerSettings, &Header<'_>, &Object<'_>) -> bool,
        read: impl FnOnce(&IssuerSettings, &Object<'_>, Arc<Key>) -> Result<R, TokenFault>,
    ) -> Result<R, Stopped> {
        if token.len() > self.max_token_length {
            return Err(TokenFault::TooLong.into());
        }
        let compact = Compact::parse(token)?;
        let header = compact.header()?;
        let payload = Object::parse(compact.payload()).map_err(|_| TokenFault::Payload)?;
        let index = self.issuer_of(&payload).ok_or(TokenFault::Issuer)?;
        let Issuer { settings, keys } = &self.issuers[index];
        if !accepts(settings, &header, &payload) {
            return Err(TokenFault::Type.into());
        }
        if !settings.algorithms.contains(&header.algorithm) {
            return Err(TokenFault::Algorithm.into());
        }
        let stopped = |why| Stopped { why, issuer: Some(index) };
        let key = match keys.find(header.kid.as_deref(), header.algorithm) {
            Some(Lookup::Found(key)) => key,
            Some(Lookup::Unfit) => return Err(TokenFault::UnknownKey.into()),
            Some(Lookup::Unknown) => return Err(stopped(Unverified::UnknownKey { issuer: settings.name.clone() })),
            None => return Err(stopped(Unverified::KeysUnavailable)),
        };
        if !compact.is_signed_by(&key, header.algorithm) {
            return Err(TokenFault::Signature.into());
        }
        Ok(read(settings, &payload, key)?)
    }

    fn issuer_of(&self, payload: &Object<'_>) -> Option<usize> {
        self.by_identifier.get(payload.get("iss")?.as_str()?).copied()
    }
}

/// Keeps keys fresh as long as it lives.
#[derive(Debug)]
pub struct Refreshing {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    /// Whose, and what ends it for these alone.
    kept: Vec<(KeySet, CancellationToken)>,
}

impl Refreshing {
    /// From now on keeps the keys of this verifier fresh, and no others. Must be called within a tokio runtime.
    pub fn follow(&mut self, verifier: &Verifier) {
        let wanted = |keys: &KeySet| verifier.issuers.iter().any(|issuer| issuer.keys.is(keys));
        self.kept.retain(|(keys, stop)| {
            let wanted = wanted(keys);
            if !wanted {
                stop.cancel();
            }
            wanted
        });
        for issuer in &verifier.issuers {
            if !self.kept.iter().any(|(keys, _)| keys.is(&issuer.keys)) {
                let stop = self.stop.child_token();
                self.tasks.spawn(issuer.keys.clone().keep_fresh(stop.clone()));
                self.kept.push((issuer.keys.clone(), stop));
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }

    /// Stops, and resolves when nothing runs any more.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// A security event, such as a logout token, may carry the same `typ` as an access token, but never lacks `events`
/// (RFC 8417 §2.2, OpenID Connect Back-Channel Logout 1.0 §2.4).
fn is_access_token(profile: TokenProfile, header: &Header<'_>, payload: &Object<'_>) -> bool {
    let is_plain = || header.typ.as_deref().is_none_or(|typ| typ.eq_ignore_ascii_case("JWT"));
    payload.get("events").is_none() && (header.is_typ("at+jwt") || (profile == TokenProfile::Jwt && is_plain()))
}

/// What no single setting can say.
fn check(settings: &IssuerSettings) -> Result<(), VerifierError> {
    let issuer = || settings.name.clone();
    for (what, is_missing) in [
        ("identifier", settings.identifiers.iter().all(|each| each.is_empty())),
        ("audience", settings.audiences.iter().all(|each| each.is_empty())),
        ("algorithm", settings.algorithms.is_empty()),
    ] {
        if is_missing {
            return Err(VerifierError::Missing { issuer: issuer(), what });
        }
    }
    let is_secret = matches!(settings.keys, KeySource::Secret(_));
    if settings.algorithms.iter().any(|each: &Algorithm| is_symmetric(*each) != is_secret) {
        return Err(VerifierError::Algorithm { issuer: issuer() });
    }
    match &settings.keys {
        KeySource::Url(uri) if !matches!(uri.scheme_str(), Some("http" | "https")) => {
            Err(VerifierError::Url { issuer: issuer() })
        }
        _ => Ok(()),
    }
}

/// The client is made when the first issuer needs it: reading the system's certificates takes a while.
fn origin(settings: &IssuerSettings, client: &mut Option<HttpClient>) -> Result<Origin, VerifierError> {
    let mut http = || {
        if let Some(client) = client {
            return Ok(client.clone());
        }
        let made = HttpClient::new().map_err(VerifierError::Tls)?;
        Ok(client.insert(made).clone())
    };
    Ok(match &settings.keys {
        KeySource::Discovery => {
            Origin::Fetched(Fetcher::Discovery { issuer: settings.identifiers[0].clone(), http: http()? })
        }
        KeySource::Url(uri) => Origin::Fetched(Fetcher::Url { uri: uri.clone(), http: http()? }),
        KeySource::File(path) => Origin::Fetched(Fetcher::File(path.clone())),
        KeySource::Secret(secret) => Origin::Secret(
            Key::from_secret(secret.expose_secret(), &settings.algorithms)
                .map_err(|source| VerifierError::Secret { issuer: settings.name.clone(), source })?,
        ),
    })
}
