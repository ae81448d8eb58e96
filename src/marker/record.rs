//! What a marker says, how two of them merge, and how they are written down.
//!
//! Writes arrive twice, late and out of order. [`MarkerRecord::merge`] is therefore the maximum of a total order
//! per kind: commutative, associative, idempotent. Both stores use it; no store has a rule of its own.

use std::{cmp::Reverse, time::Duration};

use serde::{Deserialize, Serialize};

use super::key::Kind;
use crate::clock::Timestamp;

/// Times before this are taken for seconds, or for a slip, and refused: 2001-09-09 in milliseconds.
const EARLIEST_CREDIBLE: i64 = 1_000_000_000_000;

/// The longest value that is read, in bytes.
pub const MAX_VALUE_LENGTH: usize = 4096;

/// Whose clock a logout was timed by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MarkerClock {
    /// The issuer's, which also wrote `iat`: no skew between the two.
    Issuer,
    /// A gateway's, or unknown: `clock_skew` apart from the issuer's at most.
    Gateway,
}

/// A logout of a subject: sessions that began at or before it are over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Logout {
    /// When.
    pub at: Timestamp,
    /// By whose clock.
    pub clock: MarkerClock,
}

/// Whether a subject is blocked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// Blocked, or cleared. A cleared block stays as a tombstone, so that an older block event that comes late does not come back.
    pub blocked: bool,
    /// When it was blocked or cleared.
    pub at: Timestamp,
    /// When it ends by itself, if it does.
    pub until: Option<Timestamp>,
}

impl Block {
    /// Whether it refuses at `now`.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        self.blocked && self.until.is_none_or(|until| now < until)
    }
}

/// A stored fact that ends something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Marker {
    /// A subject logged out.
    Logout(Logout),
    /// A subject is blocked, or no longer.
    Block(Block),
    /// A session ended at this time.
    SessionEnd(Timestamp),
    /// A token was revoked at this time.
    TokenRevoked(Timestamp),
    /// Tokens of a client or an issuer issued at or before this time are revoked.
    NotBefore(Timestamp),
}

impl Marker {
    /// When what it says happened.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        match self {
            Self::Logout(Logout { at, .. })
            | Self::Block(Block { at, .. })
            | Self::SessionEnd(at)
            | Self::TokenRevoked(at)
            | Self::NotBefore(at) => *at,
        }
    }
}

/// A marker with what people want to know about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MarkerRecord {
    /// What it says.
    pub marker: Marker,
    /// Who caused it: an operator, a source of events.
    pub by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// When it was written, by the writer's clock: right before it was sent to the store.
    pub written: Option<Timestamp>,
    /// What wrote it: the name of a [`Source`], or one of another program's own.
    pub source: Option<String>,
}

/// What writes markers in a gateway.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// The admin API, and with it the command line.
    Admin,
    /// The gateway's own logout endpoint.
    Logout,
    /// The idle limit of sessions.
    Idle,
    /// Runs against users who have been inactive for too long.
    Inactive,
    /// The stream of an Auth0 tenant's log.
    Auth0LogStream,
    /// The log of an Auth0 tenant, as it is asked for.
    Auth0Logs,
    /// An Auth0 event stream.
    Auth0EventStream,
    /// The Auth0 Events API.
    Auth0Events,
    /// OpenID Connect Back-Channel Logout.
    BackchannelLogout,
    /// Shared Signals (CAEP, RISC).
    SharedSignals,
    /// Global Token Revocation.
    TokenRevocation,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 11] = [
        Self::Admin,
        Self::Logout,
        Self::Idle,
        Self::Inactive,
        Self::Auth0LogStream,
        Self::Auth0Logs,
        Self::Auth0EventStream,
        Self::Auth0Events,
        Self::BackchannelLogout,
        Self::SharedSignals,
        Self::TokenRevocation,
    ];

    /// Its name in markers and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Logout => "logout",
            Self::Idle => "idle",
            Self::Inactive => "inactive",
            Self::Auth0LogStream => "auth0_log_stream",
            Self::Auth0Logs => "auth0_logs",
            Self::Auth0EventStream => "auth0_event_stream",
            Self::Auth0Events => "auth0_events",
            Self::BackchannelLogout => "backchannel_logout",
            Self::SharedSignals => "shared_signals",
            Self::TokenRevocation => "token_revocation",
        }
    }

    /// Whose clock its logouts are timed by.
    #[must_use]
    pub const fn clock(self) -> MarkerClock {
        match self {
            // Most have no time of their own: what is out when they come is over. A transmitter of signals has one, and need not be
            // the issuer.
            Self::Admin | Self::Logout | Self::Idle | Self::Inactive | Self::TokenRevocation | Self::SharedSignals => {
                MarkerClock::Gateway
            }
            Self::Auth0LogStream
            | Self::Auth0Logs
            | Self::Auth0EventStream
            | Self::Auth0Events
            | Self::BackchannelLogout => MarkerClock::Issuer,
        }
    }
}

/// A stored value that is not a marker of its kind. It refuses what its key covers until it is mended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a marker value; see docs/markers.md for the format")]
pub struct Unreadable;

/// The JSON form of all kinds.
#[derive(Serialize, Deserialize)]
struct Form {
    at: WrittenTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clock: Option<MarkerClock>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blocked: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<WrittenTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    written: Option<WrittenTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

impl Form {
    /// A bare time.
    const fn at(at: WrittenTime) -> Self {
        Self { at, clock: None, blocked: None, until: None, by: None, reason: None, written: None, source: None }
    }

    fn encode(&self) -> String {
        // A struct of strings and numbers always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Milliseconds, or RFC 3339 as people write it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WrittenTime {
    Millis(i64),
    Text(String),
}

impl From<Timestamp> for WrittenTime {
    fn from(time: Timestamp) -> Self {
        Self::Millis(time.as_millis())
    }
}

impl WrittenTime {
    fn read(&self) -> Result<Timestamp, Unreadable> {
        let time = match self {
            Self::Millis(millis) => Timestamp::from_millis(*millis),
            Self::Text(text) => text.parse().map_err(|_| Unreadable)?,
        };
        if time.as_millis() < EARLIEST_CREDIBLE { Err(Unreadable) } else { Ok(time) }
    }
}

impl MarkerRecord {
    /// A marker about which nothing else is known.
    #[must_use]
    pub const fn new(marker: Marker) -> Self {
        Self { marker, by: None, reason: None, written: None, source: None }
    }

    /// The same, written by `source`.
    #[must_use]
    pub fn written_by(self, source: Source) -> Self {
        Self { source: Some(source.as_str().to_owned()), ..self }
    }

    /// Reads a stored value: a JSON object, or a bare time in milliseconds.
    ///
    /// # Errors
    /// [`Unreadable`] for anything else, a time before September 2001 (most likely seconds) included.
    pub fn decode(kind: Kind, value: &[u8]) -> Result<Self, Unreadable> {
        if value.len() > MAX_VALUE_LENGTH {
            return Err(Unreadable);
        }
        let value = value.trim_ascii();
        let form: Form = if value.first() == Some(&b'{') {
            serde_json::from_slice(value).map_err(|_| Unreadable)?
        } else {
            Form::at(WrittenTime::Millis(serde_json::from_slice(value).map_err(|_| Unreadable)?))
        };
        let time = |time: &Option<WrittenTime>| time.as_ref().map(WrittenTime::read).transpose();
        let at = form.at.read()?;
        let marker = match kind {
            Kind::Logout => Marker::Logout(Logout { at, clock: form.clock.unwrap_or(MarkerClock::Gateway) }),
            Kind::Block => {
                Marker::Block(Block { blocked: form.blocked.unwrap_or(true), at, until: time(&form.until)? })
            }
            Kind::Session => Marker::SessionEnd(at),
            Kind::Token => Marker::TokenRevoked(at),
            Kind::Client | Kind::Issuer => Marker::NotBefore(at),
        };
        Ok(Self { marker, by: form.by, reason: form.reason, written: time(&form.written)?, source: form.source })
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> String {
        let written = self.written.map(Into::into);
        Form { written, source: self.source.clone(), ..self.without_origin() }.encode()
    }

    /// What it says, without when and by what it was written.
    fn without_origin(&self) -> Form {
        let mut form = Form::at(self.marker.at().into());
        match self.marker {
            Marker::Logout(logout) => form.clock = Some(logout.clock),
            Marker::Block(block) => {
                form.blocked = Some(block.blocked);
                form.until = block.until.map(Into::into);
            }
            Marker::SessionEnd(_) | Marker::TokenRevoked(_) | Marker::NotBefore(_) => {}
        }
        Form { by: self.by.clone(), reason: self.reason.clone(), ..form }
    }

    /// The one of two records about the same key that stays, whichever came first:
    /// the later logout, block event or not-before; the earlier session end or revocation.
    ///
    /// The same event written again changes nothing: of two records that differ in their origin only, the one that was
    /// written earlier stays, and one that does not tell counts as the earliest.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        if self.precedence() >= other.precedence() { self } else { other }
    }

    /// A total order per kind.
    fn precedence(&self) -> Precedence<'_> {
        let rule = match self.marker {
            Marker::Logout(Logout { at, clock }) => (at.as_millis(), clock == MarkerClock::Gateway, 0),
            Marker::Block(Block { blocked, at, until }) => {
                (at.as_millis(), blocked, until.unwrap_or(Timestamp::MAX).as_millis())
            }
            Marker::SessionEnd(at) | Marker::TokenRevoked(at) => (at.as_millis().saturating_neg(), false, 0),
            Marker::NotBefore(at) => (at.as_millis(), false, 0),
        };
        (rule, self.without_origin().encode(), Reverse(self.written), self.source.as_deref())
    }
}

/// The rule with what settles ties towards refusing; the stored text, which settles others in a fixed way; the origin.
type Precedence<'a> = ((i64, bool, i64), String, Reverse<Option<Timestamp>>, Option<&'a str>);

/// How long markers are kept, so that none is gone while something lives that it would stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// The longest `exp - iat` that is admitted.
    pub max_token_lifetime: Duration,
    /// How far clocks may be apart.
    pub clock_skew: Duration,
    /// How long a session can last.
    pub session: Duration,
}

/// 24 h, a skew of 1 s, 30 days.
impl Default for Retention {
    fn default() -> Self {
        Self {
            max_token_lifetime: Duration::from_secs(24 * 3600),
            clock_skew: Duration::from_secs(1),
            session: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

impl Retention {
    /// How long a cleared block is remembered.
    pub const TOMBSTONE: Duration = Duration::from_secs(7 * 24 * 3600);

    /// How long any token can be admitted after it was issued.
    #[must_use]
    pub fn tokens(&self) -> Duration {
        self.max_token_lifetime.saturating_add(self.clock_skew.saturating_mul(2))
    }

    /// Whether a marker that comes only now would stop nothing any more: had it come in time, it would be forgotten.
    #[must_use]
    pub fn is_outlived(&self, marker: &Marker, now: Timestamp) -> bool {
        match marker {
            // A block that is heard of late, or its end, says how things are.
            Marker::Block(_) => false,
            _ => self.expires(marker, marker.at()).is_some_and(|expires| expires < now),
        }
    }

    /// When a marker may be forgotten; `None`: never by itself.
    #[must_use]
    pub fn expires(&self, marker: &Marker, now: Timestamp) -> Option<Timestamp> {
        let from = now.max(marker.at());
        let tokens = self.tokens();
        match marker {
            Marker::Logout(_) | Marker::TokenRevoked(_) | Marker::NotBefore(_) => Some(from.plus(tokens)),
            Marker::SessionEnd(_) => Some(from.plus(self.session.max(tokens))),
            Marker::Block(Block { blocked: true, until: None, .. }) => None,
            Marker::Block(Block { blocked: true, until: Some(until), .. }) => {
                Some(from.max(*until).plus(Self::TOMBSTONE))
            }
            Marker::Block(Block { blocked: false, .. }) => Some(from.plus(Self::TOMBSTONE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT: i64 = 1_763_700_000_123;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(AT + millis)
    }

    fn logout(millis: i64, clock: MarkerClock) -> MarkerRecord {
        MarkerRecord::new(Marker::Logout(Logout { at: at(millis), clock }))
    }

    fn block(millis: i64, blocked: bool, until: Option<i64>) -> MarkerRecord {
        MarkerRecord::new(Marker::Block(Block { blocked, at: at(millis), until: until.map(at) }))
    }

    fn end(millis: i64) -> MarkerRecord {
        MarkerRecord::new(Marker::SessionEnd(at(millis)))
    }

    fn decode(kind: Kind, value: &str) -> Result<MarkerRecord, Unreadable> {
        MarkerRecord::decode(kind, value.as_bytes())
    }

    #[test]
    fn the_stored_form_is_the_public_one() {
        let cases = [
            (logout(0, MarkerClock::Issuer), r#"{"at":1763700000123,"clock":"issuer"}"#),
            (logout(0, MarkerClock::Gateway), r#"{"at":1763700000123,"clock":"gateway"}"#),
            (block(0, true, None), r#"{"at":1763700000123,"blocked":true}"#),
            (block(0, false, Some(1)), r#"{"at":1763700000123,"blocked":false,"until":1763700000124}"#),
            (end(0), r#"{"at":1763700000123}"#),
            (
                MarkerRecord {
                    by: Some("ops".to_owned()),
                    reason: Some("\"why\"".to_owned()),
                    ..MarkerRecord::new(Marker::NotBefore(at(0)))
                },
                r#"{"at":1763700000123,"by":"ops","reason":"\"why\""}"#,
            ),
            (
                MarkerRecord { written: Some(at(5)), ..end(0) }.written_by(Source::Logout),
                r#"{"at":1763700000123,"written":1763700000128,"source":"logout"}"#,
            ),
        ];
        for (record, expected) in cases {
            assert_eq!(record.encode(), expected);
        }
    }

    #[test]
    fn defaults_refuse() {
        for value in
            ["1763700000123", " 1763700000123\n", r#"{"at":1763700000123}"#, r#"{"at":"2025-11-21T04:40:00.123Z"}"#]
        {
            assert_eq!(decode(Kind::Logout, value), Ok(logout(0, MarkerClock::Gateway)), "{value}");
            assert_eq!(decode(Kind::Block, value), Ok(block(0, true, None)), "{value}");
            assert_eq!(decode(Kind::Session, value).unwrap().marker, Marker::SessionEnd(at(0)), "{value}");
            assert_eq!(decode(Kind::Token, value).unwrap().marker, Marker::TokenRevoked(at(0)), "{value}");
            assert_eq!(decode(Kind::Client, value).unwrap().marker, Marker::NotBefore(at(0)), "{value}");
            assert_eq!(decode(Kind::Issuer, value).unwrap().marker, Marker::NotBefore(at(0)), "{value}");
        }
    }

    #[test]
    fn other_values_are_unreadable() {
        let values = [
            "",
            " ",
            "true",
            "null",
            "-1763700000123",
            "1763700000",
            "999999999999",
            "1763700000123.0",
            "1763700000123 x",
            "\"1763700000123\"",
            "[1763700000123]",
            "{}",
            r#"{"at":null}"#,
            r#"{"at":1763700000}"#,
            r#"{"at":"1763700000123"}"#,
            r#"{"at":"2025-11-21"}"#,
            r#"{"at":1763700000123,"clock":"mine"}"#,
            r#"{"at":1763700000123,"blocked":"no"}"#,
            r#"{"at":1763700000123,"by":7}"#,
            r#"{"at":1763700000123,"source":7}"#,
            r#"{"at":1763700000123,"written":1763700000}"#,
            r#"{"at":1763700000123,"written":"today"}"#,
            r#"{"at":1763700000123} trailing"#,
            r#"{"at":1763700000123,"at":1763700000123}"#,
        ];
        for value in values {
            for kind in Kind::ALL {
                assert_eq!(decode(kind, value), Err(Unreadable), "{kind:?} {value}");
            }
        }
        assert_eq!(decode(Kind::Block, r#"{"at":1763700000123,"until":1763700000}"#), Err(Unreadable));
        assert_eq!(MarkerRecord::decode(Kind::Logout, b"\xff"), Err(Unreadable));
    }

    #[test]
    fn length_is_limited() {
        let padded = |length| format!("{AT:>length$}");
        assert!(decode(Kind::Logout, &padded(MAX_VALUE_LENGTH)).is_ok());
        assert_eq!(decode(Kind::Logout, &padded(MAX_VALUE_LENGTH + 1)), Err(Unreadable));
    }

    #[test]
    fn merges_follow_the_rule_of_their_kind() {
        let revoked = |millis| MarkerRecord::new(Marker::TokenRevoked(at(millis)));
        let not_before = |millis| MarkerRecord::new(Marker::NotBefore(at(millis)));
        let cases = [
            ("the later logout", logout(2, MarkerClock::Issuer), logout(1, MarkerClock::Gateway)),
            ("the logout that refuses more", logout(1, MarkerClock::Gateway), logout(1, MarkerClock::Issuer)),
            ("the later block event", block(2, false, None), block(1, true, None)),
            ("the block, at the same time", block(1, true, None), block(1, false, None)),
            ("the endless block", block(1, true, None), block(1, true, Some(9))),
            ("the longer block", block(1, true, Some(9)), block(1, true, Some(8))),
            ("the earlier end", end(1), end(2)),
            ("the earlier revocation", revoked(1), revoked(2)),
            ("the later not-before", not_before(2), not_before(1)),
        ];
        for (name, stays, goes) in cases {
            assert_eq!(stays.clone().merge(goes.clone()), stays, "{name}");
            assert_eq!(goes.merge(stays.clone()), stays, "{name}, the other way round");
        }
    }

    /// Events arrive twice, and by several ways. A record that changed each time would be pushed to every gateway each time.
    #[test]
    fn the_same_event_written_again_changes_nothing() {
        let written = |millis, source| MarkerRecord { written: Some(at(millis)), ..end(0) }.written_by(source);
        let later = [written(7, Source::Admin), written(7, Source::Logout), written(9, Source::Admin)];
        for stored in [end(0), end(0).written_by(Source::Logout), written(6, Source::Logout), written(6, Source::Admin)]
        {
            for again in &later {
                assert_eq!(stored.clone().merge(again.clone()), stored);
                assert_eq!(again.clone().merge(stored.clone()), stored, "in whichever order they come");
            }
        }
        assert_eq!(end(0).merge(written(7, Source::Admin)).marker, end(0).marker);
        let earlier = MarkerRecord { written: Some(at(99)), ..end(-1) };
        assert_eq!(written(7, Source::Admin).merge(earlier.clone()), earlier, "the rule goes before");
    }

    #[test]
    fn nothing_is_forgotten_while_it_could_stop_something() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let retention =
            Retention { max_token_lifetime: hours(24), clock_skew: Duration::from_secs(1), session: hours(24 * 30) };
        let tokens = hours(24) + Duration::from_secs(2);
        let now = at(0);
        let past = Marker::NotBefore(now.minus(hours(5)));
        let future = Marker::NotBefore(now.plus(hours(5)));
        let until = now.plus(hours(9));
        let cases = [
            (past, Some(now.plus(tokens))),
            (future, Some(now.plus(hours(5)).plus(tokens))),
            (Marker::SessionEnd(now), Some(now.plus(hours(24 * 30)))),
            (Marker::Block(Block { blocked: true, at: now, until: None }), None),
            (
                Marker::Block(Block { blocked: true, at: now, until: Some(until) }),
                Some(until.plus(Retention::TOMBSTONE)),
            ),
            (Marker::Block(Block { blocked: false, at: now, until: None }), Some(now.plus(Retention::TOMBSTONE))),
        ];
        for (marker, expected) in cases {
            assert_eq!(retention.expires(&marker, now), expected, "{marker:?}");
        }
        let short = Retention { session: hours(1), ..retention };
        assert_eq!(short.expires(&Marker::SessionEnd(now), now), Some(now.plus(tokens)));
    }

    fn times() -> impl Strategy<Value = Timestamp> {
        prop_oneof![(0..4_i64).prop_map(at), (EARLIEST_CREDIBLE..=i64::MAX).prop_map(Timestamp::from_millis)]
    }

    fn markers(kind: Kind) -> BoxedStrategy<Marker> {
        match kind {
            Kind::Logout => (times(), any::<bool>())
                .prop_map(|(at, issuer)| {
                    let clock = if issuer { MarkerClock::Issuer } else { MarkerClock::Gateway };
                    Marker::Logout(Logout { at, clock })
                })
                .boxed(),
            Kind::Block => (times(), any::<bool>(), prop::option::of(times()))
                .prop_map(|(at, blocked, until)| Marker::Block(Block { blocked, at, until }))
                .boxed(),
            Kind::Session => times().prop_map(Marker::SessionEnd).boxed(),
            Kind::Token => times().prop_map(Marker::TokenRevoked).boxed(),
            Kind::Client | Kind::Issuer => times().prop_map(Marker::NotBefore).boxed(),
        }
    }

    fn records(kind: Kind) -> impl Strategy<Value = MarkerRecord> {
        let text = || prop::option::of(prop_oneof!["[ab]", "\\PC{0,40}"]);
        (markers(kind), text(), text(), prop::option::of(times()), text())
            .prop_map(|(marker, by, reason, written, source)| MarkerRecord { marker, by, reason, written, source })
    }

    fn three_of_a_kind() -> impl Strategy<Value = (Kind, MarkerRecord, MarkerRecord, MarkerRecord)> {
        prop::sample::select(&Kind::ALL[..])
            .prop_flat_map(|kind| (Just(kind), records(kind), records(kind), records(kind)))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read((kind, record, ..) in three_of_a_kind()) {
            prop_assert_eq!(MarkerRecord::decode(kind, record.encode().as_bytes()), Ok(record));
        }

        #[test]
        fn merging_commutes_associates_and_repeats((_, a, b, c) in three_of_a_kind()) {
            prop_assert_eq!(a.clone().merge(b.clone()), b.clone().merge(a.clone()));
            let left = a.clone().merge(b.clone()).merge(c.clone());
            prop_assert_eq!(&left, &a.clone().merge(b.clone().merge(c)));
            prop_assert_eq!(a.clone().merge(a.clone()), a.clone());
            prop_assert_eq!(left.clone().merge(a), left);
        }

        #[test]
        fn written_again_later_it_stays(
            (_, stored, ..) in three_of_a_kind(), after in 1..i64::from(u32::MAX), source in prop::option::of("[a-z]{0,9}"),
        ) {
            let earlier = stored.written.unwrap_or(at(0));
            let written = Some(Timestamp::from_millis(earlier.as_millis().saturating_add(after)));
            prop_assume!(written > stored.written);
            let again = MarkerRecord { written, source, ..stored.clone() };
            prop_assert_eq!(stored.clone().merge(again.clone()), stored.clone());
            prop_assert_eq!(again.merge(stored.clone()), stored);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for kind in Kind::ALL {
                let _ = MarkerRecord::decode(kind, &bytes);
            }
        }

        #[test]
        fn near_markers_are_read_without_panic_and_settle(text in r#"\{("(at|clock|blocked|until|by|written|source)":("[a-z0-9:TZ-]{0,20}"|-?[0-9]{0,20}|true|null),?){0,4}\}?"#) {
            for kind in Kind::ALL {
                if let Ok(record) = MarkerRecord::decode(kind, text.as_bytes()) {
                    prop_assert_eq!(MarkerRecord::decode(kind, record.encode().as_bytes()), Ok(record));
                }
            }
        }
    }
}
