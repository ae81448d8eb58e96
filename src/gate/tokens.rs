//! Verified tokens, so that a signature is verified once.
//!
//! 1. The key is the whole token: nothing but the very same token finds an entry.
//! 2. An entry whose key has left the issuer's set is not used.
//! 3. An entry is a verification, not a verdict: expiry, markers and everything else are judged at each request.
//! 4. Bounded by memory.

use std::sync::Arc;

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

use crate::{activity::Trace, marker::cache::Marks, session::register::TokenSession, token::verify::VerifiedToken};

/// What an entry takes beside its token, in bytes: a process grew by 3.2 KiB for each token of 938 bytes with six marks,
/// what is remembered of its subject's activity included, and by 0.5 KiB more where each has a session with limits of its own.
const ENTRY_SIZE: usize = 2800;

/// A verified token, with what belongs to it here.
#[derive(Debug)]
pub struct KnownToken {
    /// The token.
    pub token: VerifiedToken,
    /// The markers that can concern it.
    pub marks: Marks,
    /// When its subject was last recorded because of it.
    pub trace: Trace,
    /// The session that it belongs to.
    pub session: TokenSession,
}

/// A bounded cache of verified tokens. Clones share it.
#[derive(Clone, Debug)]
pub struct TokenCache {
    entries: moka::sync::Cache<Arc<str>, Arc<KnownToken>, ahash::RandomState>,
    /// Tells caches apart.
    identity: Arc<()>,
    metrics: TokenCacheMetrics,
}

impl TokenCache {
    /// An empty cache that takes about this many bytes at most.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self::counted_by(size, TokenCacheMetrics::default())
    }

    fn counted_by(size: u64, metrics: TokenCacheMetrics) -> Self {
        let weigh = |token: &Arc<str>, _: &Arc<KnownToken>| u32::try_from(token.len() + ENTRY_SIZE).unwrap_or(u32::MAX);
        let evictions = metrics.evictions.clone();
        Self {
            entries: moka::sync::Cache::builder()
                .max_capacity(size)
                .weigher(weigh)
                .eviction_listener(move |_, _, cause| {
                    if cause.was_evicted() {
                        evictions.inc();
                    }
                })
                .build_with_hasher(ahash::RandomState::new()),
            identity: Arc::default(),
            metrics,
        }
    }

    /// An empty one of the same size, that counts on with the same metrics: for those to whom the tokens of this one mean something
    /// else.
    #[must_use]
    pub fn anew(&self) -> Self {
        let size = self.entries.policy().max_capacity().unwrap_or(u64::MAX);
        Self::counted_by(size, self.metrics.clone())
    }

    /// Whether both are one.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.identity, &other.identity)
    }

    /// Lets go of everything.
    pub fn clear(&self) {
        self.entries.invalidate_all();
    }

    /// The token, if it was verified with a key that is still its issuer's.
    #[must_use]
    pub fn get(&self, token: &str) -> Option<Arc<KnownToken>> {
        let known = self.entries.get(token).filter(|known| known.token.key.is_current());
        let counter = if known.is_some() { &self.metrics.hits } else { &self.metrics.misses };
        counter.inc();
        known
    }

    /// Keeps a token that was just verified.
    pub fn insert(&self, token: &str, known: &Arc<KnownToken>) {
        self.entries.insert(token.into(), Arc::clone(known));
    }

    /// Drops a token that can never be admitted again.
    pub fn remove(&self, token: &str) {
        self.entries.invalidate(token);
    }

    /// Registers the cache's metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("token_cache_hits", "Tokens found verified", self.metrics.hits.clone());
        registry.register("token_cache_misses", "Tokens that had to be verified", self.metrics.misses.clone());
        registry.register("token_cache_entries", "Verified tokens that are cached", self.metrics.entries.clone());
        registry.register("token_cache_bytes", "What they take, about", self.metrics.bytes.clone());
        registry.register(
            "token_cache_evictions",
            "Verified tokens that had to go, for want of room",
            self.metrics.evictions.clone(),
        );
    }

    /// Brings gauges up to date and lets the cache tidy up. Called before metrics are read, and now and then.
    pub fn maintain(&self) {
        self.entries.run_pending_tasks();
        self.metrics.entries.set(i64::try_from(self.entries.entry_count()).unwrap_or(i64::MAX));
        self.metrics.bytes.set(i64::try_from(self.entries.weighted_size()).unwrap_or(i64::MAX));
    }
}

#[derive(Clone, Default, Debug)]
struct TokenCacheMetrics {
    hits: Counter,
    misses: Counter,
    entries: Gauge,
    bytes: Gauge,
    evictions: Counter,
}
