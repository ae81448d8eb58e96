//! One request and its response.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body;
use tokio::{io::AsyncWriteExt as _, time::Instant};

use super::{
    Connection, Link, Malformed, ResponseBody, Upgraded,
    head::{Head, Unread},
    upload::{Sending, Upload, UploadFault},
};
use crate::{
    http1::{
        content::{Framing, Sender},
        read::{BLOCK, poll_fill},
        spare,
    },
    upstream::{
        body::BodyError,
        waiting::{CONTINUE, MAX_INTERIM, Sending as Rest, Waiting},
    },
};

/// What came back.
#[derive(Debug)]
pub enum Answer<S> {
    /// A response.
    Response(Response<ResponseBody<S>>),
    /// `101 Switching Protocols` to a request with `Upgrade`.
    Switched(Response<()>, Upgraded<S>),
}

/// Why there is no response, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The connection ended or failed.
    #[error("upstream broke off")]
    BrokeOff(#[source] io::Error),
    /// What came is no HTTP/1.1.
    #[error("upstream does not speak HTTP/1.1 as it should")]
    Malformed(#[source] Malformed),
    /// The header of the response did not come in time.
    #[error("upstream did not answer in time")]
    TimedOut,
    /// The request's body failed.
    #[error("request body failed")]
    Request(#[source] BodyError),
    /// The request's body was longer or shorter than it said.
    #[error("request body is not as long as it was said to be")]
    RequestLength,
}

/// A request that was not answered.
#[derive(Debug)]
pub struct Unanswered<H, B> {
    /// Why.
    pub failure: Failure,
    /// Whether any of it was sent.
    pub sent: bool,
    /// Whether anything came back.
    pub answered: bool,
    /// It, without its body.
    pub request: Box<Request<H>>,
    /// Its body, as long as nothing of it is lost: what was taken off it already comes first. `None` in its place: it is empty.
    pub body: Option<(Option<B>, Option<Bytes>)>,
}

/// Sends a request over a connection, with this body, and resolves with the header of its response. `within`: what time it is, and how long that may
/// take while the client is not waited for. The request's fields that tell of its framing are replaced; all others are sent as they are, in any
/// case, so those of one connection only must be gone. With `Expect: 100-continue` the body waits until it is wanted.
///
/// # Errors
/// [`Unanswered`]. The connection is gone then.
///
/// # Cancel safety
/// Dropping the future closes the connection; the upstream may have acted on the request.
pub fn exchange<S, H, B>(
    connection: Connection<S>,
    request: Box<Request<H>>,
    body: B,
    within: (Instant, Duration),
    waiting: &Waiting,
) -> Exchange<'_, S, H, B>
where
    S: Link,
    B: Body<Data = Bytes, Error = BodyError> + Unpin + Send + 'static,
{
    let expects = !body.is_end_stream() && request.headers().contains_key(header::EXPECT);
    Exchange(Some(Underway {
        upload: Upload::new(&request, body, expects),
        request,
        connection,
        unread: Unread::default(),
        interim: 0,
        since: Some(within.0),
        limit: within.1,
        waiting,
        look: waiting.look,
        held_since: None,
        is_begun: false,
        answered: false,
    }))
}

/// The response of [`exchange`]. It is as small as it can be: a request has one on its way at any time.
#[derive(Debug)]
pub struct Exchange<'a, S, H, B>(Option<Underway<'a, S, H, B>>);

impl<S, H, B> Future for Exchange<'_, S, H, B>
where
    S: Link,
    H: Unpin,
    B: Body<Data = Bytes, Error = BodyError> + Unpin + Send + 'static,
{
    type Output = Result<Answer<S>, Unanswered<H, B>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(underway) = &mut self.0 else { return Poll::Pending };
        let result = ready!(underway.poll_head(context));
        let Some(Underway { upload, connection, mut request, answered, .. }) = self.0.take() else {
            return Poll::Pending;
        };
        Poll::Ready(match result {
            Ok(head) => {
                spare::give(std::mem::take(request.headers_mut()));
                Ok(answer(head, connection, upload))
            }
            Err(failure) => {
                let sent = upload.sent() > 0;
                Err(Unanswered { failure, sent, answered, request, body: upload.into_body() })
            }
        })
    }
}

fn answer<S, B>(head: Head, mut connection: Connection<S>, mut upload: Upload<B>) -> Answer<S>
where
    S: Link,
    B: Body<Data = Bytes, Error = BodyError> + Unpin + Send + 'static,
{
    let Head { version, status, reason, headers, framing, persistent } = head;
    let mut response = Response::new(());
    *response.version_mut() = version;
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let leftover = std::mem::take(&mut connection.buffer);
        return Answer::Switched(response, Upgraded { stream: connection.stream, leftover });
    }
    let body = if upload.is_done() {
        ResponseBody::new(connection, framing, persistent)
    } else if framing == Framing::Empty || upload.is_held() {
        // The rest of the request is not wanted.
        ResponseBody::new(connection, framing, false)
    } else {
        // Rare enough for a task.
        let Connection { stream, buffer, .. } = connection;
        let (read, mut write) = tokio::io::split(stream);
        let rest = Rest::spawn(async move {
            let result = poll_fn(|context| match upload.poll(&mut write, context) {
                Ok(Sending::Done) => Poll::Ready(Ok(())),
                Ok(_) => Poll::Pending,
                Err(fault) => Poll::Ready(Err(fault.into())),
            })
            .await;
            if result.is_err() {
                // Whoever reads the response may take long to hear of it, and the upstream waits for the rest.
                let _ = write.shutdown().await;
            }
            result
        });
        ResponseBody::early(read, buffer, framing, rest)
    };
    Answer::Response(response.map(|()| body))
}

#[derive(Debug)]
struct Underway<'a, S, H, B> {
    request: Box<Request<H>>,
    upload: Upload<B>,
    connection: Connection<S>,
    unread: Unread,
    interim: usize,
    /// Since when the upstream is waited for, and nothing else.
    since: Option<Instant>,
    /// How long the upstream is waited for.
    limit: Duration,
    waiting: &'a Waiting,
    look: Option<Instant>,
    /// Since when the body waits.
    held_since: Option<Instant>,
    is_begun: bool,
    /// Whether anything came back.
    answered: bool,
}

impl<S, H, B> Underway<'_, S, H, B>
where
    S: Link,
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Head, Failure>> {
        let limit = self.limit;
        let begins = !std::mem::replace(&mut self.is_begun, true);
        if begins && self.connection.reused {
            self.check(context)?;
        }
        loop {
            let had_sent = self.upload.sent();
            let sending = match self.upload.poll(&mut self.connection.stream, context) {
                Ok(sending) => sending,
                Err(fault) => return Poll::Ready(Err(fault.into())),
            };
            // What goes out at once does so when it begins.
            if self.upload.sent() != had_sent && !begins {
                self.since = None;
            }
            if let Poll::Ready(head) = self.poll_read(context) {
                return Poll::Ready(head);
            }
            if let Some(look) = self.look
                && self.connection.timer.poll_elapsed(context, look, Duration::ZERO).is_ready()
            {
                self.look = None;
            }
            match sending {
                Sending::Client => {
                    self.since = None;
                    return Poll::Pending;
                }
                Sending::Word => {
                    let since = *self.held_since.get_or_insert_with(Instant::now);
                    if self.connection.timer.poll_elapsed(context, since, CONTINUE).is_pending() {
                        return Poll::Pending;
                    }
                    self.upload.release();
                }
                Sending::Upstream | Sending::Done => {
                    let since = *self.since.get_or_insert_with(Instant::now);
                    let looks_first = self.look.is_some_and(|look| look < since + limit);
                    if !looks_first && self.connection.timer.poll_elapsed(context, since, limit).is_ready() {
                        return Poll::Ready(Err(Failure::TimedOut));
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// A kept connection has to be silent before it is used again. Whatever comes over it then is no answer, least of all to somebody
    /// else's request. The runtime may hear of it a little later than the system, so the system is asked (`recv` with `MSG_PEEK`).
    fn check(&mut self, context: &mut Context<'_>) -> Result<(), Failure> {
        let Connection { stream, buffer, .. } = &mut self.connection;
        if stream.is_bare() && !stream.is_disturbed() {
            return Ok(());
        }
        match poll_fill(Sender::Upstream, stream, buffer, context, BLOCK) {
            Poll::Pending if !stream.is_disturbed() => Ok(()),
            Poll::Ready(Err(error)) => Err(Failure::BrokeOff(error)),
            Poll::Pending | Poll::Ready(Ok(_)) => Err(Failure::BrokeOff(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Head, Failure>> {
        let Connection { stream, buffer, .. } = &mut self.connection;
        loop {
            match ready!(poll_fill(Sender::Upstream, stream, buffer, context, BLOCK)).map_err(Failure::BrokeOff)? {
                0 => return Poll::Ready(Err(Failure::BrokeOff(io::ErrorKind::UnexpectedEof.into()))),
                _ => self.answered = true,
            }
            while let Some(head) = self.unread.parse(buffer, self.request.method()).map_err(Failure::Malformed)? {
                match head.status {
                    StatusCode::SWITCHING_PROTOCOLS if is_upgrade(&self.request) && self.upload.is_done() => {
                        return Poll::Ready(Ok(head));
                    }
                    StatusCode::SWITCHING_PROTOCOLS => {
                        return Poll::Ready(Err(Failure::Malformed(Malformed::Switched)));
                    }
                    status if status.is_informational() => {
                        self.interim += 1;
                        if self.interim > MAX_INTERIM {
                            return Poll::Ready(Err(Failure::Malformed(Malformed::Interim)));
                        }
                        if status == StatusCode::CONTINUE {
                            if self.upload.release() {
                                // Somebody has to send the body now.
                                context.waker().wake_by_ref();
                            }
                        } else if let Some(interim) = &self.waiting.interim {
                            interim.push(status, head.headers);
                        }
                    }
                    _ => return Poll::Ready(Ok(head)),
                }
            }
        }
    }
}

fn is_upgrade<B>(request: &Request<B>) -> bool {
    request.method() != Method::CONNECT && request.headers().contains_key(header::UPGRADE)
}

impl From<UploadFault> for Failure {
    fn from(fault: UploadFault) -> Self {
        match fault {
            UploadFault::Io(error) => Self::BrokeOff(error),
            UploadFault::Body(error) => Self::Request(error),
            UploadFault::Length => Self::RequestLength,
        }
    }
}
