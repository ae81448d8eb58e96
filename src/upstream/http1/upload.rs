//! Sending a request: its header and its body, as far as the upstream takes it.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::Request;
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::encode::{self, Framing};
use crate::upstream::body::BodyError;

/// The largest part of a body that is copied to go out with what comes before it, in bytes.
const SMALL: usize = 2 * 1024;

/// The largest buffer that is kept for the next request, in bytes.
const LARGEST_KEPT: usize = 16 * 1024;

thread_local! {
    static WRITE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A request that is being sent.
#[derive(Debug)]
pub(super) struct Upload<B> {
    /// What is left of the body.
    body: Option<B>,
    framing: Framing,
    out: Out,
    /// The first part of the body, until something has been sent: then it can be put back.
    first: Option<Bytes>,
    /// How many bytes have been sent.
    sent: u64,
    /// Whether the upstream takes no more. What it says may be there to be read nevertheless (RFC 9112 §9.5).
    cut: bool,
    /// Whether what was written still has to be flushed.
    flush: bool,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nothing was tried yet.
    New,
    /// The header is there, and the body was asked for once.
    Begun,
    /// The body waits until the upstream wants it, or has had time to say so.
    Held,
    Open,
}

/// What an upload waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sending {
    /// The next part of the body.
    Client,
    /// The upstream, to take more.
    Upstream,
    /// The upstream, to say whether it wants the body.
    Word,
    /// Nothing: all has been sent.
    Done,
}

/// Why a request could not be sent.
#[derive(Debug)]
pub(super) enum UploadFault {
    /// The connection failed.
    Io(io::Error),
    /// The body did.
    Body(BodyError),
    /// The body was longer or shorter than it said.
    Length,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Upload<B> {
    /// A request, whose body is `body`. `held`: the body waits for [`Upload::release`].
    pub(super) fn new<E>(request: &Request<E>, body: B, held: bool) -> Self {
        let framing = if body.is_end_stream() {
            Framing::Empty
        } else {
            body.size_hint().exact().map_or(Framing::Chunked, Framing::Length)
        };
        let mut out = Out::default();
        encode::head(out.head(), request, framing);
        let body = Some(body).filter(|_| framing != Framing::Empty);
        Self {
            stage: if body.is_none() {
                Stage::Open
            } else if held {
                Stage::Held
            } else {
                Stage::New
            },
            body,
            framing,
            out,
            first: None,
            sent: 0,
            cut: false,
            flush: false,
        }
    }

    /// How many bytes have been sent.
    pub(super) const fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether all of it has been sent.
    pub(super) const fn is_done(&self) -> bool {
        self.body.is_none() && self.out.is_empty() && !self.flush && !self.cut
    }

    /// Whether the body still waits until the upstream wants it.
    pub(super) fn is_held(&self) -> bool {
        self.stage == Stage::Held
    }

    /// The body may go; whether it had to wait for that.
    pub(super) fn release(&mut self) -> bool {
        let waited = self.is_held();
        if waited {
            self.stage = Stage::Open;
        }
        waited
    }

    /// The body as it was, and what was taken off it; `None`: part of it is gone. One that waited until it was wanted is whole.
    pub(super) fn into_body(self) -> Option<(Option<B>, Option<Bytes>)> {
        (self.sent == 0 || self.framing == Framing::Empty || self.is_held()).then_some((self.body, self.first))
    }

    /// Sends what there is to send, and says what it waits for. The context is woken when there is more to do.
    pub(super) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Result<Sending, UploadFault> {
        loop {
            if self.cut {
                // Nobody wakes the task for this; the end of what can be read does.
                return Ok(Sending::Upstream);
            }
            if matches!(self.stage, Stage::New | Stage::Begun) {
                // A body that comes right after its header leaves with it. What has come is handed over only to those who asked
                // for it, so one turn is waited.
                let waits = !self.take_frame(context)?;
                if waits && self.stage == Stage::New {
                    self.stage = Stage::Begun;
                    context.waker().wake_by_ref();
                    return Ok(Sending::Client);
                }
                self.stage = Stage::Open;
            }
            match self.out.poll_write(stream, context, &mut self.sent) {
                Poll::Pending => return Ok(Sending::Upstream),
                Poll::Ready(Ok(wrote)) => self.flush |= wrote,
                Poll::Ready(Err(error)) if is_cut(&error) && self.sent > 0 => {
                    self.cut = true;
                    continue;
                }
                Poll::Ready(Err(error)) => return Err(UploadFault::Io(error)),
            }
            if self.sent > 0 {
                self.first = None;
            }
            let waits_for = if self.body.is_none() {
                Sending::Done
            } else if self.stage == Stage::Held {
                Sending::Word
            } else if self.take_frame(context)? {
                continue;
            } else {
                Sending::Client
            };
            if self.flush {
                match Pin::new(&mut *stream).poll_flush(context) {
                    Poll::Pending if waits_for == Sending::Done => return Ok(Sending::Upstream),
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => self.flush = false,
                    Poll::Ready(Err(error)) if is_cut(&error) => {
                        self.cut = true;
                        continue;
                    }
                    Poll::Ready(Err(error)) => return Err(UploadFault::Io(error)),
                }
            }
            return Ok(waits_for);
        }
    }

    /// Puts the next part of the body behind what goes out; `false`: there is none yet.
    fn take_frame(&mut self, context: &mut Context<'_>) -> Result<bool, UploadFault> {
        let Some(body) = &mut self.body else { return Ok(true) };
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(context) else { return Ok(false) };
        let Some(frame) = frame.transpose().map_err(UploadFault::Body)? else {
            self.body = None;
            return self.end(None).map(|()| true);
        };
        let ends = body.is_end_stream();
        match frame.into_data().map_err(Frame::into_trailers) {
            Ok(data) => {
                if self.sent == 0 {
                    self.first = Some(data.clone());
                }
                self.data(data)?;
                if ends {
                    self.body = None;
                    self.end(None)?;
                }
            }
            Err(Ok(trailers)) => {
                self.body = None;
                self.end(Some(&trailers))?;
            }
            Err(Err(_)) => {}
        }
        Ok(true)
    }

    fn data(&mut self, data: Bytes) -> Result<(), UploadFault> {
        match &mut self.framing {
            Framing::Chunked if data.is_empty() => return Ok(()),
            Framing::Chunked => {
                encode::chunk_size(self.out.head(), data.len());
                self.out.tail = b"\r\n";
            }
            Framing::Length(left) => *left = left.checked_sub(data.len() as u64).ok_or(UploadFault::Length)?,
            Framing::Empty => return if data.is_empty() { Ok(()) } else { Err(UploadFault::Length) },
        }
        if data.len() <= SMALL {
            let tail = std::mem::take(&mut self.out.tail);
            let head = self.out.head();
            head.extend_from_slice(&data);
            head.extend_from_slice(tail);
        } else {
            self.out.data = data;
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<&http::HeaderMap>) -> Result<(), UploadFault> {
        match (self.framing, trailers) {
            (Framing::Length(1..), _) => Err(UploadFault::Length),
            // Only chunks can be followed by trailers.
            (Framing::Length(0) | Framing::Empty, _) => Ok(()),
            (Framing::Chunked, None) if !self.out.data.is_empty() => {
                self.out.tail = b"\r\n0\r\n\r\n";
                Ok(())
            }
            (Framing::Chunked, trailers) => {
                encode::trailers(self.out.head(), trailers.unwrap_or(&http::HeaderMap::new()));
                Ok(())
            }
        }
    }
}

fn is_cut(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Bytes on their way out: one after the other.
#[derive(Default, Debug)]
struct Out {
    head: Vec<u8>,
    /// How much of `head` is gone.
    written: usize,
    data: Bytes,
    tail: &'static [u8],
}

impl Out {
    /// Where to put what goes out first.
    fn head(&mut self) -> &mut Vec<u8> {
        if self.head.capacity() == 0 {
            self.head = WRITE.take();
        }
        &mut self.head
    }

    const fn is_empty(&self) -> bool {
        self.written == self.head.len() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Writes all of it; whether there was anything.
    fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        sent: &mut u64,
    ) -> Poll<io::Result<bool>> {
        if self.is_empty() {
            return Poll::Ready(Ok(false));
        }
        while !self.is_empty() {
            let head = &self.head[self.written..];
            let mut stream = Pin::new(&mut *stream);
            let wrote = if self.data.is_empty() && self.tail.is_empty() {
                ready!(stream.as_mut().poll_write(context, head))?
            } else {
                let slices = [IoSlice::new(head), IoSlice::new(&self.data), IoSlice::new(self.tail)];
                ready!(stream.as_mut().poll_write_vectored(context, &slices))?
            };
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *sent += wrote as u64;
            self.advance(wrote);
        }
        self.give_back();
        Poll::Ready(Ok(true))
    }

    /// The buffer serves the next request of this thread, unless it has grown too large for that.
    fn give_back(&mut self) {
        self.written = 0;
        let mut head = std::mem::take(&mut self.head);
        if head.capacity() <= LARGEST_KEPT {
            head.clear();
            WRITE.set(head);
        }
    }

    fn advance(&mut self, mut by: usize) {
        let head = by.min(self.head.len() - self.written);
        self.written += head;
        by -= head;
        let data = by.min(self.data.len());
        self.data.advance(data);
        self.tail = &self.tail[by - data..];
    }
}
