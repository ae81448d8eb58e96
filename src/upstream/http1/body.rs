//! The body of a response, read as it is asked for.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, ReadBuf, ReadHalf};

use super::{Connection, Link, exchange::Failure};
use crate::{
    http1::{
        content::{Decoder, Framing, Malformed, Sender, Step},
        read::{BLOCK, poll_fill},
    },
    upstream::waiting::Sending,
};

/// How much is read at first behind what came with the header, in bytes; then twice as much each time, up to [`BLOCK`]. Some clients take
/// nothing of what they asked for, and each of their responses holds what came with its header and one read more.
const FIRST: usize = BLOCK / 4;

/// The body of a response, and the connection that it comes over. Dropped, it closes the connection.
#[derive(Debug)]
pub struct ResponseBody<S> {
    source: Source<S>,
    buffer: Bytes,
    /// How much is read next.
    most: usize,
    decoder: Decoder,
    /// Whether the connection can serve another request when the body has ended.
    persistent: bool,
    /// What was found while looking whether the body has ended.
    next: Option<Result<Step, Malformed>>,
    ended: bool,
}

#[derive(Debug)]
enum Source<S> {
    Whole(Connection<S>),
    /// The request is still being sent over the other half.
    Half(ReadHalf<S>, Sending<Failure>),
    Closed,
}

impl<S: Link> ResponseBody<S> {
    pub(super) fn new(mut connection: Connection<S>, framing: Framing, persistent: bool) -> Self {
        let buffer = std::mem::take(&mut connection.buffer);
        Self::over(Source::Whole(connection), buffer, framing, persistent)
    }

    /// A response whose request is still being sent: its connection ends with it.
    pub(super) fn early(read: ReadHalf<S>, buffer: Bytes, framing: Framing, sending: Sending<Failure>) -> Self {
        Self::over(Source::Half(read, sending), buffer, framing, false)
    }

    fn over(source: Source<S>, buffer: Bytes, framing: Framing, persistent: bool) -> Self {
        let persistent = persistent && framing != Framing::Close;
        let ended = framing == Framing::Empty;
        Self {
            source,
            buffer,
            most: FIRST,
            decoder: Decoder::new(framing, Sender::Upstream),
            persistent,
            next: None,
            ended,
        }
    }

    /// The next part of the body.
    ///
    /// # Errors
    /// [`Failure`]: the body ended before it should have, or is malformed. It has ended then.
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let frame = ready!(self.poll_step(context));
        Poll::Ready(match frame {
            Ok(Step::Data(data)) => {
                self.look_ahead();
                Some(Ok(Frame::data(data)))
            }
            Ok(Step::Trailers(trailers)) => {
                self.ended = true;
                Some(Ok(Frame::trailers(trailers)))
            }
            Ok(Step::End | Step::More) => {
                self.ended = true;
                None
            }
            Err(failure) => {
                self.ended = true;
                self.persistent = false;
                self.source = Source::Closed;
                Some(Err(failure))
            }
        })
    }

    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Result<Step, Failure>> {
        if let Some(next) = self.next.take() {
            return Poll::Ready(next.map_err(malformed));
        }
        if self.ended {
            return Poll::Ready(Ok(Step::End));
        }
        loop {
            match self.decoder.step(&mut self.buffer) {
                Ok(Step::More) => {}
                step => return Poll::Ready(step.map_err(malformed)),
            }
            if let Source::Half(_, sending) = &mut self.source {
                // Then it is as if the connection had broken off.
                sending.check(context, |error| Failure::BrokeOff(io::Error::other(error)))?;
            }
            let filled = poll_fill(Sender::Upstream, &mut self.source, &mut self.buffer, context, self.most);
            match ready!(filled).map_err(Failure::BrokeOff)? {
                0 if self.decoder.ends_with_connection() => return Poll::Ready(Ok(Step::End)),
                0 => return Poll::Ready(Err(Failure::BrokeOff(io::ErrorKind::UnexpectedEof.into()))),
                _ => self.most = BLOCK.min(2 * self.most),
            }
        }
    }

    /// Whether the body has ended shows in what is there already, as a rule.
    fn look_ahead(&mut self) {
        match &mut self.decoder {
            Decoder::Length(0) => self.ended = true,
            Decoder::Chunked(chunked) if !self.buffer.is_empty() => match chunked.step(&mut self.buffer) {
                Ok(Step::End) => self.ended = true,
                Ok(Step::More) => {}
                // Told when it is asked for; the decoder may not find it again.
                step => self.next = Some(step),
            },
            _ => {}
        }
    }

    /// Whether nothing more comes.
    #[must_use]
    pub const fn is_end_stream(&self) -> bool {
        self.ended
    }

    /// How much is still to come, as far as it is known.
    #[must_use]
    pub const fn size_hint(&self) -> Option<u64> {
        match self.decoder {
            Decoder::Length(left) => Some(left),
            _ if self.ended => Some(0),
            _ => None,
        }
    }

    /// The connection, once the body has ended and if it can serve another request. More bytes than the response has make it
    /// useless: nobody asked for them.
    pub fn take_connection(&mut self) -> Option<Connection<S>> {
        if !self.ended {
            return None;
        }
        match std::mem::replace(&mut self.source, Source::Closed) {
            Source::Whole(mut connection) if self.persistent && self.buffer.is_empty() => {
                connection.reused = true;
                Some(connection)
            }
            _ => None,
        }
    }

    /// The body at once, if all of it is there already and nothing has been read of it.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        let Decoder::Length(left) = &mut self.decoder else { return None };
        let size = usize::try_from(*left).ok().filter(|size| *size <= self.buffer.len())?;
        *left = 0;
        self.ended = true;
        Some(self.buffer.split_to(size))
    }
}

impl<S: Link> AsyncRead for Source<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Whole(connection) => Pin::new(&mut connection.stream).poll_read(context, buffer),
            Self::Half(read, _) => Pin::new(read).poll_read(context, buffer),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }
}

fn malformed(malformed: Malformed) -> Failure {
    Failure::Malformed(malformed.into())
}

/// As bodies say it.
#[must_use]
pub(in crate::upstream) fn hint(exact: Option<u64>) -> SizeHint {
    exact.map_or_else(SizeHint::default, SizeHint::with_exact)
}
