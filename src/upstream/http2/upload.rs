//! Sending the content of a request, as far as the upstream takes it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body as _, Frame};

use crate::upstream::body::{BodyError, RequestBody};

/// The content of a request that is being sent.
#[derive(Debug)]
pub(super) struct Upload {
    stream: SendStream<Bytes>,
    body: RequestBody,
    /// What was taken off the body and waits for the upstream to take it, and whether it is the last of it.
    next: Option<(Bytes, bool)>,
    stage: Stage,
    /// Whether anything of it was sent.
    is_begun: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// It waits until the upstream wants it, or has had time to say so.
    Held,
    Open,
    Done,
    /// The upstream takes no more. What it says may be there to be read nevertheless (RFC 9113 §8.1).
    Cut,
}

impl Upload {
    /// The content of a request that was sent over `stream`. `held`: it waits for [`Upload::release`].
    pub(super) fn new(stream: SendStream<Bytes>, body: RequestBody, has_content: bool, held: bool) -> Self {
        let stage = match (has_content, held) {
            (false, _) => Stage::Done,
            (true, true) => Stage::Held,
            (true, false) => Stage::Open,
        };
        if stage == Stage::Held
            && let Some(upload) = body.upload()
        {
            upload.hold();
        }
        Self { stream, body, next: None, stage, is_begun: false }
    }

    /// Whether nothing more is to be sent.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Done | Stage::Cut)
    }

    /// Whether it still waits until the upstream wants it.
    pub(super) fn is_held(&self) -> bool {
        self.stage == Stage::Held
    }

    /// It may go.
    pub(super) fn release(&mut self) {
        if self.is_held() {
            self.stage = Stage::Open;
            if let Some(upload) = self.body.upload() {
                upload.progress();
            }
        }
    }

    /// The stream, of a request that has no content.
    pub(super) fn into_stream(self) -> SendStream<Bytes> {
        self.stream
    }

    /// The body as it was; `None`: part of it is gone.
    pub(super) fn into_body(mut self) -> Option<RequestBody> {
        self.body.put_back(self.next.map(|(data, _)| data));
        (!self.is_begun).then_some(self.body)
    }

    /// Sends what there is to send. Resolves when nothing more is; what the upstream does to the stream is for whoever waits for the response.
    ///
    /// # Errors
    /// The body failed, and the stream was reset for it.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        while self.stage == Stage::Open {
            if let Some((data, is_last)) = self.next.take() {
                let has_room = match self.poll_room(context) {
                    Poll::Ready(has_room) => has_room,
                    Poll::Pending => {
                        self.next = Some((data, is_last));
                        return Poll::Pending;
                    }
                };
                if !has_room {
                    self.next = Some((data, is_last));
                } else if let Err(error) = self.body.check() {
                    return Poll::Ready(Err(self.fail(error)));
                } else {
                    self.send(data, is_last);
                }
                continue;
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Err(self.fail(error))),
                None => {
                    self.send(Bytes::new(), true);
                    continue;
                }
            };
            match frame.into_data().map_err(Frame::into_trailers) {
                Ok(data) if data.is_empty() && !self.body.is_end_stream() => {}
                Ok(data) if data.is_empty() => self.send(data, true),
                Ok(data) => {
                    // More is asked for when it is sent; what is not sent yet must not keep others from the window of the connection.
                    self.stream.reserve_capacity(1);
                    self.next = Some((data, self.body.is_end_stream()));
                }
                Err(Ok(trailers)) => {
                    // What is lost of them when they do not go out is lost.
                    self.is_begun = true;
                    let sent = self.stream.send_trailers(trailers);
                    self.stage = if sent.is_ok() { Stage::Done } else { Stage::Cut };
                }
                Err(Err(_)) => {}
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Resolves when the upstream takes something; `false`: it never will.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        while self.stream.capacity() == 0 {
            let Some(Ok(_)) = ready!(self.stream.poll_capacity(context)) else {
                self.stage = Stage::Cut;
                return Poll::Ready(false);
            };
        }
        Poll::Ready(true)
    }

    fn fail(&mut self, error: BodyError) -> BodyError {
        self.is_begun = true;
        self.stage = Stage::Cut;
        self.stream.send_reset(Reason::CANCEL);
        error
    }

    fn send(&mut self, data: Bytes, is_last: bool) {
        if self.stream.send_data(data.clone(), is_last).is_err() {
            self.stage = Stage::Cut;
            self.next = Some((data, is_last)).filter(|(data, _)| !data.is_empty());
            return;
        }
        self.is_begun = true;
        if is_last {
            self.stage = Stage::Done;
        }
    }
}
