//! The access log: one line per request, at a target of its own.

use std::{sync::Arc, time::Instant};

use http::{Method, Request, Response, Uri};

use crate::{telemetry::log, upstream::fields::Downstream, verdict::Reason};

/// A request that will be logged: when it is answered, or when its client has gone before that.
#[derive(Debug)]
pub(super) struct Entry {
    method: Method,
    uri: Uri,
    downstream: Arc<Downstream>,
    begun: Instant,
    answer: Option<Answer>,
}

#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    route: Option<Arc<str>>,
    /// Why the request was refused.
    reason: Option<Reason>,
}

impl Entry {
    pub(super) fn new<B>(request: &Request<B>, downstream: &Arc<Downstream>, begun: Instant) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            downstream: Arc::clone(downstream),
            begun,
            answer: None,
        }
    }

    /// Logs the answer.
    pub(super) fn answered<B>(mut self, response: &Response<B>, route: Option<Arc<str>>) {
        let reason = response.extensions().get::<Reason>().copied();
        self.answer = Some(Answer { status: response.status().as_u16(), route, reason });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let answer = self.answer.as_ref();
        // The path as it was sent; a query may hold secrets.
        let broken_off = answer.is_none().then_some(true);
        tracing::info!(
            target: log::ACCESS_TARGET,
            {
                http.request.method = self.method.as_str(),
                url.path = self.uri.path(),
                http.response.status_code = answer.map(|answer| answer.status),
                route.name = answer.and_then(|answer| answer.route.as_deref()),
                verdict = answer.and_then(|answer| answer.reason).map(Reason::code),
                took_ms = self.begun.elapsed().as_secs_f64() * 1000.0,
                network.peer.address = self.downstream.peer.to_str().unwrap_or_default(),
                broken_off,
            },
            "request"
        );
    }
}
