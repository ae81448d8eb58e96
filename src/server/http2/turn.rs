//! The turns of a task that has many wakers inside.
//!
//! Streams and their connection wake each other all the time: what a stream sends has to be written, and what was read has to be looked at.
//! Were each of these to wake the task, it would be scheduled again after every turn, though it could have gone on at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// How many turns the task takes before others have theirs.
const TURNS: usize = 8;

const ASLEEP: u8 = 0;
const AT_WORK: u8 = 1;
const RUNG: u8 = 2;

#[derive(Debug)]
pub(super) struct Turns {
    bell: Arc<Bell>,
    waker: Waker,
}

#[derive(Debug)]
struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Turns {
    pub(super) fn new() -> Self {
        let bell = Arc::new(Bell { state: AtomicU8::new(ASLEEP), task: AtomicWaker::new() });
        let waker = Waker::from(Arc::clone(&bell));
        Self { bell, waker }
    }

    /// Calls `turn` until it is ready, or nothing in it woke since it was called.
    pub(super) fn poll<T>(&self, context: &Context<'_>, mut turn: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let Bell { state, task } = &*self.bell;
        task.register(context.waker());
        for _ in 0..TURNS {
            state.store(AT_WORK, Ordering::Release);
            if let Poll::Ready(done) = turn(&mut Context::from_waker(&self.waker)) {
                return Poll::Ready(done);
            }
            if state.compare_exchange(AT_WORK, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return Poll::Pending;
            }
        }
        state.store(ASLEEP, Ordering::Release);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(RUNG, Ordering::AcqRel) == ASLEEP {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, sync::atomic::AtomicUsize};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn it_goes_on_while_something_wakes_and_then_sleeps_until_something_does() {
        let (count, turns, taken) = (Arc::new(Count::default()), Turns::new(), Cell::new(0));
        let task = Waker::from(Arc::clone(&count));
        let inner = Cell::new(None::<Waker>);
        let poll = |wakes: usize| {
            taken.set(0);
            turns.poll(&Context::from_waker(&task), |context| {
                taken.set(taken.get() + 1);
                inner.set(Some(context.waker().clone()));
                if taken.get() <= wakes {
                    context.waker().wake_by_ref();
                }
                Poll::<()>::Pending
            })
        };
        let woken = || count.0.load(Ordering::SeqCst);
        for wakes in 0..TURNS {
            assert!(poll(wakes).is_pending());
            assert_eq!((taken.get(), woken()), (wakes + 1, 0), "the task is not woken for what it does itself");
        }
        assert!(poll(usize::MAX).is_pending());
        assert_eq!((taken.get(), woken()), (TURNS, 1), "others have their turn");
        assert!(poll(0).is_pending());
        let inner = inner.take().unwrap();
        inner.wake_by_ref();
        inner.wake();
        assert_eq!(woken(), 2, "one call is enough");
    }

    #[test]
    fn it_is_over_when_a_turn_says_so() {
        let turns = Turns::new();
        assert_eq!(turns.poll(&Context::from_waker(Waker::noop()), |_| Poll::Ready(7)), Poll::Ready(7));
    }
}
