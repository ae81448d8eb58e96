//! Connections to one endpoint.
//!
//! HTTP/1.1: the connection used last is used next, so that as few as possible are kept.
//! HTTP/2: one connection that all requests share, replaced when it closes.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{
    http1::{Connection, Link as _},
    http2,
    transport::{ConnectError, Stream, Transport},
};

/// How connections are made and kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolSettings {
    /// How the endpoint is reached.
    pub transport: Transport,
    /// How long connecting may take, the TLS handshake included.
    pub connect_timeout: Duration,
    /// How long a connection is kept without use.
    pub keep_alive: Duration,
    /// How many unused connections are kept, at most.
    pub max_idle: usize,
}

/// HTTP/1.1 connections that are not in use.
#[derive(Debug)]
pub struct Http1Pool {
    settings: PoolSettings,
    unused: Mutex<VecDeque<Unused>>,
    /// Whether none is kept any more. Changed while `unused` is locked.
    closed: AtomicBool,
}

#[derive(Debug)]
struct Unused {
    connection: Connection<Stream>,
    since: Instant,
}

impl Http1Pool {
    /// No connections yet.
    #[must_use]
    pub const fn new(settings: PoolSettings) -> Self {
        Self { settings, unused: Mutex::new(VecDeque::new()), closed: AtomicBool::new(false) }
    }

    /// The connection that was used last. The upstream may have closed it.
    pub(super) fn take(&self, now: Instant) -> Option<Connection<Stream>> {
        let mut unused = self.unused();
        let last = unused.pop_back()?;
        if self.is_too_old(&last, now) {
            // So are all others.
            unused.clear();
            return None;
        }
        Some(last.connection)
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> Result<Connection<Stream>, ConnectError> {
        self.settings.transport.connect(self.settings.connect_timeout).await.map(Connection::new)
    }

    /// Keeps a connection for another request, from `now` on.
    pub(super) fn keep(&self, connection: Connection<Stream>, now: Instant) {
        let mut unused = self.unused();
        if unused.len() < self.settings.max_idle && !self.closed.load(Ordering::Relaxed) {
            unused.push_back(Unused { connection, since: now });
        }
    }

    /// Lets go of all unused connections, and of those in use when they are not any more.
    pub(super) fn close(&self) {
        let mut unused = self.unused();
        self.closed.store(true, Ordering::Relaxed);
        unused.clear();
    }

    /// Lets go of connections that were unused for too long, or that the upstream has closed.
    pub fn reap(&self) {
        let (mut unused, now) = (self.unused(), Instant::now());
        let is_too_old = |oldest: &Unused| self.is_too_old(oldest, now) || oldest.connection.link().is_disturbed();
        while unused.front().is_some_and(is_too_old) {
            unused.pop_front();
        }
    }

    fn is_too_old(&self, unused: &Unused, now: Instant) -> bool {
        now.saturating_duration_since(unused.since) > self.settings.keep_alive
    }

    fn unused(&self) -> MutexGuard<'_, VecDeque<Unused>> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The HTTP/2 connection.
#[derive(Debug)]
pub struct Http2Pool {
    settings: PoolSettings,
    shared: Mutex<Option<Shared>>,
    /// Whether none is kept any more. Changed while `shared` is locked.
    closed: AtomicBool,
    /// Whoever makes a connection has it: one is enough for all who wait.
    turn: Semaphore,
    made: AtomicU64,
    /// Why the last connection could not be made, and when that was known.
    fault: Mutex<Option<(Instant, ConnectError)>>,
}

#[derive(Debug)]
struct Shared {
    connection: Http2Connection,
    /// When it was last asked for, or seen in use.
    used: Instant,
}

/// A share of the connection.
#[derive(Clone, Debug)]
pub(super) struct Http2Connection {
    pub(super) connection: http2::Connection,
    /// Which one it is.
    pub(super) number: u64,
}

impl Http2Pool {
    /// No connection yet.
    #[must_use]
    pub const fn new(settings: PoolSettings) -> Self {
        Self {
            settings,
            shared: Mutex::new(None),
            closed: AtomicBool::new(false),
            turn: Semaphore::const_new(1),
            made: AtomicU64::new(0),
            fault: Mutex::new(None),
        }
    }

    /// The connection that is there, if it is open.
    pub(super) fn open(&self) -> Option<Http2Connection> {
        let mut shared = self.shared();
        shared.take_if(|shared| !shared.connection.connection.is_open());
        let shared = shared.as_mut()?;
        shared.used = Instant::now();
        Some(shared.connection.clone())
    }

    /// Lets go of a connection that is closed, or was unused for too long.
    pub fn reap(&self) {
        let (mut shared, now) = (self.shared(), Instant::now());
        shared.take_if(|Shared { connection: Http2Connection { connection, .. }, used }| {
            if !connection.is_unused() {
                *used = now;
            }
            !connection.is_open() || now.saturating_duration_since(*used) > self.settings.keep_alive
        });
    }

    /// Lets go of the connection: it ends with the requests that are under way.
    pub(super) fn close(&self) {
        let mut shared = self.shared();
        self.closed.store(true, Ordering::Relaxed);
        *shared = None;
    }

    /// The same, if it is this one.
    pub(super) fn forget(&self, number: u64) {
        self.shared().take_if(|shared| shared.connection.number == number);
    }

    /// The connection that is there, or a new one. Several who ask at once wait for one, and share its failure.
    pub(super) async fn connect(&self) -> Result<Http2Connection, ConnectError> {
        let since = Instant::now();
        let limit = self.settings.connect_timeout;
        let turn = timeout(limit, self.turn.acquire()).await.map_err(|source| ConnectError::TimedOut {
            upstream: self.settings.transport.to_string(),
            source: Arc::new(source),
        })?;
        if let Some(connection) = self.open() {
            return Ok(connection);
        }
        if let Some(fault) = self.fault().clone().filter(|(at, _)| *at >= since) {
            return Err(fault.1);
        }
        let made = self.make().await;
        if let Err(fault) = &made {
            *self.fault() = Some((Instant::now(), fault.clone()));
        }
        drop(turn);
        made
    }

    async fn make(&self) -> Result<Http2Connection, ConnectError> {
        let stream = self.settings.transport.connect(self.settings.connect_timeout).await?;
        let connection = http2::Connection::new(stream, self.settings.keep_alive).await.map_err(|source| {
            ConnectError::Handshake { upstream: self.settings.transport.to_string(), source: Arc::new(source) }
        })?;
        let connection = Http2Connection { connection, number: self.made.fetch_add(1, Ordering::Relaxed) };
        let kept = Shared { connection: connection.clone(), used: Instant::now() };
        let mut shared = self.shared();
        // Whoever waited for it still has it for one request.
        *shared = Some(kept).filter(|_| !self.closed.load(Ordering::Relaxed));
        Ok(connection)
    }

    fn shared(&self) -> MutexGuard<'_, Option<Shared>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> MutexGuard<'_, Option<(Instant, ConnectError)>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::transport::Target;

    const KEEP_ALIVE: Duration = Duration::from_secs(60);

    async fn settings() -> (PoolSettings, tokio::net::TcpListener) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::Tcp(listener.local_addr().unwrap());
        let transport = Transport { target, tls: None };
        let connect_timeout = Duration::from_secs(10);
        (PoolSettings { transport, connect_timeout, keep_alive: KEEP_ALIVE, max_idle: 10 }, listener)
    }

    #[tokio::test]
    async fn a_connection_that_is_asked_for_is_kept_though_no_request_is_ever_seen() {
        let (settings, _listener) = settings().await;
        let pool = Http2Pool::new(settings);
        let number = pool.connect().await.unwrap().number;
        tokio::time::pause();
        for _ in 0..10 {
            tokio::time::advance(KEEP_ALIVE * 9 / 10).await;
            pool.reap();
            assert_eq!(pool.open().map(|connection| connection.number), Some(number));
        }
        tokio::time::advance(KEEP_ALIVE * 11 / 10).await;
        pool.reap();
        assert!(pool.open().is_none());
    }

    #[tokio::test]
    async fn a_pool_that_is_closed_keeps_nothing() {
        let (settings, _listener) = settings().await;
        let pool = Http1Pool::new(settings.clone());
        let (kept, in_use) = (pool.connect().await.unwrap(), pool.connect().await.unwrap());
        pool.keep(kept, Instant::now());
        pool.close();
        assert!(pool.take(Instant::now()).is_none());
        // One that was in use then, such as that of a response which ends a moment later.
        pool.keep(in_use, Instant::now());
        assert!(pool.take(Instant::now()).is_none());
        // Over HTTP/2 likewise: one that comes too late serves whoever waited for it.
        let pool = Http2Pool::new(settings);
        pool.close();
        let mut late = pool.connect().await.unwrap();
        assert!(late.connection.is_open() && pool.open().is_none());
    }
}
