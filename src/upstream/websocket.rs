//! WebSockets: the handshake with the upstream, and the tunnel that begins with its answer.

use std::pin::pin;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;

use super::{
    Body, Protocol,
    body::{Limits, RequestBody},
    endpoint::{Connections, InFlight},
    error::UpstreamError,
    fields::{self, Arrival},
    http1::{Answer, Waiting},
    proxy::{Shared, Tries, Unserved, interim_of, kind_of},
    transport::Stream,
    tunnel::{Handshake, Tunnel},
};
use crate::{
    gate::problem,
    limit::concurrency::Place,
    stream::{Kind, Tether, websocket},
};

impl Shared {
    /// Opens a WebSocket. Whatever the upstream answers but yes is passed on as it is.
    pub(super) async fn open_websocket(
        &self,
        mut request: Request<Incoming>,
        handshake: Handshake,
        mut tether: Tether,
    ) -> Response<Body> {
        if self.settings().protocol != Protocol::Http1 {
            return no_websocket();
        }
        tether.set_kind(Kind::WebSocket);
        tether.open();
        let Some(drain) = request.extensions().get::<Arrival>().map(|arrival| arrival.downstream.drain.clone()) else {
            return no_websocket();
        };
        let waiting = Waiting { look: None, interim: interim_of(&request) };
        let place = request.extensions_mut().remove::<Place>();
        let key = handshake.is_extended_connect.then(websocket::key);
        let answered = {
            let shaking = pin!(self.shake_hands(request, key.as_deref(), &waiting, &tether));
            tether.watch(shaking).await
        };
        let (answer, in_flight) = match answered {
            Err(reason) | Ok(Err((UpstreamError::SessionOver(reason), _))) => return tether.refusal(reason),
            Ok(Ok(answered)) => answered,
            Ok(Err((error, endpoint))) => {
                error.log(self.endpoints.route(), endpoint.as_deref());
                return error.answer();
            }
        };
        let no = |error: UpstreamError| {
            error.log(self.endpoints.route(), Some(in_flight.endpoint()));
            error.answer()
        };
        let status = match &answer {
            Answer::Response(response) => response.status(),
            Answer::Switched(response, _) => response.status(),
        };
        self.judge(in_flight.endpoint(), status);
        let (mut response, upgraded) = match answer {
            // Over HTTP/2, any success would be taken for yes.
            Answer::Response(response) if handshake.is_extended_connect && response.status().is_success() => {
                return no(UpstreamError::NotSwitched);
            }
            Answer::Response(response) => {
                let limits = Limits { idle: self.settings().body_idle_timeout, deadline: None };
                let mut response = response.map(|body| Body::http1(body, in_flight, limits));
                fields::strip_response(response.headers_mut());
                tether.set_kind(kind_of(&response));
                response.body_mut().tie(tether);
                return response;
            }
            Answer::Switched(response, upgraded) => (response, upgraded),
        };
        let is_websocket =
            response.headers().get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        let is_accepted =
            key.is_none_or(|key| accept.is_some_and(|accept| *accept == websocket::accept(key.as_bytes())));
        if !(is_websocket && is_accepted) {
            return no(UpstreamError::Switched);
        }
        fields::strip_response(response.headers_mut());
        if handshake.is_extended_connect {
            *response.status_mut() = StatusCode::OK;
            response.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
        } else {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        response.extensions_mut().insert(handshake.hold.clone());
        *response.version_mut() = Version::HTTP_11;
        let (grace, over) = (tether.grace(), drain.over());
        let tunnel = Tunnel { tether, idle_timeout: self.settings().tunnel_idle_timeout, over, grace };
        drain.spawn(async move {
            // It counts as load of its endpoint and of its route for as long as it lasts.
            let _held = (in_flight, place);
            tunnel.run(handshake.upgrade, handshake.hold, upgraded.stream, upgraded.leftover).await;
        });
        response.map(|()| Bytes::new().into())
    }

    /// Asks the upstream to switch to WebSocket. `key`: instead of the client's, who had none to give.
    async fn shake_hands(
        &self,
        request: Request<Incoming>,
        key: Option<&str>,
        waiting: &Waiting,
        tether: &Tether,
    ) -> Result<(Answer<Stream>, InFlight), Unserved> {
        let mut in_flight = self.pick(tether).await?;
        let mut request = self.outbound(request, None);
        *request.body_mut() = RequestBody::default();
        let fields = request.headers_mut();
        fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Some(key) = key.and_then(|key| HeaderValue::try_from(key).ok()) {
            fields.insert(header::SEC_WEBSOCKET_KEY, key);
        }
        let mut tries = Tries::default();
        loop {
            let Connections::Http1(pool) = &in_flight.endpoint().connections else {
                return Err((UpstreamError::NotSwitched, None));
            };
            self.address(&mut request, in_flight.endpoint());
            let failed = match self.send_http1(pool, request, waiting, tether, &mut tries).await {
                Ok(answer) => return Ok((answer, in_flight)),
                Err(failed) => failed,
            };
            (request, in_flight) = self.elsewhere(failed, in_flight, &mut tries)?;
        }
    }
}

/// WebSockets go to upstreams of HTTP/1.1.
fn no_websocket() -> Response<Body> {
    problem::response(StatusCode::NOT_IMPLEMENTED, "websocket", "This upstream takes no WebSockets.")
}
