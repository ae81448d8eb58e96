//! A connection that is kept up: made in the background, tried by a heartbeat, made anew when it is lost.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use ::redis::{AsyncConnectionConfig, Client, PushInfo, PushKind, RedisResult, Value, aio::MultiplexedConnection};
use arc_swap::ArcSwap;
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};

use super::fault::{classify, outage};
use crate::store::{StoreError, Watcher};

/// How many heartbeats in a row may stay unanswered before the connection is given up.
const MISSES: u32 = 2;

/// How many commands may wait to be sent; more wait in their callers, up to the response timeout.
const QUEUE: usize = 1024;

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// Where to connect to, and how long to wait.
#[derive(Clone)]
pub(super) struct Endpoint {
    /// Without credentials.
    pub(super) name: Arc<str>,
    pub(super) client: Client,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) heartbeat: Duration,
}

/// Who is told which changes.
#[derive(Clone)]
pub(super) struct Tracking {
    pub(super) watcher: Arc<dyn Watcher>,
    /// What the names of the watched keys begin with; it is cut off.
    pub(super) prefix: Arc<str>,
}

/// A connection, or why there is none.
type State = ArcSwap<Result<MultiplexedConnection, StoreError>>;

/// The keeper of one connection.
pub(super) struct Lane {
    name: Arc<str>,
    state: Arc<State>,
    keeper: JoinHandle<()>,
}

impl Lane {
    pub(super) fn keep(endpoint: Endpoint, tracking: Option<Tracking>) -> Self {
        let name = Arc::clone(&endpoint.name);
        let state = Arc::new(State::from_pointee(Err(outage(&name, "not connected yet"))));
        let keeper = tokio::spawn(Keeper { endpoint, tracking, state: Arc::clone(&state) }.run());
        Self { name, state, keeper }
    }

    /// The connection, at once: whoever has to wait for it had better be told.
    pub(super) fn connection(&self) -> Result<MultiplexedConnection, StoreError> {
        (**self.state.load()).clone()
    }

    pub(super) fn close(&self) {
        self.keeper.abort();
        self.state.store(Arc::new(Err(outage(&self.name, "closed"))));
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("name", &self.name).field("up", &self.state.load().is_ok()).finish_non_exhaustive()
    }
}

struct Keeper {
    endpoint: Endpoint,
    tracking: Option<Tracking>,
    state: Arc<State>,
}

impl Keeper {
    async fn run(self) {
        let mut pause = FIRST_RETRY;
        loop {
            let (lost, since) = (Arc::new(Notify::new()), Instant::now());
            match self.connect(&lost).await {
                Ok(connection) => {
                    pause = FIRST_RETRY;
                    self.begin(&connection, since);
                    self.serve(connection, &lost).await;
                    tracing::warn!(store.name = %self.endpoint.name, "connection to redis lost");
                    self.state.store(Arc::new(Err(outage(&self.endpoint.name, "connection lost"))));
                }
                Err(error) => {
                    let error = classify(&self.endpoint.name, &error);
                    tracing::debug!(%error, "redis cannot be connected to");
                    self.state.store(Arc::new(Err(error)));
                }
            }
            sleep(jittered(pause)).await;
            pause = LAST_RETRY.min(pause * 2);
        }
    }

    async fn connect(&self, lost: &Arc<Notify>) -> RedisResult<MultiplexedConnection> {
        let endpoint = &self.endpoint;
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(endpoint.connect_timeout))
            .set_response_timeout(Some(endpoint.response_timeout))
            .set_pipeline_buffer_size(QUEUE);
        let (tracking, lost) = (self.tracking.clone(), Arc::clone(lost));
        // Runs in the connection's own task, in the order of the wire.
        config = config.set_push_sender(move |push: PushInfo| -> Result<(), std::convert::Infallible> {
            match (&push.kind, &tracking) {
                (PushKind::Disconnection, _) => lost.notify_one(),
                (PushKind::Invalidate, Some(tracking)) => tracking.invalidate(&push.data),
                _ => {}
            }
            Ok(())
        });
        let mut connection = endpoint.client.get_multiplexed_async_connection_with_config(&config).await?;
        if let Some(tracking) = &self.tracking {
            let mut track = ::redis::cmd("CLIENT");
            track.arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(&*tracking.prefix);
            track.exec_async(&mut connection).await?;
        }
        Ok(connection)
    }

    /// From here on every change is pushed; whatever was known before may have changed unseen.
    fn begin(&self, connection: &MultiplexedConnection, since: Instant) {
        if let Some(tracking) = &self.tracking {
            tracking.watcher.reset();
            tracking.watcher.heard(since);
        }
        self.state.store(Arc::new(Ok(connection.clone())));
        tracing::info!(store.name = %self.endpoint.name, tracking = self.tracking.is_some(), "connected to redis");
    }

    /// Resolves when the connection is lost.
    async fn serve(&self, mut connection: MultiplexedConnection, lost: &Notify) {
        let beat = async {
            let mut ticks = interval(self.endpoint.heartbeat);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut misses = 0;
            while misses < MISSES {
                ticks.tick().await;
                let sent = Instant::now();
                match ::redis::cmd("PING").exec_async(&mut connection).await {
                    // An answer that lay around while this process was stopped proves nothing about now.
                    Ok(()) if sent.elapsed() <= self.endpoint.response_timeout => {
                        misses = 0;
                        if let Some(tracking) = &self.tracking {
                            // The answer may have been long on its way: it tells of when it was asked for at the latest.
                            tracking.watcher.heard(sent);
                        }
                    }
                    Ok(()) => misses += 1,
                    Err(error) if error.is_timeout() => misses += 1,
                    Err(_) => return,
                }
            }
        };
        tokio::select! {
            () = lost.notified() => {}
            () = beat => {}
        }
    }
}

impl Tracking {
    /// `data` is a list of keys, or nil when everything was flushed.
    fn invalidate(&self, data: &[Value]) {
        let Some(Value::Array(keys)) = data.first() else {
            return self.watcher.reset();
        };
        for key in keys {
            let name = match key {
                Value::BulkString(name) => std::str::from_utf8(name).ok(),
                Value::SimpleString(name) => Some(name.as_str()),
                _ => None,
            };
            // A name that is no text is no marker's.
            if let Some(key) = name.and_then(|name| name.strip_prefix(&*self.prefix)) {
                self.watcher.changed(key);
            }
        }
    }
}

/// Half to all of `pause`, so that a fleet does not come back in step.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(Instant::now()) % 512;
    pause.mul_f64(0.5 + f64::from(u16::try_from(random).unwrap_or(0)) / 1024.0)
}
