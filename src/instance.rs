//! A running gate: assembled from a configuration, started, and stopped in order.
//!
//! What a gate has once, such as its store and its sockets, is built here when it starts. What it has by a configuration is built in
//! `assembly`, then and again at each reload.

mod assembly;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    sync::oneshot,
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
    limit::Limits,
    logout::NoEndpoint,
    reload::{Reloads, file::ConfigFile, reloader::Reloader},
    revocation::{Revocations, Revoking},
    server::{
        current::CurrentGateway,
        listener::{self, Service, Sockets},
        socket::{self, ListenAddress},
        tls::{Tls, TlsFault, TlsMetrics},
    },
    store::{
        Notes, Store, Watcher,
        embedded::{EmbeddedOpenError, EmbeddedStore},
        redis::{InvalidRedisSettings, RedisStore},
    },
    telemetry::{
        log,
        metrics::ServerMetrics,
        process::{self, ProcessMetrics},
    },
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
    /// TLS towards clients cannot be set up.
    #[error("TLS of the listener cannot be set up")]
    ListenerTls(#[from] TlsFault),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which one.
        address: ListenAddress,
        /// What happened.
        source: io::Error,
    },
}

/// A running gate. Dropped, it stops without waiting; [`Instance::stop`] lets requests end and writes what waits.
#[derive(Debug)]
pub struct Instance {
    addresses: Vec<ListenAddress>,
    admin_address: SocketAddr,
    tls: Option<Arc<Tls>>,
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
    listening: oneshot::Receiver<()>,
    stop_rest: DropGuard,
    serving: AbortOnDropHandle<bool>,
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
        let mut bound = Vec::new();
        for address in &config.listener.addresses {
            let cannot = |source| StartError::Listen { address: address.clone(), source };
            bound.extend(socket::bind(address, config.listener.sockets).map_err(cannot)?);
        }
        if socket::left_over() > 0 {
            tracing::warn!("systemd passed sockets on that `listener.address` does not name");
        }
        let addresses: Vec<_> = bound.iter().map(|bound| bound.address().clone()).collect();
        let (admin_listener, admin_address) = listen_for_admin(config.admin.address)?;
        let tls_metrics = TlsMetrics::new();
        let tls = config.listener.tls.clone().map(|settings| Tls::new(settings, Arc::clone(&tls_metrics)));
        let tls = tls.transpose()?;

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
        let (metrics, limits) = (ServerMetrics::new(), Limits::default());
        let foundation = Foundation {
            trust: engine.trust().clone(),
            http: http.clone(),
            metrics: Arc::clone(&metrics),
            limits: limits.clone(),
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

        let mut all_metrics = Registry::default();
        all_metrics.register_collector(Box::new(ProcessMetrics));
        let registry = all_metrics.sub_registry_with_prefix("portcullis");
        process::register_build(registry);
        judge.register(registry);
        metrics.register(registry);
        limits.register(registry);
        log::register(registry);
        tls_metrics.register(registry);
        sources.register(registry);
        revocations.register(registry);
        reloads.register(registry);
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
        scheduled.register(registry);
        let (verifier, cache, store) =
            (engine.trust().verifier().clone(), Arc::clone(ledger.cache()), Arc::clone(ledger.store()));
        let readiness = Readiness::new(verifier, cache, Arc::clone(&store), sources.watcher(), reloads.clone());
        let readiness = Arc::new(readiness);
        readiness.register(registry);
        let whose = Whose::new(assembly::issuers(&config), assembly::recorded_issuers(&config));
        let upkeep = Upkeep::new(config.upkeep, whose.clone(), store, Arc::clone(&notes), clock);
        let admin = CurrentAdmin::new(assembly::view(&config, &judge), Arc::clone(&readiness), records, all_metrics);

        let (drain, stop_rest) = (Drain::default(), CancellationToken::new());
        let ready = Arc::clone(&readiness);
        let (sockets, listening) = Sockets::open(bound, async move { ready.or_late().await })
            .map_err(|(address, source)| StartError::Listen { address, source })?;
        readiness.mind_listener(sockets.deaf());
        if let Some(tls) = &tls {
            readiness.mind_tls(Arc::clone(tls));
            tokio::spawn(Arc::clone(tls).watch(stop_rest.clone()));
        }
        let service = Service { gateways: gateways.clone(), tls: tls.clone(), drain: drain.clone() };
        let serving = AbortOnDropHandle::new(tokio::spawn(listener::run(sockets, service)));
        tokio::spawn(maintain(gateways.clone(), stop_rest.clone()));
        let indexing = index.run(notes, config.retention.session, stop_rest.clone());
        let indexing = AbortOnDropHandle::new(tokio::spawn(indexing));
        let upkeep = AbortOnDropHandle::new(tokio::spawn(upkeep.run(stop_rest.clone())));
        tokio::spawn(Arc::clone(&readiness).watch(stop_rest.clone()));
        let administrating = tokio::spawn(admin::serve(admin_listener, admin.clone(), stop_rest.clone()));
        let administrating = AbortOnDropHandle::new(administrating);
        let reloading = reloader.map(|reloader| {
            let assembly = Assembly::new(foundation, &config, logouts, gateways.clone(), admin, whose, tls.clone());
            AbortOnDropHandle::new(tokio::spawn(reloader.run(Box::new(assembly), stop_rest.clone())))
        });
        Ok(Self {
            addresses,
            admin_address,
            tls,
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
            listening,
            stop_rest: stop_rest.drop_guard(),
            serving,
            administrating,
        })
    }

    /// Where the public listener listens.
    #[must_use]
    pub fn addresses(&self) -> &[ListenAddress] {
        &self.addresses
    }

    /// The first of them that is by TCP; port 0: none is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let tcp = |address: &ListenAddress| match address {
            ListenAddress::Tcp(address) => Some(*address),
            ListenAddress::Unix(_) | ListenAddress::Systemd(_) => None,
        };
        self.addresses.iter().find_map(tcp).unwrap_or_else(|| ([0, 0, 0, 0], 0).into())
    }

    /// Resolves when all of them are listened on: at once, unless another process may listen there, too, or systemd keeps the socket;
    /// then when the gate is ready, or ten seconds after its start.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn listening(&mut self) {
        if !self.listening.is_terminated() {
            // It is dropped with the listener only.
            let _ = (&mut self.listening).await;
        }
    }

    /// Whether they are. If one that had to wait cannot be, the gate is not ready.
    #[must_use]
    pub fn listens(&self) -> bool {
        !self.readiness.is_deaf()
    }

    /// TLS of the public listener, whose certificates [`Tls::replace`] changes; `None`: it listens in the clear.
    #[must_use]
    pub const fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
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
        let ended = self.serving.await.unwrap_or(false);
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

fn listen_for_admin(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listen = || {
        // An address is taken over from a socket that is closing.
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((TcpListener::from_std(listener)?, address))
    };
    listen().map_err(|source| StartError::Listen { address: ListenAddress::Tcp(address), source })
}

async fn maintain(gateways: CurrentGateway, stop: CancellationToken) {
    let mut ticks = interval(MAINTENANCE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        gateways.load().maintain();
    }
}
