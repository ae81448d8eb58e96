//! A request as bytes (RFC 9112 §3, §7.1).

use std::io::Write as _;

use http::{HeaderMap, Method, Request, header};

/// How the end of a request's body is marked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    /// There is none.
    Empty,
    /// So many bytes are still to come.
    Length(u64),
    /// Chunks.
    Chunked,
}

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
        Framing::Empty => {}
        Framing::Length(length) => {
            // Writing to memory does not fail.
            let _ = write!(out, "content-length: {length}\r\n");
        }
        Framing::Chunked => field(out, b"transfer-encoding", b"chunked"),
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether an empty body is one whose length has to be said (RFC 9110 §8.6).
fn says_it_is_empty<B>(request: &Request<B>) -> bool {
    matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH)
        || request.headers().contains_key(header::CONTENT_LENGTH)
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// What comes before the data of a chunk. A chunk of no bytes would be the last one.
pub(super) fn chunk_size(out: &mut Vec<u8>, size: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..digits).rev().map(|digit| DIGITS[size >> (4 * digit) & 15]));
    out.extend_from_slice(b"\r\n");
}

/// The last chunk with trailers after it.
pub(super) fn trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}
