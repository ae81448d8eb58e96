//! Sends a request to its upstream and brings the response back.

use std::{
    error::Error,
    pin::{Pin, pin},
    sync::Arc,
};

use http::{Request, Response, Version, header};
use http_body::Body as _;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Body, UpstreamSettings,
    body::Limits,
    endpoint::{Connections, Endpoint, InFlight},
    endpoints::{self, Endpoints},
    error::UpstreamError,
    fields::Arrival,
    interim::Interim,
    metrics::RouteUpstreamMetrics,
    outbound::Outbound,
    resolve::{Resolver, SystemResolver},
    send::Failed,
    transport::ConnectError,
    tunnel::Handshake,
    waiting::Waiting,
};
use crate::{
    gate::{Admission, grpc, identity::ReservedNames},
    incoming::Incoming,
    stream::{Kind, Leash, Tether},
    verdict::Reason,
};

/// One upstream. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Upstream(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) reserved: ReservedNames,
    _resolving: AbortOnDropHandle<()>,
}

impl Upstream {
    /// An upstream without connections, which asks the system about names. `reserved`: names of trailers that must not come from a
    /// client. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(settings: UpstreamSettings, reserved: ReservedNames, metrics: RouteUpstreamMetrics) -> Self {
        Self::with_resolver(settings, reserved, metrics, Arc::new(SystemResolver))
    }

    /// Whether it is an upstream with these settings, so that its connections can go on to be used.
    #[must_use]
    pub fn is_of(&self, settings: &UpstreamSettings, reserved: &ReservedNames) -> bool {
        *self.0.endpoints.settings() == *settings && self.0.reserved == *reserved
    }

    /// The same, with another resolver.
    #[must_use]
    pub fn with_resolver(
        settings: UpstreamSettings,
        reserved: ReservedNames,
        metrics: RouteUpstreamMetrics,
        resolver: Arc<dyn Resolver>,
    ) -> Self {
        let endpoints = Endpoints::new(settings, metrics, std::time::Instant::now());
        let resolving = tokio::spawn(endpoints::keep_resolved(Arc::clone(&endpoints), resolver));
        Self(Arc::new(Shared { endpoints, reserved, _resolving: AbortOnDropHandle::new(resolving) }))
    }

    /// Whether WebSockets may be opened to it.
    #[must_use]
    pub fn takes_websockets(&self) -> bool {
        self.0.settings().websocket
    }

    /// Brings back endpoints that were left alone for long enough, and lets go of connections that were unused for too long. Called
    /// every second or so.
    pub fn maintain(&self) {
        self.0.endpoints.maintain();
    }
}

/// A response on its way.
pub type Sent = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

impl Upstream {
    /// Sends a request, which was admitted so if it was asked for a token. Resolves with its response, whatever comes of it.
    #[must_use]
    pub fn send(&self, mut request: Box<Request<Incoming>>, admission: Option<Admission>, arrival: &Arrival) -> Sent {
        let shared = Arc::clone(&self.0);
        let kind = if grpc::is_call(request.headers()) { Kind::Grpc } else { Kind::Response };
        let tether = Tether::of(admission, kind);
        if let Some(handshake) = request.extensions_mut().remove::<Handshake>() {
            let arrival = arrival.clone();
            return Box::pin(async move { shared.open_websocket(request, handshake, tether, arrival).await });
        }
        let leash = (tether.is_tied() && !request.body().is_end_stream()).then(Leash::default);
        let waiting = Waiting { look: tether.grows_up(), interim: interim_of(&request, arrival) };
        let way = shared.way(tether, waiting);
        shared.endpoints.metrics.before.observe(way.begun.duration_since(arrival.at));
        let request = shared.outbound(request, arrival, leash.clone());
        Box::pin(async move {
            let answer = if let Some(deadline) = way.limits.deadline {
                // Boxed once more: most have none.
                Box::pin(shared.answered_by(deadline, request, &way)).await
            } else {
                // Pinned where it is: a future that is handed on has its place twice.
                let trying = pin!(shared.try_and_try_again(request, &way));
                way.tether.watch(trying).await
            };
            shared.respond(answer, way, leash)
        })
    }
}

/// What goes with a request on its way to its response.
pub(super) struct Way {
    pub(super) tether: Tether,
    pub(super) waiting: Waiting,
    pub(super) limits: Limits,
    /// When its endpoint was chosen.
    begun: Instant,
}

impl Shared {
    /// A way that begins now.
    pub(super) fn way(&self, tether: Tether, waiting: Waiting) -> Way {
        let begun = Instant::now();
        let deadline = self.settings().total_timeout.map(|limit| begun + limit);
        let limits = Limits { idle: self.settings().body_idle_timeout, deadline };
        Way { tether, waiting, limits, begun }
    }

    /// Has the request answered before `deadline`.
    async fn answered_by(
        &self,
        deadline: Instant,
        request: Outbound,
        way: &Way,
    ) -> Result<Result<Response<Body>, Unserved>, Reason> {
        let trying = pin!(self.try_and_try_again(request, way));
        let answered = timeout_at(deadline, way.tether.watch(trying)).await;
        answered.unwrap_or(Ok(Err((UpstreamError::TotalTimeout, None))))
    }

    fn respond(
        &self,
        answer: Result<Result<Response<Body>, Unserved>, Reason>,
        way: Way,
        leash: Option<Leash>,
    ) -> Response<Body> {
        let mut tether = way.tether;
        match answer {
            Err(reason) | Ok(Err((UpstreamError::SessionOver(reason), _))) => tether.refusal(reason),
            Ok(Ok(mut response)) => {
                tether.set_kind(kind_of(&response));
                if let Some(leash) = leash.filter(Leash::is_in_use) {
                    tether.hold(&leash);
                }
                response.body_mut().tie(tether);
                response
            }
            Ok(Err((error, endpoint))) => {
                error.log(self.endpoints.route(), endpoint.as_deref());
                error.answer()
            }
        }
    }

    /// Sends the request; elsewhere once more if it failed, and if that does no harm (RFC 9110 §9.2.2). Errors come with the endpoint
    /// that was asked last.
    async fn try_and_try_again(&self, mut request: Outbound, way: &Way) -> Result<Response<Body>, Unserved> {
        let mut tries = Tries::since(way.begun);
        let mut in_flight = self.pick(way, &mut tries).await?;
        loop {
            self.address(&mut request, in_flight.endpoint());
            // Not by a function of its own, whose future would have room for what it is given twice.
            let answered = match &in_flight.endpoint().connections {
                Connections::Http1(pool) => match self.send_http1(pool, request, way, &mut tries).await {
                    Ok(answer) => self.answered_http1(answer, in_flight, way, &mut tries),
                    Err(failed) => Err((failed, in_flight)),
                },
                Connections::Http2(pool) => match Box::pin(self.send_http2(pool, request, way, &mut tries)).await {
                    Ok(answer) => self.answered_http2(answer, in_flight, way, &mut tries),
                    Err(failed) => Err((failed, in_flight)),
                },
            };
            (request, in_flight) = match answered {
                Ok(response) => {
                    self.endpoints.metrics.duration.observe(tries.at.duration_since(way.begun));
                    return Ok(response);
                }
                Err((failed, asked)) => self.elsewhere(failed, asked, &mut tries)?,
            };
        }
    }

    /// Who is asked first, once any endpoint is known.
    pub(super) async fn pick(&self, way: &Way, tries: &mut Tries) -> Result<InFlight, Unserved> {
        if let Some(in_flight) = self.endpoints.pick() {
            return Ok(in_flight);
        }
        // Rare, and large.
        let waited = Box::pin(way.tether.wait(self.endpoints.wait())).await.map_err(|over| (over.into(), None))?;
        tries.at = Instant::now();
        waited.map_err(|error| (error.into(), None))
    }

    /// Where a request goes that failed, if it may go anywhere.
    pub(super) fn elsewhere(&self, failed: Failed, asked: InFlight, tries: &mut Tries) -> Result<Next, Unserved> {
        let endpoint = Arc::clone(asked.endpoint());
        drop(asked);
        tries.at = Instant::now();
        let Failed { error, again } = failed;
        match &error {
            error if error.is_no_failure() => {}
            UpstreamError::Connect(_) => self.endpoints.unreachable(&endpoint),
            _ => self.endpoints.failed(&endpoint),
        }
        let Some(request) = again else { return Err((error, Some(endpoint))) };
        tries.failed.push(endpoint);
        let Some(next) = self.next(&error, tries) else { return Err((error, tries.failed.pop())) };
        tracing::debug!(
            route = &**self.endpoints.route(),
            endpoint = %next.endpoint(),
            error = &error as &dyn Error,
            "request is sent once more"
        );
        Ok((request, next))
    }

    /// Who is asked next, if anybody is. Refused connections cost nobody anything, so a few of them are for free, elsewhere.
    fn next(&self, error: &UpstreamError, tries: &mut Tries) -> Option<InFlight> {
        let is_free = matches!(
            error,
            UpstreamError::Connect(ConnectError::Io { .. } | ConnectError::Tls { .. } | ConnectError::Alpn { .. })
        );
        if is_free {
            tries.free += 1;
            return (tries.free <= FREE_TRIES).then(|| self.endpoints.pick_untried(&tries.failed)).flatten();
        }
        let next = match error {
            // The same one is not connected to any sooner.
            UpstreamError::Connect(_) => self.endpoints.pick_untried(&tries.failed),
            _ => self.endpoints.pick_another(&tries.failed),
        };
        next.filter(|_| self.may_repeat(tries, self.settings().retries.attempts))
    }

    /// Whether a request that was sent may be sent once more, `most` times in all. Takes it from the budget.
    pub(super) fn may_repeat(&self, tries: &mut Tries, most: u32) -> bool {
        tries.retries += 1;
        if tries.retries >= most {
            return false;
        }
        let is_left = self.endpoints.budget.take(self.endpoints.requests(), std::time::Instant::now());
        let metrics = &self.endpoints.metrics;
        if is_left { &metrics.retries } else { &metrics.exhausted }.inc();
        is_left
    }

    /// The same at the same endpoint, which may have closed its connection at the moment that the request came: that is nobody's failure, so
    /// it is sent twice in any case.
    pub(super) fn may_repeat_there(&self, tries: &mut Tries) -> bool {
        self.may_repeat(tries, self.settings().retries.attempts.max(2))
    }

    pub(super) fn settings(&self) -> &UpstreamSettings {
        self.endpoints.settings()
    }
}

/// How many endpoints may refuse to be connected to before a request is given up, but the first.
const FREE_TRIES: u32 = 2;

/// A request, and who is asked next.
type Next = (Outbound, InFlight);

/// Why there is no response, and who was asked last.
pub(super) type Unserved = (UpstreamError, Option<Arc<Endpoint>>);

/// What a request has been through.
pub(super) struct Tries {
    failed: Vec<Arc<Endpoint>>,
    free: u32,
    retries: u32,
    /// When that which is under way began, or was over: the time of now, for those who do not wait in between.
    pub(super) at: Instant,
}

impl Tries {
    /// None so far.
    pub(super) const fn since(at: Instant) -> Self {
        Self { failed: Vec::new(), free: 0, retries: 0, at }
    }
}

/// Where interim responses to a request go. Clients of HTTP/1.0 know of none (RFC 9110 §15.2).
pub(super) fn interim_of<B>(request: &Request<B>, arrival: &Arrival) -> Option<Interim> {
    arrival.interim.clone().filter(|_| request.version() != Version::HTTP_10)
}

/// What the response is: its end has to look accordingly.
pub(super) fn kind_of<B>(response: &Response<B>) -> Kind {
    let Some(content_type) = response.headers().get(header::CONTENT_TYPE) else { return Kind::Response };
    if grpc::is_type_of_call(content_type) {
        return Kind::Grpc;
    }
    let media_type = content_type.as_bytes();
    let media_type = media_type.split(|&byte| byte == b';').next().unwrap_or_default();
    let is_event_stream = media_type.trim_ascii().eq_ignore_ascii_case(b"text/event-stream");
    if is_event_stream { Kind::EventStream } else { Kind::Response }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        drain::Drain,
        upstream::{fields::Downstream, metrics::UpstreamMetrics},
    };

    /// Each request has one, and glibc is quick with up to 1032 bytes.
    #[tokio::test]
    async fn what_a_request_waits_in_is_small() {
        let text = "[store]\nurl = \"embedded:data\"\n[issuers.main]\nissuer = \"https://issuer.example/\"\naudiences = [\"a\"]\n\
                    [[routes]]\nupstream = \"http://127.0.0.1:7\"\n";
        let settings = Config::parse(text, "gate.toml", []).unwrap().routes.first().unwrap().upstream.clone();
        let metrics = UpstreamMetrics::default().route(&Arc::from("route"));
        let upstream = Upstream::new(settings, ReservedNames::new(&[]), metrics);
        let downstream = Arc::new(Downstream::unix(Drain::default()));
        let arrival = Arrival { at: Instant::now(), downstream, interim: None };
        let sent = upstream.send(Box::new(Request::new(Incoming::Empty)), None, &arrival);
        assert!(size_of_val(&*sent) <= 1032, "{}", size_of_val(&*sent));
    }
}
