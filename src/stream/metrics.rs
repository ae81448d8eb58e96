//! Open streams, and what they ended by.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::verdict::Reason;

/// What a stream is, which decides how it ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A response that takes long, or one that is waited for.
    Response,
    /// Server-sent events.
    EventStream,
    /// A gRPC call.
    Grpc,
    /// A WebSocket.
    WebSocket,
    /// Whatever a service behind a layer of its own does ([`Admission::ended`](crate::gate::Admission::ended)).
    Service,
}

impl Kind {
    /// Its name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::EventStream => "event_stream",
            Self::Grpc => "grpc",
            Self::WebSocket => "websocket",
            Self::Service => "service",
        }
    }
}

/// Metrics of streams.
#[derive(Clone, Default, Debug)]
pub struct StreamMetrics {
    open: Family<OpenLabels, Gauge>,
    ended: Family<EndedLabels, Counter>,
    judged: Counter,
    failed: Counter,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OpenLabels {
    route: Arc<str>,
    kind: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct EndedLabels {
    route: Arc<str>,
    reason: &'static str,
    enforced: &'static str,
}

impl StreamMetrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("streams", "Open streams by route and kind", self.open.clone());
        registry.register(
            "streams_ended",
            "Streams that were ended, by route and verdict; those not `enforced` went on, in `observe` mode",
            self.ended.clone(),
        );
        registry.register("streams_judged", "Times that an open stream was judged again", self.judged.clone());
        registry.register(
            "streams_judging_failures",
            "Times that judging open streams failed for a fault of the gate",
            self.failed.clone(),
        );
    }

    /// Begins at zero with what a route's streams can be and end by.
    pub(super) fn add_route(&self, route: &Arc<str>, enforced: bool) {
        for kind in [Kind::Response, Kind::EventStream, Kind::Grpc, Kind::WebSocket, Kind::Service] {
            self.gauge(route, kind);
        }
        for reason in Reason::ALL {
            if !matches!(reason, Reason::MissingToken | Reason::InvalidRequest | Reason::InsufficientScope) {
                self.counter(route, reason, enforced);
            }
        }
    }

    fn gauge(&self, route: &Arc<str>, kind: Kind) -> Gauge {
        self.open.get_or_create_owned(&OpenLabels { route: Arc::clone(route), kind: kind.as_str() })
    }

    fn counter(&self, route: &Arc<str>, reason: Reason, enforced: bool) -> Counter {
        let enforced = if enforced { "true" } else { "false" };
        self.ended.get_or_create_owned(&EndedLabels { route: Arc::clone(route), reason: reason.code(), enforced })
    }

    pub(super) fn open(&self, route: &Arc<str>, kind: Kind) -> Gauge {
        let gauge = self.gauge(route, kind);
        gauge.inc();
        gauge
    }

    pub(super) fn ended(&self, route: &Arc<str>, reason: Reason, enforced: bool) {
        self.counter(route, reason, enforced).inc();
    }

    pub(super) fn judged(&self) {
        self.judged.inc();
    }

    pub(super) fn failed(&self) {
        self.failed.inc();
    }
}
