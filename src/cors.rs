//! Scripts of other origins (Fetch standard, CORS protocol), answered for by the gate instead of the upstream.
//!
//! 1. A preflight is answered here, whoever asks, and goes no further: no verdict is needed for what admits nothing. Any other
//!    `OPTIONS` request is judged like every request.
//! 2. Responses to allowed origins say so, refusals among them, so that scripts can read why. What an upstream says about it itself is
//!    replaced: two that answer the same question answer it differently one day.
//! 3. `null` is no origin: sandboxed frames, files and redirects from anywhere all call themselves that.
//! 4. An answer is the same for every method and field that is asked about; the browser compares.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};

use crate::upstream::Body;

/// What only the gate says, on routes where it answers.
const OWN: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// Who may use a route from other origins, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CorsSettings {
    /// Which origins.
    pub origins: Origins,
    /// `Access-Control-Allow-Methods`.
    pub methods: HeaderValue,
    /// `Access-Control-Allow-Headers`; `None`: none but those that need not be asked about.
    pub headers: Option<HeaderValue>,
    /// `Access-Control-Expose-Headers`; `None`: none but those that every script may read.
    pub expose: Option<HeaderValue>,
    /// Whether requests may carry cookies. Never with [`Origins::Every`].
    pub credentials: bool,
    /// How long browsers may remember the answer to a preflight, in seconds.
    pub max_age: u64,
}

/// Which origins are allowed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origins {
    /// Every one.
    Every,
    /// These.
    Some(Box<[OriginPattern]>),
}

/// `https://app.example`, or `https://*.example` for everything below. Lower-case, with a port where it is not the scheme's own
/// (RFC 6454 §6.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginPattern {
    /// Scheme and `://`, then the host and port; of a wildcard, what comes before the asterisk.
    start: Box<str>,
    /// What follows the asterisk.
    end: Option<Box<str>>,
}

impl OriginPattern {
    /// A pattern by its text, which is an origin but for an asterisk as its leftmost label.
    #[must_use]
    pub fn new(text: &str) -> Self {
        match text.split_once('*') {
            Some((start, end)) => Self { start: start.into(), end: Some(end.into()) },
            None => Self { start: text.into(), end: None },
        }
    }

    fn matches(&self, origin: &[u8]) -> bool {
        let Some(end) = &self.end else { return self.start.as_bytes() == origin };
        let labels = origin.strip_prefix(self.start.as_bytes()).and_then(|rest| rest.strip_suffix(end.as_bytes()));
        let is_label = |label: &[u8]| {
            !label.is_empty() && label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        labels.is_some_and(|labels| labels.split(|&byte| byte == b'.').all(is_label))
    }
}

impl CorsSettings {
    /// The answer to a preflight; `None`: the request is none.
    #[must_use]
    pub fn preflight<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let fields = request.headers();
        let is_preflight = request.method() == Method::OPTIONS
            && fields.contains_key(header::ORIGIN)
            && fields.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !is_preflight {
            return None;
        }
        let mut response = Response::new(Bytes::new().into());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let allowed = self.allow(one_origin(fields), response.headers_mut());
        let fields = response.headers_mut();
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        fields.append(
            header::VARY,
            HeaderValue::from_static("Access-Control-Request-Method, Access-Control-Request-Headers"),
        );
        if allowed {
            fields.insert(header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
            if let Some(headers) = &self.headers {
                fields.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
            }
            fields.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.max_age));
        }
        Some(response)
    }

    /// Lets the scripts of `origin` read a response, if they may. Returns whether they may.
    pub fn share(&self, origin: Option<&HeaderValue>, fields: &mut HeaderMap) -> bool {
        for name in &OWN {
            fields.remove(name);
        }
        let allowed = self.allow(origin, fields);
        if let (true, Some(expose)) = (allowed, &self.expose) {
            fields.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
        allowed
    }

    fn allow(&self, origin: Option<&HeaderValue>, fields: &mut HeaderMap) -> bool {
        let every = self.origins == Origins::Every;
        if !every && !varies_by_origin(fields) {
            fields.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = origin.filter(|origin| self.origins.allow(origin.as_bytes())) else { return false };
        let told = if every { HeaderValue::from_static("*") } else { origin.clone() };
        fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, told);
        if self.credentials && !every {
            fields.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        true
    }
}

impl Origins {
    fn allow(&self, origin: &[u8]) -> bool {
        match self {
            Self::Every => origin != b"null",
            Self::Some(patterns) => patterns.iter().any(|pattern| pattern.matches(origin)),
        }
    }
}

/// The origin whose script asks. No browser sends two.
#[must_use]
pub fn one_origin(fields: &HeaderMap) -> Option<&HeaderValue> {
    let mut origins = fields.get_all(header::ORIGIN).iter();
    origins.next().filter(|_| origins.next().is_none())
}

fn varies_by_origin(fields: &HeaderMap) -> bool {
    let names = fields.get_all(header::VARY).iter().flat_map(|vary| vary.as_bytes().split(|&byte| byte == b','));
    names.map(<[u8]>::trim_ascii).any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(origins: &[&str]) -> CorsSettings {
        CorsSettings {
            origins: Origins::Some(origins.iter().map(|origin| OriginPattern::new(origin)).collect()),
            methods: HeaderValue::from_static("GET"),
            headers: None,
            expose: None,
            credentials: true,
            max_age: 60,
        }
    }

    #[test]
    fn an_origin_is_allowed_letter_by_letter() {
        let cors = settings(&["https://app.test", "https://*.team.test", "http://*.dev.test:8080"]);
        for (origin, allowed) in [
            ("https://app.test", true),
            ("http://app.test", false),
            ("https://app.test:443", false),
            ("https://app.test:8443", false),
            ("https://APP.test", false),
            ("https://app.test.evil.test", false),
            ("https://evil-app.test", false),
            ("https://app.testevil", false),
            ("https://a.team.test", true),
            ("https://a.b.team.test", true),
            ("https://team.test", false),
            ("https://.team.test", false),
            ("https://a..team.test", false),
            ("https://evil.test/.team.test", false),
            ("https://evil.test:1.team.test", false),
            ("https://user@a.team.test", false),
            ("https://evil.test#.team.test", false),
            ("https://evil.test\\.team.test", false),
            ("https://eviltest.test?.team.test", false),
            ("https://evilteam.test", false),
            ("http://a.team.test", false),
            ("http://a.dev.test:8080", true),
            ("http://a.dev.test", false),
            ("null", false),
            ("", false),
            ("*", false),
        ] {
            let mut fields = HeaderMap::new();
            let origin_value = HeaderValue::try_from(origin).unwrap();
            assert_eq!(cors.share(Some(&origin_value), &mut fields), allowed, "{origin}");
            let told = fields.get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(told, allowed.then_some(&origin_value), "{origin}");
            assert_eq!(fields.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS), allowed);
            assert_eq!(fields[header::VARY], "Origin");
        }
    }

    #[test]
    fn every_origin_is_told_alike_and_null_is_none() {
        let cors = CorsSettings { origins: Origins::Every, ..settings(&[]) };
        for (origin, allowed) in [("https://app.test", true), ("null", false)] {
            let mut fields = HeaderMap::new();
            assert_eq!(cors.share(Some(&HeaderValue::from_static(origin)), &mut fields), allowed);
            let told = fields.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).map(HeaderValue::as_bytes);
            assert_eq!(told, allowed.then_some(&b"*"[..]));
            assert!(!fields.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS), "never with every origin");
            assert!(!fields.contains_key(header::VARY), "the answer does not depend on it");
        }
    }

    #[test]
    fn what_the_upstream_says_is_replaced() {
        let cors = settings(&["https://app.test"]);
        for (vary, varies) in [("accept, ORIGIN", 1), ("*", 1), ("accept", 2)] {
            let mut fields = HeaderMap::new();
            fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            fields.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
            fields.insert(header::VARY, HeaderValue::from_static(vary));
            assert!(!cors.share(Some(&HeaderValue::from_static("https://evil.test")), &mut fields));
            assert!(!fields.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
            assert!(!fields.contains_key(header::ACCESS_CONTROL_EXPOSE_HEADERS));
            assert_eq!(fields.get_all(header::VARY).iter().count(), varies, "{vary}");
        }
    }
}
