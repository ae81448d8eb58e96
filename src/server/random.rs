//! Numbers that nobody has to be unable to predict: for identifiers and samples.

use std::{
    cell::Cell,
    hash::{BuildHasher as _, RandomState},
    thread,
};

thread_local! {
    static STATE: Cell<u64> = Cell::new(seed());
}

/// As random as the keys of hash maps, which is more than enough for what nobody has to be unable to predict.
fn seed() -> u64 {
    RandomState::new().hash_one(thread::current().id())
}

/// SplitMix64: each thread has a sequence of its own.
pub(super) fn number() -> u64 {
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

/// Whether this one is among a share of all, from 0 to 1.
pub(super) fn is_among(share: f64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
    let chance = (number() >> 11) as f64 / (1_u64 << 53) as f64;
    chance < share
}

/// Writes `bytes` as lower-case hexadecimal digits, two each.
pub(super) fn write_hex(bytes: &[u8], digits: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(digits.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_what_it_says() {
        for share in [0.0, 0.01, 0.5, 1.0] {
            let among = (0..100_000).filter(|_| is_among(share)).count();
            let expected = share * 100_000.0;
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let apart = (among as f64 - expected).abs();
            // Five standard deviations.
            assert!(apart <= 5.0 * (expected * (1.0 - share)).sqrt(), "{share}: {among}");
        }
    }
}
