//! The sessions that this gateway knows of, and the way to the store.
//!
//! # What costs a round trip, and what does not
//!
//! While a session was active here within its idle limit, nothing is asked: three atomic loads tell that it is alive. The store is
//! asked when a session is first seen here, when its token tells of a newer login, and before a session is refused for idleness,
//! since it may have been active on another gateway.
//!
//! # Why an active session is never taken for an idle one
//!
//! A gateway writes when a session was last active at the next flush, and then again as soon as a `resolution` has passed since, as long
//! as there is something newer: what is active now is in the store after `resolution + flush_interval` at most. Another gateway may take
//! the session for idle as soon as the shortest of all idle limits has passed since what the store has. Where that could be sooner than
//! the next write, because the session was silent for nearly as long, the activity is written before the request is admitted
//! (`SessionRegister::lags`). An idle limit is longer than twice that delay (the configuration is refused otherwise), so this never
//! happens to a session that is used all along. What could not be written, because the store was out, counts here all the same:
//! all tokens of a session share one entry.

mod writing;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::FutureExt as _;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use tokio::{sync::Semaphore, time::timeout};

pub use super::live::TokenSession;
use super::{
    Deadlines, Lifetime, LimitTable, SessionKey, SessionLimits,
    live::{Asking, Lag, LiveSession, Opened},
    pool::Pool,
    tables::{Table, Tables},
};
use crate::{
    activity::ActivitySettings,
    clock::{Clock, Timestamp},
    marker::{
        Retention,
        cache::{MarkerCache, MarkerSettings},
    },
    store::{
        Store, StoreError,
        sessions::{Opening, StoredSession},
    },
    token::claims::{Claims, IssuerName},
};

/// How sessions are recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionSettings {
    /// What this gateway is called in records.
    pub gateway: Arc<str>,
    /// Whether sessions without limits are recorded too, so that they can be listed.
    pub record_all: bool,
}

/// Not named, limits only.
impl Default for SessionSettings {
    fn default() -> Self {
        Self { gateway: "-".into(), record_all: false }
    }
}

/// What a [`SessionRegister`] works by.
#[derive(Clone, Debug)]
pub struct RegisterSettings {
    /// How sessions are recorded.
    pub sessions: SessionSettings,
    /// The limits of issuers, where a route says nothing else, to begin with.
    pub issuers: Vec<(IssuerName, SessionLimits)>,
    /// How activity is recorded.
    pub activity: ActivitySettings,
    /// How long sessions are kept.
    pub retention: Retention,
    /// How long the store may take to answer.
    pub read_timeout: Duration,
    /// How many requests may wait for the store at once.
    pub max_waiting: usize,
}

/// No issuers with limits; a read timeout of 1 s, 10,000 requests, everything else by default.
impl Default for RegisterSettings {
    fn default() -> Self {
        let markers = MarkerSettings::default();
        Self {
            sessions: SessionSettings::default(),
            issuers: Vec::new(),
            activity: ActivitySettings::default(),
            retention: Retention::default(),
            read_timeout: markers.read_timeout,
            max_waiting: markers.max_waiting,
        }
    }
}

/// Where a session is used, and what applies there.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The name of the route.
    pub route: &'a str,
    /// The route's own limits, which go over those of the issuer.
    pub limits: SessionLimits,
    /// How far the clocks of gateways may be apart.
    pub clock_skew: Duration,
}

/// The sessions that this gateway knows of.
#[derive(Debug)]
pub struct SessionRegister {
    settings: RegisterSettings,
    store: Arc<dyn Store>,
    /// Tells whether the store is heard: one that is silent is not asked.
    cache: Arc<MarkerCache>,
    clock: Clock,
    tables: Tables,
    pool: Pool,
    /// One for each request that may yet wait for the store.
    places: Semaphore,
    metrics: RegisterMetrics,
}

impl SessionRegister {
    /// A register without sessions, over a store that tells `cache` of changes.
    #[must_use]
    pub fn new(settings: RegisterSettings, store: Arc<dyn Store>, cache: Arc<MarkerCache>, clock: Clock) -> Self {
        let mut table = LimitTable::default();
        for (issuer, limits) in &settings.issuers {
            table.set_issuer(issuer, *limits);
        }
        Self {
            places: Semaphore::new(settings.max_waiting.min(Semaphore::MAX_PERMITS)),
            pool: Pool::new(settings.activity.resolution),
            tables: Tables::new(table),
            metrics: RegisterMetrics::default(),
            settings,
            store,
            cache,
            clock,
        }
    }

    /// Takes in the limits of a route: sessions that begin from now on begin under them.
    pub fn add_route(&self, route: &str, limits: SessionLimits) {
        self.tables.amend(|table| table.set_route(route, limits));
    }

    /// These are the limits now, of all issuers and routes: sessions that begin from now on begin under them.
    pub fn set_limits(&self, limits: &LimitTable) {
        self.tables.amend(|table| table.clone_from(limits));
    }

    /// What belongs to a newly verified token.
    #[must_use]
    pub fn enter(&self, claims: &Claims) -> TokenSession {
        TokenSession { limits: self.limits_of(&claims.subject.issuer), live: OnceLock::new() }
    }

    /// What is known of the session's time, if it is known without asking the store that the session is not idle. No I/O, no lock, no
    /// allocation.
    #[must_use]
    pub fn recall(
        &self,
        session: &TokenSession,
        claims: &Claims,
        place: &Place<'_>,
        now: Timestamp,
    ) -> Option<Lifetime> {
        let limits = place.limits.or(session.limits);
        if limits == SessionLimits::NONE {
            // Where another route has limits, what is active here must not be taken for idle there.
            let open = !self.tables.limits_routes() || session.live.get()?.opened().is_some();
            return open.then_some(Lifetime::Unlimited);
        }
        let lifetime = self.lifetime(session.live.get()?, claims, place, limits)?;
        let Deadlines { idle, absolute } = lifetime.deadlines(claims, place.clock_skew);
        let passed = |deadline: Option<Timestamp>| deadline.is_some_and(|deadline| now >= deadline);
        (passed(absolute) || !passed(idle)).then_some(lifetime)
    }

    /// What is known of the session's time, as the store tells it now. Many who ask for the same session at once share one question.
    ///
    /// # Cancel safety
    /// Dropping the future is harmless: the question goes on for others.
    pub async fn learn(self: &Arc<Self>, session: &TokenSession, claims: &Claims, place: &Place<'_>) -> Lifetime {
        let limits = place.limits.or(session.limits);
        let unlimited = limits == SessionLimits::NONE;
        let unknown = Self::unknown(session, place);
        let live = self.live(session, claims);
        // Another token of the session may have been here before.
        if let Some(lifetime) = self.recall(session, claims, place, self.clock.now()) {
            return lifetime;
        }
        if !self.cache.is_current() {
            return unknown;
        }
        let Ok(_place) = self.places.try_acquire() else {
            self.metrics.shed.inc();
            return unknown;
        };
        // Whoever joins a question about an older login asks once more.
        for _ in 0..2 {
            if let Err(error) = self.ask(live, claims.session_began()).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "what is kept of a session is not known");
                return unknown;
            }
            if unlimited {
                return unknown;
            }
            if let Some(lifetime) = self.lifetime(live, claims, place, limits) {
                return lifetime;
            }
        }
        unknown
    }

    /// What is known of the session's time when nothing can be learned of it.
    #[must_use]
    pub fn unknown(session: &TokenSession, place: &Place<'_>) -> Lifetime {
        let limits = place.limits.or(session.limits);
        if limits == SessionLimits::NONE { Lifetime::Unlimited } else { Lifetime::Unknown { limits } }
    }

    /// What is known of the session's time. Nothing is recorded: a session that was not seen before would begin now.
    pub async fn look_at(&self, session: &TokenSession, claims: &Claims, place: &Place<'_>) -> Lifetime {
        let limits = place.limits.or(session.limits);
        if limits == SessionLimits::NONE {
            return Lifetime::Unlimited;
        }
        let key = SessionKey::of(claims);
        let here = session.live.get().cloned().or_else(|| self.pool.find(&key));
        let seen = LiveSession::new(key, claims);
        if let Some(active) = here.and_then(|here| here.active_here()) {
            seen.touch(active);
        }
        let read = async {
            let sessions = self.store.sessions();
            Ok::<_, StoreError>(match sessions.session(&seen.key).await? {
                Some(stored) => Some((self.tables.named(&stored.limits, sessions).await?, stored)),
                None => None,
            })
        };
        match timeout(self.settings.read_timeout, read).await {
            Ok(Ok(Some((table, stored)))) => seen.settle(&stored, table, Lag::default(), false),
            Ok(Ok(None)) => seen.begin(self.clock.now(), self.tables.current()),
            Ok(Err(_)) | Err(_) => return Lifetime::Unknown { limits },
        }
        self.lifetime(&seen, claims, place, limits).unwrap_or(Lifetime::Unknown { limits })
    }

    /// The session was active at `now`. Where it has no limits itself, that counts where it has some.
    pub fn touch(&self, session: &TokenSession, claims: &Claims, now: Timestamp) {
        if self.settings.sessions.record_all || session.limits != SessionLimits::NONE || self.tables.limits_routes() {
            self.pool.touch(self.live(session, claims), now);
        }
    }

    /// Whether activity at `now` has to be written before the request is admitted.
    #[must_use]
    pub fn lags(&self, session: &TokenSession, now: Timestamp) -> bool {
        let edition = self.tables.edition();
        session.live.get().is_some_and(|live| live.lags(now, edition, |table| self.may_lag(table)))
    }

    /// When the session was last active here, written or not.
    #[must_use]
    pub fn active_here(&self, key: &SessionKey) -> Option<Timestamp> {
        self.pool.find(key)?.active_here()
    }

    /// The limits that an issuer's sessions have that began under the table of this name: the smaller of those then and now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn limits_since(&self, issuer: &IssuerName, table: &str) -> Result<SessionLimits, StoreError> {
        let then = self.tables.named(table, self.store.sessions()).await?;
        Ok(then.limits.of(issuer, "").tightest(self.limits_of(issuer)))
    }

    /// Registers the register's metrics.
    pub fn register(&self, registry: &mut Registry) {
        let metrics = &self.metrics;
        registry.register("session_opens", "Questions to the store about a session", metrics.opens.clone());
        registry.register(
            "session_open_failures",
            "Questions about a session that the store did not answer, or not in time",
            metrics.open_failures.clone(),
        );
        registry.register(
            "session_opens_shed",
            "Requests turned away because too many waited to hear of their sessions already",
            metrics.shed.clone(),
        );
        registry.register("session_activity_written", "Sessions whose activity was written", metrics.written.clone());
        registry.register(
            "session_activity_flush_failures",
            "Writes of the activity of sessions that the store did not take",
            metrics.failures.clone(),
        );
        registry.register(
            "session_activity_pending",
            "Sessions whose activity waits to be written",
            metrics.pending.clone(),
        );
        registry.register("sessions_known", "Sessions that this gateway keeps in memory", metrics.known.clone());
    }

    /// Brings gauges up to date. Called before metrics are read.
    pub fn measure(&self) {
        let (known, pending) = self.pool.count();
        self.metrics.known.set(i64::try_from(known).unwrap_or(i64::MAX));
        self.metrics.pending.set(i64::try_from(pending).unwrap_or(i64::MAX));
    }

    fn limits_of(&self, issuer: &IssuerName) -> SessionLimits {
        self.tables.current().limits.of_issuer(issuer)
    }

    /// What all tokens of the session share here.
    fn live<'a>(&self, session: &'a TokenSession, claims: &Claims) -> &'a Arc<LiveSession> {
        session.live.get_or_init(|| {
            let key = SessionKey::of(claims);
            self.pool.enter(key, |key| LiveSession::new(key, claims))
        })
    }

    /// `None`: the store has not told yet, or of an older login.
    fn lifetime(
        &self,
        live: &LiveSession,
        claims: &Claims,
        place: &Place<'_>,
        limits: SessionLimits,
    ) -> Option<Lifetime> {
        let since = |opened: &Opened| {
            if self.tables.is_current(&opened.table) {
                limits
            } else {
                opened.table.limits.of(&claims.subject.issuer, place.route).tightest(limits)
            }
        };
        live.lifetime(claims.session_began(), since)
    }

    /// Asks the store for the session, which is kept from now on if it was not. Goes on though nobody waits for it.
    async fn ask(self: &Arc<Self>, live: &Arc<LiveSession>, told: Option<Timestamp>) -> Result<(), StoreError> {
        let answer = self.question(live, told).await;
        live.forget_answer();
        answer
    }

    fn question(self: &Arc<Self>, live: &Arc<LiveSession>, told: Option<Timestamp>) -> Asking {
        live.ask(|| {
            let (register, live) = (Arc::clone(self), Arc::clone(live));
            let asked = tokio::spawn(async move {
                register.metrics.opens.inc();
                let opening = timeout(register.settings.read_timeout, register.open(&live, told)).await;
                let opened = opening.unwrap_or_else(|_| Err(StoreError::timed_out(&"session store".into())));
                opened.inspect_err(|_| {
                    register.metrics.open_failures.inc();
                })
            });
            let answer = asked.map(|joined| {
                joined.unwrap_or_else(|error| Err(StoreError::unavailable(&"session store".into(), error)))
            });
            answer.boxed().shared()
        })
    }

    async fn open(&self, live: &LiveSession, told: Option<Timestamp>) -> Result<(), StoreError> {
        let sessions = self.store.sessions();
        let table = self.tables.kept(sessions).await?;
        let opening = self.opening(live, told, &table);
        let stored = sessions.open_session(&opening).await?;
        let table = self.tables.named(&stored.limits, sessions).await?;
        let lag = Lag { edition: self.tables.edition(), limit: self.may_lag(&table) };
        live.settle(&stored, table, lag, is_first(&stored, &opening));
        Ok(())
    }

    /// How old what is recorded of a session may get before it might be taken for idle earlier than its next activity is written.
    fn may_lag(&self, table: &Table) -> Option<Duration> {
        let tables = [table.limits.shortest_idle(), self.tables.current().limits.shortest_idle()];
        let ActivitySettings { resolution, flush_interval } = self.settings.activity;
        tables.into_iter().flatten().min().map(|shortest| shortest.saturating_sub(resolution + flush_interval))
    }

    fn opening(&self, live: &LiveSession, told: Option<Timestamp>, table: &Table) -> Opening {
        let now = self.clock.now();
        let opened = live.opened();
        let known = opened.as_ref().map(|opened| opened.started);
        let at = match known {
            // It may have begun while the store was out.
            None => live.first().map_or(now, |first| first.min(now)),
            // Should the store have lost it, what is known here of its activity is all there is.
            Some(known) if told.is_none_or(|told| told <= known) => live.active().map_or(now, |active| active.min(now)),
            Some(_) => now,
        };
        let retention = &self.settings.retention;
        let tokens = retention.tokens();
        let kept = if live.outlives_tokens { retention.session.saturating_add(tokens) } else { tokens };
        Opening {
            key: live.key.clone(),
            started: told.max(known).unwrap_or(at),
            told: told.is_some(),
            at,
            until: now.plus(kept),
            limits: Arc::clone(&table.name),
            client: live.client.clone(),
            gateway: Arc::clone(&self.settings.sessions.gateway),
        }
    }
}

/// Whether it was this gateway, just now, that came upon the session first.
fn is_first(stored: &StoredSession, opening: &Opening) -> bool {
    stored.opened == opening.at && stored.gateway == opening.gateway
}

#[derive(Default, Debug)]
struct RegisterMetrics {
    opens: Counter,
    open_failures: Counter,
    shed: Counter,
    written: Counter,
    failures: Counter,
    pending: Gauge,
    known: Gauge,
}
