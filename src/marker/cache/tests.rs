use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use tokio::sync::{Notify, Semaphore};

use super::*;
use crate::{
    clock::Timestamp,
    marker::{Logout, MarkerClock, MarkerRecord},
    store::{Merged, StoreReport},
    token::claims::Subject,
};

const SETTINGS: MarkerSettings = MarkerSettings {
    max_staleness: Duration::from_secs(2),
    cache_size: 1 << 20,
    read_timeout: Duration::from_secs(1),
    max_waiting: 10_000,
    write_timeout: Duration::from_secs(1),
};

/// A store in memory whose reads take their value first and deliver it when they are let.
#[derive(Debug)]
struct SlowStore {
    values: Mutex<HashMap<String, MarkerRecord>>,
    reads: AtomicUsize,
    /// A read has taken its value.
    taken: Notify,
    /// One permit lets one read deliver.
    deliveries: Semaphore,
    /// Whether it says at once that there is nothing.
    tells: bool,
}

impl SlowStore {
    fn new(deliveries: usize) -> Self {
        Self {
            values: Mutex::default(),
            reads: AtomicUsize::new(0),
            taken: Notify::new(),
            deliveries: Semaphore::new(deliveries),
            tells: false,
        }
    }

    /// Writes and pushes, as a store does before it acknowledges.
    fn write(&self, key: &MarkerKey, at: i64, cache: &MarkerCache) {
        let logout = Logout { at: Timestamp::from_millis(at), clock: MarkerClock::Gateway };
        let record = MarkerRecord::new(Marker::Logout(logout));
        self.values.lock().unwrap().insert(key.as_str().to_owned(), record);
        cache.changed(key.as_str());
    }
}

#[async_trait]
impl Store for SlowStore {
    fn lacks(&self, key: &MarkerKey) -> bool {
        self.tells && !self.values.lock().unwrap().contains_key(key.as_str())
    }
    async fn read(&self, key: &MarkerKey) -> Result<Reading<MarkerRecord>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let value = self.values.lock().unwrap().get(key.as_str()).cloned();
        self.taken.notify_one();
        self.deliveries.acquire().await.unwrap().forget();
        Ok(value.map_or(Reading::Absent, Reading::Present))
    }
    async fn merge(&self, _: &MarkerKey, _: &MarkerRecord, _: Option<Timestamp>) -> Result<Merged, StoreError> {
        Err(StoreError::timed_out(&"slow".into()))
    }
    async fn record_activity(&self, _: &[(Subject, Timestamp)]) -> Result<(), StoreError> {
        Ok(())
    }
    async fn last_activity(&self, _: &Subject) -> Result<Option<Timestamp>, StoreError> {
        Ok(None)
    }
    async fn forget_activity(&self, _: &[(Subject, Timestamp)]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn report(&self) -> Result<StoreReport, StoreError> {
        Err(StoreError::timed_out(&"slow".into()))
    }
    async fn close(&self) {}
}

/// A token that four markers can concern: logout, block, issuer, session.
fn claims() -> Claims {
    Claims::of_alice()
}

fn current_cache() -> Arc<MarkerCache> {
    let cache = Arc::new(MarkerCache::new(SETTINGS));
    cache.heard(Instant::now());
    cache
}

fn logged_out_at(known: &Known) -> Option<i64> {
    known.logout.present().map(|logout| logout.at.as_millis())
}

const FIRST: i64 = 1_700_000_000_001;

#[tokio::test]
async fn absence_is_remembered_and_forgotten_when_it_changes() {
    let (cache, store) = (current_cache(), SlowStore::new(100));
    let marks = cache.marks(&claims());
    assert_eq!(cache.recall(&marks), None, "an empty cache is never taken for no markers");
    assert_eq!(cache.learn(&marks, &claims(), &store).await.unwrap(), Known::default());
    assert_eq!(cache.recall(&marks), Some(Known::default()));
    store.write(&MarkerKey::logout(&claims().subject), FIRST, &cache);
    assert_eq!(cache.recall(&marks), None);
    assert_eq!(logged_out_at(&cache.learn(&marks, &claims(), &store).await.unwrap()), Some(FIRST));
    assert_eq!(store.reads.load(Ordering::SeqCst), 5, "only what changed was read again");
}

#[tokio::test]
async fn what_the_store_tells_at_once_is_not_read() {
    let (cache, store) = (current_cache(), SlowStore { tells: true, ..SlowStore::new(100) });
    let marks = cache.marks(&claims());
    assert_eq!(cache.gather(&marks, &claims(), &store), Some(Known::default()));
    assert_eq!(cache.recall(&marks), Some(Known::default()));
    store.write(&MarkerKey::logout(&claims().subject), FIRST, &cache);
    assert_eq!(cache.gather(&marks, &claims(), &store), None, "there is something to read");
    assert_eq!(logged_out_at(&cache.learn(&marks, &claims(), &store).await.unwrap()), Some(FIRST));
    assert_eq!(store.reads.load(Ordering::SeqCst), 1);
    let other_claims = Claims { session: Some("sid".try_into().unwrap()), ..claims() };
    let other = cache.marks(&other_claims);
    assert_eq!(
        logged_out_at(&cache.gather(&other, &other_claims, &store).unwrap()),
        Some(FIRST),
        "cached by another token's read"
    );
    let silent = MarkerCache::new(SETTINGS);
    assert_eq!(
        silent.gather(&silent.marks(&claims()), &claims(), &store),
        None,
        "a store that was never heard tells nothing"
    );
}

#[tokio::test]
async fn a_change_during_a_read_wins() {
    for reset in [false, true] {
        let (cache, store) = (current_cache(), Arc::new(SlowStore::new(0)));
        let marks = Arc::new(cache.marks(&claims()));
        let reading = {
            let (cache, store, marks) = (Arc::clone(&cache), Arc::clone(&store), Arc::clone(&marks));
            tokio::spawn(async move { cache.learn(&marks, &claims(), &*store).await.unwrap() })
        };
        while store.reads.load(Ordering::SeqCst) < 4 {
            store.taken.notified().await;
        }
        store.write(&MarkerKey::logout(&claims().subject), FIRST, &cache);
        if reset {
            cache.reset();
        }
        store.deliveries.add_permits(100);
        assert_eq!(logged_out_at(&reading.await.unwrap()), Some(FIRST), "what was read before the change is no answer");
        assert_eq!(cache.recall(&marks).as_ref().and_then(logged_out_at), Some(FIRST), "and is not kept");
        assert_eq!(store.reads.load(Ordering::SeqCst), if reset { 8 } else { 5 }, "only what changed is read again");
    }
}

#[tokio::test]
async fn a_reset_forgets_everything() {
    let (cache, store) = (current_cache(), SlowStore::new(100));
    let marks = cache.marks(&claims());
    cache.learn(&marks, &claims(), &store).await.unwrap();
    cache.reset();
    assert_eq!(cache.recall(&marks), None);
    cache.learn(&marks, &claims(), &store).await.unwrap();
    assert_eq!(store.reads.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn many_who_ask_share_one_read() {
    let (cache, store) = (current_cache(), Arc::new(SlowStore::new(0)));
    let callers: Vec<_> = (0..1000)
        .map(|_| {
            let (cache, store) = (Arc::clone(&cache), Arc::clone(&store));
            tokio::spawn(async move { cache.learn(&cache.marks(&claims()), &claims(), &*store).await.unwrap() })
        })
        .collect();
    while store.reads.load(Ordering::SeqCst) < 4 {
        store.taken.notified().await;
    }
    store.deliveries.add_permits(4);
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(store.reads.load(Ordering::SeqCst), 4, "one for each key");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_fails_the_read_in_time() {
    let (cache, store) = (current_cache(), SlowStore::new(0));
    let begun = tokio::time::Instant::now();
    assert!(cache.learn(&cache.marks(&claims()), &claims(), &store).await.is_err());
    assert!(begun.elapsed() <= SETTINGS.read_timeout + Duration::from_millis(1));
    assert_eq!((cache.metrics.failures.get(), cache.metrics.shed.get()), (1, 0));
}

/// However many ask, no more than `max_waiting` wait; the others know at once.
#[tokio::test]
async fn a_crowd_before_a_slow_store_is_turned_away() {
    let cache = Arc::new(MarkerCache::new(MarkerSettings { max_waiting: 3, ..SETTINGS }));
    cache.heard(Instant::now());
    let store = SlowStore::new(0);
    let claims = claims();
    let marks = cache.marks(&claims);
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(cache.learn(&marks, &claims, &store))).collect();
    for each in &mut waiting {
        assert!(each.as_mut().now_or_never().is_none(), "it waits");
    }
    for turned_away in 1..=100 {
        let told = cache.learn(&marks, &claims, &store).now_or_never();
        assert!(matches!(told, Some(Err(Unlearned::Crowded))), "{told:?}");
        assert_eq!(cache.metrics.shed.get(), turned_away);
    }
    drop(waiting.pop());
    let mut next = Box::pin(cache.learn(&marks, &claims, &store));
    assert!(next.as_mut().now_or_never().is_none(), "whoever gives up makes room");
    store.deliveries.add_permits(100);
    waiting.push(next);
    for each in waiting {
        each.await.unwrap();
    }
    assert_eq!(cache.recall(&marks), Some(Known::default()), "what is known is told to everybody");
    assert_eq!((cache.places.available_permits(), cache.metrics.failures.get()), (3, 0));
}

#[tokio::test]
async fn a_silent_store_is_not_asked() {
    let (cache, store) = (MarkerCache::new(SETTINGS), SlowStore::new(100));
    assert!(matches!(cache.learn(&cache.marks(&claims()), &claims(), &store).await, Err(Unlearned::Silent)));
    assert_eq!(store.reads.load(Ordering::SeqCst), 0);
}

#[test]
fn a_cache_that_has_not_heard_is_not_current() {
    let cache = MarkerCache::new(MarkerSettings { max_staleness: Duration::ZERO, ..SETTINGS });
    assert!(!cache.is_current());
    cache.heard(Instant::now());
    assert!(cache.age().is_some());
}

/// An answer that was long on its way tells of when it was asked for.
#[test]
fn late_news_is_not_fresh() {
    let cache = MarkerCache::new(MarkerSettings { max_staleness: Duration::from_secs(60), ..SETTINGS });
    let asked = Instant::now();
    std::thread::sleep(Duration::from_millis(20));
    cache.heard(asked);
    assert!(cache.age().is_some_and(|age| age >= Duration::from_millis(19)), "{:?}", cache.age());
    cache.heard(Instant::now());
    cache.heard(asked);
    assert!(cache.age().is_some_and(|age| age < Duration::from_millis(20)), "an older answer takes nothing back");
}

/// Nobody has to bring it up to date: alerts hang on it.
#[test]
fn the_age_is_right_when_it_is_asked_for() {
    let cache = MarkerCache::new(SETTINGS);
    let mut registry = Registry::default();
    cache.register(&mut registry);
    let shown = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let age = text.lines().find_map(|line| line.strip_prefix("marker_sync_age_seconds ")).unwrap();
        age.parse::<f64>().unwrap()
    };
    assert!((shown() + 1.0).abs() < f64::EPSILON, "never");
    cache.heard(Instant::now());
    std::thread::sleep(Duration::from_millis(20));
    let later = shown();
    assert!((0.019..10.0).contains(&later), "{later}");
    cache.heard(Instant::now());
    assert!(shown() < later);
}

/// Writers push higher and higher times, readers learn and recall at once; whatever was acknowledged before a reader
/// asked must be in its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_answer_is_older_than_what_was_acknowledged_before_it() {
    for tells in [false, true] {
        write_and_read_at_once(SlowStore { tells, ..SlowStore::new(Semaphore::MAX_PERMITS) }).await;
    }
}

async fn write_and_read_at_once(store: SlowStore) {
    const WRITES: i64 = 20_000;
    let (cache, store) = (current_cache(), Arc::new(store));
    let marks = Arc::new(cache.marks(&claims()));
    let acknowledged = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (cache, store, marks) = (Arc::clone(&cache), Arc::clone(&store), Arc::clone(&marks));
            let acknowledged = Arc::clone(&acknowledged);
            tokio::spawn(async move {
                let mut answers = 0_u64;
                loop {
                    let before = acknowledged.load(Ordering::SeqCst);
                    let known = match cache.recall(&marks).or_else(|| cache.gather(&marks, &claims(), &*store)) {
                        Some(known) => known,
                        None => cache.learn(&marks, &claims(), &*store).await.unwrap(),
                    };
                    assert!(logged_out_at(&known).unwrap_or(0) >= before, "a stale answer");
                    answers += 1;
                    if before == FIRST + WRITES {
                        return answers;
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for write in 0..=WRITES {
        store.write(&MarkerKey::logout(&claims().subject), FIRST + write, &cache);
        acknowledged.store(FIRST + write, Ordering::SeqCst);
        if write % 16 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}
