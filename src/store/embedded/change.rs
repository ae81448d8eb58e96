//! Changes of notes, as jobs for the thread that writes.

use std::time::Duration;

use super::{database::NoteTables, notes::CHUNK};
use crate::{
    clock::Timestamp,
    token::claims::{IssuerName, Subject},
};

/// What is to be changed.
#[derive(Debug)]
pub(super) enum Change {
    Swap { name: String, expected: Option<String>, value: Option<String> },
    PutJobs { queue: String, jobs: Vec<(String, String)> },
    RemoveJobs { queue: String, ids: Vec<String> },
    AddMembers { sets: Vec<(String, String)>, keep: Duration },
    RemoveSet { name: String },
    KeepLimits { name: String, table: String },
    ForgetActivity { batch: Vec<(Subject, Timestamp)> },
    ForgetInactive { issuer: IssuerName, before: Timestamp },
}

impl Change {
    /// Whether it has to be on disk when it is acknowledged. Of the others the latest may be lost in a power cut, in their order: then
    /// something is read, done or said again, which is harmless.
    pub(super) const fn is_durable(&self) -> bool {
        matches!(self, Self::PutJobs { .. } | Self::KeepLimits { .. })
    }

    /// About how many rows it concerns.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::PutJobs { jobs, .. } => jobs.len(),
            Self::RemoveJobs { ids, .. } => ids.len(),
            Self::AddMembers { sets, .. } => sets.len(),
            Self::ForgetActivity { batch } => batch.len(),
            Self::ForgetInactive { .. } => CHUNK,
            Self::Swap { .. } | Self::RemoveSet { .. } | Self::KeepLimits { .. } => 1,
        }
    }

    /// Does it; whether there was what it expected, or may be more of what it removes.
    pub(super) fn apply(&self, notes: &NoteTables<'_>) -> rusqlite::Result<bool> {
        match self {
            Self::Swap { name, expected, value } => return notes.swap(name, expected.as_deref(), value.as_deref()),
            Self::PutJobs { queue, jobs } => notes.put_jobs(queue, jobs)?,
            Self::RemoveJobs { queue, ids } => notes.remove_jobs(queue, ids)?,
            Self::AddMembers { sets, keep } => notes.add_members(sets, |now| now.plus(*keep))?,
            Self::RemoveSet { name } => notes.remove_set(name)?,
            Self::KeepLimits { name, table } => notes.keep_limits(name, table)?,
            Self::ForgetActivity { batch } => notes.activity().forget(batch)?,
            Self::ForgetInactive { issuer, before } => return notes.activity().forget_before(issuer, *before, CHUNK),
        }
        Ok(true)
    }
}
