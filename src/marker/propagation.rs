//! How long changes take from their writer to this gateway: measured on real ones.
//!
//! When the store tells of a change, its moment is remembered; when the marker is read next, it says when it was written. The
//! difference is counted once. Nothing waits for it, and what is remembered is bounded: a change whose place another one
//! takes before anybody asks for it is not counted.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prometheus_client::{encoding::EncodeLabelSet, metrics::family::Family, registry::Registry};

use super::{MarkerRecord, Reading, Source};
use crate::{
    clock::{Clock, Timestamp},
    telemetry::histogram::TimeHistogram,
};

/// What markers count as whose source is no [`Source`].
const OTHER: &str = "other";

/// A word holds a part of a key's hash above this many bits, and a time in milliseconds in them, enough for 34 years.
const TIME_BITS: u32 = 40;

/// The bits of the time.
const TIMES: u64 = (1 << TIME_BITS) - 1;

/// Changes that were told of and not read yet, and the times that came of others.
#[derive(Debug)]
pub(super) struct Propagation {
    clock: Clock,
    /// What times are counted from.
    origin: Timestamp,
    places: Box<[Place]>,
    times: Family<SourceLabel, TimeHistogram>,
    /// Those of each [`Source`], and of all others. Looking them up by label takes a lock.
    by_source: Vec<(&'static str, TimeHistogram)>,
}

#[derive(Default, Debug)]
struct Place {
    /// Whose change was told last, and when, plus one; 0: none that waits for its read.
    told: AtomicU64,
    /// Whose change was counted last, and when it was written. The store may tell of one change twice.
    counted: AtomicU64,
}

/// A change that was told before a read began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told(u64);

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

impl Propagation {
    /// Remembers up to `places` changes at a time, a power of two.
    pub(super) fn new(clock: Clock, places: usize) -> Self {
        let times = Family::<SourceLabel, TimeHistogram>::default();
        let names = Source::ALL.iter().map(|source| source.as_str()).chain([OTHER]);
        let by_source = names.map(|source| (source, times.get_or_create_owned(&SourceLabel { source }))).collect();
        let places = (0..places).map(|_| Place::default()).collect();
        Self { origin: clock.now(), clock, places, times, by_source }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "revocation_propagation_seconds",
            "Time from when a marker was written to when this gate was told of it",
            self.times.clone(),
        );
    }

    /// The store tells that the key with this hash has changed.
    pub(super) fn tell(&self, hash: u128) {
        let since = self.clock.now().since(self.origin).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX).min(TIMES - 1);
        self.place(hash).told.store(packed(hash, since + 1), Ordering::Release);
    }

    /// Nothing that was told is waited for any more: changes may have been missed, and what is read next may be another one.
    pub(super) fn reset(&self) {
        for place in &self.places {
            place.told.store(0, Ordering::Release);
        }
    }

    /// The change that a read that begins now will see, that or a later one.
    pub(super) fn told(&self, hash: u128) -> Option<Told> {
        let told = self.place(hash).told.load(Ordering::Acquire);
        (told != 0 && told >> TIME_BITS == tag(hash)).then_some(Told(told))
    }

    /// Counts what the read brought, unless a later change was told meanwhile: that one's read will count.
    pub(super) fn count(&self, hash: u128, told: Told, read: &Reading<MarkerRecord>) {
        let place = self.place(hash);
        if place.told.compare_exchange(told.0, 0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        let Reading::Present(MarkerRecord { written: Some(written), source, .. }) = read else { return };
        let counted = packed(hash, written.as_millis().unsigned_abs());
        if place.counted.swap(counted, Ordering::AcqRel) != counted {
            let since = Duration::from_millis((told.0 & TIMES).saturating_sub(1));
            self.times_of(source.as_deref()).observe(self.origin.plus(since).since(*written));
        }
    }

    fn times_of(&self, source: Option<&str>) -> &TimeHistogram {
        let known = self.by_source.iter().find(|(name, _)| Some(*name) == source);
        let (_, times) = known.unwrap_or(&self.by_source[Source::ALL.len()]);
        times
    }

    fn place(&self, hash: u128) -> &Place {
        // The lowest bits choose the slot of the generation, the highest are the tag.
        let mask = self.places.len() as u128 - 1;
        &self.places[(hash >> 32 & mask) as usize]
    }
}

fn tag(hash: u128) -> u64 {
    (hash >> (u128::BITS - (u64::BITS - TIME_BITS))) as u64
}

fn packed(hash: u128, time: u64) -> u64 {
    tag(hash) << TIME_BITS | time & TIMES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::ManualClock, marker::Marker};

    const NOW: Timestamp = Timestamp::from_millis(1_763_700_000_123);
    const KEY: u128 = 5 << 104 | 1;
    /// It shares the place of the other.
    const NEIGHBOUR: u128 = 6 << 104 | 2;

    fn new() -> (ManualClock, Propagation) {
        let clock = ManualClock::new(NOW);
        let propagation = Propagation::new(Clock::Manual(clock.clone()), 4);
        clock.advance(Duration::from_secs(60));
        (clock, propagation)
    }

    fn marker(written: Timestamp, source: Option<&str>) -> Reading<MarkerRecord> {
        let record = MarkerRecord::new(Marker::SessionEnd(NOW));
        Reading::Present(MarkerRecord { written: Some(written), source: source.map(str::to_owned), ..record })
    }

    fn read(propagation: &Propagation, key: u128, reading: &Reading<MarkerRecord>) {
        if let Some(told) = propagation.told(key) {
            propagation.count(key, told, reading);
        }
    }

    /// How many times were counted, and their sum in milliseconds.
    fn counted(propagation: &Propagation, source: &str) -> (u64, u64) {
        let (_, times) = propagation.by_source.iter().find(|(name, _)| *name == source).unwrap();
        let (count, sum) = times.totals();
        (count, u64::try_from(sum.as_millis()).unwrap())
    }

    #[test]
    fn a_change_is_counted_once_from_when_it_was_written_to_when_it_was_told() {
        let (clock, propagation) = new();
        let written = clock.now();
        clock.advance(Duration::from_millis(7));
        propagation.tell(KEY);
        clock.advance(Duration::from_secs(30));
        for _ in 0..3 {
            read(&propagation, KEY, &marker(written, Some("logout")));
        }
        // A store may tell of the same change once more.
        propagation.tell(KEY);
        read(&propagation, KEY, &marker(written, Some("logout")));
        assert_eq!(counted(&propagation, "logout"), (1, 7));
        let written = clock.now();
        clock.advance(Duration::from_millis(30));
        propagation.tell(KEY);
        read(&propagation, KEY, &marker(written, Some("logout")));
        assert_eq!(counted(&propagation, "logout"), (2, 37));
        assert_eq!([counted(&propagation, "admin"), counted(&propagation, "other")], [(0, 0); 2]);
    }

    #[test]
    fn what_was_not_told_is_not_counted() {
        let (clock, propagation) = new();
        let marker = marker(clock.now(), Some("admin"));
        read(&propagation, KEY, &marker);
        propagation.tell(NEIGHBOUR);
        read(&propagation, KEY, &marker);
        propagation.tell(KEY);
        for nothing in
            [Reading::Absent, Reading::Unreadable, Reading::Present(MarkerRecord::new(Marker::SessionEnd(NOW)))]
        {
            propagation.tell(KEY);
            read(&propagation, KEY, &nothing);
            read(&propagation, KEY, &marker);
        }
        propagation.tell(KEY);
        propagation.reset();
        read(&propagation, KEY, &marker);
        assert_eq!(counted(&propagation, "admin"), (0, 0));
    }

    /// A read that was under way when another change was told may bring the value from before it.
    #[test]
    fn a_read_counts_only_what_was_told_before_it_began() {
        let (clock, propagation) = new();
        let (old, new) = (clock.now().minus(Duration::from_secs(3600)), clock.now());
        propagation.tell(KEY);
        let told = propagation.told(KEY).unwrap();
        clock.advance(Duration::from_millis(2));
        propagation.tell(KEY);
        propagation.count(KEY, told, &marker(old, Some("admin")));
        assert_eq!(counted(&propagation, "admin"), (0, 0));
        read(&propagation, KEY, &marker(new, Some("admin")));
        assert_eq!(counted(&propagation, "admin"), (1, 2));
    }

    #[test]
    fn a_writer_whose_clock_is_ahead_counts_as_no_time() {
        let (clock, propagation) = new();
        propagation.tell(KEY);
        read(&propagation, KEY, &marker(clock.now().plus(Duration::from_secs(5)), Some("admin")));
        assert_eq!(counted(&propagation, "admin"), (1, 0));
    }

    #[test]
    fn sources_of_others_share_a_label() {
        let (clock, propagation) = new();
        let long = "x".repeat(2000);
        for (times, source) in
            [None, Some(""), Some("Admin"), Some("other"), Some("crm"), Some(&*long)].iter().enumerate()
        {
            propagation.tell(KEY);
            clock.advance(Duration::from_millis(1));
            read(&propagation, KEY, &marker(clock.now(), *source));
            assert_eq!(counted(&propagation, "other").0, times as u64 + 1, "{source:?}");
        }
        for source in Source::ALL {
            assert_eq!(counted(&propagation, source.as_str()), (0, 0));
        }
    }
}
