//! The trace that an admitted request leaves: when its subject was last active.
//!
//! [`recorder`] gathers, the store keeps, [`upkeep`] notes since when, and forgets. Nothing here is on a request's path but one atomic comparison; once per
//! subject and `resolution`, also one short lock.

pub mod recorder;
pub mod upkeep;

use std::{error::Error, time::Duration};

pub use recorder::{Recorder, Trace};
pub use upkeep::{Recording, UpkeepSettings, recording};

use crate::store::StoreError;

/// How activity is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ActivitySettings {
    /// At most one write per subject in this time.
    pub resolution: Duration,
    /// How often what has gathered is written.
    pub flush_interval: Duration,
}

/// 60 s, 1 s.
impl Default for ActivitySettings {
    fn default() -> Self {
        Self { resolution: Duration::from_secs(60), flush_interval: Duration::from_secs(1) }
    }
}

/// Tells when writing in the background begins to fail, and when it is over: not each time.
#[derive(Debug)]
pub(crate) struct Writing {
    what: &'static str,
    failing: bool,
}

impl Writing {
    /// Of `what` nothing has failed yet.
    pub(crate) const fn of(what: &'static str) -> Self {
        Self { what, failing: false }
    }

    /// That is how it went. `last`: it is not tried again.
    pub(crate) fn went(&mut self, result: &Result<(), StoreError>, last: bool) {
        let what = self.what;
        match result {
            Ok(()) if self.failing => tracing::info!("{what} is written again"),
            Err(error) if last => tracing::error!(error = error as &dyn Error, "{what} of the last moments is lost"),
            Err(error) if !self.failing => {
                tracing::warn!(error = error as &dyn Error, "{what} could not be written; it waits");
            }
            Ok(()) | Err(_) => {}
        }
        self.failing = result.is_err();
    }
}
