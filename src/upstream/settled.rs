//! When the other side of an HTTP/2 connection has said what it can do: that is the first it sends (`SETTINGS`, RFC 9113 §3.4), but nothing
//! waits for it as long as no request depends on it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A frame's header, in bytes (RFC 9113 §4.1).
const HEADER: usize = 9;

/// The type of a `SETTINGS` frame (RFC 9113 §6.5).
const SETTINGS: u8 = 4;

/// `SETTINGS_ENABLE_CONNECT_PROTOCOL` (RFC 8441 §3), as it is written when it is on.
const ENABLE_CONNECT: [u8; 6] = [0, 8, 0, 0, 0, 1];

/// The most that is kept of the first frame, in bytes. Nobody has that much to settle.
const MAX_KEPT: usize = 4096;

/// Tells when a connection is settled, or has ended. Clones tell the same.
#[derive(Clone, Default, Debug)]
pub(super) struct Settled(Arc<Shared>);

#[derive(Default, Debug)]
struct Shared {
    /// Whether the other side takes extended `CONNECT`.
    connects: AtomicBool,
    told: CancellationToken,
}

impl Settled {
    /// Resolves when the other side's settings hold, or the connection has ended: whether it takes extended `CONNECT` (RFC 8441 §3).
    /// What it may say later than first is not looked at.
    pub(super) async fn connects(&self) -> bool {
        self.0.told.cancelled().await;
        self.0.connects.load(Ordering::Acquire)
    }
}

/// A connection whose first frame is looked at.
#[derive(Debug)]
pub(super) struct Settling<T> {
    stream: T,
    /// What has come of the first frame, until all of it has.
    first: Option<Vec<u8>>,
    /// Told when it is dropped.
    told: Option<DropGuard>,
    settled: Settled,
}

impl<T> Settling<T> {
    /// Looks at `stream`, and tells of it.
    pub(super) fn new(stream: T) -> (Self, Settled) {
        let settled = Settled::default();
        let told = Some(settled.0.told.clone().drop_guard());
        (Self { stream, first: Some(Vec::new()), told, settled: settled.clone() }, settled)
    }

    fn look(&mut self, bytes: &[u8]) {
        let Some(first) = &mut self.first else { return };
        first.extend_from_slice(&bytes[..bytes.len().min(MAX_KEPT)]);
        let &[high, middle, low, kind, ..] = first.as_slice() else { return };
        let end = HEADER + u32::from_be_bytes([0, high, middle, low]) as usize;
        if first.len() < end.min(MAX_KEPT) {
            return;
        }
        let settings = first.get(HEADER..end.min(first.len())).unwrap_or_default();
        let connects = kind == SETTINGS && settings.chunks_exact(6).any(|setting| setting == ENABLE_CONNECT);
        self.settled.0.connects.store(connects, Ordering::Release);
        self.first = None;
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Settling<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever asks for more has done what the frames before say.
        if self.first.is_none() && self.told.is_some() {
            self.told = None;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.look(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Settling<T> {
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
    async fn drain(stream: &mut Settling<tokio::io::DuplexStream>) {
        let mut buffer = [0; 64];
        while timeout(Duration::from_millis(1), stream.read(&mut buffer)).await.is_ok_and(|read| read.unwrap() > 0) {}
    }

    #[tokio::test]
    async fn the_first_frame_tells_however_it_comes() {
        for (frame, expected) in [
            // The most streams, and extended CONNECT.
            (&[0, 0, 12, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 9, 0, 8, 0, 0, 0, 1][..], true),
            (&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0], false),
            (&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 8, 0, 0], false),
            (&[0, 0, 0, 4, 0, 0, 0, 0, 0], false),
            (&[0, 0, 6, 6, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1], false),
        ] {
            for cut in 1..frame.len() {
                let (near, mut far) = tokio::io::duplex(64);
                let (mut near, settled) = Settling::new(near);
                far.write_all(&frame[..cut]).await.unwrap();
                drain(&mut near).await;
                assert!(!settled.0.told.is_cancelled(), "{frame:?} {cut}");
                // What comes after it is none of it.
                far.write_all(&[&frame[cut..], &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1]].concat()).await.unwrap();
                drain(&mut near).await;
                assert!(settled.0.told.is_cancelled(), "{frame:?} {cut}");
                assert_eq!(settled.connects().await, expected, "{frame:?} {cut}");
            }
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_is_told_of_too() {
        let (near, _far) = tokio::io::duplex(64);
        let (near, settled) = Settling::new(near);
        drop(near);
        assert!(!settled.connects().await);
    }
}
