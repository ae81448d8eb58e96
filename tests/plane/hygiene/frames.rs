//! HTTP/2 frame by frame: whatever a client can send, well formed or not.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What stands before a frame: the length of its payload, its kind, its flags and its stream.
pub(super) fn frame_head(head: &[u8; 9]) -> (usize, u8, u8, u32) {
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    (length, head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]))
}

/// A setting, for the payload of `SETTINGS`.
pub(super) fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// Fields as HPACK literals that are not indexed (RFC 7541 §6.2.2), without any compression.
pub(super) fn block<'f>(fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // An integer with a prefix of seven bits (RFC 7541 §5.1).
            if let Ok(length @ 0..127) = u8::try_from(text.len()) {
                block.push(length);
            } else {
                let mut rest = text.len() - 127;
                block.push(127);
                while rest >= 128 {
                    block.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                block.push(u8::try_from(rest).unwrap());
            }
            block.extend(text);
        }
    }
    block
}

/// A request without content.
pub(super) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", path))
}

/// The fields of a request.
pub(super) fn request(method: &str, path: &str) -> Vec<u8> {
    block([
        (&b":method"[..], method.as_bytes()),
        (b":scheme", b"http"),
        (b":path", path.as_bytes()),
        (b":authority", b"a"),
    ])
}

/// A frame that came.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The number at the end of the payload's first so many bytes: the code of `RST_STREAM` (4) and of `GOAWAY` (8).
    pub(super) fn code(&self, end: usize) -> u32 {
        u32::from_be_bytes(self.payload[end - 4..end].try_into().unwrap())
    }
}

/// How a request ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// A status, and the content.
    Response(u16, Vec<u8>),
    /// `RST_STREAM` with this code.
    Reset(u32),
    /// `GOAWAY` with this code.
    GoAway(u32),
    /// The connection ended.
    Closed,
}

/// A connection.
pub(super) struct Http2 {
    pub(super) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Http2 {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        Self::with_settings(address, &[]).await
    }

    pub(super) async fn with_settings(address: SocketAddr, settings: &[u8]) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut connection = Self { stream, buffer: Vec::new() };
        assert!(connection.send([PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await);
        connection
    }

    /// One that has been begun.
    pub(super) const fn over(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Acknowledges the other side's settings, which take effect by that; what came after them is left to be read.
    pub(super) async fn settle(mut self) -> (Vec<u8>, Vec<u8>, TcpStream) {
        let settings = self.next().await.expect("settings");
        assert_eq!((settings.kind, settings.flags), (SETTINGS, 0));
        assert!(self.send(frame(SETTINGS, ACK, 0, &[])).await);
        (settings.payload, self.buffer, self.stream)
    }

    /// Whether it could be sent.
    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.is_ok_and(|sent| sent.is_ok())
    }

    /// The next frame. `None`: the connection ended.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.next_at_last()).await.expect("a frame in time")
    }

    async fn next_at_last(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<9>() {
                let (length, kind, flags, stream) = frame_head(head);
                if self.buffer.len() >= 9 + length {
                    let rest = self.buffer.split_off(9 + length);
                    let payload = std::mem::replace(&mut self.buffer, rest).split_off(9);
                    return Some(Frame { kind, flags, stream, payload });
                }
            }
            if !matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// How the request of this stream ends. Nothing of others is kept.
    pub(super) async fn answer(&mut self, stream: u32) -> Answer {
        let (mut found, mut content) = (0, Vec::new());
        while let Some(frame) = self.next().await {
            match frame.kind {
                GOAWAY => return Answer::GoAway(frame.code(8)),
                RST_STREAM if frame.stream == stream && found == 0 => return Answer::Reset(frame.code(4)),
                HEADERS if frame.stream == stream && found == 0 => found = status(&frame.payload),
                DATA if frame.stream == stream => content.extend(&frame.payload),
                _ => {}
            }
            if frame.stream == stream && matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                return Answer::Response(found, content);
            }
        }
        Answer::Closed
    }
}

/// The status, which comes first: one of the static table, or a literal of three digits (RFC 7541 §§5.2, 6, A, B).
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may come before it.
    let block = &block[block.iter().take_while(|&&byte| byte & 0xe0 == 0x20).count()..];
    match *block {
        [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        [0x48 | 0x08, 3, a, b, c, ..] => String::from_utf8(vec![a, b, c]).unwrap().parse().unwrap(),
        [0x48 | 0x08, length @ 0x82..=0x83, ref rest @ ..] => {
            let length = usize::from(length & 0x7f);
            let mut bits =
                rest[..length].iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (32 - 8 * length);
            let mut digits = 0;
            for _ in 0..3 {
                // `0` to `2` have five bits, `3` to `9` six.
                let (digit, width) = if bits >> 27 < 3 { (bits >> 27, 5) } else { ((bits >> 26) - 0x19 + 3, 6) };
                digits = digits * 10 + digit;
                bits <<= width;
            }
            u16::try_from(digits).unwrap()
        }
        _ => panic!("no status at the start of {block:02x?}"),
    }
}
