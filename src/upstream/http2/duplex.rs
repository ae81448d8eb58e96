//! A stream as a connection: after an extended `CONNECT` (RFC 8441 §5).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Share;

/// The gate's half and the upstream's. Dropped before both were shut down, it is reset.
#[derive(Debug)]
pub(in crate::upstream) struct Duplex {
    to_upstream: SendStream<Bytes>,
    from_upstream: RecvStream,
    /// What was read of the stream and nobody has had yet.
    rest: Bytes,
    _share: Share,
}

impl Duplex {
    pub(super) const fn new(to_upstream: SendStream<Bytes>, from_upstream: RecvStream, share: Share) -> Self {
        Self { to_upstream, from_upstream, rest: Bytes::new(), _share: share }
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.from_upstream.poll_data(context)) {
                Some(Ok(data)) => self.rest = data,
                // It is not needed any more; what was said before has been heard.
                Some(Err(error))
                    if error.is_reset() && matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL)) =>
                {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(broke_off(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..taken]);
        self.rest.advance(taken);
        // Nothing but the end of the stream makes this fail.
        let _ = self.from_upstream.flow_control().release_capacity(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // Whatever waits for more must not keep others from the window of the connection.
        self.to_upstream.reserve_capacity(1);
        while self.to_upstream.capacity() == 0 {
            match ready!(self.to_upstream.poll_capacity(context)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broke_off(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let sent = self.to_upstream.send_data(Bytes::copy_from_slice(bytes), false);
        Poll::Ready(sent.map(|()| bytes.len()).map_err(broke_off))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It fails where the stream has ended already, by whomever: then it is done.
        let _ = self.to_upstream.send_data(Bytes::new(), true);
        Poll::Ready(Ok(()))
    }
}

/// As a connection says it.
fn broke_off(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    } else {
        io::Error::other(error)
    }
}
