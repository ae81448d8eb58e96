//! What happens to a request, from its arrival to its response.

use std::{borrow::Cow, sync::Arc, time::Instant};

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, uri::PathAndQuery};
use hyper::body::Incoming;
use prometheus_client::metrics::gauge::Gauge;
use tower::{Layer, Service};

use super::own::OwnEndpoints;
use crate::{
    gate::{Gate, GateLayer, Judge, identity::ReservedNames, problem},
    route::{RouteSettings, path, table::RouteTable},
    telemetry::metrics::{RouteMetrics, ServerMetrics},
    upstream::{
        Body, Upstream,
        fields::{self, Downstream},
    },
};

/// Everything between a listener and the upstreams.
#[derive(Debug)]
pub struct Gateway {
    routes: RouteTable<Route>,
    own: OwnEndpoints,
    metrics: Arc<ServerMetrics>,
}

/// One route: its gate, and the upstream behind it.
#[derive(Debug)]
struct Route {
    gate: Gate<Upstream>,
    upstream: Upstream,
    metrics: Arc<RouteMetrics>,
}

impl Gateway {
    /// A gateway with these routes. `layers` are their gates, in the same order.
    #[must_use]
    pub fn new(
        routes: &[RouteSettings],
        layers: &[GateLayer],
        reserved: &ReservedNames,
        own: OwnEndpoints,
        metrics: Arc<ServerMetrics>,
    ) -> Self {
        let route = |(settings, layer): (&RouteSettings, &GateLayer)| {
            let upstream = Upstream::new(settings.upstream.clone(), reserved.clone());
            let metrics = metrics.route(&settings.policy.name);
            let route = Route { gate: layer.layer(upstream.clone()), upstream, metrics };
            (settings.hosts.clone(), settings.path.clone(), route)
        };
        Self { routes: RouteTable::new(routes.iter().zip(layers).map(route)), own, metrics }
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
        let (response, metrics) = self.answer(request, downstream).await;
        metrics.unwrap_or(&self.metrics.unrouted).observe(response.status(), begun.elapsed());
        response
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
    ) -> (Response<Body>, Option<&RouteMetrics>) {
        if let Err(refusal) = normalise(&mut request) {
            return (refusal, None);
        }
        fields::strip_hop_by_hop(request.headers_mut());
        if self.own.owns(request.uri().path()) {
            return (self.own.serve(request, &downstream).await, None);
        }
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let Some(route) = self.routes.find(host, request.uri().path()) else {
            let refusal = problem::response(StatusCode::NOT_FOUND, "no_route", "No route leads there.");
            return (refusal, None);
        };
        request.extensions_mut().insert(downstream);
        // An upstream is always ready, so a clone of its gate is.
        let Ok(response) = route.gate.clone().call(request).await;
        (response, Some(&route.metrics))
    }
}

/// Brings a request into the one form that everything after goes by: one authority, one spelling of the path.
fn normalise(request: &mut Request<Incoming>) -> Result<(), Response<Body>> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(problem::response(StatusCode::NOT_IMPLEMENTED, "method", "This method is not served."));
    }
    if let Some(expectation) = request.headers().get(header::EXPECT)
        && !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(problem::response(
            StatusCode::EXPECTATION_FAILED,
            "expectation",
            "This expectation cannot be met.",
        ));
    }
    one_authority(request)?;
    one_path(request)
}

/// HTTP/1.1: exactly one `Host`, the same as in an absolute target (RFC 9112 §3.2). HTTP/2: `:authority`, or `Host`, not two
/// that differ (RFC 9113 §8.3.1). Either becomes `Host`.
fn one_authority(request: &mut Request<Incoming>) -> Result<(), Response<Body>> {
    let refuse =
        || Err(problem::response(StatusCode::BAD_REQUEST, "invalid_host", "The request names no host, or several."));
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    match (host, second, request.uri().authority()) {
        (Some(host), None, None) if is_authority(host.as_bytes()) => Ok(()),
        (Some(host), None, Some(authority))
            if is_authority(host.as_bytes()) && host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            Ok(())
        }
        (None, None, Some(authority)) if is_authority(authority.as_str().as_bytes()) => {
            let Ok(host) = HeaderValue::try_from(authority.as_str()) else { return refuse() };
            request.headers_mut().insert(header::HOST, host);
            Ok(())
        }
        (None, None, None) if request.version() == Version::HTTP_10 => Ok(()),
        _ => refuse(),
    }
}

/// Whether it looks like a host with an optional port: no user information, no path, no list.
fn is_authority(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(byte))
}

/// The path in canonical form; the query as it is.
fn one_path(request: &mut Request<Incoming>) -> Result<(), Response<Body>> {
    let uri = request.uri();
    if uri.path() == "*" && request.method() == Method::OPTIONS {
        return Ok(());
    }
    let canonical = match path::canonicalise(uri.path()) {
        Ok(Cow::Borrowed(_)) => return Ok(()),
        Ok(Cow::Owned(canonical)) => canonical,
        Err(fault) => {
            tracing::debug!(fault = %fault, "path refused");
            return Err(problem::response(
                StatusCode::BAD_REQUEST,
                "invalid_path",
                "The path can be read in more than one way.",
            ));
        }
    };
    let target = match uri.query() {
        Some(query) => format!("{canonical}?{query}"),
        None => canonical,
    };
    let Ok(path_and_query) = PathAndQuery::try_from(target) else {
        return Err(problem::response(StatusCode::BAD_REQUEST, "invalid_path", "The path is not valid."));
    };
    *request.uri_mut() = Uri::from(path_and_query);
    Ok(())
}
