//! The sessions that this gateway knows of, and which of them have something to be written, and when.
//!
//! A session stays for as long as a token of it is remembered, or something of it waits to be written.

use std::{
    borrow::Borrow,
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{SessionKey, live::LiveSession};
use crate::clock::Timestamp;

/// Locks are split this many ways, so that threads seldom meet, and that little is looked through at a time.
const SHARDS: usize = 64;

#[derive(Debug)]
pub(super) struct Pool {
    resolution: Duration,
    hasher: ahash::RandomState,
    shards: [Mutex<Shard>; SHARDS],
    /// The shard that is tidied next.
    next: AtomicUsize,
    /// How many are being written.
    in_flight: AtomicUsize,
}

#[derive(Default, Debug)]
struct Shard {
    sessions: HashSet<ByKey, ahash::RandomState>,
    /// What waits, the earliest first.
    due: BinaryHeap<Reverse<Due>>,
}

/// A session, found by its key.
#[derive(Debug)]
struct ByKey(Arc<LiveSession>);

impl Borrow<SessionKey> for ByKey {
    fn borrow(&self) -> &SessionKey {
        &self.0.key
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

/// Ordered by the time alone.
#[derive(Debug)]
struct Due {
    at: Timestamp,
    session: Arc<LiveSession>,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Due {}

impl Pool {
    /// An empty pool that has each session written once per `resolution` at most.
    pub(super) fn new(resolution: Duration) -> Self {
        Self {
            resolution,
            hasher: ahash::RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            next: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
        }
    }

    /// The session of this key, made if there is none.
    pub(super) fn enter(&self, key: SessionKey, make: impl FnOnce(SessionKey) -> LiveSession) -> Arc<LiveSession> {
        let mut shard = self.shard(&key);
        if let Some(ByKey(session)) = shard.sessions.get(&key) {
            return Arc::clone(session);
        }
        let session = Arc::new(make(key));
        shard.sessions.insert(ByKey(Arc::clone(&session)));
        session
    }

    pub(super) fn find(&self, key: &SessionKey) -> Option<Arc<LiveSession>> {
        self.shard(key).sessions.get(key).map(|ByKey(session)| Arc::clone(session))
    }

    /// The session was active at `now`, which is written at once, or a `resolution` after what was written before.
    pub(super) fn touch(&self, session: &Arc<LiveSession>, now: Timestamp) {
        if session.touch(now) {
            self.queue(session, session.own().map_or(now, |own| own.plus(self.resolution)));
        }
    }

    /// Takes those that are due by `time`.
    pub(super) fn take(&self, time: Timestamp) -> Vec<Arc<LiveSession>> {
        let mut taken = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            while shard.due.peek().is_some_and(|Reverse(due)| due.at <= time) {
                taken.extend(shard.due.pop().map(|Reverse(due)| due.session));
            }
        }
        self.in_flight.store(taken.len(), Ordering::Relaxed);
        taken
    }

    /// They could not be written, and are due again at once.
    pub(super) fn put_back(&self, sessions: Vec<Arc<LiveSession>>, now: Timestamp) {
        for session in sessions {
            self.queue(&session, now);
        }
        self.in_flight.store(0, Ordering::Relaxed);
    }

    /// The session was written up to `sent`.
    pub(super) fn written(&self, session: &Arc<LiveSession>, sent: Timestamp) {
        if session.written(sent) {
            self.queue(session, sent.plus(self.resolution));
        }
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Lets go of what nobody needs any more, in one of the shards.
    pub(super) fn tidy(&self) {
        let mut shard = lock(&self.shards[self.next.fetch_add(1, Ordering::Relaxed) % SHARDS]);
        shard.sessions.retain(|ByKey(session)| Arc::strong_count(session) > 1 || session.is_queued());
    }

    /// How many there are, and how many wait to be written.
    pub(super) fn count(&self) -> (usize, usize) {
        let shards = self.shards.iter().map(|shard| {
            let shard = lock(shard);
            (shard.sessions.len(), shard.due.len())
        });
        let (known, waiting) = shards.fold((0, 0), |(known, waiting), (more, wait)| (known + more, waiting + wait));
        (known, waiting + self.in_flight.load(Ordering::Relaxed))
    }

    fn queue(&self, session: &Arc<LiveSession>, at: Timestamp) {
        let due = Due { at, session: Arc::clone(session) };
        self.shard(&session.key).due.push(Reverse(due));
    }

    fn shard(&self, key: &SessionKey) -> MutexGuard<'_, Shard> {
        #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
        let hash = self.hasher.hash_one(key) as usize;
        lock(&self.shards[hash % SHARDS])
    }
}

/// A panic elsewhere leaves a shard usable: each operation on it is a single step.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::token::claims::Claims;

    fn claims() -> Claims {
        Claims { session: Some("sid".try_into().unwrap()), ..Claims::of_alice() }
    }

    fn session(pool: &Pool) -> Arc<LiveSession> {
        pool.enter(SessionKey::of(&claims()), |key| LiveSession::new(key, &claims()))
    }

    /// Writes what is due by `time`; the latest of it.
    fn flush(pool: &Pool, time: Timestamp) -> Option<Timestamp> {
        let taken = pool.take(time);
        let sent = taken.iter().map(|session| session.send(Timestamp::MAX, Duration::ZERO)).max();
        for session in &taken {
            session.took(sent.unwrap_or(time), None, Duration::ZERO);
            pool.written(session, sent.unwrap_or(time));
        }
        sent
    }

    #[test]
    fn activity_is_due_at_once_and_then_once_per_resolution() {
        let pool = Pool::new(Duration::from_secs(60));
        let session = session(&pool);
        let at = |seconds: i64| Timestamp::from_secs(1_700_000_000 + seconds);
        pool.touch(&session, at(0));
        pool.touch(&session, at(1));
        assert_eq!(flush(&pool, at(1)), Some(at(1)));
        pool.touch(&session, at(2));
        pool.touch(&session, at(30));
        assert_eq!(flush(&pool, at(60)), None);
        assert_eq!(flush(&pool, at(61)), Some(at(30)), "the latest, as soon as the resolution is over");
        pool.touch(&session, at(500));
        assert_eq!(flush(&pool, at(500)), Some(at(500)));
    }

    #[test]
    fn a_session_stays_as_long_as_somebody_needs_it() {
        let pool = Pool::new(Duration::from_secs(60));
        let tidy = |pool: &Pool| (0..SHARDS).for_each(|_| pool.tidy());
        let first = session(&pool);
        tidy(&pool);
        assert!(Arc::ptr_eq(&first, &session(&pool)), "a token has it");
        pool.touch(&first, Timestamp::from_secs(1_700_000_000));
        drop(first);
        tidy(&pool);
        assert_eq!(pool.count(), (1, 1), "it is not written yet");
        flush(&pool, Timestamp::MAX);
        tidy(&pool);
        assert_eq!(pool.count(), (0, 0));
    }

    /// Whoever comes between a write and its end is either seen by it or queues anew.
    #[test]
    fn no_activity_is_lost_between_a_write_and_its_end() {
        const ROUNDS: usize = 200_000;
        let pool = Pool::new(Duration::ZERO);
        let session = session(&pool);
        let time = |round: usize| Timestamp::from_millis(i64::try_from(round).unwrap());
        assert!(session.touch(time(0)), "it is queued from the start");
        let mut lost = Vec::new();
        let (turn, done, queued) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let wait_for = |counter: &AtomicUsize, value: usize| {
            for tries in 0.. {
                if counter.load(Ordering::SeqCst) >= value {
                    return;
                }
                // Both at once where there are two processors, and one after the other elsewhere.
                if tries > 1000 { thread::yield_now() } else { std::hint::spin_loop() }
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    wait_for(&turn, round);
                    queued.fetch_add(usize::from(session.touch(time(round))), Ordering::SeqCst);
                    done.store(round, Ordering::SeqCst);
                }
            });
            for round in 1..=ROUNDS {
                turn.store(round, Ordering::SeqCst);
                let again = usize::from(session.written(time(round - 1)));
                wait_for(&done, round);
                if again + queued.swap(0, Ordering::SeqCst) != 1 {
                    lost.push(round);
                    session.touch(time(round));
                }
            }
        });
        assert_eq!(lost.len(), 0, "lost in {lost:?}");
    }
}
