//! Refusals in gRPC's own form: a trailers-only response whose details carry the code.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
#[cfg(feature = "server")]
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

/// Whether the request is a gRPC call (`application/grpc`, `application/grpc+proto`, …).
pub(crate) fn is_call(fields: &HeaderMap) -> bool {
    fields.get(header::CONTENT_TYPE).is_some_and(is_type_of_call)
}

/// Whether that is the type of the content of a gRPC call, or of its answer.
pub(crate) fn is_type_of_call(content_type: &HeaderValue) -> bool {
    content_type
        .as_bytes()
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The status code for an HTTP one (`google.rpc.Code`).
pub(super) const fn code(status: StatusCode) -> u8 {
    match status {
        StatusCode::BAD_REQUEST => 3,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => 4,
        StatusCode::FORBIDDEN => 7,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE => 8,
        StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => 12,
        StatusCode::INTERNAL_SERVER_ERROR => 13,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => 14,
        StatusCode::UNAUTHORIZED => 16,
        _ => 2,
    }
}

/// The fields of a trailers-only response: `grpc-status`, `grpc-message`, and a `google.rpc.Status` with an
/// `ErrorInfo { reason: code, domain: "portcullis" }` in `grpc-status-details-bin`.
pub(super) fn fields(status: StatusCode, reason: &'static str) -> HeaderMap {
    let info = [length_delimited(1, reason.as_bytes()), length_delimited(2, b"portcullis")].concat();
    let any = [length_delimited(1, b"type.googleapis.com/google.rpc.ErrorInfo"), length_delimited(2, &info)].concat();
    let details =
        [vec![0x08, code(status)], length_delimited(2, reason.as_bytes()), length_delimited(3, &any)].concat();
    let mut fields = HeaderMap::new();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    fields.insert("grpc-status", HeaderValue::from(u16::from(code(status))));
    fields.insert("grpc-message", HeaderValue::from_static(reason));
    if let Ok(details) = HeaderValue::try_from(STANDARD_NO_PAD.encode(details)) {
        fields.insert("grpc-status-details-bin", details);
    }
    fields
}

/// Makes a problem of the gate's own what a gRPC call is told of it. Other responses stay as they are.
#[cfg(feature = "server")]
pub(crate) fn translate<B: From<Bytes>>(response: &mut http::Response<B>) {
    let Some(super::problem::Code(code)) = response.extensions().get() else { return };
    let mut told = fields(response.status(), code);
    if let Some(later) = response.headers_mut().remove(header::RETRY_AFTER) {
        told.insert(header::RETRY_AFTER, later);
    }
    *response.headers_mut() = told;
    *response.status_mut() = StatusCode::OK;
    *response.body_mut() = Bytes::new().into();
}

/// A length-delimited field of the protocol buffers wire format. Short enough for a one-byte length, as all of ours are.
fn length_delimited(field: u8, value: &[u8]) -> Vec<u8> {
    debug_assert!(value.len() < 128);
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    let mut bytes = vec![field << 3 | 2, value.len() as u8];
    bytes.extend_from_slice(value);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_by_their_content_type() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("text/html", false),
        ] {
            let fields = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
            assert_eq!(is_call(&fields), expected, "{content_type}");
        }
    }

    #[test]
    fn details_hold_the_code() {
        let fields = fields(StatusCode::UNAUTHORIZED, "logged_out");
        assert_eq!(fields["grpc-status"], "16");
        let details = STANDARD_NO_PAD.decode(&fields["grpc-status-details-bin"]).unwrap();
        let expected = b"\x08\x10\x12\x0alogged_out\x1aD\x0a(type.googleapis.com/google.rpc.ErrorInfo\x12\x18\x0a\x0alogged_out\x12\x0aportcullis";
        assert_eq!(details, expected, "{:?}", String::from_utf8_lossy(&details));
    }
}
