//! The limits, and what they were when a session began.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::token::claims::IssuerName;

/// How long a session may last.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SessionLimits {
    /// The longest time without activity.
    pub idle: Option<Duration>,
    /// The longest time since its start.
    pub absolute: Option<Duration>,
}

impl SessionLimits {
    /// No limits.
    pub const NONE: Self = Self { idle: None, absolute: None };

    /// These, and the `wider` ones where there is none: a route's before its issuer's.
    #[must_use]
    pub fn or(self, wider: Self) -> Self {
        Self { idle: self.idle.or(wider.idle), absolute: self.absolute.or(wider.absolute) }
    }

    /// The smaller of both: limits at the start of a session and limits now.
    #[must_use]
    pub fn tightest(self, other: Self) -> Self {
        let smaller = |a: Option<Duration>, b: Option<Duration>| a.into_iter().chain(b).min();
        Self { idle: smaller(self.idle, other.idle), absolute: smaller(self.absolute, other.absolute) }
    }
}

/// The limits of all issuers and routes of one configuration. A session is recorded with the table of its start, so that raising a
/// limit later does not lengthen it on any route.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct LimitTable {
    issuers: BTreeMap<Box<str>, Written>,
    routes: BTreeMap<Box<str>, Written>,
}

/// Idle and absolute limit in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Written(Option<u64>, Option<u64>);

impl From<SessionLimits> for Written {
    fn from(limits: SessionLimits) -> Self {
        let millis = |limit: Option<Duration>| limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        Self(millis(limits.idle), millis(limits.absolute))
    }
}

impl From<Written> for SessionLimits {
    fn from(Written(idle, absolute): Written) -> Self {
        Self { idle: idle.map(Duration::from_millis), absolute: absolute.map(Duration::from_millis) }
    }
}

impl LimitTable {
    /// Takes in the limits of an issuer.
    pub fn set_issuer(&mut self, issuer: &IssuerName, limits: SessionLimits) {
        set(&mut self.issuers, issuer.as_str(), limits);
    }

    /// Takes in the limits of a route.
    pub fn set_route(&mut self, route: &str, limits: SessionLimits) {
        set(&mut self.routes, route, limits);
    }

    /// The limits of an issuer's sessions on a route.
    #[must_use]
    pub fn of(&self, issuer: &IssuerName, route: &str) -> SessionLimits {
        let find = |table: &BTreeMap<Box<str>, Written>, name: &str| {
            table.get(name).map_or(SessionLimits::NONE, |written| (*written).into())
        };
        find(&self.routes, route).or(find(&self.issuers, issuer.as_str()))
    }

    /// The limits of an issuer's sessions where no route says anything.
    #[must_use]
    pub fn of_issuer(&self, issuer: &IssuerName) -> SessionLimits {
        self.issuers.get(issuer.as_str()).map_or(SessionLimits::NONE, |written| (*written).into())
    }

    /// Whether any route has limits of its own.
    #[must_use]
    pub fn limits_routes(&self) -> bool {
        !self.routes.is_empty()
    }

    /// The shortest idle limit of all.
    #[must_use]
    pub fn shortest_idle(&self) -> Option<Duration> {
        self.idle_limits().min()
    }

    /// The longest idle limit of all.
    #[must_use]
    pub fn longest_idle(&self) -> Option<Duration> {
        self.idle_limits().max()
    }

    fn idle_limits(&self) -> impl Iterator<Item = Duration> {
        let limits = self.issuers.values().chain(self.routes.values());
        limits.filter_map(|written| SessionLimits::from(*written).idle)
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> String {
        // Maps of strings and numbers always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a stored form; `None`: it is none.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

fn set(table: &mut BTreeMap<Box<str>, Written>, name: &str, limits: SessionLimits) {
    if limits == SessionLimits::NONE {
        table.remove(name);
    } else {
        table.insert(name.into(), limits.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(idle: u64, absolute: Option<u64>) -> SessionLimits {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        SessionLimits { idle: Some(minutes(idle)), absolute: absolute.map(minutes) }
    }

    #[test]
    fn the_tightest_limit_applies() {
        let (at_start, now) = (minutes(30, None), minutes(45, Some(600)));
        assert_eq!(at_start.tightest(now), minutes(30, Some(600)));
    }

    #[test]
    fn a_route_goes_over_its_issuer_and_a_table_survives_its_stored_form() {
        let acme = IssuerName::try_from("acme").unwrap();
        let mut table = LimitTable::default();
        table.set_issuer(&acme, minutes(30, Some(600)));
        table.set_route("slow", minutes(60, None));
        table.set_route("plain", SessionLimits::NONE);
        assert_eq!(table.of(&acme, "slow"), minutes(60, Some(600)));
        assert_eq!(table.of(&acme, "plain"), minutes(30, Some(600)));
        assert_eq!(table.of(&IssuerName::try_from("other").unwrap(), "plain"), SessionLimits::NONE);
        assert_eq!((table.shortest_idle(), table.longest_idle()), (minutes(30, None).idle, minutes(60, None).idle));
        assert_eq!(LimitTable::default().longest_idle(), None);
        assert_eq!(table.encode(), r#"{"issuers":{"acme":[1800000,36000000]},"routes":{"slow":[3600000,null]}}"#);
        assert_eq!(LimitTable::decode(&table.encode()), Some(table));
        assert_eq!(LimitTable::decode("[]"), None);
    }
}
