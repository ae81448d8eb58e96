//! WebSockets: the handshake with the upstream, and the tunnel that begins with its answer.
//!
//! A handshake is an upgrade over HTTP/1.1 (RFC 6455 §4) and an extended `CONNECT` over HTTP/2 (RFC 8441 §5), on either side of the gate.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use h2::ext::Protocol as Spoken;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use tokio::time::{Instant, timeout};
use tokio_util::either::Either;

use super::{
    Body, Protocol,
    body::{Limits, RequestBody},
    endpoint::{Connections, InFlight},
    error::UpstreamError,
    fields::{self, Arrival},
    http1::Answer,
    http2,
    proxy::{Shared, Tries, Unserved, Way, interim_of, kind_of},
    transport::Stream,
    tunnel::{Handshake, Tunnel},
    waiting::Waiting,
};
use crate::{
    incoming::Incoming,
    limit::concurrency::Place,
    stream::{Kind, Tether, websocket},
};

/// What an upstream answered, by the protocol it speaks.
enum Answered {
    Http1(Box<Answer<Stream>>),
    Http2(Box<http2::Answer>),
}

/// What it comes to.
enum Outcome {
    /// A WebSocket: the header of the answer, the upstream's end, and what came over it already.
    Open(Response<()>, Either<Stream, http2::Duplex>, Bytes),
    /// Anything but yes, which is passed on as it is.
    Refused(Response<Body>),
}

/// The keys of a handshake (RFC 6455 §4.1). Over HTTP/2 there are none.
#[derive(Default)]
struct Keys {
    /// The client's, where the upstream gets none: the gate answers it.
    answered: Option<HeaderValue>,
    /// The gate's, where the client has none: the upstream answers it.
    asked: Option<String>,
}

impl Shared {
    /// Opens a WebSocket. Whatever the upstream answers but yes is passed on as it is.
    pub(super) async fn open_websocket(
        &self,
        mut request: Box<Request<Incoming>>,
        handshake: Handshake,
        mut tether: Tether,
        arrival: Arrival,
    ) -> Response<Body> {
        tether.set_kind(Kind::WebSocket);
        tether.open();
        let drain = arrival.downstream.drain.clone();
        let way = self.way(tether, Waiting { look: None, interim: interim_of(&request, &arrival) });
        let place = request.extensions_mut().remove::<Place>();
        let keys = self.keys(&handshake, request.headers_mut());
        let answered = {
            let shaking = pin!(self.shake_hands(request, &keys, &way, &arrival));
            way.tether.watch(shaking).await
        };
        let Way { mut tether, .. } = way;
        let (answered, in_flight) = match answered {
            Err(reason) | Ok(Err((UpstreamError::SessionOver(reason), _))) => return tether.refusal(reason),
            Ok(Ok(answered)) => answered,
            Ok(Err((error, endpoint))) => {
                error.log(self.endpoints.route(), endpoint.as_deref());
                return error.answer();
            }
        };
        self.judge(in_flight.endpoint(), answered.status());
        let endpoint = Arc::clone(in_flight.endpoint());
        let (outcome, in_flight) = match self.outcome(answered, in_flight, &handshake, &keys) {
            Ok(outcome) => outcome,
            Err(error) => {
                error.log(self.endpoints.route(), Some(&endpoint));
                return error.answer();
            }
        };
        let (mut response, upstream, leftover) = match outcome {
            Outcome::Open(response, upstream, leftover) => (response, upstream, leftover),
            Outcome::Refused(mut response) => {
                fields::strip_response(response.headers_mut());
                *response.version_mut() = Version::HTTP_11;
                tether.set_kind(kind_of(&response));
                response.body_mut().tie(tether);
                return response;
            }
        };
        accept(&mut response, &handshake, &keys);
        response.extensions_mut().insert(handshake.hold.clone());
        response.extensions_mut().insert(Arc::clone(&handshake.traffic));
        let (grace, over) = (tether.grace(), drain.over());
        let Handshake { switching, hold, traffic, .. } = handshake;
        let tunnel = Tunnel { tether, traffic, idle_timeout: self.settings().tunnel_idle_timeout, over, grace };
        drain.spawn(async move {
            // It counts as load of its endpoint and of its route for as long as it lasts.
            let _held = (in_flight, place);
            tunnel.run(switching, hold, upstream, leftover).await;
        });
        response.map(|()| Bytes::new().into())
    }

    /// Takes or makes the keys of a handshake. Fields that the upstream must not get are gone then.
    fn keys(&self, handshake: &Handshake, fields: &mut HeaderMap) -> Keys {
        match (handshake.is_extended_connect, self.settings().protocol) {
            (false, Protocol::Http1) => Keys::default(),
            (false, Protocol::Http2) => Keys { answered: fields.remove(header::SEC_WEBSOCKET_KEY), ..Keys::default() },
            (true, Protocol::Http1) => Keys { asked: Some(websocket::key()), ..Keys::default() },
            (true, Protocol::Http2) => {
                fields.remove(header::SEC_WEBSOCKET_KEY);
                Keys::default()
            }
        }
    }

    /// Asks the upstream for a WebSocket.
    async fn shake_hands(
        &self,
        request: Box<Request<Incoming>>,
        keys: &Keys,
        way: &Way,
        arrival: &Arrival,
    ) -> Result<(Answered, InFlight), Unserved> {
        let mut tries = Tries::since(Instant::now());
        let mut in_flight = self.pick(way, &mut tries).await?;
        let mut request = self.outbound(request, arrival, None);
        request.body = RequestBody::default();
        let head = &mut request.head;
        match self.settings().protocol {
            Protocol::Http1 => {
                let fields = head.headers_mut();
                fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                if let Some(key) = keys.asked.as_ref().and_then(|key| HeaderValue::try_from(key).ok()) {
                    fields.insert(header::SEC_WEBSOCKET_KEY, key);
                }
            }
            Protocol::Http2 => {
                *head.method_mut() = Method::CONNECT;
                head.extensions_mut().insert(Spoken::from_static("websocket"));
            }
        }
        loop {
            self.address(&mut request, in_flight.endpoint());
            let answered = match &in_flight.endpoint().connections {
                Connections::Http1(pool) => self
                    .send_http1(pool, request, way, &mut tries)
                    .await
                    .map(|answer| Answered::Http1(Box::new(answer))),
                Connections::Http2(pool) => self
                    .send_http2(pool, request, way, &mut tries)
                    .await
                    .map(|answer| Answered::Http2(Box::new(answer))),
            };
            let failed = match answered {
                Ok(answered) => return Ok((answered, in_flight)),
                Err(failed) => failed,
            };
            (request, in_flight) = self.elsewhere(failed, in_flight, &mut tries)?;
        }
    }

    /// Whether an upstream can be asked to `CONNECT` at all. What it says of that comes first of all it says.
    pub(super) async fn may_connect(&self, connection: &mut http2::Connection) -> Result<(), UpstreamError> {
        let connects = timeout(self.settings().response_timeout, connection.connects()).await;
        let connects = connects.map_err(|_| UpstreamError::ResponseTimeout)?;
        // One that has ended in the meantime is none to judge by; the request will find out.
        if connects || !connection.is_open() { Ok(()) } else { Err(UpstreamError::NoWebSockets) }
    }

    /// What an answer comes to, and what still counts as a request under way.
    fn outcome(
        &self,
        answered: Answered,
        in_flight: InFlight,
        handshake: &Handshake,
        keys: &Keys,
    ) -> Result<(Outcome, Option<InFlight>), UpstreamError> {
        let limits = Limits { idle: self.settings().body_idle_timeout, deadline: None };
        match answered {
            Answered::Http1(answer) => match *answer {
                // Over HTTP/2, any success would be taken for yes.
                Answer::Response(response) if handshake.is_extended_connect && response.status().is_success() => {
                    Err(UpstreamError::NotSwitched)
                }
                Answer::Response(response) => Ok((
                    Outcome::Refused(response.map(|body| Body::http1(body, in_flight, limits, Instant::now()))),
                    None,
                )),
                Answer::Switched(response, _) if !is_accepted(response.headers(), keys) => Err(UpstreamError::Switched),
                Answer::Switched(response, upgraded) => {
                    Ok((Outcome::Open(response, Either::Left(upgraded.stream), upgraded.leftover), Some(in_flight)))
                }
            },
            Answered::Http2(answer) => match *answer {
                http2::Answer::Connected(response, upgraded) => {
                    Ok((Outcome::Open(response, Either::Right(upgraded), Bytes::new()), Some(in_flight)))
                }
                http2::Answer::Response(response) if response.status().is_success() => Err(UpstreamError::NotSwitched),
                http2::Answer::Response(response) => {
                    Ok((Outcome::Refused(response.map(|body| Body::http2(body, in_flight, limits))), None))
                }
            },
        }
    }
}

impl Answered {
    fn status(&self) -> StatusCode {
        match self {
            Self::Http1(answer) => match &**answer {
                Answer::Response(response) => response.status(),
                Answer::Switched(response, _) => response.status(),
            },
            Self::Http2(answer) => match &**answer {
                http2::Answer::Response(response) => response.status(),
                http2::Answer::Connected(response, _) => response.status(),
            },
        }
    }
}

/// Whether `101` is what was asked for. A key of the client is the client's to check.
fn is_accepted(fields: &HeaderMap, keys: &Keys) -> bool {
    let is_websocket = fields.get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let accept = fields.get(header::SEC_WEBSOCKET_ACCEPT);
    is_websocket
        && keys
            .asked
            .as_ref()
            .is_none_or(|key| accept.is_some_and(|accept| *accept == websocket::accept(key.as_bytes())))
}

/// Makes the upstream's yes one that the client understands.
fn accept(response: &mut Response<()>, handshake: &Handshake, keys: &Keys) {
    let fields = response.headers_mut();
    fields::strip_response(fields);
    // Neither kind of yes has content (RFC 9110 §§9.3.6, 15.2.2).
    fields.remove(header::CONTENT_LENGTH);
    if handshake.is_extended_connect || keys.answered.is_some() {
        fields.remove(header::SEC_WEBSOCKET_ACCEPT);
    }
    if !handshake.is_extended_connect {
        fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let accept = keys.answered.as_ref().map(|key| websocket::accept(key.as_bytes()));
        if let Some(accept) = accept.and_then(|accept| HeaderValue::try_from(accept).ok()) {
            fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
    }
    *response.status_mut() =
        if handshake.is_extended_connect { StatusCode::OK } else { StatusCode::SWITCHING_PROTOCOLS };
    *response.version_mut() = Version::HTTP_11;
}
