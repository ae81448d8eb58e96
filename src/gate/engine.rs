//! What stands behind the gates of a process: keys kept fresh, markers kept current, activity written.
//!
//! A service with a [`GateLayer`] of its own starts one [`Engine`], makes its layers of it, and stops it at the end. The
//! gateway does the same.

use std::{sync::Arc, time::Duration};

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
    session::register::{RegisterSettings, SessionRegister, SessionSettings},
    store::{Store, Watcher},
    stream::{self, Streams, Watching},
    token::{
        issuer::IssuerSettings,
        verify::{Refreshing, Verifier, VerifierError, VerifierOptions},
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
    judge: Judge,
    refreshing: Refreshing,
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
        let refreshing = verifier.start();
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
        tokio::spawn(maintain(judge.clone(), stop.clone()));
        tokio::spawn(stream::watch_over(judge.clone(), stop.clone()));
        Ok(Self { judge, refreshing, recording, stop: stop.drop_guard() })
    }

    /// A gate with this policy.
    #[must_use]
    pub fn layer(&self, policy: Policy) -> GateLayer {
        GateLayer::new(self.judge.clone(), policy)
    }

    /// What judges.
    #[must_use]
    pub const fn judge(&self) -> &Judge {
        &self.judge
    }

    /// Whether every issuer has given keys, and the store has been heard lately.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let Parts { verifier, ledger, .. } = self.judge.parts();
        verifier.is_ready() && ledger.cache().is_current()
    }

    /// Writes the activity that waits, and closes the store.
    pub async fn stop(self) {
        self.stop.disarm().cancel();
        for recording in self.recording {
            // A task that panicked has nothing left to wait for.
            let _ = recording.await;
        }
        self.refreshing.stop().await;
        self.judge.parts().ledger.store().close().await;
    }
}

async fn maintain(judge: Judge, stop: CancellationToken) {
    let mut ticks = interval(MAINTENANCE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        judge.maintain().await;
    }
}
