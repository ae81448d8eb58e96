//! Maps of header fields that have served one message and wait for the next.
//!
//! A map that is large enough for most messages is too large for the allocator's quick ways.

use std::cell::RefCell;

use http::HeaderMap;

/// How many maps a thread keeps: those of a request and a response, on either side.
const KEPT: usize = 4;

/// How many fields a map has room for at first: those of most requests, as their upstream gets them.
const USUAL_FIELDS: usize = 12;

/// The largest map that is kept, in fields.
const LARGEST_KEPT: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// An empty map with room for so many fields at least.
pub(crate) fn take(fields: usize) -> HeaderMap {
    let mut map = SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| HeaderMap::with_capacity(USUAL_FIELDS));
    map.reserve(fields);
    map
}

/// Keeps a map for the next message.
pub(crate) fn give(mut map: HeaderMap) {
    if !(USUAL_FIELDS..=LARGEST_KEPT).contains(&map.capacity()) {
        return;
    }
    // Before it is kept: a value may be all that holds a block of what was read.
    map.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < KEPT {
            spare.push(map);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_serves_again_and_is_empty_then() {
        let mut map = take(3);
        map.insert("x-one", "1".parse().unwrap());
        let room = map.capacity();
        give(map);
        let again = take(3);
        assert_eq!((again.len(), again.capacity()), (0, room));
        // What is too small or too large is not kept.
        for fields in [0, 1000] {
            give(HeaderMap::with_capacity(fields));
        }
        assert!((USUAL_FIELDS..=LARGEST_KEPT).contains(&take(0).capacity()));
        for _ in 0..100 {
            give(HeaderMap::with_capacity(USUAL_FIELDS));
        }
        assert_eq!(SPARE.with_borrow(Vec::len), KEPT);
    }
}
