//! The header of a request, and where its content ends (RFC 9112 §3 to §6).
//!
//! What two readers could read differently is refused here: nothing of it can be seen any more once it is parsed. `docs/http.md` has the
//! table.

use std::mem::{self, MaybeUninit};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use httparse::{ParserConfig, Status};
use memchr::{memchr, memchr_iter};

use crate::{
    http1::{
        content::Framing,
        lines::{LineEnd, line_end},
        lists, spare,
    },
    incoming::Incoming,
};

/// How many empty lines there may be before a request: some clients send one too many after content (RFC 9112 §2.2).
const MAX_BLANKS: u8 = 8;

/// The longest target, in bytes: the library's own bound.
const MAX_TARGET: usize = u16::MAX as usize - 1;

/// How many fields there is room for without an allocation.
const USUAL_LIMIT: usize = 100;

/// How large a header may be.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct HeadLimits {
    /// In bytes.
    pub(in crate::server) size: usize,
    /// In fields.
    pub(in crate::server) fields: usize,
}

/// Why a header is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// It is no HTTP/1.1, or can be read in more than one way.
    Malformed,
    /// It is too large, or has too many fields.
    TooLarge,
    /// Its target is too long.
    TargetTooLong,
}

/// A header.
#[expect(clippy::struct_excessive_bools, reason = "what it says")]
#[derive(Debug)]
pub(super) struct Head {
    /// In a box: it is handed on from one to another. Without its content.
    pub(super) request: Box<Request<Incoming>>,
    pub(super) framing: Framing,
    /// Whether the client means to send another request.
    pub(super) persistent: bool,
    /// Whether the client waits for `100 Continue` before it sends the content (RFC 9110 §10.1.1).
    pub(super) expects: bool,
    /// Whether the client takes trailers (RFC 9110 §6.5.1).
    pub(super) takes_trailers: bool,
    /// Whether the client would speak another protocol (RFC 9110 §7.8).
    pub(super) upgrades: bool,
}

/// A header of which only a part may have come.
#[derive(Default, Debug)]
pub(super) struct Unread {
    partial: BytesMut,
    blanks: u8,
}

impl Unread {
    /// Whether nothing of it has come.
    pub(super) fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }

    /// Takes a header off the beginning of `buffer`; `None`: it is not complete.
    ///
    /// # Errors
    /// [`Fault`]. Nothing after it may be read.
    pub(super) fn take(&mut self, buffer: &mut Bytes, limits: HeadLimits) -> Result<Option<Head>, Fault> {
        if !self.partial.is_empty() {
            // One that comes a byte at a time is looked at once for each of its lines.
            let has_line = memchr(b'\n', buffer).is_some();
            self.partial.extend_from_slice(buffer);
            *buffer = Bytes::new();
            if !has_line {
                return self.more(limits);
            }
            *buffer = mem::take(&mut self.partial).freeze();
        }
        while let Some(b'\r' | b'\n') = buffer.first() {
            match buffer.get(..2) {
                Some(b"\r\n") if self.blanks < MAX_BLANKS => {
                    self.blanks += 1;
                    buffer.advance(2);
                }
                None if buffer[0] == b'\r' => break,
                _ => return Err(Fault::Malformed),
            }
        }
        if buffer.is_empty() {
            return Ok(None);
        }
        if let Some((size, head)) = parse(buffer, limits)? {
            buffer.advance(size);
            self.blanks = 0;
            return Ok(Some(head));
        }
        // By itself: what was read may be a small part of what is shared.
        self.partial = BytesMut::from(mem::take(buffer));
        self.more(limits)
    }

    fn more(&self, limits: HeadLimits) -> Result<Option<Head>, Fault> {
        if self.partial.len() > limits.size { Err(Fault::TooLarge) } else { Ok(None) }
    }
}

fn parse(buffer: &Bytes, limits: HeadLimits) -> Result<Option<(usize, Head)>, Fault> {
    if limits.fields > USUAL_LIMIT {
        return parse_into(buffer, limits, &mut vec![MaybeUninit::uninit(); limits.fields]);
    }
    let mut fields = [const { MaybeUninit::uninit() }; USUAL_LIMIT];
    parse_into(buffer, limits, &mut fields[..limits.fields])
}

fn parse_into<'b>(
    buffer: &'b Bytes,
    limits: HeadLimits,
    fields: &mut [MaybeUninit<httparse::Header<'b>>],
) -> Result<Option<(usize, Head)>, Fault> {
    let mut parsed = httparse::Request::new(&mut []);
    let size = match ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, buffer, fields) {
        Ok(Status::Complete(size)) if size > limits.size => return Err(Fault::TooLarge),
        Ok(Status::Complete(size)) => size,
        Ok(Status::Partial) if ends_lines(buffer) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooLarge),
        Ok(Status::Partial) | Err(_) => return Err(Fault::Malformed),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Fault::Malformed);
    };
    if target.len() > MAX_TARGET {
        return Err(Fault::TargetTooLong);
    }
    if line_end(&buffer[..size], parsed.headers) != Some(LineEnd::CrLf) || memchr(b'#', target.as_bytes()).is_some() {
        return Err(Fault::Malformed);
    }
    let version = if minor == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
    let mut request = Box::new(Request::new(Incoming::Empty));
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| Fault::Malformed)?;
    *request.uri_mut() = Uri::from_maybe_shared(buffer.slice_ref(target.as_bytes())).map_err(|_| Fault::Malformed)?;
    *request.version_mut() = version;
    let (mut headers, mut said) = (spare::take(parsed.headers.len()), Said::default());
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Fault::Malformed)?;
        said.field(&name, field.value)?;
        // Not copied: it is a part of what was read.
        let value = if field.value.is_empty() { Bytes::new() } else { buffer.slice_ref(field.value) };
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| Fault::Malformed)?;
        headers.try_append(name, value).map_err(|_| Fault::TooLarge)?;
    }
    *request.headers_mut() = headers;
    let framing = said.framing(version)?;
    let persistent = said.persistent.unwrap_or(version == Version::HTTP_11);
    let expects = said.expects && version == Version::HTTP_11 && framing != Framing::Empty;
    let Said { takes_trailers, upgrades, .. } = said;
    Ok(Some((size, Head { request, framing, persistent, expects, takes_trailers, upgrades })))
}

/// Whether all lines end in CRLF (RFC 9112 §2.2), those that are there.
fn ends_lines(bytes: &[u8]) -> bool {
    memchr_iter(b'\n', bytes).all(|end| end > 0 && bytes[end - 1] == b'\r')
}

/// What a header says of the message and the connection.
#[expect(clippy::struct_excessive_bools, reason = "each is what one field says")]
#[derive(Default, Debug)]
struct Said {
    length: Option<u64>,
    is_chunked: bool,
    /// Whether the connection goes on, if anything is said of it. "close" counts, wherever it stands (RFC 9112 §9.3).
    persistent: Option<bool>,
    expects: bool,
    takes_trailers: bool,
    upgrades: bool,
}

impl Said {
    fn field(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), Fault> {
        match *name {
            header::CONTENT_LENGTH => {
                let is_alone = self.length.is_none() && !self.is_chunked;
                self.length = Some(length(value).filter(|_| is_alone).ok_or(Fault::Malformed)?);
            }
            header::TRANSFER_ENCODING => {
                let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
                let mut codings = value.rsplit(|&byte| byte == b',');
                let is_last = codings.next().is_some_and(is_chunked) && !codings.any(is_chunked);
                if self.length.is_some() || self.is_chunked || !is_last {
                    return Err(Fault::Malformed);
                }
                self.is_chunked = true;
            }
            header::CONNECTION => {
                if lists(value, b"close") {
                    self.persistent = Some(false);
                } else if lists(value, b"keep-alive") {
                    self.persistent.get_or_insert(true);
                }
            }
            header::TE => self.takes_trailers |= lists(value, b"trailers"),
            header::UPGRADE => self.upgrades = true,
            header::EXPECT => self.expects = value.eq_ignore_ascii_case(b"100-continue"),
            _ => {}
        }
        Ok(())
    }

    fn framing(&self, version: Version) -> Result<Framing, Fault> {
        match (self.is_chunked, self.length) {
            (true, _) if version == Version::HTTP_10 => Err(Fault::Malformed),
            (true, _) => Ok(Framing::Chunked),
            (false, None | Some(0)) => Ok(Framing::Empty),
            (false, Some(length)) => Ok(Framing::Length(length)),
        }
    }
}

/// Digits only, and none too many (RFC 9110 §8.6): `010` is eight to some.
fn length(digits: &[u8]) -> Option<u64> {
    let is_number = digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits.first() != Some(&b'0'));
    str::from_utf8(digits).ok().filter(|_| is_number && digits.len() < 20)?.parse().ok()
}
