//! How much a route takes: requests at once, requests in a time, bytes of a body.
//!
//! 1. Each client address has a budget (GCRA, by `governor`), which is spent before the verdict: who floods with bad tokens pays for
//!    looking at them.
//! 2. Each subject has one, which only admitted requests spend: a refused token costs its subject nothing.
//! 3. Then a place among those in flight is taken, and kept until the response's body has ended; without one, at once or after a
//!    short wait in a bounded queue, the request is shed.
//! 4. A body that is too long is refused by its `Content-Length`, or cut off as it passes.
//!
//! What is refused here never reaches the upstream. Budgets and places are those of this process: a fleet of n gateways grants n
//! times as much. A route without limits costs a branch.
//!
//! - [`own`]: budgets for what the gate itself is asked, under `/.portcullis/`.
//! - [`rate`]: budgets, kept in bounded memory (`keys`).
//! - [`concurrency`]: places among those in flight.
//! - [`intake`]: what came in of a body.

pub mod concurrency;
pub mod intake;
mod keys;
pub mod own;
pub mod rate;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use self::{
    concurrency::{Concurrency, ConcurrencySettings},
    own::OwnLimits,
    rate::{Budgets, Rate},
};
use crate::{gate::problem, token::claims::Subject};

/// The limits of one route. By default there are none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LimitSettings {
    /// Requests in flight.
    pub concurrency: Option<ConcurrencySettings>,
    /// Admitted requests of one subject.
    pub per_subject: Option<Rate>,
    /// Requests of one client address, refused ones included.
    pub per_address: Option<Rate>,
    /// The longest body of a request, in bytes.
    pub max_body_size: Option<u64>,
}

/// Why a request is too much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Excess {
    /// Too many requests of the route are in flight.
    Overloaded,
    /// The address has spent its budget; there is more of it after this time.
    Address(Duration),
    /// The subject has.
    Subject(Duration),
    /// The body is too long.
    Body,
}

impl Excess {
    /// The `code` of its problem.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::Address(_) | Self::Subject(_) => "rate_limited",
            Self::Body => "body_too_large",
        }
    }

    /// The limit that it is over, in metrics and logs.
    #[must_use]
    pub const fn limit(self) -> &'static str {
        match self {
            Self::Overloaded => "requests",
            Self::Address(_) => "address",
            Self::Subject(_) => "subject",
            Self::Body => "body",
        }
    }

    /// The response to a gRPC call or to any other request; the excess is an extension of it.
    #[must_use]
    pub fn answer<B: From<Bytes>>(self, is_grpc_call: bool) -> Response<B> {
        let (status, detail) = match self {
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "Too many requests are being served at the moment."),
            Self::Address(_) => (StatusCode::TOO_MANY_REQUESTS, "Too many requests came from this address."),
            Self::Subject(_) => (StatusCode::TOO_MANY_REQUESTS, "Too many requests were made for this user."),
            Self::Body => (StatusCode::PAYLOAD_TOO_LARGE, "The body of the request is longer than is taken here."),
        };
        let mut response = problem::refusal(is_grpc_call, status, self.code(), detail);
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }

    /// After how many seconds it may be otherwise (RFC 9110 §10.2.3), rounded up.
    fn retry_after(self) -> Option<u64> {
        match self {
            Self::Overloaded => Some(1),
            Self::Address(wait) | Self::Subject(wait) => {
                Some(wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1))
            }
            Self::Body => None,
        }
    }
}

/// The limits of a route by its name, as long as anybody holds them.
type Known = (Arc<str>, Weak<RouteLimits>);

/// The limits of all routes. Clones share them.
#[derive(Clone, Default, Debug)]
pub struct Limits {
    routes: Arc<Mutex<Vec<Known>>>,
    own: Arc<Mutex<Weak<OwnLimits>>>,
    exceeded: Family<Labels, Counter>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Labels {
    route: Arc<str>,
    limit: &'static str,
}

/// The limits of one route, and what is spent of them.
#[derive(Debug)]
pub struct RouteLimits {
    settings: LimitSettings,
    concurrency: Option<Arc<Concurrency>>,
    subjects: Option<Arc<Budgets>>,
    addresses: Option<Arc<Budgets>>,
    exceeded: [Counter; 4],
}

impl Limits {
    /// Registers their metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "limited_requests",
            "Requests that were over a limit of their route, or of the gate itself",
            self.exceeded.clone(),
        );
    }

    /// The limits of a route; `None`: it has none. Each limit of the same route that is the same as before goes on with what was spent of
    /// it, as long as anybody still holds it, whatever became of the others.
    #[must_use]
    pub fn of_route(&self, name: &Arc<str>, settings: LimitSettings) -> Option<Arc<RouteLimits>> {
        if settings == LimitSettings::default() {
            return None;
        }
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.retain(|(_, limits)| limits.strong_count() > 0);
        let known = routes.iter().filter(|(known, _)| known == name).find_map(|(_, limits)| limits.upgrade());
        if let Some(known) = known.as_ref().filter(|known| known.settings == settings) {
            return Some(Arc::clone(known));
        }
        let known = known.as_deref();
        let concurrency = settings.concurrency.map(|own| {
            let kept = known
                .filter(|known| known.settings.concurrency == Some(own))
                .and_then(|known| known.concurrency.clone());
            kept.unwrap_or_else(|| Arc::new(Concurrency::new(own)))
        });
        let subjects = settings.per_subject.map(|own| {
            let kept =
                known.filter(|known| known.settings.per_subject == Some(own)).and_then(|known| known.subjects.clone());
            kept.unwrap_or_else(|| Arc::new(Budgets::new(own)))
        });
        let addresses = settings.per_address.map(|own| {
            let kept =
                known.filter(|known| known.settings.per_address == Some(own)).and_then(|known| known.addresses.clone());
            kept.unwrap_or_else(|| Arc::new(Budgets::new(own)))
        });
        let counter = |limit| self.exceeded.get_or_create_owned(&Labels { route: Arc::clone(name), limit });
        let limits = Arc::new(RouteLimits {
            settings,
            concurrency,
            subjects,
            addresses,
            exceeded: ["requests", "address", "subject", "body"].map(counter),
        });
        routes.retain(|(known, _)| known != name);
        routes.push((Arc::clone(name), Arc::downgrade(&limits)));
        Some(limits)
    }
}

impl RouteLimits {
    /// Whether client addresses have budgets.
    #[must_use]
    pub const fn counts_addresses(&self) -> bool {
        self.addresses.is_some()
    }

    /// Requests in flight, if they are limited.
    #[must_use]
    pub fn concurrency(&self) -> Option<&Concurrency> {
        self.concurrency.as_deref()
    }

    /// The longest body, in bytes.
    #[must_use]
    pub const fn max_body_size(&self) -> Option<u64> {
        self.settings.max_body_size
    }

    /// Spends from the budget of a client address.
    ///
    /// # Errors
    /// [`Excess::Address`].
    pub fn spend_address(&self, address: Option<IpAddr>) -> Result<(), Excess> {
        match (&self.addresses, address) {
            (Some(budgets), Some(address)) => budgets.spend(&rate::network(address)).map_err(Excess::Address),
            _ => Ok(()),
        }
    }

    /// Spends from the budget of a subject.
    ///
    /// # Errors
    /// [`Excess::Subject`].
    pub fn spend_subject(&self, subject: Option<&Subject>) -> Result<(), Excess> {
        match (&self.subjects, subject) {
            (Some(budgets), Some(subject)) => budgets.spend(subject).map_err(Excess::Subject),
            _ => Ok(()),
        }
    }

    /// Counts a request that was too much.
    pub fn count(&self, excess: Excess) {
        let [requests, address, subject, body] = &self.exceeded;
        let counter = match excess {
            Excess::Overloaded => requests,
            Excess::Address(_) => address,
            Excess::Subject(_) => subject,
            Excess::Body => body,
        };
        counter.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn per_address(count: u32) -> LimitSettings {
        let rate = Rate { count, per: Duration::from_secs(3600), burst: count };
        LimitSettings { per_address: Some(rate), ..LimitSettings::default() }
    }

    #[test]
    fn what_was_spent_stays_spent_where_nothing_changed() {
        let limits = Limits::default();
        let name = Arc::from("route");
        assert!(limits.of_route(&name, LimitSettings::default()).is_none());
        let before = limits.of_route(&name, per_address(1)).unwrap();
        let address = Some(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(before.spend_address(address), Ok(()));
        let same = limits.of_route(&name, per_address(1)).unwrap();
        assert!(matches!(same.spend_address(address), Err(Excess::Address(_))));
        let changed = limits.of_route(&name, per_address(2)).unwrap();
        assert_eq!(changed.spend_address(address), Ok(()), "another limit is another budget");
        let other = limits.of_route(&Arc::from("other"), per_address(2)).unwrap();
        assert_eq!(other.spend_address(address), Ok(()), "another route is another budget");
        assert_eq!(changed.spend_address(None), Ok(()), "who has no address has no budget to spend");
    }

    #[test]
    fn each_limit_goes_on_by_itself() {
        let limits = Limits::default();
        let name = Arc::from("route");
        let concurrency = ConcurrencySettings { max_requests: 1, max_waiting: 0, max_wait: Duration::from_secs(1) };
        let settings = LimitSettings { concurrency: Some(concurrency), ..per_address(1) };
        let before = limits.of_route(&name, settings).unwrap();
        let address = Some(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(before.spend_address(address), Ok(()));
        let place = before.concurrency().unwrap().try_take().unwrap();
        // Another limit is new: places and budgets are those of before.
        let after = limits.of_route(&name, LimitSettings { max_body_size: Some(1), ..settings }).unwrap();
        assert!(matches!(after.spend_address(address), Err(Excess::Address(_))));
        assert!(after.concurrency().unwrap().try_take().is_none());
        // More places are other places, and the budget stays.
        let more = ConcurrencySettings { max_requests: 2, ..concurrency };
        let changed = limits.of_route(&name, LimitSettings { concurrency: Some(more), ..settings }).unwrap();
        assert!(matches!(changed.spend_address(address), Err(Excess::Address(_))));
        assert!(changed.concurrency().unwrap().try_take().is_some());
        drop((before, place));
        assert!(after.concurrency().unwrap().try_take().is_some());
    }

    #[test]
    fn a_client_is_told_to_wait_long_enough() {
        for (wait, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_000, 59)] {
            let response: Response<Vec<u8>> = Excess::Subject(Duration::from_millis(wait)).answer(false);
            assert_eq!(response.headers()[header::RETRY_AFTER], *seconds.to_string(), "{wait} ms");
        }
    }
}
