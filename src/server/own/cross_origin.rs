//! Pages of other origins whose scripts may use these endpoints (Fetch standard, CORS protocol).
//!
//! Only the origins that the configuration names: their requests may carry cookies, and their scripts may read the answers, refusals
//! by any route among them. What an upstream answers is the upstream's to share.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};

use crate::upstream::Body;

/// How long a browser may remember what it was told, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Which origins they are.
#[derive(Clone, Debug)]
pub struct TrustedOrigins(Box<[Box<str>]>);

impl TrustedOrigins {
    /// These (RFC 6454 §6.2), and no others.
    #[must_use]
    pub const fn new(origins: Box<[Box<str>]>) -> Self {
        Self(origins)
    }

    /// The origin of the page whose script asks, if it is one of these.
    #[must_use]
    pub fn of<'a>(&self, fields: &'a HeaderMap) -> Option<&'a HeaderValue> {
        fields.get(header::ORIGIN).filter(|origin| self.has(origin))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an origin is one of these.
    #[must_use]
    pub fn has(&self, origin: &HeaderValue) -> bool {
        self.0.iter().any(|trusted| trusted.as_bytes() == origin.as_bytes())
    }

    /// The answer to a browser that asks whether it may ask.
    pub(super) fn preflight(&self, head: &Parts) -> Option<Response<Body>> {
        let asks = head.method == Method::OPTIONS && head.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let origin = self.of(&head.headers).filter(|_| asks)?;
        let mut response = Response::new(Bytes::new().into());
        *response.status_mut() = StatusCode::NO_CONTENT;
        self.share(Some(origin), response.headers_mut());
        let fields = response.headers_mut();
        let value = HeaderValue::from_static;
        fields.insert(header::ACCESS_CONTROL_ALLOW_METHODS, value("GET, POST"));
        fields.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, value("Authorization, Content-Type, Portcullis-Activity"));
        fields.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        Some(response)
    }

    /// Lets the scripts of `origin`, one of these, read a response.
    pub fn share(&self, origin: Option<&HeaderValue>, fields: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        fields.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = origin {
            fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            fields.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            let exposed = "Portcullis-Session-Idle, Portcullis-Session-Absolute, Retry-After, WWW-Authenticate";
            fields.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(exposed));
        }
    }
}
