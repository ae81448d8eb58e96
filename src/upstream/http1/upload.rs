//! Sending a request: its header and its body, as far as the upstream takes it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::encode;
use crate::{
    http1::{
        content::Framing,
        outgoing::{Outgoing, WrongLength},
    },
    upstream::body::BodyError,
};

/// A request that is being sent.
#[derive(Debug)]
pub(super) struct Upload<B> {
    /// What is left of the body.
    body: Option<B>,
    outgoing: Outgoing,
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
        let mut outgoing = Outgoing::new(framing);
        encode::head(outgoing.out.head(), request, framing);
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
            outgoing,
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
        self.body.is_none() && self.outgoing.out.is_empty() && !self.flush && !self.cut
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
        (self.sent == 0 || self.outgoing.framing == Framing::Empty || self.is_held()).then_some((self.body, self.first))
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
            match self.outgoing.out.poll_write(stream, context, &mut self.sent) {
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
            self.outgoing.end(None)?;
            return Ok(true);
        };
        let ends = body.is_end_stream();
        match frame.into_data().map_err(Frame::into_trailers) {
            Ok(data) => {
                if self.sent == 0 {
                    self.first = Some(data.clone());
                }
                self.outgoing.data(data)?;
                if ends {
                    self.body = None;
                    self.outgoing.end(None)?;
                }
            }
            Err(Ok(trailers)) => {
                self.body = None;
                self.outgoing.end(Some(&trailers))?;
            }
            Err(Err(_)) => {}
        }
        Ok(true)
    }
}

impl From<WrongLength> for UploadFault {
    fn from(_: WrongLength) -> Self {
        Self::Length
    }
}

fn is_cut(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
