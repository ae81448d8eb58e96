//! Responses of a connection that requests share (HTTP/2), each with its own patience.
//!
//! A client may shut the window of one stream and go on with others. Whatever is under way for that stream then waits for room, and asks
//! for no more of the body: no timer of a body goes off, and a place and a connection to an upstream are held. So whoever serves a stream
//! is told when to give it up; that resets the stream, and lets go of all it held.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;

/// No moment that ever comes, in milliseconds.
pub(super) const NEVER: u64 = u64::MAX;

/// One response. Times are in milliseconds from the origin of its connection's progress.
#[derive(Debug)]
pub(super) struct Offer {
    /// Since when its client has taken nothing of what is there, or [`NEVER`]: nothing is there.
    since: AtomicU64,
    /// When it must have ended, or [`NEVER`].
    pub(super) deadline: AtomicU64,
    /// Where it is among the others.
    index: AtomicUsize,
    is_over: AtomicBool,
    task: AtomicWaker,
}

/// The responses of a connection.
#[derive(Default, Debug)]
pub(super) struct Offers(Mutex<Vec<Arc<Offer>>>);

/// Resolves when a response is to be given up.
#[derive(Debug)]
pub struct Over(Arc<Offer>);

impl From<&mut Arc<Offer>> for Over {
    fn from(offer: &mut Arc<Offer>) -> Self {
        Self(Arc::clone(offer))
    }
}

impl Future for Over {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.task.register(context.waker());
        if self.0.is_over.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            since: AtomicU64::new(NEVER),
            deadline: AtomicU64::new(NEVER),
            index: AtomicUsize::new(usize::MAX),
            is_over: AtomicBool::new(false),
            task: AtomicWaker::new(),
        }
    }
}

impl Offer {
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
            } else {
                offer.is_over.store(true, Ordering::Release);
                offer.task.wake();
            }
        }
        Duration::from_millis(least)
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Offer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
