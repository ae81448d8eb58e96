//! Health: alive, started, ready.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{extract::State, http::StatusCode, response::Response};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    Admin,
    answer::{ok, say},
};
use crate::{marker::cache::MarkerCache, store::Store, token::verify::Verifier};

/// How often the store is asked whether it can keep its promises.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Whether the gate can do its work.
#[derive(Debug)]
pub struct Readiness {
    verifier: Arc<Verifier>,
    cache: Arc<MarkerCache>,
    store: Arc<dyn Store>,
    draining: AtomicBool,
    started: AtomicBool,
    warnings: Mutex<Vec<String>>,
}

impl Readiness {
    /// Not ready yet.
    #[must_use]
    pub fn new(verifier: Arc<Verifier>, cache: Arc<MarkerCache>, store: Arc<dyn Store>) -> Self {
        Self {
            verifier,
            cache,
            store,
            draining: AtomicBool::new(false),
            started: AtomicBool::new(false),
            warnings: Mutex::default(),
        }
    }

    /// Whether keys and store have answered, the store lately, and the gate does not drain.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let ready = self.verifier.is_ready() && self.cache.is_current();
        if ready {
            self.started.store(true, Ordering::Relaxed);
        }
        ready && !self.draining.load(Ordering::Relaxed)
    }

    /// From now on it is not ready.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Asks the store now and then whether it can keep its promises, and says so once when it cannot.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let wait = match self.store.report().await {
                Ok(report) => {
                    self.take(report.warnings);
                    REPORT_INTERVAL
                }
                Err(_) => Duration::from_secs(1),
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn take(&self, warnings: Vec<String>) {
        let mut known = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings.iter().filter(|warning| !known.contains(warning)) {
            tracing::warn!("{warning}");
        }
        *known = warnings;
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The process runs.
pub(super) async fn live() -> Response {
    ok(&json!({ "status": "ok" }))
}

/// It was ready once.
pub(super) async fn started(State(Admin(admin)): State<Admin>) -> Response {
    let started = admin.readiness.is_ready() || admin.readiness.started.load(Ordering::Relaxed);
    let status = if started { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    say(status, &json!({ "status": if started { "started" } else { "starting" } }))
}

/// It can judge: load balancers send requests here.
pub(super) async fn ready(State(Admin(admin)): State<Admin>) -> Response {
    let readiness = &admin.readiness;
    let ready = readiness.is_ready();
    let issuers = readiness.verifier.status().into_iter().map(|(name, status)| {
        let keys = json!({
            "keys": status.keys,
            "skipped": status.skipped,
            "fetched_at": status.fetched_at.map(|time| time.to_string()),
            "last_error": status.last_error,
        });
        (name.as_str().to_owned(), keys)
    });
    let body = json!({
        "status": if ready { "ready" } else { "not_ready" },
        "draining": readiness.draining.load(Ordering::Relaxed),
        "issuers": issuers.collect::<serde_json::Map<_, _>>(),
        "store": {
            "current": readiness.cache.is_current(),
            "heard_ms_ago": readiness.cache.age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        },
        "warnings": readiness.warnings(),
    });
    say(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
}
