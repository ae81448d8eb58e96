//! The gateway that requests are served by, as a reload exchanges it.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;

use super::gateway::Gateway;
use crate::upstream::fields::Downstream;

/// The gateway of now. Clones share it.
///
/// Whoever serves a request loads it once and goes on with what was loaded, so that each request is served by one configuration
/// from its beginning to its end.
#[derive(Clone, Debug)]
pub struct CurrentGateway(Arc<ArcSwap<Gateway>>);

impl CurrentGateway {
    /// Begins with this one.
    #[must_use]
    pub fn new(gateway: Gateway) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(gateway)))
    }

    /// The one that a request which begins now is served by.
    #[must_use]
    pub fn load(&self) -> Arc<Gateway> {
        self.0.load_full()
    }

    /// From now on requests are served by another. Those under way end with the one they began with, which is returned.
    pub fn exchange(&self, gateway: Gateway) -> Arc<Gateway> {
        self.0.swap(Arc::new(gateway))
    }
}

/// Tells gateways apart, so that what is known of a connection is found out again when another takes over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edition(u64);

impl Edition {
    /// One that no other gateway of this process has.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Default for Edition {
    fn default() -> Self {
        Self::new()
    }
}

/// The other end of a connection, as gateways see it: one may trust it to name clients, and the next may not.
#[derive(Debug)]
pub(super) struct Peer(RefCell<(Edition, Arc<Downstream>)>);

impl Peer {
    pub(super) fn new(connection: Downstream, gateway: &Gateway) -> Self {
        Self(RefCell::new((gateway.edition(), Arc::new(see(connection, gateway)))))
    }

    /// As this gateway sees it.
    pub(super) fn seen_by(&self, gateway: &Gateway) -> Arc<Downstream> {
        let mut seen = self.0.borrow_mut();
        if seen.0 != gateway.edition() {
            let connection = Downstream::clone(&seen.1);
            *seen = (gateway.edition(), Arc::new(see(connection, gateway)));
        }
        Arc::clone(&seen.1)
    }
}

fn see(connection: Downstream, gateway: &Gateway) -> Downstream {
    let listener = gateway.listener();
    let trusted = listener.trusts(connection.address);
    let tells_certificates = trusted && listener.believes_client_cert;
    Downstream { trusted, tells_certificates, ..connection }
}
