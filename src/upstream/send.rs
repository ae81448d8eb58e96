//! One try: a request is sent over a connection, kept or new, and the header of its response comes back.

use std::{
    error::Error as _,
    pin::{Pin, pin},
};

use http::{Method, Request, Response, StatusCode, Version};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Body,
    body::{BodyError, Fault, RequestBody, Upload},
    endpoint::{Endpoint, InFlight},
    error::UpstreamError,
    fields,
    http1::{self, Answer, Failure, Unanswered},
    http2,
    outbound::Outbound,
    pool::{Http1Pool, Http2Connection, Http2Pool},
    proxy::{Shared, Tries, Way},
    transport::Stream,
    waiting::Waiting,
};
use crate::{incoming::Incoming, verdict::Reason};

/// An endpoint that did not answer, and the request if it may be sent once more.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: UpstreamError,
    pub(super) again: Option<Outbound>,
}

/// How many connections over HTTP/2 may turn out to take no more requests, one after another, before a new one is made.
const MAX_STALE: usize = 3;

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
    /// What came back over HTTP/1.1, as the client gets it.
    pub(super) fn answered_http1(
        &self,
        answer: Answer<Stream>,
        in_flight: InFlight,
        way: &Way,
        tries: &mut Tries,
    ) -> Result<Response<Body>, (Failed, InFlight)> {
        let Answer::Response(response) = answer else { return Err((UpstreamError::Switched.into(), in_flight)) };
        tries.at = Instant::now();
        self.judge(in_flight.endpoint(), response.status());
        Ok(passed_on(response.map(|body| Body::http1(body, in_flight, way.limits, tries.at))))
    }

    /// Likewise over HTTP/2.
    pub(super) fn answered_http2(
        &self,
        answer: http2::Answer,
        in_flight: InFlight,
        way: &Way,
        tries: &mut Tries,
    ) -> Result<Response<Body>, (Failed, InFlight)> {
        let http2::Answer::Response(response) = answer else { return Err((UpstreamError::Switched.into(), in_flight)) };
        tries.at = Instant::now();
        self.judge(in_flight.endpoint(), response.status());
        Ok(passed_on(response.map(|body| Body::http2(body, in_flight, way.limits))))
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
    /// that is idempotent and has no body, takes another (RFC 9110 §9.2.2, RFC 9112 §9.3.1). What went out is a try like any other.
    pub(super) async fn send_http1(
        &self,
        pool: &Http1Pool,
        mut request: Outbound,
        way: &Way,
        tries: &mut Tries,
    ) -> Result<Answer<Stream>, Failed> {
        let upload = request.body.upload();
        let limit = self.settings().response_timeout;
        let mut may_be_kept = true;
        loop {
            let (connection, is_new) = match may_be_kept.then(|| pool.take(tries.at)).flatten() {
                Some(connection) => (connection, false),
                None => match Box::pin(way.tether.wait(pool.connect())).await? {
                    Ok(connection) => {
                        tries.at = Instant::now();
                        (connection, true)
                    }
                    Err(error) => return Err(Failed { error: error.into(), again: Some(request) }),
                },
            };
            let Outbound { head, body } = request;
            let exchange = http1::exchange(connection, head, body, (tries.at, limit), &way.waiting);
            let unanswered = match exchange.await {
                Ok(answer) => return Ok(answer),
                Err(unanswered) => unanswered,
            };
            tries.at = Instant::now();
            let was_sent = unanswered.sent;
            let (failure, again) = again_http1(unanswered);
            if is_new {
                return Err(Failed { error: whose_fault(failure, upload.as_deref()), again });
            }
            request = match again.filter(|_| !was_sent || self.may_repeat_there(tries)) {
                Some(again) => again,
                None => return Err(whose_fault(failure, upload.as_deref()).into()),
            };
            // What was sent is sent once more over a new connection: others may be closed as well.
            may_be_kept = !was_sent;
        }
    }

    /// Likewise over HTTP/2, where a failure may be one of the connection that all requests share, or of the request alone: then it is
    /// sent once more over the same connection.
    pub(super) async fn send_http2(
        &self,
        pool: &Http2Pool,
        mut request: Outbound,
        way: &Way,
        tries: &mut Tries,
    ) -> Result<http2::Answer, Failed> {
        let upload = request.body.upload();
        let upload = upload.as_deref();
        for _ in 0..MAX_STALE {
            let Some(connection) = pool.open() else { break };
            let number = connection.number;
            match self.try_http2(connection, request, upload, &way.waiting).await {
                // It takes no more requests, and is about to close.
                Err((Failed { again: Some(again), .. }, false)) => {
                    pool.forget(number);
                    request = again;
                }
                Err((Failed { again: Some(again), error }, true)) => {
                    if !is_of_stream(&error) {
                        pool.forget(number);
                    }
                    if !self.may_repeat_there(tries) {
                        return Err(error.into());
                    }
                    request = again;
                    break;
                }
                answered => return answered.map_err(|(failed, _)| failed),
            }
        }
        match way.tether.wait(pool.connect()).await? {
            Ok(connection) => {
                self.try_http2(connection, request, upload, &way.waiting).await.map_err(|(failed, _)| failed)
            }
            Err(error) => Err(Failed { error: error.into(), again: Some(request) }),
        }
    }

    /// Errors come with whether the request was sent.
    async fn try_http2(
        &self,
        connection: Http2Connection,
        request: Outbound,
        upload: Option<&Upload>,
        waiting: &Waiting,
    ) -> Result<http2::Answer, (Failed, bool)> {
        let (Http2Connection { mut connection, .. }, Outbound { head, body }) = (connection, request);
        if *head.method() == Method::CONNECT {
            self.may_connect(&mut connection).await.map_err(|error| (error.into(), false))?;
        }
        // Whatever became of it before.
        if let Some(upload) = upload {
            upload.progress();
        }
        let answered = {
            let exchange = pin!(http2::exchange(connection, &head, body, waiting));
            self.in_time(upload, exchange, waiting.look).await
        };
        answered.ok_or((UpstreamError::ResponseTimeout.into(), true))?.map_err(|unanswered| {
            let was_sent = unanswered.sent;
            let (failure, again) = again_http2(head, unanswered);
            (Failed { error: whose_fault(failure, upload), again }, was_sent)
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

/// A response without what was meant for the connection that it came over.
fn passed_on(mut response: Response<Body>) -> Response<Body> {
    fields::strip_response(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    response
}

/// Whether a stream was reset, and the connection goes on (RFC 9113 §5.4.2).
fn is_of_stream(error: &UpstreamError) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_reset();
        }
        cause = error.source();
    }
    false
}

/// A request that was not answered, if sending it again does no harm.
fn again_http1(unanswered: Unanswered<Incoming, RequestBody>) -> (Failure, Option<Outbound>) {
    let Unanswered { failure, sent, answered, request: head, body } = unanswered;
    let broke_off = matches!(failure, Failure::BrokeOff(_)) && !answered;
    // What was sent and still has its body had none, or was not asked for it.
    let again = body.filter(|_| broke_off && (!sent || head.method().is_idempotent()));
    let again = again.map(|(body, first)| {
        let mut body = body.unwrap_or_default();
        body.put_back(first);
        Outbound { head, body }
    });
    (failure, again)
}

/// Likewise over HTTP/2, where an upstream can say that it did nothing about it (RFC 9113 §8.7).
fn again_http2(head: Box<Request<Incoming>>, unanswered: http2::Unanswered) -> (http2::Failure, Option<Outbound>) {
    let http2::Unanswered { failure, refused, answered, body, .. } = unanswered;
    // What the library found wrong with a response is no end of it.
    let broke_off = matches!(&failure, http2::Failure::BrokeOff(error) if !(error.is_reset() && error.is_library()));
    let again = body.filter(|_| broke_off && !answered && (refused || head.method().is_idempotent()));
    (failure, again.map(|body| Outbound { head, body }))
}

/// A request's body that fails makes the exchange with the upstream fail.
fn whose_fault(error: impl Into<WhyNot>, upload: Option<&Upload>) -> UpstreamError {
    let error = error.into();
    match (upload.and_then(Upload::fault), error) {
        (_, WhyNot::TimedOut) => UpstreamError::ResponseTimeout,
        (_, WhyNot::Switched) => UpstreamError::Switched,
        (Some(Fault::Stalled), _) => UpstreamError::RequestTimeout,
        (Some(Fault::Broken), WhyNot::Other(error)) | (_, WhyNot::Request(error)) => UpstreamError::RequestBody(error),
        (None, WhyNot::Other(error)) => UpstreamError::Exchange(error),
    }
}

/// Why an exchange failed, as far as its connection knows.
enum WhyNot {
    TimedOut,
    Switched,
    Request(BodyError),
    Other(BodyError),
}

impl From<http2::Failure> for WhyNot {
    fn from(failure: http2::Failure) -> Self {
        match failure {
            http2::Failure::Request(_) => Self::Request(failure.into()),
            http2::Failure::Switched => Self::Switched,
            failure => Self::Other(failure.into()),
        }
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
