//! The one form of a request that everything after goes by: one authority, one spelling of the path, one framing.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, uri::PathAndQuery};

use crate::{
    gate::problem,
    route::path::{self, PathFault},
    upstream::Body,
};

/// Why a request is not served, whoever sent it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unserved {
    /// `CONNECT`, and `TRACE`, which would tell secrets back.
    Method,
    /// More header fields than are taken.
    TooManyFields,
    /// An expectation that nobody knows.
    Expectation,
    /// A body whose coding would have to be passed on.
    TransferCoding,
    /// No host, several, or something that is none.
    Host,
    /// A path that can be read in more than one way.
    Path(PathFault),
    /// A path that is none.
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

/// Brings a request into its form. `max_headers`: the most header fields, where crumbs of a cookie count as one.
pub(super) fn normalise<B>(request: &mut Request<B>, max_headers: usize) -> Result<(), Unserved> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Unserved::Method);
    }
    check_size(request, max_headers)?;
    check_expectation(request)?;
    check_coding(request)?;
    one_authority(request)?;
    one_path(request)?;
    count_forwards(request)
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

fn check_expectation<B>(request: &Request<B>) -> Result<(), Unserved> {
    match request.headers().get(header::EXPECT) {
        Some(expectation) if !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(Unserved::Expectation)
        }
        _ => Ok(()),
    }
}

/// `chunked` is taken off here. Any other coding would stay on the body, and the upstream would not know (RFC 9112 §6.1).
fn check_coding<B>(request: &Request<B>) -> Result<(), Unserved> {
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    if codings.all(is_chunked) { Ok(()) } else { Err(Unserved::TransferCoding) }
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
        (None, None, Some(authority)) if is_authority(authority.as_str().as_bytes()) => {
            let host = HeaderValue::try_from(authority.as_str()).map_err(|_| Unserved::Host)?;
            request.headers_mut().insert(header::HOST, host);
            Ok(())
        }
        (None, None, None) if request.version() == Version::HTTP_10 => Ok(()),
        _ => Err(Unserved::Host),
    }
}

/// Whether it looks like a host with an optional port: no user information, no path, no list.
fn is_authority(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(byte))
}

/// The path in canonical form; the query as it is.
fn one_path<B>(request: &mut Request<B>) -> Result<(), Unserved> {
    let uri = request.uri();
    if uri.path() == "*" && request.method() == Method::OPTIONS {
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
