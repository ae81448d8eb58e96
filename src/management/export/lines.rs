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

#[cfg(test)]
mod tests {
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;

    fn compressed(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// The lines of a file that comes in such pieces.
    fn lines(file: &[u8], size: usize, longest: usize) -> (Vec<Option<Vec<u8>>>, Result<(), Damaged>) {
        let (mut lines, mut found) = (Lines::new(longest), Vec::new());
        let mut take = |line: Option<&[u8]>| found.push(line.map(<[u8]>::to_vec));
        let pushed = file.chunks(size).try_for_each(|piece| lines.push(piece, &mut take));
        let ended = pushed.and_then(|()| lines.finish(&mut take));
        (found, ended)
    }

    fn line(text: &str) -> Option<Vec<u8>> {
        Some(text).map(|text| text.as_bytes().to_vec())
    }

    #[test]
    fn lines_are_handed_out_whatever_they_end_in() {
        let file = compressed(b"{\"a\":1}\n\n  \r\n{}\r\nlonger than ten\n0123456789\n \xff");
        let expected = [line("{\"a\":1}"), line("{}\r"), None, line("0123456789"), Some(b" \xff".to_vec())];
        for size in [1, 2, 7, file.len()] {
            assert_eq!(lines(&file, size, 10), (expected.to_vec(), Ok(())), "{size}");
        }
        assert_eq!(lines(&compressed(b""), 1, 10), (vec![], Ok(())));
        assert_eq!(lines(&compressed(b"last and too long"), 1, 10), (vec![None], Ok(())));
    }

    #[test]
    fn a_file_of_several_members_is_one() {
        let file = [compressed(b"a\nb"), compressed(b""), compressed(b"c\nd")].concat();
        for size in [1, 3, file.len()] {
            let expected = ["a", "bc", "d"].map(line).to_vec();
            assert_eq!(lines(&file, size, 10), (expected, Ok(())), "{size}");
        }
    }

    #[test]
    fn a_file_that_ends_in_the_middle_is_noticed_wherever_that_is() {
        let file = compressed(b"first\nsecond\n");
        for end in 0..file.len() {
            let (found, ended) = lines(&file[..end], 5, 100);
            assert_eq!(ended, Err(Damaged), "{end}");
            assert!(["first", "second"].map(line).starts_with(&found), "{end}");
        }
        let (mut damaged, last) = (file.clone(), file.len() - 6);
        damaged[last] ^= 1;
        assert_eq!(lines(&damaged, 5, 100).1, Err(Damaged), "a checksum");
        assert_eq!(lines(b"first\nsecond\n", 5, 100).1, Err(Damaged), "not compressed");
        assert_eq!(lines(b"", 5, 100).1, Err(Damaged), "nothing");
    }

    #[test]
    fn what_is_held_does_not_grow_with_the_file() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        // A line of 64 MB, and a million short ones.
        for _ in 0..64 {
            encoder.write_all(&vec![b'x'; 1 << 20]).unwrap();
        }
        encoder.write_all(b"\n").unwrap();
        for _ in 0..1000 {
            encoder.write_all(&b"{\"user_id\":\"a\"}\n".repeat(1000)).unwrap();
        }
        let file = encoder.finish().unwrap();
        let (mut lines, mut count, mut too_long, mut most) = (Lines::new(1 << 20), 0, 0, 0);
        for piece in file.chunks(PART) {
            let mut at_once = 0;
            let take = |line: Option<&[u8]>| {
                at_once += 1;
                count += 1;
                too_long += usize::from(line.is_none());
            };
            lines.push(piece, take).unwrap();
            most = most.max(at_once);
            assert!(lines.held() <= 1 << 20 && lines.decoder.get_ref().capacity() <= 8 << 20);
        }
        lines.finish(|_| count += 1).unwrap();
        assert_eq!((count, too_long), (1_000_001, 1));
        assert!(most < 200_000, "{most} lines of one piece");
    }

    proptest! {
        #[test]
        fn any_text_is_cut_into_its_lines(text in "[ab \n\r]{0,200}", size in 1..40_usize) {
            let expected: Vec<_> = text
                .split('\n')
                .filter(|line| line.len() > 10 || !line.trim_ascii().is_empty())
                .map(|line| (line.len() <= 10).then(|| line.as_bytes().to_vec()))
                .collect();
            prop_assert_eq!(lines(&compressed(text.as_bytes()), size, 10), (expected, Ok(())));
        }

        #[test]
        fn any_bytes_are_a_file_or_damaged(bytes in any::<Vec<u8>>(), size in 1..40_usize) {
            let _ = lines(&bytes, size, 10);
        }
    }
}
