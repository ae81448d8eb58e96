use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::{Decision, service::Shared, time_left::TimeLeft};

type Pending = Pin<Box<dyn Future<Output = Decision> + Send>>;

pin_project! {
    /// The response of a [`Gate`](super::Gate).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, B, R>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        stage: Stage<S, S::Future, B, R>,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<S, F, B, R> {
        Judging { decision: Pending, rest: Option<Box<Rest<S, B>>> },
        Forwarding { #[pin] response: F, time_left: Option<TimeLeft> },
        Refusing { response: Option<Response<R>> },
    }
}

/// What waits for a decision.
struct Rest<S, B> {
    shared: Arc<Shared>,
    request: Request<B>,
    inner: S,
}

impl<S: Service<Request<B>>, B, R> ResponseFuture<S, B, R> {
    pub(super) fn judging(decision: Pending, shared: Arc<Shared>, request: Request<B>, inner: S) -> Self {
        Self { stage: Stage::Judging { decision, rest: Some(Box::new(Rest { shared, request, inner })) } }
    }

    pub(super) const fn forwarding(response: S::Future, time_left: Option<TimeLeft>) -> Self {
        Self { stage: Stage::Forwarding { response, time_left } }
    }

    pub(super) const fn refusing(response: Response<R>) -> Self {
        Self { stage: Stage::Refusing { response: Some(response) } }
    }
}

impl<S, B, R> Future for ResponseFuture<S, B, R>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: From<Bytes>,
{
    type Output = Result<Response<R>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = self.project().stage;
        loop {
            let next = match stage.as_mut().project() {
                StageProjection::Judging { decision, rest } => {
                    let decision = ready!(decision.as_mut().poll(context));
                    let Some(rest) = rest.take() else { unreachable!("polled after it was ready") };
                    let Rest { shared, mut request, mut inner } = *rest;
                    match shared.apply(decision, &mut request, Instant::now) {
                        Ok(passed) => {
                            let time_left = passed.tell(&mut request);
                            Stage::Forwarding { response: inner.call(request), time_left }
                        }
                        Err(refusal) => Stage::Refusing { response: Some(refusal) },
                    }
                }
                StageProjection::Forwarding { response, time_left } => {
                    let mut response = ready!(response.poll(context))?;
                    if let Some(time_left) = time_left {
                        time_left.add(response.headers_mut());
                    }
                    return Poll::Ready(Ok(response));
                }
                StageProjection::Refusing { response } => {
                    let Some(response) = response.take() else { unreachable!("polled after it was ready") };
                    return Poll::Ready(Ok(response));
                }
            };
            stage.set(next);
        }
    }
}
