//! From the verdict to the upstream: limits of those who were admitted, and what the access log wants to know of the way on.

use std::{sync::Arc, time::Instant};

use http::{Request, Response};
use http_body::Body as _;

use super::access::Notes;
use crate::{
    gate::{Admission, problem},
    incoming::Incoming,
    limit::{Excess, RouteLimits, concurrency::Place, intake::Intake},
    stream::{Kind, Tether},
    upstream::{Body, Upstream, fields::Arrival},
    verdict::Reason,
};

/// The way to an upstream.
#[derive(Debug)]
pub(super) struct Passage {
    upstream: Upstream,
    limits: Option<Arc<RouteLimits>>,
    /// Whether requests have [`Notes`].
    noted: bool,
}

impl Passage {
    pub(super) const fn new(upstream: Upstream, limits: Option<Arc<RouteLimits>>, noted: bool) -> Self {
        Self { upstream, limits, noted }
    }

    /// The upstream that it leads to.
    pub(super) const fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// The limits on the way.
    pub(super) const fn limits(&self) -> Option<&Arc<RouteLimits>> {
        self.limits.as_ref()
    }

    /// Resolves with the response to a request that was admitted so, if it was asked for a token. A response that takes a place among those
    /// in flight has it as an extension.
    pub(super) async fn pass(
        &self,
        request: Box<Request<Incoming>>,
        admission: Option<Admission>,
        arrival: Arrival,
    ) -> Response<Body> {
        if self.limits.is_none() && !self.noted {
            return self.upstream.send(request, admission, &arrival).await;
        }
        // Boxed: a connection has room for what serves its requests, and this is large.
        Box::pin(self.watch(request, admission, arrival)).await
    }

    async fn watch(
        &self,
        mut request: Box<Request<Incoming>>,
        admission: Option<Admission>,
        arrival: Arrival,
    ) -> Response<Body> {
        let notes = request.extensions().get::<Arc<Notes>>().cloned();
        let is_grpc_call = problem::is_grpc_call(request.headers());
        let kind = if is_grpc_call { Kind::Grpc } else { Kind::Response };
        let tether = Tether::of(admission, kind);
        let limits = self.limits.as_deref();
        let max_body_size = limits.and_then(RouteLimits::max_body_size);
        let refuse = |excess: Excess| {
            limits.inspect(|limits| limits.count(excess));
            excess.answer(is_grpc_call)
        };
        let place = match check(limits, &request, &tether).await {
            Ok(Ok(place)) => place,
            Ok(Err(excess)) => return refuse(excess),
            Err(reason) => return tether.refusal(reason),
        };
        let counts = (notes.is_some() || max_body_size.is_some()) && !request.body().is_end_stream();
        let intake = counts.then(|| Arc::new(Intake::new(max_body_size)));
        if let Some(intake) = &intake {
            request.extensions_mut().insert(Arc::clone(intake));
        }
        if let Some(place) = &place {
            // For those who go on after the response, such as tunnels.
            request.extensions_mut().insert(place.clone());
        }
        let admission = tether.into_admission();
        if let Some(notes) = &notes {
            notes.pass(admission.clone(), intake.clone());
        }
        let begun = Instant::now();
        let mut response = self.upstream.send(request, admission, &arrival).await;
        if let Some(notes) = notes {
            notes.answered(begun.elapsed());
        }
        if intake.is_some_and(|intake| intake.is_exceeded()) {
            return refuse(Excess::Body);
        }
        if let Some(place) = place {
            response.extensions_mut().insert(place);
        }
        response
    }
}

/// Holds an admitted request to the limits, those first that cost nobody anything. Whoever waits for a place does so while their session
/// lasts.
///
/// # Errors
/// Why it ended.
async fn check(
    limits: Option<&RouteLimits>,
    request: &Request<Incoming>,
    tether: &Tether,
) -> Result<Result<Option<Place>, Excess>, Reason> {
    let Some(limits) = limits else { return Ok(Ok(None)) };
    if limits.max_body_size().is_some_and(|max| request.body().size_hint().lower() > max) {
        return Ok(Err(Excess::Body));
    }
    if let Err(excess) = limits.spend_subject(tether.admission().map(|admission| &admission.claims().subject)) {
        return Ok(Err(excess));
    }
    match limits.concurrency() {
        Some(concurrency) => tether.wait(concurrency.take()).await.map(|taken| taken.map(Some)),
        None => Ok(Ok(None)),
    }
}
