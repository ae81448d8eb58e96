//! A running gate: assembled from a configuration, started, and stopped in order.

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

use crate::{
    activity::upkeep::Upkeep,
    admin::{self, Admin, Readiness},
    clock::Clock,
    config::{Config, StoreSettings},
    credential::CredentialSources,
    drain::Drain,
    event::{Pipeline, Sources, identifier_index::IdentifierIndex, sources::SourceError},
    gate::{
        Engine, EngineSettings, Judge, Policy,
        identity::ReservedNames,
        judge::{Parts, TokenObserver},
        policy::{ActivityRule, Authentication, Mode},
    },
    http_client::HttpClient,
    inactive::{
        records::{Direct, Records},
        schedule::{Running, Scheduled},
    },
    limit::Limits,
    logout::{IssuerLogouts, NoEndpoint},
    revocation::{Revocations, Revoking},
    server::{
        current::CurrentGateway,
        gateway::{Gateway, GatewayOptions},
        listener::{self, Service, Sockets},
        own::{
            OwnEndpoints, cross_origin::TrustedOrigins, last_logout::LastLogoutEndpoint, logout::LogoutEndpoint,
            session::SessionEndpoint,
        },
        socket::{self, ListenAddress},
        tls::{Tls, TlsFault, TlsMetrics},
    },
    session::SessionLimits,
    store::{
        Notes, Store, Watcher,
        embedded::{EmbeddedOpenError, EmbeddedStore},
        redis::{InvalidRedisSettings, RedisStore},
    },
    telemetry::{log, metrics::ServerMetrics},
    token::{
        claims::IssuerName,
        issuer::IssuerSettings,
        verify::{Verifier, VerifierError, VerifierOptions},
    },
    verdict::{OutagePolicy, Settings},
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
    indexing: Option<AbortOnDropHandle<()>>,
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
    Ok(Verifier::new(config.issuers.clone(), verifier_options(config, clock))?)
}

fn verifier_options(config: &Config, clock: Clock) -> VerifierOptions {
    VerifierOptions {
        max_token_length: config.tokens.max_length,
        forwarded_claims: config.forwarded_claims.clone(),
        clock,
    }
}

impl Instance {
    /// Starts a gate. It listens when this returns; `/readyz` tells when keys and store have answered.
    ///
    /// Must be called within a multi-thread tokio runtime.
    ///
    /// # Errors
    /// [`StartError`].
    #[expect(clippy::unused_async, reason = "it needs a runtime, which a future has")]
    pub async fn start(config: Config) -> Result<Self, StartError> {
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

        let contacts = |issuer: &IssuerSettings| issuer.claims.email.is_some() || issuer.claims.phone.is_some();
        let index = config.issuers.iter().any(contacts).then(|| Arc::new(IdentifierIndex::default()));
        let settings = EngineSettings {
            issuers: config.issuers.clone(),
            tokens: verifier_options(&config, clock.clone()),
            token_cache_size: config.tokens.cache_size,
            markers: config.markers,
            retention: config.retention,
            activity: config.activity,
            sessions: config.sessions.clone(),
            observer: index.clone().map(|index| index as Arc<dyn TokenObserver>),
        };
        let mut notes = None;
        let engine = Engine::start(settings, |watcher, clock| {
            let (store, kept) = open_store(&config.store, watcher, clock)?;
            notes = Some(kept);
            Ok::<_, StartError>(store)
        })?;
        let Some(notes) = notes else { unreachable!("the engine opens its store") };
        let judge = engine.judge().clone();
        let http = HttpClient::new()?;
        let revocations = Revocations::new(config.revocations.clone(), &notes, &http, &clock);
        let pipeline = Pipeline::new(judge.parts().ledger.clone(), Arc::clone(&notes), clock.clone());
        let owner = gateway_id(&config.sessions.gateway);
        let sources = Sources::start(config.sources.clone(), &pipeline, &judge.parts().verifier, &owner)?;

        let (metrics, limits) = (ServerMetrics::new(), Limits::default());
        let reserved = ReservedNames::new(&config.identity_fields);
        let gates = Gateway::gates(&config.routes, &reserved, &judge);
        let (own_policy, origins) = (own_policy(&config), TrustedOrigins::new(config.origins.clone()));
        let policies: Vec<&Policy> = config.routes.iter().map(|route| &route.policy).collect();
        let own = OwnEndpoints {
            session: SessionEndpoint::new(judge.clone(), &own_policy, &policies, origins.clone()),
            logout: LogoutEndpoint::new(
                judge.clone(),
                own_policy,
                IssuerLogouts::start(config.logouts.clone(), &http)?,
                revocations.clone(),
                origins.clone(),
                clock.clone(),
            ),
            origins,
            last_logout: config.last_logout.clone().map(|settings| {
                let issuers = config.issuers.iter().map(|issuer| issuer.name.clone()).collect();
                LastLogoutEndpoint::new(settings, issuers, judge.clone(), clock.clone())
            }),
            receivers: Arc::clone(sources.receivers()),
        };
        let options = GatewayOptions { listener: Arc::new(config.listener.clone()), access: config.log.access };
        let gateway = Gateway::new(&config.routes, &gates, &reserved, own, Arc::clone(&metrics), &limits, options);
        let gateways = CurrentGateway::new(gateway);

        let mut registry = Registry::with_prefix("portcullis");
        judge.register(&mut registry);
        metrics.register(&mut registry);
        limits.register(&mut registry);
        log::register(&mut registry);
        tls_metrics.register(&mut registry);
        sources.register(&mut registry);
        revocations.register(&mut registry);
        let Parts { verifier, ledger, recorder, .. } = judge.parts();
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
        let (cache, store) = (Arc::clone(ledger.cache()), Arc::clone(ledger.store()));
        let readiness = Arc::new(Readiness::new(Arc::clone(verifier), cache, store, sources.watcher()));
        readiness.register(&mut registry);
        let issuers: Vec<_> = config.issuers.iter().map(|issuer| issuer.name.clone()).collect();
        let (recorded, store) = (recorded_issuers(&config), Arc::clone(judge.parts().ledger.store()));
        let upkeep = Upkeep::new(config.upkeep, issuers.clone(), recorded, store, Arc::clone(&notes), clock);
        let policies = config.routes.iter().map(|route| route.policy.clone()).collect();
        let admin = Admin::new(&config.admin, issuers, policies, judge, Arc::clone(&readiness), records, registry);

        let (drain, stop_rest) = (Drain::default(), CancellationToken::new());
        let ready = Arc::clone(&readiness);
        let (sockets, listening) = Sockets::open(bound, async move { ready.or_late().await })
            .map_err(|(address, source)| StartError::Listen { address, source })?;
        if let Some(tls) = &tls {
            readiness.mind_tls(Arc::clone(tls));
            tokio::spawn(Arc::clone(tls).watch(stop_rest.clone()));
        }
        let service = Service { gateways: gateways.clone(), tls: tls.clone(), drain: drain.clone() };
        let serving = AbortOnDropHandle::new(tokio::spawn(listener::run(sockets, service)));
        tokio::spawn(maintain(gateways.clone(), stop_rest.clone()));
        let indexing = index.map(|index| {
            let run = index.run(notes, config.retention.session, stop_rest.clone());
            AbortOnDropHandle::new(tokio::spawn(run))
        });
        let upkeep = AbortOnDropHandle::new(tokio::spawn(upkeep.run(stop_rest.clone())));
        tokio::spawn(Arc::clone(&readiness).watch(stop_rest.clone()));
        let administrating = tokio::spawn(admin::serve(admin_listener, admin, stop_rest.clone()));
        let administrating = AbortOnDropHandle::new(administrating);
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
    pub const fn judge(&self) -> &Judge {
        self.engine.judge()
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
        if let Some(indexing) = self.indexing {
            let _ = indexing.await;
        }
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

/// The gate's own endpoints take the tokens of every issuer, from wherever any route takes them. While the store is silent they try
/// all the same: whether a logout was stored is for the store to say.
fn own_policy(config: &Config) -> Policy {
    let Some(first) = config.routes.first() else { unreachable!("a configuration without routes is refused") };
    let sources = config.routes.iter().map(|route| &route.policy.sources);
    Policy {
        name: "portcullis".into(),
        authentication: Authentication::Required,
        mode: Mode::Enforce,
        issuers: None,
        sources: sources.fold(CredentialSources::default(), CredentialSources::union),
        settings: Settings {
            required_scopes: Box::default(),
            outage: OutagePolicy::Allow,
            ..first.policy.settings.clone()
        },
        identity: Box::default(),
        limits: SessionLimits::NONE,
        activity: ActivityRule::Never,
        ..first.policy.clone()
    }
}

/// The issuers of whose subjects activity is recorded, by a route. What sources tell is recorded too, but nobody notices when one is not
/// told any more, so that it makes nothing complete.
fn recorded_issuers(config: &Config) -> Vec<IssuerName> {
    let by_route = |issuer: &IssuerName| {
        config.routes.iter().map(|route| &route.policy).any(|policy| {
            policy.activity != ActivityRule::Never
                && policy.authentication != Authentication::None
                && policy.issuers.as_ref().is_none_or(|issuers| issuers.contains(issuer))
        })
    };
    config.issuers.iter().map(|issuer| &issuer.name).filter(|issuer| by_route(issuer)).cloned().collect()
}

async fn maintain(gateways: CurrentGateway, stop: CancellationToken) {
    let mut ticks = interval(MAINTENANCE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        gateways.load().maintain();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUERS: &str = r#"
        [issuers.a]
        issuer = "https://a.example/"
        audiences = ["api"]
        [issuers.b]
        issuer = "https://b.example/"
        audiences = ["api"]
        "#;
    const LOG: &str = r#"
        [sources.log]
        type = "auth0_log_stream"
        issuer = "b"
        "#;
    const ROUTE: &str = r#"
        [[routes]]
        upstream = "http://127.0.0.1:3000"
        "#;
    const OTHER: &str = r#"
        activity = false
        [[routes]]
        path = "/other"
        issuers = ["a"]
        upstream = "http://127.0.0.1:3001"
        "#;

    #[test]
    fn activity_is_recorded_by_routes_and_not_by_sources_alone() {
        let variable = ("PORTCULLIS_SOURCES_LOG_AUTHORIZATION".to_owned(), "a secret that is long enough".to_owned());
        for (name, source, route, expected) in [
            ("a route for all", "", "", &["a", "b"][..]),
            ("a route for one", "", "issuers = [\"b\"]", &["b"]),
            ("a route that does not count", "", "activity = false", &[]),
            ("beside one that does", "", OTHER, &["a"]),
            ("a route without tokens", "", "auth = \"none\"", &[]),
            ("a source that tells of it", LOG, "activity = false", &[]),
        ] {
            let text = format!("{ISSUERS}{source}{ROUTE}{route}");
            let variables = (!source.is_empty()).then(|| variable.clone());
            let config =
                Config::parse(&text, "gate.toml", variables).unwrap_or_else(|errors| panic!("{name}: {errors}"));
            let recorded = recorded_issuers(&config);
            assert_eq!(recorded.iter().map(IssuerName::as_str).collect::<Vec<_>>(), expected, "{name}");
        }
    }
}
