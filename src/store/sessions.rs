//! What stores keep of sessions: when each began, under which limits, and when it was last active.
//!
//! No gateway is told of changes. A gateway asks when it first sees a session, and before it refuses one for idleness.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::StoreError;
use crate::{
    clock::Timestamp,
    session::SessionKey,
    token::claims::{ClientId, IssuerName, SessionId, Subject},
};

/// The most sessions of one subject that are kept. Of more, those that were opened first are forgotten.
pub const MAX_SESSIONS: usize = 1000;

/// How much longer than it is a session must be kept for that to be worth a write.
#[cfg(any(feature = "embedded", feature = "redis"))]
pub(super) const PROLONGED_BY: Duration = Duration::from_secs(60 * 60);

/// A session as a gateway comes upon it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opening {
    /// Which one.
    pub key: SessionKey,
    /// When it began: when the token says, else now.
    pub started: Timestamp,
    /// Whether the token says so. If that is later than what is kept, there was another login, and the session is kept anew.
    pub told: bool,
    /// Now.
    pub at: Timestamp,
    /// How long it is to be kept at least.
    pub until: Timestamp,
    /// The name of the table of limits that applies to it from its start on.
    pub limits: Arc<str>,
    /// Who the token was issued to.
    pub client: Option<ClientId>,
    /// Which gateway asks.
    pub gateway: Arc<str>,
}

/// A session as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredSession {
    /// When it began.
    pub started: Timestamp,
    /// When a gateway first came upon it.
    pub opened: Timestamp,
    /// When it was last active, `opened` at least.
    pub active: Timestamp,
    /// How long it is kept at least.
    pub until: Timestamp,
    /// The name of the table of limits of its start.
    pub limits: Arc<str>,
    /// Who its first token was issued to.
    pub client: Option<ClientId>,
    /// Which gateway first came upon it.
    pub gateway: Arc<str>,
}

#[cfg(feature = "embedded")]
impl Opening {
    /// What is to be kept from now on of a session of which this is `kept`, and whether that is something else.
    pub(super) fn meet(&self, kept: Option<&StoredSession>) -> (StoredSession, bool) {
        let anew = |active: Timestamp, until: Timestamp| StoredSession {
            started: self.started,
            opened: self.at,
            active,
            until,
            limits: Arc::clone(&self.limits),
            client: self.client.clone(),
            gateway: Arc::clone(&self.gateway),
        };
        let Some(kept) = kept else { return (anew(self.at, self.until), true) };
        if self.told && self.started > kept.started {
            return (anew(self.at.max(kept.active), self.until.max(kept.until)), true);
        }
        let prolonged = self.until > kept.until.plus(PROLONGED_BY);
        let until = if prolonged { self.until } else { kept.until };
        (StoredSession { until, ..kept.clone() }, prolonged)
    }
}

/// What is recorded of a session once it was active at `active`, where `before` was recorded.
///
/// Of two gateways, the one with the earlier time may well have been the last: its clock may be behind. Nothing would be left of that, and
/// whoever recorded the other time would take it for the last one, by its own clock. So the other time becomes a millisecond later: nobody
/// takes that for what it recorded alone.
#[must_use]
pub fn recorded(active: Timestamp, before: Option<Timestamp>, clock_skew: Duration) -> Timestamp {
    match before {
        Some(before) if is_beside(active, before, clock_skew) => before.plus(Duration::from_millis(1)),
        Some(before) => before.max(active),
        None => active,
    }
}

/// Whether a time is no later than one of another gateway, and may have been later all the same.
pub(crate) fn is_beside(active: Timestamp, other: Timestamp, clock_skew: Duration) -> bool {
    active <= other && other < active.plus(clock_skew)
}

/// Sessions. What is stored under a name and cannot be read counts as absent, and is replaced.
#[async_trait]
pub trait Sessions: Send + Sync + std::fmt::Debug + 'static {
    /// Says what is kept of a session, and keeps it if it is new (see [`Opening::told`]). Of several gateways that come upon it at once,
    /// one is the first, and all are told the same. What is kept is kept until
    /// [`Opening::until`] at least, or up to an hour less if it was kept before.
    ///
    /// # Errors
    /// [`StoreError`]: it may be kept all the same. Repeating it is harmless.
    async fn open_session(&self, opening: &Opening) -> Result<StoredSession, StoreError>;

    /// Says what is kept of a session.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn session(&self, key: &SessionKey) -> Result<Option<StoredSession>, StoreError>;

    /// The sessions of a subject that are kept, in the order of their ids: those after `after`, `limit` at most.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn sessions_of(
        &self,
        subject: &Subject,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<(SessionId, StoredSession)>, StoreError>;

    /// Records when sessions were last active, and says of each in turn what was recorded before, if anything was since it was opened.
    /// Times never go back; what is recorded afterwards is what [`recorded`] says, where clocks are `clock_skew` apart at most.
    ///
    /// # Errors
    /// [`StoreError`]: any part of it may have been written. Repeating it is harmless: a time may be a millisecond later for each time
    /// it is repeated, and less than `clock_skew` in all.
    async fn record_session_activity(
        &self,
        batch: &[(SessionKey, Timestamp)],
        clock_skew: Duration,
    ) -> Result<Vec<Option<Timestamp>>, StoreError>;

    /// Forgets when sessions of an issuer were last active that were not active since `before`, all or some of them.
    ///
    /// # Errors
    /// [`StoreError`]: any part of it may have been done. Repeating it is harmless.
    async fn forget_idle_sessions(&self, issuer: &IssuerName, before: Timestamp) -> Result<(), StoreError>;

    /// Keeps a table of limits under its name, for ever.
    ///
    /// # Errors
    /// [`StoreError`]: it may be kept all the same. Repeating it is harmless.
    async fn keep_limits(&self, name: &str, table: &str) -> Result<(), StoreError>;

    /// A table of limits.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn limits(&self, name: &str) -> Result<Option<String>, StoreError>;
}

/// No sessions: for stores that keep none.
#[derive(Clone, Copy, Debug)]
pub struct NoSessions;

impl NoSessions {
    fn refusal() -> StoreError {
        StoreError::Refused { store: "store".into(), message: "it keeps no sessions".to_owned() }
    }
}

#[async_trait]
impl Sessions for NoSessions {
    async fn open_session(&self, _: &Opening) -> Result<StoredSession, StoreError> {
        Err(Self::refusal())
    }

    async fn session(&self, _: &SessionKey) -> Result<Option<StoredSession>, StoreError> {
        Err(Self::refusal())
    }

    async fn sessions_of(
        &self,
        _: &Subject,
        _: Option<&SessionId>,
        _: usize,
    ) -> Result<Vec<(SessionId, StoredSession)>, StoreError> {
        Err(Self::refusal())
    }

    async fn record_session_activity(
        &self,
        _: &[(SessionKey, Timestamp)],
        _: Duration,
    ) -> Result<Vec<Option<Timestamp>>, StoreError> {
        Err(Self::refusal())
    }

    async fn forget_idle_sessions(&self, _: &IssuerName, _: Timestamp) -> Result<(), StoreError> {
        Err(Self::refusal())
    }

    async fn keep_limits(&self, _: &str, _: &str) -> Result<(), StoreError> {
        Err(Self::refusal())
    }

    async fn limits(&self, _: &str) -> Result<Option<String>, StoreError> {
        Err(Self::refusal())
    }
}
