//! The names of keys: a public format, see `docs/markers.md`.

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};

use super::script;
use crate::{
    clock::Timestamp,
    marker::MarkerKey,
    token::claims::{IssuerName, SessionId, Subject, SubjectId},
};

/// Over how many sorted sets the activity of an issuer is spread.
pub(super) const SHARDS: u8 = 64;

/// The largest whole number that a score holds exactly.
const MAX_SCORE: i64 = 1 << 53;

/// KEYS: a sorted set. ARGV: a member and a score, and so on. Removes each member that has that score or a lower one.
const FORGET: &str = "\
for at = 1, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[at])
  if score and tonumber(score) <= tonumber(ARGV[at + 1]) then redis.call('ZREM', KEYS[1], ARGV[at]) end
end
return 1";

/// What the gateways keep for themselves, besides markers and activity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Note {
    /// Events of a source that were taken.
    Seen,
    /// A value.
    Value,
    /// Who does something.
    Lease,
    /// What is to be done.
    Jobs,
    /// What belongs together.
    Set,
    /// A table of limits.
    Limits,
}

impl Note {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Value => "note",
            Self::Lease => "lease",
            Self::Jobs => "jobs",
            Self::Set => "set",
            Self::Limits => "limits",
        }
    }
}

/// All key names under one prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: Arc<str>,
}

impl Keys {
    /// `None`: not a usable prefix.
    pub(super) fn new(prefix: &str) -> Option<Self> {
        let usable = (1..=64).contains(&prefix.len()) && prefix.bytes().all(|byte| byte.is_ascii_graphic());
        usable.then(|| Self { prefix: prefix.into() })
    }

    /// What the names of all markers begin with. Nothing else is under it: each change there is pushed to every gateway.
    pub(super) fn markers(&self) -> Arc<str> {
        format!("{}m:", self.prefix).into()
    }

    /// The pattern of the names of all markers.
    pub(super) fn pattern(&self) -> String {
        let literal = |character: char| match character {
            '*' | '?' | '[' | ']' | '\\' => format!("\\{character}"),
            _ => character.to_string(),
        };
        format!("{}*", self.markers().chars().map(literal).collect::<String>())
    }

    pub(super) fn marker(&self, key: &MarkerKey) -> String {
        format!("{}m:{}", self.prefix, key.as_str())
    }

    /// The sorted set that holds when a subject of an issuer was last admitted.
    pub(super) fn activity(&self, issuer: &IssuerName, subject: &SubjectId) -> String {
        self.activity_shard(issuer, shard(subject.as_str()))
    }

    /// All such sorted sets of an issuer.
    pub(super) fn activity_shards(&self, issuer: &IssuerName) -> impl Iterator<Item = String> {
        (0..SHARDS).map(|shard| self.activity_shard(issuer, shard))
    }

    fn activity_shard(&self, issuer: &IssuerName, shard: u8) -> String {
        format!("{}seen:{issuer}:{shard:02}", self.prefix)
    }

    /// The hash that holds the sessions of a subject.
    pub(super) fn sessions(&self, subject: &Subject) -> String {
        format!("{}sessions:{}:{}", self.prefix, subject.issuer, subject.id.as_str())
    }

    /// The sorted set that holds when a session of an issuer was last active.
    pub(super) fn session_activity(&self, issuer: &IssuerName, session: &SessionId) -> String {
        self.session_shard(issuer, shard(session.as_str()))
    }

    /// All such sorted sets of an issuer.
    pub(super) fn session_shards(&self, issuer: &IssuerName) -> impl Iterator<Item = String> {
        (0..SHARDS).map(|shard| self.session_shard(issuer, shard))
    }

    fn session_shard(&self, issuer: &IssuerName, shard: u8) -> String {
        format!("{}active:{issuer}:{shard:02}", self.prefix)
    }

    pub(super) fn note(&self, note: Note, name: &str) -> String {
        format!("{}n:{}:{name}", self.prefix, note.as_str())
    }

    /// One `ZADD … GT` per sorted set, with its name: times never go back.
    pub(super) fn activity_commands(&self, batch: &[(Subject, Timestamp)]) -> BTreeMap<String, ::redis::Cmd> {
        let mut sets = BTreeMap::<String, ::redis::Cmd>::new();
        for (subject, seen) in batch {
            let command = sets.entry(self.activity(&subject.issuer, &subject.id)).or_insert_with_key(|set| {
                let mut command = ::redis::cmd("ZADD");
                command.arg(set).arg("GT");
                command
            });
            command.arg(score(*seen)).arg(subject.id.as_str());
        }
        sets
    }

    /// One call per sorted set, with its name, that removes subjects unless they were seen later.
    pub(super) fn forgetting_calls(&self, batch: &[(Subject, Timestamp)]) -> BTreeMap<String, [::redis::Cmd; 2]> {
        let mut sets = BTreeMap::<String, Vec<&(Subject, Timestamp)>>::new();
        for entry in batch {
            sets.entry(self.activity(&entry.0.issuer, &entry.0.id)).or_default().push(entry);
        }
        let call = |(set, entries): (String, Vec<&(Subject, Timestamp)>)| {
            let call = script::call(FORGET, &set, |call| {
                for (subject, seen) in &entries {
                    call.arg(subject.id.as_str()).arg(score(*seen));
                }
            });
            (set, call)
        };
        sets.into_iter().map(call).collect()
    }
}

/// Which sorted set an id is in.
fn shard(id: &str) -> u8 {
    digest(&SHA256, id.as_bytes()).as_ref()[0] % SHARDS
}

/// A time as a number that Redis and its scripts hold exactly.
pub(super) fn score(at: Timestamp) -> i64 {
    at.as_millis().clamp(0, MAX_SCORE)
}

/// The time that a score stands for, if it is one.
pub(super) fn time_of(score: f64) -> Option<Timestamp> {
    #[expect(clippy::cast_precision_loss, reason = "exact up to MAX_SCORE")]
    let credible = (0.0..=MAX_SCORE as f64).contains(&score);
    #[expect(clippy::cast_possible_truncation, reason = "within MAX_SCORE, a fraction of a millisecond is dropped")]
    credible.then_some(Timestamp::from_millis(score as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(id: &str) -> Subject {
        Subject { issuer: "acme".try_into().unwrap(), id: id.try_into().unwrap() }
    }

    #[test]
    fn names_are_those_of_the_public_format() {
        let keys = Keys::new("portcullis:").unwrap();
        assert_eq!(keys.marker(&MarkerKey::logout(&subject("auth0|123"))), "portcullis:m:logout:acme:auth0|123");
        // printf 'auth0|123' | sha256sum begins with 40: 0x40 % 64 = 0
        let anna = subject("auth0|123");
        assert_eq!(keys.activity(&anna.issuer, &anna.id), "portcullis:seen:acme:00");
        assert_eq!(keys.note(Note::Seen, "logs"), "portcullis:n:seen:logs");
        let (issuer, session) = ("acme".try_into().unwrap(), SessionId::try_from("auth0|123").unwrap());
        assert_eq!(keys.sessions(&subject("auth0|123")), "portcullis:sessions:acme:auth0|123");
        assert_eq!(keys.session_activity(&issuer, &session), "portcullis:active:acme:00");
        assert_eq!(keys.session_shards(&issuer).nth(63).unwrap(), "portcullis:active:acme:63");
        assert_eq!(keys.activity_shards(&issuer).nth(63).unwrap(), "portcullis:seen:acme:63");
        for name in [keys.activity(&issuer, &anna.id), keys.note(Note::Value, "m:a"), keys.sessions(&subject("a"))] {
            assert!(!name.starts_with(&*keys.markers()), "{name} is not to be pushed");
        }
    }

    #[test]
    fn the_pattern_takes_the_prefix_at_its_word() {
        assert_eq!(Keys::new("portcullis:").unwrap().pattern(), "portcullis:m:*");
        assert_eq!(Keys::new(r"a*?[b]\").unwrap().pattern(), r"a\*\?\[b\]\\m:*");
    }

    #[test]
    fn prefixes_are_checked() {
        for prefix in ["", "a b", "ü:", "a\n", &"x".repeat(65)] {
            assert!(Keys::new(prefix).is_none(), "{prefix:?}");
        }
    }

    #[test]
    fn scores_that_are_no_times_are_none() {
        assert_eq!(time_of(1_763_700_000_123.0), Some(Timestamp::from_millis(1_763_700_000_123)));
        for score in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(time_of(score), None, "{score}");
        }
    }
}
