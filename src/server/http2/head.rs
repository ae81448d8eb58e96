//! The header of a request, out of the fields of a block (RFC 9113 §8.3).

use bytes::Bytes;
use h2::ext::Protocol;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header, uri};

use super::hpack::{Field, Name, Pseudo};
use crate::{http1::spare, incoming::Incoming};

/// How many fields there is room for at first.
const USUAL_FIELDS: usize = 12;

/// Something that has no meaning (RFC 9113 §8.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

/// The fields of a block, as they come.
#[derive(Debug)]
pub(super) struct Fields {
    authority: Option<Bytes>,
    method: Option<Bytes>,
    path: Option<Bytes>,
    protocol: Option<Bytes>,
    scheme: Option<Bytes>,
    map: HeaderMap,
    is_malformed: bool,
    /// Whether there may be pseudo-headers (RFC 9113 §8.1: not in trailers).
    takes_pseudo: bool,
    /// How much more there may be, in bytes (RFC 9113 §6.5.2); `None`: there was more.
    left: Option<usize>,
}

impl Fields {
    /// Of the header of a request, `most` bytes of them.
    pub(super) fn of_request(most: usize) -> Self {
        Self::new(most, true)
    }

    /// Of trailers.
    pub(super) fn of_trailers(most: usize) -> Self {
        Self::new(most, false)
    }

    fn new(most: usize, takes_pseudo: bool) -> Self {
        let (authority, method, path, protocol, scheme) = (None, None, None, None, None);
        let map = if takes_pseudo { spare::take(USUAL_FIELDS) } else { HeaderMap::new() };
        let left = Some(most);
        Self { authority, method, path, protocol, scheme, map, is_malformed: false, takes_pseudo, left }
    }

    /// Whether there is more than is taken; what there is of it is not kept.
    pub(super) const fn is_too_large(&self) -> bool {
        self.left.is_none()
    }

    /// Takes the next field.
    pub(super) fn take(&mut self, field: Field) {
        self.left = self.left.and_then(|left| left.checked_sub(field.size));
        if self.is_too_large() {
            return;
        }
        let is_right = match field.name {
            Name::Pseudo(pseudo) => self.takes_pseudo && self.map.is_empty() && self.pseudo(pseudo, field.value),
            Name::Regular(name) => self.regular(name, field.value, field.is_sensitive),
            Name::Malformed(_) => false,
        };
        self.is_malformed |= !is_right;
    }

    fn pseudo(&mut self, pseudo: Pseudo, value: Bytes) -> bool {
        let place = match pseudo {
            Pseudo::Authority => &mut self.authority,
            Pseudo::Method => &mut self.method,
            Pseudo::Path => &mut self.path,
            Pseudo::Protocol => &mut self.protocol,
            Pseudo::Scheme => &mut self.scheme,
            Pseudo::Status => return false,
        };
        place.replace(value).is_none()
    }

    /// Those of a connection have no meaning here (RFC 9113 §8.2.2).
    fn regular(&mut self, name: HeaderName, value: Bytes, is_sensitive: bool) -> bool {
        static OF_CONNECTIONS: [HeaderName; 3] = [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];
        if OF_CONNECTIONS.contains(&name)
            || name == "keep-alive"
            || name == "proxy-connection"
            || name == header::TE && value != "trailers"
        {
            return false;
        }
        let Ok(mut value) = HeaderValue::from_maybe_shared(value) else { return false };
        value.set_sensitive(is_sensitive);
        self.map.try_append(name, value).is_ok()
    }

    /// The request.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn into_request(self) -> Result<Box<Request<Incoming>>, Malformed> {
        let method = self.method.as_deref().map(Method::from_bytes);
        let Some(Ok(method)) = method.filter(|_| !self.is_malformed) else { return Err(Malformed) };
        let is_plain_connect = method == Method::CONNECT && self.protocol.is_none();
        if is_plain_connect != self.path.is_none()
            || is_plain_connect != self.scheme.is_none()
            || method != Method::CONNECT && self.protocol.is_some()
        {
            return Err(Malformed);
        }
        let mut request = Box::new(Request::new(Incoming::Empty));
        *request.uri_mut() = target(self.scheme, self.authority, self.path)?;
        if let Some(protocol) = self.protocol {
            let protocol = str::from_utf8(&protocol).map_err(|_| Malformed)?;
            request.extensions_mut().insert(Protocol::from(protocol));
        }
        *request.method_mut() = method;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.map;
        Ok(request)
    }

    /// Trailers.
    ///
    /// # Errors
    /// They are none.
    pub(super) fn into_trailers(self) -> Result<HeaderMap, Malformed> {
        if self.is_malformed { Err(Malformed) } else { Ok(self.map) }
    }
}

/// A target of this scheme, authority and path. The scheme cannot stand for itself, and means nothing then.
fn target(scheme: Option<Bytes>, authority: Option<Bytes>, path: Option<Bytes>) -> Result<Uri, Malformed> {
    let mut parts = uri::Parts::default();
    let scheme = scheme.map(|scheme| uri::Scheme::try_from(&scheme[..])).transpose().map_err(|_| Malformed)?;
    if let Some(authority) = authority {
        parts.authority = Some(uri::Authority::from_maybe_shared(authority).map_err(|_| Malformed)?);
        parts.scheme = scheme;
    }
    if let Some(path) = path {
        if path.is_empty() {
            return Err(Malformed);
        }
        parts.path_and_query = Some(uri::PathAndQuery::from_maybe_shared(path).map_err(|_| Malformed)?);
    }
    Uri::from_parts(parts).map_err(|_| Malformed)
}

/// The length of its content that a header tells (RFC 9110 §8.6), in bytes.
///
/// # Errors
/// It is no length.
pub(super) fn content_length(fields: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let Some(value) = fields.get(header::CONTENT_LENGTH) else { return Ok(None) };
    let digits = value.as_bytes();
    let is_number = (1..20).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let length = str::from_utf8(digits).ok().filter(|_| is_number).and_then(|digits| digits.parse().ok());
    length.map(Some).ok_or(Malformed)
}
