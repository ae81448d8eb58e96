//! Waiting awake: for a while after something came, the gate looks again and again whether more has, instead of sleeping until it is woken.
//!
//! Being woken takes long where an idle core is given away or slowed down, as in most virtual machines: a request waits for it twice, when it
//! comes and when its response does.

use std::{
    convert::Infallible,
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{task::yield_now, time::Instant};

static CAME: Came = Came::new();

/// Something was read. It costs a look at what nobody changes, as long as nobody waits awake.
pub(crate) fn came() {
    CAME.tell();
}

/// Keeps one thread of the runtime awake for `window` after each time that something was read. Takes no more than what is left of a core: all
/// others come first.
pub async fn stay_awake(window: Duration) -> Infallible {
    CAME.stay_awake(window).await
}

#[derive(Debug)]
struct Came {
    has: AtomicBool,
    sleeper: AtomicWaker,
}

impl Came {
    const fn new() -> Self {
        Self { has: AtomicBool::new(false), sleeper: AtomicWaker::new() }
    }

    fn tell(&self) {
        if !self.has.load(Ordering::Relaxed) {
            self.has.store(true, Ordering::Release);
            self.sleeper.wake();
        }
    }

    fn take(&self) -> bool {
        self.has.swap(false, Ordering::AcqRel)
    }

    async fn stay_awake(&self, window: Duration) -> Infallible {
        loop {
            poll_fn(|context| {
                self.sleeper.register(context.waker());
                if self.take() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            let mut until = Instant::now() + window;
            while Instant::now() < until {
                // The runtime looks for what has come before it goes on here.
                yield_now().await;
                if self.take() {
                    until = Instant::now() + window;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::{Arc, atomic::AtomicUsize},
        task::{Context, Wake, Waker},
    };

    use super::*;

    const WINDOW: Duration = Duration::from_millis(10);

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_awake_for_a_while_after_something_came() {
        let (came, woken) = (Came::new(), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let mut staying = pin!(came.stay_awake(WINDOW));
        // Whether it is to be looked at again at once.
        let mut is_awake = async || {
            woken.0.store(0, Ordering::SeqCst);
            assert!(staying.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            // Whoever yields is woken when the runtime has looked.
            yield_now().await;
            woken.0.load(Ordering::SeqCst) > 0
        };
        assert!(!is_awake().await, "nothing has come");
        for _ in 0..3 {
            came.tell();
            assert!(woken.0.load(Ordering::SeqCst) > 0, "it hears of it");
            assert!(is_awake().await && is_awake().await);
            tokio::time::advance(WINDOW * 3 / 4).await;
            came.tell();
            assert!(is_awake().await);
            tokio::time::advance(WINDOW * 3 / 4).await;
            assert!(is_awake().await, "since more came");
            tokio::time::advance(WINDOW / 2).await;
            assert!(!is_awake().await, "nothing more has come");
        }
    }
}
