//! Interim responses (RFC 9110 §15.2) on their way to a client of HTTP/1.1, such as `103 Early Hints` (RFC 8297).
//!
//! They wait here until whoever serves the connection has nothing else under way: they come after everything of the answer before, and
//! before everything of their own.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use http::{HeaderMap, StatusCode};

use super::fields;
use crate::http1::encode::field;

/// How much may wait for a client that is slow to read, in bytes. What has no room is left out: nobody relies on a hint.
const ROOM: usize = 16 * 1024;

/// The interim responses of a connection. Clones share them.
#[derive(Clone, Default, Debug)]
pub struct Interim(Arc<Shared>);

#[derive(Default, Debug)]
struct Shared {
    /// Whether anything waits. Nearly always nothing does, and nobody looks any further.
    waits: AtomicBool,
    queue: Mutex<Vec<u8>>,
}

impl Interim {
    /// Takes one in, with the fields that may pass. To be called before the answer is there, by the task that serves the connection.
    pub fn push(&self, status: StatusCode, mut fields: HeaderMap) {
        fields::strip_interim(&mut fields);
        let head = encode(status, &fields);
        let mut queue = self.queue();
        if queue.len() + head.len() > ROOM {
            tracing::debug!(status = status.as_u16(), "interim response left out: those before it are not read");
            return;
        }
        queue.extend_from_slice(&head);
        self.0.waits.store(true, Ordering::Release);
    }

    /// Takes out what waits. To be called when nothing else is on its way.
    #[must_use]
    pub fn take(&self) -> Option<Vec<u8>> {
        if !self.0.waits.load(Ordering::Acquire) {
            return None;
        }
        let mut queue = self.queue();
        self.0.waits.store(false, Ordering::Release);
        Some(std::mem::take(&mut *queue))
    }

    fn queue(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(status: StatusCode, fields: &HeaderMap) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    for (name, value) in fields {
        field(&mut head, name.as_str().as_bytes(), value.as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
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
        let waits = interim.queue().len();
        assert!(waits > ROOM / 2 && waits <= ROOM, "{waits}");
    }

    #[test]
    fn they_are_taken_once_and_in_their_order() {
        let interim = Interim::default();
        assert!(interim.take().is_none());
        interim.push(StatusCode::EARLY_HINTS, hint(3));
        interim.push(StatusCode::PROCESSING, HeaderMap::new());
        let expected = "HTTP/1.1 103 Early Hints\r\nlink: xxx\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";
        assert_eq!(String::from_utf8(interim.take().unwrap()).unwrap(), expected);
        assert!(interim.take().is_none());
        interim.push(StatusCode::PROCESSING, HeaderMap::new());
        assert!(interim.take().is_some());
    }
}
