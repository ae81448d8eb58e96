//! Metrics of requests, and the registry of all.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use http::StatusCode;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::histogram::TimeHistogram;
use crate::upstream::metrics::UpstreamMetrics;

/// Labels of a request.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RequestLabels {
    route: Arc<str>,
    code: u16,
}

/// The label of a route.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RouteLabel {
    route: Arc<str>,
}

/// Metrics of the public listener.
#[derive(Debug)]
pub struct ServerMetrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabel, TimeHistogram>,
    in_flight: Gauge,
    /// Open connections of clients.
    pub connections: Gauge,
    routes: Mutex<Vec<Arc<RouteMetrics>>>,
    /// Those of upstreams.
    pub upstreams: UpstreamMetrics,
    /// Requests that no route has.
    pub unrouted: RouteMetrics,
}

/// Metrics of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    name: Arc<str>,
    requests: Family<RequestLabels, Counter>,
    /// Counters by status, looked up once: looking them up by label takes a lock.
    by_status: Box<[OnceLock<Counter>]>,
    duration: TimeHistogram,
}

impl ServerMetrics {
    /// Metrics that have counted nothing.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let requests = Family::default();
        let durations = Family::default();
        let unrouted = RouteMetrics::new("-".into(), &requests, &durations);
        Arc::new(Self {
            requests,
            durations,
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            routes: Mutex::default(),
            upstreams: UpstreamMetrics::default(),
            unrouted,
        })
    }

    /// The metrics of a route, the same for the same name.
    #[must_use]
    pub fn route(&self, name: &Arc<str>) -> Arc<RouteMetrics> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = routes.iter().find(|route| route.name == *name) {
            return Arc::clone(known);
        }
        let route = Arc::new(RouteMetrics::new(Arc::clone(name), &self.requests, &self.durations));
        routes.push(Arc::clone(&route));
        route
    }

    /// Requests that are being served.
    #[must_use]
    pub fn in_flight(&self) -> Gauge {
        self.in_flight.clone()
    }

    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests by route and status", self.requests.clone());
        registry.register(
            "request_duration_seconds",
            "Time from a request's header to its response's",
            self.durations.clone(),
        );
        registry.register("requests_in_flight", "Requests that are being served", self.in_flight.clone());
        registry.register("connections", "Open connections of clients", self.connections.clone());
        self.upstreams.register(registry);
    }
}

impl RouteMetrics {
    fn new(
        name: Arc<str>,
        requests: &Family<RequestLabels, Counter>,
        durations: &Family<RouteLabel, TimeHistogram>,
    ) -> Self {
        let duration = durations.get_or_create_owned(&RouteLabel { route: Arc::clone(&name) });
        let by_status = (0..500).map(|_| OnceLock::new()).collect();
        Self { name, requests: requests.clone(), by_status, duration }
    }

    /// Counts a response.
    pub fn observe(&self, status: StatusCode, took: Duration) {
        let code = status.as_u16();
        let labels = || RequestLabels { route: Arc::clone(&self.name), code };
        let counter = |slot: &OnceLock<Counter>| {
            slot.get_or_init(|| self.requests.get_or_create_owned(&labels())).inc();
        };
        if let Some(slot) = self.by_status.get(usize::from(code.saturating_sub(100))) {
            counter(slot);
        }
        self.duration.observe(took);
    }
}
