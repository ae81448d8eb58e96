//! The header of a response as bytes (RFC 9112 §4).

use http::{HeaderMap, Response, StatusCode, Version, header};
use http_body::Body;
use hyper::ext::ReasonPhrase;

use crate::{
    http1::{
        content::Framing,
        encode::{field, length},
        lists,
    },
    server::date,
};

/// What a response goes by that is not in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    /// Whether the request was a `HEAD`.
    pub(super) is_head: bool,
    /// The version of the request: one of HTTP/1.0 is answered likewise, for clients that go by it.
    pub(super) version: Version,
    /// Whether the client means to send another request.
    pub(super) persistent: bool,
    /// Whether the client takes trailers.
    pub(super) takes_trailers: bool,
}

/// How the content of a response is framed (RFC 9112 §6.3).
pub(super) fn framing<B: Body>(response: &Response<B>, exchange: Exchange) -> Framing {
    if exchange.is_head || is_bodiless(response.status()) || response.body().is_end_stream() {
        return Framing::Empty;
    }
    let told = || response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
    match response.body().size_hint().exact().or_else(told) {
        Some(length) => Framing::Length(length),
        None if exchange.version == Version::HTTP_10 => Framing::Close,
        None => Framing::Chunked,
    }
}

/// Writes the header. `framing` alone says how the content is framed, and `exchange` whether the connection goes on, whatever the fields
/// say.
pub(super) fn head<B: Body>(out: &mut Vec<u8>, response: &Response<B>, framing: Framing, exchange: Exchange) {
    let Exchange { is_head, version, persistent, .. } = exchange;
    let status = response.status();
    status_line(out, version, status, response.extensions().get::<ReasonPhrase>());
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    let mut is_dated = false;
    for (name, value) in response.headers() {
        match *name {
            header::CONTENT_LENGTH if !is_head || is_bodiless(status) => continue,
            header::TRANSFER_ENCODING => continue,
            header::CONNECTION if !switches => continue,
            header::DATE => is_dated = true,
            _ => {}
        }
        field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    match framing {
        Framing::Empty if is_head => {
            // As long as it would be, where that is known (RFC 9110 §9.3.2).
            let hint = response.body().size_hint().exact().filter(|length| *length > 0);
            if let Some(hint) = hint.filter(|_| !response.headers().contains_key(header::CONTENT_LENGTH)) {
                length(out, hint);
            }
        }
        Framing::Empty if is_bodiless(status) => {}
        Framing::Empty => length(out, 0),
        Framing::Length(left) => length(out, left),
        Framing::Chunked => field(out, b"transfer-encoding", b"chunked"),
        Framing::Close => {}
    }
    match (persistent, version) {
        _ if switches => {}
        (false, _) => field(out, b"connection", b"close"),
        (true, Version::HTTP_10) => field(out, b"connection", b"keep-alive"),
        (true, _) => {}
    }
    if !is_dated {
        date::with(|value| field(out, b"date", value));
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes an interim response (RFC 9110 §15.2).
pub(super) fn interim(out: &mut Vec<u8>, response: &Response<()>) {
    status_line(out, Version::HTTP_11, response.status(), None);
    for (name, value) in response.headers() {
        field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a response with this status never has content (RFC 9110 §6.4.1).
pub(super) fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Whether the response ends the connection by itself.
pub(super) fn closes(fields: &HeaderMap) -> bool {
    fields.get_all(header::CONNECTION).iter().any(|value| lists(value.as_bytes(), b"close"))
}

fn status_line(out: &mut Vec<u8>, version: Version, status: StatusCode, reason: Option<&ReasonPhrase>) {
    if status == StatusCode::OK && version == Version::HTTP_11 && reason.is_none() {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    let usual = || status.canonical_reason().unwrap_or_default().as_bytes();
    out.extend_from_slice(reason.map_or_else(usual, |reason| reason.as_bytes()));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interim_response_has_its_fields_and_no_others() {
        let (mut out, mut hint) = (Vec::new(), Response::new(()));
        *hint.status_mut() = StatusCode::EARLY_HINTS;
        hint.headers_mut().insert(header::LINK, http::HeaderValue::from_static("</style.css>"));
        interim(&mut out, &hint);
        assert_eq!(out, b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n");
    }
}
