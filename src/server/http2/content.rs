//! The content of a request (RFC 9113 §8.1).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::{Reason, RecvStream};
use http::{HeaderMap, header};
use http_body::{Frame, SizeHint};

/// The content of a request. Its client may send more of it as it is read.
#[derive(Debug)]
pub struct Content {
    stream: RecvStream,
    /// How much is still to come, where the request says so. The library sees to it that it is true.
    left: Option<u64>,
    /// Data has ended; trailers may follow.
    has_ended: bool,
    /// To be told when it is asked for.
    wish: Option<Arc<Wish>>,
}

/// Whether content is asked for whose client waits for `100 Continue` (RFC 9110 §10.1.1).
#[derive(Default, Debug)]
pub(super) struct Wish {
    is_new: AtomicBool,
    task: AtomicWaker,
}

impl Content {
    pub(super) fn new(stream: RecvStream, fields: &HeaderMap, wish: Option<Arc<Wish>>) -> Self {
        let left = fields.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { stream, left, has_ended: false, wish }
    }

    pub(crate) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(wish) = self.wish.take() {
            wish.say();
        }
        if !self.has_ended {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(data)) => {
                    // It can fail only for more than was received.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(failure(error)),
                None => self.has_ended = true,
            }
        }
        match ready!(self.stream.poll_trailers(context)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(failure(error)),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Wish {
    fn say(&self) {
        self.is_new.store(true, Ordering::Release);
        self.task.wake();
    }

    /// Whether it was said, which is told once.
    pub(super) fn poll_said(&self, context: &Context<'_>) -> bool {
        self.task.register(context.waker());
        self.is_new.swap(false, Ordering::Acquire)
    }
}

/// A client that has its answer may take back what is left of its request without that being an error (RFC 9113 §8.1).
fn failure(error: h2::Error) -> Option<Result<Frame<Bytes>, h2::Error>> {
    (error.reason() != Some(Reason::NO_ERROR)).then_some(Err(error))
}
