//! Push-based delivery: one SET in each request (RFC 8935).
//!
//! 1. A sender without the credential, where the settings have one, is told 401; what is no SET by its media type, 415.
//! 2. 202 without a body says that the SET is good and durable. One that was taken before is answered like any other.
//! 3. 400 with `err` and `description` says what is wrong with it (RFC 8935 §2.4). The sender is not to try again.
//! 4. 503 says that nothing is known about it: the store is out, or the keys of the transmitter are.

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    fault::{Code, Refused, SetFault},
    intake::Shared,
    keys::MAX_LENGTH,
};
use crate::{
    event::receiver::{Answer, Receiver, Rejection, answer, is_authorized, unauthorized},
    gate::problem,
};

const MEDIA_TYPE: &[u8] = b"application/secevent+jwt";

/// Receives what is pushed.
#[derive(Debug)]
pub(super) struct PushReceiver {
    pub(super) intake: Shared,
    /// The whole value of `Authorization` that the transmitter sends.
    pub(super) authorization: Option<SecretString>,
}

#[async_trait]
impl Receiver for PushReceiver {
    fn admit(&self, head: &Parts) -> Result<(), Box<Answer>> {
        let expected = self.authorization.as_ref().map(|expected| expected.expose_secret().as_bytes());
        if expected.is_some_and(|expected| !is_authorized(head, expected)) {
            return Err(unauthorized());
        }
        if is_set(head) { Ok(()) } else { Err(Box::new(unsupported())) }
    }

    async fn receive(&self, _: Parts, body: Bytes) -> Answer {
        if body.len() > MAX_LENGTH {
            return self.reject(Rejection::TooLarge);
        }
        let Ok(text) = str::from_utf8(&body) else {
            return self.refuse(SetFault::new(Code::InvalidRequest, "not a JWS in compact form"));
        };
        let taken = match self.intake.read(text.trim_ascii()).await {
            Ok(batch) => self.intake.take(&batch).await.map_err(|_| Rejection::NotStored),
            Err(Refused::Fault(fault)) => return self.refuse(fault),
            Err(Refused::NotReady) => return not_ready(),
            Err(Refused::Store(error)) => {
                let context = &self.intake.context;
                context.origin.health.failed(context.pipeline.now(), &error);
                Err(Rejection::NotStored)
            }
        };
        match taken {
            Ok(()) => answer(StatusCode::ACCEPTED),
            Err(rejection) => self.reject(rejection),
        }
    }
}

impl PushReceiver {
    fn refuse(&self, fault: SetFault) -> Answer {
        self.intake.refused(&fault);
        let mut response = Response::new(Bytes::from(fault.json().to_string()).into());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        fields.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static("en"));
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// By its media type, whatever its parameters.
fn is_set(head: &Parts) -> bool {
    let mut types = head.headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(media_type), None) = (types.next(), types.next()) else { return false };
    let essence = media_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(MEDIA_TYPE)
}

fn unsupported() -> Answer {
    let detail = "The body must be application/secevent+jwt.";
    let mut response = problem::response(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", detail);
    response.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/secevent+jwt"));
    response
}

fn not_ready() -> Answer {
    let detail = "The transmitter's keys are not known yet; send it again.";
    let mut response = problem::response(StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable", detail);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    response
}
