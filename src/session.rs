//! Session lifetime: how long a session may be idle, and how long it may last.
//!
//! The verdict asks two questions of a session (see [`verdict::RULES`](crate::verdict::RULES)): has it lasted too long, and was it
//! idle for too long? What they rest on is defined here, without I/O:
//!
//! - [`SessionKey`]: which session a token belongs to.
//! - [`SessionLimits`]: the limits; [`limits`]: those of all issuers and routes, as they were when a session began.
//! - [`Lifetime`]: what is known of one session's time, and when it is over.
//! - `register` (feature `gate`): the sessions that this gateway knows of, and the way to the store.

pub mod limits;
#[cfg(feature = "gate")]
mod live;
#[cfg(feature = "gate")]
mod pool;
#[cfg(feature = "gate")]
pub mod register;
#[cfg(feature = "gate")]
mod tables;

use std::time::Duration;

pub use self::limits::{LimitTable, SessionLimits};
use crate::{
    clock::Timestamp,
    token::claims::{Claims, SessionId, Subject},
};

/// A session: the subject whose it is, and its id, unique within the issuer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionKey {
    /// Whose it is.
    pub subject: Subject,
    /// The session id of the token; or, where it has none, the subject and the time of the login.
    pub id: SessionId,
}

impl SessionKey {
    /// The session that a token belongs to. Without a session id, tokens of a subject belong together that tell of the same login (or, if
    /// they do not tell, were issued at the same time).
    #[must_use]
    pub fn of(claims: &Claims) -> Self {
        let id = claims.session.clone().unwrap_or_else(|| {
            let login = claims.session_began().unwrap_or(claims.issued_at.earliest());
            SessionId::of_login(&claims.subject.id, login)
        });
        Self { subject: claims.subject.clone(), id }
    }
}

/// What is remembered of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionRecord {
    /// When it was first seen, or when it began if a token told.
    pub started: Timestamp,
    /// When it was last active here, by this gateway's clock.
    pub active_here: Option<Timestamp>,
    /// When it was last active as far as the store knows: by the clock of some gateway, `clock_skew` from this one's at most.
    pub active_elsewhere: Option<Timestamp>,
}

/// What is known of a session's time.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Lifetime {
    /// Nothing limits it.
    #[default]
    Unlimited,
    /// It has limits, and is remembered.
    Limited {
        /// The smaller of those at its start and those of now.
        limits: SessionLimits,
        /// What is remembered.
        record: SessionRecord,
    },
    /// It has limits, and the store does not tell what is remembered.
    Unknown {
        /// Those of now.
        limits: SessionLimits,
    },
}

/// When a session is over: at these times and after.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Deadlines {
    /// Unless it is active before.
    pub idle: Option<Timestamp>,
    /// In any case.
    pub absolute: Option<Timestamp>,
}

impl Lifetime {
    /// The limits, if there are any.
    #[must_use]
    pub const fn limits(&self) -> Option<SessionLimits> {
        match *self {
            Self::Unlimited => None,
            Self::Limited { limits, .. } | Self::Unknown { limits } => Some(limits),
        }
    }

    /// The session is active now.
    pub const fn touch(&mut self, now: Timestamp) {
        if let Self::Limited { record, .. } = self {
            record.active_here = Some(now);
        }
    }

    /// When the session of a token with these claims has lasted as long as its limit lets it: from when the token says that it began
    /// ([`Claims::session_began`]), else from when it was first seen.
    #[must_use]
    pub fn lasts_until(&self, claims: &Claims) -> Option<Timestamp> {
        let seen = if let Self::Limited { record, .. } = self { Some(record.started) } else { None };
        let began = claims.session_began().or(seen)?;
        Some(began.plus(self.limits()?.absolute?))
    }

    /// When the session of a token with these claims is over.
    ///
    /// What another gateway recorded counts `clock_skew` longer, since that gateway's clock may be behind.
    #[must_use]
    pub fn deadlines(&self, claims: &Claims, clock_skew: Duration) -> Deadlines {
        let absolute = self.lasts_until(claims).into_iter().chain(claims.session_expiry).min();
        let Self::Limited { limits: SessionLimits { idle: Some(limit), .. }, record } = *self else {
            return Deadlines { idle: None, absolute };
        };
        let here = record.active_here.map(|active| active.plus(limit));
        let elsewhere = record.active_elsewhere.map(|active| active.plus(limit).plus(clock_skew));
        Deadlines { idle: here.max(elsewhere), absolute }
    }
}
