//! A running gate: assembled from a configuration, started, and stopped in order.
//!
//! What a gate has once, such as its store and its sockets, is built here when it starts. What it has by a configuration is built in
//! [`assembly`], then and again at each reload.

mod assembly;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

use self::assembly::{Assembly, Foundation};
use crate::{
    activity::upkeep::{Upkeep, Whose},
    admin::{self, CurrentAdmin, Readiness},
    clock::Clock,
    config::{Config, StoreSettings},
    drain::Drain,
    event::{Pipeline, Sources, identifier_index::IdentifierIndex, sources::SourceError},
    gate::{
        Engine, EngineSettings, Judge,
        judge::{Parts, TokenObserver},
    },
    http_client::HttpClient,
    inactive::{
        records::{Direct, Records},
        schedule::{Running, Scheduled},
    },
    logout::NoEndpoint,
    reload::{Reloads, file::ConfigFile, reloader::Reloader},
    revocation::{Revocations, Revoking},
    server::{current::CurrentGateway, listener},
    store::{
        Notes, Store, Watcher,
        embedded::{EmbeddedOpenError, EmbeddedStore},
        redis::{InvalidRedisSettings, RedisStore},
    },
    telemetry::metrics::ServerMetrics,
    token::verify::{Verifier, VerifierError},
};

/// How often unused connections are let go.
const MAINTENANCE: Duration = Duration::from_secs(1);

/// Why a gate does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The embedded store does not open.
    #[error("embedded store does not open")]
    Embedded(#[from] EmbeddedOpenError),
    /// The settings of Redis are contradictory.
    #[error("store settings are not valid")]
    Redis(#[from] InvalidRedisSettings),
    /// The settings of issuers are contradictory.
    #[error("issuer settings are not valid")]
    Verifier(#[from] VerifierError),
    /// A source of events cannot be set up.
    #[error("source of events cannot be set up")]
    Source(#[from] SourceError),
    /// The logout of an issuer is nowhere.
    #[error("logout settings are not valid")]
    Logout(#[from] NoEndpoint),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// What happened.
        source: io::Error,
    },
}

/// A running gate. Dropped, it stops without waiting; [`Instance::stop`] lets requests end and writes what waits.
#[derive(Debug)]
pub struct Instance {
    address: SocketAddr,
    admin_address: SocketAddr,
    engine: Engine,
    revoking: Revoking,
    scheduled: Running,
    sources: Sources,
    gateways: CurrentGateway,
    readiness: Arc<Readiness>,
    reloads: Reloads,
    reloading: Option<AbortOnDropHandle<()>>,
    indexing: AbortOnDropHandle<()>,
    upkeep: AbortOnDropHandle<()>,
    drain: Drain,
    stop_rest: DropGuard,
    listening: AbortOnDropHandle<bool>,
    administrating: AbortOnDropHandle<()>,
}

/// A store: its markers and activity, and its notes.
pub type OpenStore = (Arc<dyn Store>, Arc<dyn Notes>);

/// Opens the store that the configuration names.
///
/// # Errors
/// [`StartError`].
pub fn open_store(settings: &StoreSettings, watcher: Arc<dyn Watcher>, clock: Clock) -> Result<OpenStore, StartError> {
    Ok(match settings {
        StoreSettings::Embedded(settings) => {
            let store = EmbeddedStore::open(settings, watcher, clock)?;
            (Arc::clone(&store) as Arc<dyn Store>, store)
        }
        StoreSettings::Redis(settings) => {
            let store = RedisStore::open(settings, watcher, clock)?;
            (Arc::clone(&store) as Arc<dyn Store>, store)
        }
    })
}

/// The verifier that the configuration describes, without keys yet.
///
/// # Errors
/// [`StartError`].
pub fn verifier(config: &Config, clock: Clock) -> Result<Verifier, StartError> {
    Ok(Verifier::new(config.issuers.clone(), assembly::verifier_options(config, clock))?)
}

impl Instance {
    /// Starts a gate. It listens when this returns; `/readyz` tells when keys and store have answered.
    ///
    /// Must be called within a multi-thread tokio runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::launch(config, None).await
    }

    /// Starts a gate by a configuration that came from this file, which is read again when the gate is asked to, or, where the
    /// configuration says so, when it changes.
    ///
    /// Must be called within a multi-thread tokio runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_from(file: ConfigFile, config: Config) -> Result<Self, StartError> {
        Self::launch(config, Some(file)).await
    }

    #[expect(clippy::unused_async, reason = "it needs a runtime, which a future has")]
    async fn launch(config: Config, file: Option<ConfigFile>) -> Result<Self, StartError> {
        let clock = Clock::System;
        let listener = listen(config.listener.address)?;
        let admin_listener = listen(config.admin.address)?;
        let address = local_address(&listener, config.listener.address)?;
        let admin_address = local_address(&admin_listener, config.admin.address)?;

        let index = Arc::new(IdentifierIndex::default());
        let settings = EngineSettings {
            issuers: config.issuers.clone(),
            tokens: assembly::verifier_options(&config, clock.clone()),
            token_cache_size: config.tokens.cache_size,
            markers: config.markers,
            retention: config.retention,
            activity: config.activity,
            sessions: config.sessions.clone(),
            observer: Some(Arc::clone(&index) as Arc<dyn TokenObserver>),
        };
        let mut notes = None;
        let engine = Engine::start(settings, |watcher, clock| {
            let (store, kept) = open_store(&config.store, watcher, clock)?;
            notes = Some(kept);
            Ok::<_, StartError>(store)
        })?;
        let Some(notes) = notes else { unreachable!("the engine opens its store") };
        let judge = engine.judge();
        let http = HttpClient::new()?;
        let revocations = Revocations::new(config.revocations.clone(), &notes, &http, &clock);
        let pipeline = Pipeline::new(judge.parts().ledger.clone(), Arc::clone(&notes), clock.clone());
        let owner = gateway_id(&config.sessions.gateway);
        let sources = Sources::start(config.sources.clone(), &pipeline, engine.trust().verifier(), &owner)?;
        let metrics = ServerMetrics::new();
        let foundation = Foundation {
            trust: engine.trust().clone(),
            http: http.clone(),
            metrics: Arc::clone(&metrics),
            revocations: revocations.clone(),
            receivers: Arc::clone(sources.receivers()),
            clock: clock.clone(),
        };
        let logouts = foundation.logouts(&config)?;
        let gateways = CurrentGateway::new(foundation.gateway(&config, &judge, &logouts, None));
        let (reloader, reloads) = match file {
            Some(file) => {
                let (reloader, reloads) = Reloader::new(file, &config, clock.clone());
                (Some(reloader), reloads)
            }
            None => (None, Reloads::none(clock.now())),
        };

        let mut registry = Registry::with_prefix("portcullis");
        judge.register(&mut registry);
        metrics.register(&mut registry);
        sources.register(&mut registry);
        revocations.register(&mut registry);
        reloads.register(&mut registry);
        let Parts { ledger, recorder, .. } = judge.parts();
        let records: Arc<dyn Records> = Arc::new(Direct::new(
            ledger.clone(),
            Arc::clone(recorder),
            Arc::clone(&notes),
            config.activity,
            config.upkeep,
            clock.clone(),
        ));
        let scheduled =
            Scheduled::new(config.inactive.clone(), Arc::clone(&records), Arc::clone(&notes), &http, &clock);
        scheduled.register(&mut registry);
        let (verifier, cache, store) =
            (engine.trust().verifier().clone(), Arc::clone(ledger.cache()), Arc::clone(ledger.store()));
        let readiness = Readiness::new(verifier, cache, Arc::clone(&store), sources.watcher(), reloads.clone());
        let readiness = Arc::new(readiness);
        readiness.register(&mut registry);
        let whose = Whose::new(assembly::issuers(&config), assembly::recorded_issuers(&config));
        let upkeep = Upkeep::new(config.upkeep, whose.clone(), store, Arc::clone(&notes), clock);
        let admin = CurrentAdmin::new(assembly::view(&config, &judge), Arc::clone(&readiness), records, registry);

        let (drain, stop_rest) = (Drain::default(), CancellationToken::new());
        let serving = listener::run(listener, gateways.clone(), drain.clone());
        let listening = AbortOnDropHandle::new(tokio::spawn(serving));
        tokio::spawn(maintain(gateways.clone(), stop_rest.clone()));
        let indexing = index.run(notes, config.retention.session, stop_rest.clone());
        let indexing = AbortOnDropHandle::new(tokio::spawn(indexing));
        let upkeep = AbortOnDropHandle::new(tokio::spawn(upkeep.run(stop_rest.clone())));
        tokio::spawn(Arc::clone(&readiness).watch(stop_rest.clone()));
        let administrating = tokio::spawn(admin::serve(admin_listener, admin.clone(), stop_rest.clone()));
        let administrating = AbortOnDropHandle::new(administrating);
        let reloading = reloader.map(|reloader| {
            let assembly = Assembly::new(foundation, &config, logouts, gateways.clone(), admin, whose);
            AbortOnDropHandle::new(tokio::spawn(reloader.run(Box::new(assembly), stop_rest.clone())))
        });
        Ok(Self {
            address,
            admin_address,
            engine,
            revoking: revocations.start(&owner),
            scheduled: scheduled.start(&owner),
            sources,
            gateways,
            readiness,
            reloads,
            reloading,
            indexing,
            upkeep,
            drain,
            stop_rest: stop_rest.drop_guard(),
            listening,
            administrating,
        })
    }

    /// Where the public listener listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the admin listener listens.
    #[must_use]
    pub const fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// What judges.
    #[must_use]
    pub fn judge(&self) -> Judge {
        self.engine.judge()
    }

    /// Asks for reloads of the configuration, and knows how they went.
    #[must_use]
    pub const fn reloads(&self) -> &Reloads {
        &self.reloads
    }

    /// Whether keys and store have answered.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Stops: `/readyz` says no for `drain_delay`, the listener closes, requests and tunnels end within `drain_timeout`, what waits is
    /// written. Returns whether all requests ended by themselves.
    pub async fn stop(self) -> bool {
        self.readiness.drain();
        self.drain.leave();
        sleep(self.gateways.load().listener().drain_delay).await;
        self.drain.begin();
        let ended = self.listening.await.unwrap_or(false);
        self.stop_rest.disarm().cancel();
        // A task that panicked has nothing left to wait for.
        let _ = self.administrating.await;
        if let Some(reloading) = self.reloading {
            let _ = reloading.await;
        }
        let _ = self.indexing.await;
        let _ = self.upkeep.await;
        self.sources.stop().await;
        self.revoking.stop().await;
        self.scheduled.stop().await;
        self.engine.stop().await;
        ended
    }
}

/// A name that no other gateway has, for leases.
fn gateway_id(name: &str) -> Arc<str> {
    let mut random = [0; 6];
    // Without randomness the process tells gateways of one name apart.
    let _ = aws_lc_rs::rand::fill(&mut random);
    let random = random.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    format!("{name}:{}:{random}", std::process::id()).into()
}

fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    listener::bind(address).map_err(|source| StartError::Listen { address, source })
}

fn local_address(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::Listen { address, source })
}

async fn maintain(gateways: CurrentGateway, stop: CancellationToken) {
    let mut ticks = interval(MAINTENANCE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        gateways.load().maintain();
    }
}
