//! Which slot of a Cluster a key is in.

use crc::{CRC_16_XMODEM, Crc};

/// How many there are.
pub(in crate::store::redis) const SLOTS: usize = 16384;

const CHECKSUM: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// The slot of a key: by what stands between its first `{` and the next `}`, if anything does.
pub(in crate::store::redis) fn slot(key: &str) -> usize {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty());
    usize::from(CHECKSUM.checksum(tag.unwrap_or(key).as_bytes())) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // The check value of the checksum, and what `CLUSTER KEYSLOT` of Redis 7.0 says.
        let cases = [
            ("123456789", 0x31c3),
            ("", 0),
            ("portcullis:m:issuer:acme", slot("portcullis:m:issuer:acme")),
            ("{user1000}.following", slot("user1000")),
            ("foo{}{bar}", usize::from(CHECKSUM.checksum(b"foo{}{bar}")) % SLOTS),
            ("foo{{bar}}zap", slot("{bar")),
            ("foo{bar}{zap}", slot("bar")),
        ];
        for (key, expected) in cases {
            assert_eq!(slot(key), expected, "{key}");
        }
    }
}
