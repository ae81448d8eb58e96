//! Waits until replicas have what was written.
//!
//! `WAIT` concerns the writes of its own connection, and holds up the commands behind it there. So one is sent for everyone
//! whose write was answered meanwhile, and the next for those who came since.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use ::redis::{RedisResult, aio::MultiplexedConnection};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::{
    fault::{classify, outage},
    lane::Live,
};
use crate::store::StoreError;

/// How many writers may wait for a turn; more wait in their callers.
const QUEUE: usize = 1024;

/// How many replicas must have a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Demand {
    pub(super) replicas: u32,
    pub(super) timeout: Duration,
}

/// Waits for replicas on behalf of many.
pub(super) struct Replicas {
    store: Arc<str>,
    demand: Demand,
    turns: mpsc::Sender<Turn>,
    _waiting: AbortOnDropHandle<()>,
}

struct Turn {
    connection: Live,
    reached: oneshot::Sender<RedisResult<u32>>,
}

impl Replicas {
    pub(super) fn new(store: Arc<str>, demand: Demand) -> Self {
        let (turns, queue) = mpsc::channel(QUEUE);
        Self { store, demand, turns, _waiting: AbortOnDropHandle::new(tokio::spawn(wait(queue, demand))) }
    }

    /// Resolves when enough replicas have everything that was written on this connection so far.
    ///
    /// # Errors
    /// [`StoreError::NotReplicated`] when they do not within the timeout.
    pub(super) async fn reach(&self, connection: Live) -> Result<(), StoreError> {
        let (reached, answer) = oneshot::channel();
        let closed = || outage(&self.store, "closed");
        self.turns.send(Turn { connection, reached }).await.map_err(|_| closed())?;
        let reached = answer.await.map_err(|_| closed())?.map_err(|error| classify(&self.store, &error))?;
        if reached < self.demand.replicas {
            return Err(StoreError::NotReplicated {
                store: Arc::clone(&self.store),
                wanted: self.demand.replicas,
                reached,
            });
        }
        Ok(())
    }
}

async fn wait(mut queue: mpsc::Receiver<Turn>, demand: Demand) {
    let mut turns = Vec::new();
    while queue.recv_many(&mut turns, QUEUE).await > 0 {
        let mut answers = BTreeMap::new();
        for Turn { mut connection, reached } in turns.drain(..) {
            let answer = match answers.entry(connection.id) {
                Entry::Occupied(answer) => answer.into_mut(),
                Entry::Vacant(first) => first.insert(ask(&mut connection.handle, demand).await),
            };
            // Whoever gave up waiting need not know.
            let _ = reached.send(answer.clone());
        }
    }
}

async fn ask(connection: &mut MultiplexedConnection, demand: Demand) -> RedisResult<u32> {
    let mut wait = ::redis::cmd("WAIT");
    wait.arg(demand.replicas).arg(u64::try_from(demand.timeout.as_millis()).unwrap_or(u64::MAX));
    wait.query_async(connection).await
}
