//! Global Token Revocation (draft-parecki-oauth-global-token-revocation), which Okta calls Universal Logout: somebody else's service says
//! that everything a user holds is to end.
//!
//! 1. The sender shows the secret that the settings hold, or a JWT made for the purpose: `typ` is `global-token-revocation+jwt`, `aud` this
//!    endpoint, `iss` the signer that the settings name; `iat`, `exp` and `jti` are there, and it is good for an hour at most.
//! 2. Such a JWT says nothing about whom it revokes, so it is good for one subject: with another it is a replay, and refused.
//!    With the same subject it is a repetition, which changes nothing.
//! 3. The body is a JSON object with `sub_id`, a subject identifier (RFC 9493). Older drafts call it `subject`.
//! 4. The subject is logged out as of now, by this gateway's clock: the request has no time of its own, and what it means to end is what
//!    is out when it comes. A sender may name the users of one issuer only.
//! 5. The answer is 204 once that is durable, whether or not the user was ever seen here; 404 for whom nothing here stands for, since
//!    204 would say that somebody was logged out; 503 while the store or the signer's keys cannot be had.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header, request::Parts};
use jsonwebtoken::Algorithm;
use secrecy::{ExposeSecret, SecretString};

use super::{
    receiver::{self, Answer, Receiver, Rejection},
    session_event::{Batch, EventId, Gap, GapReason, Happening, SessionEvent},
    source::{Context, Failure, Running},
    subject::{Opaque, Resolver, SubjectIdentifier, Target, Unresolved},
};
use crate::{
    clock::{Moment, Timestamp},
    gate::problem,
    store::StoreError,
    token::{
        TokenFault,
        claims::{IssuerName, Subject, TokenId},
        issuer::{IssuerSettings, KeySource},
        json::{Object, Value},
        verify::{ClaimReader, CurrentVerifier, Refreshing, Unverified, Verifier, VerifierOptions, check_audience},
    },
};

/// The `typ` of the JWT that Okta sends.
const TYPE: &str = "global-token-revocation+jwt";

/// What such events are called.
const KIND: &str = "global-token-revocation";

/// The longest `exp - iat`. Okta's live for 5 minutes.
const MAX_LIFETIME: Duration = Duration::from_secs(3600);

/// How many JWTs are remembered as used.
const REMEMBERED: usize = 100_000;

/// Its settings.
#[derive(Clone, Debug)]
pub struct TokenRevocationSettings {
    /// The issuer whose users it tells about.
    pub issuer: IssuerName,
    /// What senders show who do not sign. At least one of the two is there; either is enough.
    pub token: Option<SecretString>,
    /// What the JWTs of senders who sign must be like.
    pub assertions: Option<Assertions>,
    /// Further `iss` of subject identifiers that mean users of that issuer.
    pub subject_issuers: Box<[Box<str>]>,
}

/// Of settings: no comparison with what somebody sent.
impl PartialEq for TokenRevocationSettings {
    fn eq(&self, other: &Self) -> bool {
        let Self { issuer, token, assertions, subject_issuers } = self;
        (issuer, assertions, subject_issuers) == (&other.issuer, &other.assertions, &other.subject_issuers)
            && token.as_ref().map(ExposeSecret::expose_secret) == other.token.as_ref().map(ExposeSecret::expose_secret)
    }
}

/// What the JWTs of a sender must be like.
#[derive(Clone, PartialEq, Debug)]
pub struct Assertions {
    /// What `aud` must name one of: the URL of this endpoint. Never empty.
    pub audiences: Box<[Box<str>]>,
    /// What `sub` must be one of; empty: anything. Okta puts the client id of the application there.
    pub clients: Box<[Box<str>]>,
    /// Who signs; `None`: the issuer itself.
    pub signer: Option<Signer>,
}

/// Somebody else than the issuer who signs.
#[derive(Clone, PartialEq, Debug)]
pub struct Signer {
    /// Its `iss`.
    pub identifier: Box<str>,
    /// Where its keys come from.
    pub keys: KeySource,
    /// The algorithms that it may sign with. Never empty.
    pub algorithms: Box<[Algorithm]>,
}

/// Why a sender is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AssertionFault {
    /// There is no bearer token, or more than one.
    #[error("the request carries no bearer token")]
    Missing,
    /// It is not the secret.
    #[error("the bearer token is not the right one")]
    Secret,
    /// Not a JWT that the signer signed.
    #[error(transparent)]
    Token(TokenFault),
    /// Another kind of JWT.
    #[error("`typ` of the JWT is not {TYPE}")]
    Type,
    /// From someone else.
    #[error("the JWT is from another issuer")]
    Issuer,
    /// For an application that the settings do not name.
    #[error("`sub` of the JWT is none of the clients")]
    Client,
    /// `iat` or `nbf` is ahead.
    #[error("the JWT is from the future")]
    Early,
    /// `exp` is over.
    #[error("the JWT has expired")]
    Expired,
    /// `exp` is too far off.
    #[error("the JWT is good for too long")]
    Lifetime,
    /// It was used for another subject.
    #[error("the JWT was used for another subject before")]
    Replayed,
}

impl From<TokenFault> for AssertionFault {
    fn from(fault: TokenFault) -> Self {
        match fault {
            TokenFault::Type => Self::Type,
            fault => Self::Token(fault),
        }
    }
}

/// What tells a JWT from all others of its signer: (`jti`, `iss`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AssertionId(Box<str>);

impl AssertionId {
    fn used(&self) -> EventId {
        EventId::new(&self.0)
    }

    /// The event of revoking what this subject identifier stands for.
    fn event(&self, subject: &str) -> EventId {
        let digest = u128::from_be_bytes(EventId::new(subject).digest());
        EventId::new(&format!("{} {digest:032x}", self.0))
    }
}

impl Assertions {
    /// Judges a JWT by the keys at hand. Times may be off by `skew`.
    ///
    /// # Errors
    /// [`Unverified::UnknownKey`] and [`Unverified::KeysUnavailable`] as they are; all else as an [`AssertionFault`].
    pub fn judge(
        &self,
        verifier: &Verifier,
        signer: &IssuerName,
        token: &str,
        now: Timestamp,
        skew: Duration,
    ) -> Result<Result<AssertionId, AssertionFault>, Unverified> {
        let read = verifier.verify_signed(
            token,
            |header| header.is_typ(TYPE),
            |issuer, claims| {
                Ok(if issuer.name == *signer { self.read(claims, now, skew) } else { Err(AssertionFault::Issuer) })
            },
        );
        match read {
            Err(Unverified::Fault(fault)) => Ok(Err(fault.into())),
            Err(Unverified::UnknownKey { issuer }) if issuer != *signer => Ok(Err(AssertionFault::Issuer)),
            read => read,
        }
    }

    fn read(&self, payload: &Object<'_>, now: Timestamp, skew: Duration) -> Result<AssertionId, AssertionFault> {
        check_audience(payload, &self.audiences)?;
        let claims = ClaimReader { payload };
        let issued_at = claims.date("iat")?.ok_or(TokenFault::Claim)?.earliest();
        let expires = claims.date("exp")?.ok_or(TokenFault::Claim)?.earliest();
        let not_before = claims.date("nbf")?.map_or(Timestamp::MIN, Moment::earliest);
        if issued_at.max(not_before) > now.plus(skew) {
            return Err(AssertionFault::Early);
        }
        if now >= expires.plus(skew) {
            return Err(AssertionFault::Expired);
        }
        if expires.since(issued_at) > MAX_LIFETIME {
            return Err(AssertionFault::Lifetime);
        }
        let id: TokenId = claims.id("jti")?.ok_or(TokenFault::Claim)?;
        let text = |name| payload.get(name).and_then(Value::as_str).unwrap_or_default();
        if !self.clients.is_empty() && !self.clients.iter().any(|client| **client == *text("sub")) {
            return Err(AssertionFault::Client);
        }
        Ok(AssertionId(format!("{} {}", id.as_str(), text("iss")).into()))
    }
}

/// Whom a request is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RevocationRequest {
    /// The subject.
    pub subject: SubjectIdentifier,
    /// The same as it was written, but for white space.
    text: String,
}

/// Not a request of the form of the draft.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a JSON object with one subject identifier")]
pub struct MalformedRequest;

impl RevocationRequest {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// [`MalformedRequest`].
    pub fn parse(body: &[u8]) -> Result<Self, MalformedRequest> {
        let request = Object::parse(body).map_err(|_| MalformedRequest)?;
        let ((Some(subject), None) | (None, Some(subject))) = (request.get("sub_id"), request.get("subject")) else {
            return Err(MalformedRequest);
        };
        let identifier = subject.as_object().ok_or(MalformedRequest)?;
        let mut text = String::new();
        subject.write_json(&mut text);
        Ok(Self { subject: SubjectIdentifier::parse(identifier).map_err(|_| MalformedRequest)?, text })
    }
}

impl TokenRevocationSettings {
    pub(crate) fn start(self, context: Context) -> Result<Running, Failure> {
        let Context { pipeline, origin, verifier, .. } = &context;
        let notes = Arc::clone(pipeline.notes());
        let resolver = Resolver::new(verifier.clone(), notes, self.issuer.clone(), Opaque::Subject);
        let signed = match self.assertions {
            None => None,
            Some(assertions) => Some(match &assertions.signer {
                None => {
                    Signed { verifier: verifier.clone(), signer: self.issuer.clone(), assertions, _refreshing: None }
                }
                Some(Signer { identifier, keys, algorithms }) => {
                    let signer = IssuerName::try_from(&*origin.name)?;
                    let audience = assertions.audiences.first().ok_or("no audience")?;
                    let settings = IssuerSettings {
                        keys: keys.clone(),
                        algorithms: algorithms.clone(),
                        ..IssuerSettings::new(signer.clone(), identifier, audience)
                    };
                    let verifier = Arc::new(Verifier::new(vec![settings], VerifierOptions::default())?);
                    let refreshing = Some(verifier.start());
                    let verifier = CurrentVerifier::new(verifier);
                    Signed { verifier, signer, assertions, _refreshing: refreshing }
                }
            }),
        };
        let (token, subject_issuers) = (self.token, self.subject_issuers);
        let used = format!("{}.jti", origin.name).into();
        Ok(Running::Receives(Arc::new(TokenRevocation { token, signed, resolver, subject_issuers, used, context })))
    }
}

/// Takes revocation requests.
#[derive(Debug)]
struct TokenRevocation {
    token: Option<SecretString>,
    signed: Option<Signed>,
    resolver: Resolver,
    subject_issuers: Box<[Box<str>]>,
    /// Under which name the JWTs that were used are remembered.
    used: Box<str>,
    context: Context,
}

/// How those who sign are known.
#[derive(Debug)]
struct Signed {
    verifier: CurrentVerifier,
    signer: IssuerName,
    assertions: Assertions,
    /// Keeps the keys of another signer fresh.
    _refreshing: Option<Refreshing>,
}

/// Why a request revokes nothing.
enum Refusal {
    Sender(AssertionFault),
    KeysUnavailable,
    Malformed,
    Format,
    Unknown,
    NotStored,
}

impl From<AssertionFault> for Refusal {
    fn from(fault: AssertionFault) -> Self {
        Self::Sender(fault)
    }
}

impl From<StoreError> for Refusal {
    fn from(_: StoreError) -> Self {
        Self::NotStored
    }
}

impl TokenRevocation {
    fn skew(&self) -> Duration {
        self.context.pipeline.ledger().retention().clock_skew
    }

    fn is_secret(&self, bearer: &str) -> bool {
        self.token.as_ref().is_some_and(|token| {
            let token = token.expose_secret().as_bytes();
            aws_lc_rs::constant_time::verify_slices_are_equal(bearer.as_bytes(), token).is_ok()
        })
    }

    /// Judges the sender by the keys at hand.
    fn recognise(&self, head: &Parts) -> Result<(), AssertionFault> {
        let bearer = bearer(head)?;
        if self.is_secret(bearer) {
            return Ok(());
        }
        let Signed { verifier, signer, assertions, .. } = self.signed.as_ref().ok_or(AssertionFault::Secret)?;
        match assertions.judge(&verifier.load(), signer, bearer, self.context.pipeline.now(), self.skew()) {
            Ok(judged) => judged.map(drop),
            // Newer keys may tell.
            Err(_) => Ok(()),
        }
    }

    /// Judges the sender, if need be by newer keys.
    async fn authenticate(&self, head: &Parts) -> Result<Option<AssertionId>, Refusal> {
        let bearer = bearer(head)?;
        if self.is_secret(bearer) {
            return Ok(None);
        }
        let Signed { verifier, signer, assertions, .. } = self.signed.as_ref().ok_or(AssertionFault::Secret)?;
        let judge =
            |verifier: &Verifier| assertions.judge(verifier, signer, bearer, self.context.pipeline.now(), self.skew());
        match verifier.load().with_newer_keys(signer, judge).await {
            Ok(judged) => Ok(Some(judged?)),
            Err(Unverified::KeysUnavailable) => Err(Refusal::KeysUnavailable),
            Err(Unverified::UnknownKey { .. }) => Err(AssertionFault::Token(TokenFault::UnknownKey).into()),
            Err(Unverified::Fault(fault)) => Err(AssertionFault::from(fault).into()),
        }
    }

    async fn take(&self, head: &Parts, body: &[u8]) -> Result<(), Refusal> {
        let Context { pipeline, origin, .. } = &self.context;
        let assertion = self.authenticate(head).await?;
        let Ok(request) = RevocationRequest::parse(body) else {
            pipeline.take(origin, &Batch::gap(Gap::new(GapReason::Malformed, KIND))).await?;
            return Err(Refusal::Malformed);
        };
        let id = assertion.as_ref().map(|assertion| assertion.event(&request.text));
        if let (Some(assertion), Some(event)) = (&assertion, &id)
            && self.is_replayed(assertion, event).await?
        {
            return Err(AssertionFault::Replayed.into());
        }
        let subjects = match self.subjects(&request.subject).await {
            Ok(subjects) => subjects,
            Err(Unresolved::Store(error)) => {
                origin.health.failed(pipeline.now(), &error);
                return Err(Refusal::NotStored);
            }
            Err(Unresolved::Gap { reason, format }) => {
                pipeline.take(origin, &Batch::gap(Gap { reason, kind: format, id })).await?;
                let is_known =
                    !matches!(request.subject, SubjectIdentifier::Other(_) | SubjectIdentifier::JwtId { .. });
                return Err(if is_known { Refusal::Unknown } else { Refusal::Format });
            }
        };
        let happenings = subjects.into_iter().map(Happening::LoggedOut).collect();
        let event = SessionEvent { id, at: pipeline.now(), kind: KIND.into(), happenings };
        pipeline.take(origin, &Batch::of(event)).await?;
        if let Some(assertion) = assertion {
            // Not before: whoever has to send it again must be able to.
            self.watch(pipeline.notes().remember(&self.used, &[assertion.used().digest()], REMEMBERED).await)?;
        }
        Ok(())
    }

    async fn is_replayed(&self, assertion: &AssertionId, event: &EventId) -> Result<bool, StoreError> {
        let Context { pipeline, origin, .. } = &self.context;
        let notes = pipeline.notes();
        let used = self.watch(notes.seen(&self.used, &[assertion.used().digest()]).await)?;
        if !used.contains(&true) {
            return Ok(false);
        }
        Ok(!self.watch(notes.seen(&origin.name, &[event.digest()]).await)?.contains(&true))
    }

    /// Makes a failure of the store visible.
    fn watch<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.inspect_err(|error| self.context.origin.health.failed(self.context.pipeline.now(), error))
    }

    /// Whom it is about, of the users of our issuer.
    async fn subjects(&self, identifier: &SubjectIdentifier) -> Result<Vec<Subject>, Unresolved> {
        let targets = self.resolver.resolve(&self.as_ours(identifier)).await?;
        let is_ours = |target| match target {
            Target::Subject(subject) if subject.issuer == *self.resolver.issuer() => Some(subject),
            Target::Subject(_) | Target::Session { .. } | Target::Token { .. } => None,
        };
        let subjects: Vec<_> = targets.into_iter().filter_map(is_ours).collect();
        if subjects.is_empty() {
            return Err(Unresolved::Gap { reason: GapReason::UnknownIssuer, format: identifier.format().into() });
        }
        Ok(subjects)
    }

    /// The identifier, where an `iss` that stands for our issuer is ours.
    fn as_ours(&self, identifier: &SubjectIdentifier) -> SubjectIdentifier {
        match identifier {
            SubjectIdentifier::IssSub { iss, sub } if self.subject_issuers.contains(iss) => {
                SubjectIdentifier::Opaque(sub.clone())
            }
            SubjectIdentifier::Aliases(aliases) => {
                SubjectIdentifier::Aliases(aliases.iter().map(|alias| self.as_ours(alias)).collect())
            }
            other => other.clone(),
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Answer {
        let Context { pipeline, origin, .. } = &self.context;
        let (status, code, detail) = match refusal {
            Refusal::Sender(fault) => {
                origin.health.turned_away(pipeline.now(), fault);
                return unauthorized(*fault);
            }
            Refusal::KeysUnavailable => {
                origin.health.failed(pipeline.now(), &Unverified::KeysUnavailable);
                let detail = "The keys of the signer cannot be had at present; send it again.";
                (StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable", detail)
            }
            Refusal::Malformed => {
                let detail = "The body must be a JSON object with one subject identifier, `sub_id`.";
                (StatusCode::BAD_REQUEST, "malformed", detail)
            }
            Refusal::Format => {
                let detail = "Subject identifiers of this format cannot be mapped to users.";
                (StatusCode::BAD_REQUEST, "subject_format", detail)
            }
            Refusal::Unknown => (StatusCode::NOT_FOUND, "unknown_subject", "No user is known by this identifier."),
            Refusal::NotStored => return Rejection::NotStored.answer(),
        };
        let mut answer: Answer = problem::response(status, code, detail);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

#[async_trait]
impl Receiver for TokenRevocation {
    fn admit(&self, head: &Parts) -> Result<(), Box<Answer>> {
        self.recognise(head).map_err(|fault| Box::new(self.refuse(&fault.into())))
    }

    async fn receive(&self, head: Parts, body: Bytes) -> Answer {
        match self.take(&head, &body).await {
            Ok(()) => receiver::answer(StatusCode::NO_CONTENT),
            Err(refusal) => self.refuse(&refusal),
        }
    }
}

/// The bearer token (RFC 6750 §2.1).
fn bearer(head: &Parts) -> Result<&str, AssertionFault> {
    let mut values = head.headers.get_all(header::AUTHORIZATION).iter();
    let (Some(only), None) = (values.next(), values.next()) else { return Err(AssertionFault::Missing) };
    let (scheme, token) = only.to_str().ok().and_then(|value| value.split_once(' ')).unwrap_or_default();
    let token = token.trim_matches(' ');
    if scheme.eq_ignore_ascii_case("Bearer") && !token.is_empty() { Ok(token) } else { Err(AssertionFault::Missing) }
}

/// 401, or 403 for whom is known and may not (RFC 6750 §3.1).
fn unauthorized(fault: AssertionFault) -> Answer {
    if fault == AssertionFault::Client {
        let detail = "The sender may not revoke for this application.";
        return problem::response(StatusCode::FORBIDDEN, "forbidden", detail);
    }
    let mut answer = *receiver::unauthorized();
    if fault != AssertionFault::Missing {
        let challenge = HeaderValue::from_static("Bearer realm=\"portcullis events\", error=\"invalid_token\"");
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    answer
}
