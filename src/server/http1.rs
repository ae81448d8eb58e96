//! HTTP/1.1 towards clients (RFC 9112).
//!
//! One task serves a connection: it reads a header, has the request served while it passes on what its content is asked for, and writes
//! the response as it comes. Between two requests a connection holds nothing but itself.
//!
//! - `head`: the header of a request, read strictly.
//! - [`content`]: its content, for whoever asks for it.
//! - `encode`: the header of a response.
//! - `refusals`: what is answered before it is a request.

pub mod content;
mod encode;
mod head;
mod refusals;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use self::{
    content::{Feed, Passed},
    encode::Exchange,
    head::{Fault, Head, Unread},
};
pub(super) use self::{head::HeadLimits, refusals::Refusals};
use super::form::SentAhead;
use crate::{
    drain::Drain,
    gate::problem,
    http1::{
        content::{Decoder, Framing, Sender, Step},
        outgoing::Outgoing,
        read::{BLOCK, append, poll_fill},
        spare,
    },
    incoming::Incoming,
    upstream::{
        body::BodyError,
        fields,
        interim::Interim,
        tunnel::{Switch, Switching},
    },
};

/// How much of content that nobody wants is passed over, so that the connection can go on, in bytes.
const PASSED_OVER: usize = 64 * 1024;

/// What a connection is served by.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) limits: HeadLimits,
    /// Interim responses to the request under way.
    pub(super) interim: Interim,
    pub(super) refusals: Refusals,
    pub(super) drain: Drain,
}

/// Serves the requests that come over `stream`, one after the other, `first` before what is still to be read. Resolves when the connection
/// has ended: by its client, with a response that says so, or between two requests once `ends` resolves.
///
/// # Errors
/// The connection failed, its client went away, or a response broke off. It is to be closed as by accident then.
pub(super) async fn serve<T, S, F, B>(
    stream: Box<T>,
    first: Bytes,
    settings: &Settings,
    mut service: S,
    ends: impl Future<Output = ()> + Unpin,
) -> Result<(), BodyError>
where
    T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin + 'static,
    S: FnMut(Box<Request<Incoming>>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes, Error = BodyError> + From<Bytes> + Unpin,
{
    let mut ends = pin!(ends);
    let mut connection =
        Connection { stream, buffer: first, unread: Unread::default(), feed: None, expects: false, leaves: false };
    loop {
        let Head { mut request, framing, persistent, expects, takes_trailers, upgrades } = match poll_fn(|context| {
            connection.poll_head(context, settings.limits, ends.as_mut())
        })
        .await?
        {
            Some(Ok(head)) => head,
            Some(Err(fault)) => {
                let exchange =
                    Exchange { is_head: false, version: Version::HTTP_11, persistent: false, takes_trailers: false };
                connection.respond(settings.refusals.answer::<B>(fault), exchange, Outgoing::default()).await?;
                break;
            }
            None => break,
        };
        let mut exchange = Exchange {
            is_head: *request.method() == Method::HEAD,
            version: request.version(),
            persistent,
            takes_trailers,
        };
        let mut switch = connection.begin(&mut request, framing, expects, upgrades);
        let (mut response, outgoing) = {
            let response = pin!(service(request));
            connection.answered(response, &settings.interim).await?
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS && (switch.is_none() || !connection.buffer.is_empty()) {
            // Frames before the answer (RFC 6455 §4.1): were they taken for requests, or the other way round?
            tracing::debug!("upgrade refused: its client did not wait for the answer");
            switch = None;
            response = sent_too_early();
            exchange.persistent = false;
        }
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        exchange.persistent &= connection.may_go_on().await;
        exchange.persistent &=
            !connection.leaves && !settings.drain.is_leaving() && !encode::closes(response.headers());
        connection.respond(response, exchange, outgoing).await?;
        if let Some(switch) = switch.filter(|_| switches) {
            switch.hand_over(connection.stream);
            return Ok(());
        }
        if !connection.is_at_end(exchange.persistent).await {
            break;
        }
    }
    // In order: the client may still have something to read.
    connection.stream.shutdown().await?;
    Ok(())
}

/// The refusal of a handshake whose client sent more than that before it was answered.
fn sent_too_early<B: From<Bytes>>() -> Response<B> {
    let detail = "This is not HTTP, or can be read in more than one way.";
    problem::response(StatusCode::BAD_REQUEST, "malformed_request", detail)
}

/// Why requests are not read any further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refused {
    Head(Fault),
    Content,
}

/// The requests in these bytes that are there in full, as they come in pieces: their targets and their contents.
fn read_pieces<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    limits: HeadLimits,
) -> Result<Vec<(String, Vec<u8>)>, Refused> {
    let (mut buffer, mut unread, mut requests) = (Bytes::new(), Unread::default(), Vec::new());
    let mut under_way: Option<(String, Vec<u8>, Decoder)> = None;
    for piece in pieces {
        append(&mut buffer, Bytes::copy_from_slice(piece));
        loop {
            let Some((_, content, decoder)) = &mut under_way else {
                let Some(head) = unread.take(&mut buffer, limits).map_err(Refused::Head)? else { break };
                let decoder = Decoder::new(head.framing, Sender::Client);
                under_way = Some((head.request.uri().to_string(), Vec::new(), decoder));
                continue;
            };
            match decoder.step(&mut buffer).map_err(|_| Refused::Content)? {
                Step::Data(data) => content.extend_from_slice(&data),
                Step::More => break,
                Step::End | Step::Trailers(_) => {
                    requests.extend(under_way.take().map(|(target, content, _)| (target, content)));
                }
            }
        }
    }
    Ok(requests)
}

/// The requests in these bytes that are there in full, as they come in pieces: their targets and their contents; `None`: they are refused.
/// For benches and fuzzing.
#[doc(hidden)]
#[must_use]
pub fn read_in_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<(String, Vec<u8>)>> {
    read_pieces(pieces, HeadLimits { size: 64 * 1024, fields: 100 }).ok()
}

struct Connection<T> {
    stream: Box<T>,
    /// What was read and not yet used.
    buffer: Bytes,
    unread: Unread,
    /// The content of the request under way, if it has any.
    feed: Option<Feed>,
    /// Whether the client waits for `100 Continue`.
    expects: bool,
    /// Whether the connection is to end with the request under way.
    leaves: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    /// The next header, or why it is refused; `None`: there is none.
    fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        limits: HeadLimits,
        mut ends: Pin<&mut impl Future<Output = ()>>,
    ) -> Poll<io::Result<Option<Result<Head, Fault>>>> {
        loop {
            if !self.buffer.is_empty() {
                match self.unread.take(&mut self.buffer, limits) {
                    Ok(Some(head)) => return Poll::Ready(Ok(Some(Ok(head)))),
                    Ok(None) => {}
                    Err(fault) => return Poll::Ready(Ok(Some(Err(fault)))),
                }
            }
            if !self.leaves && ends.as_mut().poll(context).is_ready() {
                self.leaves = true;
            }
            if self.leaves && self.unread.is_empty() {
                return Poll::Ready(Ok(None));
            }
            if ready!(poll_fill(Sender::Client, &mut self.stream, &mut self.buffer, context, BLOCK))? == 0 {
                return Poll::Ready(Ok(None));
            }
        }
    }

    /// Gives a request its content. Returns how the connection is handed over, should it be.
    fn begin(
        &mut self,
        request: &mut Request<Incoming>,
        framing: Framing,
        expects: bool,
        upgrades: bool,
    ) -> Option<Switch> {
        self.expects = expects;
        if framing != Framing::Empty {
            let (mut feed, content) = Feed::new(framing);
            if !self.buffer.is_empty() {
                if expects {
                    self.expects = false;
                    request.extensions_mut().insert(SentAhead);
                }
                feed.offer(&mut self.buffer);
            }
            *request.body_mut() = Incoming::Http1(content);
            self.feed = Some(feed);
        }
        upgrades.then(|| {
            let (switch, switching) = Switching::new();
            request.extensions_mut().insert(switching);
            switch
        })
    }

    /// Has the request answered, while its content is passed on and interim responses go out. Returns what of them is still to be sent, too.
    async fn answered<B>(
        &mut self,
        mut response: Pin<&mut impl Future<Output = Response<B>>>,
        interim: &Interim,
    ) -> io::Result<(Response<B>, Outgoing)> {
        let mut outgoing = Outgoing::default();
        let response = poll_fn(|context| {
            loop {
                let answered = response.as_mut().poll(context);
                if outgoing.out.is_empty() {
                    for hint in interim.take() {
                        encode::interim(outgoing.out.head(), &hint);
                    }
                }
                if let Poll::Ready(response) = answered {
                    return Poll::Ready(io::Result::Ok(response));
                }
                let passed = self.poll_client(context, Some(&mut outgoing))?;
                if !outgoing.out.is_empty() && outgoing.out.poll_write(&mut self.stream, context, &mut 0)?.is_ready() {
                    let _ = Pin::new(&mut self.stream).poll_flush(context)?;
                }
                if passed == Passed::Nothing {
                    return Poll::Pending;
                }
            }
        })
        .await?;
        Ok((response, outgoing))
    }

    /// Passes on what is asked for of the content, and looks whether the client is still there. `outgoing`: where it is told to go on,
    /// until it was answered.
    fn poll_client(&mut self, context: &mut Context<'_>, outgoing: Option<&mut Outgoing>) -> io::Result<Passed> {
        if let Some(feed) = &mut self.feed
            && !feed.is_done()
        {
            if !feed.is_wanted(context) {
                return Ok(Passed::Nothing);
            }
            if let Some(outgoing) = outgoing
                && std::mem::take(&mut self.expects)
            {
                outgoing.out.head().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            return Ok(feed.poll_pass(&mut self.stream, &mut self.buffer, context));
        }
        // Once something has come behind the request, no more is read until it was answered.
        if self.buffer.is_empty()
            && let Poll::Ready(read) = poll_fill(Sender::Client, &mut self.stream, &mut self.buffer, context, BLOCK)?
        {
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // By itself: it may have to wait for long, and is a small part of what is shared.
            self.buffer = Bytes::copy_from_slice(&self.buffer);
        }
        Ok(Passed::Nothing)
    }

    /// Sends a response, behind what is in `outgoing` already.
    fn respond<B>(
        &mut self,
        response: Response<B>,
        exchange: Exchange,
        mut outgoing: Outgoing,
    ) -> impl Future<Output = Result<(), BodyError>>
    where
        B: Body<Data = Bytes, Error = BodyError> + Unpin,
    {
        outgoing.framing = encode::framing(&response, exchange);
        encode::head(outgoing.out.head(), &response, outgoing.framing, exchange);
        let (parts, mut body) = response.into_parts();
        spare::give(parts.headers);
        let mut is_whole = outgoing.framing == Framing::Empty;
        let mut is_flushed = true;
        poll_fn(move |context| {
            loop {
                let mut waits = false;
                while !is_whole && !waits && outgoing.out.has_room() {
                    match Pin::new(&mut body).poll_frame(context) {
                        Poll::Pending => waits = true,
                        Poll::Ready(frame) => {
                            let frame = frame.transpose()?;
                            is_whole = put(&mut outgoing, frame, body.is_end_stream(), exchange.takes_trailers)?;
                        }
                    }
                }
                let written = outgoing.out.poll_write(&mut self.stream, context, &mut 0)?;
                is_flushed &= !matches!(written, Poll::Ready(true));
                if written.is_ready() && !is_flushed && (waits || is_whole) {
                    is_flushed = Pin::new(&mut self.stream).poll_flush(context)?.is_ready();
                }
                if is_whole && written.is_ready() && is_flushed {
                    return Poll::Ready(Ok(()));
                }
                if waits || is_whole || written.is_pending() {
                    while self.poll_client(context, None)? == Passed::Some {}
                    return Poll::Pending;
                }
            }
        })
    }

    /// Whether another request can come behind the content of this one, as far as that can be told. What nobody wants of it is passed over,
    /// if it is there.
    async fn may_go_on(&mut self) -> bool {
        poll_fn(|context| {
            let Some(feed) = self.feed.as_mut().filter(|feed| feed.is_over()) else { return Poll::Ready(true) };
            let may_go_on = feed.is_done()
                || !self.expects && feed.pass_over(&mut self.stream, &mut self.buffer, context, PASSED_OVER);
            Poll::Ready(may_go_on)
        })
        .await
    }

    /// After a response: whether another request can come. Content that is still asked for is passed on until its end.
    async fn is_at_end(&mut self, persistent: bool) -> bool {
        if let Some(feed) = &mut self.feed {
            poll_fn(|context| {
                while !feed.is_over() {
                    if !feed.is_wanted(context)
                        || feed.poll_pass(&mut self.stream, &mut self.buffer, context) == Passed::Nothing
                    {
                        return Poll::Pending;
                    }
                }
                Poll::Ready(())
            })
            .await;
        }
        let goes_on = persistent && self.may_go_on().await;
        self.feed = None;
        self.expects = false;
        goes_on
    }
}

/// Puts the next part of a response behind what goes out; whether it was the last one.
fn put(
    outgoing: &mut Outgoing,
    frame: Option<Frame<Bytes>>,
    is_last: bool,
    takes_trailers: bool,
) -> Result<bool, BodyError> {
    let Some(frame) = frame else {
        outgoing.end(None)?;
        return Ok(true);
    };
    match frame.into_data().map_err(Frame::into_trailers) {
        Ok(data) => outgoing.data(data)?,
        Err(Ok(mut trailers)) => {
            fields::strip_response_trailers(&mut trailers);
            outgoing.end(Some(&trailers).filter(|_| takes_trailers))?;
            return Ok(true);
        }
        Err(Err(_)) => {}
    }
    if is_last {
        outgoing.end(None)?;
    }
    Ok(is_last)
}
