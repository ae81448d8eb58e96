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
use h2::Reason;
use http_body::{Frame, SizeHint};

use super::{error::Http2Error, streams::Receiver};

/// The content of a request. Its client may send more of it as it is read.
#[derive(Debug)]
pub struct Content {
    stream: Receiver,
    /// How much is still to come, where the request says so. The connection sees to it that it is true.
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
    pub(super) fn new(stream: Receiver, left: Option<u64>, wish: Option<Arc<Wish>>) -> Self {
        Self { stream, left, has_ended: false, wish }
    }

    pub(crate) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Http2Error>>> {
        if let Some(wish) = self.wish.take() {
            wish.say();
        }
        if !self.has_ended {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(data)) => {
                    self.stream.use_up(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(failure(error)),
                None => self.has_ended = true,
            }
        }
        Poll::Ready(self.stream.trailers().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.stream.is_at_end()
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
fn failure(error: Http2Error) -> Option<Result<Frame<Bytes>, Http2Error>> {
    (error != Http2Error::ResetByClient(Reason::NO_ERROR)).then_some(Err(error))
}
