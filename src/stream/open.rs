//! One open stream, and all of a process.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant as StdInstant},
};

use futures_util::task::AtomicWaker;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry as Metrics};
use tokio::{sync::Notify, time::Instant};

use super::{
    leash::Leash,
    metrics::{Kind, StreamMetrics},
    registry::{Registry, StreamId},
    warden,
};
use crate::{
    gate::{Admission, Policy, policy::Mode},
    marker::cache::MarkerCache,
    store::Watcher,
    verdict::{Reason, Verdict},
};

/// How long a request may take before it counts as a stream, and what is under way when a session ends, at most.
const GRACE: Duration = Duration::from_secs(1);

/// How much of `max_staleness` each of them is: half of it is left for asking the store.
const SHARE: u32 = 4;

/// The open streams of a process.
#[derive(Debug)]
pub struct Streams {
    max_staleness: Duration,
    grace: Duration,
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
    /// Whether it was judged since it was opened.
    judged: AtomicBool,
    waker: AtomicWaker,
}

impl Streams {
    /// None yet. `max_staleness`: how long after a marker is acknowledged streams under it must have ended.
    #[must_use]
    pub fn new(max_staleness: Duration) -> Arc<Self> {
        Arc::new(Self {
            max_staleness,
            grace: (max_staleness / SHARE).min(GRACE),
            registry: Mutex::default(),
            work: Notify::new(),
            silent: AtomicBool::new(false),
            metrics: StreamMetrics::default(),
        })
    }

    /// How old a request is when it becomes a stream, and how long what is under way may take when its session is over: each a quarter of
    /// `max_staleness`, a second at most.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        self.grace
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

    /// Opens a stream for who was admitted. It is judged at once: a marker may have come `since`.
    #[must_use]
    pub fn open(&self, admission: &Admission, kind: Kind, since: Instant) -> OpenStream {
        let route = &admission.policy().name;
        let gauge = self.metrics.open(route, kind);
        let entry = Arc::new(Entry {
            admission: admission.clone(),
            ended: OnceLock::new(),
            judged: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let cache = admission.judge().parts().ledger.cache();
        let keys = cache.hashes(admission.claims()).collect();
        let now = Instant::now();
        let age = cache.age().unwrap_or_default();
        // One that is opened late passes nothing on before it is judged, so that the store can be given the time to answer.
        let latest = now.checked_sub(self.patience().saturating_sub(self.grace)).unwrap_or(now);
        let since = since.checked_sub(age).map_or(latest, |since| since.max(latest));
        let id = self.registry().open(Arc::clone(&entry), keys, since);
        self.work.notify_one();
        OpenStream { id, entry, gauge, kind }
    }

    /// How long after a marker may have come it has to be known: what is under way then still has its time.
    pub(super) fn patience(&self) -> Duration {
        self.max_staleness.saturating_sub(self.grace)
    }

    /// Judges again who was admitted and had to wait.
    pub(super) async fn confirm(&self, admission: &Admission) -> Result<(), Reason> {
        let again = warden::judge_again(admission, Instant::now() + self.max_staleness / 2).await;
        let Some(reason) = self.refuses(admission, again.verdict) else { return Ok(()) };
        if let Some(at) = again.idle_at {
            admission.judge().end(admission.claims(), at).await;
        }
        if admission.policy().mode == Mode::Enforce { Err(reason) } else { Ok(()) }
    }

    /// Why who was admitted is not any more; this is counted. What a route asks for beside a session was asked for already.
    pub(super) fn refuses(&self, admission: &Admission, verdict: Verdict) -> Option<Reason> {
        let reason = match verdict {
            Verdict::Admit | Verdict::Refuse(Reason::InsufficientScope) => return None,
            Verdict::Refuse(reason) => reason,
        };
        let policy = admission.policy();
        let enforced = policy.mode == Mode::Enforce;
        tracing::debug!(
            route.name = &*policy.name,
            verdict = reason.code(),
            subject = ?admission.claims().subject,
            enforced,
            "session is over, and what it was admitted to ends"
        );
        self.metrics.ended(&policy.name, reason, enforced);
        Some(reason)
    }

    /// The marker under a key with this hash may have changed since the store was last heard, which is this long ago.
    pub fn changed(&self, key: u64, age: Duration) {
        let now = Instant::now();
        if self.registry().changed(key, now.checked_sub(age).unwrap_or(now)) {
            self.work.notify_one();
        }
    }

    /// Any marker may have changed since the store was last heard, which is this long ago.
    pub fn reset(&self, age: Duration) {
        let now = Instant::now();
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

    /// It was judged, and goes on.
    pub(super) fn go_on(&self) {
        if !self.judged.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
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

    /// Whether it was not judged yet since it was opened.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        !self.entry.judged.load(Ordering::Acquire)
    }

    /// It turns out to be of another kind.
    pub fn set_kind(&mut self, kind: Kind) {
        if self.kind != kind {
            self.gauge.dec();
            let admission = &self.entry.admission;
            self.gauge = admission.streams().metrics.open(&admission.policy().name, kind);
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
        self.entry.admission.streams().registry().close(self.id);
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
        self.streams.changed(self.cache.short_hash(key), self.cache.age().unwrap_or_default());
    }

    fn reset(&self) {
        self.cache.reset();
        self.streams.reset(self.cache.age().unwrap_or_default());
    }

    fn heard(&self, at: StdInstant) {
        self.cache.heard(at);
        self.streams.heard();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/streams.md: who becomes a stream late, is judged late and ends late is in time all the same, and the store has half of it.
    #[test]
    fn bounds_add_up_to_what_is_promised() {
        for millis in [1, 10, 250, 999, 1000, 2000, 4001, 60_000] {
            let max_staleness = Duration::from_millis(millis);
            let streams = Streams::new(max_staleness);
            let (grace, patience) = (streams.grace(), streams.patience());
            assert_eq!(patience + grace, max_staleness);
            assert!(patience >= max_staleness / 2 + grace, "{millis} ms");
            assert!(grace <= Duration::from_secs(1));
        }
    }
}
