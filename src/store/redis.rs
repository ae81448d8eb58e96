//! The shared store of a fleet: Redis 7 or newer, standalone, over TCP, TLS or a Unix socket.
//!
//! Two connections, both kept up in the background (`lane`):
//!
//! - the link: RESP3 with `CLIENT TRACKING ON BCAST` on the markers' prefix. It carries the server's invalidations, all
//!   reads of markers and a heartbeat, so that an answer to the heartbeat proves that invalidations arrive too;
//! - the writes: merges, activity, questions about the server.
//!
//! The names and values are a public format, see `docs/markers.md`.

mod fault;
mod keys;
mod lane;
mod merge;
mod report;

use std::{sync::Arc, time::Duration};

use ::redis::{ConnectionInfo, IntoConnectionInfo, ProtocolVersion, io::tcp::TcpSettings};
use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};

use self::{
    fault::classify,
    keys::Keys,
    lane::{Endpoint, Lane, Tracking},
    merge::Swap,
};
use super::{Merged, Store, StoreError, StoreReport, Watcher, check_readable, merged, reading};
use crate::{
    clock::{Clock, Timestamp},
    marker::{MarkerKey, MarkerRecord, Reading},
    token::claims::Subject,
};

/// How many times a merge starts over because others changed its key meanwhile.
const MERGE_ATTEMPTS: usize = 16;

/// How many activities go into one pipeline.
const ACTIVITY_CHUNK: usize = 1000;

/// Where Redis is and how long to wait for it.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// `redis://`, `rediss://` (TLS) or `unix://`; it may hold credentials.
    pub url: SecretString,
    /// What all keys begin with. 1 to 64 printable ASCII characters, no spaces.
    pub prefix: String,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long any answer may take.
    pub response_timeout: Duration,
    /// How often the connections are tried.
    pub heartbeat: Duration,
}

impl RedisSettings {
    /// The settings for a URL, all others at their defaults: prefix `portcullis:`, one second to connect,
    /// 500 ms to answer, a heartbeat every 250 ms.
    #[must_use]
    pub fn new(url: SecretString) -> Self {
        Self {
            url,
            prefix: "portcullis:".to_owned(),
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_millis(500),
            heartbeat: Duration::from_millis(250),
        }
    }
}

/// Settings that no Redis could be reached with. Never shows the URL: it may hold a password.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidRedisSettings {
    /// The URL cannot be used.
    #[error(
        "redis url is not of the form redis://[user[:password]@]host[:port][/database], rediss://… or unix:///path"
    )]
    Url,
    /// The prefix is empty, too long, or holds other characters.
    #[error("redis key prefix must be 1 to 64 printable ASCII characters without spaces")]
    Prefix,
    /// A duration is zero.
    #[error("redis timeouts and heartbeat must be longer than zero")]
    Zero,
}

/// Markers and activity in Redis.
#[derive(Debug)]
pub struct RedisStore {
    name: Arc<str>,
    keys: Keys,
    link: Lane,
    writes: Lane,
    watcher: Arc<dyn Watcher>,
    clock: Clock,
}

impl RedisStore {
    /// Starts to keep up connections to Redis. It need not be up: operations fail with [`StoreError`] until it is.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`InvalidRedisSettings`].
    pub fn open(
        settings: &RedisSettings,
        watcher: Arc<dyn Watcher>,
        clock: Clock,
    ) -> Result<Arc<Self>, InvalidRedisSettings> {
        let keys = Keys::new(&settings.prefix).ok_or(InvalidRedisSettings::Prefix)?;
        if [settings.connect_timeout, settings.response_timeout, settings.heartbeat].contains(&Duration::ZERO) {
            return Err(InvalidRedisSettings::Zero);
        }
        let info = connection_info(&settings.url)?;
        let name: Arc<str> = format!("{}/{}", info.addr(), info.redis_settings().db()).into();
        let endpoint = Endpoint {
            name: Arc::clone(&name),
            client: ::redis::Client::open(info).map_err(|_| InvalidRedisSettings::Url)?,
            connect_timeout: settings.connect_timeout,
            response_timeout: settings.response_timeout,
            heartbeat: settings.heartbeat,
        };
        let tracking = Tracking { watcher: Arc::clone(&watcher), prefix: keys.markers() };
        Ok(Arc::new(Self {
            name,
            keys,
            link: Lane::keep(endpoint.clone(), Some(tracking)),
            writes: Lane::keep(endpoint, None),
            watcher,
            clock,
        }))
    }

    fn refused(&self, message: impl Into<String>) -> StoreError {
        StoreError::Refused { store: Arc::clone(&self.name), message: message.into() }
    }
}

fn connection_info(url: &SecretString) -> Result<ConnectionInfo, InvalidRedisSettings> {
    let info = url.expose_secret().into_connection_info().map_err(|_| InvalidRedisSettings::Url)?;
    if matches!(info.addr(), ::redis::ConnectionAddr::TcpTls { .. }) {
        // The redis crate takes the process's default; another one that is already installed is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
    let protocol = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Ok(info.set_redis_settings(protocol).set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}

#[async_trait]
impl Store for RedisStore {
    async fn read(&self, key: &MarkerKey) -> Result<Reading<MarkerRecord>, StoreError> {
        let mut link = self.link.connection()?;
        let mut get = ::redis::cmd("GET");
        get.arg(self.keys.marker(key));
        match get.query_async::<Option<Vec<u8>>>(&mut link).await {
            Ok(value) => Ok(reading(key, value.as_deref())),
            Err(error) if fault::is_wrong_type(&error) => Ok(Reading::Unreadable),
            Err(error) => Err(classify(&self.name, &error)),
        }
    }

    async fn merge(
        &self,
        key: &MarkerKey,
        record: &MarkerRecord,
        expires: Option<Timestamp>,
    ) -> Result<Merged, StoreError> {
        check_readable(&self.name, key, record)?;
        let name = self.keys.marker(key);
        let mut writes = self.writes.connection()?;
        let get = ::redis::cmd("GET").arg(&name).query_async(&mut writes).await;
        let mut stored: Option<Vec<u8>> = get.map_err(|error| classify(&self.name, &error))?;
        for _ in 0..MERGE_ATTEMPTS {
            let merged = merged(key, stored.as_deref(), record);
            if !merged.changed {
                return Ok(merged);
            }
            let value = merged.record.encode();
            let swap = merge::compare_and_set(&mut writes, &name, stored.as_deref(), &value, expires);
            match swap.await.map_err(|error| classify(&self.name, &error))? {
                Swap::Done => {
                    self.watcher.changed(key.as_str());
                    return Ok(merged);
                }
                Swap::Found(value) => stored = value,
            }
        }
        Err(fault::outage(
            &self.name,
            format!("a marker changed {MERGE_ATTEMPTS} times while another was merged into it"),
        ))
    }

    async fn record_activity(&self, batch: &[(Subject, Timestamp)]) -> Result<(), StoreError> {
        for chunk in batch.chunks(ACTIVITY_CHUNK) {
            let mut writes = self.writes.connection()?;
            let pipeline = self.keys.activity_pipeline(chunk);
            pipeline.exec_async(&mut writes).await.map_err(|error| classify(&self.name, &error))?;
        }
        Ok(())
    }

    async fn last_activity(&self, subject: &Subject) -> Result<Option<Timestamp>, StoreError> {
        let mut writes = self.writes.connection()?;
        let mut score = ::redis::cmd("ZSCORE");
        score.arg(self.keys.activity(subject)).arg(subject.id.as_str());
        let score: Option<f64> = score.query_async(&mut writes).await.map_err(|error| classify(&self.name, &error))?;
        score.map(|score| keys::time_of(score).ok_or_else(|| self.refused("an activity score is no time"))).transpose()
    }

    async fn report(&self) -> Result<StoreReport, StoreError> {
        // A connection that tracks is what the promise rests on; without it no report is of use.
        self.link.connection()?;
        let mut writes = self.writes.connection()?;
        report::ask(&mut writes, &self.name, &self.clock).await.map_err(|error| classify(&self.name, &error))
    }

    async fn close(&self) {
        self.link.close();
        self.writes.close();
    }
}
