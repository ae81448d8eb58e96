//! The shared store of a fleet: Redis 7 or newer, standalone, behind Sentinel or as a Cluster, over TCP, TLS or a Unix socket.
//!
//! Three connections to each primary, kept up in the background (`lane`, `node`):
//!
//! - the link: RESP3 with `CLIENT TRACKING ON BCAST` on the markers' prefix. It carries the server's invalidations, all
//!   reads of markers and a heartbeat, so that an answer to the heartbeat proves that invalidations arrive too (`link`);
//! - the writes of markers, which may wait for replicas (`merge`, `replicas`);
//! - the rest: activity, sessions, notes, and questions about the server.
//!
//! Who is a primary is known from the settings, from sentinels (`sentinel`), or from the Cluster's nodes (`cluster`); the store
//! counts as heard only when all have been whom that takes (`hearing`). The names of all markers are kept in memory (`index`).
//!
//! The names and values are a public format, see `docs/markers.md`.

mod activity;
mod cluster;
mod connect;
mod fault;
mod hearing;
mod index;
mod keys;
mod lane;
mod link;
mod load;
mod merge;
mod node;
mod notes;
mod replicas;
mod report;
mod script;
mod sentinel;
mod sessions;
mod settings;
mod topology;

use std::{sync::Arc, time::Duration};

use ::redis::{Cmd, FromRedisValue};
use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};
use prometheus_client::registry::Registry;
use tokio_util::task::AbortOnDropHandle;

pub use self::settings::{Address, InvalidRedisSettings, Location, Login, RedisSettings, RedisTls};
use self::{
    fault::classify,
    index::Index,
    keys::Keys,
    link::Tracking,
    merge::{Expiry, Swap},
    node::{Failure, Reply, Use},
    topology::Topology,
};
use super::{
    ActivityCount, Merged, Seen, Sessions, Store, StoreError, StoreReport, Watcher, check_readable, merged, reading,
    register_names,
};
use crate::{
    clock::{Clock, Timestamp},
    marker::{MarkerKey, MarkerRecord, Reading},
    token::claims::{IssuerName, Subject, SubjectId},
};

/// How many times a merge starts over because others changed its key meanwhile.
const MERGE_ATTEMPTS: usize = 16;

/// How many activities are written at once.
const ACTIVITY_CHUNK: usize = 1000;

/// Markers and activity in Redis.
#[derive(Debug)]
pub struct RedisStore {
    name: Arc<str>,
    keys: Keys,
    topology: Arc<Topology>,
    tracking: Tracking,
    replicas: u32,
    clock: Clock,
    loading: AbortOnDropHandle<()>,
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
        if matches!(settings.location, Location::Cluster(_)) && settings.prefix.contains(['{', '}']) {
            return Err(InvalidRedisSettings::Prefix);
        }
        let durations =
            [settings.connect_timeout, settings.response_timeout, settings.heartbeat, settings.replica_timeout];
        if durations.contains(&Duration::ZERO) {
            return Err(InvalidRedisSettings::Zero);
        }
        let name: Arc<str> = match &settings.location {
            Location::Cluster(_) => settings.location.to_string().into(),
            location => format!("{location}/{}", settings.database).into(),
        };
        let index = Arc::new(Index::new(settings.index_limit));
        let tracking = Tracking { watcher, index, prefix: keys.markers() };
        let topology = Arc::new(Topology::follow(&name, settings, tracking.clone())?);
        let loading = load::keep(Arc::clone(&topology), Arc::clone(&tracking.index), keys.clone());
        Ok(Arc::new(Self {
            name,
            keys,
            topology,
            tracking,
            replicas: settings.replicas,
            clock,
            loading: AbortOnDropHandle::new(tokio::spawn(loading)),
        }))
    }

    fn refused(&self, message: impl Into<String>) -> StoreError {
        StoreError::Refused { store: Arc::clone(&self.name), message: message.into() }
    }

    /// The time that a score stands for.
    fn time_of(&self, score: f64) -> Result<Timestamp, StoreError> {
        keys::time_of(score).ok_or_else(|| self.refused("an activity score is no time"))
    }

    async fn get(&self, usage: Use, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        self.ask(usage, name, ::redis::cmd("GET").arg(name)).await
    }

    /// What a command about `key` answers.
    async fn ask<T: FromRedisValue>(&self, usage: Use, key: &str, command: &Cmd) -> Result<T, Failure> {
        understood(self.topology.execute(usage, key, command).await?)
    }

    /// Calls a script about `key`.
    async fn call(&self, usage: Use, key: &str, [known, full]: &[Cmd; 2]) -> Result<Reply, Failure> {
        match self.topology.execute(usage, key, known).await {
            Err(Failure::NoScript(_)) => self.topology.execute(usage, key, full).await,
            reply => reply,
        }
    }

    /// Sets the value if it still is what was found, and waits until enough replicas have it.
    async fn swap(&self, name: &str, found: Option<&[u8]>, value: &str, expiry: Expiry) -> Result<Swap, StoreError> {
        let call = merge::compare_and_set(name, found, value, expiry);
        let Reply { value, node, live } = self.call(Use::Write, name, &call).await?;
        let swap = merge::swap(value).map_err(|error| classify(node.name(), &error))?;
        if matches!(swap, Swap::Done) {
            // Takes effect whether replicas have it or not.
            self.tracking.changed(name.strip_prefix(&*self.tracking.prefix).unwrap_or(name));
            node.replicated(live).await?;
        }
        Ok(swap)
    }
}

/// What an answer says.
fn understood<T: FromRedisValue>(Reply { value, node, .. }: Reply) -> Result<T, Failure> {
    T::from_redis_value(value).map_err(|error| classify(node.name(), &error.into()).into())
}

#[async_trait]
impl Store for RedisStore {
    fn register(&self, registry: &mut Registry) {
        let index = Arc::clone(&self.tracking.index);
        register_names(registry, move || index.len());
    }

    fn lacks(&self, key: &MarkerKey) -> bool {
        self.tracking.index.lacks(key.as_str())
    }

    async fn read(&self, key: &MarkerKey) -> Result<Reading<MarkerRecord>, StoreError> {
        match self.get(Use::Read, &self.keys.marker(key)).await {
            Ok(value) => Ok(reading(key, value.as_deref())),
            Err(Failure::WrongType(_)) => Ok(Reading::Unreadable),
            Err(failure) => Err(failure.into()),
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
        let mut stored = self.get(Use::Write, &name).await?;
        for _ in 0..MERGE_ATTEMPTS {
            let merged = merged(key, stored.as_deref(), record);
            let (value, expiry) = match (&stored, expires) {
                (Some(stored), _) if !merged.changed => {
                    if self.replicas == 0 {
                        return Ok(merged);
                    }
                    // Whoever wrote it may not have waited for replicas: what is written again is waited for.
                    (String::from_utf8_lossy(stored).into_owned(), Expiry::Unchanged)
                }
                (_, Some(at)) => (merged.record.encode(), Expiry::At(at)),
                (_, None) => (merged.record.encode(), Expiry::Never),
            };
            match self.swap(&name, stored.as_deref(), &value, expiry).await? {
                Swap::Done => return Ok(merged),
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
            let commands = self.keys.activity_commands(chunk);
            // Sent at once, they go out together.
            let writes = commands.iter().map(|(set, command)| self.topology.execute(Use::Rest, set, command));
            try_join_all(writes).await?;
        }
        Ok(())
    }

    async fn last_activities(
        &self,
        issuer: &IssuerName,
        subjects: &[SubjectId],
    ) -> Result<Vec<Option<Timestamp>>, StoreError> {
        self.last_seen(issuer, subjects).await
    }

    async fn inactive(
        &self,
        issuer: &IssuerName,
        before: Timestamp,
        after: Option<&Seen>,
        limit: usize,
    ) -> Result<Vec<Seen>, StoreError> {
        self.inactive_page(issuer, before, after, limit).await
    }

    async fn count_activity(&self, issuer: &IssuerName, before: Timestamp) -> Result<ActivityCount, StoreError> {
        self.count_seen(issuer, before).await
    }

    async fn forget_inactive(&self, issuer: &IssuerName, before: Timestamp) -> Result<(), StoreError> {
        self.forget_before(self.keys.activity_shards(issuer), before).await
    }

    async fn forget_activity(&self, batch: &[(Subject, Timestamp)]) -> Result<(), StoreError> {
        for chunk in batch.chunks(ACTIVITY_CHUNK) {
            let calls = self.keys.forgetting_calls(chunk);
            let writes = calls.iter().map(|(set, call)| self.call(Use::Rest, set, call));
            try_join_all(writes).await?;
        }
        Ok(())
    }

    fn sessions(&self) -> &dyn Sessions {
        self
    }

    async fn report(&self) -> Result<StoreReport, StoreError> {
        let (description, mut warnings) = self.topology.describe()?;
        let nodes = self.topology.nodes();
        let clustered = matches!(*self.topology, Topology::Cluster(_));
        let expected = report::Expected { replicas: self.replicas, clustered };
        let reports = join_all(nodes.iter().map(async |node| {
            // A connection that tracks is what the promise rests on; without it no report is of use.
            node.connection(Use::Read)?;
            node.connection(Use::Write)?;
            let mut live = node.connection(Use::Rest)?;
            let asked = report::ask(&mut live.handle, node.name(), expected, &self.clock).await;
            asked.map_err(|error| classify(node.name(), &error))
        }))
        .await;
        let mut descriptions = Vec::new();
        for report in reports {
            let report = report?;
            descriptions.push(report.description);
            warnings.extend(report.warnings);
        }
        warnings.extend(self.tracking.index.unkept().map(|why| why.to_string()));
        Ok(StoreReport { description: format!("{}{description}", descriptions.join(", ")), warnings })
    }

    async fn close(&self) {
        self.loading.abort();
        self.topology.close();
    }
}
