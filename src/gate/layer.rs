use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use tokio::time::Instant;
use tower::Layer;

use super::{
    Gate, Judge, Judgement, Policy,
    identity::ReservedNames,
    service::{Passed, Shared},
};

/// Puts a [`Gate`] in front of a service.
#[derive(Clone, Debug)]
pub struct GateLayer {
    shared: Arc<Shared>,
}

impl GateLayer {
    /// A gate with one policy, which keeps the names of the policy's own identity fields for itself.
    #[must_use]
    pub fn new(judge: Judge, policy: Policy) -> Self {
        let reserved = ReservedNames::new(policy.identity.iter().map(|(name, _)| name));
        Self::with_reserved(judge, policy, reserved)
    }

    /// A gate that keeps these names for itself: for gates with several policies in front of the same services.
    #[must_use]
    pub fn with_reserved(judge: Judge, policy: Policy, reserved: ReservedNames) -> Self {
        Self { shared: Arc::new(Shared::new(judge, policy, reserved)) }
    }

    /// The policy it applies.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        self.shared.policy()
    }

    /// What a [`Gate`] does before it calls its service, for whoever goes on by other ways: judges a request, and makes it one that goes
    /// on. `at`: when it was there.
    ///
    /// # Errors
    /// The response that refuses it.
    pub async fn admit<B, R: From<Bytes>>(&self, request: &mut Request<B>, at: Instant) -> Result<Passed, Response<R>> {
        let decision = match self.shared.judge(request) {
            Judgement::Decided(decision) => decision,
            Judgement::Pending(decision) => decision.await,
        };
        self.shared.apply(decision, request, || at)
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate::new(Arc::clone(&self.shared), inner)
    }
}
