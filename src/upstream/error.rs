//! Why a request comes back without a response of its upstream.

use std::error::Error;

use http::{Response, StatusCode};

use super::{Body, body::BodyError, endpoint::Endpoint, transport::ConnectError};
use crate::{gate::problem, verdict::Reason};

/// Why there is no response from the upstream.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No response header in time.
    #[error("upstream did not answer in time")]
    ResponseTimeout,
    /// All of it took too long.
    #[error("the request took too long in all")]
    TotalTimeout,
    /// The client stopped sending its request.
    #[error("request body stood still for too long")]
    RequestTimeout,
    /// The client broke off, or its body broke HTTP.
    #[error("request body broke off")]
    RequestBody(#[source] BodyError),
    /// The upstream broke HTTP, or off.
    #[error("upstream broke off or does not speak HTTP")]
    Exchange(#[source] BodyError),
    /// The upstream answered 101, and nobody had asked for another protocol.
    #[error("upstream switched protocols unasked, or to another one")]
    Switched,
    /// It answered a request for another protocol as if it had been any request.
    #[error("upstream answered without switching protocols")]
    NotSwitched,
    /// It speaks HTTP/2, and takes no WebSockets over it.
    #[error("upstream does not announce extended CONNECT (RFC 8441), so it takes no WebSockets over HTTP/2")]
    NoWebSockets,
    /// The session ended before the request was sent.
    #[error("the session ended: {}", .0.code())]
    SessionOver(Reason),
}

impl From<Reason> for UpstreamError {
    fn from(reason: Reason) -> Self {
        Self::SessionOver(reason)
    }
}

impl UpstreamError {
    pub(super) const fn is_the_clients(&self) -> bool {
        matches!(self, Self::RequestTimeout | Self::RequestBody(_) | Self::SessionOver(_))
    }

    /// Whether it tells nothing of how well the endpoint is.
    pub(super) const fn is_no_failure(&self) -> bool {
        self.is_the_clients() || matches!(self, Self::NoWebSockets)
    }

    pub(super) fn log(&self, route: &str, endpoint: Option<&Endpoint>) {
        let error = self as &dyn Error;
        let endpoint = endpoint.map(tracing::field::display);
        if self.is_the_clients() {
            tracing::debug!(route, endpoint, error, "request could not be passed on");
        } else {
            tracing::warn!(route, endpoint, error, "no response from upstream");
        }
    }

    /// The response that tells the client. What went wrong where is for the log.
    pub(super) fn answer(&self) -> Response<Body> {
        match self {
            Self::Connect(ConnectError::TimedOut { .. }) => problem::response(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream_connect_timeout",
                "The upstream could not be connected to in time.",
            ),
            Self::ResponseTimeout => problem::response(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream_timeout",
                "The upstream did not answer in time.",
            ),
            Self::TotalTimeout => problem::response(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream_total_timeout",
                "The request took too long in all.",
            ),
            Self::Connect(_) | Self::Exchange(_) | Self::Switched | Self::NotSwitched => {
                problem::response(StatusCode::BAD_GATEWAY, "upstream_unavailable", "The upstream cannot be reached.")
            }
            Self::NoWebSockets => problem::response(
                StatusCode::BAD_GATEWAY,
                "upstream_websocket",
                "The upstream takes no WebSockets over HTTP/2.",
            ),
            Self::RequestTimeout => problem::response(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                "The request body stood still for too long.",
            ),
            Self::RequestBody(_) => {
                problem::response(StatusCode::BAD_REQUEST, "request_body", "The request body broke off.")
            }
            // The tether has a better one, which tells how to go on.
            Self::SessionOver(reason) => {
                problem::response(StatusCode::UNAUTHORIZED, reason.code(), "The session is over.")
            }
        }
    }
}
