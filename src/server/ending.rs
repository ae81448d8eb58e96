//! What ends with a response: its place among those in flight, and its line in the access log.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::access::Entry;
use crate::{
    limit::concurrency::Place,
    upstream::{Body, body::BodyError},
};

/// The body of a response, and what ends with it.
#[derive(Debug)]
pub struct Ending {
    body: Body,
    rest: Option<Box<Rest>>,
}

#[derive(Debug)]
struct Rest {
    entry: Option<Entry>,
    #[expect(dead_code, reason = "given back when it is dropped")]
    place: Option<Place>,
}

impl Ending {
    /// `entry` is written and `place` given back when `body` has ended, or is dropped.
    pub(super) fn new(body: Body, entry: Option<Entry>, place: Option<Place>) -> Self {
        if entry.is_none() && place.is_none() {
            return Self { body, rest: None };
        }
        let mut ending = Self { body, rest: Some(Box::new(Rest { entry, place })) };
        if ending.body.is_end_stream() {
            ending.end();
        } else if let (Body::Upstream(_), Some(Rest { entry: Some(entry), .. })) =
            (&ending.body, ending.rest.as_deref_mut())
        {
            entry.settle();
        }
        ending
    }

    /// When it must have ended, however its client gets on.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.body.deadline()
    }

    fn end(&mut self) {
        if let Some(mut entry) = self.rest.take().and_then(|rest| rest.entry) {
            entry.complete();
        }
    }
}

impl From<Bytes> for Ending {
    fn from(bytes: Bytes) -> Self {
        Self { body: bytes.into(), rest: None }
    }
}

impl HttpBody for Ending {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(rest) = &mut self.rest {
            if let (Some(entry), Some(Ok(frame))) = (&mut rest.entry, &frame) {
                entry.sent(frame.data_ref().map_or(0, Bytes::len));
            }
            // Whoever knows that it was the last frame does not ask for more.
            if frame.is_none() || self.body.is_end_stream() {
                self.end();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
