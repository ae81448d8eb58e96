//! The connection that carries the server's invalidations, all reads of markers, and a heartbeat: an answer to the heartbeat
//! proves that invalidations arrive too.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use ::redis::{PushInfo, PushKind, RedisResult, Value, aio::MultiplexedConnection};
use async_trait::async_trait;

use super::{fault, hearing::Hearing, index::Index, lane::Purpose, settings::Address};
use crate::store::Watcher;

/// Who is told of changes.
#[derive(Clone, Debug)]
pub(super) struct Tracking {
    pub(super) watcher: Arc<dyn Watcher>,
    pub(super) index: Arc<Index>,
    /// What the names of the watched keys begin with; it is cut off.
    pub(super) prefix: Arc<str>,
}

impl Tracking {
    /// From the answer on, every change is pushed.
    pub(super) async fn subscribe(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let mut track = ::redis::cmd("CLIENT");
        track.arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(&*self.prefix);
        track.exec_async(connection).await
    }

    /// A marker may have changed.
    pub(super) fn changed(&self, key: &str) {
        self.index.add(key);
        self.watcher.changed(key);
    }

    /// Any marker may have changed.
    pub(super) fn reset(&self) {
        self.index.forget();
        self.watcher.reset();
    }

    pub(super) fn pushed(&self, push: &PushInfo) {
        if push.kind == PushKind::Invalidate {
            self.invalidate(&push.data);
        }
    }

    /// `data` is a list of keys, or nil when everything was flushed.
    fn invalidate(&self, data: &[Value]) {
        let Some(Value::Array(keys)) = data.first() else {
            return self.reset();
        };
        for key in keys {
            let name = match key {
                Value::BulkString(name) => str::from_utf8(name).ok(),
                Value::SimpleString(name) => Some(name.as_str()),
                _ => None,
            };
            // A name that is no text is no marker's.
            if let Some(key) = name.and_then(|name| name.strip_prefix(&*self.prefix)) {
                self.changed(key);
            }
        }
    }
}

/// The link to a primary of which there is one at a time.
pub(super) struct PrimaryLink {
    tracking: Tracking,
    hearing: Arc<Hearing>,
    /// Whether the server tells its role; a user may lack the permission to ask.
    tells_role: AtomicBool,
}

impl PrimaryLink {
    pub(super) fn new(tracking: Tracking, hearing: Arc<Hearing>) -> Self {
        Self { tracking, hearing, tells_role: AtomicBool::new(true) }
    }

    /// A primary that was demoted keeps its connections, and lags behind from then on.
    async fn check_role(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        if self.tells_role.load(Ordering::Relaxed) {
            match ::redis::cmd("ROLE").query_async::<Vec<Value>>(connection).await {
                Ok(role) => return expect_primary(&role),
                Err(error) if fault::is_denied(&error) => self.tells_role.store(false, Ordering::Relaxed),
                Err(error) => return Err(error),
            }
        }
        ::redis::cmd("PING").exec_async(connection).await
    }
}

#[async_trait]
impl Purpose for PrimaryLink {
    async fn prepare(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        self.tells_role.store(true, Ordering::Relaxed);
        self.tracking.subscribe(connection).await?;
        self.check_role(connection).await
    }

    fn begin(&self, target: &Address, since: Instant) {
        self.tracking.reset();
        self.heard(target, since);
    }

    async fn beat(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        self.check_role(connection).await.map(|()| true)
    }

    fn heard(&self, target: &Address, sent: Instant) {
        self.hearing.heard(target, sent);
    }

    fn pushed(&self, push: &PushInfo) {
        self.tracking.pushed(push);
    }
}

fn expect_primary(role: &[Value]) -> RedisResult<()> {
    let name = match role.first() {
        Some(Value::BulkString(name)) => name.as_slice(),
        Some(Value::SimpleString(name)) => name.as_bytes(),
        _ => b"",
    };
    let what = match name {
        b"master" => return Ok(()),
        b"sentinel" => "it is a sentinel",
        _ => "it is a replica",
    };
    Err(::redis::make_extension_error("READONLY".to_owned(), Some(what.to_owned())))
}
