//! What ends here ends at the issuer too: sessions and refresh tokens, through Auth0's Management API.
//!
//! 1. What is to be done is durable in the store before the session ends here, and so before anybody is told that it has: a gateway
//!    that dies in between loses nothing. At worst the issuer hears of a logout whose caller has to repeat it.
//! 2. One gateway of a fleet works it off, whoever has the lease; another takes over when it dies. Doing it twice does no harm.
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
use crate::{
    clock::Clock,
    event::{
        auth0::tenant::{Tenant, TenantSettings},
        lead::{Lead, TERM},
    },
    http_client::HttpClient,
    store::{Notes, StoreError},
    token::claims::{Claims, IssuerName},
};

/// The name of the queue, and of the lease.
const QUEUE: &str = "issuer-revocations";

/// How long writing a job may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest pause between two attempts.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How long it is tried.
pub const GIVE_UP: Duration = Duration::from_secs(24 * 3600);

/// What is revoked at an issuer, and how.
#[derive(Clone, Debug)]
pub struct RevocationSettings {
    /// The issuer.
    pub issuer: IssuerName,
    /// What is revoked there.
    pub extent: Extent,
    /// Its Management API.
    pub tenant: TenantSettings,
}

/// What is revoked at an issuer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// The session, or all of the user's. Refresh tokens live on.
    Session,
    /// All refresh tokens of the user. Those of one session cannot be revoked without it: then the session too.
    RefreshTokens,
    /// Both.
    All,
}

/// What is still to be revoked. Clones share it.
#[derive(Clone, Debug)]
pub struct Revocations(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    issuers: HashMap<IssuerName, Party>,
    notes: Arc<dyn Notes>,
    clock: Clock,
    wake: Notify,
    metrics: RevocationMetrics,
}

/// An issuer at which something is revoked.
#[derive(Debug)]
struct Party {
    extent: Extent,
    tenant: Tenant,
}

impl Revocations {
    /// Revocations at these issuers; none: nothing is ever to be revoked.
    #[must_use]
    pub fn new(settings: Vec<RevocationSettings>, notes: Arc<dyn Notes>, http: &HttpClient, clock: Clock) -> Self {
        let party = |RevocationSettings { issuer, extent, tenant }| {
            (issuer, Party { extent, tenant: Tenant::new(tenant, http.clone(), clock.clone()) })
        };
        let issuers = settings.into_iter().map(party).collect();
        Self(Arc::new(Inner { issuers, notes, clock, wake: Notify::new(), metrics: RevocationMetrics::default() }))
    }

    /// Registers their metrics.
    pub fn register(&self, registry: &mut Registry) {
        self.0.metrics.register(registry);
    }

    /// Has the session of a token revoked at its issuer, or with `everywhere`, or where the token names none, all of its subject's.
    /// Resolves when it is durable that it will be; at once for issuers at which nothing is revoked.
    ///
    /// # Errors
    /// [`StoreError`]: it may yet be revoked. Repeating it is harmless.
    pub async fn put(&self, claims: &Claims, everywhere: bool) -> Result<(), StoreError> {
        if !self.0.issuers.contains_key(&claims.subject.issuer) {
            return Ok(());
        }
        let session = claims.session.clone().filter(|_| !everywhere);
        let job = Job { subject: claims.subject.clone(), session, asked: self.0.clock.now() };
        let jobs = [(job.new_id(), job.encode())];
        let put = timeout(PATIENCE, self.0.notes.put_jobs(QUEUE, &jobs)).await;
        put.unwrap_or_else(|_| Err(StoreError::timed_out(&"notes".into())))?;
        self.0.wake.notify_one();
        Ok(())
    }

    /// Works them off. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(&self, owner: &Arc<str>) -> Revoking {
        let stop = CancellationToken::new();
        let lead = Lead { name: QUEUE.into(), owner: Arc::clone(owner), term: TERM };
        let (inner, stopped) = (Arc::clone(&self.0), stop.clone());
        let task = async move {
            if inner.issuers.is_empty() {
                return;
            }
            let standby = || {
                inner.metrics.waiting.set(0);
            };
            lead.run(&*inner.notes, &stopped, standby, |lost| inner.work(lost)).await;
        };
        Revoking { task: AbortOnDropHandle::new(tokio::spawn(task)), stop: stop.drop_guard() }
    }
}

/// Works off what is to be revoked. Dropped, it stops at once.
#[derive(Debug)]
pub struct Revoking {
    task: AbortOnDropHandle<()>,
    stop: DropGuard,
}

impl Revoking {
    /// Stops, and resolves when it has. What is left is left to the next who has the lease.
    pub async fn stop(self) {
        self.stop.disarm().cancel();
        // A task that panicked has nothing left to wait for.
        let _ = self.task.await;
    }
}

/// What attempts come to.
const OUTCOMES: [&str; 4] = ["revoked", "gone", "failed", "given_up"];

/// What becomes of revocations.
#[derive(Default, Debug)]
struct RevocationMetrics {
    waiting: Gauge,
    outcomes: Family<OutcomeLabel, Counter>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

impl RevocationMetrics {
    fn register(&self, registry: &mut Registry) {
        for outcome in OUTCOMES {
            // There from the start, so that the first that is given up is an increase.
            self.outcomes.get_or_create_owned(&OutcomeLabel { outcome });
        }
        registry.register(
            "issuer_revocations_waiting",
            "Sessions and users still to be revoked at their issuer, as the gate that works them off sees it",
            self.waiting.clone(),
        );
        registry.register("issuer_revocations", "Attempts to revoke at an issuer", self.outcomes.clone());
    }

    fn count(&self, outcome: &'static str) {
        self.outcomes.get_or_create_owned(&OutcomeLabel { outcome }).inc();
    }
}
