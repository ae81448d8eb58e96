//! Verified tokens, so that a signature is verified once.
//!
//! 1. The key is a digest of the whole token, as 128 bits that depend on a secret of this process: nothing but the very same token finds
//!    an entry, unless somebody guesses one in 2^128. The token itself is not kept.
//! 2. An entry whose key has left the issuer's set is not used.
//! 3. An entry is a verification, not a verdict: expiry, markers and everything else are judged at each request.
//! 4. Bounded by memory.

use std::{
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::{Arc, LazyLock},
};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use siphasher::sip128::SipHasher13;

use crate::{activity::Trace, marker::cache::Marks, session::register::TokenSession, token::verify::VerifiedToken};

/// What an entry takes beside its claims, at most, in bytes: a process grew by 2.1 KiB for each token of 938 bytes with six marks, its
/// claims and what is remembered of its subject's activity included, and by 0.5 KiB more where each has a session with limits of its own.
const ENTRY_SIZE: u32 = 2400;

/// A token, as its cache knows it: a keyed hash of it (SipHash-1-3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenDigest(u128);

impl TokenDigest {
    /// That of a token.
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        static KEYED: LazyLock<SipHasher13> = LazyLock::new(|| {
            let hasher = ahash::RandomState::new();
            let mut key = (u128::from(hasher.hash_one(0_u8)) << 64 | u128::from(hasher.hash_one(1_u8))).to_ne_bytes();
            // Where the system has no randomness, that of hash maps is the best there is.
            let _ = aws_lc_rs::rand::fill(&mut key);
            SipHasher13::new_with_key(&key)
        });
        Self(KEYED.hash(token).as_u128())
    }
}

impl Hash for TokenDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.0);
    }
}

/// A digest is a hash already.
#[derive(Default, Debug)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    #[expect(clippy::cast_possible_truncation, reason = "half of it is enough to look it up by")]
    fn write_u128(&mut self, digest: u128) {
        self.0 = digest as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, &byte| hash.rotate_left(8) ^ u64::from(byte));
    }
}

/// A verified token, with what belongs to it here.
#[derive(Debug)]
pub struct KnownToken {
    /// What it is kept under.
    pub digest: TokenDigest,
    /// What it says.
    pub token: VerifiedToken,
    /// The markers that can concern it.
    pub marks: Marks,
    /// When its subject was last recorded because of it.
    pub trace: Trace,
    /// The session that it belongs to.
    pub session: TokenSession,
}

/// A verified token, and about how much memory its claims take, in bytes.
#[derive(Clone, Debug)]
struct Entry {
    known: Arc<KnownToken>,
    claims: u32,
}

/// A bounded cache of verified tokens. Clones share it.
#[derive(Clone, Debug)]
pub struct TokenCache {
    entries: moka::sync::Cache<TokenDigest, Entry, BuildHasherDefault<AsItIs>>,
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
        let weigh = |_: &TokenDigest, entry: &Entry| ENTRY_SIZE.saturating_add(entry.claims);
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
                .build_with_hasher(BuildHasherDefault::default()),
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
    pub fn get(&self, token: &[u8]) -> Option<Arc<KnownToken>> {
        let entry = self.entries.get(&TokenDigest::of(token)).filter(|entry| entry.known.token.key.is_current())?;
        self.metrics.hits.inc();
        Some(entry.known)
    }

    /// A token has to be verified.
    pub(super) fn miss(&self) {
        self.metrics.misses.inc();
    }

    /// Keeps a token of so many bytes that was just verified.
    pub fn insert(&self, known: &Arc<KnownToken>, length: usize) {
        // Claims come in base64, and most are no longer than their text.
        let claims = u32::try_from(length / 4 * 3).unwrap_or(u32::MAX);
        self.entries.insert(known.digest, Entry { known: Arc::clone(known), claims });
    }

    /// Drops a token that can never be admitted again.
    pub fn remove(&self, known: &KnownToken) {
        self.entries.invalidate(&known.digest);
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
