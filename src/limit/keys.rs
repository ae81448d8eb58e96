//! Who has spent how much, in bounded memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use governor::{nanos::Nanos, state::StateStore};

/// How many keys share a lock.
const WAYS: usize = 8;

/// A fixed table of keys' hashes, and of the time until which each has spent its budget in advance (GCRA's theoretical arrival time).
///
/// `governor`'s own maps grow with every key that there ever was, and whoever floods brings keys. Here a key has one of eight places,
/// chosen by its hash; if all are taken, the one goes that has spent least. Such a key begins anew, so that at
/// the bound the gate errs in favour of those who ask for little, and whoever asks for much stays limited.
///
/// Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    sets: Arc<[Mutex<Set>]>,
}

/// Hashes of keys and their times; zero: nobody.
#[derive(Clone, Copy, Default, Debug)]
struct Set([(u64, u64); WAYS]);

impl Keys {
    /// A table for this many keys or a few more.
    pub(super) fn new(capacity: usize) -> Self {
        let sets = capacity.div_ceil(WAYS).next_power_of_two();
        Self { sets: (0..sets).map(|_| Mutex::default()).collect() }
    }

    /// Takes so much time from what a key has spent in advance.
    pub(super) fn give_back(&self, key: u64, nanos: u64) {
        if let Some((_, until)) = self.set(key).0.iter_mut().find(|(hash, _)| *hash == key) {
            *until = until.saturating_sub(nanos);
        }
    }

    fn set(&self, key: u64) -> MutexGuard<'_, Set> {
        let index = usize::try_from(key % self.sets.len() as u64).unwrap_or_default();
        self.sets[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for Keys {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut set = self.set(*key);
        let known = set.0.iter().position(|(hash, _)| hash == key);
        let (outcome, until) = measure(known.map(|place| Nanos::new(set.0[place].1)))?;
        let least = || (0..WAYS).min_by_key(|place| set.0[*place].1).unwrap_or_default();
        let place = known.unwrap_or_else(least);
        set.0[place] = (*key, until.as_u64());
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn a_flood_of_keys_takes_no_more_room_and_frees_nobody_who_asks_for_much() {
        let keys = Keys::new(1024);
        let size = keys.sets.len() * WAYS;
        assert_eq!(size, 1024);
        let hasher = std::hash::RandomState::new();
        let spend = |key: u64, until: u64| {
            keys.measure_and_replace(&hasher.hash_one(key), |known| {
                Ok::<_, ()>((known.is_some(), Nanos::new(known.map_or(until, |known| known.as_u64().max(until)))))
            })
        };
        // Those who ask for much are 10 s ahead, each of the flood 1 s.
        for heavy in 0..100 {
            assert_eq!(spend(heavy, 10_000), Ok(false));
        }
        for light in 1000..1_001_000 {
            spend(light, 1000).unwrap();
        }
        let known = (0..100).filter(|heavy| spend(*heavy, 10_000) == Ok(true)).count();
        assert_eq!(known, 100);
        let taken: usize =
            keys.sets.iter().map(|set| set.lock().unwrap().0.iter().filter(|(hash, _)| *hash > 0).count()).sum();
        assert_eq!((taken, keys.sets.len() * WAYS), (size, size));
    }

    #[test]
    fn what_is_refused_takes_no_place() {
        let keys = Keys::new(8);
        assert_eq!(keys.measure_and_replace(&1, |_| Err::<((), _), _>("no")), Err("no"));
        assert_eq!(keys.measure_and_replace(&1, |known| Ok::<_, ()>((known.is_none(), Nanos::new(1)))), Ok(true));
    }
}
