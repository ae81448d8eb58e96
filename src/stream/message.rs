//! Where messages of gRPC begin and end.

/// Follows length-prefixed messages: a byte of flags, four bytes of length, the message
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
#[derive(Clone, Copy, Debug, Default)]
pub struct Boundaries {
    /// How many bytes of the prefix have come.
    prefix: u8,
    length: u32,
    /// How many bytes of the message are still to come.
    left: u32,
}

impl Boundaries {
    /// Nothing has come yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { prefix: 0, length: 0, left: 0 }
    }

    /// Whether what has come ends with a whole message, or nothing has come.
    #[must_use]
    pub const fn is_between(&self) -> bool {
        self.prefix == 0 && self.left == 0
    }

    /// Takes in what comes next; how many bytes of it belong to messages that are whole with it, if any is.
    pub fn follow(&mut self, mut bytes: &[u8]) -> Option<usize> {
        let total = bytes.len();
        let mut whole = None;
        while let Some((&first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let taken = bytes.len().min(self.left as usize);
                bytes = &bytes[taken..];
                // At most what was left.
                self.left -= u32::try_from(taken).unwrap_or(self.left);
            } else {
                bytes = rest;
                if self.prefix > 0 {
                    self.length = self.length << 8 | u32::from(first);
                }
                self.prefix += 1;
                if self.prefix == 5 {
                    (self.left, self.prefix, self.length) = (self.length, 0, 0);
                }
            }
            if self.is_between() {
                whole = Some(total - bytes.len());
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_end_of_a_message_is_found(lengths in prop::collection::vec(0..9_usize, 0..6), cuts in prop::collection::vec(1..7_usize, 1..40)) {
            let (mut bytes, mut ends) = (Vec::new(), Vec::new());
            for length in lengths {
                bytes.push(0);
                bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
                bytes.extend(vec![7; length]);
                ends.push(bytes.len());
            }
            let (mut boundaries, mut at, mut cuts) = (Boundaries::default(), 0, cuts.into_iter().cycle());
            while at < bytes.len() {
                let next = (at + cuts.next().unwrap()).min(bytes.len());
                let last = ends.iter().copied().filter(|end| at < *end && *end <= next).max();
                prop_assert_eq!(boundaries.follow(&bytes[at..next]), last.map(|end| end - at));
                at = next;
                prop_assert_eq!(boundaries.is_between(), at == 0 || ends.contains(&at));
            }
        }
    }
}
