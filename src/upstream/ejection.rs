//! Endpoints that are left alone for a while, because requests to them failed one after another.
//!
//! ```text
//! good ──── `failures` in a row ────► ejected ──── time is up ────► on trial ──── successes in a row ────► good
//!                                        ▲                             │
//!                                        └────── one more failure ─────┘   for twice as long
//! ```
//!
//! On trial an endpoint gets a part of its share, so that one that is not well yet does little harm. What an ejection means for
//! the choice of an endpoint is for [`balance`](super::balance) to say.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use http::StatusCode;

/// How many successes in a row end a trial.
const TRIAL: u32 = 5;

/// When endpoints are left alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EjectionSettings {
    /// After how many failures in a row; 0: never.
    pub failures: u32,
    /// For how long the first time.
    pub time: Duration,
    /// For how long at most.
    pub max_time: Duration,
    /// The statuses that count as failures, besides connections and exchanges that fail.
    pub statuses: Box<[StatusCode]>,
}

impl Default for EjectionSettings {
    fn default() -> Self {
        Self {
            failures: 5,
            time: Duration::from_secs(5),
            max_time: Duration::from_secs(300),
            statuses: [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT].into(),
        }
    }
}

/// What became of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// It is left alone for this long.
    Ejected(Duration),
    /// It gets a part of its share.
    OnTrial,
    /// It is as good as any other.
    Good,
}

const GOOD: u8 = 0;
const EJECTED: u8 = 1;
const ON_TRIAL: u8 = 2;

/// What is thought of an endpoint. A success of a good one costs two atomic loads.
#[derive(Debug)]
pub(super) struct Standing {
    state: AtomicU8,
    /// In a row.
    failures: AtomicU32,
    record: Mutex<Record>,
}

#[derive(Debug)]
struct Record {
    /// How often it was ejected without being good for long in between.
    ejections: u32,
    /// When it may come back, or came back.
    back: Instant,
    /// For how long it was ejected last.
    last: Duration,
    /// In a row, on trial.
    successes: u32,
}

impl Standing {
    pub(super) fn new(now: Instant) -> Self {
        let record = Record { ejections: 0, back: now, last: Duration::ZERO, successes: 0 };
        Self { state: AtomicU8::new(GOOD), failures: AtomicU32::new(0), record: Mutex::new(record) }
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.state.load(Ordering::Relaxed) == EJECTED
    }

    pub(super) fn is_on_trial(&self) -> bool {
        self.state.load(Ordering::Relaxed) == ON_TRIAL
    }

    pub(super) fn succeeded(&self) -> Option<Change> {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if !self.is_on_trial() {
            // What an ejected one still answers was asked before, or for want of a better one.
            return None;
        }
        let mut record = self.record();
        if !self.is_on_trial() {
            return None;
        }
        record.successes += 1;
        (record.successes >= TRIAL).then(|| {
            self.state.store(GOOD, Ordering::Relaxed);
            Change::Good
        })
    }

    pub(super) fn failed(&self, settings: &EjectionSettings, now: Instant) -> Option<Change> {
        if settings.failures == 0 {
            return None;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if self.is_ejected() || !self.is_on_trial() && failures < settings.failures {
            return None;
        }
        let mut record = self.record();
        // Somebody else may have been faster.
        if self.is_ejected() {
            return None;
        }
        if !self.is_on_trial() && now.saturating_duration_since(record.back) > 2 * record.last {
            record.ejections = 0;
        }
        let time = settings.time.saturating_mul(1 << record.ejections.min(16)).min(settings.max_time);
        record.ejections = record.ejections.saturating_add(1);
        record.last = time;
        record.back = now + time;
        record.successes = 0;
        self.failures.store(0, Ordering::Relaxed);
        self.state.store(EJECTED, Ordering::Relaxed);
        Some(Change::Ejected(time))
    }

    /// Brings it back if its time is up.
    pub(super) fn review(&self, now: Instant) -> Option<Change> {
        if !self.is_ejected() {
            return None;
        }
        let record = self.record();
        (self.is_ejected() && now >= record.back).then(|| {
            self.state.store(ON_TRIAL, Ordering::Relaxed);
            Change::OnTrial
        })
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings(failures: u32) -> EjectionSettings {
        EjectionSettings { failures, time: 10 * SECOND, max_time: 60 * SECOND, ..EjectionSettings::default() }
    }

    fn fail(standing: &Standing, times: u32, now: Instant) -> Option<Change> {
        (0..times).filter_map(|_| standing.failed(&settings(3), now)).last()
    }

    #[test]
    fn failures_in_a_row_eject_and_successes_in_between_do_not() {
        let now = Instant::now();
        let standing = Standing::new(now);
        for _ in 0..10 {
            assert_eq!(fail(&standing, 2, now), None);
            assert_eq!(standing.succeeded(), None);
        }
        assert_eq!(fail(&standing, 3, now), Some(Change::Ejected(10 * SECOND)));
        assert!(standing.is_ejected());
        // What was under way does not make it longer, nor shorter.
        assert_eq!((fail(&standing, 9, now), standing.succeeded()), (None, None));
        assert_eq!(standing.review(now + 9 * SECOND), None);
        assert_eq!(standing.review(now + 10 * SECOND), Some(Change::OnTrial));
        assert_eq!(standing.review(now + 10 * SECOND), None);
    }

    #[test]
    fn one_failure_on_trial_ejects_for_longer_up_to_a_limit() {
        let mut now = Instant::now();
        let standing = Standing::new(now);
        fail(&standing, 3, now);
        for expected in [20, 40, 60, 60] {
            now += 100 * SECOND;
            standing.review(now);
            // Not enough of them.
            (1..TRIAL).for_each(|_| assert_eq!(standing.succeeded(), None));
            assert_eq!(fail(&standing, 1, now), Some(Change::Ejected(expected * SECOND)));
        }
    }

    #[test]
    fn a_trial_ends_with_successes_and_time_heals() {
        let mut now = Instant::now();
        let standing = Standing::new(now);
        let mut trial = |after: Duration| {
            now += after;
            let change = fail(&standing, 3, now);
            now += 60 * SECOND;
            standing.review(now);
            (1..TRIAL).for_each(|_| assert_eq!(standing.succeeded(), None));
            assert_eq!(standing.succeeded(), Some(Change::Good));
            change
        };
        assert_eq!(trial(SECOND), Some(Change::Ejected(10 * SECOND)));
        assert_eq!(trial(Duration::ZERO), Some(Change::Ejected(10 * SECOND)), "it came back 50 s ago");
        assert_eq!(trial(1000 * SECOND), Some(Change::Ejected(10 * SECOND)));
    }

    #[test]
    fn it_can_be_switched_off() {
        let standing = Standing::new(Instant::now());
        assert!((0..100).all(|_| standing.failed(&settings(0), Instant::now()).is_none()));
    }

    proptest! {
        /// An ejection ends, and lasts no longer than it may, whatever happens.
        #[test]
        fn every_ejection_ends(events in prop::collection::vec((0..4_u8, 0..30_u64), 0..200)) {
            let mut now = Instant::now();
            let standing = Standing::new(now);
            for (event, seconds) in events {
                now += Duration::from_secs(seconds);
                let change = match event {
                    0 => standing.succeeded(),
                    1 => standing.review(now),
                    _ => standing.failed(&settings(3), now),
                };
                if let Some(Change::Ejected(time)) = change {
                    prop_assert!(time >= 10 * SECOND && time <= 60 * SECOND);
                }
            }
            standing.review(now + 60 * SECOND);
            prop_assert!(!standing.is_ejected());
        }
    }
}
