//! A message on its way out: its header and its content, as far as the other side takes them.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use tokio::io::AsyncWrite;

use super::{content::Framing, encode};

/// The largest part of content that is copied to go out with what comes before it, in bytes.
pub(crate) const SMALL: usize = 2 * 1024;

/// How much is put together of small parts before it goes out, in bytes.
const ENOUGH: usize = 16 * 1024;

/// The largest buffer that is kept for the next message, in bytes.
const LARGEST_KEPT: usize = 16 * 1024;

thread_local! {
    static WRITE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer for a message of this thread: the one of a message before, if that is gone.
pub(crate) fn spare() -> Vec<u8> {
    WRITE.take()
}

/// Content is longer or shorter than its header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("content is not as long as it was said to be")]
pub(crate) struct WrongLength;

/// A message that is being sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// How its content is framed, and how much of it is still to come.
    pub(crate) framing: Framing,
    pub(crate) out: Out,
}

/// One without content.
impl Default for Outgoing {
    fn default() -> Self {
        Self::new(Framing::Empty)
    }
}

impl Outgoing {
    /// A message with this framing, of which nothing is there yet.
    pub(crate) fn new(framing: Framing) -> Self {
        Self { framing, out: Out::default() }
    }

    /// Puts a part of the content behind what goes out. To be called when there is [room](Out::has_room).
    ///
    /// # Errors
    /// It is too long.
    pub(crate) fn data(&mut self, data: Bytes) -> Result<(), WrongLength> {
        match &mut self.framing {
            Framing::Chunked if data.is_empty() => return Ok(()),
            Framing::Chunked => {
                encode::chunk_size(self.out.head(), data.len());
                self.out.tail = b"\r\n";
            }
            Framing::Length(left) => *left = left.checked_sub(data.len() as u64).ok_or(WrongLength)?,
            Framing::Empty => return if data.is_empty() { Ok(()) } else { Err(WrongLength) },
            Framing::Close => {}
        }
        if data.len() <= SMALL {
            let tail = mem::take(&mut self.out.tail);
            let head = self.out.head();
            head.extend_from_slice(&data);
            head.extend_from_slice(tail);
        } else {
            self.out.data = data;
        }
        Ok(())
    }

    /// Ends the content.
    ///
    /// # Errors
    /// It is too short.
    pub(crate) fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), WrongLength> {
        match (self.framing, trailers) {
            (Framing::Length(1..), _) => Err(WrongLength),
            // Only chunks can be followed by trailers.
            (Framing::Length(0) | Framing::Empty | Framing::Close, _) => Ok(()),
            (Framing::Chunked, None) if !self.out.data.is_empty() => {
                self.out.tail = b"\r\n0\r\n\r\n";
                Ok(())
            }
            (Framing::Chunked, trailers) => {
                encode::trailers(self.out.head(), trailers.unwrap_or(&HeaderMap::new()));
                Ok(())
            }
        }
    }
}

/// Bytes on their way out: one after the other.
#[derive(Default, Debug)]
pub(crate) struct Out {
    head: Vec<u8>,
    /// How much of `head` is gone.
    written: usize,
    data: Bytes,
    tail: &'static [u8],
}

impl Out {
    /// Where to put what goes out first.
    pub(crate) fn head(&mut self) -> &mut Vec<u8> {
        if self.head.capacity() == 0 {
            self.head = spare();
        }
        &mut self.head
    }

    /// Has this go out first. To be called when there is nothing.
    pub(crate) fn begin_with(&mut self, head: Vec<u8>) {
        debug_assert!(self.is_empty(), "it would be lost");
        self.head = head;
    }

    /// Has this go out behind what there is. To be called when there is [room](Self::has_room).
    pub(crate) fn put_data(&mut self, data: Bytes) {
        debug_assert!(self.has_room(), "it would be lost");
        self.data = data;
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.written == self.head.len() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Whether something can be put behind what there is, and should be before it goes out.
    pub(crate) const fn has_room(&self) -> bool {
        self.data.is_empty() && self.tail.is_empty() && self.head.len() < ENOUGH
    }

    /// Writes all of it; how much that was is added to `sent`. Whether there was anything.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin>(
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

    /// The buffer serves the next message of this thread, unless it has grown too large for that.
    fn give_back(&mut self) {
        self.written = 0;
        let mut head = mem::take(&mut self.head);
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
