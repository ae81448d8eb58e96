//! The header of a response, and where its body ends (RFC 9112 §4 to §6.3).

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::Malformed;
use crate::http1::{content::Framing, lists, spare};

/// The largest header, in bytes.
const MAX_SIZE: usize = 64 * 1024;

/// The most fields.
const MAX_FIELDS: usize = 256;

/// A header.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) version: Version,
    pub(super) status: StatusCode,
    /// The reason phrase, where it is not the usual one.
    pub(super) reason: Option<ReasonPhrase>,
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    /// Whether the connection outlives the response, by what the header says.
    pub(super) persistent: bool,
}

/// How far a header that is not complete was looked at, so that one that comes a byte at a time is not parsed as often.
#[derive(Default, Debug)]
pub(super) struct Unread(usize);

impl Unread {
    /// Takes a header off the beginning of `buffer`; `None`: it is not complete.
    pub(super) fn parse(&mut self, buffer: &mut Bytes, method: &Method) -> Result<Option<Head>, Malformed> {
        if self.0 > 0 && !may_end(&buffer[self.0.saturating_sub(3).min(buffer.len())..]) {
            self.0 = buffer.len();
            return self.more();
        }
        match parse(buffer, method)? {
            Some((size, _)) if size > MAX_SIZE => Err(Malformed::TooLarge),
            Some((size, head)) => {
                buffer.advance(size);
                self.0 = 0;
                Ok(Some(head))
            }
            None => {
                self.0 = buffer.len();
                self.more()
            }
        }
    }

    const fn more(&self) -> Result<Option<Head>, Malformed> {
        if self.0 > MAX_SIZE { Err(Malformed::TooLarge) } else { Ok(None) }
    }
}

/// Whether a line break is followed by an empty line, as at the end of a header.
fn may_end(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

fn parse(buffer: &Bytes, method: &Method) -> Result<Option<(usize, Head)>, Malformed> {
    // Empty lines before a response are nothing that anybody should send.
    if buffer.first().is_some_and(|first| *first != b'H') {
        return Err(Malformed::Header);
    }
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut response, &buffer[..], &mut fields);
    let size = match parsed {
        Ok(Status::Complete(size)) => size,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed::TooLarge),
        Err(_) => return Err(Malformed::Header),
    };
    if !ends_lines_alike(&buffer[..size], response.headers) {
        return Err(Malformed::Header);
    }
    let version = if response.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let status = StatusCode::from_u16(response.code.unwrap_or_default()).map_err(|_| Malformed::Header)?;
    let reason = match response.reason {
        Some(reason) if !reason.is_empty() && Some(reason) != status.canonical_reason() => {
            Some(ReasonPhrase::try_from(reason.as_bytes()).map_err(|_| Malformed::Header)?)
        }
        _ => None,
    };
    let mut headers = spare::take(response.headers.len());
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed::Header)?;
        // Not copied: it is a part of what was read.
        let value = if field.value.is_empty() { Bytes::new() } else { buffer.slice_ref(field.value) };
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| Malformed::Header)?;
        headers.try_append(name, value).map_err(|_| Malformed::TooLarge)?;
    }
    let persistent = is_persistent(version, &headers);
    let framing = framing(version, status, method, &mut headers)?;
    Ok(Some((size, Head { version, status, reason, headers, framing, persistent })))
}

/// Lines end in CRLF, or, with some old servers, all of them in LF. Where one ends otherwise than the others, somebody may have been made
/// to put it there: what was one field to its sender would go on as two.
fn ends_lines_alike(head: &[u8], fields: &[httparse::Header<'_>]) -> bool {
    let has_cr = |line: &[u8]| line.ends_with(b"\r\n");
    let is_crlf = has_cr(head);
    let before_last = &head[..head.len() - if is_crlf { 2 } else { 1 }];
    let begins = |name: &str| name.as_ptr().addr() - head.as_ptr().addr();
    has_cr(before_last) == is_crlf && fields.iter().all(|field| has_cr(&head[..begins(field.name)]) == is_crlf)
}

/// The rules of RFC 9112 §6.3, in their order. What must not be sent together is refused, whatever wins by these rules.
fn framing(
    version: Version,
    status: StatusCode,
    method: &Method,
    headers: &mut HeaderMap,
) -> Result<Framing, Malformed> {
    let is_chunked = is_chunked(headers)?;
    let length = length(headers)?;
    if is_chunked && (length.is_some() || version == Version::HTTP_10) {
        return Err(Malformed::Coding);
    }
    let bodiless = status.is_informational() || status == StatusCode::NO_CONTENT;
    if bodiless && length.is_some() {
        // Some send `Content-Length: 0` with 204, which is not to be passed on (RFC 9110 §8.6).
        headers.remove(header::CONTENT_LENGTH);
    }
    if bodiless && (is_chunked || length.is_some_and(|length| length > 0)) {
        return Err(Malformed::Length);
    }
    Ok(if bodiless || method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
        Framing::Empty
    } else if is_chunked {
        Framing::Chunked
    } else {
        match length {
            Some(0) => Framing::Empty,
            Some(length) => Framing::Length(length),
            None => Framing::Close,
        }
    })
}

fn is_chunked(headers: &HeaderMap) -> Result<bool, Malformed> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(Malformed::Coding),
    }
}

/// One length. Said more than once, it has to be the same each time, and is passed on once (RFC 9110 §8.6).
fn length(headers: &mut HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_none()
        && let Some(length) = number(first.as_bytes())
    {
        return Ok(Some(length));
    }
    let mut lengths =
        headers.get_all(header::CONTENT_LENGTH).iter().flat_map(|value| value.as_bytes().split(|&b| b == b','));
    let first = lengths.next().and_then(|length| number(length.trim_ascii())).ok_or(Malformed::Length)?;
    if lengths.any(|length| number(length.trim_ascii()) != Some(first)) {
        return Err(Malformed::Length);
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(first));
    Ok(Some(first))
}

/// Digits and nothing else, as in `Content-Length`.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

fn is_persistent(version: Version, headers: &HeaderMap) -> bool {
    let says = |option| headers.get_all(header::CONNECTION).iter().any(|value| lists(value.as_bytes(), option));
    if version == Version::HTTP_10 { says(b"keep-alive") } else { !says(b"close") }
}
