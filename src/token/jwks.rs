//! The keys of one issuer: fetched, kept fresh, replaced without a gap (RFC 7517 §5).
//!
//! 1. Verification takes the keys at hand and never waits; only a token that names an unknown key may cause a fetch.
//! 2. Such fetches are at least `refetch_interval` apart, and at most one fetch is under way: all who ask at the same
//!    time wait for the same one, no longer than `fetch_timeout`.
//! 3. A failed fetch changes nothing: the keys at hand stay.
//! 4. A successful one decides: a key that it no longer holds is [retired](Key::is_current), one that it still holds
//!    stays the same `Arc`.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use jsonwebtoken::Algorithm;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    claims::IssuerName,
    issuer::IssuerSettings,
    key::{Key, Lookup, ParsedKeys, parse_key_set, select},
};
use crate::clock::{Clock, Timestamp};

mod fetch;

pub(super) use fetch::Fetcher;
pub use fetch::JwksError;

/// The wait before the second attempt after a failed fetch; it doubles up to the refresh interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// How an issuer's key set is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct KeySetStatus {
    /// How many usable keys it holds.
    pub keys: usize,
    /// How many keys of the last document were not usable.
    pub skipped: usize,
    /// When the keys were last fetched.
    pub fetched_at: Option<Timestamp>,
    /// Why the last fetch failed; none when it succeeded.
    pub last_error: Option<String>,
}

type Outcome = Result<(), Arc<JwksError>>;
type Fetch = Shared<BoxFuture<'static, Outcome>>;

/// What is known of fetches. In one place, so that nobody sees that a fetch may not begin before they see the one that has.
#[derive(Default)]
struct Fetches {
    /// Those who wait for it own it; without them it is gone.
    in_flight: Option<WeakShared<BoxFuture<'static, Outcome>>>,
    /// When one began because of an unknown key.
    last_refetch: Option<Instant>,
}

/// The keys of one issuer. Clones share them.
#[derive(Clone)]
pub struct KeySet {
    inner: Arc<Inner>,
}

struct Inner {
    issuer: IssuerName,
    algorithms: Box<[Algorithm]>,
    /// None for a shared secret, which is never fetched.
    fetcher: Option<Fetcher>,
    refresh_interval: Duration,
    refetch_interval: Duration,
    fetch_timeout: Duration,
    clock: Clock,
    state: ArcSwap<State>,
    /// Whether there has been at least one key, ever.
    answered: AtomicBool,
    fetches: Mutex<Fetches>,
}

#[derive(Clone, Default)]
struct State {
    keys: Arc<[Arc<Key>]>,
    skipped: usize,
    fetched_at: Option<Timestamp>,
    last_error: Option<Arc<JwksError>>,
}

/// Where an issuer's keys come from, ready to use.
#[expect(clippy::large_enum_variant, reason = "one per issuer, moved once")]
pub(super) enum Origin {
    /// A shared secret: known from the start, never fetched.
    Secret(Key),
    /// A JWK Set that is fetched.
    Fetched(Fetcher),
}

impl KeySet {
    /// The key set of an issuer: complete for a shared secret, otherwise empty until it is fetched.
    pub(super) fn new(settings: &IssuerSettings, origin: Origin, clock: Clock) -> Self {
        let (fetcher, state) = match origin {
            Origin::Fetched(fetcher) => (Some(fetcher), State::default()),
            Origin::Secret(key) => {
                (None, State { keys: [Arc::new(key)].into(), fetched_at: Some(clock.now()), ..State::default() })
            }
        };
        Self {
            inner: Arc::new(Inner {
                issuer: settings.name.clone(),
                algorithms: settings.algorithms.clone(),
                answered: AtomicBool::new(fetcher.is_none()),
                fetcher,
                refresh_interval: settings.refresh_interval.max(FIRST_RETRY),
                refetch_interval: settings.refetch_interval,
                fetch_timeout: settings.fetch_timeout,
                clock,
                state: ArcSwap::from_pointee(state),
                fetches: Mutex::default(),
            }),
        }
    }

    /// Whether both are the keys of one issuer, shared.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The key that a token's header means; none at all when no set has been fetched yet.
    #[must_use]
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<Lookup> {
        let state = self.inner.state.load();
        state.fetched_at.is_some().then(|| select(&state.keys, kid, algorithm))
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> KeySetStatus {
        let state = self.inner.state.load();
        KeySetStatus {
            keys: state.keys.len(),
            skipped: state.skipped,
            fetched_at: state.fetched_at,
            last_error: state.last_error.as_deref().map(with_causes),
        }
    }

    /// Whether there has been at least one key, ever.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.inner.answered.load(Ordering::Acquire)
    }

    /// Fetches the keys, or waits for the fetch that is under way.
    ///
    /// # Errors
    /// [`JwksError`]: the keys at hand stay.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the fetch to the others who wait for it, or ends it.
    pub async fn fetch(&self) -> Result<(), Arc<JwksError>> {
        if self.inner.fetcher.is_none() {
            return Ok(());
        }
        self.join_fetch().await
    }

    /// Fetches the keys because a token named an unknown one: waits for the fetch that is under way, or starts one
    /// unless such a one was started less than `refetch_interval` ago. The caller looks again in any case, since the
    /// key may have come in the meantime.
    ///
    /// # Cancel safety
    /// As [`fetch`](Self::fetch).
    pub async fn refetch(&self) {
        if self.inner.fetcher.is_none() {
            return;
        }
        let fetch = {
            let mut fetches = self.fetches();
            fetches
                .under_way()
                .or_else(|| fetches.may_refetch(self.inner.refetch_interval).then(|| self.begin(&mut fetches)))
        };
        if let Some(fetch) = fetch {
            // Its error is in the status, and was logged once.
            let _ = fetch.await;
        }
    }

    /// Keeps the keys fresh until `stop`.
    pub(super) async fn keep_fresh(self, stop: CancellationToken) {
        if self.inner.fetcher.is_none() {
            return;
        }
        let mut retry = FIRST_RETRY;
        // `load` may have run just before.
        let mut wait = if self.inner.state.load().fetched_at.is_some() { self.refresh_wait() } else { Duration::ZERO };
        loop {
            let next = async {
                tokio::time::sleep(wait).await;
                self.join_fetch().await
            };
            match stop.run_until_cancelled(next).await {
                None => return,
                Some(Ok(())) => {
                    retry = FIRST_RETRY;
                    wait = self.refresh_wait();
                }
                Some(Err(_)) => {
                    wait = jittered(retry);
                    retry = retry.saturating_mul(2).min(self.inner.refresh_interval);
                }
            }
        }
    }

    fn refresh_wait(&self) -> Duration {
        jittered(self.inner.refresh_interval)
    }

    fn fetches(&self) -> MutexGuard<'_, Fetches> {
        self.inner.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join_fetch(&self) -> Fetch {
        let mut fetches = self.fetches();
        fetches.under_way().unwrap_or_else(|| self.begin(&mut fetches))
    }

    /// Polled by all who wait for it, it needs no task of its own.
    fn begin(&self, fetches: &mut Fetches) -> Fetch {
        let inner = Arc::clone(&self.inner);
        let fetch = async move { inner.fetch_and_publish().await }.boxed().shared();
        fetches.in_flight = fetch.downgrade();
        fetch
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("issuer", &self.inner.issuer).field("status", &self.status()).finish()
    }
}

impl Fetches {
    fn under_way(&self) -> Option<Fetch> {
        self.in_flight.as_ref().and_then(WeakShared::upgrade).filter(|fetch| fetch.peek().is_none())
    }

    fn may_refetch(&mut self, interval: Duration) -> bool {
        let now = Instant::now();
        let may = self.last_refetch.is_none_or(|last| now.duration_since(last) >= interval);
        if may {
            self.last_refetch = Some(now);
        }
        may
    }
}

impl Inner {
    /// One at a time: [`Fetches`] sees to it.
    async fn fetch_and_publish(&self) -> Outcome {
        let Some(fetcher) = &self.fetcher else { return Ok(()) };
        let answer = tokio::time::timeout(self.fetch_timeout, fetcher.fetch()).await;
        match answer
            .unwrap_or(Err(JwksError::TimedOut))
            .and_then(|document| Ok(parse_key_set(&document, &self.algorithms)?))
        {
            Ok(parsed) => {
                self.publish(parsed);
                Ok(())
            }
            Err(error) => {
                let error = Arc::new(error);
                tracing::warn!(issuer.name = %self.issuer, error = with_causes(&error), "key set not refreshed");
                let state = State::clone(&self.state.load());
                self.state.store(Arc::new(State { last_error: Some(Arc::clone(&error)), ..state }));
                Err(error)
            }
        }
    }

    fn publish(&self, parsed: ParsedKeys) {
        let old = self.state.load_full();
        let keep = |key: Key| match old.keys.iter().find(|old| old.is_same(&key)) {
            Some(old) => Arc::clone(old),
            None => Arc::new(key),
        };
        let keys: Arc<[Arc<Key>]> = parsed.keys.into_iter().map(keep).collect();
        let is_kept = |old: &Arc<Key>| keys.iter().any(|key| Arc::ptr_eq(key, old));
        let changed = keys.len() != old.keys.len() || !old.keys.iter().all(is_kept);
        if changed || parsed.skipped.len() != old.skipped {
            tracing::info!(issuer.name = %self.issuer, keys = keys.len(), "key set changed");
            for (kid, fault) in &parsed.skipped {
                tracing::warn!(issuer.name = %self.issuer, kid = kid.as_deref(), %fault, "key skipped");
            }
        }
        self.state.store(Arc::new(State {
            keys: Arc::clone(&keys),
            skipped: parsed.skipped.len(),
            fetched_at: Some(self.clock.now()),
            last_error: None,
        }));
        if !keys.is_empty() {
            self.answered.store(true, Ordering::Release);
        }
        // After the new set is in place, so that nobody finds a retired key in it.
        for key in old.keys.iter().filter(|key| !is_kept(key)) {
            key.retire();
        }
    }
}

/// Up to a tenth sooner or later, so that gateways that started together do not ask together.
pub(crate) fn jittered(interval: Duration) -> Duration {
    let mut byte = [128];
    // Without randomness there is no jitter, which is no reason to stop.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    let tenth = interval / 10;
    interval.saturating_sub(tenth).saturating_add((tenth / 128).saturating_mul(u32::from(byte[0])))
}

fn with_causes(error: &JwksError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth() {
        let interval = Duration::from_secs(1000);
        for _ in 0..1000 {
            assert!((Duration::from_secs(900)..=Duration::from_secs(1100)).contains(&jittered(interval)));
        }
        assert!(jittered(Duration::MAX) > interval);
    }
}
