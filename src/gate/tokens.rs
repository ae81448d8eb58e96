//! Verified tokens, so that a signature is verified once.
//!
//! 1. The key is a digest of the whole token, as 128 bits that depend on a secret of this process: nothing but the very same token finds
//!    an entry, unless somebody guesses one in 2^128. The token itself is not kept.
//! 2. An entry whose key has left the issuer's set is not used.
//! 3. An entry is a verification, not a verdict: expiry, markers and everything else are judged at each request.
//! 4. Bounded by memory.
//!
//! There may be many, each of which is seldom asked for, so that little of them is in the processor's caches. So what a request needs of a
//! token lies together, in the [`KnownToken`] itself, and what it has besides is in few pieces.

mod table;

use std::sync::{
    Arc, LazyLock, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use siphasher::sip128::SipHasher13;

use self::table::{Entry, Table};
use crate::{
    activity::Trace,
    marker::cache::Marks,
    session::register::TokenSession,
    token::{
        claims::Claims,
        key::Key,
        verify::{ForwardedClaims, VerifiedToken},
    },
};

/// What a token takes beside what [`KnownToken::size`] counts, about, in bytes: its place here, what is remembered of its subject's
/// activity, and what allocating takes.
const OVERHEAD: u64 = 256;

/// Locks are split this many ways at most, so that threads seldom meet, and ...
const MAX_TABLES: u64 = 64;

/// ... as long as each part has at least this much room, in bytes.
const MIN_TABLE: u64 = 64 * 1024;

/// A token, as its cache knows it: a keyed hash of it (SipHash-1-3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TokenDigest {
    low: u64,
    high: u64,
}

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
        let digest = KEYED.hash(token);
        Self { low: digest.h1, high: digest.h2 }
    }
}

/// A verified token, with what belongs to it here.
#[derive(Debug)]
pub struct KnownToken {
    /// What it is kept under.
    pub digest: TokenDigest,
    /// Whether it was asked for lately.
    used: AtomicBool,
    /// The markers that can concern it.
    pub marks: Marks,
    /// When its subject was last recorded because of it.
    pub trace: Trace,
    /// The session that it belongs to.
    pub session: TokenSession,
    /// The key that verified it. Once it is no longer current, neither is this verification.
    pub key: Arc<Key>,
    /// What it says.
    pub claims: Claims,
    /// What of it is told to upstreams.
    pub forwarded: ForwardedClaims,
}

impl KnownToken {
    /// A token that was just verified.
    #[must_use]
    pub fn new(digest: TokenDigest, verified: VerifiedToken, marks: Marks, session: TokenSession) -> Self {
        // How its subject can be reached is of no use here, and there may be many tokens.
        let VerifiedToken { claims, key, forwarded, email: _, phone: _ } = verified;
        Self {
            digest,
            used: AtomicBool::new(false),
            marks,
            trace: Trace::default(),
            session,
            key,
            claims: claims.packed(),
            forwarded,
        }
    }

    /// How much memory it takes, in bytes: with what it says, without what it shares with other tokens.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.claims.heap_size() + self.forwarded.heap_size()
    }
}

impl Entry for KnownToken {
    fn digest(&self) -> TokenDigest {
        self.digest
    }

    fn size(&self) -> u64 {
        OVERHEAD.saturating_add(self.size() as u64)
    }

    fn used(&self) -> &AtomicBool {
        &self.used
    }
}

/// A bounded cache of verified tokens. Clones share it.
#[derive(Clone, Debug)]
pub struct TokenCache {
    size: u64,
    /// As many as a power of two.
    tables: Arc<[Mutex<Table<KnownToken>>]>,
    metrics: TokenCacheMetrics,
}

impl TokenCache {
    /// An empty cache that takes about this many bytes at most.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self::counted_by(size, TokenCacheMetrics::default())
    }

    fn counted_by(size: u64, metrics: TokenCacheMetrics) -> Self {
        // A power of two that is no more than there is room for.
        let tables = 1 << (size / MIN_TABLE).clamp(1, MAX_TABLES).ilog2();
        Self { size, tables: (0..tables).map(|_| Mutex::new(Table::new(size / tables))).collect(), metrics }
    }

    /// An empty one of the same size, that counts on with the same metrics: for those to whom the tokens of this one mean something
    /// else.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self::counted_by(self.size, self.metrics.clone())
    }

    /// Whether both are one.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tables, &other.tables)
    }

    /// Lets go of everything.
    pub fn clear(&self) {
        self.tables.iter().for_each(|table| lock(table).clear());
    }

    /// The token, if it was verified with a key that is still its issuer's.
    #[must_use]
    pub fn get(&self, token: &[u8]) -> Option<Arc<KnownToken>> {
        let digest = TokenDigest::of(token);
        let known = self.table(digest).find(digest).map(Arc::clone)?;
        if !known.key.is_current() {
            return None;
        }
        // What is as it should be is not written to.
        if !known.used.load(Ordering::Relaxed) {
            known.used.store(true, Ordering::Relaxed);
        }
        self.metrics.hits.inc();
        Some(known)
    }

    /// A token has to be verified.
    pub(super) fn miss(&self) {
        self.metrics.misses.inc();
    }

    /// Keeps a token that was just verified.
    pub fn insert(&self, known: &Arc<KnownToken>) {
        let evicted = self.table(known.digest).insert(Arc::clone(known));
        self.metrics.evictions.inc_by(evicted);
    }

    /// Drops a token that can never be admitted again.
    pub fn remove(&self, known: &KnownToken) {
        self.table(known.digest).remove(known.digest);
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

    /// Brings gauges up to date. Called before metrics are read, and now and then.
    pub fn maintain(&self) {
        let (mut entries, mut bytes) = (0, 0);
        for table in &*self.tables {
            let table = lock(table);
            entries += table.len();
            bytes += table.bytes();
        }
        self.metrics.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.metrics.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
    fn table(&self, digest: TokenDigest) -> MutexGuard<'_, Table<KnownToken>> {
        lock(&self.tables[digest.high as usize & (self.tables.len() - 1)])
    }
}

/// A panic elsewhere leaves a table usable: nothing that is done to one panics halfway.
fn lock(table: &Mutex<Table<KnownToken>>) -> MutexGuard<'_, Table<KnownToken>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Default, Debug)]
struct TokenCacheMetrics {
    hits: Counter,
    misses: Counter,
    entries: Gauge,
    bytes: Gauge,
    evictions: Counter,
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use jsonwebtoken::Algorithm;

    use super::*;
    use crate::{
        clock::{Moment, Timestamp},
        marker::cache::{MarkerCache, MarkerSettings},
        token::claims::Subject,
    };

    /// As an issuer makes them: 938 bytes as a token with RS256.
    fn verified(number: usize) -> VerifiedToken {
        let id = format!("auth0|6553da60a54a{number:012}");
        let issued_at = 1_700_000_000;
        VerifiedToken {
            claims: Claims {
                subject: Subject { issuer: "acme".try_into().unwrap(), id: (&*id).try_into().unwrap() },
                session: Some((&*format!("Vq8sT3kLw2ZrXy0mBnD4{number:012}")).try_into().unwrap()),
                client: Some("my5Ke2dqQ0Gx8cTzWv1LbNpRhYs7JfUa".try_into().unwrap()),
                token_id: Some((&*format!("c0NkR7vQpLxS{number:012}")).try_into().unwrap()),
                issued_at: Moment::whole_second(issued_at),
                expires_at: Timestamp::from_secs(issued_at + 3600),
                not_before: None,
                session_start: None,
                session_expiry: None,
                last_logout: None,
                scopes: "openid profile email read:orders write:orders read:orders write:orders".split(' ').collect(),
            },
            key: Arc::new(Key::from_secret(&[7; 32], &[Algorithm::HS256]).unwrap()),
            forwarded: [HeaderValue::try_from(id).ok()].into_iter().collect(),
            email: None,
            phone: None,
        }
    }

    fn known(number: usize) -> Arc<KnownToken> {
        static MARKERS: LazyLock<MarkerCache> = LazyLock::new(|| MarkerCache::new(MarkerSettings::default()));
        let verified = verified(number);
        let marks = MARKERS.marks(&verified.claims);
        let digest = TokenDigest::of(&number.to_ne_bytes());
        Arc::new(KnownToken::new(digest, verified, marks, TokenSession::default()))
    }

    /// There may be very many: whoever adds to one should know what it comes to.
    #[test]
    fn a_known_token_is_small() {
        let size = size_of::<KnownToken>();
        assert!(size <= 6 * 64, "a known token is {size} bytes: how many cache lines does a request touch?");
        let size = known(1).size();
        assert!(size <= 640, "with its claims it is {size} bytes");
        assert!(size as u64 + OVERHEAD <= 1024);
        assert!(size_of::<Marks>() <= 40, "{}", size_of::<Marks>());
        assert!(size_of::<Claims>() <= 232, "{}", size_of::<Claims>());
    }

    #[test]
    fn as_many_are_kept_as_there_is_room_for() {
        let one = known(0);
        for size in [1, 100_000, 1 << 20] {
            let cache = TokenCache::new(size);
            (0..2000).for_each(|number| cache.insert(&known(number)));
            cache.maintain();
            let kept = (0..2000_usize).filter(|number| cache.get(&number.to_ne_bytes()).is_some()).count();
            assert_eq!(cache.metrics.entries.get(), i64::try_from(kept).unwrap());
            assert_eq!(cache.metrics.evictions.get(), 2000 - kept as u64);
            let most = size / Entry::size(&*one);
            assert!(kept as u64 <= most && kept as u64 >= most * 3 / 4, "{kept} of {most}");
            cache.clear();
            assert!(cache.get(&1999_usize.to_ne_bytes()).is_none());
        }
    }

    #[test]
    fn what_is_removed_or_of_a_former_key_is_not_found() {
        let cache = TokenCache::new(1 << 20);
        let (one, two) = (known(1), known(2));
        cache.insert(&one);
        cache.insert(&two);
        assert!(cache.get(&1_usize.to_ne_bytes()).is_some_and(|found| Arc::ptr_eq(&found, &one)));
        two.key.retire();
        assert!(cache.get(&2_usize.to_ne_bytes()).is_none());
        cache.remove(&one);
        assert!(cache.get(&1_usize.to_ne_bytes()).is_none());
        assert!(!cache.is(&cache.anew()) && cache.is(&cache.clone()));
    }
}
