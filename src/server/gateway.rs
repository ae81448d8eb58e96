//! What happens to a request, from its arrival to its response.

use std::{borrow::Cow, sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, uri::PathAndQuery};
use http_body::Body as _;
use hyper::body::Incoming;
use prometheus_client::metrics::gauge::Gauge;
use tower::{Layer, Service};

use super::{access::Entry, own::OwnEndpoints};
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
    options: GatewayOptions,
}

/// How requests are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GatewayOptions {
    /// The most header fields of a request. Crumbs of a cookie count as one field.
    pub max_headers: usize,
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
    /// A gateway with these routes. `layers` are their gates, in the same order.
    #[must_use]
    pub fn new(
        routes: &[RouteSettings],
        layers: &[GateLayer],
        reserved: &ReservedNames,
        own: OwnEndpoints,
        metrics: Arc<ServerMetrics>,
        options: GatewayOptions,
    ) -> Self {
        let route = |(settings, layer): (&RouteSettings, &GateLayer)| {
            let upstream = Upstream::new(settings.upstream.clone(), reserved.clone());
            let metrics = metrics.route(&settings.policy.name);
            let route = Route { gate: layer.layer(upstream.clone()), upstream, metrics };
            (settings.hosts.clone(), settings.path.clone(), route)
        };
        Self { routes: RouteTable::new(routes.iter().zip(layers).map(route)), own, metrics, options }
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
        if let Err(refusal) = check_size(&request, self.options.max_headers).and_then(|()| normalise(&mut request)) {
            return (refusal, None);
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
        // An upstream is always ready, so a clone of its gate is.
        let Ok(response) = route.gate.clone().call(request).await;
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
    check_coding(request)?;
    one_authority(request)?;
    one_path(request)?;
    count_forwards(request)
}

/// HTTP/2 limits the size of a header by itself, and HTTP/1.1 the number of fields too.
fn check_size(request: &Request<Incoming>, max_headers: usize) -> Result<(), Response<Body>> {
    let fields = request.headers();
    if fields.len() <= max_headers {
        return Ok(());
    }
    let crumbs = fields.get_all(header::COOKIE).iter().count();
    if fields.len() - crumbs.saturating_sub(1) <= max_headers {
        return Ok(());
    }
    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    Err(problem::response(status, "too_many_fields", "The request has too many header fields."))
}

/// `chunked` is taken off here. Any other coding would stay on the body, and the upstream would not know (RFC 9112 §6.1).
fn check_coding(request: &Request<Incoming>) -> Result<(), Response<Body>> {
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    if codings.all(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")) {
        return Ok(());
    }
    let detail = "No transfer coding but chunked is served.";
    Err(problem::response(StatusCode::NOT_IMPLEMENTED, "transfer_coding", detail))
}

/// `Max-Forwards` of an `OPTIONS` request: the gate is one of those that forward it (RFC 9110 §7.6.2).
fn count_forwards(request: &mut Request<Incoming>) -> Result<(), Response<Body>> {
    if request.method() != Method::OPTIONS {
        return Ok(());
    }
    let Some(left) = request.headers().get(header::MAX_FORWARDS) else { return Ok(()) };
    let Some(left) = left.to_str().ok().and_then(|left| left.parse::<u32>().ok()) else { return Ok(()) };
    let Some(less) = left.checked_sub(1) else {
        let mut response = Response::new(Bytes::new().into());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Err(response);
    };
    request.headers_mut().insert(header::MAX_FORWARDS, HeaderValue::from(less));
    Ok(())
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
