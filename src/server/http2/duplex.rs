//! A stream as a connection: after an extended `CONNECT` (RFC 8441 §5).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    error::Http2Error,
    streams::{Receiver, Responder},
};

/// The client's half and the gate's. Dropped before it was shut down, it is reset.
#[derive(Debug)]
pub(super) struct Duplex {
    from_client: Receiver,
    to_client: Responder,
    /// What was read of the stream and nobody has had yet.
    rest: Bytes,
}

impl Duplex {
    pub(super) const fn new(from_client: Receiver, to_client: Responder) -> Self {
        Self { from_client, to_client, rest: Bytes::new() }
    }
}

impl Drop for Duplex {
    fn drop(&mut self) {
        self.from_client.use_up(self.rest.len());
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.from_client.poll_data(context)) {
                Some(Ok(data)) => self.rest = data,
                Some(Err(Http2Error::ResetByClient(Reason::NO_ERROR | Reason::CANCEL))) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..taken]);
        self.rest.advance(taken);
        self.from_client.use_up(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.to_client.poll_room(context)).map_err(io::Error::other)?;
        let sent = self.to_client.send(Bytes::copy_from_slice(bytes), false);
        Poll::Ready(sent.map(|_| bytes.len()).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.to_client.send(Bytes::new(), true).map_err(io::Error::other)?;
        self.to_client.poll_room(context).map_err(io::Error::other)
    }
}
