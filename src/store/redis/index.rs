//! The names of all markers there are, in memory: most tokens have none, and need not wait for the server to learn it.
//!
//! Loaded by `SCAN` once changes are pushed, and kept by them: a name that is pushed is added, never removed, for it may
//! stand for a marker. So what is here is at least what is there, and a name that is not here has no marker. The names of
//! markers that are gone are got rid of by loading anew now and then.
//!
//! Only hashes are kept. Two names may share one: then the server is asked although there is nothing.

use std::{
    collections::HashSet,
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use crate::store::hash::Hashed;

/// Sets are split this many ways, so that one that grows holds nobody up for long.
const SHARDS: usize = 64;

/// How many names may be added before it is worth while to load anew, whatever the number of markers.
const FEW: usize = 50_000;

/// The names of markers.
#[derive(Debug)]
pub(super) struct Index {
    hasher: ahash::RandomState,
    limit: usize,
    shards: [RwLock<Shard>; SHARDS],
    /// Whether `current` holds every name.
    complete: AtomicBool,
    /// Names in `current` and in `next`.
    sizes: [AtomicUsize; 2],
    loading: Mutex<Loading>,
    wanted: Notify,
}

/// One part of the names.
#[derive(Default, Debug)]
struct Shard {
    current: Hashes,
    /// What is being loaded, and added meanwhile.
    next: Option<Hashes>,
}

type Hashes = HashSet<u64, Hashed>;

#[derive(Default, Debug)]
struct Loading {
    /// Which loading is the valid one.
    round: u64,
    /// How many names the last one found.
    found: usize,
    /// Why nothing is kept.
    unkept: Option<Unkept>,
}

/// A loading that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Round(u64);

/// Why names are not kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Unkept {
    /// There are too many.
    #[error(
        "there are more keys than `store.index_limit` allows for, so the first request of each user waits for the server; \
         raise it, or give the markers a database of their own"
    )]
    TooMany,
    /// They cannot be found out.
    #[error("its user may not SCAN, so the first request of each user waits for the server; allow it `+scan`")]
    Denied,
}

impl Index {
    /// An index that knows nothing, and keeps `limit` names at most.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            hasher: ahash::RandomState::new(),
            limit,
            shards: std::array::from_fn(|_| RwLock::default()),
            complete: AtomicBool::new(false),
            sizes: Default::default(),
            loading: Mutex::default(),
            wanted: Notify::new(),
        }
    }

    /// Whether there is no marker of this name, as far as pushes have come.
    pub(super) fn lacks(&self, name: &str) -> bool {
        if !self.complete.load(Ordering::Acquire) {
            return false;
        }
        let hash = self.hasher.hash_one(name);
        !self.shards[part(hash)].read().unwrap_or_else(PoisonError::into_inner).current.contains(&hash)
    }

    /// There may be a marker of this name. To be called before anybody else is told.
    pub(super) fn add(&self, name: &str) {
        if self.limit == 0 {
            return;
        }
        let hash = self.hasher.hash_one(name);
        let mut shard = self.write(part(hash));
        let added = shard.current.insert(hash);
        let loaded = shard.next.as_mut().is_some_and(|next| next.insert(hash));
        drop(shard);
        self.count(0, added);
        self.count(1, loaded);
        if added {
            self.bound();
        }
    }

    /// Pushes may have been missed: nothing is known until it is loaded anew. To be called before anybody else is told.
    pub(super) fn forget(&self) {
        let mut loading = self.lock();
        self.complete.store(false, Ordering::Release);
        loading.round += 1;
        self.wanted.notify_one();
    }

    /// Resolves when it is to be loaded.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Begins to load. What is pushed from here on is kept too.
    pub(super) fn begin(&self) -> Round {
        let mut loading = self.lock();
        loading.round += 1;
        for part in 0..SHARDS {
            self.write(part).next = Some(Hashes::default());
        }
        self.sizes[1].store(0, Ordering::Relaxed);
        Round(loading.round)
    }

    /// A name was found.
    pub(super) fn found(&self, name: &str) -> Result<(), Unkept> {
        let hash = self.hasher.hash_one(name);
        let new = self.write(part(hash)).next.as_mut().is_some_and(|next| next.insert(hash));
        self.count(1, new);
        if self.sizes[1].load(Ordering::Relaxed) > self.limit { Err(Unkept::TooMany) } else { Ok(()) }
    }

    /// Everything was found, unless pushes may have been missed since the round began.
    pub(super) fn finish(&self, round: Round) -> bool {
        let mut loading = self.lock();
        if loading.round != round.0 {
            return false;
        }
        for part in 0..SHARDS {
            let mut shard = self.write(part);
            if let Some(next) = shard.next.take() {
                // The old names are dropped after the lock.
                let old = mem::replace(&mut shard.current, next);
                drop(shard);
                drop(old);
            }
        }
        loading.unkept = None;
        loading.found = self.sizes[1].swap(0, Ordering::Relaxed);
        self.sizes[0].store(loading.found, Ordering::Relaxed);
        self.complete.store(true, Ordering::Release);
        true
    }

    /// It cannot be kept: nothing is known until it is forgotten the next time, and loaded.
    pub(super) fn give_up(&self, why: Unkept) {
        let mut loading = self.lock();
        loading.round += 1;
        loading.unkept = Some(why);
        self.complete.store(false, Ordering::Release);
        for part in 0..SHARDS {
            *self.write(part) = Shard::default();
        }
        self.sizes.iter().for_each(|size| size.store(0, Ordering::Relaxed));
    }

    /// The most names that are kept.
    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    /// Why it is not kept, if it is not.
    pub(super) fn unkept(&self) -> Option<Unkept> {
        self.lock().unkept
    }

    /// How many names there are, if it is complete.
    pub(super) fn len(&self) -> Option<usize> {
        self.complete.load(Ordering::Acquire).then(|| self.sizes[0].load(Ordering::Relaxed))
    }

    fn count(&self, which: usize, new: bool) {
        self.sizes[which].fetch_add(usize::from(new), Ordering::Relaxed);
    }

    /// Once most names may stand for nothing, it is worth while to look.
    fn bound(&self) {
        let size = self.sizes[0].load(Ordering::Relaxed);
        if size > self.limit {
            return self.give_up(Unkept::TooMany);
        }
        if size.is_multiple_of(FEW) && self.complete.load(Ordering::Acquire) && size > 2 * self.lock().found.max(FEW) {
            self.wanted.notify_one();
        }
    }

    fn write(&self, part: usize) -> RwLockWriteGuard<'_, Shard> {
        self.shards[part].write().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Loading> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sets' own tables go by the low and the high bits.
fn part(hash: u64) -> usize {
    usize::from(hash.to_le_bytes()[5]) % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(names: &[&str]) -> Index {
        let index = Index::new(1000);
        let round = index.begin();
        for name in names {
            index.found(name).unwrap();
        }
        assert!(index.finish(round));
        index
    }

    #[test]
    fn nothing_is_known_before_everything_was_found() {
        let index = Index::new(10);
        assert!(!index.lacks("a"));
        let round = index.begin();
        index.found("a").unwrap();
        assert!(!index.lacks("b"));
        assert!(index.finish(round));
        assert!(!index.lacks("a") && index.lacks("b"));
        assert_eq!(index.len(), Some(1));
    }

    #[test]
    fn what_is_added_while_it_is_loaded_is_kept() {
        let index = loaded(&["a"]);
        let round = index.begin();
        index.add("b");
        assert!(!index.lacks("b"), "at once");
        assert!(index.finish(round));
        assert!(!index.lacks("b") && index.lacks("a"), "and afterwards; what is gone is forgotten");
    }

    #[test]
    fn what_may_have_been_missed_makes_a_loading_void() {
        let index = loaded(&[]);
        let round = index.begin();
        index.forget();
        assert!(!index.lacks("a"));
        assert!(!index.finish(round) && !index.lacks("a"));
        assert!(index.finish(index.begin()) && index.lacks("a"));
    }

    #[test]
    fn too_many_names_are_not_kept() {
        let index = Index::new(2);
        let _ = index.begin();
        assert_eq!(["a", "b", "c"].map(|name| index.found(name)), [Ok(()), Ok(()), Err(Unkept::TooMany)]);
        let index = Index::new(2);
        assert!(index.finish(index.begin()));
        for name in ["a", "b", "c"] {
            assert!(index.lacks("d"));
            index.add(name);
        }
        assert!(!index.lacks("d"));
        assert_eq!(index.len(), None);
    }

    #[tokio::test]
    async fn it_is_loaded_anew_once_most_names_may_stand_for_nothing() {
        let index = Index::new(10 * FEW);
        assert!(index.finish(index.begin()));
        for name in 0..=3 * FEW {
            index.add(&name.to_string());
        }
        tokio::time::timeout(std::time::Duration::from_secs(5), index.wanted()).await.unwrap();
        assert!(index.lacks("x"), "meanwhile it serves");
    }
}
