//! The sessions that this gateway knows of, and which of them have something to be written, and when.
//!
//! A session stays for as long as a token of it is remembered, or something of it waits to be written.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
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
    sessions: HashMap<SessionKey, Arc<LiveSession>, ahash::RandomState>,
    /// What waits, the earliest first.
    due: BinaryHeap<Reverse<Due>>,
}

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
        if let Some(session) = shard.sessions.get(&key) {
            return Arc::clone(session);
        }
        let session = Arc::new(make(key.clone()));
        shard.sessions.insert(key, Arc::clone(&session));
        session
    }

    pub(super) fn find(&self, key: &SessionKey) -> Option<Arc<LiveSession>> {
        self.shard(key).sessions.get(key).cloned()
    }

    /// The session was active at `now`, which is written at once, or a `resolution` after what was written before.
    pub(super) fn touch(&self, session: &Arc<LiveSession>, now: Timestamp) {
        if session.touch(now) {
            self.queue(session, session.sent().map_or(now, |sent| sent.plus(self.resolution)));
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
        shard.sessions.retain(|_, session| Arc::strong_count(session) > 1 || session.is_queued());
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
