//! Interim responses (RFC 9110 §15.2) on their way to a client of HTTP/1.1, such as `103 Early Hints` (RFC 8297).
//!
//! The library that serves connections knows of one answer to a request. So they wait here until whoever writes to the connection has
//! nothing else under way, and the answer waits until they are gone: they come after everything of the answer before, and before
//! everything of their own.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, BytesMut};
use http::{HeaderMap, StatusCode};
use tokio::io::AsyncWrite;

use super::fields;

/// How much may wait for a client that is slow to read, in bytes. What has no room is left out: nobody relies on a hint.
const ROOM: usize = 16 * 1024;

/// The interim responses of a connection. Clones share them.
#[derive(Clone, Default, Debug)]
pub struct Interim(Arc<Shared>);

#[derive(Default, Debug)]
struct Shared {
    /// Whether anything waits. Nearly always nothing does, and nobody looks any further.
    waits: AtomicBool,
    queue: Mutex<Queue>,
}

#[derive(Default, Debug)]
struct Queue {
    bytes: BytesMut,
    /// The answer that waits until all of it is gone.
    answer: Option<Waker>,
}

impl Interim {
    /// Takes one in, with the fields that may pass. To be called before the answer is there, by the task that serves the connection.
    pub fn push(&self, status: StatusCode, mut fields: HeaderMap) {
        fields::strip_interim(&mut fields);
        let head = encode(status, &fields);
        let mut queue = self.queue();
        if queue.bytes.len() + head.len() > ROOM {
            tracing::debug!(status = status.as_u16(), "interim response left out: those before it are not read");
            return;
        }
        queue.bytes.extend_from_slice(&head);
        self.0.waits.store(true, Ordering::Release);
    }

    /// Sends what waits. To be called when nothing else is on its way.
    ///
    /// # Errors
    /// Those of `stream`.
    pub fn poll_send<S: AsyncWrite + Unpin>(&self, stream: &mut S, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.waits() {
            return Poll::Ready(Ok(()));
        }
        let mut queue = self.queue();
        while queue.bytes.has_remaining() {
            match ready!(Pin::new(&mut *stream).poll_write(context, &queue.bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => queue.bytes.advance(written),
            }
        }
        queue.bytes = BytesMut::new();
        self.0.waits.store(false, Ordering::Release);
        if let Some(answer) = queue.answer.take() {
            answer.wake();
        }
        Poll::Ready(Ok(()))
    }

    /// Resolves when nothing waits any more.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn sent(&self) {
        if !self.waits() {
            return;
        }
        poll_fn(|context| {
            let mut queue = self.queue();
            if queue.bytes.is_empty() {
                return Poll::Ready(());
            }
            queue.answer = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn waits(&self) -> bool {
        self.0.waits.load(Ordering::Acquire)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(status: StatusCode, fields: &HeaderMap) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    for (name, value) in fields {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn hint(length: usize) -> HeaderMap {
        HeaderMap::from_iter([("link".parse().unwrap(), "x".repeat(length).parse().unwrap())])
    }

    #[test]
    fn what_waits_is_bounded() {
        let interim = Interim::default();
        for _ in 0..100 {
            interim.push(StatusCode::EARLY_HINTS, hint(1000));
        }
        interim.push(StatusCode::EARLY_HINTS, hint(ROOM));
        let waits = interim.queue().bytes.len();
        assert!(waits > ROOM / 2 && waits <= ROOM, "{waits}");
    }

    #[tokio::test]
    async fn the_answer_waits_until_all_of_them_are_gone() {
        let interim = Interim::default();
        // Nothing waits.
        interim.sent().await;
        interim.push(StatusCode::EARLY_HINTS, hint(100));
        interim.push(StatusCode::PROCESSING, HeaderMap::new());
        let mut context = Context::from_waker(Waker::noop());
        let mut answer = pin!(interim.sent());
        assert!(answer.as_mut().poll(&mut context).is_pending());
        let (mut near, mut far) = tokio::io::duplex(64);
        assert!(interim.poll_send(&mut near, &mut context).is_pending(), "it is not read");
        assert!(answer.as_mut().poll(&mut context).is_pending());
        let mut read = Vec::new();
        while interim.poll_send(&mut near, &mut context).is_pending() {
            far.read_buf(&mut read).await.unwrap();
        }
        assert!(answer.as_mut().poll(&mut context).is_ready());
        drop(near);
        far.read_to_end(&mut read).await.unwrap();
        let expected =
            format!("HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n", "x".repeat(100));
        assert_eq!(String::from_utf8(read).unwrap(), expected);
    }
}
