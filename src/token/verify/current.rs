use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Verifier;

/// The verifier of now, for those who outlive a configuration. Clones share it.
#[derive(Clone, Debug)]
pub struct CurrentVerifier(Arc<ArcSwap<Verifier>>);

impl CurrentVerifier {
    /// Begins with this one.
    #[must_use]
    pub fn new(verifier: Arc<Verifier>) -> Self {
        Self(Arc::new(ArcSwap::new(verifier)))
    }

    /// The one to go by, for one token.
    #[must_use]
    pub fn load(&self) -> Arc<Verifier> {
        self.0.load_full()
    }

    /// From now on, this one.
    pub fn exchange(&self, verifier: Arc<Verifier>) {
        self.0.store(verifier);
    }
}
