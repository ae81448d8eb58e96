//! Tells when files may have changed.
//!
//! Directories are watched, not files: editors write another file and rename it, and Kubernetes swaps a link beside the file. Whoever is
//! told looks for himself what has changed; being told in vain costs a look at the files.

use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use crate::config::Files;

/// How long nothing more must happen before it is told, and how long that may take at most: whoever writes several files, or one in
/// several steps, is not told on half-way.
const QUIET: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(1);

/// Watches the directories of some files.
#[derive(Debug)]
pub(super) struct Watch {
    directories: BTreeSet<PathBuf>,
    names: HashSet<OsString>,
    events: mpsc::Receiver<()>,
    /// Dropped, it watches no more.
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Watches them from now on.
    ///
    /// # Errors
    /// The system's: too many watches, most likely.
    pub(super) fn new(files: &Files) -> Result<Self, notify::Error> {
        let (directories, names) = (directories(files), names(files));
        let (told, events) = mpsc::channel(1);
        let wanted = names.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // What went wrong may have been a change. One that waits already says it all.
            if event.map_or(true, |event| concerns(&event, &wanted)) {
                let _ = told.try_send(());
            }
        })?;
        let mut paths = watcher.paths_mut();
        for directory in &directories {
            paths.add(directory, RecursiveMode::NonRecursive)?;
        }
        paths.commit()?;
        Ok(Self { directories, names, events, _watcher: watcher })
    }

    /// Whether it is these files that it watches, wherever links lead by now.
    pub(super) fn is_of(&self, files: &Files) -> bool {
        self.directories == directories(files) && self.names == names(files)
    }

    /// Resolves when one of them may have changed, and nothing has happened for a moment.
    ///
    /// # Cancel safety
    /// Dropping the future loses what it waited for to be over, so it has to be looked at afterwards.
    pub(super) async fn changed(&mut self) {
        if self.events.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        let patience = Instant::now() + PATIENCE;
        loop {
            let quiet = (Instant::now() + QUIET).min(patience);
            if timeout_at(quiet, self.events.recv()).await.is_err() {
                return;
            }
        }
    }
}

/// Where they are, and where links lead.
fn directories(files: &Files) -> BTreeSet<PathBuf> {
    let parent = |file: &Path| match file.parent() {
        Some(parent) if parent != Path::new("") => Some(parent.to_owned()),
        _ => Some(PathBuf::from(".")),
    };
    let led = |file: &PathBuf| file.canonicalize().ok();
    let all = files.iter().flat_map(|file| [parent(file), led(file).and_then(|file| parent(&file))]);
    // One that is not there cannot be watched.
    all.flatten().filter(|directory| directory.is_dir()).collect()
}

fn names(files: &Files) -> HashSet<OsString> {
    files.iter().filter_map(|file| Some(file.file_name()?.to_owned())).collect()
}

/// Whatever comes, goes or is renamed, since it may be a link; and what is written to one of the files. Reading them is no change.
fn concerns(event: &Event, names: &HashSet<OsString>) -> bool {
    match event.kind {
        // Of the latter two: events were lost, or are of no kind that is known.
        EventKind::Create(_)
        | EventKind::Remove(_)
        | EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Any
        | EventKind::Other => true,
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(_) => {
            event.paths.iter().filter_map(|path| path.file_name()).any(|name| names.contains(name))
        }
        EventKind::Access(_) => event.need_rescan(),
    }
}
