//! What is known against one token.

use super::record::{Block, Logout, Marker, MarkerRecord};
use crate::clock::Timestamp;

/// What a store holds under a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reading<T> {
    /// Nothing.
    #[default]
    Absent,
    /// A marker.
    Present(T),
    /// A value that is not a marker of its kind. It refuses: somebody meant to end something.
    Unreadable,
}

impl<T> Reading<T> {
    /// The marker, if there is one that can be read.
    pub fn present(self) -> Option<T> {
        match self {
            Self::Present(value) => Some(value),
            Self::Absent | Self::Unreadable => None,
        }
    }

    /// Whether it refuses: an unreadable value always, a marker when `rule` says so.
    pub fn refuses(&self, rule: impl FnOnce(&T) -> bool) -> bool {
        match self {
            Self::Absent => false,
            Self::Present(value) => rule(value),
            Self::Unreadable => true,
        }
    }
}

/// Every marker that can concern one token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Known {
    /// Logout of the subject.
    pub logout: Reading<Logout>,
    /// Block of the subject.
    pub block: Reading<Block>,
    /// End of the session.
    pub session_end: Reading<Timestamp>,
    /// Revocation of the token.
    pub token_revoked: Reading<Timestamp>,
    /// Not-before of the client.
    pub client_not_before: Reading<Timestamp>,
    /// Not-before of the issuer.
    pub issuer_not_before: Reading<Timestamp>,
}

impl Known {
    /// Nothing at all.
    pub const NOTHING: Self = Self {
        logout: Reading::Absent,
        block: Reading::Absent,
        session_end: Reading::Absent,
        token_revoked: Reading::Absent,
        client_not_before: Reading::Absent,
        issuer_not_before: Reading::Absent,
    };

    /// Takes in what the store holds under a key of this kind.
    pub fn learn(&mut self, kind: super::Kind, reading: Reading<Marker>) {
        use super::Kind;
        let logout = |marker| if let Marker::Logout(logout) = marker { Some(logout) } else { None };
        let block = |marker| if let Marker::Block(block) = marker { Some(block) } else { None };
        let time = |marker: Marker| Some(marker.at());
        match kind {
            Kind::Logout => self.logout = pick(reading, logout),
            Kind::Block => self.block = pick(reading, block),
            Kind::Session => self.session_end = pick(reading, time),
            Kind::Token => self.token_revoked = pick(reading, time),
            Kind::Client => self.client_not_before = pick(reading, time),
            Kind::Issuer => self.issuer_not_before = pick(reading, time),
        }
    }
}

/// A marker of another kind than its key's is as good as unreadable.
fn pick<T>(reading: Reading<Marker>, of_kind: impl FnOnce(Marker) -> Option<T>) -> Reading<T> {
    match reading {
        Reading::Absent => Reading::Absent,
        Reading::Present(marker) => of_kind(marker).map_or(Reading::Unreadable, Reading::Present),
        Reading::Unreadable => Reading::Unreadable,
    }
}

impl From<Reading<MarkerRecord>> for Reading<Marker> {
    fn from(reading: Reading<MarkerRecord>) -> Self {
        match reading {
            Reading::Absent => Self::Absent,
            Reading::Present(record) => Self::Present(record.marker),
            Reading::Unreadable => Self::Unreadable,
        }
    }
}
