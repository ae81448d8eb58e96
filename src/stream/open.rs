//! One open stream, and all of a process.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry as Metrics};
use tokio::sync::Notify;

use super::{
    leash::Leash,
    metrics::{Kind, StreamMetrics},
    registry::{Registry, StreamId},
};
use crate::{
    gate::{Admission, Policy, policy::Mode},
    marker::cache::MarkerCache,
    store::Watcher,
    verdict::Reason,
};

/// How long a request may take before it counts as a stream, at most.
const GRACE: Duration = Duration::from_secs(1);

/// The open streams of a process.
#[derive(Debug)]
pub struct Streams {
    max_staleness: Duration,
    registry: Mutex<Registry<Arc<Entry>>>,
    /// There is something to do for the one who judges.
    pub(super) work: Notify,
    /// The store has fallen silent; whoever hears it says so.
    pub(super) silent: AtomicBool,
    pub(super) metrics: StreamMetrics,
}

/// What is known of one stream.
pub(super) struct Entry {
    pub(super) admission: Admission,
    ended: OnceLock<Reason>,
    waker: AtomicWaker,
}

impl Streams {
    /// None yet. `max_staleness`: how long after a marker is acknowledged streams under it must have ended.
    #[must_use]
    pub fn new(max_staleness: Duration) -> Arc<Self> {
        Arc::new(Self {
            max_staleness,
            registry: Mutex::default(),
            work: Notify::new(),
            silent: AtomicBool::new(false),
            metrics: StreamMetrics::default(),
        })
    }

    /// How old a request is when it becomes a stream: half of `max_staleness`, a second at most.
    #[must_use]
    pub fn grace(&self) -> Duration {
        (self.max_staleness / 2).min(GRACE)
    }

    /// How long a stream may live on after a marker covers it.
    #[must_use]
    pub const fn max_staleness(&self) -> Duration {
        self.max_staleness
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.registry().len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.registry().is_empty()
    }

    /// Opens a stream for who was admitted. It is judged at once: a marker may have come since the request was.
    #[must_use]
    pub fn open(self: &Arc<Self>, admission: &Admission, kind: Kind) -> OpenStream {
        let route = &admission.policy().name;
        let gauge = self.metrics.open(route, kind);
        let entry = Arc::new(Entry { admission: admission.clone(), ended: OnceLock::new(), waker: AtomicWaker::new() });
        let keys = admission.marks().hashes().collect();
        let id = self.registry().open(Arc::clone(&entry), keys, tokio::time::Instant::now());
        self.work.notify_one();
        OpenStream { id, entry, streams: Arc::clone(self), gauge, kind }
    }

    /// The marker under a key with this hash may have changed.
    pub fn changed(&self, key: u64) {
        if self.registry().changed(key, tokio::time::Instant::now()) {
            self.work.notify_one();
        }
    }

    /// Any marker may have changed since the store was last heard, which is this long ago.
    pub fn reset(&self, age: Duration) {
        let now = tokio::time::Instant::now();
        if self.registry().all(now.checked_sub(age).unwrap_or(now)) {
            self.work.notify_one();
        }
    }

    /// The store has been heard.
    pub fn heard(&self) {
        if self.silent.load(Ordering::Acquire) {
            self.work.notify_one();
        }
    }

    /// Takes in a route: what is counted of it begins at zero.
    pub fn add_route(&self, policy: &Policy) {
        self.metrics.add_route(&policy.name, policy.mode == Mode::Enforce);
    }

    /// Registers their metrics.
    pub fn register(&self, registry: &mut Metrics) {
        self.metrics.register(registry);
    }

    pub(super) fn registry(&self) -> MutexGuard<'_, Registry<Arc<Entry>>> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Whether it is over.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    /// It is over.
    pub(super) fn end(&self, reason: Reason) {
        // Whoever came first has said it.
        let _ = self.ended.set(reason);
        self.waker.wake();
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// An open stream. Dropping it closes it.
#[derive(Debug)]
pub struct OpenStream {
    id: StreamId,
    entry: Arc<Entry>,
    streams: Arc<Streams>,
    gauge: Gauge,
    kind: Kind,
}

impl OpenStream {
    /// Resolves when it has to end, and with what reason. Remembers the task of the last call only.
    pub fn poll_ended(&self, context: &mut Context<'_>) -> Poll<Reason> {
        if let Some(reason) = self.ended() {
            return Poll::Ready(reason);
        }
        self.entry.waker.register(context.waker());
        // It may have ended in between.
        self.ended().map_or(Poll::Pending, Poll::Ready)
    }

    /// Why it has to end, if it does.
    #[must_use]
    pub fn ended(&self) -> Option<Reason> {
        self.entry.ended.get().copied()
    }

    /// It turns out to be of another kind.
    pub fn set_kind(&mut self, kind: Kind) {
        if self.kind != kind {
            self.gauge.dec();
            self.gauge = self.streams.metrics.open(&self.entry.admission.policy().name, kind);
            self.kind = kind;
        }
    }

    /// What is left of its request ends with it.
    pub(super) fn hold(&self, leash: &Leash) {
        leash.tie(&self.entry);
    }

    /// Whose it is.
    #[must_use]
    pub fn admission(&self) -> &Admission {
        &self.entry.admission
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.gauge.dec();
        self.streams.registry().close(self.id);
    }
}

/// What a store tells of goes to the cache, and then to the streams: in this order, as [`stream`](super) says.
#[derive(Debug)]
pub struct Watching {
    /// Knows the markers.
    pub cache: Arc<MarkerCache>,
    /// Knows the streams.
    pub streams: Arc<Streams>,
}

impl Watcher for Watching {
    fn changed(&self, key: &str) {
        self.cache.changed(key);
        self.streams.changed(self.cache.short_hash(key));
    }

    fn reset(&self) {
        self.cache.reset();
        self.streams.reset(self.cache.age().unwrap_or_default());
    }

    fn heard(&self, at: Instant) {
        self.cache.heard(at);
        self.streams.heard();
    }
}
