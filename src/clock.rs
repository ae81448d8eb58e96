//! Points in time, and the one place that asks what time it is.
//!
//! Everything that judges takes the time as an argument, so that rules are tested without waiting.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A point in time: milliseconds since the Unix epoch, UTC.
///
/// Arithmetic saturates; it never wraps or panics.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest representable time.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest representable time.
    pub const MAX: Self = Self(i64::MAX);

    /// A time from milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// A time from seconds since the Unix epoch.
    #[must_use]
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This time and a duration later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// This time and a duration earlier.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let difference = i128::from(self.0) - i128::from(earlier.0);
        Duration::from_millis(u64::try_from(difference.max(0)).unwrap_or(u64::MAX))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// RFC 3339, UTC, with milliseconds.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// Not a time with an offset in RFC 3339 / ISO 8601 form.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an RFC 3339 time such as 2026-01-31T12:00:00Z")]
pub struct InvalidTimestamp;

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time: jiff::Timestamp = text.parse().map_err(|_| InvalidTimestamp)?;
        Ok(Self(time.as_millisecond()))
    }
}

/// A point in time as precisely as its source tells it.
///
/// A `NumericDate` in whole seconds (RFC 7519 §2) stands for the whole second `[t, t + 1 s)`:
/// what must be proven uses [`latest`](Self::latest), what is doubted uses [`earliest`](Self::earliest).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Moment {
    earliest: Timestamp,
    latest: Timestamp,
}

impl Moment {
    /// A time known to the millisecond.
    #[must_use]
    pub const fn exact(time: Timestamp) -> Self {
        Self { earliest: time, latest: time }
    }

    /// Some time within the second that began `secs` seconds after the Unix epoch.
    #[must_use]
    pub const fn whole_second(secs: i64) -> Self {
        let earliest = Timestamp::from_secs(secs);
        Self { earliest, latest: Timestamp(earliest.0.saturating_add(999)) }
    }

    /// The earliest time it can have been.
    #[must_use]
    pub const fn earliest(self) -> Timestamp {
        self.earliest
    }

    /// The latest time it can have been.
    #[must_use]
    pub const fn latest(self) -> Timestamp {
        self.latest
    }
}

/// Where the time of day comes from.
#[derive(Clone, Default, Debug)]
pub enum Clock {
    /// The system's clock.
    #[default]
    System,
    /// A clock that stands still until it is set: for tests of what is built on the gate.
    Manual(ManualClock),
}

impl Clock {
    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self {
            #[expect(clippy::disallowed_methods, reason = "the one place that asks the system")]
            Self::System => match SystemTime::now().duration_since(UNIX_EPOCH) {
                Ok(since) => Timestamp(millis(since)),
                Err(before) => Timestamp(-millis(before.duration())),
            },
            Self::Manual(clock) => clock.now(),
        }
    }
}

/// A clock that stands still until it is set. Clones show the same time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that shows `time`.
    #[must_use]
    pub fn new(time: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(time.0)))
    }

    /// The time it shows.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    /// Sets the time it shows.
    pub fn set(&self, time: Timestamp) {
        self.0.store(time.0, Ordering::SeqCst);
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().plus(by));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_second_covers_its_thousand_milliseconds() {
        let moment = Moment::whole_second(7);
        assert_eq!(moment.earliest().as_millis(), 7000);
        assert_eq!(moment.latest().as_millis(), 7999);
    }

    #[test]
    fn times_survive_their_text_form() {
        let time = Timestamp::from_millis(1_763_700_000_123);
        assert_eq!(time.to_string(), "2025-11-21T04:40:00.123Z");
        assert_eq!(time.to_string().parse(), Ok(time));
        assert_eq!("2025-11-21T05:40:00.123+01:00".parse(), Ok(time));
        assert!("2025-11-21".parse::<Timestamp>().is_err());
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp::MAX.plus(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::MIN.minus(Duration::MAX), Timestamp::MIN);
        assert_eq!(Timestamp::MIN.since(Timestamp::MAX), Duration::ZERO);
    }
}
