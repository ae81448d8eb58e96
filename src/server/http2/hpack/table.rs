//! The fields that have a number: those of the standard, and those that a client has named before (RFC 7541 §2.3).

use std::collections::VecDeque;

use bytes::Bytes;
use http::{HeaderName, StatusCode, header};

use super::Unreadable;

/// How large the table of a client may be: what it is unless the gate says otherwise (RFC 9113 §6.5.2), in bytes.
const LARGEST: usize = 4096;

/// What an entry takes beside its text (RFC 7541 §4.1), in bytes.
const OVERHEAD: usize = 32;

/// The number of `:status`.
pub(super) const STATUS: usize = 8;

/// A pseudo-header field (RFC 9113 §8.3, RFC 8441 §4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Pseudo {
    Authority,
    Method,
    Path,
    Protocol,
    Scheme,
    Status,
}

impl Pseudo {
    const fn len(self) -> usize {
        match self {
            Self::Authority => ":authority".len(),
            Self::Method | Self::Scheme | Self::Status => ":method".len(),
            Self::Path => ":path".len(),
            Self::Protocol => ":protocol".len(),
        }
    }
}

/// What a field is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in super::super) enum Name {
    Pseudo(Pseudo),
    Regular(HeaderName),
    /// Something that no field may be called (RFC 9113 §8.2.1), and how long that is, in bytes.
    Malformed(usize),
}

impl Name {
    fn len(&self) -> usize {
        match self {
            Self::Pseudo(pseudo) => pseudo.len(),
            Self::Regular(name) => name.as_str().len(),
            Self::Malformed(length) => *length,
        }
    }
}

impl From<Bytes> for Name {
    fn from(name: Bytes) -> Self {
        match &name[..] {
            b":authority" => Self::Pseudo(Pseudo::Authority),
            b":method" => Self::Pseudo(Pseudo::Method),
            b":path" => Self::Pseudo(Pseudo::Path),
            b":protocol" => Self::Pseudo(Pseudo::Protocol),
            b":scheme" => Self::Pseudo(Pseudo::Scheme),
            b":status" => Self::Pseudo(Pseudo::Status),
            name => HeaderName::from_lowercase(name).map_or(Self::Malformed(name.len()), Self::Regular),
        }
    }
}

/// A field of a block.
#[derive(Clone, Debug)]
pub(in super::super) struct Field {
    pub(in super::super) name: Name,
    pub(in super::super) value: Bytes,
    /// Whether nobody on the way may put it into a table (RFC 7541 §7.1.3).
    pub(in super::super) is_sensitive: bool,
    /// What it counts for, in bytes (RFC 7541 §4.1, RFC 9113 §6.5.2).
    pub(in super::super) size: usize,
}

impl Field {
    pub(super) fn new(name: Name, value: Bytes) -> Self {
        let size = name.len() + value.len() + OVERHEAD;
        Self { name, value, is_sensitive: false, size }
    }
}

/// The table of a client, and before it that of the standard.
#[derive(Debug)]
pub(super) struct Table {
    /// The newest first.
    entries: VecDeque<Field>,
    size: usize,
    /// How large it may be, as its client has it.
    limit: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, limit: LARGEST }
    }
}

impl Table {
    /// The field with this number.
    pub(super) fn get(&self, index: usize) -> Option<&Field> {
        let index = index.checked_sub(1)?;
        STANDARD.get(index).or_else(|| self.entries.get(index - STANDARD.len()))
    }

    /// Makes room, and puts a field in front of all others. One that is too large empties the table (RFC 7541 §4.4).
    pub(super) fn insert(&mut self, field: Field) {
        self.evict(self.limit.saturating_sub(field.size));
        if field.size <= self.limit {
            self.size += field.size;
            self.entries.push_front(field);
        }
    }

    /// Sets how large it may be.
    ///
    /// # Errors
    /// It is more than the gate has allowed.
    pub(super) fn resize(&mut self, limit: usize) -> Result<(), Unreadable> {
        if limit > LARGEST {
            return Err(Unreadable);
        }
        self.limit = limit;
        self.evict(limit);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        assert_eq!(self.size, self.entries.iter().map(|field| field.size).sum::<usize>());
        self.size
    }

    fn evict(&mut self, most: usize) {
        while self.size > most
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size;
        }
    }
}

/// The table of the standard (RFC 7541, appendix A).
static STANDARD: [Field; 61] = [
    pseudo(Pseudo::Authority, ""),
    pseudo(Pseudo::Method, "GET"),
    pseudo(Pseudo::Method, "POST"),
    pseudo(Pseudo::Path, "/"),
    pseudo(Pseudo::Path, "/index.html"),
    pseudo(Pseudo::Scheme, "http"),
    pseudo(Pseudo::Scheme, "https"),
    pseudo(Pseudo::Status, "200"),
    pseudo(Pseudo::Status, "204"),
    pseudo(Pseudo::Status, "206"),
    pseudo(Pseudo::Status, "304"),
    pseudo(Pseudo::Status, "400"),
    pseudo(Pseudo::Status, "404"),
    pseudo(Pseudo::Status, "500"),
    regular(header::ACCEPT_CHARSET, "accept-charset", ""),
    regular(header::ACCEPT_ENCODING, "accept-encoding", "gzip, deflate"),
    regular(header::ACCEPT_LANGUAGE, "accept-language", ""),
    regular(header::ACCEPT_RANGES, "accept-ranges", ""),
    regular(header::ACCEPT, "accept", ""),
    regular(header::ACCESS_CONTROL_ALLOW_ORIGIN, "access-control-allow-origin", ""),
    regular(header::AGE, "age", ""),
    regular(header::ALLOW, "allow", ""),
    regular(header::AUTHORIZATION, "authorization", ""),
    regular(header::CACHE_CONTROL, "cache-control", ""),
    regular(header::CONTENT_DISPOSITION, "content-disposition", ""),
    regular(header::CONTENT_ENCODING, "content-encoding", ""),
    regular(header::CONTENT_LANGUAGE, "content-language", ""),
    regular(header::CONTENT_LENGTH, "content-length", ""),
    regular(header::CONTENT_LOCATION, "content-location", ""),
    regular(header::CONTENT_RANGE, "content-range", ""),
    regular(header::CONTENT_TYPE, "content-type", ""),
    regular(header::COOKIE, "cookie", ""),
    regular(header::DATE, "date", ""),
    regular(header::ETAG, "etag", ""),
    regular(header::EXPECT, "expect", ""),
    regular(header::EXPIRES, "expires", ""),
    regular(header::FROM, "from", ""),
    regular(header::HOST, "host", ""),
    regular(header::IF_MATCH, "if-match", ""),
    regular(header::IF_MODIFIED_SINCE, "if-modified-since", ""),
    regular(header::IF_NONE_MATCH, "if-none-match", ""),
    regular(header::IF_RANGE, "if-range", ""),
    regular(header::IF_UNMODIFIED_SINCE, "if-unmodified-since", ""),
    regular(header::LAST_MODIFIED, "last-modified", ""),
    regular(header::LINK, "link", ""),
    regular(header::LOCATION, "location", ""),
    regular(header::MAX_FORWARDS, "max-forwards", ""),
    regular(header::PROXY_AUTHENTICATE, "proxy-authenticate", ""),
    regular(header::PROXY_AUTHORIZATION, "proxy-authorization", ""),
    regular(header::RANGE, "range", ""),
    regular(header::REFERER, "referer", ""),
    regular(header::REFRESH, "refresh", ""),
    regular(header::RETRY_AFTER, "retry-after", ""),
    regular(header::SERVER, "server", ""),
    regular(header::SET_COOKIE, "set-cookie", ""),
    regular(header::STRICT_TRANSPORT_SECURITY, "strict-transport-security", ""),
    regular(header::TRANSFER_ENCODING, "transfer-encoding", ""),
    regular(header::USER_AGENT, "user-agent", ""),
    regular(header::VARY, "vary", ""),
    regular(header::VIA, "via", ""),
    regular(header::WWW_AUTHENTICATE, "www-authenticate", ""),
];

const fn pseudo(name: Pseudo, value: &'static str) -> Field {
    let size = name.len() + value.len() + OVERHEAD;
    Field { name: Name::Pseudo(name), value: Bytes::from_static(value.as_bytes()), is_sensitive: false, size }
}

const fn regular(name: HeaderName, text: &str, value: &'static str) -> Field {
    let size = text.len() + value.len() + OVERHEAD;
    Field { name: Name::Regular(name), value: Bytes::from_static(value.as_bytes()), is_sensitive: false, size }
}

/// The first number of a regular field.
const REGULAR: usize = 15;

/// The names of its regular fields, in the same order.
const NAMES: [&str; 47] = [
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];

/// Their places, by a sum of some of their bytes; a place that is taken has its successor stand for it.
static PLACES: [u8; 256] = places();

#[expect(clippy::cast_possible_truncation, reason = "fewer than 256")]
const fn places() -> [u8; 256] {
    let mut places = [0; 256];
    let mut number = 0;
    while number < NAMES.len() {
        let mut place = place(NAMES[number].as_bytes());
        while places[place as usize] != 0 {
            place = place.wrapping_add(1);
        }
        places[place as usize] = (REGULAR + number) as u8;
        number += 1;
    }
    places
}

#[expect(clippy::cast_possible_truncation, reason = "any byte will do")]
const fn place(name: &[u8]) -> u8 {
    match name {
        [first, .., last] => first.wrapping_mul(5).wrapping_add(last.wrapping_mul(11)).wrapping_add(name.len() as u8),
        _ => 0,
    }
}

/// The number of a name.
pub(super) fn of_name(name: &HeaderName) -> Option<usize> {
    let name = name.as_str();
    let mut place = place(name.as_bytes());
    loop {
        let number = usize::from(PLACES[usize::from(place)]);
        if NAMES.get(number.checked_sub(REGULAR)?) == Some(&name) {
            return Some(number);
        }
        place = place.wrapping_add(1);
    }
}

/// The number of a status with its name.
pub(super) fn of_status(status: StatusCode) -> Option<u8> {
    match status.as_u16() {
        200 => Some(8),
        204 => Some(9),
        206 => Some(10),
        304 => Some(11),
        400 => Some(12),
        404 => Some(13),
        500 => Some(14),
        _ => None,
    }
}
