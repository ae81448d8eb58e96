//! Tunnels: connections that speak WebSocket after their handshake (RFC 6455, over HTTP/2 RFC 8441).
//!
//! Bytes pass as they come, both ways, each no faster than its reader takes them. The gate follows where frames end, so that it can say
//! goodbye between two of them.

use std::{
    any::Any,
    fmt,
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::oneshot,
    time::{Instant, Sleep, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    busy_poll,
    stream::{
        Tether,
        websocket::{self, Frames},
    },
    verdict::Reason,
};

/// How much is read at once, in bytes.
const CHUNK: usize = 16 * 1024;

/// How many reads one direction does before the other has its turn.
const TURN: usize = 8;

/// How long a client may take to answer a close frame.
const FAREWELL: Duration = Duration::from_millis(500);

/// How long one side may go on when the other has ended.
const LAST: Duration = Duration::from_secs(1);

/// Status codes of close frames (RFC 6455 §7.4.1 and the registry of RFC 6455 §11.7).
mod code {
    /// "Going away".
    pub(super) const GOING_AWAY: u16 = 1001;
    /// "Policy violation".
    pub(super) const POLICY: u16 = 1008;
    /// "Service restart": come back in a moment.
    pub(super) const RESTART: u16 = 1012;
    /// "Try again later".
    pub(super) const LATER: u16 = 1013;
}

/// A client's wish to speak WebSocket: an extension of its request.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// Gives the connection, once the client was told yes.
    pub switching: Switching,
    /// What keeps the connection for as long as the tunnel lasts.
    pub hold: Hold,
    /// What passes through it.
    pub traffic: Arc<Traffic>,
    /// Whether it came over HTTP/2, as an extended `CONNECT`.
    pub is_extended_connect: bool,
}

/// A client's connection, whatever it runs over.
pub trait Duplex: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Duplex for T {}

/// What a client's request came over, if it may be handed over: the connection of one with `Upgrade` (RFC 9110 §7.8), or the stream of an
/// extended `CONNECT` (RFC 8441). An extension of that request. Clones share it, and one of them gets it.
#[derive(Clone, Debug)]
pub struct Switching(Arc<Mutex<Option<Receiver>>>);

type Receiver = oneshot::Receiver<Box<dyn Duplex>>;

/// The other end of [`Switching`]. Dropped, it hands nothing over.
#[derive(Debug)]
pub struct Switch(oneshot::Sender<Box<dyn Duplex>>);

impl Switching {
    /// Both ends.
    #[must_use]
    pub fn new() -> (Switch, Self) {
        let (switch, switching) = oneshot::channel();
        (Switch(switch), Self(Arc::new(Mutex::new(Some(switching)))))
    }

    /// Resolves once the client was told yes; with `None` when it has gone, or was told something else.
    async fn connection(self) -> Option<Box<dyn Duplex>> {
        let switching = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        switching.await.ok()
    }
}

impl Switch {
    /// The client was told yes.
    pub fn hand_over(self, connection: Box<dyn Duplex>) {
        // If nobody wants it any more, it closes.
        let _ = self.0.send(connection);
    }
}

/// What has passed through a tunnel, in bytes.
#[derive(Default, Debug)]
pub struct Traffic {
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
    has_ended: AtomicBool,
}

impl Traffic {
    /// From the client to the upstream.
    #[must_use]
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// From the upstream to the client.
    #[must_use]
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    /// Whether it came to an end in order: both sides ended, or the gate could say goodbye.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }
}

/// Keeps things for as long as it is held: whoever serves a connection puts in what must last as long as the tunnel.
#[derive(Clone, Default, Debug)]
pub struct Hold(Arc<Held>);

#[derive(Default, Debug)]
struct Held(Mutex<Vec<Box<dyn Any + Send>>>);

impl Hold {
    /// Keeps this too.
    pub fn keep(&self, kept: impl Any + Send) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(kept));
    }
}

/// What a tunnel goes by.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) tether: Tether,
    pub(super) traffic: Arc<Traffic>,
    /// How long nothing may pass, either way.
    pub(super) idle_timeout: Duration,
    /// The gate's grace period is over.
    pub(super) over: CancellationToken,
    /// How long what is under way may take when the session is over.
    pub(super) grace: Duration,
}

/// Why the gate ends a tunnel.
#[derive(Clone, Copy, Debug)]
enum Goodbye {
    Session(Reason),
    Idle,
    Drain,
}

impl Goodbye {
    const fn frame(self) -> (u16, &'static str) {
        match self {
            Self::Session(reason @ (Reason::Stale | Reason::KeysUnavailable)) => (code::LATER, reason.code()),
            Self::Session(reason) => (code::POLICY, reason.code()),
            Self::Idle => (code::GOING_AWAY, "idle"),
            Self::Drain => (code::RESTART, "restart"),
        }
    }
}

/// One direction of a tunnel.
#[derive(Default, Debug)]
struct Flow {
    /// What was read and not yet written.
    rest: Bytes,
    /// What was written.
    frames: Frames,
    /// How much that was.
    count: Arc<AtomicU64>,
    /// Something may wait in the writer's own buffer.
    is_unflushed: bool,
    has_ended: bool,
    is_over: bool,
}

impl Tunnel {
    /// Runs until both sides have ended, one of them fails, or the gate ends it. `leftover`: what came from the upstream already.
    pub(super) async fn run<U>(mut self, switching: Switching, _hold: Hold, mut upstream: U, leftover: Bytes)
    where
        U: AsyncRead + AsyncWrite + Unpin + Send,
    {
        // The client may have gone, or have been told something else.
        let Ok(Some(mut downstream)) = timeout(self.idle_timeout, switching.connection()).await else { return };
        let count = |of: &Arc<AtomicU64>| Arc::clone(of);
        let mut down = Flow { rest: leftover, count: count(&self.traffic.down), ..Flow::default() };
        let mut up = Flow { count: count(&self.traffic.up), ..Flow::default() };
        let goodbye = match self.pass(&mut downstream, &mut upstream, &mut down, &mut up).await {
            Ok(None) => return self.traffic.end(),
            Ok(Some(goodbye)) => goodbye,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "tunnel broke off");
                return;
            }
        };
        let deadline = Instant::now() + self.grace;
        let farewell = async {
            let (code, reason) = goodbye.frame();
            if up.may_say_goodbye() && up.rest.is_empty() && !up.has_ended {
                let frame = websocket::close(code, reason, Some(websocket::mask()));
                let told = async {
                    upstream.write_all(&frame).await?;
                    upstream.flush().await
                };
                // An upstream that does not read is not waited for.
                let _ = timeout(FAREWELL, told).await;
            }
            down.finish_frame(&mut upstream, &mut downstream).await?;
            if down.may_say_goodbye() {
                downstream.write_all(&websocket::close(code, reason, None)).await?;
            }
            downstream.flush().await?;
            io::Result::Ok(())
        };
        // What cannot be ended in order is cut.
        if let Ok(Ok(())) = timeout_at(deadline, farewell).await {
            self.traffic.end();
            let parting = async { tokio::join!(part(&mut downstream), leave(&mut upstream)) };
            let _ = timeout(FAREWELL, parting).await;
        }
    }

    /// Passes bytes both ways. `None`: both sides have ended.
    async fn pass<D, U>(
        &mut self,
        downstream: &mut D,
        upstream: &mut U,
        down: &mut Flow,
        up: &mut Flow,
    ) -> io::Result<Option<Goodbye>>
    where
        D: AsyncRead + AsyncWrite + Unpin,
        U: AsyncRead + AsyncWrite + Unpin,
    {
        let mut over = std::pin::pin!(self.over.cancelled());
        let mut idle: Pin<Box<Sleep>> = Box::pin(sleep_until(Instant::now() + self.idle_timeout));
        let (mut last, mut until) = (Instant::now(), None);
        poll_fn(|context| {
            if let Poll::Ready(reason) = self.tether.poll_ended(context) {
                return Poll::Ready(Ok(Some(Goodbye::Session(reason))));
            }
            if over.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(Some(Goodbye::Drain)));
            }
            let mut has_moved = false;
            let (from_upstream, from_client) = (
                down.poll_pass(upstream, downstream, context, &mut has_moved),
                up.poll_pass(downstream, upstream, context, &mut has_moved),
            );
            for passed in [from_upstream, from_client] {
                if let Poll::Ready(Err(error)) = passed {
                    return Poll::Ready(Err(error));
                }
            }
            if down.is_over && up.is_over {
                return Poll::Ready(Ok(None));
            }
            if has_moved {
                last = Instant::now();
            }
            // No half of a WebSocket is of use without the other.
            if until.is_none() && (down.is_over || up.is_over) {
                idle.as_mut().reset(*until.insert(Instant::now() + LAST));
            }
            while idle.as_mut().poll(context).is_ready() {
                if until.is_some_and(|until| until <= Instant::now()) {
                    return Poll::Ready(Ok(None));
                }
                let deadline = last + self.idle_timeout;
                if deadline <= Instant::now() {
                    return Poll::Ready(Ok(Some(Goodbye::Idle)));
                }
                idle.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await
    }
}

impl Flow {
    /// Passes on what there is. Ready when the reader has ended and the writer was told.
    fn poll_pass<R, W>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        context: &mut Context<'_>,
        has_moved: &mut bool,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.is_over {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..TURN {
            while !self.rest.is_empty() {
                let written = ready!(Pin::new(&mut *writer).poll_write(context, &self.rest))?;
                self.wrote(written)?;
                self.rest.advance(written);
                *has_moved = true;
            }
            if self.has_ended {
                ready!(Pin::new(&mut *writer).poll_shutdown(context))?;
                self.is_over = true;
                return Poll::Ready(Ok(()));
            }
            let mut chunk = [MaybeUninit::uninit(); CHUNK];
            let mut chunk = ReadBuf::uninit(&mut chunk);
            match Pin::new(&mut *reader).poll_read(context, &mut chunk)? {
                Poll::Pending => {
                    if self.is_unflushed {
                        ready!(Pin::new(&mut *writer).poll_flush(context))?;
                        self.is_unflushed = false;
                    }
                    return Poll::Pending;
                }
                Poll::Ready(()) if chunk.filled().is_empty() => self.has_ended = true,
                Poll::Ready(()) => {
                    *has_moved = true;
                    busy_poll::came();
                    // Nearly always all of it can be written at once, and nothing is kept.
                    let read = chunk.filled();
                    let written = match Pin::new(&mut *writer).poll_write(context, read)? {
                        Poll::Ready(written) => written,
                        Poll::Pending => 0,
                    };
                    if written > 0 {
                        self.frames.follow(&read[..written]);
                        self.count.fetch_add(written as u64, Ordering::Relaxed);
                        self.is_unflushed = true;
                    }
                    self.rest = Bytes::copy_from_slice(&read[written..]);
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn wrote(&mut self, written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.frames.follow(&self.rest[..written]);
        self.count.fetch_add(written as u64, Ordering::Relaxed);
        self.is_unflushed = true;
        Ok(())
    }

    /// Whether a close frame can come next: a frame is whole, and none said goodbye already (RFC 6455 §5.5.1).
    const fn may_say_goodbye(&self) -> bool {
        self.frames.is_between() && !self.frames.has_closed()
    }

    /// Passes on the rest of the frame that is under way, and nothing after it.
    async fn finish_frame<R, W>(&mut self, reader: &mut R, writer: &mut W) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut chunk = Vec::new();
        while !self.frames.is_between() {
            if self.rest.is_empty() {
                chunk.resize(CHUNK, 0);
                let read = reader.read(&mut chunk).await?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.rest = Bytes::copy_from_slice(&chunk[..read]);
            }
            let taken = self.frames.follow_one(&self.rest);
            writer.write_all(&self.rest.split_to(taken)).await?;
            self.count.fetch_add(taken as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Closes towards the upstream, and reads until it has closed as well: what was written may still be on its way, and a stream that is given
/// up takes it along.
async fn leave<U: AsyncRead + AsyncWrite + Unpin>(upstream: &mut U) -> io::Result<()> {
    upstream.shutdown().await?;
    let mut chunk = [0; 1024];
    while upstream.read(&mut chunk).await? > 0 {}
    Ok(())
}

/// Closes towards the client, and reads until it has closed as well: a connection that is closed with something unread in it is reset, and
/// the client would not find the close frame.
async fn part<D: AsyncRead + AsyncWrite + Unpin>(downstream: &mut D) -> io::Result<()> {
    // HTTP/2 has no half of a connection to wait for.
    let mut chunk = [0; 1024];
    let closes = async {
        while downstream.read(&mut chunk).await? > 0 {}
        io::Result::Ok(())
    };
    let answered = timeout(FAREWELL / 2, closes).await;
    downstream.shutdown().await?;
    answered.unwrap_or(Ok(()))
}
