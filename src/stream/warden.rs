//! The one task that judges open streams again.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    open::{Entry, Streams},
    registry::Work,
};
use crate::{
    clock::Timestamp,
    gate::{Admission, Judge, judge::Again, policy::Mode},
    verdict::{Reason, Verdict},
};

/// How many streams are judged at once: this many may wait for the store.
const AT_ONCE: usize = 256;

/// How many ends of idle sessions are written at once.
const WRITES: usize = 1024;

/// The longest time without looking at the clock, which may have been set.
const NAP: Duration = Duration::from_secs(1);

/// How long to wait before the store is asked once more that did not answer.
const RETRY: Duration = Duration::from_millis(50);

/// A stream that is admitted is not judged again before this by its own time.
const SOONEST: Duration = Duration::from_millis(200);

/// What a stream came to.
struct Judged {
    work: Work<Arc<Entry>>,
    /// `None`: judging it failed, for a fault of the gate.
    again: Option<Again>,
}

/// Judges streams when they have to be, until `stop`. Should that fail for a fault of the gate, it begins anew, and with all of them: which
/// of them were under way is not known any more.
pub(crate) async fn watch_over(judge: Judge, stop: CancellationToken) {
    let streams = Arc::clone(&judge.parts().streams);
    persist(
        || watch(judge.clone(), stop.clone()),
        || {
            streams.metrics.failed();
            streams.reset(Duration::ZERO);
        },
    )
    .await;
}

/// Does `work` until it comes to its end, and again each time that it panics.
async fn persist<F: Future<Output = ()> + Send + 'static>(work: impl Fn() -> F, failed: impl Fn()) {
    while let Err(error) = AbortOnDropHandle::new(tokio::spawn(work())).await {
        if error.is_cancelled() {
            return;
        }
        tracing::error!(error = &error as &dyn std::error::Error, "judging open streams failed, and begins anew");
        failed();
        sleep(RETRY).await;
    }
}

async fn watch(judge: Judge, stop: CancellationToken) {
    let streams = Arc::clone(&judge.parts().streams);
    let (mut judging, mut writing) = (FuturesUnordered::new(), FuturesUnordered::new());
    loop {
        let until_news = look_around(&judge, &streams);
        while judging.len() < AT_ONCE {
            let Some(work) = next(&judge, &streams) else { break };
            judging.push(judged(work, streams.patience()));
        }
        let nap = until_news.map(|until_news| until_news.nap(judging.len() < AT_ONCE));
        tokio::select! {
            Some(judged) = judging.next() => {
                if let Some((entry, at)) = settle(&judge, &streams, judged) {
                    // Until it can be written, the session stays idle: what is refused is no activity.
                    if writing.len() < WRITES {
                        writing.push(write_end(entry, at));
                    } else {
                        tracing::error!("the end of an idle session could not be stored: too many are to be");
                    }
                }
            }
            Some(()) = writing.next() => {}
            () = streams.work.notified() => {}
            () = sleep(nap.unwrap_or_default()), if nap.is_some() => {}
            () = stop.cancelled() => return,
        }
    }
}

/// How long nothing has to be done unless there is news.
#[derive(Clone, Copy, Debug)]
struct UntilNews {
    /// Until the store has been silent for too long.
    silence: Duration,
    /// Until the time of a stream is up.
    due: Duration,
}

impl UntilNews {
    /// `has_room`: more streams can be judged at once. While they cannot, it does not help to be awake when the time of another is up.
    fn nap(self, has_room: bool) -> Duration {
        let due = if has_room { self.due } else { NAP };
        self.silence.min(due).min(NAP)
    }
}

/// Notices that the store fell silent, or is heard again. `None`: no stream is open.
fn look_around(judge: &Judge, streams: &Streams) -> Option<UntilNews> {
    let cache = judge.parts().ledger.cache();
    let first_due = {
        let registry = streams.registry();
        if registry.is_empty() {
            return None;
        }
        registry.first_due()
    };
    let is_silent = !cache.is_current();
    if streams.silent.swap(is_silent, Ordering::AcqRel) != is_silent {
        streams.reset(Duration::ZERO);
    }
    // The store may have been heard between the question and the note of it.
    let silence = match cache.age() {
        _ if is_silent && cache.is_current() => Duration::ZERO,
        Some(age) if !is_silent => streams.max_staleness().saturating_sub(age) + Duration::from_millis(1),
        _ => NAP,
    };
    let due = first_due.map_or(NAP, |due| due.since(judge.parts().clock.now()));
    Some(UntilNews { silence, due })
}

fn next(judge: &Judge, streams: &Streams) -> Option<Work<Arc<Entry>>> {
    streams.registry().next(judge.parts().clock.now(), Instant::now())
}

async fn judged(work: Work<Arc<Entry>>, patience: Duration) -> Judged {
    let judging = judge_again(&work.stream.admission, work.since + patience);
    // Whatever a panic leaves behind is dropped with the stream.
    let again = AssertUnwindSafe(judging).catch_unwind().await.ok();
    Judged { work, again }
}

/// While the store is heard and does not tell what is asked, it is asked again: one answer that is late ends no stream. But no longer than
/// the promise allows.
pub(super) async fn judge_again(admission: &Admission, deadline: Instant) -> Again {
    let judge = admission.judge();
    loop {
        let again = judge.judge_again(admission.policy(), admission.known(), deadline).await;
        let has_time = Instant::now() + RETRY < deadline;
        if !(again.stale && has_time && judge.parts().ledger.cache().is_current()) {
            return again;
        }
        sleep(RETRY).await;
    }
}

/// The end of a session that was idle, of which the stream has heard by now.
async fn write_end(entry: Arc<Entry>, at: Timestamp) {
    let admission = &entry.admission;
    let written = AssertUnwindSafe(admission.judge().end(admission.claims(), at)).catch_unwind().await;
    if written.is_err() {
        tracing::error!("the end of an idle session could not be stored, for a fault of the gate");
    }
}

/// What becomes of a stream that was judged. One that cannot be judged ends. If it is over because its session was idle, that is to be
/// written, as of the time that is returned.
fn settle(judge: &Judge, streams: &Streams, Judged { work, again }: Judged) -> Option<(Arc<Entry>, Timestamp)> {
    streams.metrics.judged();
    let admission = &work.stream.admission;
    let verdict = again.map_or(Verdict::Refuse(Reason::Stale), |again| again.verdict);
    if again.is_none() {
        streams.metrics.failed();
        tracing::error!("an open stream cannot be judged, for a fault of the gate, and ends");
    }
    if let Some(reason) = streams.refuses(admission, verdict) {
        // Nothing is left to be judged of it; in `observe` mode it is counted once.
        streams.registry().close(work.id);
        if admission.policy().mode == Mode::Enforce {
            work.stream.end(reason);
        } else {
            work.stream.go_on();
        }
        return again?.idle_at.map(|at| (work.stream, at));
    }
    if let Some(Again { verdict: Verdict::Admit, look_at, stale, .. }) = again {
        let now = judge.parts().clock.now();
        let mut look_at = look_at.unwrap_or(Timestamp::MAX);
        if stale {
            // What could not be learned, and is allowed to pass, nobody tells again.
            look_at = look_at.min(now.plus(streams.max_staleness()));
        }
        streams.registry().set_due(work.id, look_at.max(now.plus(SOONEST)));
    }
    work.stream.go_on();
    None
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// It would be awake a thousand times a second.
    #[test]
    fn while_no_more_can_be_judged_nobody_waits_for_those_whose_time_is_up() {
        let news = UntilNews { silence: Duration::from_millis(700), due: Duration::ZERO };
        assert_eq!(news.nap(true), Duration::ZERO);
        assert_eq!(news.nap(false), Duration::from_millis(700));
        assert_eq!(UntilNews { silence: Duration::MAX, due: Duration::MAX }.nap(true), NAP);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_not_the_end() {
        let (runs, failures) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let work = || {
            let runs = Arc::clone(&runs);
            async move { assert!(runs.fetch_add(1, Ordering::Relaxed) >= 2, "not yet") }
        };
        persist(work, || {
            failures.fetch_add(1, Ordering::Relaxed);
        })
        .await;
        assert_eq!((runs.load(Ordering::Relaxed), failures.load(Ordering::Relaxed)), (3, 2));
    }
}
