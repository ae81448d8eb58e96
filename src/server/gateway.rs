//! What happens to a request, from its arrival to its response.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::time::Instant;

use super::{
    ListenerSettings,
    access::Entry,
    client_address::client_address,
    current::Edition,
    ending::Ending,
    form,
    http1::Refusals,
    own::OwnEndpoints,
    passage::Passage,
    request_id::{self, REQUEST_ID},
    trace_context, upgrade,
};
use crate::{
    clock::Clock,
    cors::{self, CorsSettings},
    gate::{GateLayer, Judge, Passed, grpc, identity::ReservedNames, problem},
    incoming::Incoming,
    limit::{Excess, Limits, concurrency::Place, own::OwnLimits},
    route::{RouteSettings, table::RouteTable},
    telemetry::{
        log::AccessSettings,
        metrics::{RouteMetrics, ServerMetrics},
    },
    upstream::{
        Body, Upstream,
        fields::{self, Arrival, Downstream},
        interim::Interim,
        tunnel::{Hold, Traffic},
    },
    verdict::Reason,
};

/// Everything between a listener and the upstreams.
#[derive(Debug)]
pub struct Gateway {
    routes: RouteTable<Route>,
    own: OwnEndpoints,
    own_limits: Option<Arc<OwnLimits>>,
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
    /// What the access log holds; `None`: there is none.
    pub access: Option<AccessSettings>,
}

/// What a gateway has in common with the one before it.
#[derive(Debug)]
pub struct Lasting<'a> {
    /// What is counted.
    pub metrics: Arc<ServerMetrics>,
    /// What was used of limits.
    pub limits: &'a Limits,
    /// The one before it.
    pub former: Option<&'a Gateway>,
}

/// One route: its gate, and the upstream behind it.
#[derive(Debug)]
struct Route {
    gate: GateLayer,
    passage: Passage,
    cors: Option<CorsSettings>,
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
        options: GatewayOptions,
        Lasting { metrics, limits, former }: Lasting<'_>,
    ) -> Self {
        let keep = |settings: &RouteSettings| {
            let stays = |route: &&Route| {
                route.gate.policy().name == settings.policy.name
                    && route.passage.upstream().is_of(&settings.upstream, reserved)
            };
            Some(former?.routes.iter().find(stays)?.passage.upstream().clone())
        };
        let route = |(settings, layer): (&RouteSettings, &GateLayer)| {
            let name = &settings.policy.name;
            let upstream = keep(settings).unwrap_or_else(|| {
                Upstream::new(settings.upstream.clone(), reserved.clone(), metrics.upstreams.route(name))
            });
            let limits = limits.of_route(name, settings.limits);
            let route = Route {
                gate: layer.clone(),
                passage: Passage::new(upstream, limits, options.access.is_some()),
                cors: settings.cors.clone(),
                metrics: metrics.route(name),
            };
            (settings.hosts.clone(), settings.path.clone(), route)
        };
        let edition = Edition::new();
        let own_limits = limits.of_own(options.listener.own_per_address);
        let routes = RouteTable::new(routes.iter().zip(layers).map(route));
        Self { routes, own, own_limits, metrics, options, edition }
    }

    /// The gates of these routes, in the same order.
    #[must_use]
    pub fn gates(routes: &[RouteSettings], reserved: &ReservedNames, judge: &Judge) -> Vec<GateLayer> {
        let layer =
            |route: &RouteSettings| GateLayer::with_reserved(judge.clone(), route.policy.clone(), reserved.clone());
        routes.iter().map(layer).collect()
    }

    /// Serves one request: resolves with the response's header, and counts it. In a box, since it is handed on from one to another.
    /// `interim`: where interim responses to it go, if they can be sent.
    pub async fn serve(
        &self,
        mut request: Box<Request<Incoming>>,
        downstream: Arc<Downstream>,
        interim: Option<Interim>,
    ) -> Response<Ending> {
        let begun = Instant::now();
        let listener = &*self.options.listener;
        if listener.begins_traces {
            trace_context::begin(request.headers_mut());
        }
        let id = listener.request_ids.of(request.headers(), downstream.trusted, Clock::System.now());
        let mut entry = self.options.access.map(|settings| {
            let client = self.client(&request, &downstream);
            Entry::new(settings, &mut request, &downstream, client, id.clone(), begun)
        });
        // HTTP/1.1 leaves the body out by itself.
        let bodiless = request.method() == Method::HEAD && request.version() == Version::HTTP_2;
        let is_call = request.method() == Method::POST && grpc::is_call(request.headers());
        let (mut response, route) = self.answer(request, id.as_ref(), Arrival { at: begun, downstream, interim }).await;
        let may_be_refused = is_call || response.status().is_client_error() || response.status().is_server_error();
        let refused = may_be_refused.then(|| response.extensions().get::<Reason>().copied()).flatten();
        if is_call {
            grpc::translate(&mut response);
        }
        if let Some(id) = id {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        if bodiless {
            response = without_body(response);
        }
        let metrics = route.map_or(&self.metrics.unrouted, |route| &*route.metrics);
        metrics.observe(response.status(), refused, begun.elapsed());
        if let Some(entry) = &mut entry {
            entry.answered(&response, route.map(|route| Arc::clone(&route.gate.policy().name)));
        }
        if let (Some(traffic), Some(hold)) =
            (response.extensions_mut().remove::<Arc<Traffic>>(), response.extensions().get::<Hold>())
            && let Some(mut entry) = entry.take()
        {
            entry.follow(traffic);
            hold.keep(entry);
        }
        let limits = route.and_then(|route| route.passage.limits());
        let place = limits.and_then(|_| response.extensions_mut().remove::<Place>());
        response.map(|body| Ending::new(body, entry, place))
    }

    /// What holds for connections that begin now.
    #[must_use]
    pub const fn listener(&self) -> &Arc<ListenerSettings> {
        &self.options.listener
    }

    /// Where it is told what of a connection from this peer was refused before it was a request.
    pub(super) fn refusals(&self, peer: HeaderValue) -> Refusals {
        Refusals { metrics: Arc::clone(&self.metrics), is_logged: self.options.access.is_some(), peer }
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

    /// Connections that were closed because their address had too many.
    #[must_use]
    pub fn connections_refused(&self) -> &Counter {
        &self.metrics.connections_refused
    }

    /// Lets go of what was unused for too long.
    pub fn maintain(&self) {
        self.routes.iter().for_each(|route| route.passage.upstream().maintain());
    }

    async fn answer(
        &self,
        mut request: Box<Request<Incoming>>,
        id: Option<&HeaderValue>,
        arrival: Arrival,
    ) -> (Response<Body>, Option<&Route>) {
        let handshake = upgrade::take(&mut request);
        if let Err(unserved) = form::normalise(&mut request, self.options.listener.max_headers) {
            return (unserved.answer(), None);
        }
        fields::strip_request(request.headers_mut());
        if let Some(id) = id {
            request_id::put(request.headers_mut(), id.clone());
        }
        if self.own.owns(request.uri().path()) {
            // None of them is a WebSocket, and any success would be taken for one.
            if handshake.is_some_and(|handshake| handshake.is_extended_connect) {
                return (form::Unserved::Method.answer(), None);
            }
            // Boxed: every connection has room for what serves its requests, and few of them come here.
            return (Box::pin(self.serve_own(*request, &arrival.downstream)).await, None);
        }
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let Some(route) = self.routes.find(host, request.uri().path()) else {
            let refusal = problem::response(StatusCode::NOT_FOUND, "no_route", "No route leads there.");
            return (refusal, None);
        };
        if let Some(answer) = route.cors.as_ref().and_then(|cors| cors.preflight(&request)) {
            return (answer, Some(route));
        }
        if let Some(handshake) = handshake {
            if upgrade::is_forged(
                &route.gate.policy().sources,
                &self.own.origins,
                request.headers(),
                &arrival.downstream,
            ) {
                let detail = "A page of this origin must not open WebSockets here.";
                return (problem::response(StatusCode::FORBIDDEN, "origin", detail), Some(route));
            }
            if route.passage.upstream().takes_websockets() {
                request.extensions_mut().insert(handshake);
            } else if handshake.is_extended_connect {
                return (form::Unserved::Method.answer(), Some(route));
            }
        }
        let is_shared = route.cors.is_some() || !self.own.origins.is_empty();
        let origin = is_shared.then(|| cors::one_origin(request.headers()).cloned()).flatten();
        let mut response = match self.admit_address(route, &request, &arrival.downstream) {
            Ok(()) => match route.gate.admit(&mut request, arrival.at).await {
                Ok(Passed { admission, time_left }) => {
                    let mut response = route.passage.pass(request, admission, arrival).await;
                    if let Some(time_left) = time_left {
                        time_left.add(response.headers_mut());
                    }
                    response
                }
                Err(refusal) => refusal,
            },
            Err(excess) => excess.answer(problem::is_grpc_call(request.headers())),
        };
        self.share(route, origin.as_ref(), &mut response);
        (response, Some(route))
    }

    /// What the gate itself is asked, within what the client's address may ask. A machine whose credential is good spends nothing: senders of
    /// events must not be slowed down.
    async fn serve_own(&self, request: Request<Incoming>, downstream: &Downstream) -> Response<Body> {
        let Some(limits) = &self.own_limits else { return self.own.serve(request, downstream).await };
        let client = self.client(&request, downstream);
        if let Err(excess) = limits.spend(client) {
            let mut response = excess.answer(problem::is_grpc_call(request.headers()));
            self.own.origins.share(self.own.origins.of(request.headers()), response.headers_mut());
            return response;
        }
        let is_for_machines = OwnEndpoints::is_for_machines(request.uri().path());
        let response = self.own.serve(request, downstream).await;
        if is_for_machines && !response.status().is_client_error() {
            limits.give_back(client);
        }
        response
    }

    /// Where a request came from, as far as it is believed.
    fn client<B>(&self, request: &Request<B>, downstream: &Downstream) -> Option<IpAddr> {
        client_address(downstream, &self.options.listener.trusted_proxies, request.headers())
    }

    /// Before the verdict, so that it also costs those whose tokens are not good.
    fn admit_address<B>(&self, route: &Route, request: &Request<B>, downstream: &Downstream) -> Result<(), Excess> {
        let Some(limits) = route.passage.limits().filter(|limits| limits.counts_addresses()) else { return Ok(()) };
        limits.spend_address(self.client(request, downstream)).inspect_err(|excess| limits.count(*excess))
    }

    /// Lets scripts of other origins read the response, where they may.
    fn share(&self, route: &Route, origin: Option<&HeaderValue>, response: &mut Response<Body>) {
        if route.cors.as_ref().is_some_and(|cors| cors.share(origin, response.headers_mut())) {
            return;
        }
        let told = response.extensions();
        if told.get::<Reason>().is_some() || told.get::<Excess>().is_some() {
            self.own.origins.share(origin.filter(|origin| self.own.origins.has(origin)), response.headers_mut());
        }
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
