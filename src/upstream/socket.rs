//! A socket that can still be read when it can no longer be written to.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::transport::Stream;

/// An upstream may answer and close before it has read a request's body, `413` for one (RFC 9112 §9.5). Writing fails then, and
/// the answer is there to be read nevertheless; hyper gives up at the first failure. So a write that fails waits instead: what
/// comes next from reading, the answer or the end, decides.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    is_cut: bool,
}

impl Socket {
    pub(super) const fn new(stream: Stream) -> Self {
        Self { stream, is_cut: false }
    }

    fn write(&mut self, write: impl FnOnce(Pin<&mut Stream>) -> Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if !self.is_cut {
            let result = write(Pin::new(&mut self.stream));
            self.is_cut = matches!(&result, Poll::Ready(Err(error)) if is_cut(error));
            if !self.is_cut {
                return result;
            }
        }
        // No one wakes the task for this; the end of what can be read does.
        Poll::Pending
    }
}

fn is_cut(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(|stream| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(|stream| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Under TLS this writes too.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_cut {
            return Poll::Ready(Ok(()));
        }
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.is_cut = matches!(&result, Poll::Ready(Err(error)) if is_cut(error));
        if self.is_cut { Poll::Ready(Ok(())) } else { result }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
