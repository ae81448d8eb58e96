//! OpenID Connect Back-Channel Logout 1.0 (with errata set 1): the issuer calls when a session ended.
//!
//! 1. The request is a form with exactly one `logout_token`; whatever else is in it is ignored (§2.5).
//! 2. The token is signed by the issuer whose users the source is about, with one of its algorithms. `typ` and `events` tell it apart from
//!    every other kind of token, and `nonce` from an ID token (§2.4, §4; RFC 8725 §3.11).
//! 3. `aud` names a client of ours; `iat` is not ahead and `exp` not over; `jti` is there (§2.6). Where an issuer leaves `exp` out, as
//!    before the errata, the settings say how old a token may be.
//! 4. `sid` ends that session. `sub` alone ends all sessions of the subject (§2.7).
//! 5. The answer is 200 once that is durable, also for a session that nobody knows and for a token that was taken before (§2.8). Senders
//!    take 400 as final, so they are told that only about what they sent; while the store or the issuer's keys cannot be had, it is 503.

use std::{borrow::Cow, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header, request::Parts};
use percent_encoding::percent_decode;

use super::{
    receiver::{self, Answer, Receiver, Rejection},
    session_event::{Batch, EventId, Happening, SessionEvent},
    source::{Context, Running},
};
use crate::{
    clock::{Moment, Timestamp},
    token::{
        TokenFault,
        claims::{IssuerName, SessionId, Subject, SubjectId, TokenId},
        compact::Header,
        issuer::IssuerSettings,
        json::Object,
        verify::{ClaimReader, Unverified, Verifier, check_audience},
    },
};

/// The member of `events` that makes a logout token (§2.4). It is `http`, not `https`.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// What such events are called.
const KIND: &str = "backchannel-logout";

/// The parameter that carries the token.
const PARAMETER: &str = "logout_token";

/// Its settings.
#[derive(Clone, PartialEq, Debug)]
pub struct BackchannelLogoutSettings {
    /// The issuer whose users it tells about.
    pub issuer: IssuerName,
    /// The clients that the issuer calls for: a token must be for one of these. Never empty.
    pub audiences: Box<[Box<str>]>,
    /// Whether `typ` must be `logout+jwt`. Otherwise it may also be `JWT` or absent, as older issuers have it.
    pub strict_typ: bool,
    /// How old a token without `exp` may be; `None`: it must have one.
    pub max_age: Option<Duration>,
}

/// Why a request logs nobody out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LogoutFault {
    /// Not a form.
    #[error("the content is not application/x-www-form-urlencoded")]
    ContentType,
    /// No `logout_token`.
    #[error("logout_token is missing")]
    Missing,
    /// More than one.
    #[error("logout_token is there more than once")]
    Repeated,
    /// It is not one that the issuer signed.
    #[error(transparent)]
    Token(TokenFault),
    /// Another kind of token.
    #[error("`typ` is not that of a logout token")]
    Type,
    /// From another issuer.
    #[error("the token is from another issuer")]
    Issuer,
    /// Not about a logout, or not in the required form.
    #[error("`events` does not hold a back-channel logout")]
    Events,
    /// An ID token, or what could be taken for one.
    #[error("`nonce` may not be in a logout token")]
    Nonce,
    /// `iat` or `nbf` is ahead.
    #[error("the token is from the future")]
    Early,
    /// `exp` is over.
    #[error("the token has expired")]
    Expired,
    /// Neither `exp` nor a setting that lets it be absent; or too old without.
    #[error("`exp` is missing, or the token too old to go without")]
    Age,
    /// Neither `sub` nor `sid`.
    #[error("neither `sub` nor `sid` is there")]
    Nobody,
}

impl From<TokenFault> for LogoutFault {
    fn from(fault: TokenFault) -> Self {
        match fault {
            TokenFault::Type => Self::Type,
            fault => Self::Token(fault),
        }
    }
}

impl BackchannelLogoutSettings {
    pub(crate) fn start(self, context: Context) -> Running {
        Running::Receives(Arc::new(BackchannelLogout { settings: self, context }))
    }

    /// What a logout token says, by the keys at hand. Times may be off by `skew`.
    ///
    /// # Errors
    /// [`Unverified::UnknownKey`] and [`Unverified::KeysUnavailable`] as they are; all else as a [`LogoutFault`].
    pub fn read(
        &self,
        verifier: &Verifier,
        token: &str,
        now: Timestamp,
        skew: Duration,
    ) -> Result<Result<SessionEvent, LogoutFault>, Unverified> {
        let read = verifier.verify_signed(
            token,
            |header| self.accepts(header),
            |issuer, claims| Ok(self.judge(issuer, claims, now, skew)),
        );
        match read {
            Err(Unverified::Fault(fault)) => Ok(Err(fault.into())),
            Err(Unverified::UnknownKey { issuer }) if issuer != self.issuer => Ok(Err(LogoutFault::Issuer)),
            read => read,
        }
    }

    fn accepts(&self, header: &Header<'_>) -> bool {
        let is_plain = || header.typ.as_deref().is_none_or(|typ| typ.eq_ignore_ascii_case("JWT"));
        header.is_typ("logout+jwt") || (!self.strict_typ && is_plain())
    }

    fn judge(
        &self,
        issuer: &IssuerSettings,
        payload: &Object<'_>,
        now: Timestamp,
        skew: Duration,
    ) -> Result<SessionEvent, LogoutFault> {
        if issuer.name != self.issuer {
            return Err(LogoutFault::Issuer);
        }
        let event = payload.get("events").and_then(|events| events.as_object()?.get(EVENT)?.as_object());
        event.ok_or(LogoutFault::Events)?;
        // Not even `null`: no reader shall take a logout token for an ID token, nor the other way round.
        if payload.get("nonce").is_some() {
            return Err(LogoutFault::Nonce);
        }
        check_audience(payload, &self.audiences)?;
        let claims = ClaimReader { payload };
        let issued_at = claims.date("iat")?.ok_or(TokenFault::Claim)?;
        let not_before = claims.date("nbf")?.map_or(Timestamp::MIN, Moment::earliest);
        if issued_at.earliest().max(not_before) > now.plus(skew) {
            return Err(LogoutFault::Early);
        }
        match (claims.date("exp")?, self.max_age) {
            (Some(expires), _) if now >= expires.earliest().plus(skew) => return Err(LogoutFault::Expired),
            (None, None) => return Err(LogoutFault::Age),
            (None, Some(age)) if now > issued_at.latest().plus(age).plus(skew) => return Err(LogoutFault::Age),
            (Some(_), _) | (None, Some(_)) => {}
        }
        let id: TokenId = claims.id("jti")?.ok_or(TokenFault::Claim)?;
        let session: Option<SessionId> = claims.id("sid")?;
        let subject: Option<SubjectId> = claims.id("sub")?;
        let issuer = self.issuer.clone();
        let happening = match (session, subject) {
            (Some(session), _) => Happening::SessionEnded { issuer, session },
            (None, Some(id)) => Happening::LoggedOut(Subject { issuer, id }),
            (None, None) => return Err(LogoutFault::Nobody),
        };
        let identifier = payload.get("iss").and_then(|iss| iss.as_str()).unwrap_or_default();
        Ok(SessionEvent {
            id: Some(EventId::new(&format!("{} {identifier}", id.as_str()))),
            at: time_of(issued_at),
            kind: KIND.into(),
            happenings: vec![happening],
        })
    }
}

/// The moment up to which sessions are over, for a logout within the second that `iat` names.
///
/// Whatever was issued earlier in that second is to be refused, so it is the end of it. But the very last millisecond is left out: a session
/// whose whole-second start lies in the same second would then have *provably* begun at or before the logout, and be refused for as long
/// as it lasts, even with a `last_logout` claim that shows that it began after.
fn time_of(issued_at: Moment) -> Timestamp {
    if issued_at.earliest() == issued_at.latest() {
        issued_at.latest()
    } else {
        issued_at.latest().minus(Duration::from_millis(1))
    }
}

/// The token in the form.
///
/// # Errors
/// [`LogoutFault::Missing`] and [`LogoutFault::Repeated`].
pub fn logout_token(form: &[u8]) -> Result<String, LogoutFault> {
    let mut found = None;
    for pair in form.split(|&byte| byte == b'&') {
        let equals = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
        if decode(&pair[..equals]) != PARAMETER {
            continue;
        }
        if found.is_some() {
            return Err(LogoutFault::Repeated);
        }
        found = Some(decode(pair.get(equals + 1..).unwrap_or_default()).into_owned());
    }
    found.filter(|token| !token.is_empty()).ok_or(LogoutFault::Missing)
}

/// A `+` need not become a space here: neither the name nor a token holds either.
fn decode(text: &[u8]) -> Cow<'_, str> {
    percent_decode(text).decode_utf8_lossy()
}

/// Takes logout tokens.
#[derive(Debug)]
struct BackchannelLogout {
    settings: BackchannelLogoutSettings,
    context: Context,
}

impl BackchannelLogout {
    async fn take(&self, body: &[u8]) -> Result<(), Refusal> {
        let Context { pipeline, origin, verifier, .. } = &self.context;
        let token = logout_token(body)?;
        let skew = pipeline.ledger().retention().clock_skew;
        let read = |verifier: &Verifier| self.settings.read(verifier, &token, pipeline.now(), skew);
        let event = match verifier.load().with_newer_keys(&self.settings.issuer, read).await {
            Ok(read) => read?,
            Err(Unverified::KeysUnavailable) => return Err(Refusal::KeysUnavailable),
            Err(Unverified::UnknownKey { .. }) => return Err(TokenFault::UnknownKey.into()),
            Err(Unverified::Fault(fault)) => return Err(fault.into()),
        };
        pipeline.take(origin, &Batch::of(event)).await.map(drop).map_err(|_| Refusal::NotStored)
    }
}

/// Why a delivery is not taken.
enum Refusal {
    Fault(LogoutFault),
    KeysUnavailable,
    NotStored,
}

impl<F: Into<LogoutFault>> From<F> for Refusal {
    fn from(fault: F) -> Self {
        Self::Fault(fault.into())
    }
}

#[async_trait]
impl Receiver for BackchannelLogout {
    fn admit(&self, head: &Parts) -> Result<(), Box<Answer>> {
        if is_form(head) { Ok(()) } else { Err(Box::new(refused(LogoutFault::ContentType))) }
    }

    async fn receive(&self, _: Parts, body: Bytes) -> Answer {
        let Context { pipeline, origin, .. } = &self.context;
        match self.take(&body).await {
            Ok(()) => receiver::answer(StatusCode::OK),
            Err(Refusal::Fault(fault)) => {
                origin.health.turned_away(pipeline.now(), &fault);
                refused(fault)
            }
            Err(Refusal::KeysUnavailable) => {
                origin.health.failed(pipeline.now(), &Unverified::KeysUnavailable);
                unavailable("the keys of the issuer cannot be had at present")
            }
            Err(Refusal::NotStored) => unavailable("the logout could not be stored"),
        }
    }

    fn reject(&self, rejection: Rejection) -> Answer {
        match rejection {
            Rejection::Method => {
                let mut answer =
                    error_answer(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", "logout tokens are sent by POST");
                answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
                answer
            }
            Rejection::TooLarge => {
                error_answer(StatusCode::BAD_REQUEST, "invalid_request", "the content is longer than is taken here")
            }
            Rejection::Encoding => {
                error_answer(StatusCode::BAD_REQUEST, "invalid_request", "the content is not encoded as it says")
            }
            Rejection::Incomplete => {
                error_answer(StatusCode::REQUEST_TIMEOUT, "invalid_request", "the content did not come in time")
            }
            Rejection::Busy => unavailable("too much is under way"),
            Rejection::NotStored => unavailable("the logout could not be stored"),
        }
    }
}

fn is_form(head: &Parts) -> bool {
    let mut types = head.headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else { return false };
    let essence = only.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}

fn refused(fault: LogoutFault) -> Answer {
    error_answer(StatusCode::BAD_REQUEST, "invalid_request", &fault.to_string())
}

fn unavailable(description: &str) -> Answer {
    let mut answer = error_answer(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", description);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

/// §2.8, in the form of RFC 6749 §5.2.
fn error_answer(status: StatusCode, error: &str, description: &str) -> Answer {
    let mut answer = receiver::answer(status);
    let body = serde_json::json!({ "error": error, "error_description": description });
    *answer.body_mut() = Bytes::from(body.to_string()).into();
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use jsonwebtoken::Algorithm;
    use serde_json::{Value, json};

    use super::*;
    use crate::token::{issuer::KeySource, verify::VerifierOptions};

    const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
    const ISSUER: &str = "https://acme.eu.auth0.com/";
    const NOW: i64 = 1_698_160_930;
    const SKEW: Duration = Duration::from_secs(1);

    fn verifier() -> Verifier {
        let settings = |name: &str, identifier: &str| IssuerSettings {
            algorithms: [Algorithm::HS256].into(),
            keys: KeySource::Secret(SECRET.to_vec().into()),
            ..IssuerSettings::new(name.try_into().unwrap(), identifier, "https://api.example")
        };
        let issuers = vec![settings("acme", ISSUER), settings("other", "https://other.example/")];
        Verifier::new(issuers, VerifierOptions::default()).unwrap()
    }

    fn settings() -> BackchannelLogoutSettings {
        BackchannelLogoutSettings {
            issuer: "acme".try_into().unwrap(),
            audiences: ["client-one".into(), "client-two".into()].into(),
            strict_typ: false,
            max_age: None,
        }
    }

    fn token(header: &Value, claims: &Value) -> String {
        let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let input = format!("{}.{}", part(header), part(claims));
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), input.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn header(typ: &str) -> Value {
        json!({ "alg": "HS256", "typ": typ })
    }

    fn claims() -> Value {
        json!({
            "iss": ISSUER,
            "sub": "auth0|alice",
            "aud": "client-one",
            "iat": NOW - 2,
            "exp": NOW + 118,
            "jti": "44a91215",
            "events": { EVENT: {} },
            "trace_id": "81b336a94a4a5707",
            "sid": "session-one",
        })
    }

    /// Good claims with these instead; `"absent"` removes one.
    #[expect(clippy::needless_pass_by_value, reason = "calls read better with `json!` in place")]
    fn with(changes: Value) -> Value {
        let mut claims = claims();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| *value != json!("absent"));
        claims
    }

    fn read_as(
        settings: &BackchannelLogoutSettings,
        header: &Value,
        claims: &Value,
    ) -> Result<SessionEvent, LogoutFault> {
        settings.read(&verifier(), &token(header, claims), Timestamp::from_secs(NOW), SKEW).unwrap()
    }

    fn read(changes: Value) -> Result<SessionEvent, LogoutFault> {
        read_as(&settings(), &header("JWT"), &with(changes))
    }

    fn ended(session: &str) -> Vec<Happening> {
        vec![Happening::SessionEnded { issuer: settings().issuer, session: session.try_into().unwrap() }]
    }

    fn logged_out(sub: &str) -> Vec<Happening> {
        vec![Happening::LoggedOut(Subject { issuer: settings().issuer, id: sub.try_into().unwrap() })]
    }

    #[test]
    fn the_session_is_meant_where_there_is_one() {
        let happenings = |changes| read(changes).map(|event| event.happenings);
        assert_eq!(happenings(json!({})), Ok(ended("session-one")));
        assert_eq!(happenings(json!({"sub": "absent"})), Ok(ended("session-one")));
        assert_eq!(happenings(json!({"sub": null})), Ok(ended("session-one")));
        assert_eq!(happenings(json!({"sid": "absent"})), Ok(logged_out("auth0|alice")));
        assert_eq!(happenings(json!({"sid": null})), Ok(logged_out("auth0|alice")));
        assert_eq!(happenings(json!({"sid": "absent", "sub": "absent"})), Err(LogoutFault::Nobody));
    }

    #[test]
    fn what_may_be_there_is_accepted() {
        for changes in [
            json!({"aud": ["client-two"]}),
            json!({"aud": ["someone", "client-one"]}),
            json!({"events": {EVENT: {"anything": 1}, "https://other.example/event": {}}}),
            json!({"iat": NOW + 1}),
            json!({"iat": NOW - 3600}),
            json!({"exp": NOW}),
            json!({"nbf": NOW + 1}),
        ] {
            assert!(read(changes.clone()).is_ok(), "{changes}");
        }
    }

    #[test]
    fn what_is_no_logout_token_is_refused() {
        let claim = LogoutFault::Token(TokenFault::Claim);
        let audience = LogoutFault::Token(TokenFault::Audience);
        for (changes, fault) in [
            (json!({"iss": "https://other.example/"}), LogoutFault::Issuer),
            (json!({"iss": "https://acme.eu.auth0.com"}), LogoutFault::Token(TokenFault::Issuer)),
            (json!({"iss": "absent"}), LogoutFault::Token(TokenFault::Issuer)),
            (json!({"aud": "absent"}), audience),
            (json!({"aud": "https://api.example"}), audience),
            (json!({"aud": ["https://api.example"]}), audience),
            (json!({"aud": []}), audience),
            (json!({"aud": ["client-one", 7]}), audience),
            (json!({"iat": "absent"}), claim),
            (json!({"iat": "1698160928"}), claim),
            (json!({"iat": NOW + 2}), LogoutFault::Early),
            (json!({"nbf": NOW + 2}), LogoutFault::Early),
            (json!({"exp": "absent"}), LogoutFault::Age),
            (json!({"exp": null}), LogoutFault::Age),
            (json!({"exp": true}), claim),
            (json!({"exp": NOW - 1}), LogoutFault::Expired),
            (json!({"jti": "absent"}), claim),
            (json!({"jti": null}), claim),
            (json!({"jti": ""}), claim),
            (json!({"jti": 7}), claim),
            (json!({"sid": ""}), claim),
            (json!({"sid": ["session-one"]}), claim),
            (json!({"sub": 7}), claim),
            (json!({"sub": "a\u{7}b"}), claim),
            (json!({"events": "absent"}), LogoutFault::Events),
            (json!({"events": null}), LogoutFault::Events),
            (json!({"events": EVENT}), LogoutFault::Events),
            (json!({"events": [EVENT]}), LogoutFault::Events),
            (json!({"events": {}}), LogoutFault::Events),
            (json!({"events": {EVENT: null}}), LogoutFault::Events),
            (json!({"events": {EVENT: []}}), LogoutFault::Events),
            (json!({"events": {EVENT: "{}"}}), LogoutFault::Events),
            (json!({"events": {"https://schemas.openid.net/event/backchannel-logout": {}}}), LogoutFault::Events),
            (json!({"nonce": "n-0S6_WzA2Mj"}), LogoutFault::Nonce),
            (json!({"nonce": null}), LogoutFault::Nonce),
        ] {
            assert_eq!(read(changes.clone()), Err(fault), "{changes}");
        }
    }

    #[test]
    fn a_token_says_by_its_type_what_it_is() {
        let strict = BackchannelLogoutSettings { strict_typ: true, ..settings() };
        let untyped = json!({ "alg": "HS256" });
        for (header, lax, narrow) in [
            (header("logout+jwt"), true, true),
            (header("application/logout+jwt"), true, true),
            (header("Logout+JWT"), true, true),
            (header("JWT"), true, false),
            (header("jwt"), true, false),
            (untyped, true, false),
            (header("at+jwt"), false, false),
            (header("application/at+jwt"), false, false),
            (header("secevent+jwt"), false, false),
            (header("dpop+jwt"), false, false),
            (header("global-token-revocation+jwt"), false, false),
            (header(""), false, false),
        ] {
            let outcome = |settings: &BackchannelLogoutSettings| read_as(settings, &header, &claims()).map(drop);
            let expected = |good| if good { Ok(()) } else { Err(LogoutFault::Type) };
            assert_eq!(outcome(&settings()), expected(lax), "{header}");
            assert_eq!(outcome(&strict), expected(narrow), "{header}, strictly");
        }
    }

    #[test]
    fn a_token_without_an_end_is_taken_while_it_is_fresh() {
        let tolerant = BackchannelLogoutSettings { max_age: Some(Duration::from_secs(120)), ..settings() };
        let read = |changes| read_as(&tolerant, &header("JWT"), &with(changes)).map(drop);
        assert_eq!(read(json!({"exp": "absent", "iat": NOW - 121})), Ok(()), "within the skew");
        assert_eq!(read(json!({"exp": "absent", "iat": NOW - 123})), Err(LogoutFault::Age));
        assert_eq!(read(json!({"exp": "absent", "iat": NOW + 2})), Err(LogoutFault::Early));
        assert_eq!(read(json!({"exp": NOW - 1})), Err(LogoutFault::Expired), "an end that is there counts");
    }

    #[test]
    fn the_same_token_is_the_same_event() {
        let id = |changes| read(changes).unwrap().id.unwrap();
        assert_eq!(id(json!({})), id(json!({"sid": "session-two"})));
        assert_ne!(id(json!({})), id(json!({"jti": "44a91216"})));
        assert!(id(json!({})).as_str().starts_with("44a91215 "));
    }

    #[test]
    fn a_logout_covers_its_second_and_proves_nothing_about_it() {
        let at = read(json!({"sid": "absent"})).unwrap().at;
        let second = Moment::whole_second(NOW - 2);
        assert!(second.earliest() <= at, "a token of the same second is refused");
        assert!(second.latest() > at, "a session of the same second may have begun after it");
        assert!(Moment::whole_second(NOW - 1).earliest() > at, "a token of the next second is admitted");
        assert_eq!((second.latest().as_millis() - at.as_millis()), 1);
        let exact = read(json!({"iat": 1_698_160_928.25})).unwrap().at;
        assert_eq!(exact.as_millis(), 1_698_160_928_250);
    }

    #[test]
    fn the_form_has_one_token() {
        for (form, expected) in [
            ("logout_token=a.b.c", Ok("a.b.c")),
            ("state=x&logout_token=a.b.c&other=logout_token", Ok("a.b.c")),
            ("logout%5Ftoken=a%2Eb%2ec", Ok("a.b.c")),
            ("&&logout_token=a.b.c&", Ok("a.b.c")),
            ("logout_token=a=b", Ok("a=b")),
            ("", Err(LogoutFault::Missing)),
            ("logout_token", Err(LogoutFault::Missing)),
            ("logout_token=", Err(LogoutFault::Missing)),
            ("Logout_Token=a.b.c", Err(LogoutFault::Missing)),
            ("token=a.b.c", Err(LogoutFault::Missing)),
            ("{\"logout_token\":\"a.b.c\"}", Err(LogoutFault::Missing)),
            ("logout_token=a.b.c&logout_token=a.b.c", Err(LogoutFault::Repeated)),
            ("logout_token=&logout_token=a.b.c", Err(LogoutFault::Repeated)),
            ("logout_token=a.b.c&logout%5Ftoken", Err(LogoutFault::Repeated)),
        ] {
            assert_eq!(logout_token(form.as_bytes()).as_deref(), expected.as_deref(), "{form}");
        }
        assert!(logout_token(b"logout_token=\xff\xfe&\xff=%zz").is_ok(), "whatever it is, it will not verify");
    }
}
