//! Frames (RFC 9113 §§4, 6).

use bytes::{Buf, Bytes};
use h2::Reason;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 0x1;
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const HAS_PRIORITY: u8 = 0x20;

pub(super) const ENABLE_PUSH: u16 = 2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(super) const MAX_FRAME_SIZE: u16 = 5;
pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;
/// RFC 8441 §3.
pub(super) const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// What stands before a payload, in bytes.
pub(super) const HEAD: usize = 9;

/// The largest payload, unless a side allows more (RFC 9113 §6.5.2), in bytes. The gate does not.
pub(super) const LARGEST: usize = 16_384;

/// The largest window (RFC 9113 §6.9.1), in bytes.
pub(super) const LARGEST_WINDOW: i64 = 0x7fff_ffff;

/// The window that everything begins with (RFC 9113 §6.9.2), in bytes.
pub(super) const FIRST_WINDOW: u32 = 65_535;

/// What stands before a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    /// What these bytes begin with, if all of it is there.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = *bytes.first_chunk::<HEAD>()?;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        Some(Self { length, kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff })
    }

    pub(super) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The number that a payload is.
///
/// # Errors
/// It is longer or shorter.
pub(super) fn number(payload: &[u8]) -> Result<u32, Reason> {
    payload.try_into().map(u32::from_be_bytes).map_err(|_| Reason::FRAME_SIZE_ERROR)
}

/// The settings of a payload, whose length was looked at.
pub(super) fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload
        .as_chunks::<6>()
        .0
        .iter()
        .map(|[a, b, value @ ..]| (u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value)))
}

/// What is left of a payload without its padding and what the flags say comes first (RFC 9113 §6.2).
///
/// # Errors
/// There is more padding than payload, or less than what comes first.
pub(super) fn block(head: Head, mut payload: Bytes) -> Result<Bytes, Reason> {
    let padding = if head.has(PADDED) { payload.try_get_u8().map_err(|_| Reason::FRAME_SIZE_ERROR)?.into() } else { 0 };
    if head.has(HAS_PRIORITY) {
        (payload.len() >= 5).then(|| payload.advance(5)).ok_or(Reason::FRAME_SIZE_ERROR)?;
    }
    let length = payload.len().checked_sub(padding).ok_or(Reason::PROTOCOL_ERROR)?;
    payload.truncate(length);
    Ok(payload)
}

/// Puts what stands before a payload behind `out`.
pub(super) fn put_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [.., a, b, c] = length.to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

pub(super) fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    put_head(out, 6 * settings.len(), SETTINGS, 0, 0);
    for (id, value) in settings {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(super) fn put_ping(out: &mut Vec<u8>, flags: u8, payload: [u8; 8]) {
    put_head(out, 8, PING, flags, 0);
    out.extend_from_slice(&payload);
}

pub(super) fn put_reset(out: &mut Vec<u8>, stream: u32, reason: Reason) {
    put_head(out, 4, RST_STREAM, 0, stream);
    out.extend_from_slice(&u32::from(reason).to_be_bytes());
}

pub(super) fn put_goaway(out: &mut Vec<u8>, last: u32, reason: Reason) {
    put_head(out, 8, GOAWAY, 0, 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&u32::from(reason).to_be_bytes());
}

pub(super) fn put_window_update(out: &mut Vec<u8>, stream: u32, by: u32) {
    put_head(out, 4, WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&by.to_be_bytes());
}

/// Puts a field block behind `out`, in as many frames as it takes.
pub(super) fn put_block(out: &mut Vec<u8>, stream: u32, flags: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    put_head(out, 0, HEADERS, flags | END_HEADERS, stream);
    write(out);
    let length = out.len() - start - HEAD;
    if length <= LARGEST {
        let [.., a, b, c] = length.to_be_bytes();
        out[start..start + 3].copy_from_slice(&[a, b, c]);
        return;
    }
    let block = out.split_off(start + HEAD);
    out.truncate(start);
    let mut pieces = block.chunks(LARGEST).peekable();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        put_head(out, piece.len(), kind, end | if kind == HEADERS { flags } else { 0 }, stream);
        out.extend_from_slice(piece);
        kind = CONTINUATION;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_block_goes_in_pieces() {
        for (length, expected) in [
            (0, vec![(0, HEADERS, END_HEADERS | END_STREAM)]),
            (LARGEST, vec![(LARGEST, HEADERS, END_HEADERS | END_STREAM)]),
            (LARGEST + 1, vec![(LARGEST, HEADERS, END_STREAM), (1, CONTINUATION, END_HEADERS)]),
            (
                2 * LARGEST + 5,
                vec![(LARGEST, HEADERS, END_STREAM), (LARGEST, CONTINUATION, 0), (5, CONTINUATION, END_HEADERS)],
            ),
        ] {
            let mut out = b"before".to_vec();
            put_block(&mut out, 7, END_STREAM, |out| out.resize(out.len() + length, b'x'));
            let mut rest = out.strip_prefix(b"before").unwrap();
            let mut found = Vec::new();
            while let Some(head) = Head::of(rest) {
                assert_eq!(head.stream, 7);
                found.push((head.length, head.kind, head.flags));
                assert!(rest[HEAD..HEAD + head.length].iter().all(|byte| *byte == b'x'));
                rest = &rest[HEAD + head.length..];
            }
            assert!(rest.is_empty());
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn padding_and_priority_are_no_part_of_a_block() {
        let block_of = |flags, payload: &'static [u8]| {
            let head = Head { length: payload.len(), kind: HEADERS, flags, stream: 1 };
            block(head, Bytes::from_static(payload))
        };
        assert_eq!(block_of(0, b"block").unwrap(), "block");
        assert_eq!(block_of(PADDED, b"\x02block--").unwrap(), "block");
        assert_eq!(block_of(PADDED | HAS_PRIORITY, b"\x0112345block-").unwrap(), "block");
        assert_eq!(block_of(HAS_PRIORITY, b"12345").unwrap(), "");
        for (flags, payload) in [(PADDED, &b"\x06block"[..]), (PADDED | HAS_PRIORITY, b"\x0112345")] {
            assert_eq!(block_of(flags, payload), Err(Reason::PROTOCOL_ERROR), "{payload:?}");
        }
        for (flags, payload) in [(PADDED, &b""[..]), (HAS_PRIORITY, b"1234")] {
            assert_eq!(block_of(flags, payload), Err(Reason::FRAME_SIZE_ERROR), "{payload:?}");
        }
    }
}
