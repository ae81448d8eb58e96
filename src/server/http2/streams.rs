//! The streams of a connection: what has come for each, and what of each is still to be sent. Nothing here reads or writes.
//!
//! - `handles`: what whoever serves a stream has of it.

mod handles;

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
};

use bytes::{Bytes, BytesMut};
use h2::Reason;
use http::{HeaderMap, StatusCode};

pub(super) use self::handles::{Receiver, Responder};
use super::{
    CONNECTION_WINDOW, MAX_FAULTY, MAX_STREAMS, STREAM_WINDOW,
    error::{Fault, Http2Error},
    frame::{self, DATA, END_STREAM, LARGEST, LARGEST_WINDOW},
    hpack::Encoder,
};
use crate::http1::outgoing::{Out, SMALL, spare};

/// How many streams that were reset are remembered: what their client had sent by then still comes, and is passed over (RFC 9113 §5.1).
/// More than there can be at once.
const REMEMBERED: usize = MAX_STREAMS + 56;

/// How much of content that has to wait is put together, in bytes.
const PIECE: usize = 16 * 1024;

/// All streams of a connection, and those who serve them.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<Mutex<Streams>>);

impl Shared {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Streams::default())))
    }

    /// Nothing that panics holds it.
    pub(super) fn lock(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream (RFC 9113 §5).
#[derive(Debug)]
struct Stream {
    id: u32,

    received: VecDeque<Bytes>,
    /// What came last, apart from what it was read into: it may have to wait for long, and is a small part of what is shared.
    tail: BytesMut,
    trailers: Option<HeaderMap>,
    /// Whether all has come.
    is_received: bool,
    /// How much more of its content there is to be, if that was said.
    left: Option<u64>,
    /// How much the client may send.
    window: u32,
    /// How much of what has come is used, and not yet given back.
    used: u32,
    reader: Party,

    /// How much the client takes. Less than nothing: it has changed its mind (RFC 9113 §6.9.2).
    takes: i64,
    pending: Bytes,
    end: Option<End>,
    /// Whether it has its turn.
    is_queued: bool,
    is_sent: bool,
    writer: Party,

    ended: Option<Http2Error>,
}

/// Whoever reads a stream, or writes to it.
#[derive(Debug)]
enum Party {
    Gone,
    Busy,
    Waits(Waker),
}

impl Party {
    const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone)
    }

    fn wake(&mut self) {
        if matches!(self, Self::Waits(_))
            && let Self::Waits(task) = mem::replace(self, Self::Busy)
        {
            task.wake();
        }
    }

    fn wait(&mut self, context: &Context<'_>) {
        match self {
            Self::Waits(known) if known.will_wake(context.waker()) => {}
            _ => *self = Self::Waits(context.waker().clone()),
        }
    }
}

/// How a response ends.
#[derive(Debug)]
enum End {
    Data,
    Trailers(HeaderMap),
    /// Too early: behind what is still to be sent.
    Reset(Reason),
}

impl Stream {
    fn new(id: u32, is_received: bool, left: Option<u64>, takes: i64) -> Self {
        Self {
            id,
            received: VecDeque::new(),
            tail: BytesMut::new(),
            trailers: None,
            is_received,
            left,
            window: STREAM_WINDOW,
            used: 0,
            reader: if is_received { Party::Gone } else { Party::Busy },
            takes,
            pending: Bytes::new(),
            end: None,
            is_queued: false,
            is_sent: false,
            writer: Party::Busy,
            ended: None,
        }
    }

    /// Whatever is to be sent is not, and nobody waits any more.
    fn end(&mut self, why: Http2Error) {
        if self.ended.is_none() {
            self.ended = Some(why);
            self.pending = Bytes::new();
            self.end = None;
            self.reader.wake();
            self.writer.wake();
        }
    }

    /// Whether the client takes all that waits, if it takes so much of all streams.
    fn fits(&self, takes: i64) -> bool {
        i64::try_from(self.pending.len()).is_ok_and(|length| length <= self.takes.min(takes))
    }

    /// How much has come that nobody has read.
    fn unread(&self) -> usize {
        self.received.iter().map(Bytes::len).sum::<usize>() + self.tail.len()
    }

    /// Takes its turn, if it has something to send.
    fn queue(&mut self, turns: &mut VecDeque<u32>) {
        if !self.is_queued && (!self.pending.is_empty() || self.end.is_some()) {
            self.is_queued = true;
            turns.push_back(self.id);
        }
    }

    fn is_over(&self) -> bool {
        self.reader.is_gone() && self.writer.is_gone() && (self.ended.is_some() || self.is_sent && self.is_received)
    }
}

/// The streams of a connection.
#[derive(Debug)]
pub(super) struct Streams {
    /// By their numbers, which only grow.
    #[expect(clippy::vec_box, reason = "they are moved when one of them goes")]
    all: Vec<Box<Stream>>,
    /// Frames that go out before any content.
    control: Vec<u8>,
    encoder: Encoder,
    /// Those who have something to send, in the order of their turns.
    turns: VecDeque<u32>,
    /// How much the client takes of all of them.
    takes: i64,
    /// How much it takes of a new one.
    first_takes: i64,
    /// How much it may send.
    window: u32,
    used: u32,
    reset: VecDeque<u32>,
    /// How often the gate had to reset one for what was wrong with it.
    faulty: usize,
    /// Whoever writes the frames.
    task: Option<Waker>,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            control: Vec::new(),
            encoder: Encoder::default(),
            turns: VecDeque::new(),
            takes: frame::FIRST_WINDOW.into(),
            first_takes: frame::FIRST_WINDOW.into(),
            window: CONNECTION_WINDOW,
            used: 0,
            reset: VecDeque::new(),
            faulty: 0,
            task: None,
        }
    }
}

/// For whoever drives the connection.
impl Streams {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    fn place(&self, id: u32) -> Option<usize> {
        match self.all.last() {
            Some(last) if last.id == id => Some(self.all.len() - 1),
            _ => self.all.binary_search_by_key(&id, |stream| stream.id).ok(),
        }
    }

    fn get(&mut self, id: u32) -> Option<&mut Stream> {
        self.place(id).map(|place| &mut *self.all[place])
    }

    /// Looks whether there may be more of a stream.
    ///
    /// # Errors
    /// All of it has.
    pub(super) fn check_open(&mut self, id: u32) -> Result<(), Fault> {
        let is_received = self.get(id).is_some_and(|stream| stream.is_received && stream.ended.is_none());
        if is_received { Err(Fault::Stream(id, Reason::STREAM_CLOSED)) } else { Ok(()) }
    }

    /// What the client may send, and may again soon.
    #[cfg(test)]
    pub(super) const fn balance(&self) -> u32 {
        self.window + self.used
    }

    /// Whether a stream is still there.
    pub(super) fn is_there(&self, id: u32) -> bool {
        self.place(id).is_some()
    }

    /// Whether frames for it are to be passed over, as it was reset.
    pub(super) fn was_reset(&self, id: u32) -> bool {
        self.reset.contains(&id)
    }

    /// Is told when there is something to write.
    pub(super) fn set_task(&mut self, task: &Waker) {
        match &mut self.task {
            Some(known) if known.will_wake(task) => {}
            known => *known = Some(task.clone()),
        }
    }

    fn wake_task(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    /// Where frames go that are no content.
    pub(super) fn control(&mut self) -> &mut Vec<u8> {
        if self.control.capacity() == 0 {
            self.control = spare();
        }
        &mut self.control
    }

    /// How much of that waits, in bytes.
    pub(super) const fn backlog(&self) -> usize {
        self.control.len()
    }

    /// Begins a stream: what serves it, and what reads its content if there is any.
    pub(super) fn open(
        &mut self,
        shared: &Shared,
        id: u32,
        is_received: bool,
        left: Option<u64>,
    ) -> (Responder, Option<Receiver>) {
        self.all.push(Box::new(Stream::new(id, is_received, left, self.first_takes)));
        let receiver = (!is_received).then(|| Receiver { shared: shared.clone(), id });
        (Responder { shared: shared.clone(), id }, receiver)
    }

    /// A frame of content is about to come, of so many bytes with its padding. Whether anybody wants it.
    ///
    /// # Errors
    /// It may not be sent.
    pub(super) fn begin_data(&mut self, id: u32, length: usize) -> Result<bool, Fault> {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.window = self.window.checked_sub(length).ok_or(Reason::FLOW_CONTROL_ERROR)?;
        let Some(stream) = self.get(id) else { return Ok(false) };
        if stream.ended.is_some() {
            return Ok(false);
        }
        if stream.is_received {
            return Err(Fault::Stream(id, Reason::STREAM_CLOSED));
        }
        let window = stream.window.checked_sub(length).ok_or(Fault::Stream(id, Reason::FLOW_CONTROL_ERROR))?;
        stream.window = window;
        Ok(true)
    }

    /// A part of content has come.
    ///
    /// # Errors
    /// It is more than was said.
    pub(super) fn data(&mut self, id: u32, data: Bytes) -> Result<(), Fault> {
        let length = data.len();
        let Some(stream) = self.get(id).filter(|stream| stream.ended.is_none()) else {
            self.use_up(length);
            return Ok(());
        };
        let left = stream.left.map(|left| left.checked_sub(length as u64).ok_or(Reason::PROTOCOL_ERROR)).transpose();
        let is_read = !stream.reader.is_gone();
        match left {
            Ok(left) => stream.left = left,
            Err(reason) => {
                self.use_up(length);
                return Err(Fault::Stream(id, reason));
            }
        }
        if !is_read {
            self.use_up(length);
        } else if matches!(stream.reader, Party::Waits(_)) {
            // There is nothing before it.
            stream.received.push_back(data);
            stream.reader.wake();
        } else {
            stream.tail.extend_from_slice(&data);
            if stream.tail.len() >= PIECE {
                let piece = stream.tail.split().freeze();
                stream.received.push_back(piece);
            }
        }
        Ok(())
    }

    /// All of a request has come.
    ///
    /// # Errors
    /// It is less than was said.
    pub(super) fn end_data(&mut self, id: u32, trailers: Option<HeaderMap>) -> Result<(), Fault> {
        let Some(stream) = self.get(id).filter(|stream| stream.ended.is_none()) else { return Ok(()) };
        if stream.is_received {
            return Err(Fault::Stream(id, Reason::STREAM_CLOSED));
        }
        if stream.left.is_some_and(|left| left > 0) {
            return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
        }
        stream.is_received = true;
        stream.trailers = trailers;
        stream.reader.wake();
        self.finish(id);
        Ok(())
    }

    /// So much of what came for a stream is used: as much more may come for it.
    pub(super) fn give_back(&mut self, id: u32, length: usize) {
        self.use_up(length);
        let Some(stream) = self.get(id).filter(|stream| !stream.is_received && stream.ended.is_none()) else { return };
        stream.used += u32::try_from(length).unwrap_or_default();
        if stream.used >= STREAM_WINDOW / 2 {
            let used = mem::take(&mut stream.used);
            stream.window += used;
            frame::put_window_update(self.control(), id, used);
            self.wake_task();
        }
    }

    /// So much of what came is used, by nobody's stream.
    pub(super) fn use_up(&mut self, length: usize) {
        self.used += u32::try_from(length).unwrap_or_default();
        if self.used >= CONNECTION_WINDOW / 2 {
            let used = mem::take(&mut self.used);
            self.window += used;
            frame::put_window_update(self.control(), 0, used);
            self.wake_task();
        }
    }

    /// The client takes more of a stream, or of all of them (0).
    ///
    /// # Errors
    /// It is nothing, or more than there can be (RFC 9113 §6.9).
    pub(super) fn widen(&mut self, id: u32, by: u32) -> Result<(), Fault> {
        let by = i64::from(by);
        if id == 0 {
            self.takes += by;
            let reason = if by == 0 { Reason::PROTOCOL_ERROR } else { Reason::FLOW_CONTROL_ERROR };
            return if by == 0 || self.takes > LARGEST_WINDOW { Err(reason.into()) } else { Ok(()) };
        }
        let Some(place) = self.place(id).filter(|place| self.all[*place].ended.is_none()) else { return Ok(()) };
        let stream = &mut self.all[place];
        stream.takes += by;
        if by == 0 {
            return Err(Fault::Stream(id, Reason::PROTOCOL_ERROR));
        }
        if stream.takes > LARGEST_WINDOW {
            return Err(Fault::Stream(id, Reason::FLOW_CONTROL_ERROR));
        }
        stream.queue(&mut self.turns);
        Ok(())
    }

    /// The client takes so much of each stream from now on, and of those that are there by as much more or less.
    ///
    /// # Errors
    /// It is more than there can be.
    pub(super) fn set_first_takes(&mut self, takes: u32) -> Result<(), Reason> {
        let by = i64::from(takes) - self.first_takes;
        self.first_takes = takes.into();
        for stream in self.all.iter_mut().filter(|_| by != 0) {
            stream.takes += by;
            if stream.takes > LARGEST_WINDOW {
                return Err(Reason::FLOW_CONTROL_ERROR);
            }
            stream.queue(&mut self.turns);
        }
        Ok(())
    }

    /// The client has reset a stream.
    pub(super) fn reset_by_client(&mut self, id: u32, reason: Reason) {
        if let Some(stream) = self.get(id) {
            stream.end(Http2Error::ResetByClient(reason));
            self.remember(id);
        }
    }

    /// The gate resets a stream, for what its client sent.
    ///
    /// # Errors
    /// There have been too many of them.
    pub(super) fn reset_for_fault(&mut self, id: u32, reason: Reason) -> Result<(), Reason> {
        self.reset(id, reason);
        self.faulty += 1;
        if self.faulty > MAX_FAULTY { Err(Reason::ENHANCE_YOUR_CALM) } else { Ok(()) }
    }

    /// The gate resets a stream.
    pub(super) fn reset(&mut self, id: u32, reason: Reason) {
        if let Some(stream) = self.get(id) {
            if stream.ended.is_some() {
                return;
            }
            stream.end(Http2Error::Reset(reason));
        }
        self.refuse(id, reason);
    }

    /// Has what still comes for a stream passed over.
    fn remember(&mut self, id: u32) {
        if self.reset.len() == REMEMBERED {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
    }

    /// Tells the client that a stream is reset, which may never have been.
    pub(super) fn refuse(&mut self, id: u32, reason: Reason) {
        self.remember(id);
        frame::put_reset(self.control(), id, reason);
        self.wake_task();
    }

    /// A response without a stream: to a request that was not read.
    pub(super) fn answer(&mut self, id: u32, status: StatusCode) {
        let mut control = mem::take(self.control());
        let encoder = &mut self.encoder;
        frame::put_block(&mut control, id, END_STREAM, |block| encoder.response(status, &HeaderMap::new(), block));
        self.control = control;
    }

    /// Ends all of them.
    pub(super) fn end(&mut self, why: Http2Error) {
        for stream in &mut self.all {
            stream.end(why);
        }
        self.turns.clear();
        self.all.retain(|stream| !stream.is_over());
    }

    /// Puts what goes out next into `out`, as long as it has room for more.
    pub(super) fn put_into(&mut self, out: &mut Out) {
        if !self.control.is_empty() {
            if !out.has_room() {
                return;
            }
            if out.is_empty() {
                out.begin_with(mem::take(&mut self.control));
            } else {
                // Not kept: the connection may have nothing to say for long.
                let control = mem::take(&mut self.control);
                out.head().extend_from_slice(&control);
            }
        }
        // Those who wait for a wider window of the connection keep their turns, and hold up nobody who has nothing to send but the end.
        let mut waiting = VecDeque::new();
        while out.has_room()
            && let Some(id) = self.turns.pop_front()
        {
            let takes = self.takes;
            let Some(stream) = self.get(id) else { continue };
            stream.is_queued = false;
            if stream.ended.is_some() {
                continue;
            }
            let most = usize::try_from(stream.takes.min(takes)).unwrap_or_default().min(LARGEST);
            let length = stream.pending.len().min(most);
            if length == 0 && !stream.pending.is_empty() {
                // Until its own window is wider, or that of all.
                if stream.takes > 0 {
                    stream.is_queued = true;
                    waiting.push_back(id);
                }
                continue;
            }
            let part = stream.pending.split_to(length);
            let sent = i64::try_from(length).unwrap_or_default();
            stream.takes -= sent;
            let is_whole = stream.pending.is_empty();
            let end = if is_whole { stream.end.take() } else { None };
            stream.is_sent |= end.is_some();
            stream.is_queued = !is_whole;
            if is_whole {
                stream.writer.wake();
            } else {
                self.turns.push_back(id);
            }
            self.takes -= sent;
            self.put_data(out, id, part, end);
            self.finish(id);
        }
        if !waiting.is_empty() {
            waiting.append(&mut self.turns);
            self.turns = waiting;
        }
    }

    fn put_data(&mut self, out: &mut Out, id: u32, part: Bytes, end: Option<End>) {
        let ends = matches!(end, Some(End::Data));
        if !part.is_empty() || ends {
            frame::put_head(out.head(), part.len(), DATA, if ends { END_STREAM } else { 0 }, id);
            if part.len() <= SMALL {
                out.head().extend_from_slice(&part);
            } else {
                out.put_data(part);
            }
        }
        let Some(End::Trailers(_) | End::Reset(_)) = &end else { return };
        // Behind its content: nothing else goes out before that is gone.
        let place = if out.has_room() { out.head() } else { &mut self.control };
        match end {
            Some(End::Trailers(trailers)) => {
                let encoder = &mut self.encoder;
                frame::put_block(place, id, END_STREAM, |block| encoder.trailers(&trailers, block));
            }
            Some(End::Reset(reason)) => {
                frame::put_reset(place, id, reason);
                self.remember(id);
                if let Some(stream) = self.get(id) {
                    stream.end(Http2Error::Reset(reason));
                }
            }
            _ => {}
        }
    }

    /// Gives a stream its turn, if it has something to send.
    fn queue(&mut self, id: u32) {
        if let Some(place) = self.place(id) {
            self.all[place].queue(&mut self.turns);
            self.wake_task();
        }
    }

    /// Forgets a stream that is over, and ends one that nobody serves any more.
    fn finish(&mut self, id: u32) {
        let Some(place) = self.place(id) else { return };
        let stream = &self.all[place];
        if stream.reader.is_gone() && stream.writer.is_gone() && stream.is_sent && !stream.is_received {
            // It was answered without the rest, which need not be sent any more (RFC 9113 §8.1).
            self.reset(id, Reason::NO_ERROR);
        }
        if self.all[place].is_over() {
            self.all.remove(place);
            if self.all.is_empty() {
                self.wake_task();
            }
        }
    }
}
