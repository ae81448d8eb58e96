//! Reading, into blocks that all connections of a thread share.

use std::{
    cell::Cell,
    io, mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use super::content::Sender;
use crate::busy_poll;

/// What connections of a thread read into, in bytes. It is cut into what each read brought, and begun anew when all of that is
/// gone; what is still held then keeps the block, and another takes its place.
pub(crate) const BLOCK: usize = 64 * 1024;

/// The least room for a read, in bytes.
const LEAST: usize = 17 * 1024;

thread_local! {
    /// One for each side: a request is still there when its response is read, and nearly always gone when the next one is. With one block
    /// for both, there would never be nothing of it.
    static CLIENTS: Cell<BytesMut> = Cell::new(BytesMut::new());
    static UPSTREAMS: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// Reads some more of what `sender` sends behind `buffer`, `most` bytes of it; 0: the other side has closed its half.
pub(crate) fn poll_fill<S: AsyncRead + Unpin>(
    sender: Sender,
    stream: &mut S,
    buffer: &mut Bytes,
    context: &mut Context<'_>,
    most: usize,
) -> Poll<io::Result<usize>> {
    let shared = match sender {
        Sender::Client => &CLIENTS,
        Sender::Upstream => &UPSTREAMS,
    };
    let mut block = shared.take();
    if block.capacity() < LEAST {
        block.reserve(BLOCK);
    }
    let result = poll_read_buf(Pin::new(stream), context, &mut (&mut block).limit(most));
    if let Poll::Ready(Ok(1..)) = &result {
        append(buffer, block.split().freeze());
        busy_poll::came();
    }
    shared.set(block);
    result
}

/// Puts `more` behind `buffer`.
pub(crate) fn append(buffer: &mut Bytes, more: Bytes) {
    if buffer.is_empty() {
        *buffer = more;
    } else {
        // Copied the first time only: after that the buffer is its own.
        let mut joined = BytesMut::from(mem::take(buffer));
        joined.extend_from_slice(&more);
        *buffer = joined.freeze();
    }
}
