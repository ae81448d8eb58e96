//! One address of an upstream: how it is reached, how busy it is, what is thought of it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use http::uri::Authority;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Protocol, UpstreamSettings,
    ejection::Standing,
    http1::Connection,
    metrics::OriginMetrics,
    pool::{Http1Pool, Http2Pool, PoolSettings},
    transport::{Stream, Transport},
};

/// How a count of requests and one of those under way share a number: beginning one is one addition.
const ONE_MORE: u64 = 1 << 32 | 1;

/// One of those that an upstream is made of, as the settings name it. A name may stand for several endpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginSettings {
    /// Host and port, as a request may be told them. The port is always there; that of a Unix socket is `localhost`.
    pub authority: Authority,
    /// How it is reached.
    pub transport: Transport,
    /// Its share of the requests, beside the weights of the others.
    pub weight: u32,
}

/// An endpoint.
#[derive(Debug)]
pub struct Endpoint {
    pub(super) authority: Authority,
    pub(super) transport: Transport,
    pub(super) connections: Connections,
    pub(super) standing: Standing,
    pub(super) metrics: Arc<OriginMetrics>,
    /// Whether health checks, if there are any, find it well.
    is_well: AtomicBool,
    /// How many requests it was asked, and how many of them are under way.
    count: AtomicU64,
    checks: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// Its connections.
#[derive(Debug)]
pub(super) enum Connections {
    /// Of HTTP/1.1.
    Http1(Http1Pool),
    /// Of HTTP/2.
    Http2(Http2Pool),
}

impl Endpoint {
    pub(super) fn new(
        origin: &OriginSettings,
        transport: Transport,
        settings: &UpstreamSettings,
        metrics: Arc<OriginMetrics>,
        now: Instant,
    ) -> Arc<Self> {
        let pool = PoolSettings {
            transport: transport.clone(),
            connect_timeout: settings.connect_timeout,
            keep_alive: settings.keep_alive,
            max_idle: settings.max_idle,
        };
        let connections = match settings.protocol {
            Protocol::Http1 => Connections::Http1(Http1Pool::new(pool)),
            Protocol::Http2 => Connections::Http2(Http2Pool::new(pool)),
        };
        Arc::new(Self {
            authority: origin.authority.clone(),
            transport,
            connections,
            standing: Standing::new(now),
            metrics,
            is_well: AtomicBool::new(true),
            count: AtomicU64::new(0),
            checks: Mutex::new(None),
        })
    }

    /// How many requests are under way.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub(super) fn in_flight(&self) -> u32 {
        self.count.load(Ordering::Relaxed) as u32
    }

    /// How many requests it was asked so far. Begins anew after four billion.
    pub(super) fn requests(&self) -> u64 {
        self.count.load(Ordering::Relaxed) >> 32
    }

    /// Whether it is asked before those that are not.
    pub(super) fn is_available(&self) -> bool {
        self.is_well() && !self.standing.is_ejected()
    }

    pub(super) fn is_well(&self) -> bool {
        self.is_well.load(Ordering::Relaxed)
    }

    pub(super) fn set_well(&self, is_well: bool) {
        self.is_well.store(is_well, Ordering::Relaxed);
    }

    /// From now on it is checked by this task, which ends with it.
    pub(super) fn check_by(&self, task: AbortOnDropHandle<()>) {
        *self.checks.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// Keeps a connection for another request, from `now` on.
    pub(super) fn keep(&self, connection: Option<Connection<Stream>>, now: tokio::time::Instant) {
        if let (Connections::Http1(pool), Some(connection)) = (&self.connections, connection) {
            pool.keep(connection, now);
        }
    }

    /// Lets go of connections that were unused for too long.
    pub(super) fn maintain(&self) {
        match &self.connections {
            Connections::Http1(pool) => pool.reap(),
            Connections::Http2(pool) => pool.reap(),
        }
    }

    /// It is asked no more: requests under way end, and what is not in use is let go of.
    pub(super) fn retire(&self) {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).take();
        match &self.connections {
            Connections::Http1(pool) => pool.close(),
            Connections::Http2(pool) => pool.close(),
        }
    }
}

/// As logs call it.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.transport.fmt(f)
    }
}

/// A request under way at an endpoint, from the choice to the end of the response's body.
#[derive(Debug)]
pub struct InFlight(Arc<Endpoint>);

impl InFlight {
    pub(super) fn new(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.count.fetch_add(ONE_MORE, Ordering::Relaxed);
        Self(Arc::clone(endpoint))
    }

    pub(super) const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}
