//! `/.portcullis/session.js`: the browser's side of sessions, as it is in `web/session`.
//!
//! With `?v=<version>` browsers keep it; otherwise they ask whether it has changed. `/.portcullis/session.json` tells the version and
//! the integrity hash (Subresource Integrity) of what is served.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, SHA384, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};

use super::{json, method_not_allowed};
use crate::upstream::Body;

/// The module.
pub const SOURCE: &str = include_str!("../../../web/session/session.js");

/// The version of the module, which is that of the gate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What `integrity` attributes hold.
pub static INTEGRITY: LazyLock<String> =
    LazyLock::new(|| format!("sha384-{}", STANDARD.encode(digest(&SHA384, SOURCE.as_bytes()))));

static FIELDS: LazyLock<HeaderMap> = LazyLock::new(|| {
    let hash = STANDARD.encode(digest(&SHA256, SOURCE.as_bytes()));
    let value = |text: String| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("-"));
    HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8")),
        (header::ETAG, value(format!("\"{hash}\""))),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        // Modules are always fetched by the CORS protocol, and this one is no secret.
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        (header::HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin")),
        // RFC 9530 §3
        (header::HeaderName::from_static("repr-digest"), value(format!("sha-256=:{hash}:"))),
    ])
});

/// `GET /.portcullis/session.js`
pub(super) fn serve(head: &Parts) -> Response<Body> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return method_not_allowed("GET, HEAD");
    }
    let mut response = Response::new(Bytes::from_static(SOURCE.as_bytes()).into());
    response.headers_mut().clone_from(&FIELDS);
    let pinned = head.uri.query().is_some_and(|query| query.strip_prefix("v=") == Some(VERSION));
    let caching = if pinned { "public, max-age=31536000, immutable" } else { "no-cache" };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    if is_known(&head.headers) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Bytes::new().into();
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    response
}

/// `GET /.portcullis/session.json`
pub(super) fn describe(head: &Parts) -> Response<Body> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return method_not_allowed("GET, HEAD");
    }
    let mut response = json(&serde_json::json!({
        "version": VERSION,
        "url": format!("/.portcullis/session.js?v={VERSION}"),
        "integrity": *INTEGRITY,
    }));
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// Whether the client has it already (RFC 9110 §13.1.2).
fn is_known(fields: &HeaderMap) -> bool {
    let tag = FIELDS.get(header::ETAG).map(HeaderValue::as_bytes).unwrap_or_default();
    let given =
        fields.get_all(header::IF_NONE_MATCH).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    let mut given = given.map(<[u8]>::trim_ascii).map(|each| each.strip_prefix(b"W/").unwrap_or(each));
    given.any(|each| each == tag || each == b"*")
}
