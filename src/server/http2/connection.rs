//! A connection: its frames, read and written.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use h2::Reason;
use http::{Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    CONNECTION_WINDOW, MAX_RESET_EARLY, MAX_STREAMS, STREAM_WINDOW,
    error::{Fault, Http2Error},
    frame::{self, Head},
    head::{self, Fields},
    hpack::Decoder,
    streams::{Receiver, Responder, Shared},
};
use crate::{
    http1::{
        content::Sender,
        outgoing::Out,
        read::{BLOCK, poll_fill},
    },
    incoming::Incoming,
    upstream::body::BodyError,
};

/// How a client that speaks HTTP/2 begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much may wait to be written beside content, in bytes. With more, no frames are read that would have to be answered.
const MAX_BACKLOG: usize = 64 * 1024;

/// How many frames are read before others have their turn.
const FRAMES: usize = 256;

/// How many frames in a row may say nothing.
const MAX_EMPTY: usize = 100;

/// How much larger than its fields may be a block is, whatever they unfold to: of more, it is not even said that it is too large.
const BLOCKS: usize = 4;

/// The `PING` that tells when a client knows that the connection ends, and the one that asks whether it is there.
const LEAVING: [u8; 8] = *b"leaving.";
const THERE: [u8; 8] = *b"there?..";

/// A request that has come, and what serves it.
#[derive(Debug)]
pub(super) struct Accepted {
    /// Without its content.
    pub(super) request: Box<Request<Incoming>>,
    pub(super) responder: Responder,
    /// What its content comes by, unless there is none.
    pub(super) receiver: Option<Receiver>,
    /// How long that is, if it was said, in bytes.
    pub(super) length: Option<u64>,
}

/// A header of which more is to come.
#[derive(Debug)]
struct Unfinished {
    head: Head,
    block: BytesMut,
    pieces: usize,
}

/// Content that is being read.
#[derive(Clone, Copy, Debug)]
struct Content {
    stream: u32,
    left: usize,
    padding: usize,
    ends: bool,
    is_wanted: bool,
}

/// How far the connection is with ending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    /// It goes on.
    Not,
    /// The client is told, and what it sent before it knew is served.
    Told,
    /// No more requests are taken.
    Known,
}

#[derive(Debug)]
pub(super) struct Connection<T> {
    stream: Box<T>,
    shared: Shared,
    /// What was read and not yet used.
    buffer: Bytes,
    /// Whether that is a part of what all connections read into.
    is_borrowed: bool,
    /// How much of the preface is still to come.
    preface: &'static [u8],
    has_settings: bool,
    content: Option<Content>,
    unfinished: Option<Unfinished>,
    decoder: Decoder,
    out: Out,
    max_header_size: usize,
    /// The last stream that the client has begun.
    last: u32,
    /// The last one that was there when it was last looked at all of them.
    looked_at: u32,
    /// How many were begun and taken back in between.
    reset_early: usize,
    empty: usize,
    ending: Ending,
    /// Whether the client begins no more streams.
    client_leaves: bool,
    /// How it ends, once what is to be said was written.
    end: Option<Result<(), Http2Error>>,
}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Unpin> Connection<T> {
    /// Takes a connection of which this was read.
    pub(super) fn new(stream: Box<T>, first: Bytes, max_header_size: usize) -> Self {
        let shared = Shared::new();
        let list_size = u32::try_from(max_header_size).unwrap_or(u32::MAX);
        let settings = [
            (frame::MAX_CONCURRENT_STREAMS, u32::try_from(MAX_STREAMS).unwrap_or(u32::MAX)),
            (frame::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (frame::MAX_HEADER_LIST_SIZE, list_size),
            (frame::ENABLE_CONNECT_PROTOCOL, 1),
        ];
        let mut streams = shared.lock();
        frame::put_settings(streams.control(), &settings);
        frame::put_window_update(streams.control(), 0, CONNECTION_WINDOW - frame::FIRST_WINDOW);
        drop(streams);
        Self {
            stream,
            shared,
            buffer: first,
            is_borrowed: true,
            preface: PREFACE,
            has_settings: false,
            content: None,
            unfinished: None,
            decoder: Decoder::default(),
            out: Out::default(),
            max_header_size,
            last: 0,
            looked_at: 0,
            reset_early: 0,
            empty: 0,
            ending: Ending::Not,
            client_leaves: false,
            end: None,
        }
    }

    pub(super) fn stream_mut(&mut self) -> &mut T {
        &mut self.stream
    }

    /// Tells the client that the connection ends, and has it end once what it sent before it knew is answered (RFC 9113 §6.8).
    pub(super) fn leave(&mut self) {
        if self.ending == Ending::Not {
            self.ending = Ending::Told;
            let mut streams = self.shared.lock();
            frame::put_goaway(streams.control(), u32::MAX >> 1, Reason::NO_ERROR);
            frame::put_ping(streams.control(), 0, LEAVING);
        }
    }

    /// Asks the client whether it is there. Whatever comes of it is an answer.
    pub(super) fn ask(&self) {
        frame::put_ping(self.shared.lock().control(), 0, THERE);
    }

    /// Reads and writes, and hands on the requests that come. Resolves when the connection has ended.
    ///
    /// # Errors
    /// It failed, or the client broke the protocol.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut accept: impl FnMut(Accepted),
    ) -> Poll<Result<(), BodyError>> {
        self.shared.lock().set_task(context.waker());
        self.looked_at = self.last;
        self.reset_early = 0;
        let may_read = self.end.is_none() && !self.has_backlog();
        let has_more = may_read && self.poll_read(context, &mut accept)?;
        if self.end.is_none() && self.may_end() {
            if self.ending != Ending::Known {
                // Whatever the client still sends was not looked at.
                frame::put_goaway(self.shared.lock().control(), self.last, Reason::NO_ERROR);
            }
            self.end = Some(Ok(()));
        }
        let is_written = self.poll_write(context)?;
        if let Some(end) = self.end {
            ready!(is_written);
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            return Poll::Ready(Ok(end?));
        }
        if (has_more || !may_read) && !self.has_backlog() {
            // After the others.
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Whether so many frames wait, headers of responses among them, that no more are read until they are gone.
    fn has_backlog(&self) -> bool {
        self.shared.lock().backlog() >= MAX_BACKLOG
    }

    fn may_end(&self) -> bool {
        (self.ending == Ending::Known || self.client_leaves) && self.shared.lock().is_empty()
    }

    /// Reads what is there. Whether there may be more.
    fn poll_read(&mut self, context: &mut Context<'_>, accept: &mut impl FnMut(Accepted)) -> io::Result<bool> {
        for _ in 0..FRAMES {
            match self.step(accept) {
                Ok(true) if self.has_backlog() => return Ok(true),
                Ok(true) => continue,
                Ok(false) => {}
                Err(Fault::Connection(reason)) => {
                    self.fail(reason);
                    return Ok(false);
                }
                Err(Fault::Stream(id, reason)) => {
                    let reset = self.shared.lock().reset_for_fault(id, reason);
                    if let Err(reason) = reset {
                        self.fail(reason);
                        return Ok(false);
                    }
                    continue;
                }
            }
            let was_empty = self.buffer.is_empty();
            match poll_fill(Sender::Client, &mut self.stream, &mut self.buffer, context, BLOCK)? {
                Poll::Ready(0) if self.shared.lock().is_empty() => {
                    self.end = Some(Ok(()));
                    return Ok(false);
                }
                Poll::Ready(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(_) => self.is_borrowed = was_empty,
                Poll::Pending => {
                    if self.is_borrowed {
                        // By itself, if it is anything: it may have to wait for long, and is a small part of what is shared.
                        self.buffer = Bytes::copy_from_slice(&self.buffer);
                        self.is_borrowed = false;
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Ends the connection for what its client sent.
    fn fail(&mut self, reason: Reason) {
        let mut streams = self.shared.lock();
        streams.end(Http2Error::Connection(reason));
        frame::put_goaway(streams.control(), self.last, reason);
        self.end = Some(Err(Http2Error::Connection(reason)));
    }

    /// Writes what there is.
    fn poll_write(&mut self, context: &mut Context<'_>) -> io::Result<Poll<()>> {
        loop {
            self.shared.lock().put_into(&mut self.out);
            match self.out.poll_write(&mut self.stream, context, &mut 0)? {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Ok(Pin::new(&mut self.stream).poll_flush(context)?),
            }
        }
    }

    /// Takes the next frame, or a part of its content. Whether there was one.
    fn step(&mut self, accept: &mut impl FnMut(Accepted)) -> Result<bool, Fault> {
        if !self.preface.is_empty() {
            let length = self.preface.len().min(self.buffer.len());
            let (expected, rest) = self.preface.split_at(length);
            if self.buffer[..length] != *expected {
                return Err(Reason::PROTOCOL_ERROR.into());
            }
            self.buffer.advance(length);
            self.preface = rest;
            if !rest.is_empty() {
                return Ok(false);
            }
        }
        if self.content.is_some() {
            return self.content();
        }
        let Some(head) = Head::of(&self.buffer) else { return Ok(false) };
        if head.length > frame::LARGEST {
            return Err(Reason::FRAME_SIZE_ERROR.into());
        }
        if !self.has_settings && (head.kind != frame::SETTINGS || head.has(frame::ACK)) {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        if self
            .unfinished
            .as_ref()
            .is_some_and(|unfinished| head.kind != frame::CONTINUATION || head.stream != unfinished.head.stream)
        {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        if head.kind == frame::DATA {
            return self.begin_content(head);
        }
        if self.buffer.len() < frame::HEAD + head.length {
            return Ok(false);
        }
        self.buffer.advance(frame::HEAD);
        let payload = self.buffer.split_to(head.length);
        self.frame(head, payload, accept)?;
        Ok(true)
    }

    fn frame(&mut self, head: Head, payload: Bytes, accept: &mut impl FnMut(Accepted)) -> Result<(), Fault> {
        let Head { stream, .. } = head;
        match head.kind {
            frame::HEADERS => {
                self.empty = 0;
                if stream == 0 {
                    return Err(Reason::PROTOCOL_ERROR.into());
                }
                let block = frame::block(head, payload)?;
                if head.has(frame::END_HEADERS) {
                    return self.header(head, &block, accept);
                }
                self.unfinished = Some(Unfinished { head, block: BytesMut::from(&block[..]), pieces: 1 });
                Ok(())
            }
            frame::CONTINUATION => {
                let Some(unfinished) = &mut self.unfinished else { return Err(Reason::PROTOCOL_ERROR.into()) };
                unfinished.block.extend_from_slice(&payload);
                unfinished.pieces += 1;
                let most = self.max_header_size.max(frame::LARGEST).saturating_mul(BLOCKS);
                if unfinished.block.len() > most || unfinished.pieces > MAX_EMPTY {
                    return Err(Reason::ENHANCE_YOUR_CALM.into());
                }
                if head.has(frame::END_HEADERS)
                    && let Some(Unfinished { head, block, .. }) = self.unfinished.take()
                {
                    return self.header(head, &block, accept);
                }
                Ok(())
            }
            frame::PRIORITY if stream == 0 => Err(Reason::PROTOCOL_ERROR.into()),
            // Of a stream that was never begun nothing can be said.
            frame::PRIORITY if payload.len() != 5 && stream > self.last => Err(Reason::FRAME_SIZE_ERROR.into()),
            frame::PRIORITY if payload.len() != 5 => Err(Fault::Stream(stream, Reason::FRAME_SIZE_ERROR)),
            frame::RST_STREAM => self.reset(stream, frame::number(&payload)?.into()),
            frame::SETTINGS => self.settings(head, &payload),
            // Only a server pushes, and these two are of no stream.
            frame::PUSH_PROMISE => Err(Reason::PROTOCOL_ERROR.into()),
            frame::PING | frame::GOAWAY if stream != 0 => Err(Reason::PROTOCOL_ERROR.into()),
            frame::PING => {
                let payload = <[u8; 8]>::try_from(&payload[..]).map_err(|_| Reason::FRAME_SIZE_ERROR)?;
                self.ping(head, payload);
                Ok(())
            }
            frame::GOAWAY if payload.len() < 8 => Err(Reason::FRAME_SIZE_ERROR.into()),
            frame::GOAWAY => {
                self.client_leaves = true;
                Ok(())
            }
            frame::WINDOW_UPDATE => {
                let by = frame::number(&payload)? & 0x7fff_ffff;
                self.is_known(stream)?;
                self.shared.lock().widen(stream, by)
            }
            // What is not known means nothing (RFC 9113 §4.1).
            _ => Ok(()),
        }
    }

    /// Nothing can be said of a stream that was never begun (RFC 9113 §5.1).
    fn is_known(&self, stream: u32) -> Result<(), Fault> {
        // Those that came too late are not looked at.
        let is_begun = stream <= self.last || self.ending == Ending::Known;
        let is_right = stream == 0 || is_begun && !stream.is_multiple_of(2);
        if is_right { Ok(()) } else { Err(Reason::PROTOCOL_ERROR.into()) }
    }

    fn begin_content(&mut self, head: Head) -> Result<bool, Fault> {
        let Head { stream, length, .. } = head;
        let is_padded = head.has(frame::PADDED);
        if self.buffer.len() < frame::HEAD + usize::from(is_padded && length > 0) {
            return Ok(false);
        }
        if stream == 0 {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        self.is_known(stream)?;
        self.buffer.advance(frame::HEAD);
        let padding = if is_padded { self.buffer.try_get_u8().map(usize::from) } else { Ok(0) };
        let left = length.checked_sub(usize::from(is_padded)).ok_or(Reason::FRAME_SIZE_ERROR)?;
        let padding = padding.map_err(|_| Reason::FRAME_SIZE_ERROR)?;
        let left = left.checked_sub(padding).ok_or(Reason::PROTOCOL_ERROR)?;
        let ends = head.has(frame::END_STREAM);
        self.empty = if left > 0 || ends { 0 } else { self.empty + 1 };
        if self.empty > MAX_EMPTY {
            return Err(Reason::ENHANCE_YOUR_CALM.into());
        }
        let mut streams = self.shared.lock();
        let is_wanted = streams.begin_data(stream, length);
        // Nobody reads padding, so nobody gives it back.
        streams.give_back(stream, usize::from(is_padded));
        self.content = Some(Content { stream, left, padding, ends, is_wanted: is_wanted == Ok(true) });
        match is_wanted {
            Ok(false) if stream <= self.last && !streams.was_reset(stream) && !streams.is_there(stream) => {
                Err(Fault::Stream(stream, Reason::STREAM_CLOSED))
            }
            other => other.map(|_| true),
        }
    }

    /// Passes on the content that is there.
    fn content(&mut self) -> Result<bool, Fault> {
        let Some(content) = &mut self.content else { return Ok(true) };
        let mut streams = self.shared.lock();
        let data = self.buffer.split_to(content.left.min(self.buffer.len()));
        content.left -= data.len();
        let mut result = Ok(());
        if !content.is_wanted {
            streams.use_up(data.len());
        } else if !data.is_empty() {
            result = streams.data(content.stream, data);
        }
        if content.left == 0 {
            let skipped = content.padding.min(self.buffer.len());
            self.buffer.advance(skipped);
            content.padding -= skipped;
            streams.give_back(content.stream, skipped);
        }
        if result.is_err() {
            content.is_wanted = false;
        }
        let Content { stream, left, padding, ends, is_wanted } = *content;
        if left + padding > 0 {
            return result.map(|()| false);
        }
        self.content = None;
        if ends && is_wanted {
            result = streams.end_data(stream, None);
        }
        result.map(|()| true)
    }

    /// A field block has come.
    fn header(&mut self, head: Head, block: &[u8], accept: &mut impl FnMut(Accepted)) -> Result<(), Fault> {
        let Head { stream, .. } = head;
        if stream.is_multiple_of(2) {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        let is_new = stream > self.last;
        let most = self.max_header_size;
        let mut fields = if is_new { Fields::of_request(most) } else { Fields::of_trailers(most) };
        // Whatever becomes of them: the next block builds on it.
        self.decoder.decode(block, |field| fields.take(field)).map_err(|_| Reason::COMPRESSION_ERROR)?;
        if is_new { self.request(head, fields, accept) } else { self.trailers(head, fields) }
    }

    fn trailers(&self, head: Head, fields: Fields) -> Result<(), Fault> {
        let Head { stream, .. } = head;
        let mut streams = self.shared.lock();
        if !streams.is_there(stream) {
            let reason = Reason::STREAM_CLOSED;
            return if streams.was_reset(stream) { Ok(()) } else { Err(Fault::Stream(stream, reason)) };
        }
        streams.check_open(stream)?;
        let is_too_large = fields.is_too_large();
        let trailers = fields.into_trailers().ok().filter(|_| head.has(frame::END_STREAM) && !is_too_large);
        let trailers = trailers.ok_or(Fault::Stream(stream, Reason::PROTOCOL_ERROR))?;
        streams.end_data(stream, Some(trailers).filter(|trailers| !trailers.is_empty()))
    }

    fn request(&mut self, head: Head, fields: Fields, accept: &mut impl FnMut(Accepted)) -> Result<(), Fault> {
        let Head { stream, .. } = head;
        if self.ending == Ending::Known {
            // It was told that nobody would look at it (RFC 9113 §6.8).
            return Ok(());
        }
        self.last = stream;
        let ends = head.has(frame::END_STREAM);
        let malformed = Fault::Stream(stream, Reason::PROTOCOL_ERROR);
        let mut streams = self.shared.lock();
        // Those that the client has taken back count until nobody serves them any more.
        if streams.count() >= MAX_STREAMS {
            streams.refuse(stream, Reason::REFUSED_STREAM);
            return Ok(());
        }
        if fields.is_too_large() {
            streams.answer(stream, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
            if !ends {
                streams.refuse(stream, Reason::NO_ERROR);
            }
            return Ok(());
        }
        let request = fields.into_request().map_err(|_| malformed)?;
        let left = head::content_length(request.headers()).map_err(|_| malformed)?;
        if ends && left.is_some_and(|left| left > 0) {
            return Err(malformed);
        }
        let (responder, receiver) = streams.open(&self.shared, stream, ends, left);
        drop(streams);
        accept(Accepted { request, responder, receiver, length: left });
        Ok(())
    }

    fn reset(&mut self, stream: u32, reason: Reason) -> Result<(), Fault> {
        if stream == 0 {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        self.is_known(stream)?;
        if stream > self.looked_at && stream <= self.last {
            // Nobody has seen it, and yet there was something to do.
            self.reset_early += 1;
            if self.reset_early > MAX_RESET_EARLY {
                return Err(Reason::ENHANCE_YOUR_CALM.into());
            }
        }
        self.shared.lock().reset_by_client(stream, reason);
        Ok(())
    }

    fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        if head.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        let is_ack = head.has(frame::ACK);
        if is_ack && !payload.is_empty() || !payload.len().is_multiple_of(6) {
            return Err(Reason::FRAME_SIZE_ERROR.into());
        }
        if is_ack {
            return Ok(());
        }
        self.has_settings = true;
        let mut streams = self.shared.lock();
        let mut window = None;
        for (id, value) in frame::settings(payload) {
            match id {
                frame::ENABLE_PUSH if value > 1 => return Err(Reason::PROTOCOL_ERROR.into()),
                frame::INITIAL_WINDOW_SIZE if i64::from(value) > frame::LARGEST_WINDOW => {
                    return Err(Reason::FLOW_CONTROL_ERROR.into());
                }
                // The last one counts, and each takes a look at all streams.
                frame::INITIAL_WINDOW_SIZE => window = Some(value),
                // Frames are no larger than the usual size, whatever a client would take.
                frame::MAX_FRAME_SIZE if !(16_384..=16_777_215).contains(&value) => {
                    return Err(Reason::PROTOCOL_ERROR.into());
                }
                // Nothing is pushed, and no table kept.
                _ => {}
            }
        }
        if let Some(window) = window {
            streams.set_first_takes(window)?;
        }
        frame::put_head(streams.control(), 0, frame::SETTINGS, frame::ACK, 0);
        Ok(())
    }

    fn ping(&mut self, head: Head, payload: [u8; 8]) {
        let mut streams = self.shared.lock();
        if !head.has(frame::ACK) {
            frame::put_ping(streams.control(), frame::ACK, payload);
        } else if self.ending == Ending::Told && payload == LEAVING {
            self.ending = Ending::Known;
            frame::put_goaway(streams.control(), self.last, Reason::NO_ERROR);
        }
    }
}

/// A connection that is gone takes its streams along, wherever they are served.
impl<T> Drop for Connection<T> {
    fn drop(&mut self) {
        self.shared.lock().end(Http2Error::Gone);
    }
}
