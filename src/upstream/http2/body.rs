//! The content of a response, read as it is asked for.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::{Frame, SizeHint};

use super::{connection::Share, exchange::Failure};
use crate::upstream::waiting::Sending;

/// The content of a response. Dropped before its end, it resets its stream.
#[derive(Debug)]
pub(in crate::upstream) struct ResponseBody {
    stream: RecvStream,
    /// How much is still to come, if that was said.
    left: Option<u64>,
    /// Whether only trailers can come.
    is_read: bool,
    has_ended: bool,
    /// What is left of the request.
    sending: Option<Sending<Failure>>,
    _share: Share,
}

impl ResponseBody {
    pub(super) const fn new(
        stream: RecvStream,
        length: Option<u64>,
        sending: Option<Sending<Failure>>,
        share: Share,
    ) -> Self {
        Self { stream, left: length, is_read: false, has_ended: false, sending, _share: share }
    }

    /// The next part of the content.
    ///
    /// # Errors
    /// [`Failure`]: it ended before it should have, or is malformed. It has ended then.
    pub(in crate::upstream) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let frame = ready!(self.poll_next(context));
        self.has_ended = !matches!(&frame, Ok(Some(frame)) if frame.is_data());
        Poll::Ready(frame.transpose())
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Failure>> {
        if let Some(sending) = &mut self.sending {
            sending.check(context, |error| Failure::Request(io::Error::other(error).into()))?;
        }
        if !self.is_read {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(data)) => {
                    // More may come once this is used, and whoever uses it asks for no more before.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Ok(Some(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(self.end(error)),
                None => self.is_read = true,
            }
        }
        match ready!(self.stream.poll_trailers(context)) {
            Ok(trailers) => Poll::Ready(Ok(trailers.map(Frame::trailers))),
            Err(error) => Poll::Ready(self.end(error)),
        }
    }

    /// Whoever has answered in full need not take the rest of the request, and says so by a reset without error (RFC 9113 §8.1). It may come
    /// before the end of the response is looked at, which the library forgets then.
    fn end(&self, error: h2::Error) -> Result<Option<Frame<Bytes>>, Failure> {
        let is_whole = error.is_reset() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
        if is_whole && self.left.is_none_or(|left| left == 0) { Ok(None) } else { Err(Failure::BrokeOff(error)) }
    }

    /// Whether nothing more comes.
    pub(in crate::upstream) fn is_end_stream(&self) -> bool {
        self.has_ended || self.stream.is_end_stream()
    }

    /// How much is still to come, as far as it is known.
    pub(in crate::upstream) fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None if self.is_end_stream() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}
