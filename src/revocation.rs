//! What ends here ends at the issuer too: sessions and refresh tokens, through Auth0's Management API.
//!
//! 1. What is to be done is durable in the store before the session ends here, and so before anybody is told that it has: a gateway
//!    that dies in between loses nothing. At worst the issuer hears of a logout whose caller has to repeat it.
//! 2. One gateway of a fleet works off what an issuer is to be told, whoever has the lease; another takes over when it dies. Doing it
//!    twice does no harm. Each issuer has a queue and a lease of its own: one that does not answer holds up no other, and gateways that
//!    know different issuers share a store.
//! 3. What fails is tried again, with pauses that grow to [`LONGEST_PAUSE`], and given up after [`GIVE_UP`] or when the issuer says
//!    that it never will.
//! 4. Each outcome leaves an audit line.

mod job;
mod worker;

use std::{collections::HashMap, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::{sync::Notify, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

use self::job::Job;
pub use crate::management::access::Extent;
use crate::{
    clock::Clock,
    event::lead::{Lead, TERM},
    http_client::HttpClient,
    management::tenant::{Tenant, TenantSettings},
    store::{Notes, StoreError},
    token::claims::{Claims, IssuerName},
};

/// How long writing a job may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest pause between two attempts.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How long it is tried.
pub const GIVE_UP: Duration = Duration::from_secs(24 * 3600);

/// What is revoked at an issuer, and how.
#[derive(Clone, PartialEq, Debug)]
pub struct RevocationSettings {
    /// The issuer.
    pub issuer: IssuerName,
    /// What is revoked there.
    pub extent: Extent,
    /// Its Management API.
    pub tenant: TenantSettings,
}

/// What is still to be revoked. Clones share it.
#[derive(Clone, Debug)]
pub struct Revocations {
    issuers: Arc<HashMap<IssuerName, Arc<Issuer>>>,
    metrics: RevocationMetrics,
}

/// An issuer at which something is revoked.
#[derive(Debug)]
struct Issuer {
    name: IssuerName,
    /// The name of its queue, and of the lease.
    queue: Arc<str>,
    extent: Extent,
    tenant: Tenant,
    notes: Arc<dyn Notes>,
    clock: Clock,
    wake: Notify,
    metrics: RevocationMetrics,
}

impl Revocations {
    /// Revocations at these issuers; none: nothing is ever to be revoked.
    #[must_use]
    pub fn new(settings: Vec<RevocationSettings>, notes: &Arc<dyn Notes>, http: &HttpClient, clock: &Clock) -> Self {
        let metrics = RevocationMetrics::default();
        let issuer = |RevocationSettings { issuer, extent, tenant }| {
            let queue = format!("issuer-revocations:{issuer}").into();
            let tenant = Tenant::new(tenant, http.clone(), clock.clone());
            let (notes, clock, metrics) = (Arc::clone(notes), clock.clone(), metrics.clone());
            let wake = Notify::new();
            (issuer.clone(), Arc::new(Issuer { name: issuer, queue, extent, tenant, notes, clock, wake, metrics }))
        };
        Self { issuers: Arc::new(settings.into_iter().map(issuer).collect()), metrics }
    }

    /// Registers their metrics.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry, self.issuers.keys());
    }

    /// Has the session of a token revoked at its issuer, or with `everywhere`, or where the token names none, all of its subject's.
    /// Resolves when it is durable that it will be; at once for issuers at which nothing is revoked.
    ///
    /// # Errors
    /// [`StoreError`]: it may yet be revoked. Repeating it is harmless.
    pub async fn put(&self, claims: &Claims, everywhere: bool) -> Result<(), StoreError> {
        let Some(issuer) = self.issuers.get(&claims.subject.issuer) else { return Ok(()) };
        let session = claims.session.clone().filter(|_| !everywhere);
        let job = Job { subject: claims.subject.clone(), session, asked: issuer.clock.now() };
        let jobs = [(job.new_id(), job.encode())];
        let put = timeout(PATIENCE, issuer.notes.put_jobs(&issuer.queue, &jobs)).await;
        put.unwrap_or_else(|_| Err(StoreError::timed_out(&"notes".into())))?;
        issuer.wake.notify_one();
        Ok(())
    }

    /// Works them off. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(&self, owner: &Arc<str>) -> Revoking {
        let stop = CancellationToken::new();
        let task = |issuer: &Arc<Issuer>| {
            let (issuer, stopped) = (Arc::clone(issuer), stop.clone());
            let lead = Lead { name: Arc::clone(&issuer.queue), owner: Arc::clone(owner), term: TERM };
            let task = async move {
                lead.run(&*issuer.notes, &stopped, || issuer.stand_by(), |lost| issuer.work(lost)).await;
            };
            AbortOnDropHandle::new(tokio::spawn(task))
        };
        Revoking { tasks: self.issuers.values().map(task).collect(), stop: stop.drop_guard() }
    }
}

/// Works off what is to be revoked. Dropped, it stops at once.
#[derive(Debug)]
pub struct Revoking {
    tasks: Vec<AbortOnDropHandle<()>>,
    stop: DropGuard,
}

impl Revoking {
    /// Stops, and resolves when it has. What is left is left to the next who has the lease.
    pub async fn stop(self) {
        self.stop.disarm().cancel();
        for task in self.tasks {
            // One that panicked has nothing left to wait for.
            let _ = task.await;
        }
    }
}

/// What attempts come to.
const OUTCOMES: [&str; 4] = ["revoked", "gone", "failed", "given_up"];

/// What becomes of revocations. Clones share them.
#[derive(Clone, Default, Debug)]
struct RevocationMetrics {
    waiting: Family<WaitingLabels, Gauge>,
    outcomes: Family<OutcomeLabels, Counter>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct WaitingLabels {
    issuer: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OutcomeLabels {
    issuer: String,
    outcome: &'static str,
}

impl RevocationMetrics {
    fn register<'i>(&self, registry: &mut Registry, issuers: impl Iterator<Item = &'i IssuerName>) {
        for issuer in issuers {
            // There from the start, so that the first that is given up is an increase.
            for outcome in OUTCOMES {
                self.outcomes.get_or_create_owned(&OutcomeLabels { issuer: issuer.to_string(), outcome });
            }
            self.set_waiting(issuer, 0);
        }
        registry.register(
            "issuer_revocations_waiting",
            "Sessions and users still to be revoked at their issuer, as the gate that works them off sees it",
            self.waiting.clone(),
        );
        registry.register("issuer_revocations", "Attempts to revoke at an issuer", self.outcomes.clone());
    }

    fn set_waiting(&self, issuer: &IssuerName, waiting: usize) {
        let gauge = self.waiting.get_or_create_owned(&WaitingLabels { issuer: issuer.to_string() });
        gauge.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    fn count(&self, issuer: &IssuerName, outcome: &'static str) {
        self.outcomes.get_or_create_owned(&OutcomeLabels { issuer: issuer.to_string(), outcome }).inc();
    }
}
