//! Where a store is, and ways past it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use portcullis::{
    clock::Clock,
    config::StoreSettings,
    instance::{OpenStore, open_store},
    marker::{Marker, MarkerKey, MarkerRecord},
    store::{
        Store, Watcher,
        embedded::{EmbeddedSettings, EmbeddedStore},
        redis::{RedisSettings, RedisStore},
    },
};
use redis::Connection;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{ids::Ids, others::Others, plan::Kind, redis_server::RedisServer};

const PATIENCE: Duration = Duration::from_secs(60);

/// How many rows are put into the file in one transaction.
const ROWS: u64 = 500_000;

/// A server, or a directory. Dropped, it is gone.
pub(crate) enum Place {
    Redis(RedisServer),
    Embedded(TempDir),
}

impl Place {
    pub(crate) fn new(kind: Kind, configuration: &str) -> anyhow::Result<Self> {
        Ok(match kind {
            Kind::Redis => Self::Redis(RedisServer::start(configuration)?),
            Kind::Embedded => Self::Embedded(tempfile::tempdir()?),
        })
    }

    /// The server's process, if there is one.
    pub(crate) fn server(&self) -> Option<u32> {
        match self {
            Self::Redis(server) => Some(server.pid()),
            Self::Embedded(_) => None,
        }
    }

    fn connection(server: &RedisServer) -> anyhow::Result<Connection> {
        Ok(redis::Client::open(format!("redis://{}", server.address()))?.get_connection()?)
    }

    pub(crate) async fn open(&self) -> anyhow::Result<Arc<dyn Store>> {
        let store: Arc<dyn Store> = match self {
            Self::Redis(server) => {
                let settings = RedisSettings::from_url(&format!("redis://{}", server.address()))?;
                RedisStore::open(&settings, Arc::new(Nobody), Clock::System)?
            }
            Self::Embedded(directory) => {
                let settings = EmbeddedSettings { directory: directory.path().to_owned() };
                EmbeddedStore::open(&settings, Arc::new(Nobody), Clock::System)?
            }
        };
        let begun = Instant::now();
        while store.report().await.is_err() {
            ensure!(begun.elapsed() < PATIENCE, "the store does not answer after {PATIENCE:?}");
            sleep(Duration::from_millis(10)).await;
        }
        Ok(store)
    }

    /// The same with its notes, where somebody hears of changes.
    pub(crate) async fn open_with_notes(&self, watcher: Arc<dyn Watcher>) -> anyhow::Result<OpenStore> {
        let settings = match self {
            Self::Redis(server) => {
                StoreSettings::Redis(Box::new(RedisSettings::from_url(&format!("redis://{}", server.address()))?))
            }
            Self::Embedded(directory) => {
                StoreSettings::Embedded(EmbeddedSettings { directory: directory.path().to_owned() })
            }
        };
        let (store, notes) = open_store(&settings, watcher, Clock::System)?;
        let begun = Instant::now();
        while store.report().await.is_err() {
            ensure!(begun.elapsed() < PATIENCE, "the store does not answer after {PATIENCE:?}");
            sleep(Duration::from_millis(10)).await;
        }
        Ok((store, notes))
    }

    /// Others, who read a marker that is there: of Redis past the store, whose connections this thread serves.
    pub(crate) async fn others(&self, store: &Arc<dyn Store>) -> anyhow::Result<Others> {
        let key = MarkerKey::token(&"bench".try_into()?, &"others".try_into()?);
        store.merge(&key, &MarkerRecord::new(Marker::TokenRevoked(Clock::System.now())), None).await?;
        match self {
            Self::Redis(server) => {
                let (mut connection, name) = (Self::connection(server)?, format!("portcullis:m:{}", key.as_str()));
                Ok(Others::start(move || {
                    let marker: Option<String> = redis::cmd("GET").arg(&name).query(&mut connection)?;
                    marker.context("a marker is gone").map(drop)
                }))
            }
            Self::Embedded(_) => {
                let store = Arc::clone(store);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
                Ok(Others::start(move || {
                    let marker = runtime.block_on(store.read(&key))?;
                    marker.present().context("a marker is gone").map(drop)
                }))
            }
        }
    }

    /// Bytes of memory, or on disk, that are in use.
    pub(crate) fn size(&self) -> anyhow::Result<u64> {
        match self {
            Self::Redis(server) => {
                let text: String = redis::cmd("INFO").arg("memory").query(&mut Self::connection(server)?)?;
                let line = text.lines().find_map(|line| line.strip_prefix("used_memory:")).context("no used_memory")?;
                Ok(line.trim().parse()?)
            }
            Self::Embedded(directory) => Ok(std::fs::metadata(file(directory))?.len()),
        }
    }

    /// Puts subjects into the file of a closed store, in no order, as they would come, but without its promises: by the store it would
    /// take hours.
    pub(crate) fn fill_file(&self, ids: &Ids, count: u64) -> anyhow::Result<bool> {
        let Self::Embedded(directory) = self else { return Ok(false) };
        let mut connection = rusqlite::Connection::open(file(directory))?;
        connection.pragma_update_and_check(None, "journal_mode", "OFF", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.pragma_update(None, "cache_size", -4_000_000)?;
        for first in (0..count).step_by(usize::try_from(ROWS)?) {
            let transaction = connection.transaction()?;
            {
                let mut insert =
                    transaction.prepare("INSERT INTO activity (issuer, subject, seen) VALUES (?1, ?2, ?3)")?;
                for n in first..count.min(first + ROWS) {
                    let subject = ids.subject(n)?;
                    let row = (subject.issuer.as_str(), subject.id.as_str(), ids.seen(n).as_millis());
                    insert.execute(row)?;
                }
            }
            transaction.commit()?;
            eprintln!("  {} of {count}", count.min(first + ROWS));
        }
        Ok(true)
    }
}

fn file(directory: &TempDir) -> PathBuf {
    directory.path().join("portcullis.db")
}

/// Hears of nothing.
#[derive(Debug)]
struct Nobody;

impl Watcher for Nobody {
    fn changed(&self, _: &str) {}
    fn reset(&self) {}
    fn heard(&self, _: std::time::Instant) {}
}
