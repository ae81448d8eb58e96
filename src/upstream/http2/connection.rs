//! A connection that all requests share.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, Weak},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{self, SendRequest},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::link::{Known, Link};

/// The largest response header, in bytes.
const MAX_RESPONSE_HEADER: u32 = 64 * 1024;

/// How much of one response may be on its way to the gate, and of all: one whose client is slow to read it must not hold up the others, so
/// only the former is limited. It is what each response takes whose client reads nothing, as over HTTP/1.1, so it is no larger than it has
/// to be: an upstream that is a millisecond away sends 64 MB/s of a response.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// How much of one request is held for an upstream that is slow to read it.
const SEND_BUFFER: usize = 64 * 1024;

/// How many requests go out before the upstream has said how many it takes.
const FIRST_STREAMS: usize = 100;

/// How long an upstream may take to answer a `PING`.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// A share of a connection. When the last one is gone, it ends.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct Connection {
    // Before the share: whoever ends the connection has to find it unused.
    requests: SendRequest<Bytes>,
    known: Known,
    share: Share,
}

/// Keeps a connection.
#[derive(Clone, Debug)]
pub(super) struct Share(Arc<DropGuard>);

impl Connection {
    /// Begins a connection over `stream`. While requests are under way and nothing was heard for `silence`, the upstream is asked whether it
    /// is still there.
    ///
    /// # Errors
    /// Nothing can be written.
    pub(in crate::upstream) async fn new<T>(stream: T, silence: Duration) -> Result<Self, h2::Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (link, known) = Link::new(stream);
        let (requests, mut connection) = client::Builder::new()
            .enable_push(false)
            .initial_max_send_streams(FIRST_STREAMS)
            .max_header_list_size(MAX_RESPONSE_HEADER)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            // Clients that break off make the gate reset their streams, as many as they like.
            .max_local_error_reset_streams(None)
            .handshake(link)
            .await?;
        let unused = CancellationToken::new();
        let share = Share(Arc::new(unused.clone().drop_guard()));
        let liveness = Liveness {
            pings: connection.ping_pong(),
            known: known.clone(),
            shares: Arc::downgrade(&share.0),
            silence,
            timer: Box::pin(sleep(silence)),
            is_asked: false,
        };
        tokio::spawn(async move {
            if let Err(error) = keep(connection, liveness, unused).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "connection to upstream ended");
            }
        });
        Ok(Self { requests, known, share })
    }

    /// Whether it takes requests.
    pub(in crate::upstream) fn is_open(&mut self) -> bool {
        matches!(self.requests.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
    }

    /// Whether nobody else has a share.
    pub(in crate::upstream) fn is_unused(&self) -> bool {
        Arc::strong_count(&self.share.0) == 1
    }

    /// Resolves when it is known what the upstream takes: whether extended `CONNECT` is among it (RFC 8441 §3). One that has ended takes
    /// nothing.
    pub(in crate::upstream) async fn connects(&self) -> bool {
        self.known.settled().await;
        self.requests.is_extended_connect_protocol_enabled()
    }

    /// For one request.
    pub(super) fn into_parts(self) -> (SendRequest<Bytes>, Share) {
        (self.requests, self.share)
    }
}

/// Reads and writes, until nobody has a share, the upstream ends it, or it has gone without a word.
async fn keep<T>(
    connection: client::Connection<T, Bytes>,
    mut liveness: Liveness,
    unused: CancellationToken,
) -> Result<(), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (mut connection, mut unused) = (pin!(connection), pin!(unused.cancelled()));
    let mut is_unused = false;
    poll_fn(|context| {
        // The library finds out by itself, but only when it is looked at.
        is_unused = is_unused || unused.as_mut().poll(context).is_ready();
        if liveness.poll_gone(context).is_ready() {
            tracing::debug!("upstream does not answer a PING any more");
            return Poll::Ready(Ok(()));
        }
        connection.as_mut().poll(context)
    })
    .await
}

/// Whether an upstream is still there: it is asked when nothing was heard of it for long while something was waited for (RFC 9113 §6.7).
#[derive(Debug)]
struct Liveness {
    pings: Option<PingPong>,
    known: Known,
    shares: Weak<DropGuard>,
    silence: Duration,
    timer: Pin<Box<Sleep>>,
    is_asked: bool,
}

impl Liveness {
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(pings) = &mut self.pings else { return Poll::Pending };
        loop {
            if self.is_asked && pings.poll_pong(context).is_ready() {
                self.is_asked = false;
            }
            ready!(self.timer.as_mut().poll(context));
            let is_silent = !self.known.heard();
            if is_silent && self.is_asked {
                return Poll::Ready(());
            }
            // Whoever keeps it for later has a share as well.
            let asks = is_silent && self.shares.strong_count() > 1;
            if asks {
                self.is_asked = pings.send_ping(Ping::opaque()).is_ok();
            }
            self.timer.as_mut().reset(Instant::now() + if asks { PING_TIMEOUT } else { self.silence });
        }
    }
}

/// As bodies and tunnels say it.
pub(super) fn broke_off(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    } else {
        io::Error::other(error)
    }
}
