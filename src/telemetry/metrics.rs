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
use crate::{server::http2::fault, upstream::metrics::UpstreamMetrics, verdict::Reason};

/// Labels of a request.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RequestLabels {
    route: Arc<str>,
    code: u16,
}

/// Labels of what became of a request.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ResponseLabels {
    route: Arc<str>,
    verdict: &'static str,
    class: &'static str,
}

/// Why something is no request.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct MalformedLabels {
    reason: &'static str,
}

/// Why a connection ended.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct FaultLabels {
    fault: &'static str,
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
    responses: Family<ResponseLabels, Counter>,
    durations: Family<RouteLabel, TimeHistogram>,
    in_flight: Gauge,
    /// Open connections of clients.
    pub connections: Gauge,
    /// Connections that were closed because their address had too many.
    pub connections_refused: Counter,
    malformed: Family<MalformedLabels, Counter>,
    http2_faults: Family<FaultLabels, Counter>,
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
    responses: Family<ResponseLabels, Counter>,
    /// Of those that passed, by class.
    passed: [OnceLock<Counter>; CLASSES.len()],
    duration: TimeHistogram,
}

/// Classes of statuses (RFC 9110 §15).
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The `verdict` of requests that the gate did not refuse.
const PASSED: &str = "passed";

impl ServerMetrics {
    /// Metrics that have counted nothing.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let (requests, responses, durations) = (Family::default(), Family::default(), Family::default());
        let unrouted = RouteMetrics::new("-".into(), &requests, &responses, &durations);
        let malformed: Family<MalformedLabels, Counter> = Family::default();
        for reason in ["malformed_request", "header_too_large", "target_too_long"] {
            // From the start, so that a rise can be told.
            drop(malformed.get_or_create_owned(&MalformedLabels { reason }));
        }
        let http2_faults: Family<FaultLabels, Counter> = Family::default();
        for fault in fault::names() {
            drop(http2_faults.get_or_create_owned(&FaultLabels { fault }));
        }
        Arc::new(Self {
            requests,
            responses,
            durations,
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            malformed,
            http2_faults,
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
        let route = Arc::new(RouteMetrics::new(Arc::clone(name), &self.requests, &self.responses, &self.durations));
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
        registry.register("responses", "Responses by route, verdict and class of status", self.responses.clone());
        registry.register(
            "request_duration_seconds",
            "Time from a request's header to its response's",
            self.durations.clone(),
        );
        registry.register("requests_in_flight", "Requests that are being served", self.in_flight.clone());
        registry.register("connections", "Open connections of clients", self.connections.clone());
        registry.register(
            "connections_refused",
            "Connections that were closed as they came, because their address had as many as it may",
            self.connections_refused.clone(),
        );
        registry.register(
            "http2_faults",
            "Connections of HTTP/2 that the gate ended for what their client sent",
            self.http2_faults.clone(),
        );
        registry.register(
            "malformed_requests",
            "What came over HTTP/1.1 and was refused before it was a request",
            self.malformed.clone(),
        );
        self.upstreams.register(registry);
    }

    /// Counts a connection of HTTP/2 that ended for this fault of its client.
    pub fn count_http2_fault(&self, fault: &'static str) {
        self.http2_faults.get_or_create_owned(&FaultLabels { fault }).inc();
    }

    /// Counts what was refused before it was a request. `reason`: the code of its problem.
    pub fn count_malformed(&self, reason: &'static str) {
        self.malformed.get_or_create_owned(&MalformedLabels { reason }).inc();
    }
}

impl RouteMetrics {
    fn new(
        name: Arc<str>,
        requests: &Family<RequestLabels, Counter>,
        responses: &Family<ResponseLabels, Counter>,
        durations: &Family<RouteLabel, TimeHistogram>,
    ) -> Self {
        let duration = durations.get_or_create_owned(&RouteLabel { route: Arc::clone(&name) });
        let by_status = (0..500).map(|_| OnceLock::new()).collect();
        let passed = CLASSES.map(|_| OnceLock::new());
        Self { name, requests: requests.clone(), by_status, responses: responses.clone(), passed, duration }
    }

    /// Counts a response, and why the request was refused if it was.
    pub fn observe(&self, status: StatusCode, refused: Option<Reason>, took: Duration) {
        let code = status.as_u16();
        let labels = || RequestLabels { route: Arc::clone(&self.name), code };
        let counter = |slot: &OnceLock<Counter>| {
            slot.get_or_init(|| self.requests.get_or_create_owned(&labels())).inc();
        };
        if let Some(slot) = self.by_status.get(usize::from(code.saturating_sub(100))) {
            counter(slot);
        }
        let class = usize::from(code / 100).wrapping_sub(1);
        if let (Some(slot), Some(&class)) = (self.passed.get(class), CLASSES.get(class)) {
            let labels = |verdict| ResponseLabels { route: Arc::clone(&self.name), verdict, class };
            match refused {
                // Seldom enough to be looked up.
                Some(reason) => self.responses.get_or_create_owned(&labels(reason.code())).inc(),
                None => slot.get_or_init(|| self.responses.get_or_create_owned(&labels(PASSED))).inc(),
            };
        }
        self.duration.observe(took);
    }
}
