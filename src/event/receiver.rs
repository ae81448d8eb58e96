//! Senders that call the gate: `POST /.portcullis/events/<name>`.
//!
//! 1. Who may not send is told so before the body is read.
//! 2. Bodies are bounded, also once they are unpacked (`Content-Encoding: gzip`), in time, and in how many are read at once.
//! 3. While the store does not take what was sent, the answer is 503 with `Retry-After`: senders take a 4xx as final.

use std::{collections::HashMap, fmt, io::Read as _, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::{sync::Semaphore, time::timeout};

use super::pipeline::Origin;
use crate::incoming::Incoming;
use crate::{clock::Clock, gate::problem, store::StoreError, upstream::Body};

/// How many bytes of bodies each source may be sent at once; further senders are asked to come back. Each has its own, so that a source
/// to which anyone can send does not hold up the others.
const AT_ONCE: usize = 128 << 20;

/// In how many deliveries at least, and at most.
const PLACES: (usize, usize) = (32, 1024);

/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a sender is answered.
pub type Answer = Response<Body>;

/// What keeps a request from being received at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rejection {
    /// It is no `POST`.
    #[error("it is no POST")]
    Method,
    /// The body is longer than the settings allow.
    #[error("the body is longer than `max_body`")]
    TooLarge,
    /// The body is in an encoding that is not understood, or not as it says.
    #[error("the body is in an encoding that is not understood")]
    Encoding,
    /// The body did not come in time, or broke off.
    #[error("the body did not come in time, or broke off")]
    Incomplete,
    /// Too much is under way already.
    #[error("too many deliveries are under way")]
    Busy,
    /// The store did not take it.
    #[error("the store did not take it")]
    NotStored,
}

/// The sender's credential.
#[derive(Debug, thiserror::Error)]
#[error("the sender's credential is missing or wrong")]
struct WrongCredential;

/// One source that is told by calls.
#[async_trait]
pub trait Receiver: Send + Sync + fmt::Debug {
    /// Judges a request by its header, before the body is read.
    ///
    /// # Errors
    /// What the sender is told instead.
    fn admit(&self, head: &Parts) -> Result<(), Box<Answer>>;

    /// Takes a delivery. The answer says whether it is durable.
    async fn receive(&self, head: Parts, body: Bytes) -> Answer;

    /// What the sender is told when a request cannot be received. By default a problem body.
    fn reject(&self, rejection: Rejection) -> Answer {
        rejection.answer()
    }
}

/// All sources that are told by calls.
#[derive(Debug)]
pub struct Receivers {
    clock: Clock,
    by_name: HashMap<Arc<str>, Entry>,
}

#[derive(Debug)]
struct Entry {
    receiver: Arc<dyn Receiver>,
    origin: Arc<Origin>,
    max_body: usize,
    places: Semaphore,
}

impl Receivers {
    /// None yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, by_name: HashMap::new() }
    }

    /// Adds one, whose bodies may be `max_body` bytes long.
    pub fn add(&mut self, receiver: Arc<dyn Receiver>, origin: Arc<Origin>, max_body: usize) {
        let (least, most) = PLACES;
        let places = Semaphore::new((AT_ONCE / max_body.max(1)).clamp(least, most));
        self.by_name.insert(Arc::clone(&origin.name), Entry { receiver, origin, max_body, places });
    }

    /// Answers a request for the source of this name.
    pub async fn serve(&self, name: &str, request: Request<Incoming>) -> Answer {
        let Some(Entry { receiver, origin, max_body, places }) = self.by_name.get(name) else {
            return problem::response(StatusCode::NOT_FOUND, "no_endpoint", "There is no such source.");
        };
        let (head, body) = request.into_parts();
        if head.method != Method::POST {
            return receiver.reject(Rejection::Method);
        }
        if let Err(answer) = receiver.admit(&head) {
            origin.health.turned_away(self.clock.now(), &WrongCredential);
            return *answer;
        }
        let Ok(_place) = places.try_acquire() else { return receiver.reject(Rejection::Busy) };
        match read(&head, body, *max_body).await {
            Ok(body) => receiver.receive(head, body).await,
            Err(rejection) => {
                origin.health.turned_away(self.clock.now(), &rejection);
                receiver.reject(rejection)
            }
        }
    }
}

async fn read(head: &Parts, body: Incoming, max: usize) -> Result<Bytes, Rejection> {
    let declared =
        head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > max as u64) {
        return Err(Rejection::TooLarge);
    }
    let encoding = head.headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes);
    let packed = match encoding {
        None => false,
        Some(encoding) if encoding.eq_ignore_ascii_case(b"identity") => false,
        Some(encoding) if encoding.eq_ignore_ascii_case(b"gzip") || encoding.eq_ignore_ascii_case(b"x-gzip") => true,
        Some(_) => return Err(Rejection::Encoding),
    };
    let collected = timeout(PATIENCE, Limited::new(body, max).collect()).await.map_err(|_| Rejection::Incomplete)?;
    let body = collected
        .map_err(|error| if error.is::<LengthLimitError>() { Rejection::TooLarge } else { Rejection::Incomplete })?
        .to_bytes();
    if packed { unpack(&body, max) } else { Ok(body) }
}

/// At most `max` bytes, whatever a few kilobytes claim to hold.
fn unpack(packed: &[u8], max: usize) -> Result<Bytes, Rejection> {
    let mut unpacked = Vec::new();
    let mut reader = MultiGzDecoder::new(packed).take(max as u64 + 1);
    reader.read_to_end(&mut unpacked).map_err(|_| Rejection::Encoding)?;
    if unpacked.len() > max { Err(Rejection::TooLarge) } else { Ok(unpacked.into()) }
}

impl Rejection {
    /// The answer as a problem body.
    #[must_use]
    pub fn answer(self) -> Answer {
        let (status, code, detail) = match self {
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method", "Events are sent by POST."),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The body is longer than is taken here."),
            Self::Encoding => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "encoding",
                "The body is not in an encoding that is taken here: gzip, or none.",
            ),
            Self::Incomplete => (StatusCode::REQUEST_TIMEOUT, "incomplete", "The body did not come in time."),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many deliveries are under way; try again."),
            Self::NotStored => {
                (StatusCode::SERVICE_UNAVAILABLE, "not_stored", "The events could not be stored; send them again.")
            }
        };
        let mut response = problem::response(status, code, detail);
        let fields = response.headers_mut();
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match status {
            StatusCode::METHOD_NOT_ALLOWED => drop(fields.insert(header::ALLOW, HeaderValue::from_static("POST"))),
            StatusCode::SERVICE_UNAVAILABLE => drop(fields.insert(header::RETRY_AFTER, HeaderValue::from_static("1"))),
            _ => {}
        }
        response
    }
}

impl From<StoreError> for Rejection {
    fn from(_: StoreError) -> Self {
        Self::NotStored
    }
}

/// A bare answer that nobody may keep.
#[must_use]
pub fn answer(status: StatusCode) -> Answer {
    let mut response = Response::new(Bytes::new().into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether the request carries exactly this `Authorization`. Takes as long for any value of the right length.
#[must_use]
pub fn is_authorized(head: &Parts, expected: &[u8]) -> bool {
    let mut values = head.headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => aws_lc_rs::constant_time::verify_slices_are_equal(value.as_bytes(), expected).is_ok(),
        _ => false,
    }
}

/// What a sender without the right credential is told.
#[must_use]
pub fn unauthorized() -> Box<Answer> {
    let detail = "The sender's credential is missing or wrong.";
    let mut response = problem::response(StatusCode::UNAUTHORIZED, "unauthorized", detail);
    let challenge = HeaderValue::from_static("Bearer realm=\"portcullis events\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    Box::new(response)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_small_body_cannot_become_a_large_one() {
        assert_eq!(unpack(&packed(&[b' '; 1000]), 1000).unwrap().len(), 1000);
        let bomb = packed(&vec![0; 10_000_000]);
        assert!(bomb.len() < 20_000);
        assert_eq!(unpack(&bomb, 1_000_000), Err(Rejection::TooLarge));
        let good = packed(b"{}");
        assert_eq!(unpack(&good[..good.len() - 4], 1000), Err(Rejection::Encoding), "broken off");
        assert_eq!(unpack(b"{}", 1000), Err(Rejection::Encoding), "not packed at all");
    }
}
