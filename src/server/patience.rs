//! Connections that take too long: to send a header, between requests, or to read what they are sent.
//!
//! A connection has one timer for all of it, which is only moved when it goes off: a request costs three stores, no timer. Where requests
//! share the connection, the same timer looks over their responses (`offers`), and ends the one that stands still alone.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

pub use self::offers::Over;
use self::offers::{NEVER, Offer, Offers};
use crate::seldom::Seldom;

mod offers;
#[cfg(test)]
mod tests;

/// How long a client that was told the connection ends may be silent before it is closed in full.
const LINGER: Duration = Duration::from_millis(500);

/// How long a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first byte of a request to the end of its header.
    pub header: Duration,
    /// Between requests, before the first one included, and for a client to read what it is sent.
    pub idle: Duration,
    /// Whether requests share the connection (HTTP/2): what comes between two of them need not begin one, so `header` is for the
    /// first only.
    pub shared: bool,
}

/// What a connection is busy with, as its requests tell.
#[derive(Debug)]
pub struct Progress {
    origin: Instant,
    /// Requests that are being served, and, from bit 32 on, requests that ever were.
    requests: AtomicU64,
    /// When the last of them ended, in milliseconds from `origin`.
    idle_since: AtomicU64,
    /// Requests that are being served on all connections.
    in_flight: Gauge,
    /// When the response must have ended, in milliseconds from `origin`, where requests do not share the connection.
    deadline: AtomicU64,
    /// The responses, where they do.
    offers: Offers,
    /// How often something came from the client, where they do.
    heard: AtomicU64,
}

/// One request that ever was, in [`Progress::requests`].
const BEGUN: u64 = 1 << 32;

/// A request that is being served. Dropping it ends it.
#[derive(Debug)]
pub struct Serving {
    progress: Arc<Progress>,
    /// Its response, where requests share the connection.
    offer: Option<Arc<Offer>>,
}

impl Progress {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(in_flight: Gauge) -> Arc<Self> {
        Self::since(in_flight, Instant::now())
    }

    /// A connection that was accepted at this moment.
    #[must_use]
    pub fn since(in_flight: Gauge, accepted: Instant) -> Arc<Self> {
        Arc::new(Self {
            origin: accepted,
            requests: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            in_flight,
            deadline: AtomicU64::new(NEVER),
            offers: Offers::default(),
            heard: AtomicU64::new(0),
        })
    }

    /// A request begins to be served.
    #[must_use]
    pub fn serve(self: &Arc<Self>) -> Serving {
        self.requests.fetch_add(BEGUN | 1, Ordering::Relaxed);
        self.in_flight.inc();
        Serving { progress: Arc::clone(self), offer: None }
    }

    /// The same where requests share the connection, and when it is to be given up.
    #[must_use]
    pub fn serve_stream(self: &Arc<Self>) -> (Serving, Over) {
        let mut serving = self.serve();
        let over = Over::from(serving.offer.insert(Arc::default()));
        (serving, over)
    }

    /// How often something came from the client, where requests share the connection.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Resolves when no request was served for this long.
    pub async fn idle(&self, limit: Duration) {
        loop {
            let left = if self.count().is_idle() { self.left(self.idle_since(), limit) } else { limit };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    fn count(&self) -> Count {
        Count(self.requests.load(Ordering::Acquire))
    }

    fn idle_since(&self) -> u64 {
        self.idle_since.load(Ordering::Relaxed)
    }

    fn left(&self, since: u64, limit: Duration) -> Duration {
        limit.saturating_sub(Duration::from_millis(self.elapsed().saturating_sub(since)))
    }

    fn left_until(&self, deadline: u64) -> Duration {
        Duration::from_millis(deadline.saturating_sub(self.elapsed()))
    }

    fn elapsed(&self) -> u64 {
        self.millis(Instant::now())
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_millis()).unwrap_or(NEVER)
    }
}

/// What [`Progress::requests`] held.
#[derive(Clone, Copy)]
struct Count(u64);

impl Count {
    const fn is_idle(self) -> bool {
        self.0.is_multiple_of(BEGUN)
    }

    const fn begun(self) -> u64 {
        self.0 / BEGUN
    }
}

impl Serving {
    /// One that lasts by itself, as for a tunnel.
    pub(super) fn another(&self) -> Self {
        self.progress.serve()
    }

    /// Its response must have ended by then, however its client gets on.
    pub(super) fn end_by(&self, deadline: Instant) {
        let deadline = self.progress.millis(deadline);
        self.offer.as_ref().map_or(&self.progress.deadline, |offer| &offer.deadline).store(deadline, Ordering::Relaxed);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let progress = &self.progress;
        if let Some(offer) = &self.offer {
            progress.offers.remove(offer);
        } else {
            progress.deadline.store(NEVER, Ordering::Relaxed);
        }
        progress.idle_since.store(progress.elapsed(), Ordering::Relaxed);
        progress.requests.fetch_sub(1, Ordering::Release);
        progress.in_flight.dec();
    }
}

/// The body of a response: its request is being served until it has ended.
///
/// Where requests share the connection, a response that its client makes no room for is not asked for more, and no write waits for it. So
/// it is the time between two questions that tells.
#[derive(Debug)]
pub struct Served<B> {
    body: B,
    serving: Option<Serving>,
}

impl<B: Body> Served<B> {
    /// Ends `serving` when `body` ends or is dropped.
    #[must_use]
    pub fn new(body: B, serving: Serving) -> Self {
        if let Some(offer) = serving.offer.as_ref().filter(|_| !body.is_end_stream()) {
            offer.wait(serving.progress.elapsed());
            serving.progress.offers.add(offer);
        }
        Self { body, serving: Some(serving) }
    }
}

/// One that no request has: of a response that comes instead of one.
impl<B: From<Bytes>> From<Bytes> for Served<B> {
    fn from(bytes: Bytes) -> Self {
        Self { body: bytes.into(), serving: None }
    }
}

impl<B: Body + Unpin> Body for Served<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let offered = |served: &Self, is_there: bool| {
            if let Some(Serving { progress, offer: Some(offer) }) = &served.serving {
                offer.wait(if is_there { progress.elapsed() } else { NEVER });
            }
        };
        offered(&self, false);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() {
            self.serving = None;
        }
        offered(&self, true);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that can end as by accident.
pub trait Abort {
    /// From now on, dropping it tells the other side that something went wrong.
    fn abort(&self);

    /// Whether its end is told by more than closing it.
    fn says_goodbye(&self) -> bool {
        false
    }
}

impl Abort for TcpStream {
    fn abort(&self) {
        // At worst the connection ends as if in order.
        let _ = self.set_zero_linger();
    }
}

/// A stream that fails with [`io::ErrorKind::TimedOut`] when its client takes too long.
///
/// Closing it in order lets the client read what it was sent even if it goes on sending: the system would throw both away
/// (RFC 9112 §9.6). Dropped without that, it is reset: to HTTP/1.0 the end of a connection is the end of a response, so one that
/// broke off must not end like one that is complete.
#[derive(Debug)]
pub struct Patient<T: Abort> {
    stream: T,
    progress: Arc<Progress>,
    limits: Limits,
    header: Option<Header>,
    /// When a write began to wait, in milliseconds from the progress's origin.
    write_since: Option<u64>,
    /// Whether the client has closed.
    ended: bool,
    /// When closing began.
    closing: Option<Instant>,
    timer: Seldom<Pin<Box<Sleep>>>,
}

/// A header that is being read.
#[derive(Clone, Copy, Debug)]
struct Header {
    /// How many requests there had been. Once there are more, the header is complete.
    after: u64,
    /// When its first byte came, in milliseconds from the progress's origin; `None`: just now. Most headers come as a whole, and nobody has
    /// to know.
    since: Option<u64>,
}

impl<T: Abort> Patient<T> {
    /// Watches over `stream`.
    #[must_use]
    pub fn new(stream: T, progress: Arc<Progress>, limits: Limits) -> Self {
        // It goes off when it may be time, and is moved then.
        let timer = Seldom::new(Box::pin(sleep_until(progress.origin + limits.header.min(limits.idle))));
        Self { stream, progress, limits, header: None, write_since: None, ended: false, closing: None, timer }
    }

    /// The first header is waited for since the connection was accepted: whatever has come before is part of that time.
    #[must_use]
    pub fn awaited(mut self) -> Self {
        self.header = Some(Header { after: 0, since: Some(0) });
        self
    }

    /// Fails when the time is up; else the timer wakes the task when it may be.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while Pin::new(&mut self.timer).poll(context).is_ready() {
            let left = self.time_left();
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "client took too long"));
            }
            self.timer.inner_mut().as_mut().reset(Instant::now() + left);
        }
        Ok(())
    }

    fn time_left(&self) -> Duration {
        let Limits { header, idle, .. } = self.limits;
        let mut least = idle.min(header);
        if let Some(since) = self.write_since {
            least = least.min(self.progress.left(since, idle));
            least = least.min(self.progress.left_until(self.progress.deadline.load(Ordering::Relaxed)));
        }
        if self.limits.shared {
            least = least.min(self.progress.offers.end_overdue(self.progress.elapsed(), idle));
        }
        let count = self.progress.count();
        if count.is_idle() {
            // An idle connection is closed in order by whoever waits for `Progress::idle`; this is for when that does not help.
            least = least.min(self.progress.left(self.progress.idle_since(), idle.saturating_add(header)));
            if let Some(reading) = self.header.filter(|reading| reading.after == count.begun()) {
                let since = reading.since.unwrap_or_else(|| self.progress.elapsed());
                least = least.min(self.progress.left(since, header));
            }
        }
        least
    }

    fn read_some(&mut self, bytes: &[u8]) {
        if self.limits.shared {
            self.progress.heard.fetch_add(1, Ordering::Relaxed);
        }
        let count = self.progress.count();
        let begins = count.is_idle() && self.header.is_none_or(|reading| reading.after != count.begun());
        // Some clients send an empty line after content, which begins no request (RFC 9112 §2.2).
        let is_empty = |bytes: &[u8]| bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
        if begins && !(self.limits.shared && count.begun() > 0) && !is_empty(bytes) {
            self.header = Some(Header { after: count.begun(), since: None });
        }
    }

    /// Nothing more is there to be read: a header of which a part has come is waited for from now on.
    fn read_all(&mut self) {
        if let Some(Header { after, since: since @ None }) = &mut self.header
            && *after == self.progress.count().begun()
        {
            *since = Some(self.progress.elapsed());
        }
    }

    fn wrote(&mut self, waits: bool) {
        match (waits, self.write_since) {
            (true, None) => self.write_since = Some(self.progress.elapsed()),
            (false, Some(_)) => self.write_since = None,
            _ => {}
        }
    }
}

impl<T: AsyncRead + Abort + Unpin> Patient<T> {
    /// Throws away what still comes, until the client has closed as well, is silent, or had time enough.
    fn poll_linger(&mut self, context: &mut Context<'_>, since: Instant) -> Poll<()> {
        loop {
            let mut bytes = [MaybeUninit::uninit(); 4096];
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Pending => return Pin::new(&mut self.timer).poll(context),
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && since.elapsed() < self.limits.header => {
                    self.timer.inner_mut().as_mut().reset(Instant::now() + LINGER);
                }
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    }
}

impl<T: Abort> Drop for Patient<T> {
    fn drop(&mut self) {
        if self.closing.is_none() {
            self.stream.abort();
        }
    }
}

impl<T: AsyncRead + Abort + Unpin> AsyncRead for Patient<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(result) => {
                if buffer.filled().len() > before {
                    self.read_some(&buffer.filled()[before..]);
                } else if result.is_ok() && buffer.remaining() > 0 {
                    self.ended = true;
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                self.read_all();
                match self.check(context) {
                    Ok(()) => Poll::Pending,
                    Err(error) => Poll::Ready(Err(error)),
                }
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Abort + Unpin> AsyncWrite for Patient<T> {
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
        let since = if let Some(since) = self.closing {
            since
        } else if self.ended && !self.stream.says_goodbye() {
            // Nobody sends anything any more.
            self.closing = Some(Instant::now());
            return Poll::Ready(Ok(()));
        } else {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            self.timer.inner_mut().as_mut().reset(Instant::now() + LINGER);
            *self.closing.insert(Instant::now())
        };
        self.poll_linger(context, since).map(Ok)
    }
}

impl<T: Abort> Patient<T> {
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
