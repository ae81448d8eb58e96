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
        let login = claims.session_start.unwrap_or(claims.issued_at).earliest();
        let id = claims.session.clone().unwrap_or_else(|| SessionId::of_login(&claims.subject.id, login));
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

    /// When the session of a token with these claims is over.
    ///
    /// It began when the token says (`auth_time`; of a whole second, its beginning), else when it was first seen. What another
    /// gateway recorded counts `clock_skew` longer, since that gateway's clock may be behind.
    #[must_use]
    pub fn deadlines(&self, claims: &Claims, clock_skew: Duration) -> Deadlines {
        let told = claims.session_start.map(crate::clock::Moment::earliest);
        let after = |start: Timestamp, limit: Option<Duration>| limit.map(|limit| start.plus(limit));
        let ends = |start: Option<Timestamp>, limits: SessionLimits| {
            let by_limit = start.and_then(|start| after(start, limits.absolute));
            by_limit.into_iter().chain(claims.session_expiry).min()
        };
        match *self {
            Self::Unlimited => Deadlines { idle: None, absolute: claims.session_expiry },
            Self::Limited { limits, record } => {
                let here = record.active_here.and_then(|active| after(active, limits.idle));
                let elsewhere = record.active_elsewhere.and_then(|active| after(active, limits.idle));
                Deadlines {
                    idle: here.max(elsewhere.map(|deadline| deadline.plus(clock_skew))),
                    absolute: ends(told.or(Some(record.started)), limits),
                }
            }
            Self::Unknown { limits } => Deadlines { idle: None, absolute: ends(told, limits) },
        }
    }
}
