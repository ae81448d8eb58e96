//! The store inside the process: SQLite in a directory of its own, on a local disk.
//!
//! One thread writes, one reads, and another one reads what takes longer, such as pages of the index of activity; all have bounded queues. Marker writes that wait together are committed together and
//! acknowledged when they are on disk (`synchronous=FULL`). Activity, sessions and most notes are written without waiting for the disk: a
//! power cut may lose the last moments of them, never a marker.
//!
//! The values are those of the public format, see `docs/markers.md`.

mod activity;
mod change;
mod database;
mod leases;
mod notes;
mod presence;
mod queue;
mod reader;
mod remembered;
mod sessions;
mod writer;

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use async_trait::async_trait;
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;

use self::{
    change::Change,
    database::{Database, open_fault},
    leases::Leases,
    presence::Presence,
    queue::{Queue, queue},
    reader::Read,
    remembered::Remembered,
    writer::{Write, Writer},
};
use super::{
    ActivityCount, Merged, Seen, Sessions, Store, StoreError, StoreReport, Watcher, check_readable, register_names,
};
use crate::{
    clock::{Clock, Timestamp},
    marker::{MarkerKey, MarkerRecord, Reading},
    token::claims::{IssuerName, Subject, SubjectId},
};

/// How many jobs may wait for a thread; more wait in their callers.
const QUEUE: usize = 1024;

/// How long a caller waits for an answer. A disk that takes longer is as good as gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the watcher hears from the store.
pub const HEARTBEAT: Duration = writer::BEAT;

const DATABASE_FILE: &str = "portcullis.db";
const LOCK_FILE: &str = "portcullis.lock";

/// Where the store is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EmbeddedSettings {
    /// Made if it is missing. It must be on a local disk, and belongs to one process at a time.
    pub directory: PathBuf,
}

/// Why an embedded store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedOpenError {
    /// The directory, or a file in it, cannot be made or opened.
    #[error("store directory `{}` cannot be used", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("store directory `{}` is in use by another process", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// A later version of this program wrote it.
    #[error("store file `{}` has schema version {found}, this program knows {known}; use a newer one", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its schema version.
        found: i64,
        /// The latest schema version that is understood.
        known: i64,
    },
    /// It is a database of another program.
    #[error("store file `{}` belongs to another program", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// It is no database, or a damaged one.
    #[error("store file `{}` is damaged ({problem}); restore it from a backup, or move it away to start without markers", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What was found.
        problem: String,
    },
    /// SQLite or the system reports something else.
    #[error("store file `{}` cannot be opened", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Markers and activity in this process.
#[derive(Debug)]
pub struct EmbeddedStore {
    name: Arc<str>,
    writes: Queue<Write>,
    reads: Queue<Read>,
    surveys: Queue<Read>,
    memory: Arc<Memory>,
    leases: Leases,
    threads: Mutex<Option<Threads>>,
}

/// The readers end first: the last connection to close tidies up the files.
#[derive(Debug)]
struct Threads {
    readers: [JoinHandle<()>; 2],
    writer: JoinHandle<()>,
}

impl EmbeddedStore {
    /// Opens the store, and makes it if there is none. Blocks while it is checked.
    ///
    /// # Errors
    /// [`EmbeddedOpenError`].
    pub fn open(
        settings: &EmbeddedSettings,
        watcher: Arc<dyn Watcher>,
        clock: Clock,
    ) -> Result<Arc<Self>, EmbeddedOpenError> {
        let directory = settings.directory.as_path();
        let lock = lock(directory)?;
        let file = directory.join(DATABASE_FILE);
        let durable = Database::open(&file, clock.clone())?;
        let relaxed = Database::open_relaxed(&file, clock.clone())?;
        let reader = Database::open_read_only(&file, clock.clone())?;
        let surveyor = Database::open_read_only(&file, clock.clone())?;
        let name: Arc<str> = directory.display().to_string().into();
        let memory = Arc::new(Memory::load(&reader).map_err(|error| open_fault(&file, error))?);
        let (writes, inbox) = queue(QUEUE);
        let work = Writer::new(Arc::clone(&name), inbox, watcher, Arc::clone(&memory), durable, relaxed, lock);
        let write_thread = spawn(directory, "portcullis-store-write", move || work.run())?;
        let read = |thread: &str, database: Database| {
            let ((queue, inbox), name) = (queue(QUEUE), Arc::clone(&name));
            spawn(directory, thread, move || reader::run(&name, &inbox, &database)).map(|thread| (queue, thread))
        };
        let (reads, read_thread) = read("portcullis-store-read", reader)?;
        let (surveys, survey_thread) = read("portcullis-store-survey", surveyor)?;
        let threads = Mutex::new(Some(Threads { readers: [read_thread, survey_thread], writer: write_thread }));
        Ok(Arc::new(Self { name, writes, reads, surveys, memory, leases: Leases::new(clock), threads }))
    }

    async fn write<T>(&self, job: impl FnOnce(Answer<T>) -> Write) -> Result<T, StoreError> {
        self.ask(&self.writes, job).await
    }

    async fn query<T>(&self, job: impl FnOnce(Answer<T>) -> Read) -> Result<T, StoreError> {
        self.ask(&self.reads, job).await
    }

    async fn ask<J, T>(&self, queue: &Queue<J>, job: impl FnOnce(Answer<T>) -> J) -> Result<T, StoreError> {
        let (answer, asked) = oneshot::channel();
        let asking = async {
            if queue.send(job(answer)).await.is_err() {
                return Err(self.stopped());
            }
            asked.await.unwrap_or_else(|_| Err(self.stopped()))
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err(StoreError::timed_out(&self.name)))
    }

    fn stopped(&self) -> StoreError {
        StoreError::unavailable(&self.name, io::Error::other("the store is closed"))
    }
}

/// What of the file is in memory too, so that nobody waits for the disk to learn it.
#[derive(Debug)]
struct Memory {
    presence: Presence,
    remembered: Remembered,
}

impl Memory {
    fn load(file: &Database) -> rusqlite::Result<Self> {
        let memory = Self { presence: Presence::new(), remembered: Remembered::default() };
        file.each_marker(|key| memory.presence.add(key))?;
        file.notes().each_seen(|source, event| memory.remembered.update(source, vec![event], &[]))?;
        Ok(memory)
    }
}

/// Where a job's answer goes. Nobody may be waiting for it any more.
type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// Keeps other processes out of the directory. Unlocked, not only closed: a process that is being started may hold a copy of
/// the handle for a moment.
#[derive(Debug)]
struct DirectoryLock(File);

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing it does the same, a moment later.
        let _ = self.0.unlock();
    }
}

fn lock(directory: &Path) -> Result<DirectoryLock, EmbeddedOpenError> {
    let failed = |source| EmbeddedOpenError::Directory { directory: directory.to_owned(), source };
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).map_err(failed)?;
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(directory.join(LOCK_FILE));
    let file = open.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(DirectoryLock(file)),
        Err(TryLockError::WouldBlock) => Err(EmbeddedOpenError::InUse { directory: directory.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn spawn(
    directory: &Path,
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, EmbeddedOpenError> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map_err(|source| EmbeddedOpenError::Directory { directory: directory.to_owned(), source })
}

/// Joining blocks; a thread that panicked has nothing left to say.
async fn join(thread: JoinHandle<()>) {
    let _ = tokio::task::spawn_blocking(|| thread.join()).await;
}

#[async_trait]
impl Store for EmbeddedStore {
    fn register(&self, registry: &mut Registry) {
        let memory = Arc::clone(&self.memory);
        register_names(registry, move || Some(memory.presence.len()));
    }

    fn lacks(&self, key: &MarkerKey) -> bool {
        self.memory.presence.lacks(key.as_str())
    }

    async fn read(&self, key: &MarkerKey) -> Result<Reading<MarkerRecord>, StoreError> {
        self.query(|answer| Read::Marker { key: key.clone(), answer }).await
    }

    async fn merge(
        &self,
        key: &MarkerKey,
        record: &MarkerRecord,
        expires: Option<Timestamp>,
    ) -> Result<Merged, StoreError> {
        check_readable(&self.name, key, record)?;
        let merge = writer::Merge { key: key.clone(), record: record.clone(), expires };
        self.write(|answer| Write::Merge(merge, answer)).await
    }

    async fn record_activity(&self, batch: &[(Subject, Timestamp)]) -> Result<(), StoreError> {
        self.write(|answer| Write::Activity(batch.to_vec(), answer)).await
    }

    async fn last_activities(
        &self,
        issuer: &IssuerName,
        subjects: &[SubjectId],
    ) -> Result<Vec<Option<Timestamp>>, StoreError> {
        self.survey_last(issuer, subjects).await
    }

    async fn inactive(
        &self,
        issuer: &IssuerName,
        before: Timestamp,
        after: Option<&Seen>,
        limit: usize,
    ) -> Result<Vec<Seen>, StoreError> {
        self.survey_inactive(issuer, before, after, limit).await
    }

    async fn count_activity(&self, issuer: &IssuerName, before: Timestamp) -> Result<ActivityCount, StoreError> {
        self.survey_count(issuer, before).await
    }

    async fn forget_inactive(&self, issuer: &IssuerName, before: Timestamp) -> Result<(), StoreError> {
        // One bite after the other: what others want written has its turn in between.
        while self.change(Change::ForgetInactive { issuer: issuer.clone(), before }).await? {}
        Ok(())
    }

    async fn forget_activity(&self, batch: &[(Subject, Timestamp)]) -> Result<(), StoreError> {
        for chunk in batch.chunks(notes::CHUNK) {
            self.change(Change::ForgetActivity { batch: chunk.to_vec() }).await?;
        }
        Ok(())
    }

    fn sessions(&self) -> &dyn Sessions {
        self
    }

    async fn report(&self) -> Result<StoreReport, StoreError> {
        self.query(|answer| Read::Report { answer }).await
    }

    async fn close(&self) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Threads { readers, writer }) = threads else { return };
        // The readers first, and to their end: they cannot tidy up if one should be the last to let go of the file.
        self.reads.close();
        self.surveys.close();
        for thread in readers {
            join(thread).await;
        }
        self.writes.close();
        join(writer).await;
    }
}
