//! Bodies, streamed both ways with backpressure: a frame is read only when the other side asks for it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::pool::Lease;
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

/// The body of a request on its way to the upstream.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Option<Incoming>,
    reserved: ReservedNames,
    patience: Patience,
}

impl RequestBody {
    /// Passes `incoming` on, without trailers that only the gate may set.
    #[must_use]
    pub fn new(incoming: Incoming, reserved: ReservedNames, idle_timeout: Duration) -> Self {
        let incoming = (!incoming.is_end_stream()).then_some(incoming);
        Self { incoming, reserved, patience: Patience::new(idle_timeout) }
    }

    /// The body once more, if it is empty.
    pub(super) fn again(&self) -> Option<Self> {
        let again =
            || Self { incoming: None, reserved: self.reserved.clone(), patience: Patience::new(self.patience.limit) };
        self.incoming.is_none().then(again)
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        let progress = Pin::new(incoming).poll_frame(context);
        let frame = match ready!(this.patience.watch(context, progress)) {
            Ok(frame) => frame,
            Err(stalled) => return Poll::Ready(Some(Err(stalled.into()))),
        };
        Poll::Ready(frame.map(|frame| {
            let mut frame = frame?;
            if let Some(trailers) = frame.trailers_mut() {
                this.reserved.strip(trailers);
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
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
    incoming: Incoming,
    lease: Option<Lease>,
    patience: Patience,
}

impl UpstreamBody {
    pub(super) fn new(incoming: Incoming, lease: Option<Lease>, idle_timeout: Duration) -> Self {
        let mut body = Self { incoming, lease, patience: Patience::new(idle_timeout) };
        if body.incoming.is_end_stream() {
            body.give_back();
        }
        body
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let progress = Pin::new(&mut self.incoming).poll_frame(context);
        match ready!(self.patience.watch(context, progress)) {
            Ok(Some(Ok(frame))) => {
                if self.incoming.is_end_stream() {
                    self.give_back();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Ok(None) => {
                self.give_back();
                Poll::Ready(None)
            }
            Ok(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Err(stalled) => Poll::Ready(Some(Err(stalled.into()))),
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
            Self::Upstream(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Upstream(body) => body.incoming.size_hint(),
        }
    }
}
