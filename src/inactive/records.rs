//! What a run needs of the gate's store, whether it runs in a gateway or asks one.

mod direct;

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;

pub use self::direct::Direct;
use crate::{
    clock::Timestamp,
    store::{ActivityCount, Seen, StoreError},
    token::claims::{IssuerName, Subject, SubjectId},
};

/// The most users that are looked up at once.
pub const MAX_LOOK_UP: usize = 1000;

/// The most users that are listed at once.
pub const MAX_PAGE: usize = 10_000;

/// The most users that a run has begun with and not ended with.
pub const MAX_UNFINISHED: usize = 200;

/// How long a run keeps others from running without saying that it goes on.
pub const TERM: Duration = Duration::from_secs(15);

/// Why something is not known, or not written.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The gateway that was asked.
    #[error("{0}")]
    Gateway(String),
}

/// How much is known of an issuer's users.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overview {
    /// What time it is there.
    pub now: Timestamp,
    /// Since when recording has been complete; `None`: it is not.
    pub recorded_since: Option<Timestamp>,
    /// Since when it is kept: of what was before, nothing is known any more.
    pub kept_since: Timestamp,
    /// How much older than the truth a recorded time can be.
    pub delay: Duration,
    /// How many users are known, and how many of them were inactive since.
    pub count: ActivityCount,
}

/// Who or what blocked a user here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockedBy {
    /// Who, as the marker says.
    pub by: Option<String>,
    /// What wrote it.
    pub source: Option<String>,
    /// When; the beginning of all time where that cannot be read.
    pub at: Timestamp,
}

/// What is known of a user here.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Known {
    /// When they were last active; who was unblocked since, then.
    pub last_activity: Option<Timestamp>,
    /// Whether they are blocked.
    pub blocked: Option<BlockedBy>,
}

/// How far a run came, for the next one.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RunState {
    /// Who runs it.
    pub owner: Option<String>,
    /// What it keeps of itself.
    pub progress: Option<String>,
    /// Whom it has begun with and not ended with, by name.
    pub unfinished: BTreeMap<String, String>,
}

/// What a run keeps.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RunChange {
    /// What it keeps of itself: `Some(None)`, nothing from now on.
    pub progress: Option<Option<String>>,
    /// Whom it begins with: a name, and what to keep.
    pub begin: BTreeMap<String, String>,
    /// Whom it has ended with.
    pub end: Vec<String>,
}

/// What a run asks of the gate's store, and writes there. Repeating any of it is harmless.
#[async_trait]
pub trait Records: Send + Sync + fmt::Debug {
    /// How much is known of an issuer's users.
    ///
    /// # Errors
    /// [`RecordsError`].
    async fn overview(&self, issuer: &IssuerName, since: Timestamp) -> Result<Overview, RecordsError>;

    /// Users that were not active since, the longest inactive first: those behind `after`, `limit` at most ([`MAX_PAGE`]).
    ///
    /// # Errors
    /// [`RecordsError`].
    async fn inactive(
        &self,
        issuer: &IssuerName,
        since: Timestamp,
        after: Option<&Seen>,
        limit: usize,
    ) -> Result<Vec<Seen>, RecordsError>;

    /// What is known of users, in their order; [`MAX_LOOK_UP`] at most.
    ///
    /// # Errors
    /// [`RecordsError`].
    async fn look_up(&self, issuer: &IssuerName, users: &[SubjectId]) -> Result<Vec<Known>, RecordsError>;

    /// Blocks a user here, or unblocks them. Resolves when it is durable.
    ///
    /// # Errors
    /// [`RecordsError`]: it may yet take effect.
    async fn block(&self, subject: &Subject, blocked: bool, by: &str, reason: &str) -> Result<(), RecordsError>;

    /// Takes a user for active now: whoever was unblocked has the whole time again.
    ///
    /// # Errors
    /// [`RecordsError`]: it may have been done.
    async fn renew(&self, subject: &Subject) -> Result<(), RecordsError>;

    /// Forgets when a user was active: the issuer knows them no more.
    ///
    /// # Errors
    /// [`RecordsError`]: it may have been done.
    async fn forget(&self, subject: &Subject) -> Result<(), RecordsError>;

    /// How far a run came.
    ///
    /// # Errors
    /// [`RecordsError`].
    async fn run(&self, issuer: &IssuerName) -> Result<RunState, RecordsError>;

    /// Keeps others from running for [`TERM`], and notes what the run keeps: its progress, then whom it begins with, then whom it has
    /// ended with. Whether no other was running; if one was, nothing is noted.
    ///
    /// # Errors
    /// [`RecordsError`]: what comes first may have been done.
    ///
    /// # Cancel safety
    /// The same.
    async fn hold(&self, issuer: &IssuerName, owner: &str, change: &RunChange) -> Result<bool, RecordsError>;

    /// Lets others run.
    ///
    /// # Errors
    /// [`RecordsError`]: it may have been done.
    async fn let_go(&self, issuer: &IssuerName, owner: &str) -> Result<(), RecordsError>;
}
