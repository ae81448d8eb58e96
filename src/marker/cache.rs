//! What is known of markers here, kept current by the store's pushes.
//!
//! # How a stale value is never left behind
//!
//! Nothing is ever removed from this cache when a marker changes. Every key falls into one of [`SLOTS`] slots, and each slot
//! has a generation; there is one epoch for all. A change moves the generation of its slot on, a reset moves the epoch
//! on, and neither ever goes back. A value is kept under the generation that stood *before* it was read from the store,
//! and is used only while that generation still stands. So a read that was under way when its key changed ends
//! up under a generation that nobody asks for again: the change wins, whichever of the two arrives first.
//!
//! A neighbour in the same slot is forgotten too, which costs it one more read.
//!
//! What concerns one token is found without looking up each of its keys: [`Marks`] keeps the last answer with the sum of
//! the generations of its keys. As each only grows, the sum stands still only while all of them do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures_util::{FutureExt, future::try_join_all};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use siphasher::sip128::SipHasher13;

use super::{Known, Marker, MarkerKey, Reading};
use crate::{
    store::{Store, StoreError, Watcher},
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
    /// How long a write to the store may take.
    pub write_timeout: Duration,
}

/// 2 s, 64 MiB, 1 s, 5 s.
impl Default for MarkerSettings {
    fn default() -> Self {
        Self {
            max_staleness: Duration::from_secs(2),
            cache_size: 64 * 1024 * 1024,
            read_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(5),
        }
    }
}

/// The cache of markers and of their absence.
#[derive(Debug)]
pub struct MarkerCache {
    settings: MarkerSettings,
    /// Keyed afresh in every process, so that nobody can aim at collisions.
    hash_key: [u8; 16],
    epoch: AtomicU64,
    slots: Box<[AtomicU64]>,
    entries: moka::future::Cache<EntryKey, Reading<Marker>, ahash::RandomState>,
    origin: Instant,
    /// Milliseconds from `origin` to when the store was last heard, plus one; 0: never.
    heard: AtomicU64,
    metrics: MarkerCacheMetrics,
}

/// A key's hash and the generation before the read. 128 bits of a keyed hash: no two keys meet by chance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct EntryKey {
    key: u128,
    generation: u64,
}

/// The keys that can concern one token, and the last answer about them.
#[derive(Debug)]
pub struct Marks {
    marks: Box<[Mark]>,
    answer: ArcSwapOption<Answer>,
}

#[derive(Debug)]
struct Mark {
    key: MarkerKey,
    hash: u128,
    slot: usize,
}

#[derive(Debug)]
struct Answer {
    generations: u64,
    known: Known,
}

impl MarkerCache {
    /// An empty cache that has not heard from its store yet.
    #[must_use]
    pub fn new(settings: MarkerSettings) -> Self {
        let random = ahash::RandomState::new();
        let mut hash_key = [0; 16];
        hash_key[..8].copy_from_slice(&random.hash_one(0_u8).to_ne_bytes());
        hash_key[8..].copy_from_slice(&random.hash_one(1_u8).to_ne_bytes());
        Self {
            settings,
            hash_key,
            epoch: AtomicU64::new(0),
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            entries: moka::future::Cache::builder()
                .max_capacity(settings.cache_size / ENTRY_SIZE)
                .build_with_hasher(ahash::RandomState::new()),
            origin: Instant::now(),
            heard: AtomicU64::new(0),
            metrics: MarkerCacheMetrics::default(),
        }
    }

    /// The keys that concern a token with these claims.
    #[must_use]
    pub fn marks(&self, claims: &Claims) -> Marks {
        let subject = &claims.subject;
        let issuer = &subject.issuer;
        let keys = [
            Some(MarkerKey::logout(subject)),
            Some(MarkerKey::block(subject)),
            Some(MarkerKey::issuer(issuer)),
            claims.session.as_ref().map(|session| MarkerKey::session(issuer, session)),
            claims.token_id.as_ref().map(|token| MarkerKey::token(issuer, token)),
            claims.client.as_ref().map(|client| MarkerKey::client(issuer, client)),
        ];
        let mark = |key: MarkerKey| {
            let hash = self.hash(key.as_str());
            Mark { slot: slot(hash), key, hash }
        };
        Marks { marks: keys.into_iter().flatten().map(mark).collect(), answer: ArcSwapOption::empty() }
    }

    /// Whether the store has been heard within `max_staleness`.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.age().is_some_and(|age| age <= self.settings.max_staleness)
    }

    /// How long ago the store was last heard; `None`: never.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let heard = self.heard.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.origin.elapsed().saturating_sub(Duration::from_millis(heard)))
    }

    /// What is known, if it is known without asking the store: no I/O, no lock, no allocation.
    #[must_use]
    pub fn recall(&self, marks: &Marks) -> Option<Known> {
        let answer = marks.answer.load();
        let answer = answer.as_ref()?;
        (answer.generations == self.generations(marks) && self.is_current()).then(|| {
            self.metrics.hits.inc();
            answer.known
        })
    }

    /// What is known, put together from what is cached of each key and from what the store says at once: no I/O.
    #[must_use]
    pub fn gather(&self, marks: &Marks, store: &dyn Store) -> Option<Known> {
        if !self.is_current() {
            return None;
        }
        let generations = self.generations(marks);
        let mut known = Known::default();
        for mark in &marks.marks {
            if !store.lacks(&mark.key) {
                // A look-up of what is cached never waits.
                known.learn(mark.key.kind(), self.entries.get(&self.entry_key(mark)).now_or_never()??);
            }
        }
        marks.answer.store(Some(Arc::new(Answer { generations, known })));
        Some(known)
    }

    /// What is known, asking the store for what is not. Many who ask for the same key at once share one read.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the store is silent or does not answer within `read_timeout`.
    ///
    /// # Cancel safety
    /// Dropping the future is harmless: another one that waits for the same key reads it.
    pub async fn learn(&self, marks: &Marks, store: &dyn Store) -> Result<Known, StoreError> {
        let generations = self.generations(marks);
        let readings = try_join_all(marks.marks.iter().map(|mark| self.read(mark, store)));
        // Whoever takes over a read that another gave up begins it anew, and has waited already.
        let readings = self.in_time(readings).await?;
        let mut known = Known::default();
        for (mark, reading) in marks.marks.iter().zip(readings) {
            known.learn(mark.key.kind(), reading);
        }
        marks.answer.store(Some(Arc::new(Answer { generations, known })));
        Ok(known)
    }

    /// What is cached, however old; what is not counts as absent. Only for the outage policy `allow`.
    pub async fn cached(&self, marks: &Marks) -> Known {
        let mut known = Known::default();
        for mark in &marks.marks {
            if let Some(reading) = self.entries.get(&self.entry_key(mark)).await {
                known.learn(mark.key.kind(), reading);
            }
        }
        known
    }

    /// Registers the cache's metrics.
    pub fn register(&self, registry: &mut Registry) {
        let metrics = &self.metrics;
        registry.register("marker_cache_hits", "Requests whose markers were all known", metrics.hits.clone());
        registry.register("marker_cache_reads", "Markers read from the store", metrics.reads.clone());
        registry.register("marker_changes", "Changes of markers that the store pushed", metrics.changes.clone());
        registry.register("marker_resets", "Times that everything cached was forgotten", metrics.resets.clone());
        registry.register("markers_unreadable", "Reads that met a value that is no marker", metrics.unreadable.clone());
        registry.register("marker_cache_entries", "Cached markers and absences", metrics.entries.clone());
        registry.register(
            "marker_sync_age_seconds",
            "Time since the store was last heard; -1: never",
            metrics.age.clone(),
        );
    }

    /// Brings gauges up to date and lets the cache tidy up. Called before metrics are read, and now and then.
    pub async fn maintain(&self) {
        self.entries.run_pending_tasks().await;
        self.metrics.entries.set(i64::try_from(self.entries.entry_count()).unwrap_or(i64::MAX));
        self.metrics.age.set(self.age().map_or(-1.0, |age| age.as_secs_f64()));
    }

    async fn read(&self, mark: &Mark, store: &dyn Store) -> Result<Reading<Marker>, StoreError> {
        if store.lacks(&mark.key) {
            return Ok(Reading::Absent);
        }
        let read = async {
            self.metrics.reads.inc();
            let reading = self.in_time(store.read(&mark.key)).await?;
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
        EntryKey { key: mark.hash, generation: self.generation(mark.slot) }
    }

    fn generation(&self, slot: usize) -> u64 {
        self.epoch.load(Ordering::Acquire).wrapping_add(self.slots[slot].load(Ordering::Acquire))
    }

    fn generations(&self, marks: &Marks) -> u64 {
        let epoch = self.epoch.load(Ordering::Acquire);
        marks.marks.iter().fold(epoch, |sum, mark| sum.wrapping_add(self.slots[mark.slot].load(Ordering::Acquire)))
    }

    fn hash(&self, key: &str) -> u128 {
        SipHasher13::new_with_key(&self.hash_key).hash(key.as_bytes()).as_u128()
    }
}

fn slot(hash: u128) -> usize {
    (hash & (SLOTS as u128 - 1)) as usize
}

impl Watcher for MarkerCache {
    fn changed(&self, key: &str) {
        self.slots[slot(self.hash(key))].fetch_add(1, Ordering::AcqRel);
        self.metrics.changes.inc();
    }

    fn reset(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.metrics.resets.inc();
    }

    fn heard(&self) {
        let since = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.heard.fetch_max(since + 1, Ordering::AcqRel);
    }
}

#[derive(Default, Debug)]
struct MarkerCacheMetrics {
    hits: Counter,
    reads: Counter,
    changes: Counter,
    resets: Counter,
    unreadable: Counter,
    entries: Gauge,
    age: Gauge<f64, AtomicU64>,
}

#[cfg(test)]
mod tests;
