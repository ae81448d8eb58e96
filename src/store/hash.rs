//! Tables whose keys are hashes already.

use std::hash::{BuildHasherDefault, Hasher};

/// For tables of `u64` that are hashes.
pub(super) type Hashed = BuildHasherDefault<AsItIs>;

/// Takes a hash as it is.
#[derive(Default, Debug)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 is hashed");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
