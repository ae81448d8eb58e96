//! Places among the requests in flight, and a short queue for them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::Excess;

/// How many requests of a route may be in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConcurrencySettings {
    /// The most at once, 1 or more.
    pub max_requests: usize,
    /// The most that wait for a place.
    pub max_waiting: usize,
    /// How long each of them waits, at most.
    pub max_wait: Duration,
}

/// The places of a route.
#[derive(Debug)]
pub struct Concurrency {
    settings: ConcurrencySettings,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A place. The last clone that is dropped gives it back.
#[derive(Clone, Debug)]
pub struct Place(#[expect(dead_code, reason = "given back when it is dropped")] Arc<OwnedSemaphorePermit>);

/// One more who waits, as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Concurrency {
    /// Places that are all free.
    #[must_use]
    pub fn new(settings: ConcurrencySettings) -> Self {
        let places = settings.max_requests.min(Semaphore::MAX_PERMITS);
        Self { settings, places: Arc::new(Semaphore::new(places)), waiting: AtomicUsize::new(0) }
    }

    /// A place, if there is one and nobody waits for it.
    #[must_use]
    pub fn try_take(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok().map(Place::new)
    }

    /// A place, at once or after a wait. Those who wait are served in order.
    ///
    /// # Errors
    /// [`Excess::Overloaded`]: too many wait already, or it took too long.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the wait.
    pub async fn take(&self) -> Result<Place, Excess> {
        if let Some(place) = self.try_take() {
            return Ok(place);
        }
        let waiting = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.settings.max_waiting {
            return Err(Excess::Overloaded);
        }
        let place = timeout(self.settings.max_wait, Arc::clone(&self.places).acquire_owned()).await;
        drop(waiting);
        place.ok().and_then(Result::ok).map(Place::new).ok_or(Excess::Overloaded)
    }
}

impl Place {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(permit))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn places(max_requests: usize, max_waiting: usize) -> Arc<Concurrency> {
        let max_wait = Duration::from_secs(5);
        Arc::new(Concurrency::new(ConcurrencySettings { max_requests, max_waiting, max_wait }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_given_back_with_its_last_clone() {
        let places = places(1, 0);
        let place = places.take().await.unwrap();
        let clone = place.clone();
        drop(place);
        assert_eq!(places.take().await.err(), Some(Excess::Overloaded));
        drop(clone);
        assert!(places.take().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_wait_as_may_and_as_long_as_they_may() {
        let places = places(1, 2);
        let held = places.take().await.unwrap();
        let wait = || {
            tokio::spawn({
                let places = Arc::clone(&places);
                async move { places.take().await }
            })
        };
        let begun = Instant::now();
        let (first, second) = (wait(), wait());
        tokio::task::yield_now().await;
        assert_eq!(places.take().await.err(), Some(Excess::Overloaded), "the queue is full");
        assert_eq!(begun.elapsed(), Duration::ZERO);
        drop(held);
        let place = first.await.unwrap().unwrap();
        assert_eq!(second.await.unwrap().err(), Some(Excess::Overloaded));
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        drop(place);
        // Whoever gave up waits no more.
        let _held = places.take().await.unwrap();
        let (first, second) = (wait(), wait());
        tokio::task::yield_now().await;
        first.abort();
        let _ = first.await;
        let third = wait();
        tokio::task::yield_now().await;
        assert!(!third.is_finished() && !second.is_finished());
    }
}
