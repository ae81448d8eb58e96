//! Where a gate's configuration comes from.

use std::path::{Path, PathBuf};

use crate::config::{Config, Reading};

/// A configuration file, and the variables over it.
#[derive(Clone)]
pub struct ConfigFile {
    path: PathBuf,
    variables: Vec<(String, String)>,
}

/// Variables may be secret.
impl std::fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ConfigFile {
    /// This file, and these variables: [`environment`](crate::config::environment) outside of tests.
    #[must_use]
    pub fn new(path: &Path, variables: Vec<(String, String)>) -> Self {
        Self { path: path.to_owned(), variables }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it.
    #[must_use]
    pub fn read(&self) -> Reading {
        Config::read(&self.path, self.variables.iter().cloned())
    }
}
