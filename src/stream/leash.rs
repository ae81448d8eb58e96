//! The rest of a request whose response has begun.

use std::sync::{Arc, OnceLock};

use super::open::Entry;

/// Lets the rest of a request pass only as long as its session lasts. Its response has begun, and whoever does not read it does not
/// hear of the end.
#[derive(Clone, Default, Debug)]
pub struct Leash(Arc<OnceLock<Arc<Entry>>>);

impl Leash {
    /// Whether anybody else holds it, as the body of a request does until it has ended.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Whether the session has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.0.get().is_some_and(|stream| stream.has_ended())
    }

    pub(super) fn tie(&self, stream: &Arc<Entry>) {
        // A request has one stream.
        let _ = self.0.set(Arc::clone(stream));
    }
}
