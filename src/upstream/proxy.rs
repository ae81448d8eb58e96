//! Sends a request to its upstream and brings the response back.

use std::{
    convert::Infallible,
    error::Error,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header, uri::PathAndQuery};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout, timeout_at};
use tower::Service;

use super::{
    Body, Protocol, UpstreamSettings,
    body::{BodyError, Fault, RequestBody, Upload},
    fields::{self, Downstream},
    http1::{self, Answer, Connection, Failure, Unanswered},
    pool::{Http1Pool, Http2Pool},
    transport::{ConnectError, Stream},
};
use crate::{
    gate::{grpc, identity::ReservedNames, problem},
    stream::{Kind, Tether},
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
    #[error("upstream switched protocols unasked")]
    Switched,
}

impl UpstreamError {
    const fn is_the_clients(&self) -> bool {
        matches!(self, Self::RequestTimeout | Self::RequestBody(_))
    }

    fn log(&self, upstream: &str) {
        let error = self as &dyn Error;
        if self.is_the_clients() {
            tracing::debug!(upstream, error, "request could not be passed on");
        } else {
            tracing::warn!(upstream, error, "no response from upstream");
        }
    }

    /// The response that tells the client. What went wrong where is for the log.
    fn answer(&self) -> Response<Body> {
        match self {
            Self::Connect(ConnectError::TimedOut { .. }) | Self::ResponseTimeout => problem::response(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream_timeout",
                "The upstream did not answer in time.",
            ),
            Self::Connect(_) | Self::Exchange(_) | Self::Switched => {
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
        }
    }
}

/// One upstream, as a service. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Upstream(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: UpstreamSettings,
    reserved: ReservedNames,
    connections: Connections,
}

#[derive(Debug)]
enum Connections {
    Http1(Arc<Http1Pool>),
    Http2(Http2Pool),
}

impl Upstream {
    /// An upstream without connections. `reserved`: names of trailers that must not come from a client.
    #[must_use]
    pub fn new(settings: UpstreamSettings, reserved: ReservedNames) -> Self {
        let connections = match settings.protocol {
            Protocol::Http1 => Connections::Http1(Arc::new(Http1Pool::new(settings.clone()))),
            Protocol::Http2 => Connections::Http2(Http2Pool::new(settings.clone())),
        };
        Self(Arc::new(Shared { settings, reserved, connections }))
    }

    /// Lets go of connections that were unused for too long.
    pub fn maintain(&self) {
        match &self.0.connections {
            Connections::Http1(pool) => pool.reap(),
            Connections::Http2(pool) => pool.reap(),
        }
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
            Ok(shared.exchange(request, tether).await.unwrap_or_else(|error| {
                error.log(shared.settings.authority.as_str());
                error.answer()
            }))
        })
    }
}

impl Shared {
    async fn exchange(&self, request: Request<Incoming>, mut tether: Tether) -> Result<Response<Body>, UpstreamError> {
        let request = self.outbound(request);
        let look = tether.grows_up();
        let mut response = match tether.watch(self.send(request, look)).await {
            Ok(response) => response?,
            Err(reason) => return Ok(tether.refusal(reason)),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(UpstreamError::Switched);
        }
        fields::strip_response(response.headers_mut());
        tether.set_kind(kind_of(&response));
        response.body_mut().tie(tether);
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }

    /// Waits for the response's header for as long as the settings say, and as the upstream is not still being sent the request.
    async fn in_time<F: Future>(
        &self,
        upload: Option<&Upload>,
        mut sending: Pin<&mut F>,
        look: Option<Instant>,
    ) -> Option<F::Output> {
        let limit = self.settings.response_timeout;
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
    fn outbound(&self, request: Request<Incoming>) -> Request<RequestBody> {
        let (mut parts, body) = request.into_parts();
        if let Some(downstream) = parts.extensions.get::<Arc<Downstream>>() {
            fields::add_forwarded(&mut parts.headers, downstream, parts.version, &self.reserved);
        }
        parts.headers.remove(header::EXPECT);
        let host = parts.headers.get(header::HOST).cloned();
        let path = parts.uri.into_parts().path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        match self.settings.protocol {
            Protocol::Http1 => {
                fields::join_cookies(&mut parts.headers);
                if !self.settings.preserve_host || host.is_none() {
                    parts.headers.insert(header::HOST, self.own_host());
                }
                parts.uri = Uri::from(path);
                parts.version = Version::HTTP_11;
            }
            Protocol::Http2 => {
                parts.headers.remove(header::HOST);
                let shown =
                    host.filter(|_| self.settings.preserve_host).and_then(|host| host.as_bytes().try_into().ok());
                let mut uri = http::uri::Parts::default();
                let is_tls = self.settings.transport.is_tls();
                uri.scheme = Some(if is_tls { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
                uri.authority = Some(shown.unwrap_or_else(|| self.settings.authority.clone()));
                uri.path_and_query = Some(path);
                // Scheme, authority and path are all there, which is all that can be missing.
                parts.uri = Uri::from_parts(uri).unwrap_or_default();
                parts.version = Version::HTTP_2;
            }
        }
        parts.extensions.clear();
        let body = RequestBody::new(body, &self.reserved, self.settings.body_idle_timeout);
        Request::from_parts(parts, body)
    }

    fn own_host(&self) -> http::HeaderValue {
        http::HeaderValue::try_from(self.settings.authority.as_str())
            .unwrap_or_else(|_| http::HeaderValue::from_static("upstream"))
    }

    /// `look`: when whoever waits for the response wants to be woken once, whether there is one or not.
    async fn send(
        &self,
        request: Request<RequestBody>,
        look: Option<Instant>,
    ) -> Result<Response<Body>, UpstreamError> {
        let idle_timeout = self.settings.body_idle_timeout;
        match &self.connections {
            Connections::Http1(pool) => match self.send_http1(pool, request, look).await? {
                Answer::Response(response) => Ok(response.map(|body| Body::http1(body, pool, idle_timeout))),
                Answer::Switched(..) => Err(UpstreamError::Switched),
            },
            Connections::Http2(pool) => {
                let upload = request.body().upload();
                let sending = pin!(send_http2(pool, request, upload.as_deref()));
                let response =
                    self.in_time(upload.as_deref(), sending, look).await.ok_or(UpstreamError::ResponseTimeout)??;
                Ok(response.map(|body| Body::http2(body, idle_timeout)))
            }
        }
    }

    /// Sends over a kept connection if there is one. If the upstream closes that just now, a request that never went out, or
    /// that is idempotent and has no body, takes another (RFC 9110 §9.2.2, RFC 9112 §9.3.1).
    async fn send_http1(
        &self,
        pool: &Http1Pool,
        mut request: Request<RequestBody>,
        look: Option<Instant>,
    ) -> Result<Answer<Stream>, UpstreamError> {
        let upload = request.body().upload();
        let upload = upload.as_deref();
        let mut may_repeat = true;
        while let Some(connection) = may_repeat.then(|| pool.take()).flatten() {
            let unanswered = match self.try_http1(connection, request, look).await {
                Ok(answer) => return Ok(answer),
                Err(unanswered) => unanswered,
            };
            // What was sent is sent once more, over a new connection.
            may_repeat = !unanswered.sent;
            request = again_http1(unanswered).map_err(|failure| whose_fault(failure, upload))?;
        }
        let connection = pool.connect().await?;
        self.try_http1(connection, request, look).await.map_err(|unanswered| whose_fault(unanswered.failure, upload))
    }

    async fn try_http1(
        &self,
        connection: Connection<Stream>,
        request: Request<RequestBody>,
        look: Option<Instant>,
    ) -> Result<Answer<Stream>, Unanswered<RequestBody>> {
        http1::exchange(connection, request, self.settings.response_timeout, look).await
    }
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

/// A request that a kept connection did not answer, if sending it again does no harm.
fn again_http1(unanswered: Unanswered<RequestBody>) -> Result<Request<RequestBody>, Failure> {
    let Unanswered { failure, sent, answered, parts, body } = unanswered;
    let broke_off = matches!(failure, Failure::BrokeOff(_)) && !answered;
    match body {
        Some((body, first)) if broke_off && (!sent || body.is_none() && parts.method.is_idempotent()) => {
            let mut body = body.unwrap_or_else(RequestBody::empty);
            body.put_back(first);
            Ok(Request::from_parts(parts, body))
        }
        _ => Err(failure),
    }
}

/// Likewise over HTTP/2, where any failure may be one of the connection that all requests share.
async fn send_http2(
    pool: &Http2Pool,
    request: Request<RequestBody>,
    upload: Option<&Upload>,
) -> Result<Response<Incoming>, UpstreamError> {
    let request = if let Some(mut sender) = pool.shared_sender() {
        let spare = again(&request);
        let response = sender.try_send_request(request);
        // A request that came too late for the connection is given back when the last sender goes.
        drop(sender);
        let mut failed = match response.await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        let unsent = failed.take_message();
        unsent.or(spare).ok_or_else(|| whose_fault(failed.into_error(), upload))?
    } else {
        request
    };
    let response = pool.connect().await?.send_request(request);
    response.await.map_err(|error| whose_fault(error, upload))
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
