//! What happens to a request, from its arrival to its response.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use prometheus_client::metrics::gauge::Gauge;
use tower::{Layer, Service};

use super::{ListenerSettings, access::Entry, current::Edition, form, own::OwnEndpoints};
use crate::{
    gate::{Gate, GateLayer, Judge, identity::ReservedNames, problem},
    route::{RouteSettings, table::RouteTable},
    telemetry::metrics::{RouteMetrics, ServerMetrics},
    upstream::{
        Body, Upstream,
        fields::{self, Downstream},
    },
    verdict::Reason,
};

/// Everything between a listener and the upstreams.
#[derive(Debug)]
pub struct Gateway {
    routes: RouteTable<Route>,
    own: OwnEndpoints,
    metrics: Arc<ServerMetrics>,
    options: GatewayOptions,
    edition: Edition,
}

/// How requests are taken.
#[derive(Clone, Debug)]
pub struct GatewayOptions {
    /// What holds for connections, from their beginning; how many fields a request may have, and who is a trusted proxy, from the next
    /// request. Crumbs of a cookie count as one field.
    pub listener: Arc<ListenerSettings>,
    /// Whether each request is logged.
    pub access_log: bool,
}

/// One route: its gate, and the upstream behind it.
#[derive(Debug)]
struct Route {
    gate: Gate<Upstream>,
    upstream: Upstream,
    metrics: Arc<RouteMetrics>,
}

impl Gateway {
    /// A gateway with these routes. `layers` are their gates, in the same order. The upstream of a route of `former` goes
    /// on to be used by the route of the same name, if its settings are the same.
    #[must_use]
    pub fn new(
        routes: &[RouteSettings],
        layers: &[GateLayer],
        reserved: &ReservedNames,
        own: OwnEndpoints,
        metrics: Arc<ServerMetrics>,
        options: GatewayOptions,
        former: Option<&Self>,
    ) -> Self {
        let keep = |settings: &RouteSettings| {
            let stays = |route: &&Route| {
                route.gate.policy().name == settings.policy.name && route.upstream.is_of(&settings.upstream, reserved)
            };
            Some(former?.routes.iter().find(stays)?.upstream.clone())
        };
        let route = |(settings, layer): (&RouteSettings, &GateLayer)| {
            let name = &settings.policy.name;
            let upstream = keep(settings).unwrap_or_else(|| {
                Upstream::new(settings.upstream.clone(), reserved.clone(), metrics.upstreams.route(name))
            });
            let metrics = metrics.route(name);
            let route = Route { gate: layer.layer(upstream.clone()), upstream, metrics };
            (settings.hosts.clone(), settings.path.clone(), route)
        };
        let edition = Edition::new();
        Self { routes: RouteTable::new(routes.iter().zip(layers).map(route)), own, metrics, options, edition }
    }

    /// The gates of these routes, in the same order.
    #[must_use]
    pub fn gates(routes: &[RouteSettings], reserved: &ReservedNames, judge: &Judge) -> Vec<GateLayer> {
        let layer =
            |route: &RouteSettings| GateLayer::with_reserved(judge.clone(), route.policy.clone(), reserved.clone());
        routes.iter().map(layer).collect()
    }

    /// Serves one request: resolves with the response's header, and counts it.
    pub async fn serve(&self, request: Request<Incoming>, downstream: Arc<Downstream>) -> Response<Body> {
        let begun = Instant::now();
        let entry = self.options.access_log.then(|| Box::new(Entry::new(&request, &downstream, begun)));
        // HTTP/1.1 leaves the body out by itself.
        let bodiless = request.method() == Method::HEAD && request.version() == Version::HTTP_2;
        let (mut response, route) = self.answer(request, downstream).await;
        if bodiless {
            response = without_body(response);
        }
        let metrics = route.map_or(&self.metrics.unrouted, |route| &*route.metrics);
        metrics.observe(response.status(), begun.elapsed());
        if let Some(entry) = entry {
            entry.answered(&response, route.map(|route| Arc::clone(&route.gate.policy().name)));
        }
        response
    }

    /// What holds for connections that begin now.
    #[must_use]
    pub const fn listener(&self) -> &Arc<ListenerSettings> {
        &self.options.listener
    }

    /// Which gateway it is.
    #[must_use]
    pub const fn edition(&self) -> Edition {
        self.edition
    }

    /// Requests that are being served.
    #[must_use]
    pub fn in_flight(&self) -> Gauge {
        self.metrics.in_flight()
    }

    /// Open connections of clients.
    #[must_use]
    pub fn connections(&self) -> Gauge {
        self.metrics.connections.clone()
    }

    /// Lets go of what was unused for too long.
    pub fn maintain(&self) {
        self.routes.iter().for_each(|route| route.upstream.maintain());
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
        downstream: Arc<Downstream>,
    ) -> (Response<Body>, Option<&Route>) {
        if let Err(unserved) = form::normalise(&mut request, self.options.listener.max_headers) {
            return (unserved.answer(), None);
        }
        fields::strip_request(request.headers_mut());
        if self.own.owns(request.uri().path()) {
            return (self.own.serve(request, &downstream).await, None);
        }
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let Some(route) = self.routes.find(host, request.uri().path()) else {
            let refusal = problem::response(StatusCode::NOT_FOUND, "no_route", "No route leads there.");
            return (refusal, None);
        };
        request.extensions_mut().insert(downstream);
        let origin = self.own.origins.of(request.headers()).cloned();
        // An upstream is always ready, so a clone of its gate is.
        let Ok(mut response) = route.gate.clone().call(request).await;
        if response.extensions().get::<Reason>().is_some() {
            self.own.origins.share(origin.as_ref(), response.headers_mut());
        }
        (response, Some(route))
    }
}

/// The header of a response to `HEAD`: it says how long the body would be.
fn without_body(mut response: Response<Body>) -> Response<Body> {
    if let (Some(length), header::Entry::Vacant(entry)) = (
        response.body().size_hint().exact().filter(|length| *length > 0),
        response.headers_mut().entry(header::CONTENT_LENGTH),
    ) {
        entry.insert(HeaderValue::from(length));
    }
    response.map(|_| Bytes::new().into())
}
