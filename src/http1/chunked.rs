//! The chunked transfer coding, decoded as it arrives (RFC 9112 §7.1).

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::content::{Malformed, Sender, Step};

/// The most bytes of an upstream's size line, extensions included: they are passed over.
const MAX_LINE: usize = 4 * 1024;

/// The most bytes of all extensions of a client.
const MAX_EXTENSIONS: usize = 16 * 1024;

/// The most digits of a size: more are zeros in front, or too many.
const MAX_DIGITS: usize = 16;

/// The largest trailer section, in bytes, and the most fields in it.
const MAX_TRAILERS: usize = 16 * 1024;
const MAX_TRAILER_FIELDS: usize = 128;

/// Where content stands.
#[derive(Debug)]
pub(crate) struct Chunked {
    sender: Sender,
    state: State,
    /// What is left of a chunk, or its size as far as it is known.
    left: u64,
    /// How much of a size line has been read.
    line: usize,
    /// How long a client's extensions were so far.
    extensions: usize,
    /// What has been read of the trailer section.
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The size, before its first digit.
    First,
    /// The size.
    Size,
    /// White space after it.
    Padding,
    /// An extension.
    Extension,
    /// The line feed of the size line.
    SizeEnd,
    Data,
    /// The carriage return after the data.
    DataCarriage,
    /// The line feed after that.
    DataEnd,
    Trailers,
    End,
}

impl Chunked {
    pub(super) const fn new(sender: Sender) -> Self {
        Self { sender, state: State::First, left: 0, line: 0, extensions: 0, trailers: Vec::new() }
    }

    /// Takes the next part off `buffer`.
    pub(crate) fn step(&mut self, buffer: &mut Bytes) -> Result<Step, Malformed> {
        while let Some(&byte) = buffer.first() {
            match self.state {
                State::End => break,
                State::Data => {
                    let size = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
                    let data = buffer.split_to(size);
                    self.left -= size as u64;
                    if self.left == 0 {
                        self.state = State::DataCarriage;
                    }
                    return Ok(Step::Data(data));
                }
                State::Trailers => {
                    if self.trailer(byte)? {
                        buffer.advance(1);
                        self.state = State::End;
                        return self.end();
                    }
                }
                _ => self.framing(byte)?,
            }
            buffer.advance(1);
        }
        Ok(if self.state == State::End { Step::End } else { Step::More })
    }

    fn framing(&mut self, byte: u8) -> Result<(), Malformed> {
        self.line += 1;
        self.check_length()?;
        self.state = match (self.state, byte) {
            (State::First | State::Size, digit) if digit.is_ascii_hexdigit() => {
                let digit = char::from(digit).to_digit(16).map_or(0, u64::from);
                self.left = self.left.checked_mul(16).ok_or(Malformed::Chunk)? + digit;
                State::Size
            }
            (State::Size | State::Padding, b' ' | b'\t') => State::Padding,
            (State::Padding, b'\r') if self.sender == Sender::Client => return Err(Malformed::Chunk),
            (State::Size | State::Padding | State::Extension, b'\r') => State::SizeEnd,
            (State::Size | State::Padding, b';') | (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => State::Extension,
            (State::SizeEnd, b'\n') => {
                self.line = 0;
                if self.left == 0 { State::Trailers } else { State::Data }
            }
            (State::DataCarriage, b'\r') => State::DataEnd,
            (State::DataEnd, b'\n') => {
                self.line = 0;
                State::First
            }
            _ => return Err(Malformed::Chunk),
        };
        Ok(())
    }

    fn check_length(&mut self) -> Result<(), Malformed> {
        let is_too_long = match (self.sender, self.state) {
            (Sender::Upstream, _) => self.line > MAX_LINE,
            (Sender::Client, State::Size) => self.line > MAX_DIGITS + 1,
            (Sender::Client, State::Padding | State::Extension) => {
                self.extensions += 1;
                self.extensions > MAX_EXTENSIONS
            }
            (Sender::Client, _) => false,
        };
        if is_too_long { Err(Malformed::Chunk) } else { Ok(()) }
    }

    /// Whether the section ends with this byte.
    fn trailer(&mut self, byte: u8) -> Result<bool, Malformed> {
        if self.trailers.len() == MAX_TRAILERS || (byte == b'\n') != (self.trailers.last() == Some(&b'\r')) {
            return Err(Malformed::Trailers);
        }
        self.trailers.push(byte);
        Ok(self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n"))
    }

    fn end(&mut self) -> Result<Step, Malformed> {
        if self.trailers == b"\r\n" {
            return Ok(Step::End);
        }
        let trailers = parse(&self.trailers)?;
        self.trailers = Vec::new();
        Ok(if trailers.is_empty() { Step::End } else { Step::Trailers(trailers) })
    }
}

fn parse(section: &[u8]) -> Result<HeaderMap, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let Ok(httparse::Status::Complete((size, fields))) = httparse::parse_headers(section, &mut fields) else {
        return Err(Malformed::Trailers);
    };
    if size != section.len() {
        return Err(Malformed::Trailers);
    }
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed::Trailers)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| Malformed::Trailers)?;
        if !is_framing(&name) {
            trailers.try_append(name, value).map_err(|_| Malformed::Trailers)?;
        }
    }
    Ok(trailers)
}

/// What no trailer may be, as it says where a message ends (RFC 9110 §6.5.1), or is about one connection, which HTTP/2 does not bear.
fn is_framing(name: &HeaderName) -> bool {
    [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::TRAILER,
        header::UPGRADE,
        header::HOST,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ]
    .contains(name)
}
