//! The turns of a task that has a connection and its streams.
//!
//! They wake each other all the time: what a stream sends has to be written, and what was read has to be looked at. Were each of these to wake
//! the task, it would be scheduled again after every turn, though it could have gone on at once; and were both looked at each time, half of
//! the looks would find nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// How many looks the task takes before others have their turn.
const TURNS: usize = 16;

/// Who is to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Part {
    /// All streams that have something to do.
    Streams = 1,
    /// The connection.
    Connection = 2,
}

impl Part {
    const fn other(self) -> Self {
        match self {
            Self::Streams => Self::Connection,
            Self::Connection => Self::Streams,
        }
    }
}

/// The task is at work: it looks again by itself.
const AT_WORK: u8 = 4;

#[derive(Debug)]
pub(super) struct Turns {
    shared: Arc<Shared>,
    streams: Waker,
    connection: Waker,
}

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    task: AtomicWaker,
}

#[derive(Debug)]
struct Bell {
    shared: Arc<Shared>,
    part: Part,
}

impl Turns {
    /// Both are looked at first.
    pub(super) fn new() -> Self {
        let both = Part::Streams as u8 | Part::Connection as u8;
        let shared = Arc::new(Shared { state: AtomicU8::new(both), task: AtomicWaker::new() });
        let waker = |part| Waker::from(Arc::new(Bell { shared: Arc::clone(&shared), part }));
        Self { streams: waker(Part::Streams), connection: waker(Part::Connection), shared }
    }

    /// Looks at those who woke, streams first and then in turn, until it is over or nobody did.
    pub(super) fn poll<T>(
        &self,
        context: &Context<'_>,
        mut look: impl FnMut(Part, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Shared { state, task } = &*self.shared;
        task.register(context.waker());
        state.fetch_or(AT_WORK, Ordering::AcqRel);
        let mut part = Part::Connection;
        for _ in 0..TURNS {
            part = match state.load(Ordering::Acquire) ^ AT_WORK {
                0 if state.compare_exchange(AT_WORK, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() => {
                    return Poll::Pending;
                }
                0 => continue,
                woken if woken & part.other() as u8 != 0 => part.other(),
                _ => part,
            };
            state.fetch_and(!(part as u8), Ordering::AcqRel);
            let waker = if part == Part::Streams { &self.streams } else { &self.connection };
            if let Poll::Ready(done) = look(part, &mut Context::from_waker(waker)) {
                return Poll::Ready(done);
            }
        }
        state.fetch_and(!AT_WORK, Ordering::AcqRel);
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// The streams are to be looked at.
    pub(super) fn wake_streams(&self) {
        self.streams.wake_by_ref();
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Shared { state, task } = &*self.shared;
        if state.fetch_or(self.part as u8, Ordering::AcqRel) == 0 {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, sync::atomic::AtomicUsize};

    use super::{
        Part::{Connection, Streams},
        *,
    };

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A task that was woken so often, and whom it looked at.
    struct Task {
        turns: Turns,
        woken: Arc<Count>,
        seen: RefCell<Vec<Part>>,
    }

    impl Task {
        fn new() -> Self {
            Self { turns: Turns::new(), woken: Arc::default(), seen: RefCell::default() }
        }

        /// Takes its turns; `also` is done in each.
        fn poll(&self, also: impl Fn(Part)) -> Vec<Part> {
            let waker = Waker::from(Arc::clone(&self.woken));
            let polled = self.turns.poll::<()>(&Context::from_waker(&waker), |part, _| {
                self.seen.borrow_mut().push(part);
                also(part);
                Poll::Pending
            });
            assert!(polled.is_pending());
            self.seen.take()
        }

        fn woken(&self) -> usize {
            self.woken.0.swap(0, Ordering::SeqCst)
        }
    }

    #[test]
    fn those_who_woke_are_looked_at_and_no_others() {
        let task = Task::new();
        assert_eq!(task.poll(|_| {}), [Streams, Connection], "both at first");
        assert_eq!(task.poll(|_| {}), []);
        task.turns.connection.wake_by_ref();
        task.turns.streams.wake_by_ref();
        task.turns.connection.wake_by_ref();
        assert_eq!(task.woken(), 1, "one call is enough");
        assert_eq!(task.poll(|_| {}), [Streams, Connection]);
        task.turns.connection.wake_by_ref();
        assert_eq!((task.woken(), task.poll(|_| {})), (1, vec![Connection]));
    }

    #[test]
    fn what_wakes_during_a_turn_is_looked_at_without_waking_the_task() {
        let task = Task::new();
        // A stream sends, and the connection brings a request.
        let also = |part| match (part, task.seen.borrow().len()) {
            (Streams, 1) => task.turns.connection.wake_by_ref(),
            (Connection, 2) => task.turns.streams.wake_by_ref(),
            _ => {}
        };
        assert_eq!(task.poll(also), [Streams, Connection, Streams]);
        assert_eq!(task.woken(), 0);
        task.turns.streams.wake_by_ref();
        assert_eq!(task.woken(), 1);
    }

    #[test]
    fn others_have_their_turn() {
        let task = Task::new();
        let busy = |part| {
            if part == Streams {
                task.turns.streams.wake_by_ref();
            }
        };
        let looks = task.poll(busy);
        assert_eq!((looks.len(), &looks[..3]), (TURNS, &[Streams, Connection, Streams][..]));
        assert_eq!(task.woken(), 1, "it goes on after them");
        assert_eq!(task.poll(|_| {}), [Streams]);
    }

    #[test]
    fn it_is_over_when_a_turn_says_so() {
        let polled = Turns::new().poll(&Context::from_waker(Waker::noop()), |part, _| Poll::Ready(part));
        assert_eq!(polled, Poll::Ready(Streams));
    }
}
