//! The content of a request, between the connection that it comes over and whoever asks for it.
//!
//! Nobody but the task of a connection reads from it. Whoever wants the next part of the content says so and waits; the connection reads
//! it then, and hands it over. As a rule both are the same task, which then needs no wake-up.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::io::AsyncRead;

use crate::http1::{
    content::{Decoder, Framing, Malformed, Sender, Step},
    read::{BLOCK, poll_fill},
};

/// Why there is no more of the content.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The client broke off.
    #[error("client broke off")]
    BrokeOff(#[source] io::Error),
    /// What came cannot be read.
    #[error("{0}")]
    Malformed(Unreadable),
}

/// What cannot be read.
#[derive(Debug)]
pub struct Unreadable(Malformed);

impl fmt::Display for Unreadable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What was read, as it is asked for. Whoever drops it wants no more.
#[derive(Debug)]
pub struct Content {
    slot: Arc<Slot>,
    /// How many bytes are still to come; `None`: nobody knows.
    left: Option<u64>,
    has_ended: bool,
}

#[derive(Default, Debug)]
struct Slot(Mutex<State>);

#[derive(Default, Debug)]
struct State {
    /// What was read and not yet taken.
    frame: Option<Result<Frame<Bytes>, Broken>>,
    has_ended: bool,
    /// Whether somebody waits for the next part.
    is_wanted: bool,
    /// Whether nobody wants any more of it.
    is_abandoned: bool,
    consumer: Option<Waker>,
    connection: Option<Waker>,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    /// The next part of the content.
    ///
    /// # Errors
    /// [`Broken`]. Nothing comes after it.
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut state = self.slot.state();
        if let Some(frame) = state.frame.take() {
            self.has_ended = state.has_ended;
            if let (Some(left), Ok(frame)) = (&mut self.left, &frame) {
                *left -= frame.data_ref().map_or(0, Bytes::len) as u64;
            }
            return Poll::Ready(Some(frame));
        }
        if state.has_ended {
            self.has_ended = true;
            return Poll::Ready(None);
        }
        state.is_wanted = true;
        keep(&mut state.consumer, context);
        let connection = state.connection.take().filter(|connection| !connection.will_wake(context.waker()));
        drop(state);
        if let Some(connection) = connection {
            connection.wake();
        }
        Poll::Pending
    }

    /// Whether nothing more comes.
    #[must_use]
    pub const fn is_end_stream(&self) -> bool {
        self.has_ended || matches!(self.left, Some(0))
    }

    /// How much is still to come, as far as it is known.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        let mut state = self.slot.state();
        state.is_abandoned = true;
        let connection = state.connection.take();
        drop(state);
        if let Some(connection) = connection {
            connection.wake();
        }
    }
}

/// The connection's end of a content.
#[derive(Debug)]
pub(super) struct Feed {
    slot: Arc<Slot>,
    decoder: Decoder,
    reading: Reading,
}

/// How far the content was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reading {
    Open,
    Done,
    /// Nobody knows what comes next.
    Broken,
}

/// How far passing content on has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Passed {
    /// Something was handed over: whoever waits for it has to be asked.
    Some,
    /// Nobody asks for it, or the client is waited for.
    Nothing,
}

impl Feed {
    /// Content of this framing, which does not end with the connection and is not empty.
    pub(super) fn new(framing: Framing) -> (Self, Content) {
        let slot = Arc::<Slot>::default();
        let left = if let Framing::Length(length) = framing { Some(length) } else { None };
        let decoder = Decoder::new(framing, Sender::Client);
        let content = Content { slot: Arc::clone(&slot), left, has_ended: false };
        (Self { slot, decoder, reading: Reading::Open }, content)
    }

    /// Whether all of it was read, so that what comes next is another request.
    pub(super) fn is_done(&self) -> bool {
        self.reading == Reading::Done
    }

    /// Whether no more of it is read: all was, no more can be, or nobody wants it.
    pub(super) fn is_over(&self) -> bool {
        self.reading != Reading::Open || self.slot.state().is_abandoned
    }

    /// Whether somebody waits for it. If not, the task is woken when somebody does, or when nobody wants it any more.
    pub(super) fn is_wanted(&self, context: &mut Context<'_>) -> bool {
        let mut state = self.slot.state();
        if !state.is_wanted {
            keep(&mut state.connection, context);
        }
        state.is_wanted && self.reading == Reading::Open
    }

    /// Hands over what has come already, whether anybody asks for it or not.
    pub(super) fn offer(&mut self, buffer: &mut Bytes) {
        match self.decoder.step(buffer) {
            Ok(Step::More) => {}
            step => self.hand_over(step, None),
        }
    }

    /// Reads the next part for whoever waits for it. To be called when somebody does.
    pub(super) fn poll_pass<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        buffer: &mut Bytes,
        context: &mut Context<'_>,
    ) -> Passed {
        let step = loop {
            match self.decoder.step(buffer) {
                Ok(Step::More) => {}
                step => break step,
            }
            match poll_fill(Sender::Client, stream, buffer, context, BLOCK) {
                Poll::Pending => return Passed::Nothing,
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) => {
                    self.break_off(io::ErrorKind::UnexpectedEof.into(), context);
                    return Passed::Some;
                }
                Poll::Ready(Err(error)) => {
                    self.break_off(error, context);
                    return Passed::Some;
                }
            }
        };
        self.hand_over(step, Some(context));
        Passed::Some
    }

    fn hand_over(&mut self, step: Result<Step, Malformed>, context: Option<&Context<'_>>) {
        let frame = match step {
            Ok(Step::Data(data)) => {
                if let Decoder::Length(0) = self.decoder {
                    self.reading = Reading::Done;
                }
                Some(Ok(Frame::data(data)))
            }
            Ok(Step::Trailers(trailers)) => {
                self.reading = Reading::Done;
                Some(Ok(Frame::trailers(trailers)))
            }
            Ok(Step::End | Step::More) => {
                self.reading = Reading::Done;
                None
            }
            Err(malformed) => {
                self.reading = Reading::Broken;
                Some(Err(Broken::Malformed(Unreadable(malformed))))
            }
        };
        self.put(frame, context);
    }

    fn break_off(&mut self, error: io::Error, context: &Context<'_>) {
        self.reading = Reading::Broken;
        self.put(Some(Err(Broken::BrokeOff(error))), Some(context));
    }

    fn put(&mut self, frame: Option<Result<Frame<Bytes>, Broken>>, context: Option<&Context<'_>>) {
        let mut state = self.slot.state();
        state.frame = frame;
        state.has_ended = self.reading != Reading::Open;
        state.is_wanted = false;
        let consumer = state.consumer.take();
        drop(state);
        // Of the same task, it is asked anyway.
        let is_other = |consumer: &Waker| context.is_none_or(|context| !consumer.will_wake(context.waker()));
        if let Some(consumer) = consumer.filter(is_other) {
            consumer.wake();
        }
    }

    /// Passes over what is left, as far as it has come, up to `most` bytes; whether that was all of it.
    pub(super) fn pass_over<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        buffer: &mut Bytes,
        context: &mut Context<'_>,
        most: usize,
    ) -> bool {
        let mut passed = 0;
        while passed < most && self.reading == Reading::Open {
            match self.decoder.step(buffer) {
                Ok(Step::Data(data)) => passed += data.len(),
                Ok(Step::End | Step::Trailers(_)) => self.reading = Reading::Done,
                Ok(Step::More) => match poll_fill(Sender::Client, stream, buffer, context, BLOCK) {
                    Poll::Ready(Ok(1..)) => {}
                    _ => return false,
                },
                Err(_) => self.reading = Reading::Broken,
            }
        }
        self.is_done()
    }
}

/// Keeps the waker of a task, unless it is there already.
fn keep(kept: &mut Option<Waker>, context: &Context<'_>) {
    match kept {
        Some(waker) => waker.clone_from(context.waker()),
        None => *kept = Some(context.waker().clone()),
    }
}
