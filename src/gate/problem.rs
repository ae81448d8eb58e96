//! The gate's own refusals that are no verdicts, as problem bodies (RFC 9457).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::grpc;

/// The code of a problem: an extension of its response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code(pub &'static str);

/// A problem with a stable `code`. Nothing in it comes from the request.
#[must_use]
pub fn response<B: From<Bytes>>(status: StatusCode, code: &'static str, detail: &'static str) -> Response<B> {
    let mut response = Response::new(body(status, code, detail).into());
    *response.status_mut() = status;
    response.extensions_mut().insert(Code(code));
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether a request with this header is a gRPC call.
#[must_use]
pub fn is_grpc_call(request: &HeaderMap) -> bool {
    grpc::is_call(request)
}

/// The same for a gRPC call, which is answered in its own form, or for any other request.
#[must_use]
pub fn refusal<B: From<Bytes>>(
    is_grpc_call: bool,
    status: StatusCode,
    code: &'static str,
    detail: &'static str,
) -> Response<B> {
    if !is_grpc_call {
        return response(status, code, detail);
    }
    let mut response = Response::new(Bytes::new().into());
    *response.headers_mut() = grpc::fields(status, code);
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
