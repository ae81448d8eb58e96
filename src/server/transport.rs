//! What the bytes of a connection travel by.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;

use super::patience::Abort;
use crate::http1::{
    content::Sender,
    read::{BLOCK, poll_fill},
};

/// How an HTTP/2 connection with prior knowledge begins (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection with a client. An enum, not a box: clear text must not pay for TLS.
#[derive(Debug)]
pub enum Transport {
    /// TCP, in the clear.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Abort for Transport {
    /// A Unix socket cannot end as by accident. Over TLS the closure alert is missing as well.
    fn abort(&self) {
        match self {
            Self::Tcp(stream) => stream.abort(),
            Self::Tls(stream) => stream.get_ref().0.abort(),
            Self::Unix(_) => {}
        }
    }

    fn says_goodbye(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

macro_rules! each {
    ($transport:expr, $stream:ident => $call:expr) => {
        match $transport.get_mut() {
            Transport::Tcp($stream) => $call,
            Transport::Unix($stream) => $call,
            Transport::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}

/// A connection whose first bytes were looked at. They are read again, and `held` is let go of when the connection ends, whoever has
/// it by then.
#[derive(Debug)]
pub struct Begun<H> {
    transport: Transport,
    /// What is still to be read of them.
    unread: Bytes,
    _held: H,
}

impl<H> Begun<H> {
    /// A connection of which nothing was read.
    pub const fn new(transport: Transport, held: H) -> Self {
        Self { transport, unread: Bytes::new(), _held: held }
    }

    /// Reads as much as tells whether the client speaks HTTP/2.
    ///
    /// # Errors
    /// The connection's, its end included.
    pub async fn speaks_http2(&mut self) -> io::Result<bool> {
        loop {
            let Self { transport, unread, .. } = self;
            if poll_fn(|context| poll_fill(Sender::Client, transport, unread, context, BLOCK)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let seen = unread.len().min(PREFACE.len());
            if unread[..seen] != PREFACE[..seen] {
                return Ok(false);
            }
            if seen == PREFACE.len() {
                return Ok(true);
            }
        }
    }

    /// What was read of it and nobody has had yet.
    pub const fn take_unread(&mut self) -> Bytes {
        std::mem::replace(&mut self.unread, Bytes::new())
    }
}

impl<H> Abort for Begun<H> {
    fn abort(&self) {
        self.transport.abort();
    }

    fn says_goodbye(&self) -> bool {
        self.transport.says_goodbye()
    }
}

impl<H: Unpin> AsyncRead for Begun<H> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.transport).poll_read(context, buffer);
        }
        let taken = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread.split_to(taken));
        Poll::Ready(Ok(()))
    }
}

impl<H: Unpin> AsyncWrite for Begun<H> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(context)
    }
}
