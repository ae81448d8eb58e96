//! Health: alive, started, ready.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{extract::State, http::StatusCode, response::Response};
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    Admin,
    answer::{ok, say},
};
use crate::{
    clock::Clock, event::sources::SourceWatcher, marker::cache::MarkerCache, reload::Reloads, server::tls::Tls,
    store::Store, telemetry::with_causes, token::verify::CurrentVerifier,
};

/// How often the store is asked whether it can keep its promises.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// How long clients are kept waiting for a gate that is not ready yet.
const LATE: Duration = Duration::from_secs(10);

const READINESS_INTERVAL: Duration = Duration::from_millis(10);

/// Whether the gate can do its work.
#[derive(Debug)]
pub struct Readiness {
    verifier: CurrentVerifier,
    cache: Arc<MarkerCache>,
    store: Arc<dyn Store>,
    draining: AtomicBool,
    started: AtomicBool,
    findings: Mutex<Findings>,
    troubles: Gauge,
    tls: OnceLock<Arc<Tls>>,
    deaf: OnceLock<Arc<AtomicBool>>,
    pub(super) sources: SourceWatcher,
    pub(super) reloads: Reloads,
}

/// What the store said when it was last asked.
#[derive(Clone, Default, Debug)]
struct Findings {
    warnings: Vec<String>,
    /// Why it said nothing.
    error: Option<String>,
}

impl Readiness {
    /// Not ready yet.
    #[must_use]
    pub fn new(
        verifier: CurrentVerifier,
        cache: Arc<MarkerCache>,
        store: Arc<dyn Store>,
        sources: SourceWatcher,
        reloads: Reloads,
    ) -> Self {
        Self {
            verifier,
            cache,
            store,
            draining: AtomicBool::new(false),
            started: AtomicBool::new(false),
            findings: Mutex::default(),
            troubles: Gauge::default(),
            tls: OnceLock::new(),
            deaf: OnceLock::new(),
            sources,
            reloads,
        }
    }

    /// Registers its metric.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "store_troubles",
            "What keeps the store from keeping its promises, as /readyz lists it",
            self.troubles.clone(),
        );
    }

    /// Whether keys and store have answered, the store lately, and the gate does not drain.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let ready = self.verifier.load().is_ready() && self.cache.is_current();
        if ready {
            self.started.store(true, Ordering::Relaxed);
        }
        ready && !self.draining.load(Ordering::Relaxed) && !self.is_deaf()
    }

    /// Whether an address could not be listened on.
    #[must_use]
    pub fn is_deaf(&self) -> bool {
        self.deaf.get().is_some_and(|deaf| deaf.load(Ordering::Relaxed))
    }

    /// Resolves when it is ready, or has taken too long for anybody to wait.
    pub async fn or_late(&self) {
        let ready = async {
            while !self.is_ready() {
                tokio::time::sleep(READINESS_INTERVAL).await;
            }
        };
        // Late: answers that say what is amiss are better than none.
        let _ = tokio::time::timeout(LATE, ready).await;
    }

    /// Minds whether the listener listens, too.
    pub fn mind_listener(&self, deaf: Arc<AtomicBool>) {
        // There is one listener.
        let _ = self.deaf.set(deaf);
    }

    /// Warns of the certificates, too.
    pub fn mind_tls(&self, tls: Arc<Tls>) {
        // There is one listener.
        let _ = self.tls.set(tls);
    }

    /// From now on it is not ready.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Asks the store now and then whether it can keep its promises, and says so once when it cannot.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let (findings, wait) = match self.store.report().await {
                Ok(report) => (Findings { warnings: report.warnings, error: None }, REPORT_INTERVAL),
                Err(error) => {
                    (Findings { warnings: Vec::new(), error: Some(with_causes(&error)) }, Duration::from_secs(1))
                }
            };
            self.take(findings);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn take(&self, findings: Findings) {
        let mut known = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in findings.warnings.iter().filter(|warning| !known.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        if let Some(error) = findings.error.as_ref().filter(|error| known.error.as_ref() != Some(error)) {
            tracing::warn!("{error}");
        }
        let troubles = findings.warnings.len() + usize::from(findings.error.is_some());
        self.troubles.set(i64::try_from(troubles).unwrap_or(i64::MAX));
        *known = findings;
    }

    fn findings(&self) -> Findings {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The process runs.
pub(super) async fn live() -> Response {
    ok(&json!({ "status": "ok" }))
}

/// It was ready once.
pub(super) async fn started(State(Admin(admin)): State<Admin>) -> Response {
    let started = admin.lasting.readiness.is_ready() || admin.lasting.readiness.started.load(Ordering::Relaxed);
    let status = if started { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    say(status, &json!({ "status": if started { "started" } else { "starting" } }))
}

/// It can judge: load balancers send requests here.
pub(super) async fn ready(State(Admin(admin)): State<Admin>) -> Response {
    let readiness = &admin.lasting.readiness;
    let ready = readiness.is_ready();
    let issuers = readiness.verifier.load().status().into_iter().map(|(name, status)| {
        let keys = json!({
            "keys": status.keys,
            "skipped": status.skipped,
            "fetched_at": status.fetched_at.map(|time| time.to_string()),
            "last_error": status.last_error,
        });
        (name.as_str().to_owned(), keys)
    });
    let Findings { mut warnings, error } = readiness.findings();
    if readiness.is_deaf() {
        warnings.push("an address of the listener cannot be listened on so far; the log says why".to_owned());
    }
    warnings.extend(readiness.tls.get().into_iter().flat_map(|tls| tls.troubles(Clock::System.now())));
    let body = json!({
        "status": if ready { "ready" } else { "not_ready" },
        "draining": readiness.draining.load(Ordering::Relaxed),
        "issuers": issuers.collect::<serde_json::Map<_, _>>(),
        "store": {
            "current": readiness.cache.is_current(),
            "heard_ms_ago": readiness.cache.age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            "error": error,
        },
        "sources": readiness.sources.reports(),
        "configuration": super::reload::state(&readiness.reloads),
        "warnings": warnings,
    });
    say(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
}
