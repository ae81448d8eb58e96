//! The strict reading of HTTP/1.1 requests (RFC 9112), written down plainly: whoever serves less than this is safe, whoever serves
//! more is not.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Read {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) minor: u8,
    /// Names in lower case, in the order they came.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
}

impl Read {
    /// All values of a field, in order.
    pub(crate) fn values(&self, name: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| &**value).collect()
    }
}

/// What the beginning of a connection is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// A request, and how long it is.
    Request(Box<Read>, usize),
    /// A part of one. Nothing is wrong so far.
    Incomplete,
    /// None.
    Malformed(&'static str),
}

/// Reads the first request.
pub(crate) fn read(bytes: &[u8]) -> Step {
    let mut reader = Reader { bytes, at: 0 };
    match reader.request() {
        Ok(request) => Step::Request(Box::new(request), reader.at),
        Err(Stop::Incomplete) => Step::Incomplete,
        Err(Stop::Malformed(why)) => Step::Malformed(why),
    }
}

enum Stop {
    Incomplete,
    Malformed(&'static str),
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

fn demand(holds: bool, why: &'static str) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(Stop::Malformed(why)) }
}

impl<'b> Reader<'b> {
    /// A line that ends in CRLF, without it.
    fn line(&mut self) -> Result<&'b [u8], Stop> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\n').ok_or(Stop::Incomplete)?;
        demand(end > 0 && rest[end - 1] == b'\r', "a line without CR at its end")?;
        self.at += end + 1;
        let line = &rest[..end - 1];
        demand(
            line.iter().all(|&byte| byte == b'\t' || byte >= 0x20 && byte != 0x7f),
            "a control character in a line",
        )?;
        Ok(line)
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], Stop> {
        let taken = self.bytes[self.at..].get(..length).ok_or(Stop::Incomplete)?;
        self.at += length;
        Ok(taken)
    }

    fn request(&mut self) -> Result<Read, Stop> {
        let mut first = self.line()?;
        while first.is_empty() {
            first = self.line()?;
        }
        let parts: Vec<&[u8]> = first.split(|&byte| byte == b' ').collect();
        let &[method, target, version] = &*parts else { return Err(Stop::Malformed("a request line")) };
        demand(is_token(method), "a method")?;
        demand(!target.is_empty() && target.iter().all(|&byte| byte > b' ' && byte != b'#'), "a target")?;
        let minor = match version {
            b"HTTP/1.0" => 0,
            b"HTTP/1.1" => 1,
            _ => return Err(Stop::Malformed("a version")),
        };
        let fields = self.fields()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut read =
            Read { method: text(method), target: text(target), minor, fields, body: Vec::new(), trailers: Vec::new() };
        self.content(&mut read)?;
        Ok(read)
    }

    fn fields(&mut self) -> Result<Vec<(String, Vec<u8>)>, Stop> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let colon = line.iter().position(|&byte| byte == b':').ok_or(Stop::Malformed("a field without colon"))?;
            demand(is_token(&line[..colon]), "a field's name")?;
            let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
            fields.push((name, line[colon + 1..].trim_ascii().to_vec()));
        }
    }

    fn content(&mut self, read: &mut Read) -> Result<(), Stop> {
        let lengths = read.values("content-length");
        let codings = read.values("transfer-encoding");
        match (&*lengths, &*codings) {
            ([], []) => Ok(()),
            ([length], []) => {
                let digits = str::from_utf8(length).unwrap_or_default();
                let plain = (1..20).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
                demand(plain && (digits == "0" || !digits.starts_with('0')), "a length")?;
                let length = digits.parse().map_err(|_| Stop::Malformed("a length"))?;
                read.body = self.take(length)?.to_vec();
                Ok(())
            }
            ([], [coding]) => {
                let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
                let mut codings = coding.rsplit(|&byte| byte == b',');
                let ends = codings.next().is_some_and(is_chunked) && !codings.any(is_chunked);
                demand(ends && read.minor == 1, "a coding")?;
                self.chunks(read)
            }
            _ => Err(Stop::Malformed("two framings")),
        }
    }

    fn chunks(&mut self, read: &mut Read) -> Result<(), Stop> {
        loop {
            let line = self.line()?;
            let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
            demand((1..=16).contains(&end), "a chunk's size")?;
            let rest = &line[end..];
            demand(rest.is_empty() || rest.trim_ascii_start().starts_with(b";"), "a chunk's extensions")?;
            let size = str::from_utf8(&line[..end]).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
            let size = size.and_then(|size| usize::try_from(size).ok()).ok_or(Stop::Malformed("a chunk's size"))?;
            if size == 0 {
                read.trailers = self.fields()?;
                return Ok(());
            }
            read.body.extend(self.take(size)?);
            match self.take(2) {
                Ok(end) => demand(end == b"\r\n", "a chunk's end")?,
                // Half of a wrong end is wrong too.
                Err(stop) => {
                    demand(matches!(&self.bytes[self.at..], [] | [b'\r']), "a chunk's end")?;
                    return Err(stop);
                }
            }
        }
    }
}

/// RFC 9110 §5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    let is_tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_tchar)
}

/// Reads the requests of a connection and answers each `ok`. `keep` gets them as they read and byte by byte, or what is wrong with them.
pub(super) async fn serve(stream: &mut TcpStream, mut keep: impl FnMut(Result<(Read, Vec<u8>), String>)) {
    let mut bytes = Vec::new();
    loop {
        match read(&bytes) {
            Step::Request(request, length) => {
                let raw: Vec<u8> = bytes.drain(..length).collect();
                let body = if request.method == "HEAD" { "" } else { "ok" };
                keep(Ok((*request, raw)));
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                continue;
            }
            Step::Incomplete => {}
            Step::Malformed(why) => return keep(Err(format!("{why}: {}", bytes.escape_ascii()))),
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    }
}
