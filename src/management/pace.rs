//! How fast a tenant may be asked: its limits, as its answers tell them.
//!
//! 1. After a 429, nothing is asked before the time that it names (`Retry-After`, else `x-ratelimit-reset`).
//! 2. When less is left in the bucket than the others' share of it, the pauses grow so long that others find something to take.
//! 3. After a 5xx, and when there was no answer, each attempt waits twice as long as the one before, a minute at most.
//!
//! Times are judged by the tenant's own clock, the `Date` of its answer.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::{clock::Timestamp, token::jwks::jittered};

/// The pause after a first failure.
const FIRST: Duration = Duration::from_secs(1);

/// The longest pause after failures.
const LONGEST: Duration = Duration::from_secs(60);

/// The longest pause that an answer can ask for.
const BELIEVED: Duration = Duration::from_secs(3600);

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// How many requests the gate leaves to others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateShare(u8);

impl RateShare {
    /// In percent of what the tenant allows; from 1 to 100.
    #[must_use]
    pub fn percent(percent: u8) -> Self {
        Self(percent.clamp(1, 100))
    }
}

impl Default for RateShare {
    /// Half.
    fn default() -> Self {
        Self(50)
    }
}

/// How things went so far, and so how long to wait.
#[derive(Default, Debug)]
pub(super) struct Pace {
    share: RateShare,
    failures: u32,
}

impl Pace {
    pub(super) fn new(share: RateShare) -> Self {
        Self { share, failures: 0 }
    }

    /// How long to wait after an answer that was given at `now`, by the tenant's clock.
    pub(super) fn answered(&mut self, status: StatusCode, fields: &HeaderMap, now: Timestamp) -> Duration {
        let until_reset = seconds(fields, &RESET).map(|reset| Timestamp::from_secs(reset).since(now));
        let told = retry_after(fields, now);
        match status {
            StatusCode::TOO_MANY_REQUESTS => {
                let backed_off = self.failed();
                // A time that has come already names none.
                let named = told.or(until_reset).filter(|named| *named >= FIRST);
                named.map_or(backed_off, |named| later(named.min(BELIEVED)))
            }
            StatusCode::REQUEST_TIMEOUT => self.failed(),
            _ if status.is_server_error() => {
                let backed_off = self.failed();
                told.map_or(backed_off, |told| later(told.min(BELIEVED)))
            }
            _ => {
                self.failures = 0;
                self.sparing(fields, until_reset.unwrap_or_default().min(LONGEST))
            }
        }
    }

    /// How long to wait after an attempt that was not answered.
    pub(super) fn failed(&mut self) -> Duration {
        let pause = backoff(self.failures);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    fn sparing(&self, fields: &HeaderMap, until_reset: Duration) -> Duration {
        let (Some(limit), Some(remaining)) = (seconds(fields, &LIMIT), seconds(fields, &REMAINING)) else {
            return Duration::ZERO;
        };
        let share = i64::from(self.share.0);
        if remaining.saturating_mul(100) < limit.saturating_mul(100 - share) {
            return until_reset.max(FIRST).saturating_mul(100) / u32::from(self.share.0);
        }
        if remaining <= 0 { until_reset } else { Duration::ZERO }
    }
}

/// How long to wait after so many failures in a row and one more: twice as long each time, a minute at most.
#[must_use]
pub fn backoff(failures: u32) -> Duration {
    doubled(FIRST, failures)
}

/// The same for another pause after a first failure.
pub(super) fn doubled(first: Duration, failures: u32) -> Duration {
    jittered(first.saturating_mul(1 << failures.min(6)).min(LONGEST))
}

/// As long, and up to a tenth more.
fn later(pause: Duration) -> Duration {
    let tenth = pause / 10;
    pause + jittered(tenth / 2)
}

fn seconds(fields: &HeaderMap, name: &HeaderName) -> Option<i64> {
    fields.get(name)?.to_str().ok()?.trim().parse().ok().filter(|number| *number >= 0)
}

/// `Retry-After` (RFC 9110 §10.2.3): seconds, or a date.
fn retry_after(fields: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = fields.get(header::RETRY_AFTER)?;
    let seconds = value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs);
    seconds.or_else(|| Some(date(value)?.since(now)))
}

/// A date in the form of RFC 9110 §5.6.7.
pub(super) fn date(value: &HeaderValue) -> Option<Timestamp> {
    let date = jiff::fmt::rfc2822::parse(value.to_str().ok()?).ok()?;
    Some(Timestamp::from_millis(date.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_763_700_000);

    fn answered(pace: &mut Pace, status: u16, fields: &[(HeaderName, &str)]) -> Duration {
        let fields = fields.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        pace.answered(StatusCode::from_u16(status).unwrap(), &fields, NOW)
    }

    fn is_about(pause: Duration, seconds: u64) -> bool {
        (Duration::from_millis(seconds * 900)..=Duration::from_millis(seconds * 1100)).contains(&pause)
    }

    #[test]
    fn nothing_is_asked_before_the_time_that_was_named() {
        let cases: [(&[(HeaderName, &str)], u64); 5] = [
            (&[(header::RETRY_AFTER, "7"), (RESET, "1763700002")], 7),
            (&[(header::RETRY_AFTER, "Fri, 21 Nov 2025 04:40:09 GMT")], 9),
            (&[(header::RETRY_AFTER, "soon"), (RESET, "1763700003")], 3),
            (&[(RESET, "1763700004"), (LIMIT, "10"), (REMAINING, "0")], 4),
            (&[(header::RETRY_AFTER, "999999999999")], 3600),
        ];
        for (fields, seconds) in cases {
            for _ in 0..50 {
                let pause = answered(&mut Pace::default(), 429, fields);
                assert!(pause >= Duration::from_secs(seconds), "{fields:?}: {pause:?}");
                assert!(pause <= Duration::from_millis(seconds * 1100), "{fields:?}: {pause:?}");
            }
        }
    }

    #[test]
    fn a_refusal_that_names_no_time_to_come_is_not_answered_at_once() {
        for field in
            [(RESET, "1763600000"), (header::RETRY_AFTER, "0"), (header::RETRY_AFTER, "Fri, 21 Nov 2025 04:30:00 GMT")]
        {
            let mut pace = Pace::default();
            for seconds in [1, 2, 4] {
                let pause = answered(&mut pace, 429, std::slice::from_ref(&field));
                assert!(is_about(pause, seconds), "{field:?}: {pause:?}");
            }
        }
    }

    #[test]
    fn failures_double_the_pause_up_to_a_minute_and_a_success_ends_that() {
        let mut pace = Pace::default();
        for (status, seconds) in [(500, 1), (503, 2), (429, 4), (408, 8), (599, 16), (502, 32), (500, 60), (500, 60)] {
            let pause = answered(&mut pace, status, &[]);
            assert!(is_about(pause, seconds), "{status}: {pause:?}");
        }
        assert!(is_about(answered(&mut pace, 503, &[(header::RETRY_AFTER, "5")]), 5));
        assert!(is_about(pace.failed(), 60));
        assert_eq!(answered(&mut pace, 200, &[]), Duration::ZERO);
        assert!(is_about(pace.failed(), 1));
    }

    #[test]
    fn others_find_their_share() {
        let left = |percent, limit: &str, remaining: &str, reset: &str| {
            let fields = [(LIMIT, limit), (REMAINING, remaining), (RESET, reset)];
            answered(&mut Pace::new(RateShare::percent(percent)), 200, &fields)
        };
        let soon = "1763700002";
        assert_eq!(left(50, "10", "5", soon), Duration::ZERO);
        assert_eq!(left(50, "10", "4", soon), Duration::from_secs(4));
        assert_eq!(left(20, "10", "7", soon), Duration::from_secs(10));
        assert_eq!(left(20, "10", "8", soon), Duration::ZERO);
        assert_eq!(left(50, "10", "4", "1763690000"), Duration::from_secs(2), "a reset of the past");
        assert_eq!(left(100, "10", "1", soon), Duration::ZERO);
        assert_eq!(left(100, "10", "0", soon), Duration::from_secs(2), "the next would be one too many");
        assert_eq!(left(50, "2", "1", soon), Duration::ZERO);
        assert_eq!(left(50, "10", "0", "9999999999"), Duration::from_secs(120));
        for nonsense in ["", "-1", "many", "99999999999999999999"] {
            assert_eq!(left(50, nonsense, "0", soon), Duration::ZERO, "{nonsense}");
            assert_eq!(left(50, "10", nonsense, soon), Duration::ZERO, "{nonsense}");
        }
    }
}
