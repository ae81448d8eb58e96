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
    let mut says_length = false;
    for (name, value) in request.headers() {
        match *name {
            header::CONTENT_LENGTH => says_length = true,
            header::TRANSFER_ENCODING => {}
            _ => field(out, name.as_str().as_bytes(), value.as_bytes()),
        }
    }
    match framing {
        // An empty body whose length has to be said (RFC 9110 §8.6).
        Framing::Empty if says_length || matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) => {
            field(out, b"content-length", b"0");
        }
        Framing::Length(left) => length(out, left),
        Framing::Chunked => field(out, b"transfer-encoding", b"chunked"),
        // A request's content never ends with the connection.
        Framing::Empty | Framing::Close => {}
    }
    out.extend_from_slice(b"\r\n");
}
