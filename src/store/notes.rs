//! What the gate itself has to remember besides markers and activity: which events were taken, how far a source was read, who
//! of a fleet reads it, what is still to be done.
//!
//! No gateway is told of changes of it, and none of it is asked for while a request waits.

#[cfg(any(feature = "embedded", feature = "redis"))]
use std::sync::Arc;
use std::{fmt, time::Duration};

use async_trait::async_trait;

use super::StoreError;

/// What stands for an event's id: see `EventId::digest`.
pub type NoteDigest = [u8; 16];

/// The longest name, in bytes.
pub const MAX_NAME_LENGTH: usize = 200;

/// The longest value, in bytes.
pub const MAX_NOTE_LENGTH: usize = 64 * 1024;

/// The most members of a set.
pub const MAX_MEMBERS: usize = 100;

/// Notes. Names (of sources, notes, leases, queues, jobs and sets) are 1 to [`MAX_NAME_LENGTH`] bytes without control characters; values
/// (of notes and jobs, owners, members) up to [`MAX_NOTE_LENGTH`]. Others are refused.
#[async_trait]
pub trait Notes: Send + Sync + fmt::Debug + 'static {
    /// Which of these events of a source are remembered, in their order.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn seen(&self, source: &str, events: &[NoteDigest]) -> Result<Vec<bool>, StoreError>;

    /// Remembers events of a source; of more than `capacity`, those that were remembered first are forgotten.
    ///
    /// # Errors
    /// [`StoreError`]: any part of it may have been written. Repeating it is harmless.
    async fn remember(&self, source: &str, events: &[NoteDigest], capacity: usize) -> Result<(), StoreError>;

    /// A note.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn note(&self, name: &str) -> Result<Option<String>, StoreError>;

    /// Replaces a note, or removes it, if it still is what was `expected`; says whether it was.
    ///
    /// # Errors
    /// [`StoreError`]: it may yet take effect.
    async fn swap_note(&self, name: &str, expected: Option<&str>, value: Option<&str>) -> Result<bool, StoreError>;

    /// Takes a lease or renews it, for `term` from now; says whether `owner` has it. Nobody else gets it before the term is over, by the
    /// store's clock.
    ///
    /// # Errors
    /// [`StoreError`]: it may yet take effect.
    async fn lease(&self, name: &str, owner: &str, term: Duration) -> Result<bool, StoreError>;

    /// Gives a lease back, if `owner` has it.
    ///
    /// # Errors
    /// [`StoreError`]: it may yet take effect.
    async fn release(&self, name: &str, owner: &str) -> Result<(), StoreError>;

    /// Who has a lease.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn leader(&self, name: &str) -> Result<Option<String>, StoreError>;

    /// Puts jobs into a queue, each under an id of its own; one that is there already is replaced. Resolves when they are as durable as a
    /// marker.
    ///
    /// # Errors
    /// [`StoreError`]: any part of it may have been written. Repeating it is harmless.
    async fn put_jobs(&self, queue: &str, jobs: &[(String, String)]) -> Result<(), StoreError>;

    /// Some jobs of a queue, `limit` at most, and how many there are in all.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn jobs(&self, queue: &str, limit: usize) -> Result<(Vec<(String, String)>, usize), StoreError>;

    /// Removes jobs from a queue.
    ///
    /// # Errors
    /// [`StoreError`]: any part of it may have been done. Repeating it is harmless.
    async fn remove_jobs(&self, queue: &str, ids: &[String]) -> Result<(), StoreError>;

    /// Adds `members` to a set that is forgotten `keep` after it was last added to. A set holds 100 members at most; more are not added.
    ///
    /// # Errors
    /// [`StoreError`]: any part of it may have been written. Repeating it is harmless.
    async fn add_members(&self, sets: &[(String, String)], keep: Duration) -> Result<(), StoreError>;

    /// The members of a set.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn members(&self, set: &str) -> Result<Vec<String>, StoreError>;

    /// Forgets a set.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn remove_set(&self, set: &str) -> Result<(), StoreError>;
}

/// Refuses a name that is too long, or that people could not read.
#[cfg(any(feature = "embedded", feature = "redis"))]
pub(super) fn check_name(store: &Arc<str>, name: &str) -> Result<(), StoreError> {
    if (1..=MAX_NAME_LENGTH).contains(&name.len()) && !name.contains(char::is_control) {
        return Ok(());
    }
    let message = format!("the name of a note must be 1 to {MAX_NAME_LENGTH} bytes without control characters");
    Err(StoreError::Refused { store: Arc::clone(store), message })
}

/// Refuses a value that is too long.
#[cfg(any(feature = "embedded", feature = "redis"))]
pub(super) fn check_value(store: &Arc<str>, value: &str) -> Result<(), StoreError> {
    if value.len() <= MAX_NOTE_LENGTH {
        return Ok(());
    }
    let message = format!("the value of a note must be within {MAX_NOTE_LENGTH} bytes, this one has {}", value.len());
    Err(StoreError::Refused { store: Arc::clone(store), message })
}
