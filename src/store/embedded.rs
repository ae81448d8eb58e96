//! The embedded store: SQLite in the gateway's own process.

use std::path::PathBuf;

/// The embedded store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EmbeddedSettings {
    /// The directory of its files, for one process at a time.
    pub directory: PathBuf,
}
