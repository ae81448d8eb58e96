use std::{
    future::poll_fn,
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use tokio::time::Instant;
use tower::Service;

use super::{
    Decision, Judge, Judgement, Policy, ResponseFuture,
    identity::{self, ReservedNames},
    policy::Authentication,
    refusal::Refusals,
    time_left::TimeLeft,
    tokens::KnownToken,
    verdicts::Verdicts,
};
use crate::{
    credential::Credential,
    stream::{Kind, Streams},
    token::claims::Claims,
    verdict::Reason,
};

/// Lets requests through to `inner`, or refuses them.
#[derive(Clone, Debug)]
pub struct Gate<S> {
    shared: Arc<Shared>,
    inner: S,
}

/// Who was admitted: an extension of requests that passed with a token.
#[derive(Clone, Debug)]
pub struct Admission {
    known: Arc<KnownToken>,
    shared: Arc<Shared>,
    /// Since when there may be something that the verdict did not know of.
    since: Instant,
}

impl Admission {
    /// What the token says.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.known.claims
    }

    /// Resolves when the session is over that the request was admitted for, and with the reason: within `max_staleness` after a marker
    /// covers the token, or when its time is up. In `observe` mode it never does.
    ///
    /// For services that answer for longer than a moment, such as with a stream of events: they end it then, as the gateway ends those of
    /// its upstreams.
    ///
    /// ```
    /// # async fn example(admission: portcullis::gate::Admission, mut news: tokio::sync::mpsc::Receiver<String>) {
    /// let mut ended = std::pin::pin!(admission.ended());
    /// loop {
    ///     tokio::select! {
    ///         Some(line) = news.recv() => println!("{line}"),
    ///         reason = &mut ended => return println!("over: {}", reason.code()),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Dropping the future closes nothing but itself; another call begins anew.
    pub async fn ended(&self) -> Reason {
        let stream = self.streams().open(self, Kind::Service, Instant::now());
        poll_fn(|context| stream.poll_ended(context)).await
    }

    pub(crate) fn known(&self) -> &KnownToken {
        &self.known
    }

    /// Since when there may be something that the verdict did not know of.
    pub(crate) const fn since(&self) -> Instant {
        self.since
    }

    pub(crate) fn judge(&self) -> &Judge {
        &self.shared.judge
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.shared.policy
    }

    pub(crate) fn streams(&self) -> &Arc<Streams> {
        &self.shared.judge.parts().streams
    }

    /// The response that refuses the request after all.
    pub(crate) fn refusal<R: From<Bytes>>(&self, reason: Reason, is_grpc: bool) -> Response<R> {
        self.shared.refusals.refuse(reason, is_grpc)
    }

    /// The trailers that end a gRPC call.
    pub(crate) fn trailers(&self, reason: Reason) -> HeaderMap {
        self.shared.refusals.trailers(reason)
    }
}

/// A request that goes on.
#[derive(Debug)]
pub struct Passed {
    /// Who was admitted, with a token.
    pub admission: Option<Admission>,
    /// What its response is to tell of the session.
    pub time_left: Option<TimeLeft>,
}

/// What all clones of a gate share.
#[derive(Debug)]
pub(super) struct Shared {
    judge: Judge,
    policy: Arc<Policy>,
    reserved: ReservedNames,
    refusals: Refusals,
    verdicts: Verdicts,
}

impl Shared {
    pub(super) fn new(judge: Judge, policy: Policy, reserved: ReservedNames) -> Self {
        let refusals = Refusals::new(&policy);
        let verdicts = judge.parts().verdicts.of_route(&policy.name);
        judge.parts().sessions.add_route(&policy.name, policy.limits);
        judge.parts().streams.add_route(&policy);
        Self { judge, policy: Arc::new(policy), reserved, refusals, verdicts }
    }

    pub(super) const fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    pub(super) fn judge<B>(&self, request: &Request<B>) -> Judgement {
        let policy = &self.policy;
        if policy.preflights
            && is_preflight(request)
            && matches!(policy.sources.find(request.headers()), Credential::Absent)
        {
            return Judgement::Decided(self.judge.pass());
        }
        self.judge.judge(&self.policy, request.headers())
    }

    /// What a decision comes to: the request becomes one that goes on, or the response refuses it. `now`: when it was judged, or before
    /// that.
    pub(super) fn apply<B, R: From<Bytes>>(
        self: &Arc<Self>,
        decision: Decision,
        request: &mut Request<B>,
        now: impl FnOnce() -> Instant,
    ) -> Result<Passed, Response<R>> {
        self.verdicts.count(&decision);
        if let Some(reason) = decision.reason() {
            self.log(reason, &decision);
            if !decision.passes {
                return Err(self.refusals.answer(reason, request.headers()));
            }
        }
        let time_left = TimeLeft::of(&decision, &self.policy);
        let fields = request.headers_mut();
        self.reserved.strip(fields);
        if !self.policy.forward_token && self.policy.authentication != Authentication::None {
            self.withhold_token(fields);
        }
        if decision.stale {
            identity::flag_stale(fields);
        }
        let admission = decision.token.map(|known| {
            identity::add(&self.policy.identity, &known.forwarded, fields);
            Admission { known, shared: Arc::clone(self), since: decision.since.unwrap_or_else(now) }
        });
        Ok(Passed { admission, time_left })
    }

    fn withhold_token(&self, fields: &mut HeaderMap) {
        let sources = &self.policy.sources;
        fields.remove(header::AUTHORIZATION);
        for source in &sources.headers {
            fields.remove(&source.name);
        }
        if !sources.cookies.is_empty() {
            sources.remove_cookies(fields);
        }
    }

    fn log(&self, reason: Reason, decision: &Decision) {
        let subject = decision.token.as_ref().map(|known| &known.claims.subject);
        tracing::debug!(
            route.name = &*self.policy.name,
            verdict = reason.code(),
            fault = decision.fault.as_ref().map(tracing::field::display),
            subject = subject.map(tracing::field::debug),
            enforced = !decision.passes,
            "refused"
        );
    }
}

impl Passed {
    /// Tells the service who was admitted.
    pub(super) fn tell<B>(self, request: &mut Request<B>) -> Option<TimeLeft> {
        if let Some(admission) = self.admission {
            request.extensions_mut().insert(admission);
        }
        self.time_left
    }
}

/// Whether a browser asks whether a script of another origin may ask.
fn is_preflight<B>(request: &Request<B>) -> bool {
    let fields = request.headers();
    request.method() == Method::OPTIONS
        && fields.contains_key(header::ORIGIN)
        && fields.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

impl<S> Gate<S> {
    pub(super) const fn new(shared: Arc<Shared>, inner: S) -> Self {
        Self { shared, inner }
    }

    /// The policy it applies.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.shared.policy
    }
}

impl<S, B, R> Service<Request<B>> for Gate<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    R: From<Bytes>,
{
    type Response = Response<R>;
    /// A refusal is a response: an infallible service stays infallible.
    type Error = S::Error;
    type Future = ResponseFuture<S, B, R>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let judgement = self.shared.judge(&request);
        // Only the instance that was polled is ready; the clone takes its place for the next call.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        match judgement {
            Judgement::Decided(decision) => match self.shared.apply(decision, &mut request, Instant::now) {
                Ok(passed) => {
                    let time_left = passed.tell(&mut request);
                    ResponseFuture::forwarding(inner.call(request), time_left)
                }
                Err(refusal) => ResponseFuture::refusing(refusal),
            },
            Judgement::Pending(decision) => ResponseFuture::judging(decision, Arc::clone(&self.shared), request, inner),
        }
    }
}
