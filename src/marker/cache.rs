//! What is known of markers here, kept current by the store's pushes.

use std::time::Duration;

/// How markers are cached and kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MarkerSettings {
    /// How long the store may be silent before what is cached is no longer trusted.
    pub max_staleness: Duration,
    /// The most memory for cached markers and absences, in bytes.
    pub cache_size: u64,
    /// How long a read of the store may take.
    pub read_timeout: Duration,
    /// How long a write to the store may take.
    pub write_timeout: Duration,
}
