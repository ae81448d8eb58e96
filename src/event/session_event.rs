//! What sources tell, in one form.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};

use crate::{
    clock::Timestamp,
    token::claims::{IssuerName, SessionId, Subject, TokenId},
};

/// How much of an id is shown to people, in characters.
const SHOWN: usize = 80;

/// What stands for an event's id where many are kept: the first half of its SHA-256.
pub type EventDigest = [u8; 16];

/// The id that a source gives an event: `log_id`, `jti`, a `CloudEvent`'s `id`. Unique within its source.
#[derive(Clone, PartialEq, Eq)]
pub struct EventId {
    digest: EventDigest,
    shown: Box<str>,
}

impl EventId {
    /// An id, of whatever length and form.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut half = EventDigest::default();
        half.copy_from_slice(&digest(&SHA256, text.as_bytes()).as_ref()[..size_of::<EventDigest>()]);
        let shown = text.chars().filter(|character| !character.is_control()).take(SHOWN).collect::<String>();
        Self { digest: half, shown: shown.into() }
    }

    /// What stands for it where many are kept.
    #[must_use]
    pub const fn digest(&self) -> EventDigest {
        self.digest
    }

    /// The id, or the beginning of a long one.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.shown
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shown, f)
    }
}

/// Something that happened to sessions or users, as its source tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionEvent {
    /// Its id at the source: the same event has the same whenever it comes again. `None`: the source gives none.
    pub id: Option<EventId>,
    /// When it happened, by the issuer's clock, unless [`Source::clock`](crate::marker::Source::clock) says otherwise.
    pub at: Timestamp,
    /// What the source calls it, such as `slo` or `session-revoked`; for people.
    pub kind: Box<str>,
    /// What it comes to.
    pub happenings: Vec<Happening>,
}

/// What an event comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Happening {
    /// One session ended.
    SessionEnded {
        /// Whose session id.
        issuer: IssuerName,
        /// The session.
        session: SessionId,
    },
    /// All sessions of the subject ended.
    LoggedOut(Subject),
    /// The subject may not come in any more.
    Blocked(Subject),
    /// The subject may come in again.
    Unblocked(Subject),
    /// The subject is no more: its tokens are refused as long as any can live, and its activity is forgotten.
    Deleted(Subject),
    /// One token was revoked.
    TokenRevoked {
        /// Whose token id.
        issuer: IssuerName,
        /// The token.
        token: TokenId,
    },
    /// The subject did something.
    Active(Subject),
}

impl Happening {
    /// What it is called in the audit trail, in settings and in summaries.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::SessionEnded { .. } => "session_end",
            Self::LoggedOut(_) => "logout",
            Self::Blocked(_) => "block",
            Self::Unblocked(_) => "unblock",
            Self::Deleted(_) => "delete",
            Self::TokenRevoked { .. } => "token_revoke",
            Self::Active(_) => "activity",
        }
    }

    /// Whether it ends or restores something, and is not only a sign of life.
    #[must_use]
    pub const fn is_change(&self) -> bool {
        !matches!(self, Self::Active(_))
    }
}

/// Something of which nothing comes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
    /// What the source calls it, if that much can be read.
    pub kind: Box<str>,
    /// Its id, if that much can be read.
    pub id: Option<EventId>,
}

impl Gap {
    /// One about which nothing else is known.
    #[must_use]
    pub fn new(reason: GapReason, kind: &str) -> Self {
        Self { reason, kind: kind.into(), id: None }
    }
}

/// Why nothing comes of something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GapReason {
    /// It has nothing to do with sessions or activity, or the settings say to leave it.
    Ignored,
    /// A sender tries whether it is heard.
    Test,
    /// Of a kind that is not known here.
    UnknownKind,
    /// About an issuer that is not configured.
    UnknownIssuer,
    /// It does not say whom it is about, or in a form that cannot be mapped to a subject.
    NoSubject,
    /// Not in the form of the source.
    Malformed,
}

impl GapReason {
    /// Every reason.
    pub const ALL: [Self; 6] =
        [Self::Ignored, Self::Test, Self::UnknownKind, Self::UnknownIssuer, Self::NoSubject, Self::Malformed];

    /// Its name in metrics and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ignored => "ignored",
            Self::Test => "test",
            Self::UnknownKind => "unknown_kind",
            Self::UnknownIssuer => "unknown_issuer",
            Self::NoSubject => "no_subject",
            Self::Malformed => "malformed",
        }
    }

    /// Whether somebody should look at it.
    #[must_use]
    pub const fn is_suspect(self) -> bool {
        !matches!(self, Self::Ignored | Self::Test)
    }
}

/// What one delivery holds.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Batch {
    /// What happened.
    pub events: Vec<SessionEvent>,
    /// Of what nothing comes.
    pub gaps: Vec<Gap>,
}

impl Batch {
    /// One event.
    #[must_use]
    pub fn of(event: SessionEvent) -> Self {
        Self { events: vec![event], gaps: Vec::new() }
    }

    /// One gap.
    #[must_use]
    pub fn gap(gap: Gap) -> Self {
        Self { events: Vec::new(), gaps: vec![gap] }
    }

    /// Takes in what reading one record came to.
    pub fn push(&mut self, read: Result<SessionEvent, Gap>) {
        match read {
            Ok(event) => self.events.push(event),
            Err(gap) => self.gaps.push(gap),
        }
    }

    /// How many records it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len() + self.gaps.len()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_whatever_their_source_makes_of_them() {
        let id = EventId::new(&"9".repeat(10_000));
        assert_eq!(id.as_str().len(), SHOWN);
        assert_ne!(id, EventId::new(&"9".repeat(9_999)), "the part that is not shown counts");
        assert_eq!(EventId::new("a\nb\u{7f}c").as_str(), "abc");
        assert_eq!(EventId::new("evt_1"), EventId::new("evt_1"));
    }
}
