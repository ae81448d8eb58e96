//! What a marker says, how two of them merge, and how they are written down.
//!
//! Writes arrive twice, late and out of order. [`MarkerRecord::merge`] is therefore the maximum of a total order
//! per kind: commutative, associative, idempotent. Both stores use it; no store has a rule of its own.

use std::time::Duration;

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
            Self::Logout(Logout { at, .. }) | Self::Block(Block { at, .. }) => *at,
            Self::SessionEnd(at) | Self::TokenRevoked(at) | Self::NotBefore(at) => *at,
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
}

/// A stored value that is not a marker of its kind. It refuses what its key covers until it is mended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a marker value; see docs/markers.md for the format")]
pub struct Unreadable;

/// The JSON form of all kinds.
#[derive(Serialize, Deserialize)]
struct Written {
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
}

/// Milliseconds, or RFC 3339 as people write it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WrittenTime {
    Millis(i64),
    Text(String),
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
        Self { marker, by: None, reason: None }
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
        let written: Written = if value.first() == Some(&b'{') {
            serde_json::from_slice(value).map_err(|_| Unreadable)?
        } else {
            let millis = serde_json::from_slice(value).map_err(|_| Unreadable)?;
            Written { at: WrittenTime::Millis(millis), clock: None, blocked: None, until: None, by: None, reason: None }
        };
        let at = written.at.read()?;
        let marker = match kind {
            Kind::Logout => Marker::Logout(Logout { at, clock: written.clock.unwrap_or(MarkerClock::Gateway) }),
            Kind::Block => Marker::Block(Block {
                blocked: written.blocked.unwrap_or(true),
                at,
                until: written.until.as_ref().map(WrittenTime::read).transpose()?,
            }),
            Kind::Session => Marker::SessionEnd(at),
            Kind::Token => Marker::TokenRevoked(at),
            Kind::Client | Kind::Issuer => Marker::NotBefore(at),
        };
        Ok(Self { marker, by: written.by, reason: written.reason })
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut written = Written {
            at: WrittenTime::Millis(self.marker.at().as_millis()),
            clock: None,
            blocked: None,
            until: None,
            by: self.by.clone(),
            reason: self.reason.clone(),
        };
        match self.marker {
            Marker::Logout(logout) => written.clock = Some(logout.clock),
            Marker::Block(block) => {
                written.blocked = Some(block.blocked);
                written.until = block.until.map(|until| WrittenTime::Millis(until.as_millis()));
            }
            Marker::SessionEnd(_) | Marker::TokenRevoked(_) | Marker::NotBefore(_) => {}
        }
        // A struct of strings and numbers always serialises.
        serde_json::to_string(&written).unwrap_or_default()
    }

    /// The one of two records about the same key that stays, whichever came first:
    /// the later logout, block event or not-before; the earlier session end or revocation.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        if self.precedence() >= other.precedence() { self } else { other }
    }

    /// A total order per kind. The first part is the rule; the others settle ties towards refusing, then in any fixed way.
    fn precedence(&self) -> (i64, bool, i64, String) {
        let (rule, stricter, strictest) = match self.marker {
            Marker::Logout(Logout { at, clock }) => (at.as_millis(), clock == MarkerClock::Gateway, 0),
            Marker::Block(Block { blocked, at, until }) => {
                (at.as_millis(), blocked, until.unwrap_or(Timestamp::MAX).as_millis())
            }
            Marker::SessionEnd(at) | Marker::TokenRevoked(at) => (at.as_millis().saturating_neg(), false, 0),
            Marker::NotBefore(at) => (at.as_millis(), false, 0),
        };
        (rule, stricter, strictest, self.encode())
    }
}

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

impl Retention {
    /// How long a cleared block is remembered.
    pub const TOMBSTONE: Duration = Duration::from_secs(7 * 24 * 3600);

    /// When a marker may be forgotten; `None`: never by itself.
    #[must_use]
    pub fn expires(&self, marker: &Marker, now: Timestamp) -> Option<Timestamp> {
        let from = now.max(marker.at());
        let tokens = self.max_token_lifetime.saturating_add(self.clock_skew.saturating_mul(2));
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
