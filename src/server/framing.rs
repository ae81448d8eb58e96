//! Where each request of an HTTP/1.1 connection ends (RFC 9112 §§2.2, 6, 7): one reading, in front of the parser.
//!
//! The parser takes some things that other servers read otherwise, and once a request is parsed nothing of them can be seen any more:
//! lines that end in a bare LF, `Content-Length` beside `Transfer-Encoding`, `Content-Length` repeated, white space after the size of a
//! chunk, a fragment in the target. A proxy in front that reads them otherwise could be made to send two requests as one, or one as
//! two. So they never get as far as the parser.
//!
//! It looks at the ends of lines and at the first letter of each, and passes bodies over: 110 ns for a header of 1 KiB, beside the
//! parser's 370 (`cargo bench --bench hot_path -- framing`). What a line says is the parser's business.
//! `docs/http.md` has the table.

mod stream;
#[cfg(test)]
mod tests;

use memchr::{memchr, memchr_iter};

pub(super) use self::stream::Refusals;
pub(super) use self::stream::{Seen, Strict};

/// What a connection has sent so far, as far as it matters here.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    line: Line,
    content: Content,
    heads: u64,
    /// Whether anything has come behind the last of them.
    beyond: bool,
    /// Empty lines before the request line.
    blanks: u8,
}

/// How many there may be: some clients send one too many after content (RFC 9112 §2.2).
const MAX_BLANKS: u8 = 8;

/// What the next byte belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The request line, or empty lines before it.
    RequestLine,
    /// The header.
    Fields,
    /// Content of which so many bytes are left.
    Content(u64),
    /// The size of a chunk: so many digits, and what they say.
    Size(u8, u64),
    /// White space between a chunk's size and its extensions.
    SizeSpace,
    /// Extensions of a chunk of this size.
    Extension,
    /// The LF after them.
    SizeEnd,
    /// A chunk of which so many bytes are left.
    Data(u64),
    /// The CR after it.
    DataCr,
    /// The LF after it.
    DataLf,
    /// Trailers, or the empty line instead of them.
    Trailers,
    /// What the parser refuses by itself, or another protocol.
    Other,
}

/// What a header says of the content.
#[derive(Clone, Copy, Default, Debug)]
struct Content {
    length: Option<u64>,
    /// Whether the last of the transfer codings is `chunked`.
    chunked: Option<bool>,
    /// The size of the chunk that is being read.
    chunk: u64,
}

/// The part of a line that has come.
#[derive(Debug)]
struct Line {
    start: [u8; Line::KEPT],
    length: usize,
    last: u8,
    has_fragment: bool,
}

impl Line {
    /// What is kept of a line that comes in pieces. Those that matter are shorter.
    const KEPT: usize = 64;

    const fn new() -> Self {
        Self { start: [0; Self::KEPT], length: 0, last: 0, has_fragment: false }
    }

    fn add(&mut self, part: &[u8]) {
        let Some(&last) = part.last() else { return };
        if let Some(room) = self.start.get_mut(self.length..) {
            let taken = room.len().min(part.len());
            room[..taken].copy_from_slice(&part[..taken]);
        }
        self.length += part.len();
        self.last = last;
        self.has_fragment |= memchr(b'#', part).is_some();
    }
}

impl Framing {
    pub(super) const fn new() -> Self {
        Self {
            state: State::RequestLine,
            line: Line::new(),
            content: Content { length: None, chunked: None, chunk: 0 },
            heads: 0,
            beyond: false,
            blanks: 0,
        }
    }

    /// From now on another protocol is spoken.
    pub(super) const fn switch(&mut self) {
        self.state = State::Other;
    }

    /// How many headers have come in full.
    pub(super) const fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether anything has come behind the last of them.
    pub(super) const fn is_beyond(&self) -> bool {
        self.beyond
    }

    /// Whether a header has come in part.
    pub(super) fn is_within_head(&self) -> bool {
        self.state == State::Fields || self.state == State::RequestLine && (self.line.length > 0 || self.blanks > 0)
    }

    /// Looks at what has come.
    ///
    /// # Errors
    /// The place of the byte that must not be there. Nothing after it may be read.
    pub(super) fn look(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            self.beyond = true;
            at += match self.state {
                State::RequestLine | State::Fields | State::Trailers => self.lines(rest).map_err(|place| at + place)?,
                State::Content(left) => {
                    let (passed, left) = pass(left, rest);
                    self.state = if left == 0 { State::RequestLine } else { State::Content(left) };
                    passed
                }
                State::Data(left) => {
                    let (passed, left) = pass(left, rest);
                    self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                    passed
                }
                State::Other => return Ok(()),
                _ => {
                    self.state = self.step(rest[0]).ok_or(at)?;
                    1
                }
            };
        }
        Ok(())
    }

    /// Looks at lines, and at the part of the last that has come, up to the end of the header or trailers; how long they are.
    fn lines(&mut self, bytes: &[u8]) -> Result<usize, usize> {
        let mut at = 0;
        for end in memchr_iter(b'\n', bytes) {
            self.beyond = true;
            self.line(&bytes[at..end]).ok_or(end)?;
            at = end + 1;
            if !matches!(self.state, State::RequestLine | State::Fields | State::Trailers) {
                return Ok(at);
            }
        }
        self.beyond |= at < bytes.len();
        self.line.add(&bytes[at..]);
        Ok(bytes.len())
    }

    /// A line has come, or the last part of it.
    fn line(&mut self, part: &[u8]) -> Option<()> {
        if self.line.length == 0 {
            let line = part.strip_suffix(b"\r")?;
            let has_fragment = self.state == State::RequestLine && memchr(b'#', line).is_some();
            return self.end_line(line, line.len(), has_fragment);
        }
        self.line.add(part);
        let Line { start, length, last, has_fragment } = std::mem::replace(&mut self.line, Line::new());
        let length = length - 1;
        if last == b'\r' { self.end_line(&start[..length.min(Line::KEPT)], length, has_fragment) } else { None }
    }

    /// A line has come: its start, and its length. `None`: it is refused.
    fn end_line(&mut self, start: &[u8], length: usize, has_fragment: bool) -> Option<()> {
        match self.state {
            State::RequestLine if length == 0 && self.blanks < MAX_BLANKS => self.blanks += 1,
            State::RequestLine if length == 0 => return None,
            State::RequestLine if has_fragment => return None,
            State::RequestLine => {
                self.blanks = 0;
                self.content = Content::default();
                self.state = State::Fields;
            }
            State::Fields if length == 0 => {
                self.heads += 1;
                self.beyond = false;
                self.state = self.after_header();
            }
            State::Fields => self.content.field(start, length)?,
            _ if length == 0 => self.state = State::RequestLine,
            _ => {}
        }
        Some(())
    }

    const fn after_header(&self) -> State {
        match (self.content.chunked, self.content.length) {
            (Some(true), _) => State::Size(0, 0),
            (Some(false), _) => State::Other,
            (None, None | Some(0)) => State::RequestLine,
            (None, Some(length)) => State::Content(length),
        }
    }

    /// What comes after a byte between chunks (RFC 9112 §7.1).
    fn step(&mut self, byte: u8) -> Option<State> {
        match (self.state, byte) {
            (State::Size(digits @ 0..16, size), byte) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16)?;
                Some(State::Size(digits + 1, size << 4 | u64::from(digit)))
            }
            (State::Size(1.., size), b'\r' | b';' | b' ' | b'\t') => {
                self.content.chunk = size;
                Some(match byte {
                    b'\r' => State::SizeEnd,
                    b';' => State::Extension,
                    _ => State::SizeSpace,
                })
            }
            (State::SizeSpace, b' ' | b'\t') => Some(State::SizeSpace),
            (State::SizeSpace, b';') => Some(State::Extension),
            (State::Extension, b'\r') => Some(State::SizeEnd),
            (State::Extension, byte) if byte == b'\t' || !byte.is_ascii_control() => Some(State::Extension),
            (State::SizeEnd, b'\n') if self.content.chunk == 0 => Some(State::Trailers),
            (State::SizeEnd, b'\n') => Some(State::Data(self.content.chunk)),
            (State::DataCr, b'\r') => Some(State::DataLf),
            (State::DataLf, b'\n') => Some(State::Size(0, 0)),
            _ => None,
        }
    }
}

/// Whether these bytes, at the beginning of a connection, are let through. For benches.
#[doc(hidden)]
#[must_use]
pub fn is_let_through(bytes: &[u8]) -> bool {
    Framing::new().look(bytes).is_ok()
}

/// Passes over what is there of so many bytes: how many that are, and how many are left.
fn pass(left: u64, bytes: &[u8]) -> (usize, u64) {
    let passed = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (passed, left - passed as u64)
}

impl Content {
    /// `None`: it leaves open where the content ends.
    fn field(&mut self, start: &[u8], length: usize) -> Option<()> {
        match start.first() {
            Some(b'c' | b'C') => {
                if let Some(value) = value_of(b"content-length:", start) {
                    let is_alone = self.length.is_none() && self.chunked.is_none();
                    self.length = Some(content_length(value).filter(|_| is_alone && start.len() == length)?);
                }
            }
            Some(b't' | b'T') => {
                if let Some(value) = value_of(b"transfer-encoding:", start) {
                    if self.length.is_some() || self.chunked.is_some() || start.len() < length {
                        return None;
                    }
                    let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
                    let mut codings = value.rsplit(|&byte| byte == b',');
                    self.chunked = Some(codings.next().is_some_and(is_chunked));
                    if codings.any(is_chunked) {
                        return None;
                    }
                }
            }
            _ => {}
        }
        Some(())
    }
}

fn value_of<'l>(name: &[u8], line: &'l [u8]) -> Option<&'l [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(value)
}

/// Digits only, and none too many (RFC 9110 §8.6): `010` is eight to some.
fn content_length(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    let is_number = digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits.first() != Some(&b'0'));
    str::from_utf8(digits).ok().filter(|_| is_number && digits.len() < 20)?.parse().ok()
}
