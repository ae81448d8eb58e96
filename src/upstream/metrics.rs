//! What is counted about upstreams. Labels are routes and the URLs of the settings, so their number is that of the settings.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};

use super::endpoints::Endpoints;
use crate::telemetry::histogram::TimeHistogram;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RouteLabel {
    route: Arc<str>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, EncodeLabelSet)]
struct EndpointLabels {
    route: Arc<str>,
    endpoint: Arc<str>,
}

/// Metrics of all upstreams of a process. They outlive a configuration.
#[derive(Debug, Default)]
pub struct UpstreamMetrics {
    durations: Family<RouteLabel, TimeHistogram>,
    before: Family<RouteLabel, TimeHistogram>,
    retries: Family<RouteLabel, Counter>,
    exhausted: Family<RouteLabel, Counter>,
    ejections: Family<EndpointLabels, Counter>,
    connect_failures: Family<EndpointLabels, Counter>,
    live: Arc<Live>,
}

/// Metrics of the upstream of one route.
#[derive(Debug)]
pub struct RouteUpstreamMetrics {
    pub(super) route: Arc<str>,
    /// From the choice of an endpoint to the header of its response.
    pub(super) duration: TimeHistogram,
    /// Before that.
    pub(super) before: TimeHistogram,
    pub(super) retries: Counter,
    /// Retries that there was no budget for.
    pub(super) exhausted: Counter,
    ejections: Family<EndpointLabels, Counter>,
    connect_failures: Family<EndpointLabels, Counter>,
    live: Arc<Live>,
}

/// Metrics of one origin.
#[derive(Debug)]
pub struct OriginMetrics {
    pub(super) name: Arc<str>,
    pub(super) ejections: Counter,
    pub(super) connect_failures: Counter,
}

impl UpstreamMetrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "upstream_duration_seconds",
            "Time from the choice of an endpoint to the header of its response",
            self.durations.clone(),
        );
        registry.register(
            "gate_duration_seconds",
            "Time from a request's header to the choice of an endpoint for it",
            self.before.clone(),
        );
        registry.register("upstream_retries", "Requests that were sent once more", self.retries.clone());
        registry.register(
            "upstream_retries_exhausted",
            "Requests that were not sent once more, because there was no budget left",
            self.exhausted.clone(),
        );
        registry.register("upstream_ejections", "Endpoints that were left alone for a while", self.ejections.clone());
        registry.register(
            "upstream_connect_failures",
            "Connections to endpoints that could not be made",
            self.connect_failures.clone(),
        );
        registry.register_collector(Box::new(Arc::clone(&self.live)));
    }

    /// Those of one route, the same for the same name.
    #[must_use]
    pub fn route(&self, route: &Arc<str>) -> RouteUpstreamMetrics {
        let label = RouteLabel { route: Arc::clone(route) };
        RouteUpstreamMetrics {
            route: Arc::clone(route),
            duration: self.durations.get_or_create_owned(&label),
            before: self.before.get_or_create_owned(&label),
            retries: self.retries.get_or_create_owned(&label),
            exhausted: self.exhausted.get_or_create_owned(&label),
            ejections: self.ejections.clone(),
            connect_failures: self.connect_failures.clone(),
            live: Arc::clone(&self.live),
        }
    }
}

impl RouteUpstreamMetrics {
    pub(super) fn origin(&self, name: &str) -> Arc<OriginMetrics> {
        let labels = EndpointLabels { route: Arc::clone(&self.route), endpoint: name.into() };
        Arc::new(OriginMetrics {
            name: Arc::clone(&labels.endpoint),
            ejections: self.ejections.get_or_create_owned(&labels),
            connect_failures: self.connect_failures.get_or_create_owned(&labels),
        })
    }

    /// From now on these are counted when metrics are asked for.
    pub(super) fn watch(&self, endpoints: &Arc<Endpoints>) {
        let mut live = self.live.0.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|known| known.strong_count() > 0);
        live.push(Arc::downgrade(endpoints));
    }
}

/// The upstreams that there are: the configuration's, and those of one before it whose requests are still under way. They are
/// counted when somebody asks, so that requests need not.
#[derive(Default)]
struct Live(Mutex<Vec<Weak<Endpoints>>>);

#[derive(Default)]
struct Count {
    addresses: u32,
    available: u32,
    in_flight: u32,
}

impl Live {
    fn counts(&self) -> BTreeMap<EndpointLabels, Count> {
        let live: Vec<_> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
        let mut counts = BTreeMap::<_, Count>::new();
        for endpoints in live {
            endpoints.each(|origin, endpoint| {
                let labels =
                    EndpointLabels { route: Arc::clone(endpoints.route()), endpoint: Arc::clone(&origin.name) };
                let count = counts.entry(labels).or_default();
                if let Some(endpoint) = endpoint {
                    count.addresses += 1;
                    count.available += u32::from(endpoint.is_available());
                    count.in_flight += endpoint.in_flight();
                }
            });
        }
        counts
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Live")
    }
}

impl Collector for Live {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        type Value = fn(&Count) -> u32;
        let gauges: [(&str, &str, Value); 3] = [
            ("upstream_endpoints", "Addresses that an endpoint of the settings stands for", |count| count.addresses),
            ("upstream_endpoints_available", "Those that are neither ejected nor found unwell", |count| {
                count.available
            }),
            ("upstream_in_flight", "Requests under way, until the end of their responses", |count| count.in_flight),
        ];
        let counts = self.counts();
        for (name, help, value) in gauges {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, count) in &counts {
                ConstGauge::new(value(count)).encode(metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}
