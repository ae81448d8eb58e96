//! What a connection runs over, and what is known of it without a look at what it says.
//!
//! What the other side can do is the first it says (`SETTINGS`, RFC 9113 §3.4), but nothing waits for it as long as no request depends on
//! it, and the library tells nobody when it has come.

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

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::busy_poll;

/// A frame's header, in bytes (RFC 9113 §4.1), and how many of them are its length.
const HEADER: usize = 9;
const LENGTH: usize = 3;

/// What is known of a connection. Clones know the same.
#[derive(Clone, Debug)]
pub(super) struct Known(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    begun: Instant,
    /// The first frame of the other side is read, or nothing more comes.
    settled: CancellationToken,
    /// When something was read last, in milliseconds from `begun`.
    heard: AtomicU64,
}

impl Known {
    fn new() -> Self {
        Self(Arc::new(Shared { begun: Instant::now(), settled: CancellationToken::new(), heard: AtomicU64::new(0) }))
    }

    /// Resolves when the first that the other side says holds, or the connection has ended.
    pub(super) async fn settled(&self) {
        self.0.settled.cancelled().await;
    }

    /// When something was read last, if only that it began.
    pub(super) fn heard(&self) -> Instant {
        self.0.begun + Duration::from_millis(self.0.heard.load(Ordering::Relaxed))
    }

    fn hear(&self) {
        // Rounded up: what comes after a question is no earlier than that.
        let now = self.0.begun.elapsed().as_millis() + 1;
        self.0.heard.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// A stream whose reads are looked at.
#[derive(Debug)]
pub(super) struct Link<T> {
    stream: T,
    /// How much of the first frame has come; `None`: all of it.
    first: Option<First>,
    /// Told when it is dropped.
    settled: Option<DropGuard>,
    known: Known,
}

#[derive(Default, Debug)]
struct First {
    has_come: usize,
    length: usize,
}

impl First {
    /// Reads on; whether all of it has come.
    fn read(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes.iter().take(LENGTH.saturating_sub(self.has_come)) {
            self.length = self.length << 8 | usize::from(*byte);
        }
        self.has_come += bytes.len();
        self.has_come >= HEADER + self.length
    }
}

impl<T> Link<T> {
    /// Looks at `stream`, and tells of it.
    pub(super) fn new(stream: T) -> (Self, Known) {
        let known = Known::new();
        let settled = Some(known.0.settled.clone().drop_guard());
        (Self { stream, first: Some(First::default()), settled, known: known.clone() }, known)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Link<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever asks for more has done what the frames before say.
        if self.first.is_none() && self.settled.is_some() {
            self.settled = None;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = &buffer.filled()[before..];
        self.known.hear();
        busy_poll::came();
        self.first.take_if(|first| first.read(read));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Link<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    use super::*;

    /// Reads all that comes.
    async fn drain(stream: &mut Link<tokio::io::DuplexStream>) {
        let mut buffer = [0; 64];
        while timeout(Duration::from_millis(1), stream.read(&mut buffer)).await.is_ok_and(|read| read.unwrap() > 0) {}
    }

    #[tokio::test]
    async fn it_is_settled_after_the_first_frame_however_that_comes() {
        let (empty, large) =
            (vec![0, 0, 0, 4, 0, 0, 0, 0, 0], [vec![0, 1, 1, 4, 0, 0, 0, 0, 0], vec![9; 257]].concat());
        for frame in [empty, vec![0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1], large] {
            for cut in 1..frame.len() {
                let (near, mut far) = tokio::io::duplex(512);
                let (mut near, known) = Link::new(near);
                far.write_all(&frame[..cut]).await.unwrap();
                drain(&mut near).await;
                assert!(!known.0.settled.is_cancelled(), "{} {cut}", frame.len());
                far.write_all(&frame[cut..]).await.unwrap();
                drain(&mut near).await;
                assert!(known.0.settled.is_cancelled(), "{} {cut}", frame.len());
            }
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_is_settled() {
        let (near, _far) = tokio::io::duplex(64);
        let (near, known) = Link::new(near);
        drop(near);
        known.settled().await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_known_when_something_was_heard() {
        let (near, mut far) = tokio::io::duplex(64);
        let (mut near, known) = Link::new(near);
        let begun = Instant::now();
        for seconds in [0, 5, 70] {
            tokio::time::advance(begun + Duration::from_secs(seconds) - Instant::now()).await;
            let before = Instant::now();
            far.write_all(b"word").await.unwrap();
            near.read_exact(&mut [0; 4]).await.unwrap();
            let heard = known.heard();
            assert!(heard > before && heard <= before + Duration::from_millis(2), "{:?}", heard - before);
        }
    }
}
