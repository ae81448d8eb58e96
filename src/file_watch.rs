//! Hears of changes of files.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{sync::Notify, time::timeout};

/// How long nothing may have happened before a change counts as complete.
const QUIET: Duration = Duration::from_millis(250);

/// When it counts as complete although things go on.
const LONGEST: Duration = Duration::from_secs(5);

/// Watches the directories of some files: whoever replaces a file by renaming another, as everybody should, or the link to it, as
/// Kubernetes and certbot do, changes its directory and not the file.
#[derive(Debug)]
pub struct FileWatch {
    directories: BTreeSet<PathBuf>,
    watcher: Option<RecommendedWatcher>,
    happened: Arc<Notify>,
}

impl FileWatch {
    /// Watches the directories of these files. Where the system cannot, [`changed`](Self::changed) is the poll alone.
    #[must_use]
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let happened = Arc::new(Notify::new());
        let told = Arc::clone(&happened);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // Reading the files must not lead to reading them again.
            if !event.is_ok_and(|event| is_reading(event.kind)) {
                told.notify_one();
            }
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(error = error as &dyn std::error::Error, "files are polled only"))
            .ok();
        let directory = |file: PathBuf| match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let directories = files.into_iter().map(directory).collect();
        let mut watch = Self { directories, watcher, happened };
        watch.attach();
        watch
    }

    /// Resolves when something changed beside the files and has come to rest, and after `poll` in any case.
    ///
    /// # Cancel safety
    /// What happens meanwhile is told the next time.
    pub async fn changed(&mut self, poll: Duration) {
        if timeout(poll, self.happened.notified()).await.is_err() {
            // A directory that was removed and made anew is another one.
            self.attach();
            return;
        }
        let rest = async { while timeout(QUIET, self.happened.notified()).await.is_ok() {} };
        // At worst it is looked at again.
        let _ = timeout(LONGEST, rest).await;
        self.attach();
    }

    fn attach(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        for directory in &self.directories {
            if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                tracing::debug!(error = &error as &dyn std::error::Error, "directory is not watched");
            }
        }
    }
}

const fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(kind) if !matches!(kind, AccessKind::Close(AccessMode::Write)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn writing_renaming_and_swapping_a_link_are_changes() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("one")).unwrap();
        fs::create_dir(at("two")).unwrap();
        std::os::unix::fs::symlink("one", at("data")).unwrap();
        fs::write(at("one/file"), "1").unwrap();
        std::os::unix::fs::symlink("data/file", at("file")).unwrap();
        let mut watch = FileWatch::new([at("file")]);
        let changes: [(&str, &dyn Fn()); 3] = [
            ("written", &|| fs::write(at("plain"), "2").unwrap()),
            ("renamed", &|| fs::rename(at("plain"), at("other")).unwrap()),
            ("swapped", &|| {
                std::os::unix::fs::symlink("two", at("new")).unwrap();
                fs::rename(at("new"), at("data")).unwrap();
            }),
        ];
        for (name, change) in changes {
            change();
            timeout(SOON, watch.changed(LONG)).await.unwrap_or_else(|_| panic!("{name} was not told"));
        }
        fs::read(at("other")).unwrap();
        assert!(timeout(Duration::from_millis(300), watch.changed(LONG)).await.is_err(), "reading is no change");
    }
}
