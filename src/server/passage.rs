//! From the verdict to the upstream: limits of those who were admitted, and what the access log wants to know of the way on.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{Request, Response};
use http_body::Body as _;
use pin_project_lite::pin_project;
use tower::Service;

use super::access::Notes;
use crate::{
    gate::{Admission, problem},
    incoming::Incoming,
    limit::{Excess, RouteLimits, concurrency::Place, intake::Intake},
    stream::{Kind, Tether},
    upstream::{Body, Upstream},
    verdict::Reason,
};

/// The way to an upstream. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Passage {
    upstream: Upstream,
    limits: Option<Arc<RouteLimits>>,
    /// Whether requests have [`Notes`].
    noted: bool,
}

type Exchange = <Upstream as Service<Request<Incoming>>>::Future;

pin_project! {
    /// The response of a [`Passage`]. One that takes a place among those in flight has it as an extension.
    #[project = PassageProjection]
    pub(super) enum PassageFuture {
        /// Nothing is limited, and nothing noted.
        Plain { #[pin] exchange: Exchange },
        /// Something is.
        Watched { exchange: Pin<Box<dyn Future<Output = Response<Body>> + Send>> },
    }
}

impl Passage {
    pub(super) const fn new(upstream: Upstream, limits: Option<Arc<RouteLimits>>, noted: bool) -> Self {
        Self { upstream, limits, noted }
    }

    async fn pass(mut self, mut request: Request<Incoming>) -> Response<Body> {
        let notes = request.extensions().get::<Arc<Notes>>().cloned();
        let is_grpc_call = problem::is_grpc_call(request.headers());
        let kind = if is_grpc_call { Kind::Grpc } else { Kind::Response };
        let tether = Tether::of(request.extensions().get::<Admission>().cloned(), kind);
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
        if let Some(notes) = &notes {
            notes.pass(tether.into_admission(), intake.clone());
        }
        let begun = Instant::now();
        let Ok(mut response) = self.upstream.call(request).await;
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

impl Service<Request<Incoming>> for Passage {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = PassageFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.upstream.poll_ready(context)
    }

    fn call(&mut self, request: Request<Incoming>) -> PassageFuture {
        if self.limits.is_none() && !self.noted {
            return PassageFuture::Plain { exchange: self.upstream.call(request) };
        }
        PassageFuture::Watched { exchange: Box::pin(self.clone().pass(request)) }
    }
}

impl Future for PassageFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            PassageProjection::Plain { exchange } => exchange.poll(context),
            PassageProjection::Watched { exchange } => Poll::Ready(Ok(ready!(exchange.as_mut().poll(context)))),
        }
    }
}
