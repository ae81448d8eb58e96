//! The tenant of `tests/support`, for tests, which cannot go on without one.

#[path = "../../support/auth0.rs"]
mod tenant;

use std::ops::Deref;

#[allow(unused_imports, reason = "the faults have no tenant")]
pub(crate) use self::tenant::*;

/// A tenant. Dropped, it closes its ports and all connections.
pub(crate) struct Auth0(tenant::Auth0);

impl Auth0 {
    /// A tenant with an empty log and without users, and one application that may do everything that has been thought of here.
    pub(crate) async fn start() -> Self {
        Self(tenant::Auth0::start().await.unwrap())
    }
}

impl Deref for Auth0 {
    type Target = tenant::Auth0;

    fn deref(&self) -> &tenant::Auth0 {
        &self.0
    }
}
