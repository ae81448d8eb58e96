//! Where a gate's configuration comes from.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, SHA256};

use crate::config::{Config, Files, Reading};

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

/// A digest of what stands in files; the same as long as nothing changes.
pub(super) fn fingerprint(files: &Files) -> [u8; 32] {
    /// More than any of them is long.
    const LONGEST: u64 = 16 * 1024 * 1024;
    let mut context = Context::new(&SHA256);
    for file in files {
        let is_long = fs::metadata(file).is_ok_and(|metadata| metadata.len() > LONGEST);
        let contents = if is_long { None } else { fs::read(file).ok() };
        // One that is not there is not one that is empty.
        context.update(&contents.as_ref().map_or(u64::MAX, |contents| contents.len() as u64).to_be_bytes());
        context.update(&contents.unwrap_or_default());
    }
    let mut print = [0; 32];
    print.copy_from_slice(context.finish().as_ref());
    print
}
