//! How many connections each client address has.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::limit::rate::network;

/// Connections by address; IPv6 by its /64. As large as there are connections. Clones share it.
#[derive(Clone, Default, Debug)]
pub(super) struct Crowd(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them, as long as it is open.
#[derive(Debug)]
pub(super) struct Member {
    crowd: Crowd,
    network: IpAddr,
}

impl Crowd {
    /// One more from this address, unless there are so many. Those that were there before a limit changed count as well.
    pub(super) fn enter(&self, address: IpAddr, most: usize) -> Option<Member> {
        let network = network(address);
        let mut all = self.all();
        let count = all.entry(network).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(all);
        Some(Member { crowd: self.clone(), network })
    }

    fn all(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut all = self.crowd.all();
        if let Some(count) = all.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_may_be_and_nothing_is_left() {
        let crowd = Crowd::default();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = crowd.enter(address("192.0.2.1"), 2).unwrap();
        let second = crowd.enter(address("::ffff:192.0.2.1"), 2).unwrap();
        assert!(crowd.enter(address("192.0.2.1"), 2).is_none());
        let other = crowd.enter(address("192.0.2.2"), 2).unwrap();
        drop(first);
        let third = crowd.enter(address("192.0.2.1"), 2).unwrap();
        let wide = [crowd.enter(address("2001:db8::1"), 2), crowd.enter(address("2001:db8::2"), 2)];
        assert!(crowd.enter(address("2001:db8::3"), 2).is_none() && wide.iter().all(Option::is_some));
        assert!(crowd.enter(address("2001:db8:0:1::3"), 2).is_some());
        drop((second, other, third, wide));
        assert!(crowd.all().is_empty());
    }
}
