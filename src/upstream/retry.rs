//! Whether a request that failed may be sent once more, elsewhere.
//!
//! A retry helps when one endpoint of several is not well, and harms when all are: then each doubles the load. So their number is
//! bounded by a share of the requests of the last seconds, and a few per second for those who have few requests.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How far back requests count.
const WINDOW: Duration = Duration::from_secs(10);

/// How often what was counted is noted.
const STEP: Duration = Duration::from_secs(1);

/// How often a request may be tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetrySettings {
    /// How often in all; 1: no retries.
    pub attempts: u32,
    /// How many retries there may be for a hundred requests.
    pub budget: u32,
    /// How many per second besides.
    pub floor: u32,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self { attempts: 2, budget: 20, floor: 5 }
    }
}

/// What is left for retries. It is told how many requests there were, so that they need not be counted twice; requests that
/// succeed do not touch it.
#[derive(Debug)]
pub(super) struct Budget {
    settings: RetrySettings,
    recent: Mutex<Recent>,
}

#[derive(Debug)]
struct Recent {
    /// When, how many requests there were by then, how many retries.
    marks: VecDeque<(Instant, u64, u64)>,
    retries: u64,
}

impl Budget {
    pub(super) fn new(settings: RetrySettings, now: Instant) -> Self {
        Self { settings, recent: Mutex::new(Recent { marks: [(now, 0, 0)].into(), retries: 0 }) }
    }

    /// Notes how many requests there were so far. Called every second or so.
    pub(super) fn note(&self, requests: u64, now: Instant) {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).note(requests, now);
    }

    /// Takes one retry, if there is one left. `requests`: how many there were so far.
    pub(super) fn take(&self, requests: u64, now: Instant) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.note(requests, now);
        let Some(&(_, requests_then, retries_then)) = recent.marks.front() else { return false };
        let of_requests = requests.saturating_sub(requests_then).saturating_mul(u64::from(self.settings.budget)) / 100;
        let allowed = of_requests.saturating_add(u64::from(self.settings.floor) * WINDOW.as_secs());
        let is_left = recent.retries - retries_then < allowed;
        recent.retries += u64::from(is_left);
        is_left
    }
}

impl Recent {
    fn note(&mut self, requests: u64, now: Instant) {
        let age = |mark: &(Instant, u64, u64)| now.saturating_duration_since(mark.0);
        if self.marks.back().is_none_or(|last| age(last) >= STEP) {
            self.marks.push_back((now, requests, self.retries));
        }
        // The latest that is old enough is where the window begins.
        while self.marks.len() > 1 && age(&self.marks[1]) >= WINDOW {
            self.marks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn taken(budget: &Budget, requests: u64, now: Instant) -> u64 {
        (0..100_000).take_while(|_| budget.take(requests, now)).count() as u64
    }

    #[test]
    fn a_share_of_recent_requests_and_a_floor() {
        let start = Instant::now();
        let settings = RetrySettings { attempts: 2, budget: 20, floor: 1 };
        let budget = Budget::new(settings, start);
        assert_eq!(taken(&budget, 0, start), 10, "the floor of ten seconds");
        assert_eq!(taken(&budget, 1000, start), 200);
        assert!(!budget.take(1000, start));
        // They come back when they are long ago, and so do the requests.
        for second in 1..=20 {
            budget.note(1000, start + second * SECOND);
        }
        assert_eq!(taken(&budget, 1000, start + 20 * SECOND), 10);
    }

    #[test]
    fn an_outage_is_not_doubled() {
        let start = Instant::now();
        let budget = Budget::new(RetrySettings { attempts: 2, budget: 20, floor: 0 }, start);
        let mut retries = 0;
        // A hundred requests per second, all of which fail.
        for request in 1..=6000_u64 {
            let now = start + Duration::from_millis(10 * request);
            retries += u64::from(budget.take(request, now));
        }
        assert!((1100..=1400).contains(&retries), "{retries}");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let start = Instant::now();
        let budget = Budget::new(RetrySettings::default(), start);
        for tick in 0..10_000_u32 {
            budget.note(u64::from(tick), start + tick * SECOND / 3);
        }
        assert!(budget.recent.lock().unwrap().marks.len() <= 12);
    }
}
