//! A connection that is kept up: made in the background, tried by a heartbeat, made anew when it is lost.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ::redis::{PushInfo, PushKind, RedisResult, aio::MultiplexedConnection};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::{
    sync::{Notify, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    connect::{Connection, Connector},
    fault::{classify, outage},
    settings::Address,
};
use crate::store::StoreError;

/// How many heartbeats in a row may stay unanswered before the connection is given up.
const MISSES: u32 = 2;

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(1);

/// What a connection is kept up for.
#[async_trait]
pub(super) trait Purpose: Send + Sync + 'static {
    /// Prepares a new connection.
    async fn prepare(&self, connection: &mut MultiplexedConnection) -> RedisResult<()>;

    /// A connection to the server at `target` is there; it was begun to be made at `since`.
    fn begin(&self, _target: &Address, _since: Instant) {}

    /// Tries the connection: whether what was heard counts. A timeout is a miss, another error ends the connection.
    async fn beat(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool>;

    /// An answer that counts, to a heartbeat that was sent at `sent`, came in time.
    fn heard(&self, _target: &Address, _sent: Instant) {}

    /// The server pushed something. Called within the connection's own task, in the order of the wire.
    fn pushed(&self, _push: &PushInfo) {}
}

/// Commands, and nothing else.
pub(super) struct Commands;

#[async_trait]
impl Purpose for Commands {
    async fn prepare(&self, _: &mut MultiplexedConnection) -> RedisResult<()> {
        Ok(())
    }

    async fn beat(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        ::redis::cmd("PING").exec_async(connection).await.map(|()| true)
    }
}

/// Where to, how, and how often to try.
#[derive(Clone)]
pub(super) struct Endpoint {
    /// Without credentials.
    pub(super) name: Arc<str>,
    pub(super) connector: Connector,
    /// `None`: not known at present.
    pub(super) address: watch::Receiver<Option<Address>>,
    pub(super) heartbeat: Duration,
}

/// A connection that was up when it was asked for.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) handle: MultiplexedConnection,
    /// Tells it from others of the same lane.
    pub(super) id: u64,
}

type State = ArcSwap<Result<Live, StoreError>>;

/// The keeper of one connection.
pub(super) struct Lane {
    name: Arc<str>,
    state: Arc<State>,
    keeper: AbortOnDropHandle<()>,
}

impl Lane {
    pub(super) fn keep(endpoint: Endpoint, purpose: Arc<dyn Purpose>) -> Self {
        let name = Arc::clone(&endpoint.name);
        let state = Arc::new(State::from_pointee(Err(outage(&name, "not connected yet"))));
        let keeper = Keeper { endpoint, purpose, state: Arc::clone(&state), made: AtomicU64::new(0) };
        Self { name, state, keeper: AbortOnDropHandle::new(tokio::spawn(keeper.run())) }
    }

    /// The connection, at once: whoever has to wait for it had better be told.
    pub(super) fn connection(&self) -> Result<Live, StoreError> {
        (**self.state.load()).clone()
    }

    pub(super) fn close(&self) {
        self.keeper.abort();
        self.state.store(Arc::new(Err(outage(&self.name, "closed"))));
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("name", &self.name).field("up", &self.state.load().is_ok()).finish_non_exhaustive()
    }
}

struct Keeper {
    endpoint: Endpoint,
    purpose: Arc<dyn Purpose>,
    state: Arc<State>,
    /// How many connections there have been.
    made: AtomicU64,
}

impl Keeper {
    async fn run(self) {
        let mut address = self.endpoint.address.clone();
        let mut pause = FIRST_RETRY;
        loop {
            let Some(target) = address.borrow_and_update().clone() else {
                self.fail(outage(&self.endpoint.name, "nobody knows a primary"));
                if address.changed().await.is_err() {
                    return;
                }
                continue;
            };
            tokio::select! {
                served = self.connect_and_serve(&target) => {
                    if served {
                        pause = FIRST_RETRY;
                    }
                }
                moved = address.changed() => {
                    self.fail(outage(&self.endpoint.name, "another server has become the primary"));
                    // Whoever tells where to go may be gone, and with it every reason to go anywhere.
                    if moved.is_err() {
                        return;
                    }
                    pause = FIRST_RETRY;
                    continue;
                }
            }
            // Somewhere else may be tried at once.
            if let Ok(Err(_)) = timeout(jittered(pause), address.changed()).await {
                return;
            }
            pause = LAST_RETRY.min(pause * 2);
        }
    }

    /// Whether there was a connection.
    async fn connect_and_serve(&self, target: &Address) -> bool {
        let (lost, since) = (Arc::new(Notify::new()), Instant::now());
        match self.connect(target, &lost).await {
            Ok(connection) => {
                let id = self.made.fetch_add(1, Ordering::Relaxed);
                self.state.store(Arc::new(Ok(Live { handle: connection.handle.clone(), id })));
                self.purpose.begin(target, since);
                tracing::info!(store.name = %self.endpoint.name, store.address = %target, "connected to redis");
                let reason = self.serve(target, connection, &lost).await;
                tracing::warn!(store.name = %self.endpoint.name, store.address = %target, %reason, "connection to redis lost");
                self.fail(reason);
                true
            }
            Err(error) => {
                let error = classify(&self.endpoint.name, &error);
                tracing::debug!(%error, store.address = %target, "redis cannot be connected to");
                self.fail(error);
                false
            }
        }
    }

    async fn connect(&self, target: &Address, lost: &Arc<Notify>) -> RedisResult<Connection> {
        let (purpose, lost) = (Arc::clone(&self.purpose), Arc::clone(lost));
        let pushed = move |push: PushInfo| match push.kind {
            PushKind::Disconnection => lost.notify_one(),
            _ => purpose.pushed(&push),
        };
        let mut connection = self.endpoint.connector.connect(target, pushed).await?;
        self.purpose.prepare(&mut connection.handle).await?;
        Ok(connection)
    }

    /// Resolves when the connection is lost, with the reason.
    async fn serve(&self, target: &Address, connection: Connection, lost: &Notify) -> StoreError {
        let mut handle = connection.handle.clone();
        let beat = async {
            let mut ticks = interval(self.endpoint.heartbeat);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut misses = 0;
            while misses < MISSES {
                ticks.tick().await;
                let sent = Instant::now();
                match self.purpose.beat(&mut handle).await {
                    // An answer that lay around while this process was stopped proves nothing about now.
                    Ok(counts) if sent.elapsed() <= self.endpoint.connector.response_timeout => {
                        misses = 0;
                        // The answer may have been long on its way: it tells of when it was asked for at the latest.
                        if counts {
                            self.purpose.heard(target, sent);
                        }
                    }
                    Ok(_) => misses += 1,
                    Err(error) if error.is_timeout() => misses += 1,
                    Err(error) => return classify(&self.endpoint.name, &error),
                }
            }
            StoreError::timed_out(&self.endpoint.name)
        };
        tokio::select! {
            () = lost.notified() => outage(&self.endpoint.name, "connection lost"),
            reason = beat => reason,
        }
    }

    fn fail(&self, error: StoreError) {
        self.state.store(Arc::new(Err(error)));
    }
}

/// Half to all of `pause`, so that a fleet does not come back in step.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(Instant::now()) % 512;
    pause.mul_f64(0.5 + f64::from(u16::try_from(random).unwrap_or(0)) / 1024.0)
}
