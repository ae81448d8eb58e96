//! What a gate has by its configuration, and how another takes over.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;

use crate::{
    activity::upkeep::Whose,
    admin::{CurrentAdmin, View},
    clock::Clock,
    config::{Config, Place, Problem},
    credential::CredentialSources,
    event::{SourceSettings, receiver::Receivers},
    gate::{
        Judge, Policy, Trust,
        identity::ReservedNames,
        policy::{ActivityRule, Authentication, Mode},
    },
    http_client::HttpClient,
    inactive::settings::InactiveSettings,
    limit::Limits,
    logout::{IssuerLogouts, LogoutSettings, NoEndpoint},
    reload::Apply,
    revocation::{RevocationSettings, Revocations},
    server::{
        current::CurrentGateway,
        gateway::{Gateway, GatewayOptions, Lasting},
        own::{
            OwnEndpoints, cross_origin::TrustedOrigins, last_logout::LastLogoutEndpoint, logout::LogoutEndpoint,
            session::SessionEndpoint,
        },
        tls::Tls,
    },
    session::{LimitTable, SessionLimits},
    telemetry::{log, metrics::ServerMetrics, with_causes},
    token::{claims::IssuerName, jwks::JwksError, verify::VerifierOptions},
    verdict::{OutagePolicy, Settings},
};

/// What gateways are built on, and what outlives them.
#[derive(Debug)]
pub(super) struct Foundation {
    pub(super) trust: Trust,
    pub(super) http: HttpClient,
    pub(super) metrics: Arc<ServerMetrics>,
    pub(super) limits: Limits,
    pub(super) revocations: Revocations,
    pub(super) receivers: Arc<Receivers>,
    pub(super) clock: Clock,
}

impl Foundation {
    /// The logouts of issuers.
    pub(super) fn logouts(&self, config: &Config) -> Result<Arc<IssuerLogouts>, NoEndpoint> {
        IssuerLogouts::start(config.logouts.clone(), &self.http).map(Arc::new)
    }

    /// The gateway that a configuration describes, which takes over from `former`.
    pub(super) fn gateway(
        &self,
        config: &Config,
        judge: &Judge,
        logouts: &Arc<IssuerLogouts>,
        former: Option<&Gateway>,
    ) -> Gateway {
        let reserved = ReservedNames::new(&config.identity_fields);
        let gates = Gateway::gates(&config.routes, &reserved, judge);
        let (own_policy, origins) = (own_policy(config), TrustedOrigins::new(config.origins.clone()));
        let policies: Vec<&Policy> = config.routes.iter().map(|route| &route.policy).collect();
        let own = OwnEndpoints {
            session: SessionEndpoint::new(judge.clone(), &own_policy, &policies, origins.clone()),
            logout: LogoutEndpoint::new(
                judge.clone(),
                own_policy,
                Arc::clone(logouts),
                self.revocations.clone(),
                origins.clone(),
                self.clock.clone(),
            ),
            origins,
            last_logout: config
                .last_logout
                .clone()
                .map(|settings| LastLogoutEndpoint::new(settings, issuers(config), judge.clone(), self.clock.clone())),
            receivers: Arc::clone(&self.receivers),
        };
        let options = GatewayOptions { listener: Arc::new(config.listener.clone()), access: config.log.access };
        let lasting = Lasting { metrics: Arc::clone(&self.metrics), limits: &self.limits, former };
        Gateway::new(&config.routes, &gates, &reserved, own, options, lasting)
    }
}

/// What a gate has by its configuration. Another takes its place as a whole.
#[derive(Debug)]
pub(super) struct Assembly {
    foundation: Foundation,
    /// What `logouts` was made of.
    logout_settings: Vec<LogoutSettings>,
    logouts: Arc<IssuerLogouts>,
    gateways: CurrentGateway,
    admin: CurrentAdmin,
    whose: Whose,
    tls: Option<Arc<Tls>>,
    at_start: AtStart,
}

/// Settings that are taken at the start although they rest on keys that are not: an issuer's `iss` tells the domain of its tenant, for one.
#[derive(Clone, Debug)]
struct AtStart {
    sources: Vec<SourceSettings>,
    revocations: Vec<RevocationSettings>,
    inactive: InactiveSettings,
}

impl AtStart {
    fn of(config: &Config) -> Self {
        let Config { sources, revocations, inactive, .. } = config;
        Self { sources: sources.clone(), revocations: revocations.clone(), inactive: inactive.clone() }
    }

    /// Why a gate that was started by these cannot go on by `config`.
    fn check(&self, config: &Config) -> Result<(), Vec<Problem>> {
        let other = Self::of(config);
        // Whatever order they are read in, each has a name.
        let sources = (self.sources.iter().map(|source| &source.name))
            .chain(other.sources.iter().map(|source| &source.name))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter(|name| {
                let of = |all: &Self| all.sources.iter().find(|source| source.name == **name).cloned();
                of(self) != of(&other)
            })
            .map(|name| format!("sources.{name}"));
        let revocations = (self.revocations.iter().map(|revocation| &revocation.issuer))
            .chain(other.revocations.iter().map(|revocation| &revocation.issuer))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter(|issuer| {
                let of = |all: &Self| all.revocations.iter().find(|revocation| revocation.issuer == **issuer).cloned();
                of(self) != of(&other)
            })
            .map(|issuer| format!("issuers.{issuer}.logout.revoke"));
        let inactive = (self.inactive != other.inactive).then(|| "inactive".to_owned());
        let problem = |key: String| Problem {
            hint: Some("restart the gate, or take the change back".to_owned()),
            ..problem(
                config,
                &key,
                "needs a restart: it is taken when the gate starts, and rests on settings that have changed".to_owned(),
            )
        };
        let problems: Vec<_> = sources.chain(revocations).chain(inactive).map(problem).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

impl Assembly {
    /// What was assembled at the start, by `config`.
    pub(super) fn new(
        foundation: Foundation,
        config: &Config,
        logouts: Arc<IssuerLogouts>,
        gateways: CurrentGateway,
        admin: CurrentAdmin,
        whose: Whose,
        tls: Option<Arc<Tls>>,
    ) -> Self {
        let at_start = AtStart::of(config);
        Self { foundation, logout_settings: config.logouts.clone(), logouts, gateways, admin, whose, tls, at_start }
    }

    /// A judge by this configuration, with keys for all of its issuers.
    async fn judge(&self, config: &Config) -> Result<Judge, Vec<Problem>> {
        let trust = &self.foundation.trust;
        let options = verifier_options(config, self.foundation.clock.clone());
        let judge = trust
            .renew(config.issuers.clone(), options)
            .map_err(|error| vec![problem(config, "issuers", with_causes(&error))])?;
        // A gate that is ready must not become unready by a reload.
        let keyless = judge.parts().verifier.load_new(&trust.verifier().load()).await;
        if keyless.is_empty() {
            return Ok(judge);
        }
        let of_issuer = |(issuer, error): (IssuerName, Option<Arc<JwksError>>)| {
            let why = error.map_or_else(
                || "its key set holds no usable key".to_owned(),
                |error| format!("its keys cannot be had: {}", with_causes(&*error)),
            );
            let hint = "the issuer has to be reached before it can be trusted; it is tried again";
            Problem { hint: Some(hint.to_owned()), ..problem(config, &format!("issuers.{issuer}"), why) }
        };
        Err(keyless.into_iter().map(of_issuer).collect())
    }
}

impl Assembly {
    /// New connections get these certificates; or those before, if one of the files cannot be used.
    fn serve_certificates(&self, config: &Config) -> Result<(), Vec<Problem>> {
        const KEY: &str = "listener.tls";
        match (&self.tls, &config.listener.tls) {
            (None, None) => Ok(()),
            (Some(tls), Some(settings)) => {
                tls.replace(settings.clone()).map_err(|fault| vec![problem(config, KEY, fault.to_string())])
            }
            (None, Some(_)) | (Some(_), None) => {
                let message = "needs a restart: whether TLS is spoken is settled when the gate starts".to_owned();
                let hint = Some("restart the gate, or take this change back".to_owned());
                Err(vec![Problem { hint, ..problem(config, KEY, message) }])
            }
        }
    }
}

#[async_trait]
impl Apply for Assembly {
    /// Everything that can fail comes first, and everything that takes time; then all parts are exchanged one after another, in
    /// microseconds. A request is served by the gateway that it loaded, and that one has all of its parts.
    async fn apply(&mut self, config: Config, changed: &[String]) -> Result<(), Vec<Problem>> {
        self.at_start.check(&config)?;
        // Whoever asks although nothing has changed may mean the certificates.
        if changed.is_empty() {
            return self.serve_certificates(&config);
        }
        let judge = self.judge(&config).await?;
        let logouts = if config.logouts == self.logout_settings {
            Arc::clone(&self.logouts)
        } else {
            let failed = |error| vec![problem(&config, "issuers", with_causes(&error))];
            self.foundation.logouts(&config).map_err(failed)?
        };
        let adjust_log =
            log::prepare(&config.log).map_err(|error| vec![problem(&config, "log", with_causes(&error))])?;
        self.serve_certificates(&config)?;

        adjust_log();
        self.foundation.trust.adopt(&judge, &limits(&config));
        let former = self.gateways.load();
        let gateway = self.foundation.gateway(&config, &judge, &logouts, Some(&former));
        self.gateways.exchange(gateway);
        self.admin.exchange(view(&config, &judge));
        self.whose.exchange(issuers(&config), recorded_issuers(&config));
        (self.logouts, self.logout_settings) = (logouts, config.logouts);
        Ok(())
    }
}

/// What is wrong with a key of a configuration that was read without a fault.
fn problem(config: &Config, key: &str, message: String) -> Problem {
    let place = config.written.place(key).cloned().unwrap_or(Place::File(String::new()));
    Problem { place, key: key.to_owned(), message, hint: None }
}

/// What tokens are verified by.
pub(super) fn verifier_options(config: &Config, clock: Clock) -> VerifierOptions {
    VerifierOptions {
        max_token_length: config.tokens.max_length,
        forwarded_claims: config.forwarded_claims.clone(),
        clock,
    }
}

/// The names of all issuers.
pub(super) fn issuers(config: &Config) -> Vec<IssuerName> {
    config.issuers.iter().map(|issuer| issuer.name.clone()).collect()
}

/// What the admin endpoints go by.
pub(super) fn view(config: &Config, judge: &Judge) -> View {
    View {
        token: config.admin.token.clone(),
        issuers: issuers(config),
        policies: config.routes.iter().map(|route| route.policy.clone()).collect(),
        judge: judge.clone(),
    }
}

/// The limits of all issuers and routes.
fn limits(config: &Config) -> LimitTable {
    let mut limits = LimitTable::default();
    for issuer in &config.issuers {
        limits.set_issuer(&issuer.name, issuer.limits);
    }
    for route in &config.routes {
        limits.set_route(&route.policy.name, route.policy.limits);
    }
    limits
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
pub(super) fn recorded_issuers(config: &Config) -> Vec<IssuerName> {
    let by_route = |issuer: &IssuerName| {
        config.routes.iter().map(|route| &route.policy).any(|policy| {
            policy.activity != ActivityRule::Never
                && policy.authentication != Authentication::None
                && policy.issuers.as_ref().is_none_or(|issuers| issuers.contains(issuer))
        })
    };
    config.issuers.iter().map(|issuer| &issuer.name).filter(|issuer| by_route(issuer)).cloned().collect()
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
