//! Which markers there are, in memory: most tokens have none, and need not wait for the disk to learn it.
//!
//! Only hashes are kept, so two names may share one: then the store is asked although there is nothing. The other way round it is
//! exact: a name whose hash is not here has no marker.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::store::hash::Hashed;

/// Hashes of the names of stored markers, each with how many there may be.
#[derive(Debug)]
pub(super) struct Presence {
    hasher: ahash::RandomState,
    counts: RwLock<Counts>,
}

type Counts = HashMap<u64, u32, Hashed>;

impl Presence {
    pub(super) fn new() -> Self {
        Self { hasher: ahash::RandomState::new(), counts: RwLock::default() }
    }

    /// Whether there is no marker of this name.
    pub(super) fn lacks(&self, key: &str) -> bool {
        !self.read().contains_key(&self.hasher.hash_one(key))
    }

    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.read().len()
    }

    /// A marker is about to be stored. Counting one too often costs a look-up, one too few would lose it.
    pub(super) fn add(&self, key: &str) {
        *self.write().entry(self.hasher.hash_one(key)).or_default() += 1;
    }

    /// A marker was removed.
    pub(super) fn remove(&self, key: &str) {
        let hash = self.hasher.hash_one(key);
        let mut counts = self.write();
        match counts.get_mut(&hash) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => drop(counts.remove(&hash)),
            None => {}
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Counts> {
        self.counts.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Counts> {
        self.counts.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_once_too_often_stays() {
        let presence = Presence::new();
        assert!(presence.lacks("a"));
        presence.add("a");
        presence.add("a");
        presence.remove("a");
        assert!(!presence.lacks("a"));
        presence.remove("a");
        presence.remove("a");
        assert!(presence.lacks("a"));
    }
}
