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
    /// Begins a connection over `stream`. While requests are under way and nothing was heard for `silence`, or for twice as long at most, the
    /// upstream is asked whether it is still there.
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

#[cfg(test)]
mod tests {
    use http::Request;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
        time::timeout,
    };

    use super::{super::exchange, *};
    use crate::upstream::{body::RequestBody, waiting::Waiting};

    const SILENCE: Duration = Duration::from_secs(60);

    /// A connection, and its other end, which has said what it takes.
    async fn connected() -> (Connection, DuplexStream) {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let connection = Connection::new(near, SILENCE).await.unwrap();
        far.read_exact(&mut [0; 24]).await.unwrap();
        far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        connection.known.settled().await;
        (connection, far)
    }

    /// The kinds and flags of the frames that have come.
    async fn frames(far: &mut DuplexStream) -> Vec<(u8, u8)> {
        let (mut frames, mut head) = (Vec::new(), [0; 9]);
        // Time is not real: whatever is on its way comes first.
        while let Ok(Ok(_)) = timeout(Duration::from_millis(1), far.read_exact(&mut head)).await {
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            far.read_exact(&mut payload).await.unwrap();
            frames.push((head[3], head[4]));
        }
        frames
    }

    const PING: (u8, u8) = (6, 0);
    const GOAWAY: (u8, u8) = (7, 0);

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_has_gone_without_a_word_is_given_up() {
        let (mut connection, mut far) = connected().await;
        let request = Request::get("http://a/").body(()).unwrap();
        let waiting = Waiting::default();
        let mut asking = pin!(exchange(connection.clone(), &request, RequestBody::default(), &waiting));
        // Its settings were heard in the first of them.
        assert!(timeout(2 * SILENCE - Duration::from_secs(1), asking.as_mut()).await.is_err());
        assert!(!frames(&mut far).await.contains(&PING), "not yet");
        assert!(timeout(Duration::from_secs(2), asking.as_mut()).await.is_err());
        assert!(frames(&mut far).await.contains(&PING));
        // Any word will do.
        far.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await.unwrap();
        assert!(timeout(PING_TIMEOUT + Duration::from_secs(1), asking.as_mut()).await.is_err());
        assert!(connection.is_open());
        let gone = timeout(SILENCE + PING_TIMEOUT + Duration::from_secs(2), asking).await;
        assert!(gone.expect("given up in time").is_err());
        assert!(!connection.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_asked_when_nothing_is_waited_for() {
        let (mut connection, mut far) = connected().await;
        tokio::time::sleep(10 * SILENCE).await;
        assert!(!frames(&mut far).await.contains(&PING));
        assert!(connection.is_open() && connection.is_unused());
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nobody_has_a_share() {
        let (connection, mut far) = connected().await;
        let another = connection.clone();
        assert!(!connection.is_unused());
        drop(connection);
        assert!(!frames(&mut far).await.contains(&GOAWAY));
        drop(another);
        assert!(frames(&mut far).await.contains(&GOAWAY));
        assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
