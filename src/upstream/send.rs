//! One try: a request is sent over a connection, kept or new, and the header of its response comes back.

use std::pin::{Pin, pin};

use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Body,
    body::{BodyError, Fault, Limits, RequestBody, Upload},
    endpoint::{Connections, Endpoint, InFlight},
    error::UpstreamError,
    fields,
    http1::{self, Answer, Connection, Failure, Unanswered, Waiting},
    pool::{Http1Pool, Http2Connection, Http2Pool},
    proxy::Shared,
    transport::Stream,
};
use crate::{stream::Tether, verdict::Reason};

/// An endpoint that did not answer, and the request if it may be sent once more.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: UpstreamError,
    pub(super) again: Option<Request<RequestBody>>,
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

impl Shared {
    /// One try.
    pub(super) async fn send(
        &self,
        request: Request<RequestBody>,
        in_flight: InFlight,
        limits: Limits,
        waiting: &Waiting,
        tether: &Tether,
    ) -> Result<Response<Body>, (Failed, InFlight)> {
        let mut response = match &in_flight.endpoint().connections {
            Connections::Http1(pool) => match self.send_http1(pool, request, waiting, tether).await {
                Ok(Answer::Response(response)) => {
                    self.judge(in_flight.endpoint(), response.status());
                    response.map(|body| Body::http1(body, in_flight, limits))
                }
                Ok(Answer::Switched(..)) => return Err((UpstreamError::Switched.into(), in_flight)),
                Err(failed) => return Err((failed, in_flight)),
            },
            Connections::Http2(pool) => match self.send_http2(pool, request, waiting, tether).await {
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
    pub(super) fn judge(&self, endpoint: &Endpoint, status: StatusCode) {
        if status.is_server_error() && self.settings().ejection.statuses.contains(&status) {
            self.endpoints.failed(endpoint);
        } else {
            self.endpoints.succeeded(endpoint);
        }
    }

    /// Sends over a kept connection if there is one. If the upstream closes that just now, a request that never went out, or
    /// that is idempotent and has no body, takes another (RFC 9110 §9.2.2, RFC 9112 §9.3.1).
    pub(super) async fn send_http1(
        &self,
        pool: &Http1Pool,
        mut request: Request<RequestBody>,
        waiting: &Waiting,
        tether: &Tether,
    ) -> Result<Answer<Stream>, Failed> {
        let upload = request.body().upload();
        let upload = upload.as_deref();
        let mut may_repeat = true;
        while let Some(connection) = may_repeat.then(|| pool.take()).flatten() {
            let unanswered = match self.try_http1(connection, request, waiting).await {
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
        self.try_http1(connection, request, waiting).await.map_err(|unanswered| {
            let (failure, again) = again_http1(unanswered);
            Failed { error: whose_fault(failure, upload), again }
        })
    }

    async fn try_http1(
        &self,
        connection: Connection<Stream>,
        request: Request<RequestBody>,
        waiting: &Waiting,
    ) -> Result<Answer<Stream>, Unanswered<RequestBody>> {
        http1::exchange(connection, request, self.settings().response_timeout, waiting).await
    }

    /// Likewise over HTTP/2, where any failure may be one of the connection that all requests share.
    pub(super) async fn send_http2(
        &self,
        pool: &Http2Pool,
        mut request: Request<RequestBody>,
        waiting: &Waiting,
        tether: &Tether,
    ) -> Result<Response<Incoming>, Failed> {
        let upload = request.body().upload();
        let upload = upload.as_deref();
        if let Some(connection) = pool.shared() {
            match self.try_http2(connection, request, upload, waiting).await {
                Err(Failed { again: Some(again), .. }) => request = again,
                answered => return answered,
            }
        }
        match tether.wait(pool.connect()).await? {
            Ok(connection) => self.try_http2(connection, request, upload, waiting).await,
            Err(error) => Err(Failed { error: error.into(), again: Some(request) }),
        }
    }

    async fn try_http2(
        &self,
        connection: Http2Connection,
        request: Request<RequestBody>,
        upload: Option<&Upload>,
        waiting: &Waiting,
    ) -> Result<Response<Incoming>, Failed> {
        if *request.method() == Method::CONNECT {
            self.may_connect(&connection).await?;
        }
        let Http2Connection { mut sender, .. } = connection;
        let spare = again(&request);
        let response = sender.try_send_request(request);
        // A request that came too late for the connection is given back when the last sender goes.
        drop(sender);
        let answered =
            self.in_time(upload, pin!(response), waiting.look).await.ok_or(UpstreamError::ResponseTimeout)?;
        answered.map_err(|mut failed| {
            let again = failed.take_message().or(spare);
            Failed { error: whose_fault(failed.into_error(), upload), again }
        })
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
}

/// A request that was not answered, if sending it again does no harm.
fn again_http1(unanswered: Unanswered<RequestBody>) -> (Failure, Option<Request<RequestBody>>) {
    let Unanswered { failure, sent, answered, parts, body } = unanswered;
    let broke_off = matches!(failure, Failure::BrokeOff(_)) && !answered;
    // What was sent and still has its body had none, or was not asked for it.
    let again = body.filter(|_| broke_off && (!sent || parts.method.is_idempotent()));
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
