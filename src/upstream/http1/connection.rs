//! A connection: a stream, what was read ahead of it, and its timer.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep},
};

use crate::seldom::Seldom;

/// What an HTTP/1.1 connection can run over.
pub trait Link: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether the other side has closed it, or sent something, as far as the system knows at this very moment. Reading, which is
    /// told by the runtime, may learn of it a little later. Asked before each request but the first.
    fn is_disturbed(&self) -> bool {
        false
    }

    /// Whether it holds back nothing of what it has taken from the system, so that the system knows all there is.
    fn is_bare(&self) -> bool {
        false
    }
}

/// Whether anything can be read of a socket, its end included.
pub fn is_readable<'a>(socket: impl Into<SockRef<'a>>) -> bool {
    let seen = socket.into().peek(&mut [MaybeUninit::uninit(); 1]);
    !matches!(seen, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// A connection to an upstream. Dropped, it closes.
#[derive(Debug)]
pub struct Connection<S> {
    pub(super) stream: S,
    /// What was read and not yet used. Empty between two exchanges.
    pub(super) buffer: Bytes,
    pub(super) timer: Timer,
    pub(super) reused: bool,
}

impl<S> Connection<S> {
    /// A connection over a stream that was just opened.
    #[must_use]
    pub const fn new(stream: S) -> Self {
        Self { stream, buffer: Bytes::new(), timer: Timer(None), reused: false }
    }

    /// Whether it served a request before.
    #[must_use]
    pub const fn is_reused(&self) -> bool {
        self.reused
    }

    /// What it runs over.
    #[must_use]
    pub const fn link(&self) -> &S {
        &self.stream
    }
}

/// What is left of a connection that speaks another protocol from now on: `101 Switching Protocols` (RFC 9110 §15.2.2).
#[derive(Debug)]
pub struct Upgraded<S> {
    /// The stream.
    pub stream: S,
    /// What came over it already. It comes before everything that is still to be read.
    pub leftover: Bytes,
}

/// One timer for all that a connection waits for. It is only moved when it would go off too late, or goes off: so a request that
/// is answered in time moves none.
#[derive(Debug)]
pub(super) struct Timer(Option<Seldom<Pin<Box<Sleep>>>>);

impl Timer {
    /// Ready once `since` is `limit` ago.
    pub(super) fn poll_elapsed(&mut self, context: &mut Context<'_>, since: Instant, limit: Duration) -> Poll<()> {
        let Some(deadline) = since.checked_add(limit) else { return Poll::Pending };
        let sleep = self.0.get_or_insert_with(|| Seldom::new(Box::pin(tokio::time::sleep_until(deadline))));
        if sleep.inner().deadline() > deadline {
            sleep.inner_mut().as_mut().reset(deadline);
        }
        loop {
            ready!(Pin::new(&mut *sleep).poll(context));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.inner_mut().as_mut().reset(deadline);
        }
    }
}
