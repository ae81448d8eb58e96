//! WebSocket (RFC 6455) as far as a gate has to know of it: where frames begin and end, and how to say goodbye.
//!
//! Payloads are neither looked at nor unmasked, so extensions such as compression are between client and upstream.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};

/// What the key of a handshake is joined with (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The longest reason of a close frame, in bytes (RFC 6455 §5.5).
const MAX_REASON: usize = 123;

/// The opcode of a close frame (RFC 6455 §5.2).
const CLOSE: u8 = 8;

/// Follows frames (RFC 6455 §5.2) by their headers.
#[derive(Clone, Copy, Default, Debug)]
pub struct Frames {
    /// How many bytes of the header have come.
    header: u8,
    /// How many bytes the header has; 0: that is not known yet.
    length_of_header: u8,
    /// How many of the header's bytes tell the length of the payload.
    length_of_length: u8,
    /// How many bytes of the payload are still to come, as far as is known.
    payload: u64,
    /// Whether it is a close frame.
    is_close: bool,
    has_closed: bool,
}

impl Frames {
    /// Whether what has come ends with a whole frame, or nothing has come.
    #[must_use]
    pub const fn is_between(&self) -> bool {
        self.header == 0 && self.payload == 0
    }

    /// Whether a whole close frame has come. No other frame comes after it (RFC 6455 §5.5.1).
    #[must_use]
    pub const fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// Takes in bytes up to the end of the frame that is under way, or that begins with them: how many.
    pub fn follow_one(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(&byte) = bytes.get(taken) {
            if self.header == 0 && self.payload > 0 {
                let left = bytes.len() - taken;
                let some = usize::try_from(self.payload).map_or(left, |payload| payload.min(left));
                taken += some;
                self.payload -= some as u64;
            } else {
                taken += 1;
                self.follow_header(byte);
            }
            if self.is_between() {
                self.has_closed |= self.is_close;
                break;
            }
        }
        taken
    }

    /// Takes in all of these bytes.
    pub fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.follow_one(bytes);
            bytes = &bytes[taken..];
        }
    }

    const fn follow_header(&mut self, byte: u8) {
        self.header += 1;
        match self.header {
            1 => {
                (self.length_of_header, self.payload) = (0, 0);
                self.is_close = byte & 0x0f == CLOSE;
            }
            2 => {
                let mask = if byte & 0x80 == 0 { 0 } else { 4 };
                (self.length_of_length, self.payload) = match byte & 0x7f {
                    126 => (2, 0),
                    127 => (8, 0),
                    length => (0, length as u64),
                };
                self.length_of_header = 2 + self.length_of_length + mask;
            }
            _ if self.header <= 2 + self.length_of_length => self.payload = self.payload << 8 | byte as u64,
            // The mask.
            _ => {}
        }
        if self.header == self.length_of_header {
            self.header = 0;
        }
    }
}

/// A close frame (RFC 6455 §5.5.1) with this status code and reason. `mask`: as clients have to (§5.3).
#[must_use]
pub fn close(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let reason = &reason.as_bytes()[..reason.len().min(MAX_REASON)];
    let mut frame = Vec::with_capacity(8 + reason.len());
    // Two bytes of code, so at most 125.
    let length = u8::try_from(2 + reason.len()).unwrap_or(125);
    frame.extend([0x88, length | if mask.is_some() { 0x80 } else { 0 }]);
    frame.extend(mask.iter().flatten());
    let payload = code.to_be_bytes().into_iter().chain(reason.iter().copied());
    let mask = mask.unwrap_or_default();
    frame.extend(payload.zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key` (RFC 6455 §4.2.2).
#[must_use]
pub fn accept(key: &[u8]) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()))
}

/// A `Sec-WebSocket-Key` (RFC 6455 §4.1).
#[must_use]
pub fn key() -> String {
    STANDARD.encode(random::<16>())
}

/// A mask for a frame.
#[must_use]
pub fn mask() -> [u8; 4] {
    random()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Neither is a secret: they keep intermediaries from taking a handshake or a payload for something else.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match (u16::try_from(length), length) {
            (_, ..126) => frame.push(u8::try_from(length).unwrap() | mask),
            (Ok(short), _) => {
                frame.push(0x7e | mask);
                frame.extend(short.to_be_bytes());
            }
            (Err(_), _) => {
                frame.push(0x7f | mask);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(vec![0xff; if masked { 4 } else { 0 } + length]);
        frame
    }

    #[test]
    fn the_example_of_the_specification_is_accepted() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(key().len(), 24);
    }

    #[test]
    fn close_frames_are_whole_frames() {
        for mask in [None, Some([1, 2, 3, 4])] {
            for reason in ["", "user_blocked", &"x".repeat(200)] {
                let close = close(1008, reason, mask);
                let mut frames = Frames::default();
                assert_eq!(frames.follow_one(&close), close.len());
                assert!(frames.is_between() && frames.has_closed());
                // All of it, and after others.
                let mut frames = Frames::default();
                frames.follow(&frame(200, mask.is_some()));
                frames.follow(&close[..close.len() - 1]);
                assert!(!frames.has_closed());
                frames.follow(&close[close.len() - 1..]);
                assert!(frames.has_closed());
            }
        }
        assert_eq!(close(1008, "ab", None), [0x88, 4, 0x03, 0xf0, b'a', b'b']);
        assert_eq!(close(1008, "ab", Some([1, 2, 3, 4])), [0x88, 0x84, 1, 2, 3, 4, 0x02, 0xf2, b'b', b'f']);
    }

    proptest! {
        #[test]
        fn every_end_of_a_frame_is_found(
            lengths in prop::collection::vec((prop_oneof![0..200_usize, 65_500..65_600_usize], any::<bool>()), 0..6),
            cuts in prop::collection::vec(1..9_000_usize, 1..20),
        ) {
            let (mut bytes, mut ends) = (Vec::new(), vec![0]);
            for (length, masked) in lengths {
                bytes.extend(frame(length, masked));
                ends.push(bytes.len());
            }
            let (mut frames, mut at) = (Frames::default(), 0);
            for cut in cuts.into_iter().cycle() {
                if at == bytes.len() {
                    break;
                }
                let next = (at + cut).min(bytes.len());
                let end = ends.iter().copied().find(|end| *end > at).unwrap();
                let taken = frames.follow_one(&bytes[at..next]);
                prop_assert_eq!(taken, end.min(next) - at);
                at += taken;
                prop_assert_eq!(frames.is_between(), ends.contains(&at));
            }
        }
    }
}
