//! Sends a request to its upstream and brings the response back.

use std::{
    convert::Infallible,
    error::Error,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode, Uri, Version, header,
    uri::{PathAndQuery, Scheme},
};
use http_body::Body as _;
use hyper::{body::Incoming, client::conn::http2};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tower::Service;

use super::{
    Body, Protocol, UpstreamSettings,
    body::{BodyError, Fault, Limits, RequestBody, Upload},
    endpoint::{Connections, Endpoint, InFlight},
    endpoints::{self, Endpoints},
    fields::{self, Downstream},
    http1::{self, Answer, Connection, Failure, Unanswered},
    metrics::RouteUpstreamMetrics,
    pool::{Http1Pool, Http2Pool},
    resolve::{Resolver, SystemResolver},
    transport::{ConnectError, Stream},
    tunnel::{Handshake, Tunnel},
};
use crate::{
    gate::{grpc, identity::ReservedNames, problem},
    limit::{concurrency::Place, intake::Intake},
    stream::{Kind, Leash, Tether, websocket},
    verdict::Reason,
};

/// Why there is no response from the upstream.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No response header in time.
    #[error("upstream did not answer in time")]
    ResponseTimeout,
    /// All of it took too long.
    #[error("the request took too long in all")]
    TotalTimeout,
    /// The client stopped sending its request.
    #[error("request body stood still for too long")]
    RequestTimeout,
    /// The client broke off, or its body broke HTTP.
    #[error("request body broke off")]
    RequestBody(#[source] BodyError),
    /// The upstream broke HTTP, or off.
    #[error("upstream broke off or does not speak HTTP")]
    Exchange(#[source] BodyError),
    /// The upstream answered 101, and nobody had asked for another protocol.
    #[error("upstream switched protocols unasked, or to another one")]
    Switched,
    /// It answered a request for another protocol as if it had been any request.
    #[error("upstream answered without switching protocols")]
    NotSwitched,
    /// The session ended before the request was sent.
    #[error("the session ended: {}", .0.code())]
    SessionOver(Reason),
}

impl UpstreamError {
    const fn is_the_clients(&self) -> bool {
        matches!(self, Self::RequestTimeout | Self::RequestBody(_) | Self::SessionOver(_))
    }

    fn log(&self, route: &str, endpoint: Option<&Endpoint>) {
        let error = self as &dyn Error;
        let endpoint = endpoint.map(tracing::field::display);
        if self.is_the_clients() {
            tracing::debug!(route, endpoint, error, "request could not be passed on");
        } else {
            tracing::warn!(route, endpoint, error, "no response from upstream");
        }
    }

    /// The response that tells the client. What went wrong where is for the log.
    fn answer(&self) -> Response<Body> {
        match self {
            Self::Connect(ConnectError::TimedOut { .. }) => problem::response(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream_connect_timeout",
                "The upstream could not be connected to in time.",
            ),
            Self::ResponseTimeout => problem::response(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream_timeout",
                "The upstream did not answer in time.",
            ),
            Self::TotalTimeout => problem::response(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream_total_timeout",
                "The request took too long in all.",
            ),
            Self::Connect(_) | Self::Exchange(_) | Self::Switched | Self::NotSwitched => {
                problem::response(StatusCode::BAD_GATEWAY, "upstream_unavailable", "The upstream cannot be reached.")
            }
            Self::RequestTimeout => problem::response(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                "The request body stood still for too long.",
            ),
            Self::RequestBody(_) => {
                problem::response(StatusCode::BAD_REQUEST, "request_body", "The request body broke off.")
            }
            // The tether has a better one, which tells how to go on.
            Self::SessionOver(reason) => {
                problem::response(StatusCode::UNAUTHORIZED, reason.code(), "The session is over.")
            }
        }
    }
}

/// One upstream, as a service. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Upstream(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    endpoints: Arc<Endpoints>,
    reserved: ReservedNames,
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

impl Service<Request<Incoming>> for Upstream {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let kind = if grpc::is_call(request.headers()) { Kind::Grpc } else { Kind::Response };
            let tether = Tether::take(request.extensions_mut(), kind);
            Ok(match request.extensions_mut().remove::<Handshake>() {
                None => shared.exchange(request, tether).await,
                Some(handshake) => shared.open_websocket(request, handshake, tether).await,
            })
        })
    }
}

impl Shared {
    async fn exchange(&self, request: Request<Incoming>, tether: Tether) -> Response<Body> {
        let Some(limit) = self.settings().total_timeout else {
            return self.answered(request, tether, None).await;
        };
        let deadline = Instant::now() + limit;
        timeout_at(deadline, self.answered(request, tether, Some(deadline))).await.unwrap_or_else(|_| {
            UpstreamError::TotalTimeout.log(self.endpoints.route(), None);
            UpstreamError::TotalTimeout.answer()
        })
    }

    async fn answered(
        &self,
        mut request: Request<Incoming>,
        mut tether: Tether,
        deadline: Option<Instant>,
    ) -> Response<Body> {
        let leash = (tether.is_tied() && !request.body().is_end_stream()).then(Leash::default);
        if let Some(leash) = &leash {
            request.extensions_mut().insert(leash.clone());
        }
        let begun = std::time::Instant::now();
        let limits = Limits { idle: self.settings().body_idle_timeout, deadline };
        match tether.watch(self.try_and_try_again(request, limits, &tether)).await {
            Err(reason) | Ok(Err((UpstreamError::SessionOver(reason), _))) => tether.refusal(reason),
            Ok(Ok(mut response)) => {
                self.endpoints.metrics.duration.observe(begun.elapsed());
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
    async fn try_and_try_again(
        &self,
        request: Request<Incoming>,
        limits: Limits,
        tether: &Tether,
    ) -> Result<Response<Body>, Unserved> {
        let mut in_flight = self.pick(tether).await?;
        let mut request = self.outbound(request, in_flight.endpoint());
        let mut tries = Tries::default();
        loop {
            (request, in_flight) = match self.send(request, in_flight, limits, tether).await {
                Ok(response) => return Ok(response),
                Err((failed, asked)) => self.elsewhere(failed, asked, &mut tries)?,
            };
        }
    }

    /// Who is asked first, once any endpoint is known.
    async fn pick(&self, tether: &Tether) -> Result<InFlight, Unserved> {
        match self.endpoints.pick() {
            Some(in_flight) => Ok(in_flight),
            None => {
                let waited = tether.wait(self.endpoints.wait()).await.map_err(|over| (over.into(), None))?;
                waited.map_err(|error| (error.into(), None))
            }
        }
    }

    /// Where a request goes that failed, if it may go anywhere.
    fn elsewhere(&self, failed: Failed, asked: InFlight, tries: &mut Tries) -> Result<Next, Unserved> {
        let endpoint = Arc::clone(asked.endpoint());
        drop(asked);
        let Failed { error, again } = failed;
        match &error {
            error if error.is_the_clients() => {}
            UpstreamError::Connect(_) => self.endpoints.unreachable(&endpoint),
            _ => self.endpoints.failed(&endpoint),
        }
        let Some(mut request) = again else { return Err((error, Some(endpoint))) };
        tries.failed.push(endpoint);
        let Some(next) = self.next(&error, tries) else { return Err((error, tries.failed.pop())) };
        tracing::debug!(
            route = &**self.endpoints.route(),
            endpoint = %next.endpoint(),
            error = &error as &dyn Error,
            "request is sent once more"
        );
        self.readdress(&mut request, next.endpoint());
        Ok((request, next))
    }

    /// Opens a WebSocket. Whatever the upstream answers but yes is passed on as it is.
    async fn open_websocket(
        &self,
        mut request: Request<Incoming>,
        handshake: Handshake,
        mut tether: Tether,
    ) -> Response<Body> {
        if self.settings().protocol != Protocol::Http1 {
            return no_websocket();
        }
        tether.set_kind(Kind::WebSocket);
        tether.open();
        let Some(drain) = request.extensions().get::<Arc<Downstream>>().map(|downstream| downstream.drain.clone())
        else {
            return no_websocket();
        };
        let place = request.extensions_mut().remove::<Place>();
        let key = handshake.is_extended_connect.then(websocket::key);
        let (answer, in_flight) = match tether.watch(self.shake_hands(request, key.as_deref(), &tether)).await {
            Err(reason) | Ok(Err((UpstreamError::SessionOver(reason), _))) => return tether.refusal(reason),
            Ok(Ok(answered)) => answered,
            Ok(Err((error, endpoint))) => {
                error.log(self.endpoints.route(), endpoint.as_deref());
                return error.answer();
            }
        };
        let no = |error: UpstreamError| {
            error.log(self.endpoints.route(), Some(in_flight.endpoint()));
            error.answer()
        };
        let status = match &answer {
            Answer::Response(response) => response.status(),
            Answer::Switched(response, _) => response.status(),
        };
        self.judge(in_flight.endpoint(), status);
        let (mut response, upgraded) = match answer {
            // Over HTTP/2, any success would be taken for yes.
            Answer::Response(response) if handshake.is_extended_connect && response.status().is_success() => {
                return no(UpstreamError::NotSwitched);
            }
            Answer::Response(response) => {
                let limits = Limits { idle: self.settings().body_idle_timeout, deadline: None };
                let mut response = response.map(|body| Body::http1(body, in_flight, limits));
                fields::strip_response(response.headers_mut());
                tether.set_kind(kind_of(&response));
                response.body_mut().tie(tether);
                return response;
            }
            Answer::Switched(response, upgraded) => (response, upgraded),
        };
        let is_websocket =
            response.headers().get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        let is_accepted =
            key.is_none_or(|key| accept.is_some_and(|accept| *accept == websocket::accept(key.as_bytes())));
        if !(is_websocket && is_accepted) {
            return no(UpstreamError::Switched);
        }
        fields::strip_response(response.headers_mut());
        if handshake.is_extended_connect {
            *response.status_mut() = StatusCode::OK;
            response.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
        } else {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        response.extensions_mut().insert(handshake.hold.clone());
        *response.version_mut() = Version::HTTP_11;
        let (grace, over) = (tether.grace(), drain.over());
        let tunnel = Tunnel { tether, idle_timeout: self.settings().tunnel_idle_timeout, over, grace };
        drain.spawn(async move {
            // It counts as load of its endpoint and of its route for as long as it lasts.
            let _held = (in_flight, place);
            tunnel.run(handshake.upgrade, handshake.hold, upgraded.stream, upgraded.leftover).await;
        });
        response.map(|()| Bytes::new().into())
    }

    /// Asks the upstream to switch to WebSocket. `key`: instead of the client's, who had none to give.
    async fn shake_hands(
        &self,
        request: Request<Incoming>,
        key: Option<&str>,
        tether: &Tether,
    ) -> Result<(Answer<Stream>, InFlight), Unserved> {
        let mut in_flight = self.pick(tether).await?;
        let mut request = self.outbound(request, in_flight.endpoint()).map(|_| RequestBody::empty());
        let fields = request.headers_mut();
        fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Some(key) = key.and_then(|key| HeaderValue::try_from(key).ok()) {
            fields.insert(header::SEC_WEBSOCKET_KEY, key);
        }
        let mut tries = Tries::default();
        loop {
            let Connections::Http1(pool) = &in_flight.endpoint().connections else {
                return Err((UpstreamError::NotSwitched, None));
            };
            let failed = match self.send_http1(pool, request, tether).await {
                Ok(answer) => return Ok((answer, in_flight)),
                Err(failed) => failed,
            };
            (request, in_flight) = self.elsewhere(failed, in_flight, &mut tries)?;
        }
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
        tries.retries += 1;
        let next = next.filter(|_| tries.retries < self.settings().retries.attempts)?;
        if !self.endpoints.budget.take(self.endpoints.requests(), std::time::Instant::now()) {
            self.endpoints.metrics.exhausted.inc();
            return None;
        }
        self.endpoints.metrics.retries.inc();
        Some(next)
    }

    fn settings(&self) -> &UpstreamSettings {
        self.endpoints.settings()
    }

    /// Waits for the response's header for as long as the settings say, and as the upstream is not still being sent the request.
    async fn in_time<F: Future>(
        &self,
        upload: Option<&Upload>,
        mut sending: Pin<&mut F>,
        look: Option<Instant>,
    ) -> Option<F::Output> {
        let limit = self.settings().response_timeout;
        let begun = Instant::now();
        if let Some(look) = look
            && let Ok(response) = timeout_at(look.min(begun + limit), sending.as_mut()).await
        {
            return Some(response);
        }
        let mut left = limit.saturating_sub(begun.elapsed());
        loop {
            if let Ok(response) = timeout(left, sending.as_mut()).await {
                return Some(response);
            }
            left = limit.checked_sub(upload?.upstream_since()).filter(|left| !left.is_zero())?;
        }
    }

    /// The request as the upstream gets it.
    fn outbound(&self, request: Request<Incoming>, endpoint: &Endpoint) -> Request<RequestBody> {
        let (mut parts, body) = request.into_parts();
        if let Some(downstream) = parts.extensions.get::<Arc<Downstream>>() {
            fields::add_forwarded(&mut parts.headers, downstream, parts.version, &self.reserved);
        }
        parts.headers.remove(header::EXPECT);
        let host = parts.headers.get(header::HOST).cloned();
        let path = parts.uri.into_parts().path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        match self.settings().protocol {
            Protocol::Http1 => {
                fields::join_cookies(&mut parts.headers);
                if !self.settings().preserve_host || host.is_none() {
                    parts.headers.insert(header::HOST, own_host(endpoint));
                }
                parts.uri = Uri::from(path);
                parts.version = Version::HTTP_11;
            }
            Protocol::Http2 => {
                parts.headers.remove(header::HOST);
                let shown =
                    host.filter(|_| self.settings().preserve_host).and_then(|host| host.as_bytes().try_into().ok());
                let mut uri = http::uri::Parts::default();
                uri.scheme = Some(scheme(endpoint));
                uri.authority = Some(shown.unwrap_or_else(|| endpoint.authority.clone()));
                uri.path_and_query = Some(path);
                // Scheme, authority and path are all there, which is all that can be missing.
                parts.uri = Uri::from_parts(uri).unwrap_or_default();
                parts.version = Version::HTTP_2;
            }
        }
        let intake = parts.extensions.remove::<Arc<Intake>>();
        let leash = parts.extensions.remove::<Leash>();
        parts.extensions.clear();
        let body =
            RequestBody::new(body, &self.reserved, self.settings().body_idle_timeout).counted(intake).leashed(leash);
        Request::from_parts(parts, body)
    }

    /// Tells another endpoint what it is called, where it is told at all.
    fn readdress(&self, request: &mut Request<RequestBody>, endpoint: &Endpoint) {
        let preserve_host = self.settings().preserve_host;
        match self.settings().protocol {
            Protocol::Http1 if preserve_host => {}
            Protocol::Http1 => {
                request.headers_mut().insert(header::HOST, own_host(endpoint));
            }
            Protocol::Http2 => {
                let mut uri = std::mem::take(request.uri_mut()).into_parts();
                uri.scheme = Some(scheme(endpoint));
                uri.authority = uri.authority.filter(|_| preserve_host).or_else(|| Some(endpoint.authority.clone()));
                *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
            }
        }
    }

    /// One try.
    async fn send(
        &self,
        request: Request<RequestBody>,
        in_flight: InFlight,
        limits: Limits,
        tether: &Tether,
    ) -> Result<Response<Body>, (Failed, InFlight)> {
        let mut response = match &in_flight.endpoint().connections {
            Connections::Http1(pool) => match self.send_http1(pool, request, tether).await {
                Ok(Answer::Response(response)) => {
                    self.judge(in_flight.endpoint(), response.status());
                    response.map(|body| Body::http1(body, in_flight, limits))
                }
                Ok(Answer::Switched(..)) => return Err((UpstreamError::Switched.into(), in_flight)),
                Err(failed) => return Err((failed, in_flight)),
            },
            Connections::Http2(pool) => match self.send_http2(pool, request, tether).await {
                Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    return Err((UpstreamError::Switched.into(), in_flight));
                }
                Ok(response) => {
                    self.judge(in_flight.endpoint(), response.status());
                    response.map(|body| Body::http2(body, in_flight, limits))
                }
                Err(failed) => return Err((failed, in_flight)),
            },
        };
        fields::strip_response(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }

    /// What an answer tells of its endpoint.
    fn judge(&self, endpoint: &Endpoint, status: StatusCode) {
        if status.is_server_error() && self.settings().ejection.statuses.contains(&status) {
            self.endpoints.failed(endpoint);
        } else {
            self.endpoints.succeeded(endpoint);
        }
    }

    /// Sends over a kept connection if there is one. If the upstream closes that just now, a request that never went out, or
    /// that is idempotent and has no body, takes another (RFC 9110 §9.2.2, RFC 9112 §9.3.1).
    async fn send_http1(
        &self,
        pool: &Http1Pool,
        mut request: Request<RequestBody>,
        tether: &Tether,
    ) -> Result<Answer<Stream>, Failed> {
        let upload = request.body().upload();
        let upload = upload.as_deref();
        let mut may_repeat = true;
        while let Some(connection) = may_repeat.then(|| pool.take()).flatten() {
            let unanswered = match self.try_http1(connection, request, tether).await {
                Ok(answer) => return Ok(answer),
                Err(unanswered) => unanswered,
            };
            // What was sent is sent once more, over a new connection.
            may_repeat = !unanswered.sent;
            let (failure, again) = again_http1(unanswered);
            request = again.ok_or_else(|| whose_fault(failure, upload))?;
        }
        let connection = match tether.wait(pool.connect()).await? {
            Ok(connection) => connection,
            Err(error) => return Err(Failed { error: error.into(), again: Some(request) }),
        };
        self.try_http1(connection, request, tether).await.map_err(|unanswered| {
            let (failure, again) = again_http1(unanswered);
            Failed { error: whose_fault(failure, upload), again }
        })
    }

    async fn try_http1(
        &self,
        connection: Connection<Stream>,
        request: Request<RequestBody>,
        tether: &Tether,
    ) -> Result<Answer<Stream>, Unanswered<RequestBody>> {
        http1::exchange(connection, request, self.settings().response_timeout, tether.grows_up()).await
    }

    /// Likewise over HTTP/2, where any failure may be one of the connection that all requests share.
    async fn send_http2(
        &self,
        pool: &Http2Pool,
        mut request: Request<RequestBody>,
        tether: &Tether,
    ) -> Result<Response<Incoming>, Failed> {
        let upload = request.body().upload();
        let upload = upload.as_deref();
        if let Some(sender) = pool.shared_sender() {
            match self.try_http2(sender, request, upload, tether.grows_up()).await {
                Err(Failed { again: Some(again), .. }) => request = again,
                answered => return answered,
            }
        }
        match tether.wait(pool.connect()).await? {
            Ok(sender) => self.try_http2(sender, request, upload, tether.grows_up()).await,
            Err(error) => Err(Failed { error: error.into(), again: Some(request) }),
        }
    }

    async fn try_http2(
        &self,
        mut sender: http2::SendRequest<RequestBody>,
        request: Request<RequestBody>,
        upload: Option<&Upload>,
        look: Option<Instant>,
    ) -> Result<Response<Incoming>, Failed> {
        let spare = again(&request);
        let response = sender.try_send_request(request);
        // A request that came too late for the connection is given back when the last sender goes.
        drop(sender);
        let answered = self.in_time(upload, pin!(response), look).await.ok_or(UpstreamError::ResponseTimeout)?;
        answered.map_err(|mut failed| {
            let again = failed.take_message().or(spare);
            Failed { error: whose_fault(failed.into_error(), upload), again }
        })
    }
}

/// How many endpoints may refuse to be connected to before a request is given up, but the first.
const FREE_TRIES: u32 = 2;

/// A request, and who is asked next.
type Next = (Request<RequestBody>, InFlight);

/// Why there is no response, and who was asked last.
type Unserved = (UpstreamError, Option<Arc<Endpoint>>);

/// WebSockets go to upstreams of HTTP/1.1.
fn no_websocket() -> Response<Body> {
    problem::response(StatusCode::NOT_IMPLEMENTED, "websocket", "This upstream takes no WebSockets.")
}

/// What a request has been through.
#[derive(Default)]
struct Tries {
    failed: Vec<Arc<Endpoint>>,
    free: u32,
    retries: u32,
}

/// An endpoint that did not answer, and the request if it may be sent once more.
#[derive(Debug)]
struct Failed {
    error: UpstreamError,
    again: Option<Request<RequestBody>>,
}

impl From<Reason> for UpstreamError {
    fn from(reason: Reason) -> Self {
        Self::SessionOver(reason)
    }
}

impl From<Reason> for Failed {
    fn from(reason: Reason) -> Self {
        UpstreamError::from(reason).into()
    }
}

impl From<UpstreamError> for Failed {
    fn from(error: UpstreamError) -> Self {
        Self { error, again: None }
    }
}

fn own_host(endpoint: &Endpoint) -> HeaderValue {
    HeaderValue::try_from(endpoint.authority.as_str()).unwrap_or_else(|_| HeaderValue::from_static("upstream"))
}

fn scheme(endpoint: &Endpoint) -> Scheme {
    if endpoint.transport.is_tls() { Scheme::HTTPS } else { Scheme::HTTP }
}

/// What the response is: its end has to look accordingly.
fn kind_of<B>(response: &Response<B>) -> Kind {
    let fields = response.headers();
    if grpc::is_call(fields) {
        return Kind::Grpc;
    }
    let media_type = fields.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let media_type = media_type.split(|&byte| byte == b';').next().unwrap_or_default();
    let is_event_stream = media_type.trim_ascii().eq_ignore_ascii_case(b"text/event-stream");
    if is_event_stream { Kind::EventStream } else { Kind::Response }
}

/// A request that was not answered, if sending it again does no harm.
fn again_http1(unanswered: Unanswered<RequestBody>) -> (Failure, Option<Request<RequestBody>>) {
    let Unanswered { failure, sent, answered, parts, body } = unanswered;
    let broke_off = matches!(failure, Failure::BrokeOff(_)) && !answered;
    let again = body.filter(|(body, _)| broke_off && (!sent || body.is_none() && parts.method.is_idempotent()));
    let again = again.map(|(body, first)| {
        let mut body = body.unwrap_or_else(RequestBody::empty);
        body.put_back(first);
        Request::from_parts(parts, body)
    });
    (failure, again)
}

/// The request once more, if its repetition does no harm.
fn again(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let body = request.body().again().filter(|_| request.method().is_idempotent())?;
    let mut again = Request::new(body);
    again.method_mut().clone_from(request.method());
    again.uri_mut().clone_from(request.uri());
    again.headers_mut().clone_from(request.headers());
    Some(again)
}

/// A request's body that fails makes the exchange with the upstream fail.
fn whose_fault(error: impl Into<WhyNot>, upload: Option<&Upload>) -> UpstreamError {
    let error = error.into();
    match (upload.and_then(Upload::fault), error) {
        (_, WhyNot::TimedOut) => UpstreamError::ResponseTimeout,
        (Some(Fault::Stalled), _) => UpstreamError::RequestTimeout,
        (Some(Fault::Broken), WhyNot::Other(error)) | (_, WhyNot::Request(error)) => UpstreamError::RequestBody(error),
        (None, WhyNot::Other(error)) => UpstreamError::Exchange(error),
    }
}

/// Why an exchange failed, as far as its connection knows.
enum WhyNot {
    TimedOut,
    Request(BodyError),
    Other(BodyError),
}

impl From<hyper::Error> for WhyNot {
    fn from(error: hyper::Error) -> Self {
        Self::Other(error.into())
    }
}

impl From<Failure> for WhyNot {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::TimedOut => Self::TimedOut,
            Failure::Request(_) | Failure::RequestLength => Self::Request(failure.into()),
            Failure::BrokeOff(_) | Failure::Malformed(_) => Self::Other(failure.into()),
        }
    }
}
