//! What stands behind the gates of a process: keys kept fresh, markers kept current, activity written.
//!
//! A service with a [`GateLayer`] of its own starts one [`Engine`], makes its layers of it, and stops it at the end. The
//! gateway does the same.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    GateLayer, Judge, Policy,
    judge::{Parts, TokenObserver},
    tokens::TokenCache,
    verdicts::VerdictMetrics,
};
use crate::{
    activity::{ActivitySettings, Recorder},
    clock::Clock,
    marker::{
        Retention,
        cache::{MarkerCache, MarkerSettings},
        ledger::Ledger,
    },
    session::{
        LimitTable,
        register::{RegisterSettings, SessionRegister, SessionSettings},
    },
    store::{Store, Watcher},
    stream::{self, Streams, Watching},
    token::{
        issuer::IssuerSettings,
        verify::{CurrentVerifier, Refreshing, Verifier, VerifierError, VerifierOptions},
    },
};

/// How often caches tidy up.
const MAINTENANCE: Duration = Duration::from_secs(1);

/// What an [`Engine`] works by.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Whom to trust.
    pub issuers: Vec<IssuerSettings>,
    /// What holds for the tokens of all issuers. Its clock is everyone's.
    pub tokens: VerifierOptions,
    /// The most memory for verified tokens, in bytes. Default 128 MiB.
    pub token_cache_size: u64,
    /// How markers are cached.
    pub markers: MarkerSettings,
    /// How long markers are kept. [`Policy::settings`] must not admit tokens that live longer.
    pub retention: Retention,
    /// How activity is recorded.
    pub activity: ActivitySettings,
    /// How sessions are recorded. Their limits are those of [`IssuerSettings::limits`] and [`Policy::limits`].
    pub sessions: SessionSettings,
    /// Wants to know of verified tokens. Default none.
    pub observer: Option<Arc<dyn TokenObserver>>,
}

impl EngineSettings {
    /// These issuers, everything else by default.
    #[must_use]
    pub fn new(issuers: Vec<IssuerSettings>) -> Self {
        Self {
            issuers,
            tokens: VerifierOptions::default(),
            token_cache_size: 128 * 1024 * 1024,
            markers: MarkerSettings::default(),
            retention: Retention::default(),
            activity: ActivitySettings::default(),
            sessions: SessionSettings::default(),
            observer: None,
        }
    }
}

/// A judge, and the tasks that keep it well informed. Dropped, it stops without waiting; [`Engine::stop`] waits until
/// everything is written.
#[derive(Debug)]
pub struct Engine {
    trust: Trust,
    recording: [JoinHandle<()>; 2],
    stop: DropGuard,
}

impl Engine {
    /// Starts over the store that `open` opens; its [`Watcher`] is what keeps markers current. [`Engine::is_ready`] tells
    /// when keys and store have answered; requests are refused until then.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Those of `open`, and [`VerifierError`].
    pub fn start<E: From<VerifierError>>(
        settings: EngineSettings,
        open: impl FnOnce(Arc<dyn Watcher>, Clock) -> Result<Arc<dyn Store>, E>,
    ) -> Result<Self, E> {
        let clock = settings.tokens.clock.clone();
        let limits = settings.issuers.iter().map(|issuer| (issuer.name.clone(), issuer.limits)).collect();
        let verifier = Arc::new(Verifier::new(settings.issuers, settings.tokens)?);
        let cache = Arc::new(MarkerCache::with_clock(settings.markers, clock.clone()));
        let streams = Streams::new(settings.markers.max_staleness);
        let watching = Watching { cache: Arc::clone(&cache), streams: Arc::clone(&streams) };
        let store = open(Arc::new(watching), clock.clone())?;
        let recorder = Arc::new(Recorder::new(settings.activity, clock.clone()));
        let register = RegisterSettings {
            sessions: settings.sessions,
            issuers: limits,
            activity: settings.activity,
            retention: settings.retention,
            read_timeout: settings.markers.read_timeout,
            max_waiting: settings.markers.max_waiting,
        };
        let sessions = SessionRegister::new(register, Arc::clone(&store), Arc::clone(&cache), clock.clone());
        let sessions = Arc::new(sessions);
        let write_timeout = settings.markers.write_timeout;
        let judge = Judge::new(Parts {
            verifier,
            tokens: TokenCache::new(settings.token_cache_size),
            ledger: Ledger::new(Arc::clone(&store), cache, settings.retention, write_timeout, clock.clone()),
            recorder: Arc::clone(&recorder),
            sessions: Arc::clone(&sessions),
            streams,
            clock,
            verdicts: VerdictMetrics::default(),
            observer: settings.observer,
        });
        let stop = CancellationToken::new();
        let recording = [tokio::spawn(recorder.run(store, stop.clone())), tokio::spawn(sessions.run(stop.clone()))];
        tokio::spawn(stream::watch_over(judge.clone(), stop.clone()));
        let trust = Trust::new(judge);
        tokio::spawn(maintain(trust.clone(), stop.clone()));
        Ok(Self { trust, recording, stop: stop.drop_guard() })
    }

    /// A gate with this policy.
    #[must_use]
    pub fn layer(&self, policy: Policy) -> GateLayer {
        GateLayer::new(self.judge(), policy)
    }

    /// What judges.
    #[must_use]
    pub fn judge(&self) -> Judge {
        self.trust.judge()
    }

    /// Whom it trusts, which can be changed while it runs.
    #[must_use]
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Whether every issuer has given keys, and the store has been heard lately.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let judge = self.judge();
        let Parts { verifier, ledger, .. } = judge.parts();
        verifier.is_ready() && ledger.cache().is_current()
    }

    /// Writes the activity that waits, and closes the store.
    pub async fn stop(self) {
        let judge = self.judge();
        self.stop.disarm().cancel();
        for recording in self.recording {
            // A task that panicked has nothing left to wait for.
            let _ = recording.await;
        }
        self.trust.stop().await;
        judge.parts().ledger.store().close().await;
    }
}

/// Whom an engine trusts at present. Clones share it.
///
/// A judge that was handed out goes on as it is, so that whoever judges by it is not surprised by another.
#[derive(Clone, Debug)]
pub struct Trust(Arc<Trusted>);

#[derive(Debug)]
struct Trusted {
    judge: ArcSwap<Judge>,
    verifier: CurrentVerifier,
    refreshing: Mutex<Option<Refreshing>>,
}

impl Trust {
    fn new(judge: Judge) -> Self {
        let verifier = Arc::clone(&judge.parts().verifier);
        let refreshing = Mutex::new(Some(verifier.start()));
        let verifier = CurrentVerifier::new(verifier);
        Self(Arc::new(Trusted { judge: ArcSwap::from_pointee(judge), verifier, refreshing }))
    }

    /// What judges now.
    #[must_use]
    pub fn judge(&self) -> Judge {
        Judge::clone(&self.0.judge.load())
    }

    /// What verifies now, for those who outlive a change.
    #[must_use]
    pub fn verifier(&self) -> &CurrentVerifier {
        &self.0.verifier
    }

    /// A judge that trusts these issuers. It takes effect when it is [adopted](Self::adopt).
    ///
    /// # Errors
    /// [`VerifierError`].
    pub fn renew(&self, issuers: Vec<IssuerSettings>, tokens: VerifierOptions) -> Result<Judge, VerifierError> {
        let judge = self.judge();
        let verifier = judge.parts().verifier.succeed(issuers, tokens)?;
        Ok(judge.succeed(Arc::new(verifier)))
    }

    /// From now on this judge judges, one of those that [`renew`](Self::renew) made, under these limits; and the keys of its issuers are
    /// kept fresh. Must be called within a tokio runtime.
    pub fn adopt(&self, judge: &Judge, limits: &LimitTable) {
        let Parts { verifier, tokens, sessions, .. } = judge.parts();
        sessions.set_limits(limits);
        self.0.verifier.exchange(Arc::clone(verifier));
        if let Some(refreshing) = &mut *self.refreshing() {
            refreshing.follow(verifier);
        }
        let former = self.0.judge.swap(Arc::new(judge.clone()));
        // What is under way may go on with the former for long; nobody else looks into its cache.
        if !former.parts().tokens.is(tokens) {
            former.parts().tokens.clear();
        }
    }

    async fn stop(&self) {
        let refreshing = mem::take(&mut *self.refreshing());
        if let Some(refreshing) = refreshing {
            refreshing.stop().await;
        }
    }

    fn refreshing(&self) -> std::sync::MutexGuard<'_, Option<Refreshing>> {
        self.0.refreshing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn maintain(trust: Trust, stop: CancellationToken) {
    let mut ticks = interval(MAINTENANCE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        trust.judge().maintain().await;
    }
}
