//! The trace that an admitted request leaves: when its subject was last active.
//!
//! [`recorder`] gathers, the store keeps. Nothing here is on a request's path but one atomic comparison; once per
//! subject and `resolution`, also one short lock.

pub mod recorder;

use std::time::Duration;

pub use recorder::{Recorder, Trace};

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
