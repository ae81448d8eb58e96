//! The markers of the store, as this gateway sees and writes them.

use std::{sync::Arc, time::Duration};

use super::{
    Known, MarkerKey, MarkerRecord, Reading, Retention,
    cache::{MarkerCache, Marks},
};
use crate::{
    clock::Clock,
    store::{Merged, Store, StoreError},
    token::claims::Claims,
};

/// A store of markers and the cache in front of it.
#[derive(Clone, Debug)]
pub struct Ledger {
    store: Arc<dyn Store>,
    cache: Arc<MarkerCache>,
    retention: Retention,
    write_timeout: Duration,
    clock: Clock,
}

impl Ledger {
    /// The ledger over a store that tells `cache` of changes.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        cache: Arc<MarkerCache>,
        retention: Retention,
        write_timeout: Duration,
        clock: Clock,
    ) -> Self {
        Self { store, cache, retention, write_timeout, clock }
    }

    /// What is known without waiting for the store. `claims` are those that `marks` are of.
    #[must_use]
    pub fn recall(&self, marks: &Marks, claims: &Claims) -> Option<Known> {
        self.cache.recall(marks).or_else(|| self.cache.gather(marks, claims, &*self.store))
    }

    /// What is known, asking the store where needed; `None` while it is silent, does not answer in time, or has too many
    /// waiting for it.
    pub async fn learn(&self, marks: &Marks, claims: &Claims) -> Option<Known> {
        let learned = self.cache.learn(marks, claims, &*self.store).await;
        learned
            .inspect_err(|error| {
                tracing::debug!(error = error as &dyn std::error::Error, "markers are not known");
            })
            .ok()
    }

    /// Reads one marker from the store itself.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn look_up(&self, key: &MarkerKey) -> Result<Reading<MarkerRecord>, StoreError> {
        self.deadline(self.store.read(key)).await
    }

    /// Merges a marker into the store, and resolves when it is durable: from then on, every gateway refuses what it
    /// covers within `max_staleness`. [`MarkerRecord::written`] is filled in, [`MarkerRecord::source`] is the caller's to tell.
    ///
    /// # Errors
    /// [`StoreError`]: the write may yet take effect. Repeating it is harmless, markers merge.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the marker written or not; repeating is the remedy.
    pub async fn write(&self, key: &MarkerKey, record: &MarkerRecord) -> Result<Merged, StoreError> {
        let now = self.clock.now();
        let expires = self.retention.expires(&record.marker, now);
        let record = MarkerRecord { written: Some(now), ..record.clone() };
        self.deadline(self.store.merge(key, &record, expires)).await
    }

    /// How long markers are kept.
    #[must_use]
    pub const fn retention(&self) -> &Retention {
        &self.retention
    }

    /// The cache.
    #[must_use]
    pub const fn cache(&self) -> &Arc<MarkerCache> {
        &self.cache
    }

    /// The store.
    #[must_use]
    pub const fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    async fn deadline<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        tokio::time::timeout(self.write_timeout, work)
            .await
            .unwrap_or_else(|_| Err(StoreError::timed_out(&"marker store".into())))
    }
}
