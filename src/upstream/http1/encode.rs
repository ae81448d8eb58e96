//! The header of a request as bytes (RFC 9112 §3).

use http::{Method, Request, header};

use crate::http1::{
    content::Framing,
    encode::{field, length},
};

/// Writes the header. Names are in lower case; `framing` alone says how the body is framed, whatever the fields do.
pub(super) fn head<B>(out: &mut Vec<u8>, request: &Request<B>, framing: Framing) {
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.uri().path().as_bytes());
    if let Some(query) = request.uri().query() {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in request.headers() {
        if *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING {
            field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    match framing {
        Framing::Empty if says_it_is_empty(request) => field(out, b"content-length", b"0"),
        Framing::Length(left) => length(out, left),
        Framing::Chunked => field(out, b"transfer-encoding", b"chunked"),
        // A request's content never ends with the connection.
        Framing::Empty | Framing::Close => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether an empty body is one whose length has to be said (RFC 9110 §8.6).
fn says_it_is_empty<B>(request: &Request<B>) -> bool {
    matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH)
        || request.headers().contains_key(header::CONTENT_LENGTH)
}
