//! Interim responses (RFC 9110 §15.2) on their way to a client, such as `103 Early Hints` (RFC 8297).
//!
//! They wait here until whoever serves the request has nothing else under way: they come after everything of the answer before, and before
//! everything of their own.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use http::{HeaderMap, Response, StatusCode};

use super::fields;

/// How much may wait for a client that is slow to read, in bytes. What has no room is left out: nobody relies on a hint.
const ROOM: usize = 16 * 1024;

/// The least that one takes up.
const LEAST: usize = 64;

/// Interim responses to a request, or to those of a connection that come one after the other. Clones share them.
#[derive(Clone, Default, Debug)]
pub struct Interim(Arc<Shared>);

#[derive(Default, Debug)]
struct Shared {
    /// Whether anything waits. Nearly always nothing does, and nobody looks any further.
    waits: AtomicBool,
    /// Whether what was taken out goes on to take up room.
    is_for_all: bool,
    queue: Mutex<Queue>,
}

#[derive(Default, Debug)]
struct Queue {
    responses: Vec<Response<()>>,
    size: usize,
}

impl Interim {
    /// For one request whose client may leave anything unread for as long as it likes: there is room for all of them together.
    #[must_use]
    pub fn of_one_request() -> Self {
        Self(Arc::new(Shared { is_for_all: true, ..Shared::default() }))
    }

    /// Takes one in, with the fields that may pass. To be called before the answer is there, by the task that serves the request.
    pub fn push(&self, status: StatusCode, mut fields: HeaderMap) {
        fields::strip_interim(&mut fields);
        let size = LEAST + fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        let mut response = Response::new(());
        (*response.status_mut(), *response.headers_mut()) = (status, fields);
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.size + size > ROOM {
            tracing::debug!(status = status.as_u16(), "interim response left out: those before it are not read");
            return;
        }
        queue.size += size;
        queue.responses.push(response);
        self.0.waits.store(true, Ordering::Release);
    }

    /// Takes out what waits, in its order. To be called when nothing else is on its way.
    #[must_use]
    pub fn take(&self) -> Vec<Response<()>> {
        if !self.0.waits.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.waits.store(false, Ordering::Release);
        if !self.0.is_for_all {
            queue.size = 0;
        }
        std::mem::take(&mut queue.responses)
    }
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
        for _ in 0..ROOM {
            interim.push(StatusCode::PROCESSING, HeaderMap::new());
        }
        let waiting = interim.take();
        let size: usize =
            waiting.iter().flat_map(|response| response.headers().values()).map(http::HeaderValue::len).sum();
        assert!(size > ROOM / 2 && size <= ROOM, "{size}");
        assert!(waiting.len() <= ROOM / LEAST, "{}", waiting.len());
    }

    #[test]
    fn of_one_request_all_of_them_are_bounded() {
        let (interim, mut taken) = (Interim::of_one_request(), 0);
        for _ in 0..ROOM {
            interim.push(StatusCode::PROCESSING, HeaderMap::new());
            taken += interim.take().len();
        }
        assert_eq!(taken, ROOM / LEAST);
    }

    #[test]
    fn they_are_taken_once_and_in_their_order() {
        let interim = Interim::default();
        assert!(interim.take().is_empty());
        interim.push(StatusCode::EARLY_HINTS, hint(3));
        interim.push(StatusCode::PROCESSING, HeaderMap::new());
        let taken = interim.take();
        assert_eq!(taken.iter().map(|response| response.status().as_u16()).collect::<Vec<_>>(), [103, 102]);
        assert_eq!(taken[0].headers()["link"], "xxx");
        assert!(interim.take().is_empty());
        interim.push(StatusCode::PROCESSING, HeaderMap::new());
        assert_eq!(interim.take().len(), 1);
    }
}
