//! Budgets: so many requests in a time, by the generic cell rate algorithm.

use std::{
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::NoOpMiddleware,
};

use super::keys::Keys;

/// How many keys are told apart, at most; beyond it see [`Keys`]. 1 MiB.
const CAPACITY: usize = 65_536;

/// So many requests in a time, and so many at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// How many in `per`, 1 or more.
    pub count: u32,
    /// In which time.
    pub per: Duration,
    /// How many at once, 1 or more, of one who has not asked for long.
    pub burst: u32,
}

impl Rate {
    /// How long one request takes to come back.
    fn interval(self) -> Duration {
        (self.per / self.count.max(1)).max(Duration::from_nanos(1))
    }

    fn quota(self) -> Quota {
        let one = NonZeroU32::MIN;
        let quota = Quota::with_period(self.interval()).unwrap_or_else(|| Quota::per_second(one));
        quota.allow_burst(NonZeroU32::new(self.burst).unwrap_or(one))
    }
}

/// A budget for each key.
pub struct Budgets<C: Clock = MonotonicClock> {
    hasher: RandomState,
    limiter: RateLimiter<u64, Keys, C, NoOpMiddleware<C::Instant>>,
    keys: Keys,
    interval: Duration,
}

impl Budgets {
    /// Budgets of which nothing is spent.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self::with_clock(rate, MonotonicClock)
    }
}

impl<C: Clock> Budgets<C> {
    fn with_clock(rate: Rate, clock: C) -> Self {
        let keys = Keys::new(CAPACITY);
        let limiter = RateLimiter::new(rate.quota(), keys.clone(), clock);
        Self { hasher: RandomState::new(), limiter, keys, interval: rate.interval() }
    }

    /// Spends one request from the budget of a key.
    ///
    /// # Errors
    /// There is nothing left; there is after this time. Nothing is spent.
    pub fn spend(&self, key: &impl Hash) -> Result<(), Duration> {
        let key = self.hash(key);
        self.limiter.check_key(&key).map_err(|until| until.wait_time_from(self.limiter.clock().now()))
    }

    /// Gives back what one [`spend`](Self::spend) took.
    pub fn give_back(&self, key: &impl Hash) {
        self.keys.give_back(self.hash(key), u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Nobody can predict it; two keys have one budget with a chance of one in 2⁶⁴.
    fn hash(&self, key: &impl Hash) -> u64 {
        self.hasher.hash_one(key).max(1)
    }
}

impl<C: Clock> fmt::Debug for Budgets<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budgets").finish_non_exhaustive()
    }
}

/// Whose budget an address spends: its own, or, of IPv6, that of its /64, of which one customer has all.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    use super::*;

    /// A bucket with room for `burst`, into which one more falls each interval: the same rule, counted in requests.
    struct Model {
        interval: u128,
        burst: u128,
        /// What is in it, in nanoseconds' worth.
        level: u128,
        last: u128,
    }

    impl Model {
        fn new(rate: Rate) -> Self {
            let interval = rate.per.as_nanos() / u128::from(rate.count);
            Self { interval, burst: rate.burst.into(), level: interval * u128::from(rate.burst), last: 0 }
        }

        fn spend(&mut self, now: u128) -> Result<(), u128> {
            self.level = (self.level + now - self.last).min(self.interval * self.burst);
            self.last = now;
            if self.level < self.interval {
                return Err(self.interval - self.level);
            }
            self.level -= self.interval;
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn it_grants_what_a_plain_bucket_holds(
            count in 1..200_u32,
            per in 1..4_usize,
            burst in 1..50_u32,
            steps in prop::collection::vec((0..3_u64, prop_oneof![0..1_000_u64, 0..5_000_000_000_u64]), 1..200),
        ) {
            let per = Duration::from_secs([1, 60, 3600, 86_400][per]);
            let rate = Rate { count, per, burst };
            let clock = FakeRelativeClock::default();
            let budgets = Budgets::with_clock(rate, clock.clone());
            let mut models: Vec<Model> = (0..3).map(|_| Model::new(rate)).collect();
            let mut now = 0;
            for (key, pause) in steps {
                clock.advance(Duration::from_nanos(pause));
                now += u128::from(pause);
                let expected = models[usize::try_from(key).unwrap()].spend(now);
                let wait = budgets.spend(&key).map_err(|wait| wait.as_nanos());
                prop_assert_eq!(wait, expected, "{} at {}", key, now);
            }
        }
    }

    #[test]
    fn what_is_given_back_was_never_spent() {
        let clock = FakeRelativeClock::default();
        let rate = Rate { count: 1, per: Duration::from_secs(1), burst: 3 };
        let budgets = Budgets::with_clock(rate, clock.clone());
        budgets.give_back(&"nobody");
        for round in 0..100 {
            clock.advance(Duration::from_millis(round));
            assert_eq!(budgets.spend(&"alice"), Ok(()));
            budgets.give_back(&"alice");
        }
        assert_eq!([(); 3].map(|()| budgets.spend(&"alice")), [Ok(()); 3]);
        assert_eq!(budgets.spend(&"alice"), Err(Duration::from_secs(1)), "and no more than that comes of it");
        clock.advance(Duration::from_millis(400));
        budgets.give_back(&"alice");
        assert_eq!(budgets.spend(&"alice"), Ok(()));
        assert_eq!(budgets.spend(&"alice"), Err(Duration::from_millis(600)));
    }

    #[test]
    fn whoever_waits_as_told_is_served() {
        let clock = FakeRelativeClock::default();
        let rate = Rate { count: 3, per: Duration::from_secs(1), burst: 2 };
        let budgets = Budgets::with_clock(rate, clock.clone());
        for _ in 0..1000 {
            if let Err(wait) = budgets.spend(&"alice") {
                clock.advance(wait.checked_sub(Duration::from_nanos(1)).unwrap());
                assert_eq!(budgets.spend(&"alice"), Err(Duration::from_nanos(1)));
                clock.advance(Duration::from_nanos(1));
                assert_eq!(budgets.spend(&"alice"), Ok(()));
            }
        }
    }

    #[test]
    fn one_customer_has_one_budget() {
        for (address, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
        ] {
            assert_eq!(network(address.parse().unwrap()), expected.parse::<IpAddr>().unwrap(), "{address}");
        }
    }
}
