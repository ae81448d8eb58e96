//! Gathers activity and writes it in batches.
//!
//! What is recorded for a subject is the first moment of each `resolution` in which it was active, and it is written at the
//! next flush: so it is never older than the truth by more than `resolution + flush_interval`, and each
//! subject costs one write per `resolution` however many requests, tokens and connections it has.
//!
//! While the store is out, what waits is kept: one time per subject, the newest.

use std::{
    collections::HashMap,
    hash::Hash as _,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use siphasher::sip128::{Hasher128 as _, SipHasher13};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{ActivitySettings, Writing};
use crate::{
    clock::{Clock, Timestamp},
    store::{Store, StoreError},
    token::claims::Subject,
};

/// Locks are split this many ways, so that threads seldom meet.
const SHARDS: usize = 16;

/// The most subjects that are written in one call of the store.
const BATCH: usize = 1000;

/// By subject.
type Times = HashMap<Subject, Timestamp, ahash::RandomState>;

/// By the digest of a subject: there may be many of these.
type Recent = HashMap<SubjectDigest, Timestamp, ahash::RandomState>;

/// 128 bits of a keyed hash: no two subjects meet by chance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct SubjectDigest(u64, u64);

/// Gathers activity of subjects.
#[derive(Debug)]
pub struct Recorder {
    settings: ActivitySettings,
    clock: Clock,
    hasher: ahash::RandomState,
    digests: SipHasher13,
    shards: [Mutex<Shard>; SHARDS],
    /// How many are being written.
    in_flight: AtomicUsize,
    metrics: RecorderMetrics,
}

/// What one part of the subjects did lately.
#[derive(Default, Debug)]
struct Shard {
    /// Not yet written.
    pending: Times,
    /// Recorded in the current and in the previous `resolution`: what need not be recorded again.
    recent: Recent,
    older: Recent,
    rotated: Option<Timestamp>,
}

/// When a token's subject was last recorded because of it: spares the lock.
#[derive(Debug)]
pub struct Trace(AtomicI64);

impl Default for Trace {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }
}

impl Recorder {
    /// A recorder that has nothing to write.
    #[must_use]
    pub fn new(settings: ActivitySettings, clock: Clock) -> Self {
        let hasher = ahash::RandomState::new();
        Self {
            settings,
            clock,
            digests: SipHasher13::new_with_keys(hasher.hash_one(0_u8), hasher.hash_one(1_u8)),
            hasher,
            shards: Default::default(),
            in_flight: AtomicUsize::new(0),
            metrics: RecorderMetrics::default(),
        }
    }

    /// Takes note that the subject was admitted at `now`.
    pub fn touch(&self, trace: &Trace, subject: &Subject, now: Timestamp) {
        let last = trace.0.load(Ordering::Relaxed);
        if self.is_recent(Timestamp::from_millis(last), now) {
            return;
        }
        // Whoever loses the race need not record: the winner does, for the same moment.
        if trace.0.compare_exchange(last, now.as_millis(), Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let recorded = self.note(subject, now);
            trace.0.store(recorded.as_millis(), Ordering::Relaxed);
        }
    }

    /// What waits to be written, for the subject.
    #[must_use]
    pub fn pending(&self, subject: &Subject) -> Option<Timestamp> {
        self.shard(subject).pending.get(subject).copied()
    }

    /// Writes what waits. What the store does not take waits on.
    ///
    /// # Errors
    /// The store's, at its first refusal.
    ///
    /// # Cancel safety
    /// Dropping the future loses what was being written: call it only from a task that is not cancelled.
    pub async fn flush(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut waiting = self.take();
        while !waiting.is_empty() {
            self.in_flight.store(waiting.len(), Ordering::Relaxed);
            let rest = waiting.split_off(waiting.len().min(BATCH));
            if let Err(error) = store.record_activity(&waiting).await {
                waiting.extend(rest);
                self.put_back(waiting);
                self.in_flight.store(0, Ordering::Relaxed);
                self.metrics.failures.inc();
                return Err(error);
            }
            self.metrics.written.inc_by(waiting.len() as u64);
            waiting = rest;
        }
        self.in_flight.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Writes every `flush_interval` until it is told to stop, and then once more.
    pub async fn run(self: Arc<Self>, store: Arc<dyn Store>, stop: CancellationToken) {
        let mut ticks = interval(self.settings.flush_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut writing = Writing::of("activity");
        loop {
            let stopping = tokio::select! {
                () = stop.cancelled() => true,
                _ = ticks.tick() => false,
            };
            writing.went(&self.flush(&*store).await, stopping);
            if stopping {
                return;
            }
        }
    }

    /// Registers the recorder's metrics.
    pub fn register(&self, registry: &mut Registry) {
        let metrics = &self.metrics;
        registry.register("activity_written", "Subjects whose activity was written", metrics.written.clone());
        registry.register(
            "activity_flush_failures",
            "Writes of activity that the store did not take",
            metrics.failures.clone(),
        );
        registry.register("activity_pending", "Subjects whose activity waits to be written", metrics.pending.clone());
    }

    /// Brings gauges up to date. Called before metrics are read.
    pub fn measure(&self) {
        // What is being written to a store that hangs waits as well.
        let pending: usize = self.shards.iter().map(|shard| lock(shard).pending.len()).sum();
        let pending = pending + self.in_flight.load(Ordering::Relaxed);
        self.metrics.pending.set(i64::try_from(pending).unwrap_or(i64::MAX));
    }

    /// Records unless the subject was recorded lately; says which moment stands recorded.
    fn note(&self, subject: &Subject, now: Timestamp) -> Timestamp {
        let digest = self.digest(subject);
        let mut shard = self.shard(subject);
        shard.rotate(now, self.settings);
        let last = [&shard.recent, &shard.older].into_iter().find_map(|times| times.get(&digest).copied());
        if let Some(last) = last.filter(|last| self.is_recent(*last, now)) {
            return last;
        }
        shard.recent.insert(digest, now);
        shard.pending.insert(subject.clone(), now);
        now
    }

    /// A time that lies ahead is not recent: the clock was set back since.
    fn is_recent(&self, last: Timestamp, now: Timestamp) -> bool {
        last <= now && now.since(last) < self.settings.resolution
    }

    fn take(&self) -> Vec<(Subject, Timestamp)> {
        let now = self.clock.now();
        let pending = self.shards.iter().flat_map(|shard| mem::take(&mut lock(shard).pending));
        pending.map(|(subject, time)| (subject, time.min(now))).collect()
    }

    fn put_back(&self, waiting: Vec<(Subject, Timestamp)>) {
        for (subject, time) in waiting {
            let mut shard = self.shard(&subject);
            let newest = shard.pending.get(&subject).map_or(time, |newer| time.max(*newer));
            shard.pending.insert(subject, newest);
        }
    }

    fn digest(&self, subject: &Subject) -> SubjectDigest {
        let mut hasher = self.digests;
        subject.hash(&mut hasher);
        let digest = hasher.finish128();
        SubjectDigest(digest.h1, digest.h2)
    }

    fn shard(&self, subject: &Subject) -> MutexGuard<'_, Shard> {
        #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
        let hash = self.hasher.hash_one(subject) as usize;
        lock(&self.shards[hash % SHARDS])
    }
}

impl Shard {
    /// Forgets what is older than one `resolution`, without looking at each entry.
    fn rotate(&mut self, now: Timestamp, settings: ActivitySettings) {
        match self.rotated {
            Some(last) if last <= now && now.since(last) < settings.resolution => {}
            _ => {
                self.older = mem::take(&mut self.recent);
                self.rotated = Some(now);
            }
        }
    }
}

/// A panic elsewhere leaves these maps usable: each operation on them is a single step.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default, Debug)]
struct RecorderMetrics {
    written: Counter,
    failures: Counter,
    pending: Gauge,
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use async_trait::async_trait;
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        clock::ManualClock,
        marker::{MarkerKey, MarkerRecord, Reading},
        store::{Merged, StoreReport},
    };

    const SETTINGS: ActivitySettings =
        ActivitySettings { resolution: Duration::from_secs(60), flush_interval: Duration::from_secs(1) };

    /// Takes activity, or not; counts writes.
    #[derive(Default, Debug)]
    struct Sink {
        down: Mutex<bool>,
        hangs: bool,
        writes: Mutex<Vec<(Subject, Timestamp)>>,
    }

    #[async_trait]
    impl Store for Sink {
        async fn read(&self, _: &MarkerKey) -> Result<Reading<MarkerRecord>, StoreError> {
            Ok(Reading::Absent)
        }
        async fn merge(&self, _: &MarkerKey, _: &MarkerRecord, _: Option<Timestamp>) -> Result<Merged, StoreError> {
            Err(StoreError::timed_out(&"sink".into()))
        }
        async fn record_activity(&self, batch: &[(Subject, Timestamp)]) -> Result<(), StoreError> {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            if *self.down.lock().unwrap() {
                return Err(StoreError::timed_out(&"sink".into()));
            }
            self.writes.lock().unwrap().extend_from_slice(batch);
            Ok(())
        }
        async fn last_activity(&self, _: &Subject) -> Result<Option<Timestamp>, StoreError> {
            Ok(None)
        }
        async fn forget_activity(&self, _: &[(Subject, Timestamp)]) -> Result<(), StoreError> {
            Ok(())
        }

        async fn report(&self) -> Result<StoreReport, StoreError> {
            Err(StoreError::timed_out(&"sink".into()))
        }
        async fn close(&self) {}
    }

    fn subject(id: usize) -> Subject {
        Subject { issuer: "acme".try_into().unwrap(), id: (&*format!("user-{id}")).try_into().unwrap() }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Touch { subject: usize, token: usize },
        Wait { millis: u64 },
        Flush,
        Outage(bool),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            4 => (0..3_usize, 0..2_usize).prop_map(|(subject, token)| Act::Touch { subject, token }),
            2 => (0..90_000_u64).prop_map(|millis| Act::Wait { millis }),
            2 => Just(Act::Flush),
            1 => any::<bool>().prop_map(Act::Outage),
        ];
        prop::collection::vec(act, 1..80)
    }

    proptest! {
        /// Against the truth: what is written plus what waits is never ahead of it, and behind it by less than the resolution;
        /// and no subject is written twice for one resolution.
        #[test]
        fn recorded_times_are_true_within_the_resolution(acts in acts()) {
            let clock = ManualClock::new(Timestamp::from_secs(1_700_000_000));
            let recorder = Recorder::new(SETTINGS, Clock::Manual(clock.clone()));
            let sink = Sink::default();
            let traces: Vec<Trace> = (0..6).map(|_| Trace::default()).collect();
            let mut truth = BTreeMap::new();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for act in acts {
                match act {
                    Act::Touch { subject: id, token } => {
                        recorder.touch(&traces[id * 2 + token], &subject(id), clock.now());
                        truth.insert(id, clock.now());
                    }
                    Act::Wait { millis } => clock.advance(Duration::from_millis(millis)),
                    Act::Flush => {
                        let down = *sink.down.lock().unwrap();
                        let had = !recorder.take_snapshot().is_empty();
                        prop_assert_eq!(runtime.block_on(recorder.flush(&sink)).is_err(), down && had);
                    }
                    Act::Outage(down) => *sink.down.lock().unwrap() = down,
                }
                let writes = sink.writes.lock().unwrap().clone();
                for (id, true_time) in &truth {
                    let written = writes.iter().filter(|(s, _)| *s == subject(*id)).map(|(_, time)| *time);
                    let known = written.chain(recorder.pending(&subject(*id))).max();
                    prop_assert!(known.is_some_and(|known| known <= *true_time && true_time.since(known) < SETTINGS.resolution));
                }
                for id in truth.keys() {
                    let times: Vec<_> = writes.iter().filter(|(s, _)| *s == subject(*id)).map(|(_, time)| *time).collect();
                    prop_assert!(times.windows(2).all(|pair| pair[1].since(pair[0]) >= SETTINGS.resolution));
                }
            }
        }
    }

    impl Recorder {
        fn take_snapshot(&self) -> Vec<Timestamp> {
            self.shards.iter().flat_map(|shard| lock(shard).pending.values().copied().collect::<Vec<_>>()).collect()
        }
    }

    #[test]
    fn what_is_being_written_to_a_store_that_hangs_waits_too() {
        let clock = ManualClock::new(Timestamp::from_secs(1_700_000_000));
        let recorder = Recorder::new(SETTINGS, Clock::Manual(clock.clone()));
        let sink = Sink { hangs: true, ..Sink::default() };
        recorder.touch(&Trace::default(), &subject(1), clock.now());
        let mut flush = Box::pin(recorder.flush(&sink));
        assert!(flush.as_mut().now_or_never().is_none(), "it hangs");
        recorder.measure();
        assert_eq!(recorder.metrics.pending.get(), 1);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_stop_recording() {
        let clock = ManualClock::new(Timestamp::from_secs(1_700_000_000));
        let recorder = Recorder::new(SETTINGS, Clock::Manual(clock.clone()));
        let trace = Trace::default();
        recorder.touch(&trace, &subject(1), clock.now());
        clock.set(clock.now().minus(Duration::from_secs(3600)));
        recorder.touch(&trace, &subject(1), clock.now());
        assert_eq!(recorder.pending(&subject(1)), Some(clock.now()));
    }
}
