//! HTTP/2 towards clients (RFC 9113).
//!
//! One task serves a connection and all its streams: what one of them has to say is written without waking anybody. Between requests a
//! connection holds nothing but itself, and what its client has put into its table of fields.
//!
//! - `connection`: frames, read and written.
//! - `streams`: what has come for each stream, and what of each is to be sent; nothing that reads or writes.
//! - `frame`, `hpack`, `head`: what the bytes mean.
//! - [`content`]: the content of a request, for whoever asks for it.
//! - `send`: the response.
//! - `duplex`: a stream that is handed over (RFC 8441).
//! - `liveness`: clients that have gone without a word.
//! - `turn`: when the task goes on, and when it sleeps.
//! - `error`, `fault`: what ends streams and connections, and what is counted of it.

mod connection;
pub mod content;
mod duplex;
pub(crate) mod error;
pub(crate) mod fault;
mod frame;
mod head;
mod hpack;
mod liveness;
mod send;
mod streams;
mod trial;
mod turn;

#[cfg(test)]
pub(super) mod tests;

use std::{
    fmt,
    future::poll_fn,
    io,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::CatchUnwind,
    stream::{FuturesUnordered, Stream as _},
};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};

#[doc(hidden)]
pub use self::trial::{Trial, read_in_pieces};
use self::{
    connection::{Accepted, Connection},
    content::{Content, Wish},
    duplex::Duplex,
    error::Http2Error,
    liveness::Liveness,
    streams::{Receiver, Responder},
    turn::{Part, Turns},
};
use super::{
    ListenerSettings,
    patience::{Over, Progress},
};
use crate::{
    http1::spare,
    incoming::Incoming,
    upstream::{
        body::BodyError,
        interim::Interim,
        tunnel::{Switch, Switching},
    },
};

/// How many requests a connection may have under way.
const MAX_STREAMS: usize = 200;

/// How many of them a client may take back before they are looked at (rapid reset), and how many the gate may have had to reset for what
/// was wrong with them (MadeYouReset); with more, the connection ends. No client that means well comes near.
const MAX_RESET_EARLY: usize = 20;
const MAX_FAULTY: usize = 256;

/// How much of one request's body may be on its way to the gate, and of all bodies of a connection. One that its upstream is slow to
/// read must not hold up the others, so the latter is a multiple; it is also the most memory that a connection takes for them.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;

/// What a connection is served by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// The most bytes of a header.
    pub(super) max_header_size: usize,
    /// After how much silence a client is asked whether it is still there.
    pub(super) idle_timeout: Duration,
    /// How long it may take to answer.
    pub(super) ping_timeout: Duration,
}

impl From<&ListenerSettings> for Settings {
    fn from(listener: &ListenerSettings) -> Self {
        let ListenerSettings { max_header_size, idle_timeout, header_timeout, .. } = *listener;
        Self { max_header_size, idle_timeout, ping_timeout: header_timeout }
    }
}

/// Serves the requests that come over `stream`, `first` before what is still to be read. `service` is given each with where interim
/// responses to it go, and gives what has it served and when it is to be given up. Resolves when the connection has ended: by its client,
/// or once `ends` has resolved and the last request has been answered.
///
/// # Errors
/// The connection failed, or its client broke the protocol.
pub(super) async fn serve<T, S, A, F, B>(
    stream: Box<T>,
    first: Bytes,
    settings: Settings,
    progress: Arc<Progress>,
    mut service: S,
    mut ends: impl Future<Output = ()> + Unpin,
) -> Result<(), BodyError>
where
    T: AsyncRead + AsyncWrite + fmt::Debug + Unpin,
    S: FnMut(Box<Request<Incoming>>, Interim) -> (A, Over),
    A: FnOnce() -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    let mut connection = Connection::new(stream, first, settings.max_header_size);
    let mut liveness = Liveness::new(progress, settings.idle_timeout, settings.ping_timeout);
    let (mut streams, turns) = (FuturesUnordered::new(), Turns::new());
    let mut leaves = false;
    poll_fn(|context| {
        turns.poll(context, |part, context| {
            if part == Part::Streams {
                while let Poll::Ready(Some(())) = Pin::new(&mut streams).poll_next(context) {}
                return Poll::Pending;
            }
            if !leaves && Pin::new(&mut ends).poll(context).is_ready() {
                leaves = true;
                connection.leave();
            }
            if liveness.poll_gone(context, || connection.ask()).is_ready() {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::TimedOut).into()));
            }
            connection.poll(context, |accepted| {
                let Begun { request, exchange } = begin(accepted);
                let (answer, over) = service(request, exchange.interim.clone());
                let serving = AssertUnwindSafe(exchange.serve(answer)).catch_unwind();
                streams.push(Stream { over, serving });
                turns.wake_streams();
            })
        })
    })
    .await
}

/// A request that was read, and what is to be known to answer it.
struct Begun {
    request: Box<Request<Incoming>>,
    exchange: Exchange,
}

/// Gives a request its content.
fn begin(accepted: Accepted) -> Begun {
    let Accepted { mut request, responder, receiver, length } = accepted;
    let (mut wish, mut switch) = (None, None);
    match receiver {
        Some(stream) if *request.method() == Method::CONNECT => {
            let (to_tunnel, switching) = Switching::new();
            request.extensions_mut().insert(switching);
            switch = Some((to_tunnel, stream));
        }
        Some(stream) => {
            let expects = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
            wish = request.headers().get(header::EXPECT).filter(|value| expects(value)).map(|_| Arc::default());
            *request.body_mut() = Incoming::Http2(Content::new(stream, length, wish.clone()));
        }
        None => {}
    }
    // No window bounds what waits for a client that does not read.
    Begun { request, exchange: Exchange { responder, interim: Interim::of_one_request(), wish, switch } }
}

/// What a request is answered by.
struct Exchange {
    responder: Responder,
    interim: Interim,
    wish: Option<Arc<Wish>>,
    switch: Option<(Switch, Receiver)>,
}

impl Exchange {
    /// Has the request answered, and sends the response.
    async fn serve<F, B>(self, answer: impl FnOnce() -> F) -> Result<(), BodyError>
    where
        F: Future<Output = Response<B>>,
        B: Body<Data = Bytes, Error = BodyError> + Unpin,
    {
        let mut response = {
            // Made here: a future that is handed on has its place twice.
            let response = pin!(answer());
            self.answered(response).await?
        };
        send::put_in_form(&mut response);
        let (head, body) = response.into_parts();
        let is_tunnel = self.switch.is_some() && head.status.is_success();
        let is_whole = body.is_end_stream() && !is_tunnel;
        self.responder.respond(head.status, &head.headers, is_whole)?;
        spare::give(head.headers);
        match self.switch.filter(|_| is_tunnel) {
            Some((switch, from_client)) => switch.hand_over(Box::new(Duplex::new(from_client, self.responder))),
            None if is_whole => {}
            None => send::content(&self.responder, body).await?,
        }
        Ok(())
    }

    /// Waits for the response, while interim responses go out.
    ///
    /// # Errors
    /// The client has taken the request back, or is gone.
    async fn answered<B>(
        &self,
        mut response: Pin<&mut impl Future<Output = Response<B>>>,
    ) -> Result<Response<B>, Http2Error> {
        poll_fn(|context| {
            // It may have been taken back before anybody has seen it.
            if let Poll::Ready(why) = self.responder.poll_ended(context) {
                return Poll::Ready(Err(why));
            }
            let answered = response.as_mut().poll(context);
            for hint in self.interim.take() {
                self.responder.respond(hint.status(), hint.headers(), false)?;
            }
            if let Poll::Ready(response) = answered {
                return Poll::Ready(Ok(response));
            }
            if self.wish.as_ref().is_some_and(|wish| wish.poll_said(context)) {
                self.responder.respond(StatusCode::CONTINUE, &HeaderMap::new(), false)?;
            }
            Poll::Pending
        })
        .await
    }
}

pin_project! {
    /// Serves a request until it is given up, which resets its stream. If that panics, the others of its connection go on.
    struct Stream<F> {
        over: Over,
        // Nothing of it is used after a panic.
        #[pin]
        serving: CatchUnwind<AssertUnwindSafe<F>>,
    }
}

impl<F: Future<Output = Result<(), BodyError>>> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if Pin::new(this.over).poll(context).is_ready() {
            tracing::debug!("client takes nothing of a response: its stream is reset");
            return Poll::Ready(());
        }
        match ready!(this.serving.poll(context)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error = &*error as &dyn std::error::Error, "stream ended"),
            Err(_) => tracing::error!("serving a request panicked: its stream is reset"),
        }
        Poll::Ready(())
    }
}
