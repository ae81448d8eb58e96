//! A table of what was verified, which takes so much memory at most.
//!
//! Open addressing: an entry is looked for from the place that its digest means up to the next empty one. Four places share a cache line,
//! so a look-up touches one line of the table, or two, and then the entry. Nothing of the table is written to.
//!
//! Whoever has to go when there is no more room is found by a hand that goes round (CLOCK): it takes the first that was not used since it
//! last came by. So what is asked for once and never again does not drive out what is in use.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::TokenDigest;

/// What a table keeps.
pub(super) trait Entry {
    /// What it is found by.
    fn digest(&self) -> TokenDigest;

    /// What it takes, in bytes. It never changes.
    fn size(&self) -> u64;

    /// Whether it was used lately.
    fn used(&self) -> &AtomicBool;
}

/// Entries of a limited size together.
#[derive(Debug)]
pub(super) struct Table<T> {
    /// As many as a power of two, or none. A quarter of them is empty at least.
    places: Box<[Place<T>]>,
    len: usize,
    /// What the entries take, and what they may.
    bytes: u64,
    capacity: u64,
    /// The next to be looked at when there is no more room.
    hand: usize,
}

#[derive(Debug)]
struct Place<T> {
    /// Part of the entry's digest.
    hash: u64,
    entry: Option<Arc<T>>,
}

impl<T> Default for Place<T> {
    fn default() -> Self {
        Self { hash: 0, entry: None }
    }
}

impl<T: Entry> Table<T> {
    /// An empty table whose entries may take so many bytes.
    pub(super) fn new(capacity: u64) -> Self {
        Self { places: Box::default(), len: 0, bytes: 0, capacity, hand: 0 }
    }

    /// How many entries there are.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// What they take.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn find(&self, digest: TokenDigest) -> Option<&Arc<T>> {
        self.places[self.position(digest)?].entry.as_ref()
    }

    /// Takes in an entry, in place of another of its digest. How many others had to go, or whether it would take more than all.
    pub(super) fn insert(&mut self, entry: Arc<T>) -> u64 {
        self.remove(entry.digest());
        if entry.size() > self.capacity {
            return 1;
        }
        let mut gone = 0;
        while self.bytes > self.capacity - entry.size() {
            gone += u64::from(self.tick());
        }
        if (self.len + 1) * 4 > self.places.len() * 3 {
            self.grow();
        }
        self.len += 1;
        self.bytes += entry.size();
        self.put(Place { hash: entry.digest().low, entry: Some(entry) });
        gone
    }

    pub(super) fn remove(&mut self, digest: TokenDigest) {
        if let Some(place) = self.position(digest) {
            self.remove_at(place);
        }
    }

    /// Lets go of everything.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.capacity);
    }

    fn position(&self, digest: TokenDigest) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        let mut place = self.home(digest.low);
        loop {
            let Place { hash, entry } = &self.places[place];
            let entry = entry.as_ref()?;
            if *hash == digest.low && entry.digest() == digest {
                return Some(place);
            }
            place = self.after(place);
        }
    }

    /// Where an entry is looked for first.
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.places.len() - 1)
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.places.len() - 1)
    }

    fn grow(&mut self) {
        let places = (self.places.len() * 2).max(8);
        let former = mem::replace(&mut self.places, (0..places).map(|_| Place::default()).collect());
        self.hand = 0;
        former.into_iter().filter(|place| place.entry.is_some()).for_each(|place| self.put(place));
    }

    fn put(&mut self, filled: Place<T>) {
        let mut place = self.home(filled.hash);
        while self.places[place].entry.is_some() {
            place = self.after(place);
        }
        self.places[place] = filled;
    }

    /// Looks at one entry: spares it once if it was used, else it has to go.
    fn tick(&mut self) -> bool {
        let place = self.hand;
        match &self.places[place].entry {
            Some(entry) if !entry.used().swap(false, Ordering::Relaxed) => {
                // Another one may be here now.
                self.remove_at(place);
                true
            }
            _ => {
                self.hand = self.after(place);
                false
            }
        }
    }

    /// Empties a place, and brings those nearer that were put behind it.
    fn remove_at(&mut self, mut gap: usize) {
        if let Some(entry) = self.places[gap].entry.take() {
            self.len -= 1;
            self.bytes -= entry.size();
        }
        let mask = self.places.len() - 1;
        let mut next = self.after(gap);
        while self.places[next].entry.is_some() {
            let way = next.wrapping_sub(self.home(self.places[next].hash)) & mask;
            if way >= next.wrapping_sub(gap) & mask {
                self.places.swap(gap, next);
                gap = next;
            }
            next = self.after(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug)]
    struct Sized {
        digest: TokenDigest,
        size: u64,
        used: AtomicBool,
    }

    impl Entry for Sized {
        fn digest(&self) -> TokenDigest {
            self.digest
        }
        fn size(&self) -> u64 {
            self.size
        }
        fn used(&self) -> &AtomicBool {
            &self.used
        }
    }

    fn entry(low: u64, high: u64, size: u64) -> Arc<Sized> {
        Arc::new(Sized { digest: TokenDigest { low, high }, size, used: AtomicBool::new(false) })
    }

    #[derive(Clone, Debug)]
    enum Act {
        Insert { low: u64, high: u64, size: u64 },
        Remove { low: u64, high: u64 },
        Use { low: u64, high: u64 },
        Clear,
    }

    /// Few digests, of which many mean the same place, and some agree in the half that is looked at first.
    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let digest = || ((0..40_u64).prop_map(|n| n % 5 * 32 + n / 5), 0..2_u64);
        let act = prop_oneof![
            8 => (digest(), 1..30_u64).prop_map(|((low, high), size)| Act::Insert { low, high, size }),
            3 => digest().prop_map(|(low, high)| Act::Remove { low, high }),
            3 => digest().prop_map(|(low, high)| Act::Use { low, high }),
            1 => Just(Act::Clear),
        ];
        prop::collection::vec(act, 1..200)
    }

    proptest! {
        /// Beside a map: what is found was put there last, nothing is lost but for want of room, and the bound holds.
        #[test]
        fn a_table_is_a_map_that_forgets_for_want_of_room(acts in acts(), capacity in prop_oneof![Just(u64::MAX), 20..400_u64]) {
            let mut table = Table::new(capacity);
            let mut model: HashMap<(u64, u64), Arc<Sized>> = HashMap::new();
            for act in acts {
                match act {
                    Act::Insert { low, high, size } => {
                        let entry = entry(low, high, size);
                        model.insert((low, high), Arc::clone(&entry));
                        let gone = table.insert(entry);
                        let before = model.len();
                        model.retain(|_, entry| table.find(entry.digest).is_some());
                        prop_assert_eq!(gone, (before - model.len()) as u64);
                        prop_assert!(gone == 0 || table.bytes() + 30 > capacity, "there was room");
                    }
                    Act::Remove { low, high } => {
                        table.remove(TokenDigest { low, high });
                        model.remove(&(low, high));
                    }
                    Act::Use { low, high } => {
                        if let Some(entry) = table.find(TokenDigest { low, high }) {
                            entry.used.store(true, Ordering::Relaxed);
                        }
                    }
                    Act::Clear => {
                        table.clear();
                        model.clear();
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.bytes(), model.values().map(|entry| entry.size).sum::<u64>());
                prop_assert!(table.bytes() <= capacity);
                for low in (0..40_u64).map(|n| n % 5 * 32 + n / 5) {
                    for high in 0..2 {
                        let found = table.find(TokenDigest { low, high });
                        let expected = model.get(&(low, high));
                        prop_assert_eq!(found.is_some(), expected.is_some());
                        prop_assert!(found.zip(expected).is_none_or(|(found, expected)| Arc::ptr_eq(found, expected)));
                    }
                }
            }
        }
    }

    #[test]
    fn who_is_used_stays_and_who_is_not_goes() {
        let mut table = Table::new(100);
        let spread = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for n in 0..10 {
            table.insert(entry(spread(n), n, 1));
        }
        for n in 10..5000 {
            table.insert(entry(spread(n), n, 1));
            for kept in 0..10 {
                let kept = table.find(TokenDigest { low: spread(kept), high: kept });
                kept.expect("it is used all the time").used.store(true, Ordering::Relaxed);
            }
        }
        assert_eq!((table.len(), table.bytes()), (100, 100));
        assert!(table.places.len() <= 256, "it does not grow without need");
    }
}
