//! The header of a response, and where its body ends (RFC 9112 §4 to §6.3).

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::Malformed;
use crate::http1::{content::Framing, lines::line_end, lists, spare};

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
    // In CRLF, or, with some old servers, all of them in LF.
    if line_end(&buffer[..size], response.headers).is_none() {
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
    let (mut headers, mut said) = (spare::take(response.headers.len()), Said::default());
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed::Header)?;
        said.field(&name, field.value, version)?;
        // Not copied: it is a part of what was read.
        let value = if field.value.is_empty() { Bytes::new() } else { buffer.slice_ref(field.value) };
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| Malformed::Header)?;
        headers.try_append(name, value).map_err(|_| Malformed::TooLarge)?;
    }
    let persistent = said.persistent.unwrap_or(version == Version::HTTP_11);
    let framing = said.framing(version, status, method, &mut headers)?;
    Ok(Some((size, Head { version, status, reason, headers, framing, persistent })))
}

/// What a header says of the message and the connection.
#[derive(Default, Debug)]
struct Said {
    /// The length, and whether it is to be passed on otherwise than it was said.
    length: Option<(u64, bool)>,
    codings: usize,
    is_chunked: bool,
    persistent: Option<bool>,
}

impl Said {
    fn field(&mut self, name: &HeaderName, value: &[u8], version: Version) -> Result<(), Malformed> {
        match *name {
            header::CONTENT_LENGTH => self.length(value)?,
            header::TRANSFER_ENCODING => {
                self.codings += 1;
                self.is_chunked = value.eq_ignore_ascii_case(b"chunked");
            }
            header::CONNECTION if version == Version::HTTP_10 && lists(value, b"keep-alive") => {
                self.persistent = Some(true);
            }
            header::CONNECTION if version == Version::HTTP_11 && lists(value, b"close") => {
                self.persistent = Some(false);
            }
            _ => {}
        }
        Ok(())
    }

    /// One length. Said more than once, it has to be the same each time, and is passed on once (RFC 9110 §8.6).
    fn length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        for item in value.split(|&byte| byte == b',') {
            let digits = item.trim_ascii();
            let said = number(digits).ok_or(Malformed::Length)?;
            self.length = match self.length {
                None => Some((said, digits.len() != value.len())),
                Some((before, _)) if before == said => Some((said, true)),
                Some(_) => return Err(Malformed::Length),
            };
        }
        Ok(())
    }

    /// The rules of RFC 9112 §6.3, in their order. What must not be sent together is refused, whatever wins by these rules.
    fn framing(
        &self,
        version: Version,
        status: StatusCode,
        method: &Method,
        headers: &mut HeaderMap,
    ) -> Result<Framing, Malformed> {
        if self.codings > 0 && (self.codings > 1 || !self.is_chunked) {
            return Err(Malformed::Coding);
        }
        let length = self.length.map(|(length, _)| length);
        if self.is_chunked && (length.is_some() || version == Version::HTTP_10) {
            return Err(Malformed::Coding);
        }
        let bodiless = status.is_informational() || status == StatusCode::NO_CONTENT;
        if bodiless && length.is_some() {
            // Some send `Content-Length: 0` with 204, which is not to be passed on (RFC 9110 §8.6).
            headers.remove(header::CONTENT_LENGTH);
        } else if let Some((length, true)) = self.length {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        if bodiless && (self.is_chunked || length.is_some_and(|length| length > 0)) {
            return Err(Malformed::Length);
        }
        Ok(if bodiless || method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
            Framing::Empty
        } else if self.is_chunked {
            Framing::Chunked
        } else {
            match length {
                Some(0) => Framing::Empty,
                Some(length) => Framing::Length(length),
                None => Framing::Close,
            }
        })
    }
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
