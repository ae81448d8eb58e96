use std::sync::Arc;

use tower::Layer;

use super::{Gate, Judge, Policy, identity::ReservedNames, service::Shared};

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
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate::new(Arc::clone(&self.shared), inner)
    }
}
