//! `X-Request-Id`: what a request is called, here, at the upstream and by the client.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::random;
use crate::clock::Timestamp;

/// The field.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static(NAME);
const NAME: &str = "x-request-id";

/// The longest that is kept, in bytes.
const MAX_LENGTH: usize = 128;

/// Whose ids are kept.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum RequestIds {
    /// Those of trusted proxies; all others are made here.
    #[default]
    Make,
    /// Everybody's.
    Keep,
    /// Nothing is made, and what is there passes on.
    Off,
}

impl RequestIds {
    /// What a request with this header is called; `None`: it is left alone. `trusted`: it comes from a trusted proxy.
    ///
    /// An id is kept only if there is one, and it is short and of characters that mean nothing to logs and shells.
    pub(super) fn of(self, fields: &HeaderMap, trusted: bool, now: Timestamp) -> Option<HeaderValue> {
        let keeps = match self {
            Self::Off => return None,
            Self::Make => trusted,
            Self::Keep => true,
        };
        let kept = if keeps { one(fields) } else { None };
        kept.cloned().or_else(|| make(now))
    }
}

/// Names a request. Whatever servers may take for the same field goes.
pub(super) fn put(fields: &mut HeaderMap, id: HeaderValue) {
    let is_twin = |name: &HeaderName| {
        let name = name.as_str();
        let alike = |(byte, own)| byte == own || byte == b'_' && own == b'-';
        name.len() == NAME.len() && name != NAME && name.bytes().zip(NAME.bytes()).all(alike)
    };
    let twins: Vec<HeaderName> = fields.keys().filter(|name| is_twin(name)).cloned().collect();
    for twin in twins {
        fields.remove(twin);
    }
    fields.insert(REQUEST_ID, id);
}

fn one(fields: &HeaderMap) -> Option<&HeaderValue> {
    let mut ids = fields.get_all(REQUEST_ID).iter();
    ids.next().filter(|id| ids.next().is_none() && is_plain(id.as_bytes()))
}

fn is_plain(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=:@".contains(byte);
    (1..=MAX_LENGTH).contains(&id.len()) && id.iter().all(plain)
}

/// A UUID of version 7 (RFC 9562 §5.7): ids sort by when requests came.
fn make(now: Timestamp) -> Option<HeaderValue> {
    let millis = u64::try_from(now.as_millis()).unwrap_or_default();
    let high = millis << 16 | 0x7000 | random::number() & 0x0fff;
    let low = random::number() >> 2 | 1 << 63;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&high.to_be_bytes());
    bytes[8..].copy_from_slice(&low.to_be_bytes());
    let mut text = [b'-'; 36];
    for (from, to, at) in [(0, 4, 0), (4, 6, 9), (6, 8, 14), (8, 10, 19), (10, 16, 24)] {
        random::write_hex(&bytes[from..to], &mut text[at..at + 2 * (to - from)]);
    }
    HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&text)).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_uuids_that_sort_by_time() {
        let mut seen = HashSet::new();
        let mut last = String::new();
        for millis in 1_700_000_000_000..1_700_000_010_000 {
            let id = make(Timestamp::from_millis(millis)).unwrap();
            let id = id.to_str().unwrap().to_owned();
            assert_eq!(id.len(), 36);
            assert_eq!([8, 13, 18, 23].map(|at| id.as_bytes()[at]), [b'-'; 4], "{id}");
            assert_eq!(id.as_bytes()[14], b'7', "{id}");
            assert!(b"89ab".contains(&id.as_bytes()[19]), "{id}");
            assert!(id > last, "{id} {last}");
            assert!(seen.insert(id.clone()));
            last = id;
        }
        assert!(last.starts_with("018bcfe5-8f0f-7"), "{last}");
    }

    #[test]
    fn what_is_kept_is_plain() {
        let long = "x".repeat(129);
        let now = Timestamp::from_secs(0);
        for (ids, kept) in [
            (&["abc-DEF_1.2~3+4/5=6:7@8"][..], true),
            (&[&long[1..]], true),
            (&[&long], false),
            (&[""], false),
            (&["a b"], false),
            (&["a\"b"], false),
            (&["a,b"], false),
            (&["${x}"], false),
            (&["one", "two"], false),
            (&[], false),
        ] {
            let mut fields = HeaderMap::new();
            for id in ids {
                fields.append(REQUEST_ID, HeaderValue::try_from(*id).unwrap());
            }
            for (whose, trusted, keeps) in [
                (RequestIds::Make, false, false),
                (RequestIds::Make, true, true),
                (RequestIds::Keep, false, true),
                (RequestIds::Keep, true, true),
            ] {
                let id = whose.of(&fields, trusted, now).unwrap();
                assert_eq!(Some(&id) == fields.get(REQUEST_ID), keeps && kept, "{ids:?} {whose:?} {trusted}");
                assert!(is_plain(id.as_bytes()));
            }
            assert_eq!(RequestIds::Off.of(&fields, true, now), None);
        }
    }
}
