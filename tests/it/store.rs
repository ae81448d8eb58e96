//! One suite for every store, then what each of them promises besides.

mod documented;
mod embedded;
mod redis;
mod replicas;
mod suite;
mod topology;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use portcullis::{
    clock::{Clock, Timestamp},
    marker::{Block, Logout, Marker, MarkerClock, MarkerKey, MarkerRecord},
    store::{
        Notes, Store,
        embedded::{EmbeddedSettings, EmbeddedStore},
        redis::{RedisSettings, RedisStore},
    },
    token::claims::Subject,
};
use tempfile::TempDir;

use crate::support::{eventually, redis::RedisServer, watcher::Recorder};

/// A store under test, its watcher, and a way past it.
struct Bench {
    store: Arc<dyn Store>,
    notes: Arc<dyn Notes>,
    watcher: Arc<Recorder>,
    home: Home,
}

enum Home {
    Directory(TempDir),
    Server(RedisServer),
}

impl Bench {
    fn embedded() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let watcher = Recorder::new();
        let store = open_embedded(directory.path(), &watcher);
        Self { store: store.clone(), notes: store, watcher, home: Home::Directory(directory) }
    }

    /// `None`: to be skipped.
    async fn redis() -> Option<Self> {
        let server = RedisServer::start()?;
        let watcher = Recorder::new();
        let store = open_redis(&server.url(), &watcher).await;
        Some(Self { store: store.clone(), notes: store, watcher, home: Home::Server(server) })
    }

    /// The notes of another gateway, as far as there can be one.
    async fn another(&self) -> Arc<dyn Notes> {
        match &self.home {
            Home::Directory(_) => Arc::clone(&self.notes),
            Home::Server(server) => open_redis(&server.url(), &Recorder::new()).await,
        }
    }

    /// Writes a value as another program would.
    fn plant(&self, key: &MarkerKey, value: &[u8]) {
        match &self.home {
            Home::Directory(directory) => {
                let write = "INSERT OR REPLACE INTO markers (key, value) VALUES (?1, ?2)";
                sqlite(directory.path()).execute(write, (key.as_str(), value)).unwrap();
            }
            Home::Server(server) => {
                ::redis::cmd("SET").arg(raw_key(key)).arg(value).exec(&mut server.client()).unwrap();
            }
        }
    }

    /// A way to read what is stored, past the store and from any thread.
    fn peek(&self) -> impl Fn(&str) -> Option<Vec<u8>> + Send + 'static {
        let place = match &self.home {
            Home::Directory(directory) => Ok(directory.path().to_owned()),
            Home::Server(server) => Err(::redis::Client::open(server.url()).unwrap()),
        };
        move |key| match &place {
            Ok(directory) => {
                sqlite(directory).query_row("SELECT value FROM markers WHERE key = ?1", [key], |row| row.get(0)).ok()
            }
            Err(client) => {
                let name = format!("portcullis:m:{key}");
                ::redis::cmd("GET").arg(name).query(&mut client.get_connection().unwrap()).unwrap()
            }
        }
    }
}

fn open_embedded(directory: &Path, watcher: &Arc<Recorder>) -> Arc<EmbeddedStore> {
    let settings = EmbeddedSettings { directory: directory.to_owned() };
    EmbeddedStore::open(&settings, watcher.clone(), Clock::System).unwrap()
}

async fn open_redis(url: &str, watcher: &Arc<Recorder>) -> Arc<RedisStore> {
    let store = RedisStore::open(&RedisSettings::from_url(url).unwrap(), watcher.clone(), Clock::System).unwrap();
    eventually("the store is connected", async || store.report().await.is_ok()).await;
    store
}

fn database(directory: &Path) -> PathBuf {
    directory.join("portcullis.db")
}

fn sqlite(directory: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(database(directory)).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection
}

fn raw_key(key: &MarkerKey) -> String {
    format!("portcullis:m:{}", key.as_str())
}

fn subject(id: &str) -> Subject {
    Subject { issuer: "acme".try_into().unwrap(), id: id.try_into().unwrap() }
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_763_700_000_000 + millis)
}

fn now() -> Timestamp {
    Clock::System.now()
}

fn logout(at: Timestamp) -> MarkerRecord {
    MarkerRecord::new(Marker::Logout(Logout { at, clock: MarkerClock::Issuer }))
}

fn block(at: Timestamp, blocked: bool) -> MarkerRecord {
    MarkerRecord::new(Marker::Block(Block { blocked, at, until: None }))
}
