//! A stream for whoever serves it: one half reads, the other writes.

use std::{
    collections::VecDeque,
    mem,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use h2::Reason;
use http::{HeaderMap, StatusCode};

use super::{End, Party, Shared, Stream};
use crate::server::http2::{
    error::Http2Error,
    frame::{self, END_STREAM},
};

/// Serves a stream. Dropped before the response has ended, or while the client does not take the last of it, the stream is reset.
#[derive(Debug)]
pub(in super::super) struct Responder {
    pub(super) shared: Shared,
    pub(super) id: u32,
}

impl Responder {
    /// Sends a header: that of the response, which may be all of it, or that of an interim one.
    ///
    /// # Errors
    /// The stream has ended.
    pub(in super::super) fn respond(
        &self,
        status: StatusCode,
        fields: &HeaderMap,
        ends: bool,
    ) -> Result<(), Http2Error> {
        let mut streams = self.shared.lock();
        let stream = streams.get(self.id).ok_or(Http2Error::Gone)?;
        if let Some(why) = stream.ended {
            return Err(why);
        }
        stream.is_sent |= ends;
        let mut control = mem::take(streams.control());
        let (encoder, flags) = (&mut streams.encoder, if ends { END_STREAM } else { 0 });
        frame::put_block(&mut control, self.id, flags, |block| encoder.response(status, fields, block));
        streams.control = control;
        streams.wake_task();
        Ok(())
    }

    /// Resolves when nothing of the content waits any more.
    ///
    /// # Errors
    /// The stream has ended.
    pub(in super::super) fn poll_room(&self, context: &Context<'_>) -> Poll<Result<(), Http2Error>> {
        self.poll(context, |stream| stream.pending.is_empty())
    }

    /// Resolves when the stream has ended before its time.
    pub(in super::super) fn poll_ended(&self, context: &Context<'_>) -> Poll<Http2Error> {
        self.poll(context, |_| false).map(|ended| ended.err().unwrap_or(Http2Error::Gone))
    }

    fn poll(&self, context: &Context<'_>, is_ready: impl FnOnce(&Stream) -> bool) -> Poll<Result<(), Http2Error>> {
        let mut streams = self.shared.lock();
        let Some(stream) = streams.get(self.id) else { return Poll::Ready(Err(Http2Error::Gone)) };
        if let Some(why) = stream.ended {
            return Poll::Ready(Err(why));
        }
        if is_ready(stream) {
            return Poll::Ready(Ok(()));
        }
        stream.writer.wait(context);
        Poll::Pending
    }

    /// Sends a part of the content. To be called when there is [room](Self::poll_room). Whether the client takes all of it now.
    ///
    /// # Errors
    /// The stream has ended.
    pub(in super::super) fn send(&self, data: Bytes, is_last: bool) -> Result<bool, Http2Error> {
        self.put(data, is_last.then_some(End::Data))
    }

    /// Ends the response by trailers.
    ///
    /// # Errors
    /// The stream has ended.
    pub(in super::super) fn end_with(&self, trailers: HeaderMap) -> Result<bool, Http2Error> {
        self.put(Bytes::new(), Some(End::Trailers(trailers)))
    }

    fn put(&self, data: Bytes, end: Option<End>) -> Result<bool, Http2Error> {
        let mut guard = self.shared.lock();
        let streams = &mut *guard;
        let takes = streams.takes;
        let stream = streams.get(self.id).ok_or(Http2Error::Gone)?;
        if let Some(why) = stream.ended {
            return Err(why);
        }
        if stream.is_sent || stream.end.is_some() {
            // A second end is none. Behind an end there is nothing.
            return if data.is_empty() { Ok(true) } else { Err(Http2Error::Gone) };
        }
        if stream.pending.is_empty() {
            stream.pending = data;
        } else if !data.is_empty() {
            let mut joined = BytesMut::from(mem::take(&mut stream.pending));
            joined.extend_from_slice(&data);
            stream.pending = joined.freeze();
        }
        stream.end = end;
        let fits = stream.fits(takes);
        streams.queue(self.id);
        Ok(fits)
    }

    /// Ends the stream, as something went wrong.
    pub(in super::super) fn reset(&self, reason: Reason) {
        self.shared.lock().reset(self.id, reason);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let mut streams = self.shared.lock();
        let takes = streams.takes;
        let Some(stream) = streams.get(self.id) else { return };
        stream.writer = Party::Gone;
        if stream.ended.is_none() && !stream.is_sent {
            match stream.end {
                // Nobody waits for a client that makes no room.
                _ if !stream.fits(takes) => streams.reset(self.id, Reason::CANCEL),
                Some(_) => {}
                None if stream.pending.is_empty() => streams.reset(self.id, Reason::CANCEL),
                // What was said before it broke off is heard.
                None => stream.end = Some(End::Reset(Reason::CANCEL)),
            }
        }
        streams.finish(self.id);
    }
}

/// Reads what comes for a stream. Dropped before its end, the rest is passed over.
#[derive(Debug)]
pub(in super::super) struct Receiver {
    pub(super) shared: Shared,
    pub(super) id: u32,
}

impl Receiver {
    /// The next part of the content; `None`: there is no more. To be given back when it is used.
    ///
    /// # Errors
    /// The stream has ended.
    pub(in super::super) fn poll_data(&self, context: &Context<'_>) -> Poll<Option<Result<Bytes, Http2Error>>> {
        let mut streams = self.shared.lock();
        let Some(stream) = streams.get(self.id) else { return Poll::Ready(Some(Err(Http2Error::Gone))) };
        if let Some(data) = stream.received.pop_front() {
            return Poll::Ready(Some(Ok(data)));
        }
        if !stream.tail.is_empty() {
            return Poll::Ready(Some(Ok(stream.tail.split().freeze())));
        }
        if stream.is_received {
            return Poll::Ready(None);
        }
        if let Some(why) = stream.ended {
            return Poll::Ready(Some(Err(why)));
        }
        stream.reader.wait(context);
        Poll::Pending
    }

    /// Trailers, once there is no more content.
    pub(in super::super) fn trailers(&self) -> Option<HeaderMap> {
        self.shared.lock().get(self.id)?.trailers.take()
    }

    /// So much is used: as much more may come.
    pub(in super::super) fn use_up(&self, length: usize) {
        self.shared.lock().give_back(self.id, length);
    }

    /// Whether all was read.
    pub(in super::super) fn is_at_end(&self) -> bool {
        let mut streams = self.shared.lock();
        streams.get(self.id).is_none_or(|stream| {
            stream.is_received && stream.received.is_empty() && stream.tail.is_empty() && stream.trailers.is_none()
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut streams = self.shared.lock();
        let Some(stream) = streams.get(self.id) else { return };
        stream.reader = Party::Gone;
        let unread = stream.unread();
        stream.received = VecDeque::new();
        stream.tail = BytesMut::new();
        if unread > 0 {
            streams.use_up(unread);
        }
        streams.finish(self.id);
    }
}
