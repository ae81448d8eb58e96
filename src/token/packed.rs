//! Several byte strings in one piece of memory: for what is kept of many tokens.

use std::fmt;

/// Byte strings, each behind its length. `Debug` shows how long they are together.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Packed(Box<[u8]>);

/// Some that are being packed.
pub(crate) struct Packing(Vec<u8>);

/// Room for most.
impl Default for Packing {
    fn default() -> Self {
        Self(Vec::with_capacity(128))
    }
}

/// Seven bits of a length, the least significant first; the eighth says that more of them follow.
const MORE: u8 = 0x80;

impl Packed {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (mut length, mut shift) = (0, 0);
            loop {
                let (&byte, behind) = rest.split_first()?;
                rest = behind;
                length |= usize::from(byte & !MORE) << shift;
                if byte & MORE == 0 {
                    break;
                }
                shift += 7;
            }
            let (item, behind) = rest.split_at_checked(length)?;
            rest = behind;
            Some(item)
        })
    }

    /// How much memory they take, in bytes.
    pub(crate) const fn size(&self) -> usize {
        self.0.len()
    }
}

impl Packing {
    #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
    pub(crate) fn push(&mut self, item: &[u8]) {
        let mut length = item.len();
        while length >= usize::from(MORE) {
            self.0.push(length as u8 | MORE);
            length >>= 7;
        }
        self.0.push(length as u8);
        self.0.extend_from_slice(item);
    }

    pub(crate) fn pack(self) -> Packed {
        // Into memory of its own: cut to size, what it was packed in would leave pieces behind that are of no use.
        Packed(self.0.as_slice().into())
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packed({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_is_found_again(items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8)) {
            let mut packing = Packing::default();
            for item in &items {
                packing.push(item);
            }
            let packed = packing.pack();
            prop_assert!(packed.iter().eq(items.iter().map(|item| &**item)));
        }
    }

    #[test]
    fn long_ones_keep_their_length() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 70_000] {
            let mut packing = Packing::default();
            packing.push(&vec![7; length]);
            packing.push(&[1]);
            let packed = packing.pack();
            assert!(packed.iter().map(<[u8]>::len).eq([length, 1]));
        }
    }
}
