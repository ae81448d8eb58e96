//! What each client address may ask of the gate's own endpoints.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock, PoisonError, Weak},
};

use prometheus_client::metrics::counter::Counter;

use super::{
    Excess, Labels, Limits,
    rate::{Budgets, Rate, network},
};

/// What stands for a route where there is none.
const NO_ROUTE: &str = "-";

/// The budgets of client addresses for the gate's own endpoints.
#[derive(Debug)]
pub struct OwnLimits {
    rate: Rate,
    /// Most gates are never asked.
    budgets: OnceLock<Budgets>,
    exceeded: Counter,
}

impl Limits {
    /// The limits of the gate's own endpoints; `None`: there are none. With the same rate as before they go on with what was spent, as
    /// long as anybody still holds them.
    #[must_use]
    pub fn of_own(&self, rate: Option<Rate>) -> Option<Arc<OwnLimits>> {
        let rate = rate?;
        let mut known = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = Weak::upgrade(&known).filter(|known| known.rate == rate) {
            return Some(same);
        }
        let exceeded = self.exceeded.get_or_create_owned(&Labels { route: NO_ROUTE.into(), limit: "address" });
        let limits = Arc::new(OwnLimits { rate, budgets: OnceLock::new(), exceeded });
        *known = Arc::downgrade(&limits);
        Some(limits)
    }
}

impl OwnLimits {
    /// Spends one request, or counts that it is too much.
    ///
    /// # Errors
    /// [`Excess::Address`].
    pub fn spend(&self, address: Option<IpAddr>) -> Result<(), Excess> {
        let Some(address) = address else { return Ok(()) };
        self.budgets().spend(&network(address)).map_err(|wait| {
            self.exceeded.inc();
            Excess::Address(wait)
        })
    }

    /// That request cost nothing after all.
    pub fn give_back(&self, address: Option<IpAddr>) {
        if let Some(address) = address {
            self.budgets().give_back(&network(address));
        }
    }

    fn budgets(&self) -> &Budgets {
        self.budgets.get_or_init(|| Budgets::new(self.rate))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_spent_stays_spent_where_nothing_changed() {
        let (limits, address) = (Limits::default(), Some(IpAddr::from([192, 0, 2, 1])));
        let rate = Rate { count: 1, per: Duration::from_secs(3600), burst: 1 };
        assert!(limits.of_own(None).is_none());
        let before = limits.of_own(Some(rate)).unwrap();
        assert_eq!(before.spend(address), Ok(()));
        let same = limits.of_own(Some(rate)).unwrap();
        assert!(matches!(same.spend(address), Err(Excess::Address(_))));
        assert_eq!(same.spend(Some(IpAddr::from([192, 0, 2, 2]))), Ok(()));
        assert_eq!([same.spend(None), same.spend(None)], [Ok(()); 2], "who has no address has no budget to spend");
        same.give_back(address);
        assert_eq!(same.spend(address), Ok(()));
        let other = limits.of_own(Some(Rate { burst: 2, ..rate })).unwrap();
        assert_eq!(other.spend(address), Ok(()));
    }
}
