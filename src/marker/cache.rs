//! What is known of markers here, kept current by the store's pushes.
//!
//! # How a stale value is never left behind
//!
//! Nothing is ever removed from this cache when a marker changes. Every key falls into one of [`SLOTS`] slots, and each slot
//! has a generation. A value is kept under the generation that stood *before* it was read from the store, and is used only
//! while that generation still stands; a change moves it on. So a read that was under way when its key changed
//! ends up under a generation that nobody asks for again: the change wins, whichever of the two arrives first.
//! `generations` states the protocol, `model` tries it in every order of events.
//!
//! A neighbour in the same slot is forgotten too, which costs it one more read.
//!
//! What concerns one token is found without looking up each of its keys: [`Marks`] keeps the last answer with the sum of
//! the generations of its keys. As each only grows, the sum stands still only while all of them do. The keys themselves are made of
//! the token's claims whenever they are needed, which is seldom.
//!
//! # How a slow store does no harm
//!
//! A request waits for `read_timeout` at most, and no more than `max_waiting` of them wait at once. The others are told
//! at once that nothing can be learned, as if the store were silent.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures_util::{FutureExt, future::try_join_all};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use siphasher::sip128::SipHasher13;
use tokio::sync::Semaphore;

use super::{
    Kind, Known, Marker, MarkerKey, Reading,
    generations::{Generations, Note, Standing},
    propagation::Propagation,
};
use crate::{
    clock::Clock,
    session::SessionKey,
    store::{Store, StoreError, Watcher},
    telemetry::gauge::Measured,
    token::claims::Claims,
};

/// How many generations there are. With 10,000 changes a second, a key loses its cached value to a neighbour's change
/// about once in 6 s; with 100 a second, once in 10 minutes.
pub const SLOTS: usize = 1 << 16;

/// What an entry of the cache takes, with the cache's own overhead, in bytes.
const ENTRY_SIZE: u64 = 400;

/// How markers are cached and kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MarkerSettings {
    /// How long the store may be silent before what is cached is no longer trusted.
    pub max_staleness: Duration,
    /// The most memory for cached markers and absences, in bytes.
    pub cache_size: u64,
    /// How long a read of the store may take.
    pub read_timeout: Duration,
    /// How many requests may wait for the store at once.
    pub max_waiting: usize,
    /// How long a write to the store may take.
    pub write_timeout: Duration,
}

/// 2 s, 64 MiB, 1 s, 10,000 requests, 5 s.
impl Default for MarkerSettings {
    fn default() -> Self {
        Self {
            max_staleness: Duration::from_secs(2),
            cache_size: 64 * 1024 * 1024,
            read_timeout: Duration::from_secs(1),
            max_waiting: 10_000,
            write_timeout: Duration::from_secs(5),
        }
    }
}

/// Why it is not known what is stored about a token. Whichever it is, the outage policy applies.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unlearned {
    /// The store has not been heard for longer than `max_staleness`.
    #[error("the store is silent")]
    Silent,
    /// `max_waiting` requests wait for the store already.
    #[error("too many requests wait for the store")]
    Crowded,
    /// The store did not answer within `read_timeout`, or failed.
    #[error("markers cannot be read")]
    Unread(#[from] StoreError),
}

/// The cache of markers and of their absence.
#[derive(Debug)]
pub struct MarkerCache {
    settings: MarkerSettings,
    /// Keyed afresh in every process, so that nobody can aim at collisions.
    hash_key: [u8; 16],
    generations: Arc<Generations>,
    entries: moka::future::Cache<EntryKey, Reading<Marker>, ahash::RandomState>,
    /// What times are counted from that `generations` hears of, in milliseconds.
    origin: Instant,
    /// One for each request that may yet wait for the store.
    places: Semaphore,
    propagation: Propagation,
    metrics: MarkerCacheMetrics,
}

/// A key's hash and the generation before the read. 128 bits of a keyed hash: no two keys meet by chance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct EntryKey {
    key: u128,
    generation: u64,
}

/// Where changes of the keys show that can concern one token, and the last answer about them. Small, as there is one for each token: the
/// keys are made of its claims again where they are needed.
#[derive(Debug)]
pub struct Marks {
    /// When nothing was known against the token, as is usual.
    clear: Note,
    /// The last answer that was anything else.
    answer: ArcSwapOption<Answer>,
    /// By kind, in the order of [`Kind::ALL`].
    slots: [u16; Kind::ALL.len()],
    kinds: Kinds,
}

/// The kinds of markers that can concern a token, a bit for each in the order of [`Kind::ALL`].
#[derive(Clone, Copy, Debug)]
struct Kinds(u8);

/// A key that is being looked up.
#[derive(Debug)]
struct Mark {
    key: MarkerKey,
    hash: u128,
}

#[derive(Debug)]
struct Answer {
    standing: Standing,
    known: Known,
}

impl MarkerCache {
    /// An empty cache that has not heard from its store yet.
    #[must_use]
    pub fn new(settings: MarkerSettings) -> Self {
        Self::with_clock(settings, Clock::System)
    }

    /// Likewise. By `clock` it measures how long changes take to arrive, and nothing else.
    #[must_use]
    pub fn with_clock(settings: MarkerSettings, clock: Clock) -> Self {
        Self::with_slots(settings, clock, SLOTS)
    }

    fn with_slots(settings: MarkerSettings, clock: Clock, slots: usize) -> Self {
        let random = ahash::RandomState::new();
        let mut hash_key = [0; 16];
        hash_key[..8].copy_from_slice(&random.hash_one(0_u8).to_ne_bytes());
        hash_key[8..].copy_from_slice(&random.hash_one(1_u8).to_ne_bytes());
        let metrics = MarkerCacheMetrics::default();
        let evictions = metrics.evictions.clone();
        Self {
            settings,
            hash_key,
            generations: Arc::new(Generations::new(slots)),
            entries: moka::future::Cache::builder()
                .max_capacity(settings.cache_size / ENTRY_SIZE)
                .eviction_listener(move |_, _, cause| {
                    if cause.was_evicted() {
                        evictions.inc();
                    }
                })
                .build_with_hasher(ahash::RandomState::new()),
            origin: Instant::now(),
            places: Semaphore::new(settings.max_waiting.min(Semaphore::MAX_PERMITS)),
            propagation: Propagation::new(clock, slots / 4),
            metrics,
        }
    }

    /// What is to be remembered of a token with these claims. Nothing is known of it yet.
    #[must_use]
    pub fn marks(&self, claims: &Claims) -> Marks {
        self.marks_of(claims, &Kind::ALL)
    }

    /// Likewise, where markers of these kinds only can concern it.
    fn marks_of(&self, claims: &Claims, kinds: &[Kind]) -> Marks {
        let mut marks =
            Marks { clear: Note::new(), answer: ArcSwapOption::empty(), slots: [0; Kind::ALL.len()], kinds: Kinds(0) };
        for (place, kind) in Kind::ALL.into_iter().enumerate().filter(|(_, kind)| kinds.contains(kind)) {
            if let Some(key) = key_of(kind, claims) {
                // There are no more than 2^16 of them.
                marks.slots[place] = u16::try_from(self.generations.slot(self.hash(key.as_str()))).unwrap_or_default();
                marks.kinds.0 |= 1 << place;
            }
        }
        marks
    }

    /// Whether the store has been heard within `max_staleness`.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.is_recent(self.generations.heard())
    }

    /// How long ago the store was last heard; `None`: never.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.generations.heard().map(|heard| age(self.origin, heard))
    }

    /// What is known, if it is known without asking the store: no I/O, no lock, no allocation.
    #[must_use]
    pub fn recall(&self, marks: &Marks) -> Option<Known> {
        let is_recent = |heard| self.is_recent(heard);
        let known = if self.generations.still(marks.slots(), &marks.clear, is_recent) {
            Known::NOTHING
        } else {
            let answer = marks.answer.load();
            answer.as_ref().filter(|answer| self.stands(marks, answer.standing))?.known
        };
        self.metrics.hits.inc();
        Some(known)
    }

    /// What is known, put together from what is cached of each key and from what the store says at once: no I/O. `claims` are those that
    /// `marks` are of.
    #[must_use]
    pub fn gather(&self, marks: &Marks, claims: &Claims, store: &dyn Store) -> Option<Known> {
        if !self.is_current() {
            return None;
        }
        let standing = self.generations.standing(marks.slots());
        let mut known = Known::default();
        for key in marks.keys(claims) {
            if !store.lacks(&key) {
                // A look-up of what is cached never waits.
                let mark = self.mark(key);
                known.learn(mark.key.kind(), self.entries.get(&self.entry_key(&mark)).now_or_never()??);
            }
        }
        marks.remember(standing, known);
        Some(known)
    }

    /// What is known, asking the store for what is not. Many who ask for the same key at once share one read. `claims` are those that
    /// `marks` are of.
    ///
    /// # Errors
    /// [`Unlearned`].
    ///
    /// # Cancel safety
    /// Dropping the future is harmless: another one that waits for the same key reads it.
    pub async fn learn(&self, marks: &Marks, claims: &Claims, store: &dyn Store) -> Result<Known, Unlearned> {
        if !self.is_current() {
            return Err(Unlearned::Silent);
        }
        self.metrics.misses.inc();
        let Ok(_place) = self.places.try_acquire() else {
            self.metrics.shed.inc();
            return Err(Unlearned::Crowded);
        };
        // Whoever takes over a read that another gave up begins it anew, and has waited already.
        match self.in_time(self.read_all(marks, claims, store)).await {
            Ok(known) => known.ok_or(Unlearned::Silent),
            Err(error) => {
                self.metrics.failures.inc();
                Err(error.into())
            }
        }
    }

    /// What is cached, however old; what is not counts as absent. Only for the outage policy `allow`.
    pub async fn cached(&self, claims: &Claims) -> Known {
        let mut known = Known::default();
        for key in Kind::ALL.into_iter().filter_map(|kind| key_of(kind, claims)) {
            let mark = self.mark(key);
            if let Some(reading) = self.entries.get(&self.entry_key(&mark)).await {
                known.learn(mark.key.kind(), reading);
            }
        }
        known
    }

    /// Registers the cache's metrics.
    pub fn register(&self, registry: &mut Registry) {
        let metrics = &self.metrics;
        self.propagation.register(registry);
        registry.register("marker_cache_hits", "Requests whose markers were all known", metrics.hits.clone());
        registry.register(
            "marker_cache_misses",
            "Requests whose markers were not all known, so that the store was asked",
            metrics.misses.clone(),
        );
        registry.register(
            "marker_cache_evictions",
            "Cached markers and absences that had to go, for want of room",
            metrics.evictions.clone(),
        );
        registry.register("marker_cache_reads", "Markers read from the store", metrics.reads.clone());
        registry.register(
            "marker_reads_shed",
            "Requests turned away because too many waited for the store already",
            metrics.shed.clone(),
        );
        registry.register(
            "marker_read_failures",
            "Requests whose markers the store did not tell, or not in time",
            metrics.failures.clone(),
        );
        registry.register("marker_changes", "Changes of markers that the store pushed", metrics.changes.clone());
        registry.register("marker_resets", "Times that everything cached was forgotten", metrics.resets.clone());
        registry.register("markers_unreadable", "Reads that met a value that is no marker", metrics.unreadable.clone());
        registry.register("marker_cache_entries", "Cached markers and absences", metrics.entries.clone());
        let (generations, origin) = (Arc::clone(&self.generations), self.origin);
        registry.register(
            "marker_sync_age_seconds",
            "Time since the store was last heard; -1: never",
            Measured(move || generations.heard().map_or(-1.0, |heard| age(origin, heard).as_secs_f64())),
        );
    }

    /// Brings gauges up to date and lets the cache tidy up. Called before metrics are read, and now and then.
    pub async fn maintain(&self) {
        self.entries.run_pending_tasks().await;
        self.metrics.entries.set(i64::try_from(self.entries.entry_count()).unwrap_or(i64::MAX));
    }

    /// `None`: the store fell silent meanwhile.
    async fn read_all(&self, marks: &Marks, claims: &Claims, store: &dyn Store) -> Result<Option<Known>, StoreError> {
        let all: Vec<Mark> = marks.keys(claims).map(|key| self.mark(key)).collect();
        loop {
            let standing = self.generations.standing(marks.slots());
            let readings = try_join_all(all.iter().map(|mark| self.read(mark, store))).await?;
            if !self.is_current() {
                return Ok(None);
            }
            // What changed since is read again: this task may be told of its answer later than the cache of the change.
            if self.stands(marks, standing) {
                let mut known = Known::default();
                for (mark, reading) in all.iter().zip(readings) {
                    known.learn(mark.key.kind(), reading);
                }
                marks.remember(standing, known);
                return Ok(Some(known));
            }
        }
    }

    async fn read(&self, mark: &Mark, store: &dyn Store) -> Result<Reading<Marker>, StoreError> {
        if store.lacks(&mark.key) {
            return Ok(Reading::Absent);
        }
        let read = async {
            self.metrics.reads.inc();
            let told = self.propagation.told(mark.hash);
            let reading = self.in_time(store.read(&mark.key)).await?;
            if let Some(told) = told {
                self.propagation.count(mark.hash, told, &reading);
            }
            if matches!(reading, Reading::Unreadable) {
                self.metrics.unreadable.inc();
                tracing::error!(
                    marker.key = mark.key.as_str(),
                    "stored value is not a marker; it refuses until it is mended"
                );
            }
            Ok(reading.into())
        };
        self.entries.try_get_with(self.entry_key(mark), read).await.map_err(|error: Arc<StoreError>| (*error).clone())
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        tokio::time::timeout(self.settings.read_timeout, work)
            .await
            .unwrap_or_else(|_| Err(StoreError::timed_out(&"marker store".into())))
    }

    fn entry_key(&self, mark: &Mark) -> EntryKey {
        EntryKey { key: mark.hash, generation: self.generations.of(self.generations.slot(mark.hash)) }
    }

    fn mark(&self, key: MarkerKey) -> Mark {
        Mark { hash: self.hash(key.as_str()), key }
    }

    fn stands(&self, marks: &Marks, standing: Standing) -> bool {
        self.generations.stands(marks.slots(), standing, |heard| self.is_recent(heard))
    }

    fn is_recent(&self, heard: Option<u64>) -> bool {
        heard.is_some_and(|heard| age(self.origin, heard) <= self.settings.max_staleness)
    }

    /// The hashes of the keys that can concern a token with these claims.
    pub(crate) fn hashes(&self, claims: &Claims) -> impl Iterator<Item = u64> {
        Kind::ALL.into_iter().filter_map(|kind| Some(self.short_hash(key_of(kind, claims)?.as_str())))
    }

    /// The hash of a key, as in [`hashes`](Self::hashes).
    pub(crate) fn short_hash(&self, key: &str) -> u64 {
        short(self.hash(key))
    }

    fn hash(&self, key: &str) -> u128 {
        SipHasher13::new_with_key(&self.hash_key).hash(key.as_bytes()).as_u128()
    }
}

/// How long ago it was `heard` milliseconds after `origin`.
fn age(origin: Instant, heard: u64) -> Duration {
    origin.elapsed().saturating_sub(Duration::from_millis(heard))
}

/// Enough to look something up by that a collision does no harm to.
const fn short(hash: u128) -> u64 {
    // The lower half picks the slot.
    (hash >> 64) as u64
}

/// The key of this kind that concerns a token with these claims, if one can.
fn key_of(kind: Kind, claims: &Claims) -> Option<MarkerKey> {
    let subject = &claims.subject;
    let issuer = &subject.issuer;
    Some(match kind {
        Kind::Logout => MarkerKey::logout(subject),
        Kind::Block => MarkerKey::block(subject),
        Kind::Session => MarkerKey::session(issuer, &SessionKey::of(claims).id),
        Kind::Token => MarkerKey::token(issuer, claims.token_id.as_ref()?),
        Kind::Client => MarkerKey::client(issuer, claims.client.as_ref()?),
        Kind::Issuer => MarkerKey::issuer(issuer),
    })
}

impl Marks {
    fn keys(&self, claims: &Claims) -> impl Iterator<Item = MarkerKey> {
        self.kinds.places().filter_map(|place| key_of(Kind::ALL[place], claims))
    }

    fn slots(&self) -> impl Iterator<Item = usize> {
        self.kinds.places().map(|place| usize::from(self.slots[place]))
    }

    /// This was read from `standing` on.
    fn remember(&self, standing: Standing, known: Known) {
        if known == Known::NOTHING {
            self.clear.take(standing);
        } else {
            self.answer.store(Some(Arc::new(Answer { standing, known })));
        }
    }
}

impl Kinds {
    fn places(self) -> impl Iterator<Item = usize> {
        (0..Kind::ALL.len()).filter(move |place| self.0 & 1 << place != 0)
    }
}

impl Watcher for MarkerCache {
    fn changed(&self, key: &str) {
        let hash = self.hash(key);
        self.generations.change(self.generations.slot(hash));
        self.propagation.tell(hash);
        self.metrics.changes.inc();
    }

    fn reset(&self) {
        self.generations.reset();
        self.propagation.reset();
        self.metrics.resets.inc();
    }

    fn heard(&self, at: Instant) {
        let since = at.saturating_duration_since(self.origin);
        self.generations.hear(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    }
}

#[derive(Default, Debug)]
struct MarkerCacheMetrics {
    hits: Counter,
    misses: Counter,
    evictions: Counter,
    reads: Counter,
    shed: Counter,
    failures: Counter,
    changes: Counter,
    resets: Counter,
    unreadable: Counter,
    entries: Gauge,
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod model;
