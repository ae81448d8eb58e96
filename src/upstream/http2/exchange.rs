//! One request and its response.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use h2::{Reason, RecvStream, client::ResponseFuture, ext::Protocol};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use tokio::{
    task::JoinError,
    time::{Sleep, sleep},
};

use super::{
    Connection, Duplex, ResponseBody,
    connection::{Share, Unsent},
    upload::Upload,
};
use crate::upstream::{
    body::{BodyError, RequestBody},
    waiting::{CONTINUE, MAX_INTERIM, Sending, Waiting},
};

/// What came back.
#[derive(Debug)]
pub(in crate::upstream) enum Answer {
    /// A response.
    Response(Response<ResponseBody>),
    /// `200` to an extended `CONNECT`.
    Connected(Response<()>, Duplex),
}

/// Why there is no response, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(in crate::upstream) enum Failure {
    /// The stream or the connection ended or failed.
    #[error("upstream broke off, or does not speak HTTP/2 as it should")]
    BrokeOff(#[source] h2::Error),
    /// `101 Switching Protocols`, which HTTP/2 does not have (RFC 9113 §8.6).
    #[error("upstream switched protocols")]
    Switched,
    /// One interim response after another.
    #[error("too many interim responses")]
    Interim,
    /// `Content-Length` is no length, several, or in the answer to `CONNECT`.
    #[error("length of the response is malformed")]
    Length,
    /// The request's body failed.
    #[error("request body failed")]
    Request(#[source] BodyError),
    /// Sending the request's body panicked.
    #[error("request could not be sent to its end")]
    Panicked(#[source] JoinError),
}

/// A request that was not answered.
#[derive(Debug)]
pub(in crate::upstream) struct Unanswered {
    /// Why.
    pub(in crate::upstream) failure: Failure,
    /// Whether any of it may have gone out.
    pub(in crate::upstream) sent: bool,
    /// Whether the upstream has done nothing about it: it never had it, or says so (RFC 9113 §8.7).
    pub(in crate::upstream) refused: bool,
    /// Whether anything came back.
    pub(in crate::upstream) answered: bool,
    /// Its body, as long as nothing of it is lost.
    pub(in crate::upstream) body: Option<RequestBody>,
}

/// Sends a request over a connection, with this body, and resolves with the header of its response. It waits until the upstream takes another
/// request. With `Expect: 100-continue` the body waits until it is wanted. How long all that takes is for the caller to say.
///
/// # Errors
/// [`Unanswered`].
///
/// # Cancel safety
/// Dropping the future resets the stream; the upstream may have acted on the request.
pub(in crate::upstream) async fn exchange<H>(
    connection: Connection,
    head: &Request<H>,
    body: RequestBody,
    waiting: &Waiting,
) -> Result<Answer, Unanswered> {
    let is_connect = *head.method() == Method::CONNECT;
    let is_whole = body.is_end_stream() && !is_connect;
    let expects = !is_whole && head.headers().contains_key(header::EXPECT);
    let mut share = connection.share();
    let (response, stream) = match connection.send(&mut share, request(head, &body), is_whole).await {
        Ok(sent) => sent,
        Err(unsent) => return Err(Unanswered::unsent(unsent, body)),
    };
    // It ends with those who use it.
    drop(connection);
    let mut underway = Underway {
        response,
        upload: Upload::new(stream, body, !is_whole && !is_connect, expects),
        is_connect,
        waiting,
        interim: 0,
        until: None,
        share,
    };
    match poll_fn(|context| underway.poll_head(context)).await {
        Ok((head, incoming)) => underway.answer(head, incoming),
        Err(failure) => Err(underway.unanswered(failure)),
    }
}

impl Unanswered {
    fn unsent(unsent: Unsent, body: RequestBody) -> Self {
        let (error, body) = match unsent {
            Unsent::Closed(error) => (error, Some(body)),
            Unsent::Malformed(error) => (error, None),
        };
        Self { failure: Failure::BrokeOff(error), sent: false, refused: true, answered: false, body }
    }
}

#[derive(Debug)]
struct Underway<'a> {
    response: ResponseFuture,
    upload: Upload,
    is_connect: bool,
    waiting: &'a Waiting,
    interim: usize,
    /// When content that waits has waited for long enough.
    until: Option<Pin<Box<Sleep>>>,
    share: Share,
}

impl Underway<'_> {
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<(Response<()>, RecvStream), Failure>> {
        loop {
            if let Poll::Ready(Err(error)) = self.upload.poll(context) {
                return Poll::Ready(Err(Failure::Request(error)));
            }
            match self.response.poll_informational(context) {
                Poll::Ready(Some(interim)) => {
                    self.take_interim(interim.map_err(Failure::BrokeOff)?)?;
                    continue;
                }
                Poll::Ready(None) => {
                    let response = ready!(Pin::new(&mut self.response).poll(context)).map_err(Failure::BrokeOff)?;
                    let (head, incoming) = response.into_parts();
                    return Poll::Ready(Ok((Response::from_parts(head, ()), incoming)));
                }
                Poll::Pending if !self.upload.is_held() => return Poll::Pending,
                Poll::Pending => {}
            }
            let until = self.until.get_or_insert_with(|| Box::pin(sleep(CONTINUE)));
            ready!(until.as_mut().poll(context));
            self.upload.release();
        }
    }

    fn take_interim(&mut self, response: Response<()>) -> Result<(), Failure> {
        self.interim += 1;
        if self.interim > MAX_INTERIM {
            return Err(Failure::Interim);
        }
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => return Err(Failure::Switched),
            StatusCode::CONTINUE => self.upload.release(),
            status => {
                if let Some(interim) = &self.waiting.interim {
                    interim.push(status, response.into_parts().0.headers);
                }
            }
        }
        Ok(())
    }

    fn answer(self, head: Response<()>, incoming: RecvStream) -> Result<Answer, Unanswered> {
        let length = length(head.headers());
        let is_connected = self.is_connect && head.status() == StatusCode::OK;
        // A tunnel has no length (RFC 9110 §9.3.6), and the library would hold it to that.
        let Ok(length) = length.and_then(|length| if is_connected && length.is_some() { Err(()) } else { Ok(length) })
        else {
            return Err(Unanswered { answered: true, ..self.unanswered(Failure::Length) });
        };
        let Self { mut upload, share, .. } = self;
        if is_connected {
            return Ok(Answer::Connected(head, Duplex::new(upload.into_stream(), incoming, share)));
        }
        // Nobody wants what comes after all of the response; what is held ends at once.
        let goes_on = !upload.is_over() && !incoming.is_end_stream();
        let sending =
            goes_on.then(|| Sending::spawn(poll_fn(move |context| upload.poll(context).map_err(Failure::Request))));
        Ok(Answer::Response(head.map(|()| ResponseBody::new(incoming, length, sending, share))))
    }

    fn unanswered(self, failure: Failure) -> Unanswered {
        let said = |is: fn(&h2::Error) -> bool, reason| {
            matches!(&failure, Failure::BrokeOff(error)
                if error.is_remote() && is(error) && error.reason() == Some(reason))
        };
        // A goodbye for a reason may be for this very request.
        let left_out = said(h2::Error::is_go_away, Reason::NO_ERROR);
        let refused = left_out || said(h2::Error::is_reset, Reason::REFUSED_STREAM);
        let body = self.upload.into_body();
        Unanswered { failure, sent: !left_out, refused, answered: self.interim > 0, body }
    }
}

/// The header as the library wants it. Its fields are copied, so that it can be sent elsewhere.
fn request<H>(head: &Request<H>, body: &RequestBody) -> Request<()> {
    let mut request = Request::new(());
    request.method_mut().clone_from(head.method());
    request.uri_mut().clone_from(head.uri());
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().clone_from(head.headers());
    let may_be_empty = matches!(*head.method(), Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT);
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0 || !may_be_empty) {
        request.headers_mut().entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    if let Some(protocol) = head.extensions().get::<Protocol>() {
        request.extensions_mut().insert(protocol.clone());
    }
    request
}

/// What a response says of its length. Several that say the same are one (RFC 9110 §8.6), and an empty one, which the library takes for 0, is no length.
fn length(fields: &HeaderMap) -> Result<Option<u64>, ()> {
    let mut length = None;
    for value in fields.get_all(header::CONTENT_LENGTH) {
        let said = value.to_str().ok().and_then(|said| said.parse().ok()).ok_or(())?;
        if length.is_some_and(|length| length != said) {
            return Err(());
        }
        length = Some(said);
    }
    Ok(length)
}
