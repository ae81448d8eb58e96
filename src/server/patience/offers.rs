//! Responses of a connection that requests share (HTTP/2), each with its own patience.
//!
//! A client may shut the window of one stream and go on with others. Whatever is under way for that stream then waits inside hyper, which
//! asks for no more of the body: no timer of a body goes off, and a place and a connection to an upstream are held. So the task that
//! serves a stream can be ended from outside; that resets the stream, and lets go of all it held.

use std::{
    cell::Cell,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::rt::Executor;
use tokio::task::AbortHandle;

/// No moment that ever comes, in milliseconds.
pub(super) const NEVER: u64 = u64::MAX;

thread_local! {
    /// The response of which the task is spawned next.
    static BEGUN: Cell<Option<Arc<Offer>>> = const { Cell::new(None) };
}

/// One response. Times are in milliseconds from the origin of its connection's progress.
#[derive(Debug)]
pub(super) struct Offer {
    /// Since when its client has taken nothing of what is there, or [`NEVER`]: nothing is there.
    since: AtomicU64,
    /// When it must have ended, or [`NEVER`].
    pub(super) deadline: AtomicU64,
    /// Where it is among the others.
    index: AtomicUsize,
    task: OnceLock<AbortHandle>,
}

/// The responses of a connection.
#[derive(Default, Debug)]
pub(super) struct Offers(Mutex<Vec<Arc<Offer>>>);

/// Spawns the tasks of a connection, those that serve its streams among them.
#[derive(Clone, Copy, Debug)]
pub struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        let task = tokio::spawn(future);
        // Set just before by the service, on this thread, if it is a stream's; there is nothing in between.
        if let Some(offer) = BEGUN.take() {
            // Nobody else has set it.
            let _ = offer.task.set(task.abort_handle());
        }
    }
}

impl Offer {
    /// The response that the task which is spawned next is for.
    pub(super) fn begin() -> Arc<Self> {
        let offer = Arc::new(Self {
            since: AtomicU64::new(NEVER),
            deadline: AtomicU64::new(NEVER),
            index: AtomicUsize::new(usize::MAX),
            task: OnceLock::new(),
        });
        BEGUN.set(Some(Arc::clone(&offer)));
        offer
    }

    /// From this moment on its client has to take what is there; [`NEVER`]: there is nothing.
    pub(super) fn wait(&self, since: u64) {
        self.since.store(since, Ordering::Relaxed);
    }
}

impl Offers {
    pub(super) fn add(&self, offer: &Arc<Offer>) {
        let mut all = self.all();
        offer.index.store(all.len(), Ordering::Relaxed);
        all.push(Arc::clone(offer));
    }

    pub(super) fn remove(&self, offer: &Offer) {
        if offer.index.load(Ordering::Relaxed) == usize::MAX {
            return;
        }
        let mut all = self.all();
        let index = offer.index.load(Ordering::Relaxed);
        if index < all.len() {
            all.swap_remove(index);
            if let Some(moved) = all.get(index) {
                moved.index.store(index, Ordering::Relaxed);
            }
        }
    }

    /// Ends those of which nothing was taken for `limit`, or whose time is up. Returns after what time others may have to be.
    pub(super) fn end_overdue(&self, now: u64, limit: Duration) -> Duration {
        let limit = u64::try_from(limit.as_millis()).unwrap_or(NEVER);
        let mut least = NEVER;
        for offer in self.all().iter() {
            let since = offer.since.load(Ordering::Relaxed);
            if since == NEVER {
                continue;
            }
            let end = since.saturating_add(limit).min(offer.deadline.load(Ordering::Relaxed));
            if end > now {
                least = least.min(end - now);
            } else if let Some(task) = offer.task.get() {
                tracing::debug!("client takes nothing of a response: its stream is reset");
                task.abort();
            }
        }
        Duration::from_millis(least)
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Offer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
