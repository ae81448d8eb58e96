//! Connections that take too long: to send a header, between requests, or to read what they are sent.
//!
//! A connection has one timer for all of it, which is only moved when it goes off: a request costs two stores, no timer.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use http_body::{Body, Frame, SizeHint};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// How long a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first byte of a request to the end of its header.
    pub header: Duration,
    /// Between requests, before the first one included, and for a client to read what it is sent.
    pub idle: Duration,
}

/// What a connection is busy with, as its requests tell.
#[derive(Debug)]
pub struct Progress {
    origin: Instant,
    /// Requests that are being served.
    active: AtomicUsize,
    /// When the last of them ended, in milliseconds from `origin`.
    idle_since: AtomicU64,
    /// Requests that are being served on all connections.
    in_flight: Gauge,
}

/// A request that is being served. Dropping it ends it.
#[derive(Debug)]
pub struct Serving(Arc<Progress>);

impl Progress {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(in_flight: Gauge) -> Arc<Self> {
        Arc::new(Self { origin: Instant::now(), active: AtomicUsize::new(0), idle_since: AtomicU64::new(0), in_flight })
    }

    /// A request begins to be served.
    #[must_use]
    pub fn serve(self: &Arc<Self>) -> Serving {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.in_flight.inc();
        Serving(Arc::clone(self))
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.elapsed(), Ordering::Relaxed);
        self.0.active.fetch_sub(1, Ordering::Relaxed);
        self.0.in_flight.dec();
    }
}

/// The body of a response: its request is being served until it has ended.
#[derive(Debug)]
pub struct Served<B> {
    body: B,
    serving: Option<Serving>,
}

impl<B> Served<B> {
    /// Ends `serving` when `body` ends or is dropped.
    #[must_use]
    pub const fn new(body: B, serving: Serving) -> Self {
        Self { body, serving: Some(serving) }
    }
}

impl<B: Body + Unpin> Body for Served<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() {
            self.serving = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that fails with [`io::ErrorKind::TimedOut`] when its client takes too long.
#[derive(Debug)]
pub struct Patient<T> {
    stream: T,
    progress: Arc<Progress>,
    limits: Limits,
    /// When the header that is being read began, in milliseconds from the progress's origin, plus one; 0: none.
    header_since: u64,
    /// When a write began to wait, likewise.
    write_since: u64,
    timer: Pin<Box<Sleep>>,
}

impl<T> Patient<T> {
    /// Watches over `stream`.
    #[must_use]
    pub fn new(stream: T, progress: Arc<Progress>, limits: Limits) -> Self {
        let timer = Box::pin(tokio::time::sleep(limits.header.min(limits.idle)));
        Self { stream, progress, limits, header_since: 0, write_since: 0, timer }
    }

    /// Fails when the time is up; else the timer wakes the task when it may be.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while self.timer.as_mut().poll(context).is_ready() {
            let now = self.progress.elapsed();
            let left = self.time_left(now);
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "client took too long"));
            }
            self.timer.as_mut().reset(tokio::time::Instant::now() + left);
        }
        Ok(())
    }

    fn time_left(&self, now: u64) -> Duration {
        let left = |since: u64, limit: Duration| limit.saturating_sub(Duration::from_millis(now.saturating_sub(since)));
        let mut least = self.limits.idle.min(self.limits.header);
        if self.write_since > 0 {
            least = least.min(left(self.write_since - 1, self.limits.idle));
        }
        if self.progress.active.load(Ordering::Relaxed) == 0 {
            least = least.min(left(self.progress.idle_since.load(Ordering::Relaxed), self.limits.idle));
            if self.header_since > 0 {
                least = least.min(left(self.header_since - 1, self.limits.header));
            }
        }
        least
    }

    fn read_some(&mut self) {
        if self.progress.active.load(Ordering::Relaxed) > 0 {
            self.header_since = 0;
        } else if self.header_since == 0 || self.header_since <= self.progress.idle_since.load(Ordering::Relaxed) {
            self.header_since = self.progress.elapsed() + 1;
        }
    }

    fn wrote(&mut self, waits: bool) {
        match (waits, self.write_since) {
            (true, 0) => self.write_since = self.progress.elapsed() + 1,
            (false, 1..) => self.write_since = 0,
            _ => {}
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(result) => {
                if buffer.filled().len() > before {
                    self.read_some();
                }
                Poll::Ready(result)
            }
            Poll::Pending => match self.check(context) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.after_write(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.after_write(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<T> Patient<T> {
    fn after_write(&mut self, context: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.wrote(result.is_pending());
        if result.is_pending()
            && let Err(error) = self.check(context)
        {
            return Poll::Ready(Err(error));
        }
        result
    }
}
