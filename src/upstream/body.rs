//! Bodies, streamed both ways with backpressure: a frame is read only when the other side asks for it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::{
    fields,
    http1::{Connection, ResponseBody, body::hint},
    pool::Http1Pool,
    transport::Stream,
};
use crate::gate::identity::ReservedNames;

/// What went wrong with a body.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Fails a body that stands still. The timer exists only for bodies that had to wait at all.
#[derive(Debug)]
struct Patience {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Patience {
    const fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, waiting: false }
    }

    /// Passes progress on, and turns too long a wait into an error.
    fn watch<T>(&mut self, context: &mut Context<'_>, progress: Poll<T>) -> Poll<io::Result<T>> {
        if let Poll::Ready(value) = progress {
            self.waiting = false;
            return Poll::Ready(Ok(value));
        }
        let limit = self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !self.waiting {
            self.waiting = true;
            sleep.as_mut().reset(Instant::now() + limit);
        }
        ready!(sleep.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "body stood still for too long")))
    }
}

/// How a request's body gets on, for those who wait for the response.
#[derive(Debug)]
pub(super) struct Upload {
    begun: std::time::Instant,
    /// When a part of it was last passed on, in milliseconds from `begun`, or one of the constants below.
    state: AtomicU64,
}

/// The client is waited for.
const WAITS: u64 = u64::MAX;
/// The client took too long.
const STALLED: u64 = u64::MAX - 1;
/// The client broke off, or broke HTTP.
const BROKEN: u64 = u64::MAX - 2;

/// What became of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// The client took too long.
    Stalled,
    /// The client broke off, or broke HTTP.
    Broken,
}

impl Upload {
    fn new() -> Arc<Self> {
        Arc::new(Self { begun: std::time::Instant::now(), state: AtomicU64::new(0) })
    }

    /// How long the upstream has been at it alone: no time at all while the client is waited for.
    pub(super) fn upstream_since(&self) -> Duration {
        match self.state.load(Ordering::Relaxed) {
            WAITS | STALLED | BROKEN => Duration::ZERO,
            since => self.begun.elapsed().saturating_sub(Duration::from_millis(since)),
        }
    }

    /// What the client did wrong.
    pub(super) fn fault(&self) -> Option<Fault> {
        match self.state.load(Ordering::Relaxed) {
            STALLED => Some(Fault::Stalled),
            BROKEN => Some(Fault::Broken),
            _ => None,
        }
    }

    fn progress(&self) {
        self.set(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or_default());
    }

    fn set(&self, state: u64) {
        self.state.store(state, Ordering::Relaxed);
    }
}

/// The body of a request on its way to the upstream.
#[derive(Debug)]
pub struct RequestBody {
    /// What was taken off it, and put back.
    first: Option<Bytes>,
    streamed: Option<Streamed>,
}

#[derive(Debug)]
struct Streamed {
    incoming: Incoming,
    reserved: ReservedNames,
    patience: Patience,
    upload: Arc<Upload>,
}

impl RequestBody {
    /// Passes `incoming` on, without trailers that only the gate may set.
    #[must_use]
    pub fn new(incoming: Incoming, reserved: &ReservedNames, idle_timeout: Duration) -> Self {
        let streamed = (!incoming.is_end_stream()).then(|| Streamed {
            incoming,
            reserved: reserved.clone(),
            patience: Patience::new(idle_timeout),
            upload: Upload::new(),
        });
        Self { first: None, streamed }
    }

    /// No body.
    pub(super) const fn empty() -> Self {
        Self { first: None, streamed: None }
    }

    /// Puts back what was taken off it.
    pub(super) fn put_back(&mut self, first: Option<Bytes>) {
        self.first = first;
    }

    /// The body once more, if it is empty.
    pub(super) fn again(&self) -> Option<Self> {
        self.streamed.is_none().then(Self::empty)
    }

    /// How it gets on; `None`: it is empty.
    pub(super) fn upload(&self) -> Option<Arc<Upload>> {
        self.streamed.as_ref().map(|streamed| Arc::clone(&streamed.upload))
    }
}

impl Streamed {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let progress = Pin::new(&mut self.incoming).poll_frame(context);
        let watched = self.patience.watch(context, progress);
        let Poll::Ready(watched) = watched else {
            self.upload.set(WAITS);
            return Poll::Pending;
        };
        let frame = match watched {
            Err(stalled) => {
                self.upload.set(STALLED);
                return Poll::Ready(Some(Err(stalled.into())));
            }
            Ok(Some(Err(error))) => {
                self.upload.set(BROKEN);
                return Poll::Ready(Some(Err(error.into())));
            }
            Ok(frame) => frame,
        };
        self.upload.progress();
        Poll::Ready(frame.map(|frame| {
            let mut frame = frame?;
            if let Some(trailers) = frame.trailers_mut() {
                fields::strip_trailers(trailers, &self.reserved);
            }
            Ok(frame)
        }))
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        match &mut self.streamed {
            Some(streamed) => streamed.poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.streamed.as_ref().is_none_or(|streamed| streamed.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, |first| first.len() as u64);
        let rest =
            self.streamed.as_ref().map_or_else(|| SizeHint::with_exact(0), |streamed| streamed.incoming.size_hint());
        match rest.exact() {
            Some(rest) => SizeHint::with_exact(first + rest),
            None => SizeHint::default(),
        }
    }
}

/// The body of a response on its way to the client.
#[derive(Debug)]
pub enum Body {
    /// One of the gate's own.
    Own(Option<Bytes>),
    /// One from an upstream.
    Upstream(UpstreamBody),
}

/// The body of an upstream's response. Its connection goes back to the pool when the body has ended, and not before.
#[derive(Debug)]
pub struct UpstreamBody {
    incoming: Inbound,
    patience: Patience,
}

#[derive(Debug)]
enum Inbound {
    Http1(Box<(ResponseBody<Stream>, Arc<Http1Pool>)>),
    Http2(Incoming),
}

impl Body {
    /// The body of a response over HTTP/1.1. Its connection goes back to `pool` when it can serve another request.
    pub(super) fn http1(mut body: ResponseBody<Stream>, pool: &Arc<Http1Pool>, idle_timeout: Duration) -> Self {
        // Most bodies came with their header.
        if let Some(whole) = body.take_whole() {
            give_back(pool, body.take_connection());
            return whole.into();
        }
        let incoming = Inbound::Http1(Box::new((body, Arc::clone(pool))));
        Self::Upstream(UpstreamBody { incoming, patience: Patience::new(idle_timeout) })
    }

    /// The body of a response over HTTP/2.
    pub(super) const fn http2(incoming: Incoming, idle_timeout: Duration) -> Self {
        Self::Upstream(UpstreamBody { incoming: Inbound::Http2(incoming), patience: Patience::new(idle_timeout) })
    }
}

fn give_back(pool: &Http1Pool, connection: Option<Connection<Stream>>) {
    if let Some(connection) = connection {
        pool.keep(connection);
    }
}

impl UpstreamBody {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.incoming {
            Inbound::Http1(inbound) => {
                let (body, pool) = &mut **inbound;
                let progress = body.poll_frame(context);
                let frame = ready!(self.patience.watch(context, progress));
                if body.is_end_stream() {
                    give_back(pool, body.take_connection());
                }
                Poll::Ready(match frame {
                    Ok(frame) => frame.map(|frame| frame.map_err(Into::into)),
                    Err(stalled) => Some(Err(stalled.into())),
                })
            }
            Inbound::Http2(incoming) => {
                let progress = Pin::new(incoming).poll_frame(context);
                Poll::Ready(match ready!(self.patience.watch(context, progress)) {
                    Ok(frame) => frame.map(|frame| frame.map_err(Into::into)),
                    Err(stalled) => Some(Err(stalled.into())),
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.incoming {
            Inbound::Http1(inbound) => inbound.0.is_end_stream(),
            Inbound::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.incoming {
            Inbound::Http1(inbound) => hint(inbound.0.size_hint()),
            Inbound::Http2(incoming) => incoming.size_hint(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Own((!bytes.is_empty()).then_some(bytes))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream(body) => body.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Upstream(body) => body.size_hint(),
        }
    }
}
