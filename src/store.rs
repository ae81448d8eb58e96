//! Where markers and activity live.
//!
//! One interface, [`Store`]; one test suite that every implementation passes. A store pushes each change of a marker
//! to its [`Watcher`], whoever made it, before it acknowledges a write of this process.

#[cfg(feature = "embedded")]
pub mod embedded;
#[cfg(any(feature = "embedded", feature = "redis"))]
mod hash;
pub mod notes;
#[cfg(feature = "redis")]
pub mod redis;
pub mod sessions;

use std::{fmt, io, slice, sync::Arc, time::Instant};

use async_trait::async_trait;
use prometheus_client::registry::Registry;

pub use self::{notes::Notes, sessions::Sessions};
#[cfg(any(feature = "embedded", feature = "redis"))]
use crate::telemetry::gauge::Measured;
use crate::{
    clock::Timestamp,
    marker::{MarkerKey, MarkerRecord, Reading},
    token::claims::{IssuerName, Subject, SubjectId},
};

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or did not answer in time. A write may yet take effect; repeating it is harmless.
    #[error("store `{store}` is unavailable")]
    Unavailable {
        /// Which one, without credentials.
        store: Arc<str>,
        /// What happened.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// It answered, and will not do this: read-only, out of memory, not permitted, a key of another type.
    #[error("store `{store}` refused: {message}")]
    Refused {
        /// Which one, without credentials.
        store: Arc<str>,
        /// What it said.
        message: String,
    },
    /// It is written, and takes effect, but fewer replicas than demanded have it: a failover may lose it.
    #[error("store `{store}` has it on {reached} of {wanted} replicas only")]
    NotReplicated {
        /// Which one, without credentials.
        store: Arc<str>,
        /// How many were demanded.
        wanted: u32,
        /// How many have it.
        reached: u32,
    },
}

impl StoreError {
    /// The store is unavailable because of `source`.
    pub fn unavailable(store: &Arc<str>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Unavailable { store: Arc::clone(store), source: Arc::new(source) }
    }

    /// The store is unavailable because it did not answer in time.
    #[must_use]
    pub fn timed_out(store: &Arc<str>) -> Self {
        Self::unavailable(store, io::Error::from(io::ErrorKind::TimedOut))
    }
}

/// What became of a marker write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Merged {
    /// What is stored now.
    pub record: MarkerRecord,
    /// Whether this write changed it.
    pub changed: bool,
}

/// What a store says of itself, for `check` and start-up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreReport {
    /// What answers: product, version, address without credentials.
    pub description: String,
    /// What would break a promise and should be mended, one sentence each with the remedy.
    pub warnings: Vec<String>,
}

/// Who is told of changes. Calls come from the store's own tasks, must not block, and may repeat.
pub trait Watcher: Send + Sync + fmt::Debug + 'static {
    /// The marker under `key` (without the store's prefix) may have changed.
    fn changed(&self, key: &str);
    /// Any marker may have changed: a connection was (re)made, or everything was flushed.
    fn reset(&self);
    /// The channel that carries the pushes is alive: whatever changed before `at` has been told.
    fn heard(&self, at: Instant);
}

/// A subject, and when it was last admitted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Seen {
    /// When.
    pub at: Timestamp,
    /// Who, among the subjects of an issuer.
    pub subject: SubjectId,
}

/// How many subjects of an issuer are known.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ActivityCount {
    /// All.
    pub known: u64,
    /// Those that were last admitted before a time.
    pub inactive: u64,
}

/// A store of markers and activity.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Registers metrics of its own.
    fn register(&self, _registry: &mut Registry) {}

    /// Whether it is known at once, without waiting, that nothing is stored under `key`. What was acknowledged before is
    /// taken into account.
    fn lacks(&self, _key: &MarkerKey) -> bool {
        false
    }

    /// Reads one marker.
    ///
    /// # Errors
    /// [`StoreError`]; a value that is not a marker is no error but [`Reading::Unreadable`].
    async fn read(&self, key: &MarkerKey) -> Result<Reading<MarkerRecord>, StoreError>;

    /// Merges a marker into what is stored, by [`MarkerRecord::merge`], and resolves when the result is durable.
    /// A value that cannot be read is replaced. `expires`: when it may be forgotten.
    ///
    /// # Errors
    /// [`StoreError`]: the write may yet take effect. Repeating it is harmless.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the marker written or not; repeating is the remedy.
    async fn merge(
        &self,
        key: &MarkerKey,
        record: &MarkerRecord,
        expires: Option<Timestamp>,
    ) -> Result<Merged, StoreError>;

    /// Records when subjects were last admitted. Times never go back.
    ///
    /// # Errors
    /// [`StoreError`]: any part of it may have been written. Repeating it is harmless.
    async fn record_activity(&self, batch: &[(Subject, Timestamp)]) -> Result<(), StoreError>;

    /// When the subject was last admitted.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn last_activity(&self, subject: &Subject) -> Result<Option<Timestamp>, StoreError> {
        let times = self.last_activities(&subject.issuer, slice::from_ref(&subject.id)).await?;
        Ok(times.into_iter().next().flatten())
    }

    /// When subjects of an issuer were last admitted, in their order.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn last_activities(
        &self,
        _issuer: &IssuerName,
        _subjects: &[SubjectId],
    ) -> Result<Vec<Option<Timestamp>>, StoreError> {
        Err(no_index())
    }

    /// Subjects of an issuer that were last admitted before `before`: those that were not for longest first, at the same moment in the
    /// order of their ids. Those behind `after`; `limit` of them, fewer only if there are no more. What is no id is left out.
    ///
    /// Whoever is active while pages are read moves on to a later place, so nobody is given twice for one time, and nobody who stays is
    /// skipped.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn inactive(
        &self,
        _issuer: &IssuerName,
        _before: Timestamp,
        _after: Option<&Seen>,
        _limit: usize,
    ) -> Result<Vec<Seen>, StoreError> {
        Err(no_index())
    }

    /// How many subjects of an issuer are known, and how many of them were last admitted before `before`. Those who are active meanwhile
    /// may be counted twice, or not.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn count_activity(&self, _issuer: &IssuerName, _before: Timestamp) -> Result<ActivityCount, StoreError> {
        Err(no_index())
    }

    /// Forgets subjects of an issuer that were last admitted before `before`, all or some of them; in small bites, so that others are
    /// served meanwhile.
    ///
    /// # Errors
    /// [`StoreError`]: any part of it may have been done. Repeating it is harmless.
    async fn forget_inactive(&self, _issuer: &IssuerName, _before: Timestamp) -> Result<(), StoreError> {
        Err(no_index())
    }

    /// Forgets when subjects were last admitted, unless they were after these times.
    ///
    /// # Errors
    /// [`StoreError`]: any part of it may have been done. Repeating it is harmless.
    async fn forget_activity(&self, batch: &[(Subject, Timestamp)]) -> Result<(), StoreError>;

    /// What it keeps of sessions. By default it keeps none, and sessions with limits are judged by the outage policy.
    fn sessions(&self) -> &dyn Sessions {
        &sessions::NoSessions
    }

    /// Asks the store what it is and whether it can keep its promises.
    ///
    /// # Errors
    /// [`StoreError`] when it does not answer.
    async fn report(&self) -> Result<StoreReport, StoreError>;

    /// Writes out what it holds back and lets go of its resources. The store is of no use afterwards.
    async fn close(&self);
}

fn no_index() -> StoreError {
    StoreError::Refused { store: "store".into(), message: "it keeps no index of activity".to_owned() }
}

/// Registers how many names of markers are kept in memory, as `count` says; `None`: not all of them are.
#[cfg(any(feature = "embedded", feature = "redis"))]
fn register_names(registry: &mut Registry, count: impl Fn() -> Option<usize> + Send + Sync + 'static) {
    #[expect(clippy::cast_precision_loss, reason = "nobody counts that far")]
    let value = move || count().map_or(-1.0, |names| names as f64);
    registry.register(
        "marker_names",
        "Names of markers that are kept in memory; -1: not all of them are",
        Measured(value),
    );
}

/// What a stored value says, `None` standing for no value.
#[cfg(any(feature = "embedded", feature = "redis"))]
fn reading(key: &MarkerKey, value: Option<&[u8]>) -> Reading<MarkerRecord> {
    match value.map(|value| MarkerRecord::decode(key.kind(), value)) {
        None => Reading::Absent,
        Some(Ok(record)) => Reading::Present(record),
        Some(Err(crate::marker::Unreadable)) => Reading::Unreadable,
    }
}

/// What is to be stored once `record` has met the stored `value`.
#[cfg(any(feature = "embedded", feature = "redis"))]
fn merged(key: &MarkerKey, value: Option<&[u8]>, record: &MarkerRecord) -> Merged {
    match reading(key, value) {
        Reading::Present(stored) => {
            let merged = stored.clone().merge(record.clone());
            Merged { changed: merged != stored, record: merged }
        }
        Reading::Absent | Reading::Unreadable => Merged { record: record.clone(), changed: true },
    }
}

/// Refuses a record that nobody could read back: it would refuse everything under its key.
#[cfg(any(feature = "embedded", feature = "redis"))]
fn check_readable(store: &Arc<str>, key: &MarkerKey, record: &MarkerRecord) -> Result<(), StoreError> {
    match MarkerRecord::decode(key.kind(), record.encode().as_bytes()) {
        Ok(read) if read == *record => Ok(()),
        Ok(_) | Err(crate::marker::Unreadable) => Err(StoreError::Refused {
            store: Arc::clone(store),
            message: format!(
                "a {} marker must be of its key's kind, not before September 2001, and within {} bytes",
                key.kind().as_str(),
                crate::marker::record::MAX_VALUE_LENGTH
            ),
        }),
    }
}
