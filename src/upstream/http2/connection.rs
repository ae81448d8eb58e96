//! A connection that all requests share.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::{
    Ping, PingPong, SendStream,
    client::{self, ResponseFuture, SendRequest},
};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, Semaphore},
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
    /// Whoever is next to send has it.
    turn: Arc<Semaphore>,
    usage: Arc<Usage>,
    handle: Arc<DropGuard>,
}

/// How a connection is used.
#[derive(Default, Debug)]
struct Usage {
    /// How many requests wait for something of it.
    under_way: AtomicUsize,
    /// How many of them have a stream.
    streams: AtomicUsize,
    /// Told when there may be room for another stream, for whoever is next.
    room: Notify,
    /// Woken when something is waited for again.
    keeper: AtomicWaker,
}

/// What a request that is under way has of its connection.
#[derive(Debug)]
pub(super) struct Share {
    usage: Arc<Usage>,
    has_stream: bool,
    _handle: Arc<DropGuard>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.usage.under_way.fetch_sub(1, Ordering::AcqRel);
        if self.has_stream {
            self.usage.streams.fetch_sub(1, Ordering::AcqRel);
            self.usage.room.notify_one();
        }
    }
}

/// A request that was not sent.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The connection takes no more.
    Closed(h2::Error),
    /// The library does not take it, over whatever connection.
    Malformed(h2::Error),
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
        let (unused, usage) = (CancellationToken::new(), Arc::new(Usage::default()));
        let handle = Arc::new(unused.clone().drop_guard());
        let liveness = Liveness {
            pings: connection.ping_pong(),
            known: known.clone(),
            usage: Arc::clone(&usage),
            silence,
            timer: Box::pin(sleep(silence)),
            asked: None,
        };
        tokio::spawn(async move {
            if let Err(error) = keep(connection, liveness, unused).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "connection to upstream ended");
            }
        });
        Ok(Self { requests, known, turn: Arc::new(Semaphore::new(1)), usage, handle })
    }

    /// Whether it takes requests, be it later.
    pub(in crate::upstream) fn is_open(&mut self) -> bool {
        matches!(self.requests.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
    }

    /// Whether no request is under way.
    pub(in crate::upstream) fn is_unused(&self) -> bool {
        self.usage.under_way.load(Ordering::Acquire) == 0
    }

    /// Resolves when it is known what the upstream takes, or the connection has ended: whether extended `CONNECT` is among it (RFC 8441 §3).
    pub(in crate::upstream) async fn connects(&self) -> bool {
        self.known.settled().await;
        self.requests.is_extended_connect_protocol_enabled()
    }

    /// For one request. To be had before it waits for anything.
    pub(super) fn share(&self) -> Share {
        if self.usage.under_way.fetch_add(1, Ordering::AcqRel) == 0 {
            self.usage.keeper.wake();
        }
        Share { usage: Arc::clone(&self.usage), has_stream: false, _handle: Arc::clone(&self.handle) }
    }

    /// Sends the header of a request once the upstream takes another one; `is_whole`: it is all of it. Not left to the library, which would
    /// send what was given up meanwhile, too.
    ///
    /// # Errors
    /// [`Unsent`].
    ///
    /// # Cancel safety
    /// Nothing was sent when the future is dropped.
    pub(super) async fn send(
        &self,
        share: &mut Share,
        request: Request<()>,
        is_whole: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), Unsent> {
        let mut requests = self.requests.clone();
        // Nobody closes it.
        let _turn = self.turn.acquire().await;
        loop {
            poll_fn(|context| requests.poll_ready(context)).await.map_err(Unsent::Closed)?;
            if self.usage.streams.load(Ordering::Acquire) < requests.current_max_send_streams() {
                break;
            }
            self.usage.room.notified().await;
        }
        self.usage.streams.fetch_add(1, Ordering::AcqRel);
        share.has_stream = true;
        requests.send_request(request, is_whole).map_err(|error| {
            if error.is_io() || error.is_go_away() { Unsent::Closed(error) } else { Unsent::Malformed(error) }
        })
    }
}

/// Reads and writes, until nobody has a share, the upstream ends it, or it has gone without a word.
async fn keep<T>(
    mut connection: client::Connection<T, Bytes>,
    mut liveness: Liveness,
    unused: CancellationToken,
) -> Result<(), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let usage = Arc::clone(&liveness.usage);
    let mut farewell = pin!(async {
        unused.cancelled().await;
        sleep(PATIENCE).await;
    });
    let ended = poll_fn(|context| {
        // First: what has come tells that somebody is there.
        let ended = Pin::new(&mut connection).poll(context);
        // It may take more streams now, or none at all.
        usage.room.notify_one();
        if ended.is_ready() {
            return ended;
        }
        if liveness.poll_gone(context).is_ready() {
            tracing::debug!("upstream does not answer any more");
            return Poll::Ready(Ok(()));
        }
        // An upstream that takes nothing any more does not take a goodbye either.
        farewell.as_mut().poll(context).map(Ok)
    });
    let ended = ended.await;
    // Whoever is next finds it closed.
    drop(connection);
    usage.room.notify_one();
    ended
}

/// Whether an upstream is still there: it is asked when nothing was heard of it for long while something is waited for (RFC 9113 §6.7).
#[derive(Debug)]
struct Liveness {
    /// There are some.
    pings: Option<PingPong>,
    known: Known,
    usage: Arc<Usage>,
    silence: Duration,
    timer: Pin<Box<Sleep>>,
    /// When it was asked.
    asked: Option<Instant>,
}

impl Liveness {
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(pings) = &mut self.pings else { return Poll::Pending };
        self.usage.keeper.register(context.waker());
        loop {
            if self.asked.is_some() && pings.poll_pong(context).is_ready() {
                self.asked = None;
            }
            let (now, heard) = (Instant::now(), self.known.heard());
            let due = match self.asked {
                // Any word will do, but another question has to wait for the answer.
                Some(asked) => heard.max(asked) + PATIENCE,
                None if self.usage.under_way.load(Ordering::Acquire) == 0 => return Poll::Pending,
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
                // It is about to end.
                return Poll::Pending;
            }
            self.asked = Some(now);
        }
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

    /// Whoever waits for a stream, or cannot send anything, makes nobody look at the connection.
    #[tokio::test(start_paused = true)]
    async fn whoever_only_waits_has_the_upstream_asked_too() {
        let (connection, mut far) = connected().await;
        tokio::time::sleep(10 * SILENCE).await;
        assert!(ping(&mut far).await.is_none());
        let _waits = connection.share();
        assert!(ping(&mut far).await.is_some());
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
