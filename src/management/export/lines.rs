//! Lines out of a compressed file that comes bit by bit (gzip, RFC 1952; NDJSON).
//!
//! What is held is bounded, whatever comes: a line that is longer than may be is passed over, and a piece that expands to much is
//! taken in small parts.

use std::io::Write as _;

use flate2::write::MultiGzDecoder;

/// How much is decompressed at once: deflate makes a thousand times as much of it at most.
pub(super) const PART: usize = 1024;

/// Not gzip, damaged, or at its end before the file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the file is damaged, or ends in the middle")]
pub struct Damaged;

/// Takes a file piece by piece.
#[derive(Debug)]
pub struct Lines {
    decoder: MultiGzDecoder<Vec<u8>>,
    longest: usize,
    /// How much of what is decoded was looked at, and holds no end of a line.
    searched: usize,
    /// Whether the line is too long, and its beginning is gone.
    is_too_long: bool,
    is_damaged: bool,
}

impl Lines {
    /// At the beginning of a file; its lines may be so many bytes long.
    #[must_use]
    pub fn new(longest: usize) -> Self {
        let decoder = MultiGzDecoder::new(Vec::new());
        Self { decoder, longest, searched: 0, is_too_long: false, is_damaged: false }
    }

    /// Takes in the next piece of the file, and hands out the lines that end in it, without their ends and without blank ones;
    /// `None` for one that is too long.
    ///
    /// # Errors
    /// [`Damaged`], as after every error before.
    pub fn push(&mut self, piece: &[u8], mut take: impl FnMut(Option<&[u8]>)) -> Result<(), Damaged> {
        for part in piece.chunks(PART) {
            if self.is_damaged || self.decoder.write_all(part).is_err() {
                self.is_damaged = true;
                return Err(Damaged);
            }
            self.hand_out(&mut take);
        }
        Ok(())
    }

    /// The file is at its end: hands out the last line.
    ///
    /// # Errors
    /// [`Damaged`]: there should be more, or it is not what was compressed.
    pub fn finish(mut self, mut take: impl FnMut(Option<&[u8]>)) -> Result<(), Damaged> {
        if self.is_damaged || self.decoder.try_finish().is_err() {
            return Err(Damaged);
        }
        self.hand_out(&mut take);
        if self.is_too_long {
            take(None);
        } else if !self.decoder.get_ref().trim_ascii().is_empty() {
            take(Some(self.decoder.get_ref()));
        }
        Ok(())
    }

    /// How many decoded bytes are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.decoder.get_ref().len()
    }

    fn hand_out(&mut self, take: &mut impl FnMut(Option<&[u8]>)) {
        let decoded = self.decoder.get_mut();
        let (mut begin, mut from) = (0, self.searched);
        while let Some(length) = decoded[from..].iter().position(|byte| *byte == b'\n') {
            let line = &decoded[begin..from + length];
            if self.is_too_long || line.len() > self.longest {
                self.is_too_long = false;
                take(None);
            } else if !line.trim_ascii().is_empty() {
                take(Some(line));
            }
            (begin, from) = (from + length + 1, from + length + 1);
        }
        decoded.drain(..begin);
        if decoded.len() > self.longest {
            self.is_too_long = true;
        }
        if self.is_too_long {
            decoded.clear();
        }
        self.searched = decoded.len();
    }
}
