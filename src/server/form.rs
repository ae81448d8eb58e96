//! The one form of a request that everything after goes by: one authority, one spelling of the path, one framing.

use std::{borrow::Cow, net::Ipv6Addr};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
    uri::{PathAndQuery, Scheme},
};
use memchr::memchr;

use crate::{
    gate::problem,
    route::path::{self, PathFault},
    upstream::Body,
};

/// Why a request is not served, whoever sent it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unserved {
    /// `CONNECT`, `TRACE`, which would tell secrets back, and what some servers would take for another method.
    Method,
    /// More header fields than are taken.
    TooManyFields,
    /// An expectation that nobody knows.
    Expectation,
    /// A body whose coding would have to be passed on.
    TransferCoding,
    /// No host, several, or something that is none.
    Host,
    /// A field that some servers would take for another, or read otherwise.
    Field,
    /// A path that can be read in more than one way.
    Path(PathFault),
    /// A path that is none, or a scheme that is not HTTP's.
    Target,
    /// It has been forwarded as often as it may be.
    LastForward,
}

impl Unserved {
    /// The response that says so.
    pub(super) fn answer(self) -> Response<Body> {
        let (status, code, detail) = match self {
            Self::Method => (StatusCode::NOT_IMPLEMENTED, "method", "This method is not served."),
            Self::TooManyFields => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "too_many_fields",
                "The request has too many header fields.",
            ),
            Self::Expectation => (StatusCode::EXPECTATION_FAILED, "expectation", "This expectation cannot be met."),
            Self::TransferCoding => {
                (StatusCode::NOT_IMPLEMENTED, "transfer_coding", "No transfer coding but chunked is served.")
            }
            Self::Host => (StatusCode::BAD_REQUEST, "invalid_host", "The request names no host, or several."),
            Self::Field => {
                (StatusCode::BAD_REQUEST, "invalid_field", "A header field can be read in more than one way.")
            }
            Self::Path(fault) => {
                tracing::debug!(fault = %fault, "path refused");
                (StatusCode::BAD_REQUEST, "invalid_path", "The path can be read in more than one way.")
            }
            Self::Target => (StatusCode::BAD_REQUEST, "invalid_path", "The path is not valid."),
            Self::LastForward => {
                let mut response = Response::new(Bytes::new().into());
                *response.status_mut() = StatusCode::NO_CONTENT;
                return response;
            }
        };
        problem::response(status, code, detail)
    }
}

/// The content of a request has begun to come, whatever its client said it would wait for: an extension of the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentAhead;

/// Brings a request into its form. `max_headers`: the most header fields, where crumbs of a cookie count as one.
pub(super) fn normalise<B>(request: &mut Request<B>, max_headers: usize) -> Result<(), Unserved> {
    check_method(request.method())?;
    check_size(request, max_headers)?;
    let present = Present::of(request.headers())?;
    check_fields(request, present)?;
    if present.expect {
        one_expectation(request)?;
    }
    if present.transfer_encoding {
        check_coding(request)?;
    }
    one_authority(request)?;
    one_path(request)?;
    count_forwards(request)
}

/// Methods are told apart by case (RFC 9110 §9.1), but not by every server: `trace` is served as nothing, and never as `TRACE`.
fn check_method(method: &Method) -> Result<(), Unserved> {
    static KNOWN: [Method; 7] =
        [Method::GET, Method::POST, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::PATCH];
    static REFUSED: [Method; 2] = [Method::CONNECT, Method::TRACE];
    let alike = |known: &Method| method.as_str().eq_ignore_ascii_case(known.as_str());
    if KNOWN.contains(method) || !KNOWN.iter().chain(&REFUSED).any(alike) { Ok(()) } else { Err(Unserved::Method) }
}

/// HTTP/2 limits the size of a header by itself, and HTTP/1.1 the number of fields too.
fn check_size<B>(request: &Request<B>, max_headers: usize) -> Result<(), Unserved> {
    let fields = request.headers();
    if fields.len() <= max_headers {
        return Ok(());
    }
    let crumbs = fields.get_all(header::COOKIE).iter().count();
    if fields.len() - crumbs.saturating_sub(1) <= max_headers { Ok(()) } else { Err(Unserved::TooManyFields) }
}

/// Which of the fields a request has that are looked at more closely. Most requests have none of them, and one look at each name takes
/// less than a search for each of them.
#[derive(Clone, Copy, Default, Debug)]
struct Present {
    connection: bool,
    expect: bool,
    transfer_encoding: bool,
}

impl Present {
    /// What servers may take for the length or the coding of content, and is neither, is refused: where it ends must not depend on who reads
    /// it.
    fn of(fields: &HeaderMap) -> Result<Self, Unserved> {
        let mut present = Self::default();
        for name in fields.keys() {
            match name.as_str() {
                "connection" => present.connection = true,
                "expect" => present.expect = true,
                "transfer-encoding" => present.transfer_encoding = true,
                name if is_twin(name, "content-length") || is_twin(name, "transfer-encoding") => {
                    return Err(Unserved::Field);
                }
                _ => {}
            }
        }
        Ok(present)
    }
}

/// Whether a name is another one, and the same to servers that hand fields on as variables: they see `Content-Length` and
/// `content_length` as one.
fn is_twin(name: &str, of: &str) -> bool {
    let folded = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    name.len() == of.len() && name != of && name.bytes().map(folded).eq(of.bytes())
}

/// White space around a value is none of it, but in HTTP/2 nobody takes it off on the way (RFC 9113 §8.2.1).
fn check_fields<B>(request: &Request<B>, present: Present) -> Result<(), Unserved> {
    let fields = request.headers();
    let is_trimmed = |value: &HeaderValue| value.as_bytes().trim_ascii().len() == value.len();
    let is_http2 = request.version() == Version::HTTP_2;
    if is_http2 && !(fields.values().all(is_trimmed) && has_one_length(fields))
        || present.connection && fields.get_all(header::CONNECTION).iter().any(is_end_to_end)
    {
        return Err(Unserved::Field);
    }
    Ok(())
}

/// Whether there is one `Content-Length` at most, and written in the one way that nobody misreads.
fn has_one_length(fields: &HeaderMap) -> bool {
    let mut lengths = fields.get_all(header::CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let is_plain =
        |digits: &[u8]| digits.iter().all(u8::is_ascii_digit) && (digits == b"0" || !digits.starts_with(b"0"));
    lengths.next().is_none_or(is_plain) && lengths.next().is_none()
}

/// Whether `Connection` lists a field that says where the request goes or ends (RFC 9110 §7.6.1).
fn is_end_to_end(connection: &HeaderValue) -> bool {
    static NEEDED: [HeaderName; 2] = [header::HOST, header::CONTENT_LENGTH];
    // Nearly every request says just this.
    if connection == "keep-alive" || connection == "close" {
        return false;
    }
    let is_needed = |listed: &[u8]| NEEDED.iter().any(|name| name.as_str().as_bytes().eq_ignore_ascii_case(listed));
    connection.as_bytes().split(|&byte| byte == b',').any(|listed| is_needed(listed.trim_ascii()))
}

/// One expectation is known, and whoever does not wait for its fulfilment has none (RFC 9110 §10.1.1).
fn one_expectation<B>(request: &mut Request<B>) -> Result<(), Unserved> {
    let mut expectations = request.headers().get_all(header::EXPECT).iter();
    let known = |expectation: &HeaderValue| expectation.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if !(expectations.next().is_none_or(known) && expectations.next().is_none()) {
        return Err(Unserved::Expectation);
    }
    if request.extensions_mut().remove::<SentAhead>().is_some() {
        request.headers_mut().remove(header::EXPECT);
    }
    Ok(())
}

/// `chunked` is taken off here. Any other coding would stay on the body, and the upstream would not know (RFC 9112 §6.1).
fn check_coding<B>(request: &Request<B>) -> Result<(), Unserved> {
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_none_or(is_chunked) && codings.next().is_none() {
        Ok(())
    } else {
        Err(Unserved::TransferCoding)
    }
}

/// HTTP/1.1: exactly one `Host`, the same as in an absolute target (RFC 9112 §3.2). HTTP/2: `:authority`, or `Host`, not two
/// that differ (RFC 9113 §8.3.1). Either becomes `Host`.
fn one_authority<B>(request: &mut Request<B>) -> Result<(), Unserved> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    match (host, second, request.uri().authority()) {
        (Some(host), None, None) if is_authority(host.as_bytes()) => Ok(()),
        (Some(host), None, Some(authority))
            if is_authority(host.as_bytes()) && host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            Ok(())
        }
        (None, None, Some(authority))
            if request.version() != Version::HTTP_11 && is_authority(authority.as_str().as_bytes()) =>
        {
            let host = HeaderValue::try_from(authority.as_str()).map_err(|_| Unserved::Host)?;
            request.headers_mut().insert(header::HOST, host);
            Ok(())
        }
        (None, None, None) if request.version() == Version::HTTP_10 => Ok(()),
        _ => Err(Unserved::Host),
    }
}

/// Whether it is a host with an optional port (RFC 3986 §3.2): no user information, no list, and nothing but a name of letters, digits,
/// `-`, `.`, `_` and `~`, or an address.
fn is_authority(text: &[u8]) -> bool {
    if let Some(literal) = text.strip_prefix(b"[") {
        let Some(end) = memchr(b']', literal) else { return false };
        let is_address = str::from_utf8(&literal[..end]).is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok());
        return is_address && may_be_port(&literal[end + 1..]);
    }
    let (name, port) = text.split_at(memchr(b':', text).unwrap_or(text.len()));
    is_name(name) && may_be_port(port)
}

/// Labels that are not empty, and perhaps a dot at the end.
fn is_name(name: &[u8]) -> bool {
    let mut after_dot = true;
    let is_plain = name.iter().all(|&byte| {
        let is_empty = after_dot && byte == b'.';
        after_dot = byte == b'.';
        !is_empty && (byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'))
    });
    is_plain && !name.is_empty()
}

/// Whether it is nothing, or a port behind its colon.
fn may_be_port(text: &[u8]) -> bool {
    text.is_empty() || text.strip_prefix(b":").is_some_and(is_port)
}

fn is_port(port: &[u8]) -> bool {
    let digit = |number: u32, byte: &u8| byte.is_ascii_digit().then(|| 10 * number + u32::from(byte - b'0'));
    (1..=5).contains(&port.len())
        && port[0] != b'0'
        && port.iter().try_fold(0, digit).is_some_and(|port| u16::try_from(port).is_ok())
}

/// The path in canonical form; the query as it is.
fn one_path<B>(request: &mut Request<B>) -> Result<(), Unserved> {
    let uri = request.uri();
    if uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return Err(Unserved::Target);
    }
    if path::is_plain(uri.path()) || uri.path() == "*" && request.method() == Method::OPTIONS {
        return Ok(());
    }
    let canonical = match path::canonicalise(uri.path()).map_err(Unserved::Path)? {
        Cow::Borrowed(_) => return Ok(()),
        Cow::Owned(canonical) => canonical,
    };
    let target = match uri.query() {
        Some(query) => format!("{canonical}?{query}"),
        None => canonical,
    };
    *request.uri_mut() = PathAndQuery::try_from(target).map(Uri::from).map_err(|_| Unserved::Target)?;
    Ok(())
}

/// `Max-Forwards` of an `OPTIONS` request: the gate is one of those that forward it (RFC 9110 §7.6.2).
fn count_forwards<B>(request: &mut Request<B>) -> Result<(), Unserved> {
    if request.method() != Method::OPTIONS {
        return Ok(());
    }
    let left = request.headers().get(header::MAX_FORWARDS).and_then(|left| left.to_str().ok());
    let Some(left) = left.and_then(|left| left.parse::<u32>().ok()) else { return Ok(()) };
    let less = left.checked_sub(1).ok_or(Unserved::LastForward)?;
    request.headers_mut().insert(header::MAX_FORWARDS, HeaderValue::from(less));
    Ok(())
}
