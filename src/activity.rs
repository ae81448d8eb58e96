//! The trace that an admitted request leaves: when its subject was last active.

use std::time::Duration;

/// How activity is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ActivitySettings {
    /// At most one write per subject in this time.
    pub resolution: Duration,
    /// How often what has gathered is written.
    pub flush_interval: Duration,
}
