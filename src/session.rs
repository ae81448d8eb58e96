//! Session lifetime: how long a session may be idle, and how long it may last.
//!
//! The limits and the record of a session are defined here; the verdict has their place in its order of rules.

use std::time::Duration;

use crate::clock::Timestamp;

/// How long a session may last.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SessionLimits {
    /// The longest time without activity.
    pub idle: Option<Duration>,
    /// The longest time since its start.
    pub absolute: Option<Duration>,
}

impl SessionLimits {
    /// These, and the `wider` ones where there is none: a route's before its issuer's.
    #[must_use]
    pub fn or(self, wider: Self) -> Self {
        Self { idle: self.idle.or(wider.idle), absolute: self.absolute.or(wider.absolute) }
    }

    /// The smaller of both: limits at the start of a session and limits now.
    #[must_use]
    pub fn tightest(self, other: Self) -> Self {
        let smaller = |a: Option<Duration>, b: Option<Duration>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, None) | (None, one) => one,
        };
        Self { idle: smaller(self.idle, other.idle), absolute: smaller(self.absolute, other.absolute) }
    }
}

/// What is remembered of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionRecord {
    /// When it began, as far as is known.
    pub started: Timestamp,
    /// The limits that applied then.
    pub limits: SessionLimits,
    /// The last moment it was admitted anywhere.
    pub last_activity: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_applies() {
        let minutes = |n: u64| Some(Duration::from_secs(60 * n));
        let at_start = SessionLimits { idle: minutes(30), absolute: None };
        let now = SessionLimits { idle: minutes(45), absolute: minutes(600) };
        assert_eq!(at_start.tightest(now), SessionLimits { idle: minutes(30), absolute: minutes(600) });
    }
}
