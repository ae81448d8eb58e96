//! A connection that all requests share.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, SendStream,
    client::{self, ResponseFuture, SendRequest},
};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
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

/// How much of one request is held for an upstream that is slow to read it, beside the part that is on its way there.
const SEND_BUFFER: usize = 64 * 1024;

/// How many requests go out before the upstream has said how many it takes.
const FIRST_STREAMS: usize = 100;

/// How long an upstream may take to answer a `PING`, or to let a connection end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A handle of a connection. When the last one is gone, and the last [`Share`], it ends.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct Connection {
    requests: SendRequest<Bytes>,
    known: Known,
    line: Arc<Line>,
    under_way: Arc<AtomicUsize>,
    handle: Arc<DropGuard>,
}

/// Those who wait for a stream: the upstream takes so many at once, and a request that is given up meanwhile must not go out any more.
#[derive(Debug)]
struct Line {
    /// Whoever is next has it.
    turn: Semaphore,
    /// Takes no request before the last one has gone out.
    requests: Mutex<SendRequest<Bytes>>,
}

/// What a request that is under way has of its connection.
#[derive(Debug)]
pub(super) struct Share {
    under_way: Arc<AtomicUsize>,
    _handle: Arc<DropGuard>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

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
        let (unused, under_way) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let handle = Arc::new(unused.clone().drop_guard());
        let liveness = Liveness {
            pings: connection.ping_pong(),
            known: known.clone(),
            under_way: Arc::clone(&under_way),
            silence,
            timer: Box::pin(sleep(silence)),
            asked: None,
        };
        tokio::spawn(async move {
            if let Err(error) = keep(connection, liveness, unused).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "connection to upstream ended");
            }
        });
        let queue = Arc::new(Line { turn: Semaphore::new(1), requests: Mutex::new(requests.clone()) });
        Ok(Self { requests, known, line: queue, under_way, handle })
    }

    /// Whether it takes requests, be it later.
    pub(in crate::upstream) fn is_open(&mut self) -> bool {
        matches!(self.requests.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
    }

    /// Whether no request is under way.
    pub(in crate::upstream) fn is_unused(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0
    }

    /// Resolves when it is known what the upstream takes, or the connection has ended: whether extended `CONNECT` is among it (RFC 8441 §3).
    pub(in crate::upstream) async fn connects(&self) -> bool {
        self.known.settled().await;
        self.requests.is_extended_connect_protocol_enabled()
    }

    /// For one request. To be had before it is sent.
    pub(super) fn share(&self) -> Share {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Share { under_way: Arc::clone(&self.under_way), _handle: Arc::clone(&self.handle) }
    }

    /// Sends the header of a request once the upstream takes another one; `is_whole`: it is all of it.
    ///
    /// # Errors
    /// Nothing was sent: the connection takes no more, or the library does not take this one.
    pub(super) async fn send(
        &self,
        request: Request<()>,
        is_whole: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let Line { turn, requests } = &*self.line;
        let requests = || requests.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody closes it.
        let _turn = turn.acquire().await;
        poll_fn(|context| requests().poll_ready(context)).await?;
        let sent = requests().send_request(request, is_whole)?;
        // Until it has gone out, which has to be known before anything else is asked of its stream: only one can wait for that. Whether it
        // ever does, the response tells.
        let _ = poll_fn(|context| requests().poll_ready(context)).await;
        Ok(sent)
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
    let mut connection = pin!(connection);
    // An upstream that takes nothing any more does not take a goodbye either.
    let mut farewell = pin!(async {
        unused.cancelled().await;
        sleep(PATIENCE).await;
    });
    poll_fn(|context| {
        if liveness.poll_gone(context).is_ready() || farewell.as_mut().poll(context).is_ready() {
            tracing::debug!("upstream has gone without a word");
            return Poll::Ready(Ok(()));
        }
        connection.as_mut().poll(context)
    })
    .await
}

/// Whether an upstream is still there: it is asked when nothing was heard of it for long while something is waited for (RFC 9113 §6.7).
#[derive(Debug)]
struct Liveness {
    pings: Option<PingPong>,
    known: Known,
    under_way: Arc<AtomicUsize>,
    silence: Duration,
    timer: Pin<Box<Sleep>>,
    /// When it was asked.
    asked: Option<Instant>,
}

impl Liveness {
    /// To be called whenever something is sent, too: nothing else tells that a request is under way.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(pings) = &mut self.pings else { return Poll::Pending };
        loop {
            let (now, heard) = (Instant::now(), self.known.heard());
            if self.asked.is_some_and(|asked| heard > asked) && pings.poll_pong(context).is_ready() {
                self.asked = None;
            }
            let due = match self.asked {
                // Any word will do, but another question has to wait for the answer.
                Some(asked) => heard.max(asked) + PATIENCE,
                None if self.under_way.load(Ordering::Relaxed) == 0 => return Poll::Pending,
                None => heard + self.silence,
            };
            if now < due {
                // It is moved only if it goes off too late, or has gone off.
                if self.timer.deadline() > due || self.timer.is_elapsed() {
                    self.timer.as_mut().reset(due);
                }
                ready!(self.timer.as_mut().poll(context));
                continue;
            }
            if self.asked.is_some() {
                return Poll::Ready(());
            }
            if pings.send_ping(Ping::opaque()).is_err() {
                return Poll::Pending;
            }
            self.asked = Some(now);
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

    const SECOND: Duration = Duration::from_secs(1);
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
        whole_frames(far).await.into_iter().map(|(kind, flags, _)| (kind, flags)).collect()
    }

    /// The payload of a `PING` that has come.
    async fn ping(far: &mut DuplexStream) -> Option<Vec<u8>> {
        let asked = whole_frames(far).await.into_iter().find(|(kind, flags, _)| (*kind, *flags) == PING);
        asked.map(|(_, _, payload)| payload)
    }

    async fn whole_frames(far: &mut DuplexStream) -> Vec<(u8, u8, Vec<u8>)> {
        let (mut frames, mut head) = (Vec::new(), [0; 9]);
        // Time is not real: whatever is on its way comes first.
        while let Ok(Ok(_)) = timeout(Duration::from_millis(1), far.read_exact(&mut head)).await {
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            far.read_exact(&mut payload).await.unwrap();
            frames.push((head[3], head[4], payload));
        }
        frames
    }

    const PING: (u8, u8) = (6, 0);
    const GOAWAY: (u8, u8) = (7, 0);

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_has_gone_without_a_word_is_given_up() {
        for is_kept in [true, false] {
            let (mut connection, mut far) = connected().await;
            let request = Request::get("http://a/").body(()).unwrap();
            let waiting = Waiting::default();
            let mut asking = pin!(exchange(connection.clone(), &request, RequestBody::default(), &waiting));
            assert!(timeout(SILENCE.saturating_sub(SECOND), asking.as_mut()).await.is_err());
            let (other, _far) = connected().await;
            if !is_kept {
                // Whoever has one under way needs nobody else to keep the connection.
                connection = other;
            }
            assert!(!frames(&mut far).await.contains(&PING), "not yet");
            assert!(timeout(2 * SECOND, asking.as_mut()).await.is_err());
            assert!(frames(&mut far).await.contains(&PING));
            // Any word will do.
            far.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await.unwrap();
            assert!(timeout(PATIENCE.saturating_sub(SECOND), asking.as_mut()).await.is_err());
            let gone = timeout(2 * SECOND, asking).await;
            assert!(gone.expect("given up in time").is_err());
            assert_eq!(connection.is_open(), !is_kept);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_after_a_long_silence_has_the_upstream_asked_at_once() {
        let (mut connection, mut far) = connected().await;
        tokio::time::sleep(10 * SILENCE).await;
        assert!(!frames(&mut far).await.contains(&PING), "nothing is waited for");
        assert!(connection.is_open() && connection.is_unused());
        let request = Request::get("http://a/").body(()).unwrap();
        let waiting = Waiting::default();
        let mut asking = pin!(exchange(connection.clone(), &request, RequestBody::default(), &waiting));
        assert!(timeout(SECOND, asking.as_mut()).await.is_err());
        assert!(frames(&mut far).await.contains(&PING));
        assert!(timeout(PATIENCE, asking).await.expect("given up in time").is_err());
        assert!(!connection.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_answers_is_left_alone_for_as_long_again() {
        let (mut connection, mut far) = connected().await;
        let request = Request::get("http://a/").body(()).unwrap();
        let waiting = Waiting::default();
        let mut asking = pin!(exchange(connection.clone(), &request, RequestBody::default(), &waiting));
        assert!(timeout(SILENCE.saturating_sub(SECOND), asking.as_mut()).await.is_err());
        for _ in 0..5 {
            assert!(timeout(2 * SECOND, asking.as_mut()).await.is_err());
            let payload = ping(&mut far).await.expect("a question");
            far.write_all(&[&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &payload].concat()).await.unwrap();
            assert!(timeout(SILENCE.saturating_sub(SECOND), asking.as_mut()).await.is_err());
            assert!(connection.is_open() && ping(&mut far).await.is_none());
        }
    }

    /// Resolves when nobody reads any more.
    async fn ended(far: &mut DuplexStream) {
        while far.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// An upstream that takes nothing any more, not even a goodbye.
    #[tokio::test(start_paused = true)]
    async fn it_does_not_outlive_its_last_handle_for_long() {
        let (near, mut far) = tokio::io::duplex(60);
        let connection = Connection::new(near, SILENCE).await.unwrap();
        drop(connection);
        assert!(timeout(PATIENCE.saturating_sub(SECOND), ended(&mut far)).await.is_err(), "not yet");
        timeout(2 * SECOND, ended(&mut far)).await.expect("it has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_its_last_handle() {
        let (connection, mut far) = connected().await;
        let another = connection.clone();
        drop(connection);
        assert!(!frames(&mut far).await.contains(&GOAWAY));
        drop(another);
        assert!(frames(&mut far).await.contains(&GOAWAY));
        assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
