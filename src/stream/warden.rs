//! The one task that judges open streams again.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    open::{Entry, Streams},
    registry::Work,
};
use crate::{
    clock::Timestamp,
    gate::{Judge, judge::Again, policy::Mode},
    verdict::{Reason, Verdict},
};

/// How many streams are judged at once: this many may wait for the store.
const AT_ONCE: usize = 256;

/// The longest time without looking at the clock, which may have been set.
const NAP: Duration = Duration::from_secs(1);

/// How long to wait before the store is asked once more that did not answer.
const RETRY: Duration = Duration::from_millis(50);

/// A stream that is admitted is not judged again before this by its own time.
const SOONEST: Duration = Duration::from_millis(200);

/// What a stream came to.
struct Judged {
    work: Work<Arc<Entry>>,
    again: Again,
}

/// Judges streams when they have to be, until `stop`.
pub(crate) async fn watch_over(judge: Judge, stop: CancellationToken) {
    let streams = Arc::clone(&judge.parts().streams);
    let mut judging = FuturesUnordered::new();
    loop {
        let nap = look_around(&judge, &streams);
        while judging.len() < AT_ONCE {
            let Some(work) = next(&judge, &streams) else { break };
            judging.push(judge_again(&judge, work, streams.max_staleness()));
        }
        tokio::select! {
            Some(judged) = judging.next() => settle(&judge, &streams, judged),
            () = streams.work.notified() => {}
            () = sleep(nap.unwrap_or_default()), if nap.is_some() => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Notices that the store fell silent, or is heard again; how long nothing has to be done unless there is news.
fn look_around(judge: &Judge, streams: &Streams) -> Option<Duration> {
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
    if is_silent && cache.is_current() {
        return Some(Duration::ZERO);
    }
    let until_silent = match cache.age() {
        Some(age) if !is_silent => streams.max_staleness().saturating_sub(age) + Duration::from_millis(1),
        _ => NAP,
    };
    let until_due = first_due.map_or(NAP, |due| due.since(judge.parts().clock.now()));
    Some(until_silent.min(until_due).min(NAP))
}

fn next(judge: &Judge, streams: &Streams) -> Option<Work<Arc<Entry>>> {
    streams.registry().next(judge.parts().clock.now(), Instant::now())
}

/// While the store is heard and does not tell what is asked, it is asked again: one answer that is late ends no stream. But no longer than
/// the promise allows.
async fn judge_again(judge: &Judge, work: Work<Arc<Entry>>, max_staleness: Duration) -> Judged {
    let admission = &work.stream.admission;
    let deadline = work.since + max_staleness;
    loop {
        let again = judge.judge_again(admission.policy(), admission.known(), deadline).await;
        let has_time = Instant::now() + RETRY < deadline;
        if !(again.stale && has_time && judge.parts().ledger.cache().is_current()) {
            return Judged { work, again };
        }
        sleep(RETRY).await;
    }
}

fn settle(judge: &Judge, streams: &Streams, Judged { work, again }: Judged) {
    streams.metrics.judged();
    let policy = work.stream.admission.policy();
    match again.verdict {
        Verdict::Admit => {
            let now = judge.parts().clock.now();
            let mut look_at = again.look_at.unwrap_or(Timestamp::MAX);
            if again.stale {
                // What could not be learned, and is allowed to pass, nobody tells again.
                look_at = look_at.min(now.plus(streams.max_staleness()));
            }
            streams.registry().set_due(work.id, look_at.max(now.plus(SOONEST)));
        }
        // What the route asks for beside a session was asked for when the stream was opened.
        Verdict::Refuse(Reason::InsufficientScope) => {}
        Verdict::Refuse(reason) => {
            let enforced = policy.mode == Mode::Enforce;
            tracing::debug!(
                route.name = &*policy.name,
                verdict = reason.code(),
                subject = ?work.stream.admission.claims().subject,
                enforced,
                "open stream ends"
            );
            streams.metrics.ended(&policy.name, reason, enforced);
            // Nothing is left to be judged of it; in `observe` mode it is counted once.
            streams.registry().close(work.id);
            if enforced {
                work.stream.end(reason);
            }
        }
    }
}
