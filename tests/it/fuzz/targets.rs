//! What is fuzzed: each function takes any bytes and panics when a promise does not hold. `fuzz/` runs them under libFuzzer, the
//! tests run them for a moment each.

use std::{io::Write as _, sync::LazyLock};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderName, HeaderValue};
use jsonwebtoken::Algorithm;
use portcullis::{
    clock::Timestamp,
    config::Config,
    credential::{Credential, CredentialSources, Source},
    event::{
        Gap, Happening, SessionEvent,
        auth0::{
            framing::records,
            record::{Action, RecordReader},
            sse::{Item, Parser},
            user_event::UserEventReader,
        },
        backchannel_logout::{self, BackchannelLogoutSettings},
        shared_signals::{Actions, set::SecurityEventToken},
        token_revocation::{Assertions, RevocationRequest},
    },
    logout::return_url::{AllowedUrl, Matching},
    management::{export::lines::Lines, user::UserReader},
    marker::{Kind, MarkerRecord, record::MAX_VALUE_LENGTH},
    route::path,
    server::{
        http1::read_in_pieces,
        http2::{self, Trial},
    },
    stream::websocket::Frames,
    token::{
        claims::{ClientId, MAX_ID_LENGTH, SessionId, Subject, TokenId},
        issuer::{IssuerSettings, KeySource},
        json::{Object, Value},
        key::{parse_key_set, select},
        verify::{VerifiedToken, Verifier, VerifierOptions},
    },
    upstream::http1::decode_in_pieces,
};

/// A target: its name, what it does, and inputs to begin from.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&[u8]),
    pub(crate) seeds: &'static [&'static [u8]],
}

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    Target { name: "token", run: token, seeds: TOKENS },
    Target { name: "marker_value", run: marker_value, seeds: MARKER_VALUES },
    Target { name: "config", run: config, seeds: CONFIGS },
    Target { name: "path", run: canonical_path, seeds: PATHS },
    Target { name: "credential", run: credential, seeds: CREDENTIALS },
    Target { name: "jwks", run: jwks, seeds: KEY_SETS },
    Target { name: "logout_token", run: logout_token, seeds: LOGOUT_TOKENS },
    Target { name: "revocation", run: revocation, seeds: REVOCATIONS },
    Target { name: "log_stream", run: log_stream, seeds: LOG_STREAMS },
    Target { name: "user_event", run: user_event, seeds: USER_EVENTS },
    Target { name: "sse", run: sse, seeds: STREAMS },
    Target { name: "security_event", run: security_event, seeds: SECURITY_EVENTS },
    Target { name: "return_url", run: return_url, seeds: RETURN_URLS },
    Target { name: "user", run: user, seeds: USERS },
    Target { name: "export", run: export, seeds: EXPORTS },
    Target { name: "websocket", run: websocket, seeds: FRAMES },
    Target { name: "response", run: response, seeds: RESPONSES },
    Target { name: "request", run: request, seeds: REQUESTS },
    Target { name: "http2_frames", run: http2_frames, seeds: HTTP2 },
];

const ISSUER: &str = "https://issuer.example/";
const AUDIENCE: &str = "api";
const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
const MAX_TOKEN_LENGTH: usize = 4096;

const TOKENS: &[&[u8]] = &[
    br#"{"alg":"HS256"}.{"iss":"https://issuer.example/","aud":"api","sub":"auth0|alice","iat":1763700000,"exp":1763703600}"#,
    br#"{"alg":"HS256","typ":"at+jwt","kid":"k"}.{"iss":"https://issuer.example/","aud":["x","api"],"sub":"a","sid":"s","jti":"t","azp":"c","iat":1763700000.5,"exp":1.7637e9,"nbf":0,"auth_time":1763700000123,"last_logout":"2025-11-21T04:40:00.123Z","scope":"a b","permissions":["c"],"email":"\u00e9\ud83d\ude00"}"#,
    br#"{"alg":"none","crit":["exp"],"b64":false,"jwk":{},"zip":"DEF","cty":"JWT"}.{"events":{},"cnf":{"jkt":"x"}}"#,
    b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
];

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let settings = IssuerSettings {
        algorithms: [Algorithm::HS256].into(),
        keys: KeySource::Secret(SECRET.to_vec().into()),
        ..IssuerSettings::new("fuzz".try_into().expect("a name"), ISSUER, AUDIENCE)
    };
    let options = VerifierOptions {
        max_token_length: MAX_TOKEN_LENGTH,
        forwarded_claims: ["sub", "email", "permissions"].map(Into::into).into(),
        ..VerifierOptions::default()
    };
    Verifier::new(vec![settings], options).expect("valid settings")
});

/// The bytes as `header.payload`, signed with the right key, so that the claims are reached.
fn sign(data: &[u8]) -> String {
    let dot = data.iter().position(|&byte| byte == b'.').unwrap_or(data.len());
    let (header, payload) = (&data[..dot], data.get(dot + 1..).unwrap_or_default());
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The bytes as a token, and signed.
pub(crate) fn token(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        assert!(VERIFIER.verify(text).is_err(), "verified without the key");
    }
    let signed = sign(data);
    let Ok(verified) = VERIFIER.verify(&signed) else { return };
    check_claims(&verified, &signed);
    for other in
        [&signed[1..], &signed[..signed.len() - 1], &format!("{signed}="), &format!("{signed}."), &format!(" {signed}")]
    {
        assert!(VERIFIER.verify(other).is_err(), "another text verified");
    }
}

fn check_claims(verified: &VerifiedToken, signed: &str) {
    let claims = &verified.claims;
    assert!(signed.len() <= MAX_TOKEN_LENGTH);
    assert_eq!(claims.subject.issuer.as_str(), "fuzz");
    let ids = [
        Some(claims.subject.id.as_str()),
        claims.session.as_ref().map(SessionId::as_str),
        claims.client.as_ref().map(ClientId::as_str),
        claims.token_id.as_ref().map(TokenId::as_str),
    ];
    for id in ids.into_iter().flatten() {
        assert!((1..=MAX_ID_LENGTH).contains(&id.len()) && !id.chars().any(char::is_control));
    }
    assert!(claims.issued_at.earliest() <= claims.issued_at.latest());
    assert_eq!(verified.forwarded.iter().count(), 3);
    for value in verified.forwarded.iter().flatten() {
        assert!(value.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte)), "{value:?}");
    }
}

const MARKER_VALUES: &[&[u8]] = &[
    b"\x001763700000123",
    br#"{"at":1763700000123,"clock":"issuer","by":"ops","reason":"\"why\""}"#,
    br#"{"at":1763700000123,"written":1763700000456,"source":"admin"}"#,
    br#"{"at":"2025-11-21T04:40:00.123Z","blocked":false,"until":"2099-01-01T00:00:00Z"}"#,
    br#"{"at":1763700000123,"blocked":true,"until":1763700000124}"#,
];

/// A stored value, under a key of each kind.
pub(crate) fn marker_value(data: &[u8]) {
    for kind in Kind::ALL {
        let Ok(record) = MarkerRecord::decode(kind, data) else { continue };
        assert!(data.len() <= MAX_VALUE_LENGTH);
        assert!(record.marker.at().as_millis() >= 1_000_000_000_000, "a time in seconds");
        let written = record.encode();
        // Escapes may make the written form longer than the one that was read.
        if written.len() <= MAX_VALUE_LENGTH {
            assert_eq!(MarkerRecord::decode(kind, written.as_bytes()).as_ref(), Ok(&record));
        }
        assert_eq!(record.clone().merge(record.clone()), record);
    }
}

const CONFIGS: &[&[u8]] = &[
    "[log]\nlevel = \" 0®[\"\n".as_bytes(),
    include_bytes!("../../../config/portcullis.toml"),
    include_bytes!("../../../config/gateway.toml"),
    b"mode = \"observe\"\n[markers]\nmax_staleness = \"500ms\"\n[issuers.acme]\nissuer = \"https://acme.test/\"\naudiences = [\"api\"]\nclaims = { session = \"s\" }\n[[routes]]\nhosts = [\"*.example.com\"]\npath = \"/v1\"\nupstream = \"http://[::1]:82\"\nidentity = { \"X-User\" = \"sub\" }\n",
];

/// A configuration file: whatever it says, it is read or every problem has a place.
pub(crate) fn config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match Config::parse(text, "fuzz.toml", []) {
        Ok(config) => {
            assert!(!config.routes.is_empty());
            assert!(config.routes.iter().all(|route| http::HeaderValue::from_str(&route.policy.realm).is_ok()));
        }
        Err(errors) => assert!(!errors.problems().is_empty() && !errors.to_string().is_empty()),
    }
}

const PATHS: &[&[u8]] = &[
    b"/a/./b/../c//d/%7Euser/%c3%a9",
    b"/..%2f..%5c%252e/.;x/..;/\\",
    b"/a%2e%2E/%25%32%65?x#y",
    "/\u{e9}/%ff/%C0%AE/%00".as_bytes(),
];

/// A path: its canonical form is canonical, and holds nothing that can be read in two ways.
pub(crate) fn canonical_path(data: &[u8]) {
    let Ok(canonical) = path::canonicalise(data) else { return };
    assert_eq!(path::canonicalise(&*canonical).as_deref(), Ok(&*canonical), "not canonical yet");
    assert!(canonical.starts_with('/') && canonical.is_ascii(), "{canonical}");
    assert!(!canonical.contains("//") && !canonical.contains(['\\', '?', '#', ' ']), "{canonical}");
    assert!(!canonical.split('/').any(|segment| segment == "." || segment == ".."), "{canonical}");
    let lower = canonical.to_ascii_lowercase();
    assert!(!["%2f", "%5c", "%2e", "%00"].iter().any(|hidden| lower.contains(hidden)), "{canonical}");
    http::uri::PathAndQuery::try_from(&*canonical).expect("a path that can be sent");
}

const CREDENTIALS: &[&[u8]] = &[
    b"authorization: Bearer a.b.c\ncookie: a=b; token=\"d.e.f\"; c",
    b"x-token: a.b.c\nauthorization: Basic YTpi\nauthorization:bearer  x==",
    b"cookie: token=;token = x\ncookie:=;;=\nx-token: \xff",
];

static SOURCES: LazyLock<CredentialSources> = LazyLock::new(|| CredentialSources {
    cookies: [Source { name: "token".into(), issuer: None }].into(),
    headers: [Source { name: HeaderName::from_static("x-token"), issuer: None }].into(),
});

/// Header fields, one a line: what is found is a token that is there, once; without it, nothing is.
pub(crate) fn credential(data: &[u8]) {
    let mut fields = HeaderMap::new();
    for line in data.split(|&byte| byte == b'\n') {
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line.get(colon + 1..).unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            // A map of fields has its limits.
            let _ = fields.try_append(name, value);
        }
    }
    if let Credential::Bearer { token, ambient, .. } = SOURCES.find(&fields) {
        assert!(
            !token.is_empty() && token.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte))
        );
        let holds = |value: &HeaderValue| value.as_bytes().windows(token.len()).any(|part| part == token);
        assert!(fields.values().any(holds), "a token from nowhere");
        let mut doubled = fields.clone();
        doubled.append("x-token", HeaderValue::from_bytes(token).expect("visible characters"));
        assert_eq!(SOURCES.find(&doubled), Credential::Malformed);
        if ambient {
            assert!(fields.contains_key("cookie"));
        }
    }
    fields.remove("authorization");
    fields.remove("x-token");
    // A twin of a place makes any credential doubtful.
    fields.remove("x_token");
    SOURCES.remove_cookies(&mut fields);
    assert_eq!(SOURCES.find(&fields), Credential::Absent, "a token is left behind");
}

const KEY_SETS: &[&[u8]] = &[
    br#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","kid":"1","use":"sig"}]}"#,
    br#"{"keys":[{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256"}]}"#,
    br#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},{"kty":"oct","k":"AAAA"},{}]}"#,
];

const PUBLISHED: [Algorithm; 4] = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];

/// A JWK Set: every key that is taken fits an allowed algorithm, and verifies nothing by chance.
pub(crate) fn jwks(data: &[u8]) {
    let Ok(parsed) = parse_key_set(data, &PUBLISHED) else { return };
    let keys: Vec<_> = parsed.keys.into_iter().map(std::sync::Arc::new).collect();
    for key in &keys {
        assert!(key.algorithms().next().is_some(), "a key for nothing");
        for algorithm in [Algorithm::HS256, Algorithm::ES384, Algorithm::RS512] {
            assert!(!key.fits(algorithm), "{algorithm:?} was not allowed");
        }
        for algorithm in key.algorithms() {
            assert!(PUBLISHED.contains(&algorithm));
            assert!(!key.verifies(algorithm, b"message", &[1; 64]));
        }
    }
    for algorithm in PUBLISHED {
        let _ = select(&keys, Some("1"), algorithm);
        let _ = select(&keys, None, algorithm);
    }
}

const LOGOUT_TOKENS: &[&[u8]] = &[
    br#"{"alg":"HS256","typ":"logout+jwt"}.{"iss":"https://issuer.example/","aud":"api","sub":"a","sid":"s","iat":1763700000,"exp":1763700120,"jti":"j","events":{"http://schemas.openid.net/event/backchannel-logout":{}}}"#,
    br#"{"alg":"HS256","typ":"JWT"}.{"iss":"https://issuer.example/","aud":["x","api"],"sub":"a","iat":1763700000.5,"jti":"j","events":{"http://schemas.openid.net/event/backchannel-logout":{"x":[1]}}}"#,
    br#"{"alg":"HS256","typ":"at+jwt"}.{"iss":"https://issuer.example/","aud":"api","sub":"a","nonce":null,"iat":-1,"exp":1.7637e9,"jti":"j","events":{"http://schemas.openid.net/event/backchannel-logout":{}}}"#,
    b"state=x&logout%5Ftoken=a.b.c&logout_token=",
];

const NOW: Timestamp = Timestamp::from_secs(1_763_700_060);
const SKEW: std::time::Duration = std::time::Duration::from_secs(1);

static LOGOUTS: LazyLock<BackchannelLogoutSettings> = LazyLock::new(|| BackchannelLogoutSettings {
    issuer: "fuzz".try_into().expect("a name"),
    audiences: [AUDIENCE.into()].into(),
    strict_typ: false,
    max_age: Some(std::time::Duration::from_secs(120)),
});

/// The bytes as a form, and as a logout token that is signed: it is about one session or one user, and nothing else than a logout token.
pub(crate) fn logout_token(data: &[u8]) {
    if let Ok(token) = backchannel_logout::logout_token(data) {
        let read = LOGOUTS.read(&VERIFIER, &token, NOW, SKEW);
        assert!(read.is_err() || read.is_ok_and(|read| read.is_err()), "verified without the key");
    }
    let signed = sign(data);
    let Ok(Ok(event)) = LOGOUTS.read(&VERIFIER, &signed, NOW, SKEW) else { return };
    assert!(event.id.is_some() && event.at < NOW.plus(2 * SKEW));
    let [Happening::SessionEnded { issuer, .. } | Happening::LoggedOut(Subject { issuer, .. })] = &event.happenings[..]
    else {
        panic!("{:?}", event.happenings)
    };
    assert_eq!(issuer.as_str(), "fuzz");
    assert!(VERIFIER.verify(&signed).is_err(), "an access token as well");
    let strict = BackchannelLogoutSettings { strict_typ: true, max_age: None, ..LOGOUTS.clone() };
    if let Ok(Ok(again)) = strict.read(&VERIFIER, &signed, NOW, SKEW) {
        assert_eq!(again, event);
    }
    let judged = ASSERTIONS.judge(&VERIFIER, &LOGOUTS.issuer, &signed, NOW, SKEW);
    assert!(judged.is_ok_and(|judged| judged.is_err()), "the JWT of a revocation as well");
    let ahead = Timestamp::MAX;
    assert!(LOGOUTS.read(&VERIFIER, &signed, ahead, SKEW).is_ok_and(|read| read.is_err()), "for ever");
}

const REVOCATIONS: &[&[u8]] = &[
    br#"{"sub_id":{"format":"iss_sub","iss":"https://issuer.example/","sub":"a"}}"#,
    br#"{"subject":{"format":"aliases","identifiers":[{"format":"email","email":"a@b.example"},{"format":"opaque","id":"x"}]}}"#,
    br#"{"alg":"HS256","typ":"global-token-revocation+jwt"}.{"jti":"j","iss":"https://issuer.example/","sub":"c","aud":"api","exp":1763700360,"nbf":1763699760,"iat":1763700060}"#,
];

static ASSERTIONS: LazyLock<Assertions> =
    LazyLock::new(|| Assertions { audiences: [AUDIENCE.into()].into(), clients: ["c".into()].into(), signer: None });

/// The bytes as the body of a revocation request, and as its JWT: whoever it is about, written down again it is the same.
pub(crate) fn revocation(data: &[u8]) {
    if let Ok(request) = RevocationRequest::parse(data) {
        let padded = [b" ", data, b"\n"].concat();
        assert_eq!(RevocationRequest::parse(&padded), Ok(request));
    }
    let signed = sign(data);
    if let Ok(Ok(assertion)) = ASSERTIONS.judge(&VERIFIER, &LOGOUTS.issuer, &signed, NOW, SKEW) {
        assert_eq!(ASSERTIONS.judge(&VERIFIER, &LOGOUTS.issuer, &signed, NOW, SKEW), Ok(Ok(assertion)));
        assert!(VERIFIER.verify(&signed).is_err(), "an access token as well");
    }
}

const LOG_STREAMS: &[&[u8]] = &[
    br#"{"log_id":"90000260501120016000000000000000000000000000000000000016","data":{"type":"slo","date":"soon","user_id":"auth0|ada"}}"#,
    b"{\"log_id\":\"90020260501120016000000000000000000000000000000000000016\",\"data\":{\"type\":\"slo\",\"date\":\"2026-05-01T12:00:16.000Z\",\"user_id\":\"auth0|ada\",\"details\":{\"session_id\":\"Zx3kq0N9b5T2\",\"return_to\":\"\\u00e9\"}}}\n{\"log_id\":\"2\",\"data\":{\"type\":\"s\",\"date\":1777636800000,\"user_id\":\"auth0|ada\"}}\n",
    br#"[{"type":"sapi","_id":"3","date":"2026-05-01 12:00:01.000000000","user_id":"google-oauth2|1","details":{"request":{"method":"patch","path":"/api/v2/users/auth0%257Cada","body":{"blocked":true,"password":"*****"}},"response":{"statusCode":200,"body":{"user_id":"*****","blocked":false}}}},{"type":"sapi","date":"2026-05-01T12:00:01Z","details":{"request":{"method":"DELETE","path":"/v2/sessions/a%2Fb"},"response":{"statusCode":202}}}]"#,
    b"[{\"type\":\"slo\",\"date\":\"2026-05-01T12:00:16.000Z\",\"user_id\":\"auth0|a\nda\"}]",
    br#"{"logs":[{"log_id":"4","data":{"type":"sscim","date":{"$date":{"$numberLong":"1777636800000"}},"details":{"request":{"body":{"Operations":[{"path":"active","value":"False"}]}}}}},{"type":"srrt","log_id":5,"date":"2026-05-01T12:00:01+02:00","details":{"refresh_token":{"session_id":"S"}}},{"type":"szz"}],"more":[]}"#,
];

static RECORDS: LazyLock<RecordReader> = LazyLock::new(|| {
    let codes = [("szz", Action::Block), ("fsa", Action::Unblock)];
    RecordReader::new("fuzz".try_into().expect("a name"), codes.into_iter().collect())
});

/// A delivery of log records: each is found where it is, and becomes an event that can be stored, or a gap that can be shown.
pub(crate) fn log_stream(data: &[u8]) {
    each_record(data, |record| RECORDS.read(record));
    let _ = RECORDS.read(data);
}

const USER_EVENTS: &[&[u8]] = &[
    br#"{"specversion":"1.0","type":"user.updated","source":"urn:auth0:acme.us.auth0.com","id":"evt_1","time":"2026-05-01T12:00:00.000Z","data":{"object":{"user_id":"auth0|ada","blocked":false},"previous_object":{"blocked":true}},"a0purpose":"live"}"#,
    br#"[{"type":"com.auth0.user.deleted","id":"evt_2","data":{"object":{"user_id":"auth0|ada","deleted_at":"2026-05-01T12:00:00Z"}}},{"type":"user.created","a0purpose":"test","data":null}]"#,
];

static EVENTS: LazyLock<UserEventReader> =
    LazyLock::new(|| UserEventReader { issuer: "fuzz".try_into().expect("a name") });

/// A delivery of an event stream.
pub(crate) fn user_event(data: &[u8]) {
    each_record(data, |event| EVENTS.read(event));
    let _ = EVENTS.read(data);
}

fn each_record(data: &[u8], read: impl Fn(&[u8]) -> Result<SessionEvent, Gap>) {
    let mut rest = data;
    for record in records(data) {
        assert!(!record.is_empty());
        let begin = record.as_ptr().addr() - rest.as_ptr().addr();
        rest = &rest[begin + record.len()..];
        match read(record) {
            Ok(event) => {
                check_event(&event);
                // What is a whole record is one in every form.
                let array = [b"[", record, b",", record, b"]"].concat();
                assert!(records(&array).eq([record, record]), "not found in an array");
                // An array of this name would be taken for the records.
                if !record.contains(&b'\n') && !record.windows(6).any(|part| part == b"\"logs\"") {
                    let lines = [record, b"\n", record].concat();
                    assert!(records(&lines).eq([record, record]), "not found in lines");
                }
            }
            Err(gap) => assert!(gap.kind.chars().count() <= 64 && !gap.kind.contains(char::is_control)),
        }
    }
}

fn check_event(event: &SessionEvent) {
    assert!(event.at.as_millis() >= 1_000_000_000_000, "a time in seconds");
    assert!(!event.kind.is_empty() && event.kind.is_ascii() && event.kind.len() <= 64);
    assert!((1..=2).contains(&event.happenings.len()));
    for happening in &event.happenings {
        let id = match happening {
            Happening::SessionEnded { session, .. } => session.as_str(),
            Happening::TokenRevoked { token, .. } => token.as_str(),
            Happening::LoggedOut(subject)
            | Happening::Blocked(subject)
            | Happening::Unblocked(subject)
            | Happening::Deleted(subject)
            | Happening::Active(subject) => subject.id.as_str(),
        };
        assert!(id.bytes().any(|byte| byte != b'*'), "somebody behind a mask");
    }
}

const STREAMS: &[&[u8]] = &[
    include_bytes!("../../fixtures/auth0/events-api/stream.sse.txt"),
    b"\xef\xbb\xbfdata: a\r\ndata\r\revent: e\nid: 1\ndata: {}\n\nid\nretry: 10\n: c\n\n",
];

/// A stream of events: the same comes of it whole and byte by byte, and nothing that is longer than may be.
pub(crate) fn sse(data: &[u8]) {
    const MAX: usize = 200;
    let whole = Parser::new(MAX).push(data);
    let mut parser = Parser::new(MAX);
    let piecewise: Vec<Item> = data.iter().flat_map(|byte| parser.push(&[*byte])).collect();
    assert_eq!(whole, piecewise);
    for item in whole {
        if let Item::Event(event) = item {
            assert!(event.data.len() <= MAX);
            // A byte that is not UTF-8 becomes three.
            assert!(event.kind.len() <= 3 * MAX && event.id.is_none_or(|id| !id.is_empty() && id.len() <= 3 * MAX));
        }
    }
}

const SECURITY_EVENTS: &[&[u8]] = &[
    include_bytes!("../../fixtures/caep/session-revoked-2.json"),
    include_bytes!("../../fixtures/caep/credential-change-1.json"),
    include_bytes!("../../fixtures/risc/identifier-changed.json"),
    include_bytes!("../../fixtures/rfc8935/set.payload.json"),
    include_bytes!("../../fixtures/ssf/set-verification-1.json"),
    br#"{"jti":"j","iat":1520364019.5,"toe":1,"aud":["x","https://sp.example.com/caep"],"sub_id":{"format":"aliases","identifiers":[{"format":"email","email":"a@b.example"},{"format":"phone_number","phone_number":"+1 206 555 0123"},{"format":"opaque","id":"x"}]},"events":{"https://schemas.openid.net/secevent/caep/event-type/session-revoked":{"event_timestamp":1615304991643},"urn:x":{"subject":{"subject_type":"iss-sub","iss":"i","sub":"s"}}}}"#,
];

/// The claims of a SET whose signature is good: what is read from them keeps the rules.
pub(crate) fn security_event(data: &[u8]) {
    const AUDIENCES: [&str; 4] = [
        "https://sp.example.com/caep",
        "https://sp.example2.net/caep",
        "636C69656E745F6964",
        "receiver.example.com/web",
    ];
    let Ok(claims) = Object::parse(data) else { return };
    match SecurityEventToken::read(&claims, &AUDIENCES.map(Into::into)) {
        Ok(set) => {
            assert!(claims.get("sub").is_none() && claims.get("exp").is_none(), "another kind of token");
            let is_ours = |value: &Value<'_>| value.as_str().is_some_and(|text| AUDIENCES.contains(&text));
            let audience = claims.get("aud").expect("an audience");
            assert!(is_ours(audience) || audience.as_array().is_some_and(|all| all.iter().any(is_ours)), "for others");
            let events = claims.get("events").and_then(Value::as_object).expect("events").iter().count();
            assert!(events > 0 && set.meanings(&Actions::default()).len() == events);
        }
        Err(fault) => assert!(!fault.to_string().is_empty()),
    }
}

const RETURN_URLS: &[&[u8]] = &[
    b"https://app.example/out",
    b"HTTPS://APP.example:443/out?x=1#y",
    b"https://a.preview.example/?next=https://evil.example",
    b"https://app.example@evil.example/out",
    b"https://evil.example\\.preview.example/",
    b"https://app.example/a/%2e%2e/out",
    b"//app.example/out",
    b"https://*.preview.example/",
];

/// What people may be sent back to.
static ALLOWED: LazyLock<Vec<AllowedUrl>> = LazyLock::new(|| {
    let urls = ["https://app.example/out", "https://*.preview.example/"];
    urls.map(|url| AllowedUrl::try_from(url).expect("a URL")).into()
});

/// Whatever is allowed leads a browser to where it may lead; and whatever can be allowed allows itself, or those it stands for.
pub(crate) fn return_url(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    for matching in [Matching::Exact, Matching::WithoutQuery] {
        if ALLOWED.iter().any(|allowed| allowed.matches(text, matching)) {
            let url = url::Url::parse(text).expect("what is allowed is a URL");
            let host = url.host_str().expect("what is allowed has a host");
            match host.strip_suffix(".preview.example") {
                Some(label) => assert!(!label.is_empty() && !label.contains('.') && url.path() == "/", "{text}"),
                None => assert!(host == "app.example" && url.path() == "/out", "{text}"),
            }
            assert!(url.scheme() == "https" && url.port_or_known_default() == Some(443), "{text}");
            assert!(url.username().is_empty() && url.password().is_none(), "{text}");
            assert!(matching == Matching::WithoutQuery || url.fragment().is_none(), "{text}");
        }
        if let Ok(allowed) = AllowedUrl::try_from(text) {
            let example = text.replacen('*', "a", 1);
            assert!(allowed.matches(&example, matching), "{text} is not {example}");
        }
    }
}

const USERS: &[&[u8]] = &[
    br#"{"user_id":"auth0|ada","blocked":false,"created_at":"2024-03-12T08:00:00.000Z","last_login":"2026-05-01T12:00:00.123Z","logins_count":12,"last_active":null,"app_metadata":{"last_active":1777680000}}"#,
    br#"{"user_id":"google-oauth2|1","blocked":null,"created_at":{"$date":{"$numberLong":"1777636800123"}},"last_login":{"$date":null},"logins_count":"0","last_active":"2026-01-31"}"#,
];

/// A user of an export: there is an id, and what is there but cannot be read is not taken for missing.
pub(crate) fn user(data: &[u8]) {
    let reader = UserReader::default();
    let Some(user) = reader.read(data) else { return };
    let id = user.id.as_str();
    assert!(id.len() <= MAX_ID_LENGTH && id.bytes().any(|byte| byte != b'*'), "somebody behind a mask");
    for date in [user.created_at, user.last_login, user.last_active].into_iter().flatten() {
        assert!(date.as_millis() >= 1_000_000_000_000, "a time in seconds");
    }
    assert_eq!(reader.read(&[b" ", data, b"\n"].concat()).as_ref(), Some(&user));
    // Text that does not matter need not be valid; then there is nothing to compare with.
    let Ok(plain) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    let is_there = |name| plain.get(name).is_some_and(|value| !value.is_null());
    assert!(user.last_login.is_some() || user.doubtful || !is_there("last_login"), "taken for missing");
    assert!(user.created_at.is_some() || user.doubtful || !is_there("created_at"), "taken for missing");
    assert!(user.last_active.is_some() || user.doubtful || !is_there("last_active"), "taken for missing");
    assert_eq!(is_there("blocked") && user.blocked, user.blocked, "blocked by nobody");
}

const EXPORTS: &[&[u8]] = &[
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff\xabV*-N-\x8a\xcfLQ\xb2RJ,-\xc90\xa8ILIT\xd2QJ.JM,IM\x89O,\x01J\x18\x19\x18\x99\xe8\x1a\x18\xeb\x1a\x1a\x85\x18XX\x19\x18\x00\x91\x9e\x81\x81A\x94R-W5\x86\xfe\xa4\xfc$\xa08\x00t\xf2\xb9NX\x00\x00\x00",
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xffK\xe4\xe2\x02\x00\x91yn\xac\x03\x00\x00\x00\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff\xab\xa8\x18\x05\xc4\x02\xae\x9c\xc4\xe2\x12\x00\xb2\xfb\xffI1\x01\x00\x00",
    b"a\n\n \r\nb",
];

/// A file of an export, and one that holds the bytes: the same comes of it whole and byte by byte, and no line that is longer than
/// may be.
pub(crate) fn export(data: &[u8]) {
    const LONGEST: usize = 100;
    let lines = |file: &[u8], size: usize| {
        let (mut lines, mut found) = (Lines::new(LONGEST), Vec::new());
        let mut take = |line: Option<&[u8]>| found.push(line.map(<[u8]>::to_vec));
        let pushed = file.chunks(size).try_for_each(|piece| lines.push(piece, &mut take));
        let is_whole = pushed.and_then(|()| lines.finish(&mut take)).is_ok();
        (found, is_whole)
    };
    let ((whole, is_whole), (piecewise, is_whole_too)) = (lines(data, usize::MAX), lines(data, 1));
    assert_eq!(is_whole, is_whole_too);
    let common = whole.len().min(piecewise.len());
    assert_eq!(whole[..common], piecewise[..common]);
    assert!(!is_whole || whole.len() == piecewise.len());
    assert!(whole.iter().flatten().all(|line| line.len() <= LONGEST && !line.contains(&b'\n')));

    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let file = encoder.write_all(data).and_then(|()| encoder.finish()).expect("memory takes what is written");
    let expected =
        data.split(|byte| *byte == b'\n').filter(|line| line.len() > LONGEST || !line.trim_ascii().is_empty());
    let expected: Vec<_> = expected.map(|line| (line.len() <= LONGEST).then(|| line.to_vec())).collect();
    assert_eq!(lines(&file, 7), (expected, true));
    assert!(!lines(&file[..file.len() - 1], 7).1, "what is not whole passes for it");
}

/// Frames: one of each length of length, with and without a mask, and a close frame.
const FRAMES: &[&[u8]] = &[
    b"\x81\x02hi\x89\x00\x8a\x80\x01\x02\x03\x04",
    b"\x82\x7e\x00\x03abc\x82\xfe\x00\x03\x01\x02\x03\x04abc",
    b"\x02\x7f\x00\x00\x00\x00\x00\x00\x00\x01a\x80\xff\x80\x00\x00\x00\x00\x00\x00\x00\x01\x02\x03\x04abc",
    b"\x88\x06\x03\xf0done",
];

/// It does not matter in which pieces frames come, and whatever comes, a boundary is one: what follows it is read as from the beginning.
pub(crate) fn websocket(data: &[u8]) {
    let ends = |piece: usize| {
        let (mut frames, mut at, mut ends) = (Frames::default(), 0, Vec::new());
        for mut bytes in data.chunks(piece) {
            while !bytes.is_empty() {
                let taken = frames.follow_one(bytes);
                assert!(taken > 0 && taken <= bytes.len());
                at += taken;
                if frames.is_between() {
                    ends.push(at);
                }
                bytes = &bytes[taken..];
            }
        }
        ends
    };
    let whole = ends(data.len().max(1));
    assert_eq!(whole, ends(1));
    assert_eq!(whole, ends(3));
    if let Some(&first) = whole.first() {
        let mut frames = Frames::default();
        assert_eq!(frames.follow_one(data), first);
        frames.follow(&data[first..]);
        assert_eq!(frames.is_between(), whole.last() == Some(&data.len()));
    }
}

const RESPONSES: &[&[u8]] = &[
    b"\x07\x30HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Type: text/plain\r\n\r\nbodyHTTP/1.1 200 OK",
    b"\x20\x43HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;a=b\r\nbody\r\n0a\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"\x01\x01HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 204 Nothing at all\r\nConnection: keep-alive\r\n\r\n",
    b"\x11\x11HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3, 3\r\nContent-Length: 3\r\n\r\nall",
];

/// A response of an upstream, cut in three at places that the first two bytes tell: it comes to the same as in one piece.
pub(crate) fn response(data: &[u8]) {
    let [first, second, response @ ..] = data else { return };
    let first = usize::from(*first).min(response.len());
    let second = (first + usize::from(*second)).min(response.len());
    let pieces = [&response[..first], &response[first..second], &response[second..]];
    for (method, ended) in [(http::Method::GET, false), (http::Method::GET, true), (http::Method::HEAD, false)] {
        let whole = decode_in_pieces(&method, [response], ended);
        assert_eq!(decode_in_pieces(&method, pieces, ended), whole);
        let Ok(Some(decoded)) = whole else { continue };
        assert!(!decoded.status.is_informational());
        assert!(decoded.body.len() + decoded.left <= response.len());
        let coded = decoded.headers.contains_key("transfer-encoding");
        assert!(!(coded && decoded.headers.contains_key("content-length")), "framed in two ways");
        let lengths: Vec<_> = decoded.headers.get_all("content-length").iter().collect();
        assert!(lengths.len() <= 1, "two lengths");
        if let (&http::Method::GET, Some(length), true) = (&method, lengths.first(), decoded.status != 304) {
            assert_eq!(length.to_str().ok().and_then(|length| length.parse().ok()), Some(decoded.body.len()));
        }
    }
}

const REQUESTS: &[&[u8]] = &[
    b"\x07\x30GET /a?b HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\nGET /c HTTP/1.0\r\n\r\n",
    b"\x11\x20\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbodyHEAD / HTTP/1.1\r\n\r\n",
    b"\x30\x21PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4;a=b\r\nbody\r\n0a\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"\x01\x01GET / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nall",
];

/// Requests of a client, cut in three at places that the first two bytes tell: they come to the same as in one piece.
pub(crate) fn request(data: &[u8]) {
    let [first, second, requests @ ..] = data else { return };
    // What is wrong with a line is noticed at its end at the latest.
    let requests = [requests, b"\r\n\r\n"].concat();
    let first = usize::from(*first).min(requests.len());
    let second = (first + usize::from(*second)).min(requests.len());
    let whole = read_in_pieces([&requests[..]]);
    assert_eq!(read_in_pieces([&requests[..first], &requests[first..second], &requests[second..]]), whole);
    assert_eq!(read_in_pieces(requests.chunks(1)), whole);
    let content: usize = whole.iter().flatten().map(|(target, content)| target.len() + content.len()).sum();
    assert!(content <= requests.len());
}

/// Frames of a client, behind its preface.
const HTTP2: &[&[u8]] = &[
    // A request without content, and its `SETTINGS`.
    b"\x00\x04\0\0\0\x04\0\0\0\0\0\0\0\x0b\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01a\x0f\x1f\x01x\x90",
    // One with content in two parts, one of them padded, and trailers; a ping.
    b"\x09\x04\0\0\0\x04\0\0\0\0\0\0\0\x06\x01\x04\0\0\0\x01\x83\x86\x84\x41\x01a\0\0\x02\0\0\0\0\0\x01hi\0\0\x05\0\x08\0\0\0\x01\x02me\0\0\0\0\x06\x01\x05\0\0\0\x01\x40\x01t\x02uv\0\0\x08\x06\0\0\0\0\x00pingpong",
    // A header in pieces, a name that is put into the table and one that is found there, a window and the end of another stream.
    b"\x1e\x18\0\0\0\x04\0\0\0\0\0\0\0\x04\x01\x01\0\0\0\x01\x82\x86\x84\x41\0\0\x02\x09\0\0\0\0\x01\x01a\0\0\x05\x09\x04\0\0\0\x01\x40\x01k\x01v\0\0\x07\x01\x05\0\0\0\x03\x82\x86\x84\x41\x01a\xbe\0\0\x04\x08\0\0\0\0\x01\0\0\0\x01\0\0\x04\x03\0\0\0\0\x03\0\0\0\x08",
    // Small windows, and settings that change.
    b"\x20\x20\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\x01\0\0\x06\x01\x04\0\0\0\x01\x83\x86\x84\x41\x01a\0\0\x05\0\x01\0\0\0\x01hello\0\0\x0c\x04\0\0\0\0\0\0\x04\0\0\0\x09\0\x01\0\0\0\0\0\0\0\x04\x01\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0",
];

/// A client's frames, cut in three at places that the first two bytes tell: they come to the same as byte by byte, and what goes out is what
/// a client can understand.
pub(crate) fn http2_frames(data: &[u8]) {
    let [first, second, frames @ ..] = data else { return };
    let bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frames].concat();
    let first = usize::from(*first).min(bytes.len());
    let second = (first + usize::from(*second)).min(bytes.len());
    let pieces = http2::read_in_pieces([&bytes[..first], &bytes[first..second], &bytes[second..]], 1000);
    let bytewise = http2::read_in_pieces(bytes.chunks(1), 1000);
    for trial in [&pieces, &bytewise] {
        let content: usize = trial.requests.iter().map(|(_, content, _)| content.len()).sum();
        assert!(content <= frames.len());
        understood(&trial.sent);
    }
    // What is too much at once may be well in pieces, and what is answered by then may be the end of a client that has said goodbye.
    let depends = |trial: &Trial| trial.end.as_ref().is_some_and(|end| end.contains("calm") || end == "in order");
    if !depends(&pieces) && !depends(&bytewise) {
        // What comes at once with what resets it was not answered.
        for request in &pieces.requests {
            assert!(bytewise.requests.contains(request), "{request:?} is not among {:?}", bytewise.requests);
        }
        assert_eq!(pieces.end, bytewise.end);
    }
}

/// Whether these are whole frames, and those of each stream in their order: headers, content, and nothing after the end.
fn understood(mut bytes: &[u8]) {
    let mut streams = std::collections::BTreeMap::new();
    while let Some((&[a, b, c, kind, flags, w, x, y, z], rest)) = bytes.split_first_chunk::<9>() {
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        assert!(length <= 16_384);
        let stream = u32::from_be_bytes([w, x, y, z]);
        let (_, rest) = rest.split_at_checked(length).expect("a whole frame");
        bytes = rest;
        let state = streams.entry(stream).or_insert("new");
        *state = match (kind, *state) {
            (4 | 6..=8, _) if stream == 0 => "new",
            (8, state) if state != "reset" => state,
            (3, _) => "reset",
            (1, "new") | (0, "answered") if flags & 1 != 0 => "ended",
            (1, "new") | (0, "answered") => "answered",
            (kind, state) => panic!("frame {kind} for stream {stream}, which is {state}"),
        };
    }
    assert!(bytes.is_empty(), "a frame is cut off");
}
