//! The gate's own refusals that are no verdicts, as problem bodies (RFC 9457).

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

/// A problem with a stable `code`. Nothing in it comes from the request.
#[must_use]
pub fn response<B: From<Bytes>>(status: StatusCode, code: &'static str, detail: &'static str) -> Response<B> {
    let mut response = Response::new(body(status, code, detail).into());
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Its body alone.
#[must_use]
pub fn body(status: StatusCode, code: &'static str, detail: &'static str) -> Bytes {
    let body = serde_json::json!({
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "code": code,
        "detail": detail,
    });
    body.to_string().into()
}
