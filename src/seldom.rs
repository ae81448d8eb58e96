//! A future that is looked at only when it woke, though its task wakes for other reasons all the time.
//!
//! Asking a timer, or a token that is cancelled once in the life of a process, takes locks and atomic writes; a connection wakes several
//! times for each request.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// Polls a future when it wakes, and else says that it is pending.
#[derive(Debug)]
pub struct Seldom<F> {
    future: F,
    bell: Arc<Bell>,
    /// What the future wakes.
    waker: Waker,
}

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F: Future + Unpin> Seldom<F> {
    /// It is polled once at first.
    #[must_use]
    pub fn new(future: F) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        let waker = Waker::from(Arc::clone(&bell));
        Self { future, bell, waker }
    }

    /// What is polled.
    #[must_use]
    pub const fn inner(&self) -> &F {
        &self.future
    }

    /// What is polled, to be changed: it is polled in any case after that.
    pub fn inner_mut(&mut self) -> &mut F {
        self.bell.rung.store(true, Ordering::Relaxed);
        &mut self.future
    }
}

impl<F: Future + Unpin> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Each time: whoever rings takes the waker along, and may do so at any moment of a poll.
        self.bell.task.register(context.waker());
        if !self.bell.rung.load(Ordering::Relaxed) || !self.bell.rung.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        let Self { future, waker, .. } = &mut *self;
        Pin::new(future).poll(&mut Context::from_waker(waker))
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_moved_wakes_its_task_again() {
        use tokio::time::{Duration, Instant, Sleep, sleep, timeout};

        let begun = Instant::now();
        let mut timer: Seldom<Pin<Box<Sleep>>> = Seldom::new(Box::pin(sleep(Duration::from_secs(1))));
        let moved = poll_fn(|context| {
            while Pin::new(&mut timer).poll(context).is_ready() {
                if begun.elapsed() >= Duration::from_secs(3) {
                    return Poll::Ready(());
                }
                timer.inner_mut().as_mut().reset(Instant::now() + Duration::from_secs(1));
            }
            Poll::Pending
        });
        timeout(Duration::from_secs(60), moved).await.expect("it goes off three times");
    }

    #[tokio::test]
    async fn a_future_is_polled_when_it_wakes_and_not_else() {
        let (polled, inner) = (Cell::new(0), Cell::new(None::<Waker>));
        let mut seldom = Seldom::new(poll_fn(|context| {
            polled.set(polled.get() + 1);
            inner.set(Some(context.waker().clone()));
            if polled.get() == 4 { Poll::Ready(()) } else { Poll::Pending }
        }));
        let mut poll = async || poll_fn(|context| Poll::Ready(Pin::new(&mut seldom).poll(context))).await;
        for expected in [1, 1, 1] {
            assert!(poll().await.is_pending());
            assert_eq!(polled.get(), expected);
        }
        inner.take().unwrap().wake();
        assert!(poll().await.is_pending());
        assert!(poll().await.is_pending());
        assert_eq!(polled.get(), 2);
        seldom.inner_mut();
        let mut poll = async || poll_fn(|context| Poll::Ready(Pin::new(&mut seldom).poll(context))).await;
        assert!(poll().await.is_pending());
        assert_eq!(polled.get(), 3);
        // It wakes the task that polled last.
        inner.take().unwrap().wake();
        seldom.await;
        assert_eq!(polled.get(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_wakes_its_task() {
        let sleep = Box::pin(tokio::time::sleep(std::time::Duration::from_secs(3600)));
        tokio::spawn(Seldom::new(sleep)).await.unwrap();
    }
}
