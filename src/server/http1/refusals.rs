//! What is refused before it is a request.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};

use super::head::Fault;
use crate::{gate::problem, server::access, telemetry::metrics::ServerMetrics};

/// Where it is told what was refused.
#[derive(Clone, Debug)]
pub(in crate::server) struct Refusals {
    pub(in crate::server) metrics: Arc<ServerMetrics>,
    /// Whether there is an access log.
    pub(in crate::server) is_logged: bool,
    pub(in crate::server) peer: HeaderValue,
}

impl Refusals {
    /// The answer to a header that is refused. It is counted, and logged.
    pub(super) fn answer<B: From<Bytes>>(&self, fault: Fault) -> Response<B> {
        let (status, code, detail) = match fault {
            Fault::Malformed => {
                (StatusCode::BAD_REQUEST, "malformed_request", "This is not HTTP, or can be read in more than one way.")
            }
            Fault::TooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "header_too_large",
                "The header of the request is too large.",
            ),
            Fault::TargetTooLong => {
                (StatusCode::URI_TOO_LONG, "target_too_long", "The target of the request is too long.")
            }
        };
        tracing::debug!(code, "request refused");
        self.metrics.count_malformed(code);
        if self.is_logged {
            access::refused(&self.peer, status.as_u16(), code);
        }
        problem::response(status, code, detail)
    }
}
