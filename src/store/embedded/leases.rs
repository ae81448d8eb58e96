//! Who does what. Kept in memory: whoever has a lease is part of this process, and ends with it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::clock::{Clock, Timestamp};

/// Leases that may be over. Those that are go whenever one is taken.
#[derive(Debug)]
pub(super) struct Leases {
    clock: Clock,
    held: Mutex<HashMap<String, Lease>>,
}

#[derive(Debug)]
struct Lease {
    owner: String,
    until: Timestamp,
}

impl Leases {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, held: Mutex::default() }
    }

    /// Takes or renews a lease; whether `owner` has it.
    pub(super) fn take(&self, name: &str, owner: &str, term: Duration) -> bool {
        let now = self.clock.now();
        let mut held = self.lock();
        held.retain(|_, lease| lease.until > now);
        if held.get(name).is_some_and(|lease| lease.owner != owner) {
            return false;
        }
        held.insert(name.to_owned(), Lease { owner: owner.to_owned(), until: now.plus(term) });
        true
    }

    /// Gives a lease back, if `owner` has it.
    pub(super) fn release(&self, name: &str, owner: &str) {
        let mut held = self.lock();
        if held.get(name).is_some_and(|lease| lease.owner == owner) {
            held.remove(name);
        }
    }

    /// Who has a lease.
    pub(super) fn owner(&self, name: &str) -> Option<String> {
        let now = self.clock.now();
        self.lock().get(name).filter(|lease| lease.until > now).map(|lease| lease.owner.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Lease>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn a_lease_is_its_owners_to_the_very_end_of_its_term() {
        let clock = ManualClock::new(Timestamp::from_millis(0));
        let leases = Leases::new(Clock::Manual(clock.clone()));
        let term = Duration::from_millis(100);
        assert!(leases.take("a", "one", term));
        clock.set(Timestamp::from_millis(99));
        assert!(!leases.take("a", "other", term));
        assert_eq!(leases.owner("a").as_deref(), Some("one"));
        clock.set(Timestamp::from_millis(100));
        assert_eq!(leases.owner("a"), None);
        assert!(leases.take("a", "other", term));
        assert!(!leases.take("a", "one", term));
    }
}
