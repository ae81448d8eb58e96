//! A connection by itself: what comes of bytes, and what goes out for them. For fuzzing and benches.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::{Accepted, Connection};

/// What came of it.
#[doc(hidden)]
#[derive(Default, Debug)]
pub struct Trial {
    /// The requests that were there in full, by their ends: targets, contents and trailers.
    pub requests: Vec<(String, Vec<u8>, usize)>,
    /// What the gate has sent. Every request is answered by its content.
    pub sent: Vec<u8>,
    /// How the connection ended, if it did.
    pub end: Option<String>,
}

/// The client's side: pieces that come one by one.
#[derive(Default, Debug)]
struct Wire {
    coming: VecDeque<u8>,
    sent: Vec<u8>,
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.coming.is_empty() {
            return Poll::Pending;
        }
        let length = self.coming.len().min(buffer.remaining());
        self.coming.drain(..length).for_each(|byte| buffer.put_slice(&[byte]));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.sent.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Has a connection read these pieces, and its requests answered.
#[doc(hidden)]
pub fn read_in_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, max_header_size: usize) -> Trial {
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    let context = &mut Context::from_waker(&waker);
    let mut connection = Connection::new(Box::new(Wire::default()), Bytes::new(), max_header_size);
    let (mut under_way, mut trial) = (Vec::new(), Trial::default());
    'pieces: for piece in pieces {
        connection.stream_mut().coming.extend(piece);
        loop {
            woken.0.store(false, Ordering::Relaxed);
            let polled = connection.poll(context, |accepted| {
                let target = accepted.request.uri().to_string();
                under_way.push((target, accepted, Vec::new()));
            });
            if let Poll::Ready(end) = polled {
                trial.end = Some(end.map_or_else(|error| error.to_string(), |()| "in order".to_owned()));
                break 'pieces;
            }
            under_way.retain_mut(|(target, accepted, content)| match answer(accepted, content, context) {
                Poll::Ready(Some(trailers)) => {
                    trial.requests.push((std::mem::take(target), std::mem::take(content), trailers));
                    false
                }
                Poll::Ready(None) => false,
                Poll::Pending => true,
            });
            if !woken.0.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    trial.sent = std::mem::take(&mut connection.stream_mut().sent);
    trial
}

/// Reads a request to its end and answers it. How many trailers it had; `None`: it broke off.
fn answer(accepted: &Accepted, received: &mut Vec<u8>, context: &Context<'_>) -> Poll<Option<usize>> {
    let mut trailers = 0;
    if let Some(receiver) = &accepted.receiver {
        loop {
            match receiver.poll_data(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => break,
                Poll::Ready(Some(Err(_))) => return Poll::Ready(None),
                Poll::Ready(Some(Ok(data))) => {
                    receiver.use_up(data.len());
                    received.extend_from_slice(&data);
                }
            }
        }
        trailers = receiver.trailers().map_or(0, |trailers| trailers.len());
    }
    let responder = &accepted.responder;
    let answered = responder
        .respond(StatusCode::OK, &HeaderMap::new(), false)
        .and_then(|()| responder.send(Bytes::copy_from_slice(received), true));
    Poll::Ready(answered.is_ok().then_some(trailers))
}
