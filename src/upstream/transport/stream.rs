//! One type for all kinds of connections.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::client::TlsStream;

use crate::upstream::http1::{Link, connection::is_readable};

/// A connection to an endpoint.
#[derive(Debug)]
pub enum Stream {
    /// Clear text.
    Tcp(TcpStream),
    /// TLS. Boxed, since it is many times as large as the others.
    Tls(Box<TlsStream<TcpStream>>),
    /// A Unix socket.
    Unix(UnixStream),
}

macro_rules! each {
    ($stream:expr, $name:ident => $body:expr) => {
        match $stream.get_mut() {
            Self::Tcp(stream) => {
                let $name = Pin::new(stream);
                $body
            }
            Self::Tls(stream) => {
                let $name = Pin::new(stream);
                $body
            }
            Self::Unix(stream) => {
                let $name = Pin::new(stream);
                $body
            }
        }
    };
}

impl Link for Stream {
    fn is_bare(&self) -> bool {
        !matches!(self, Self::Tls(_))
    }

    /// What TLS itself may say between two responses, as tickets, has been read by then.
    fn is_disturbed(&self) -> bool {
        match self {
            Self::Tcp(stream) => is_readable(stream),
            Self::Tls(stream) => is_readable(stream.get_ref().0),
            Self::Unix(stream) => is_readable(stream),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(context))
    }
}
