//! The generations of what is cached: how a change wins against any read, in whichever order the two arrive.
//!
//! # The protocol
//!
//! Every key belongs to one slot. A key's generation is the sum of its slot's counter and of one epoch for all. Neither
//! ever goes back, so the sum of several generations stands still only while each of them does.
//!
//! Whoever tells of changes, in the order in which the store made them:
//!
//! 1. [`change`](Generations::change): the key may have another value now;
//! 2. [`reset`](Generations::reset): any key may, because the channel is new, or everything was removed;
//! 3. [`hear`](Generations::hear)`(t)`: whatever the store changed before `t` has been told.
//!
//! Whoever reads a key:
//!
//! 1. loads its generation, *then* reads the value from the store, and keeps it under that generation;
//! 2. answers with a kept value only if it [`stands`](Generations::stands): the store was heard lately enough, and *after*
//!    that was asked, the generation is still the one that it is kept under.
//!
//! Everything that is told is counted, after the generations have moved on. While the count stands still, nothing that was told is
//! missing: whoever finds that generations stand, and loaded the count *before* them, may go by the count alone the next time ([`Note`]).
//!
//! # What follows
//!
//! - A value that was read before a change is never the answer once `change` has returned. Its generation was loaded before
//!   it was read, so it is at most the one before the change; nobody asks for that one again. This holds for reads that were under
//!   way, too, and nothing has to be removed.
//! - An answer that was given because the store was heard at `t` knows of every change before `t`. Those were told before `t`
//!   was, and the generations are loaded after it. The other way round, a thread that is held up between the two could take
//!   the news of a late `hear` for its own, and answer with what was told in between left out.
//!
//! `cache/model.rs` tries every order of events at the cache that is built on this, and `tests/loom` every order of the
//! loads and stores here.

use super::atomic::{AtomicU64, Ordering};

/// What one reset counts for. After 2^36 changes everything is forgotten once without need, in 79 days at 10,000 of them a second.
const RESET: u64 = 1 << 36;

/// The epoch, the slots, and when the store was last heard.
#[derive(Debug)]
pub(super) struct Generations {
    /// How often something was told: changes, and [`RESET`] for each reset.
    told: AtomicU64,
    /// One more than the latest time that was heard; 0: none.
    heard: AtomicU64,
    slots: Box<[AtomicU64]>,
}

/// What has been told, at some moment. Nothing that was read from then on is older.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Standing {
    told: u64,
    sum: u64,
}

/// When one and the same thing was true of some keys: what was told by then, and the sum of their generations. Each of the two stands for
/// itself, so that whoever takes note meanwhile does no harm.
#[derive(Debug)]
pub(super) struct Note {
    told: AtomicU64,
    sum: AtomicU64,
}

/// More than is ever told.
const NEVER: u64 = u64::MAX;

impl Note {
    /// It was never true.
    pub(super) fn new() -> Self {
        Self { told: AtomicU64::new(NEVER), sum: AtomicU64::new(NEVER) }
    }

    /// It was true of what was read from `standing` on.
    pub(super) fn take(&self, standing: Standing) {
        self.sum.store(standing.sum, Ordering::Release);
        self.told.store(standing.told, Ordering::Release);
    }
}

impl Generations {
    /// Generations of `slots` slots, a power of two. Nothing has been heard.
    pub(super) fn new(slots: usize) -> Self {
        debug_assert!(slots.is_power_of_two());
        let slots = (0..slots).map(|_| AtomicU64::new(0)).collect();
        Self { told: AtomicU64::new(0), heard: AtomicU64::new(0), slots }
    }

    /// The slot of a key with this hash.
    pub(super) fn slot(&self, hash: u128) -> usize {
        let mask = self.slots.len() as u128 - 1;
        (hash & mask) as usize
    }

    /// The generation of the keys in a slot.
    pub(super) fn of(&self, slot: usize) -> u64 {
        self.standing([slot]).sum
    }

    /// What has been told of the keys in some slots.
    pub(super) fn standing(&self, slots: impl IntoIterator<Item = usize>) -> Standing {
        let told = self.told.load(Ordering::Acquire);
        Standing { told, sum: self.sum(told, slots) }
    }

    /// The epoch, as it was when so much was told, and the counters of some slots together: as good as the generation of each.
    fn sum(&self, told: u64, slots: impl IntoIterator<Item = usize>) -> u64 {
        slots.into_iter().fold(told / RESET, |sum, slot| sum.wrapping_add(self.slots[slot].load(Ordering::Acquire)))
    }

    /// Whether what was read from `then` on is an answer: `is_recent` finds that the store was heard lately enough, and nothing was told
    /// of the keys in these slots since.
    pub(super) fn stands(
        &self,
        slots: impl IntoIterator<Item = usize>,
        then: Standing,
        is_recent: impl FnOnce(Option<u64>) -> bool,
    ) -> bool {
        // In this order, as the protocol says.
        if !is_recent(self.heard()) {
            return false;
        }
        let told = self.told.load(Ordering::Acquire);
        told == then.told || self.sum(told, slots) == then.sum
    }

    /// Whether what was noted is an answer, in the same way. As long as nothing at all is told, it takes a look at one count.
    pub(super) fn still(
        &self,
        slots: impl IntoIterator<Item = usize>,
        note: &Note,
        is_recent: impl FnOnce(Option<u64>) -> bool,
    ) -> bool {
        if !is_recent(self.heard()) {
            return false;
        }
        // Before the generations: they know of all that is counted in it.
        let told = self.told.load(Ordering::Acquire);
        if note.told.load(Ordering::Acquire) == told {
            return true;
        }
        let stands = self.sum(told, slots) == note.sum.load(Ordering::Acquire);
        if stands {
            note.told.store(told, Ordering::Release);
        }
        stands
    }

    /// The keys in a slot may have changed.
    pub(super) fn change(&self, slot: usize) {
        self.slots[slot].fetch_add(1, Ordering::AcqRel);
        self.told.fetch_add(1, Ordering::AcqRel);
    }

    /// Any key may have changed.
    pub(super) fn reset(&self) {
        self.told.fetch_add(RESET, Ordering::AcqRel);
    }

    /// Whatever changed before `time` has been told. An earlier time than one that was heard takes nothing back.
    pub(super) fn hear(&self, time: u64) {
        self.heard.fetch_max(time.saturating_add(1), Ordering::AcqRel);
    }

    /// The latest time that was heard.
    pub(super) fn heard(&self) -> Option<u64> {
        self.heard.load(Ordering::Acquire).checked_sub(1)
    }
}
