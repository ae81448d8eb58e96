//! The content of a response, read as it is asked for.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
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
    /// Whether nothing comes. The library may forget that when the connection ends.
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
        self.has_ended = self.stream.is_end_stream() || !matches!(&frame, Ok(Some(frame)) if frame.is_data());
        Poll::Ready(frame.transpose())
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Failure>> {
        if let Some(sending) = &mut self.sending {
            sending.check(context, Failure::Panicked)?;
        }
        if !self.is_read {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(data)) => {
                    // As much more may come: whoever is given this asks for no more before it is used.
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

    /// A reset behind the end of a response, as whoever answers in full without the rest of the request sends it (RFC 9113 §8.1), is none to
    /// the library. The end of the connection is, and may be heard of first.
    fn end(&self, error: h2::Error) -> Result<Option<Frame<Bytes>>, Failure> {
        if self.left == Some(0) && (error.is_io() || error.is_go_away()) {
            Ok(None)
        } else {
            Err(Failure::BrokeOff(error))
        }
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
