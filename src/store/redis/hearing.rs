//! Puts together what several servers say. The store has been heard when all of them have.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::settings::Address;
use crate::store::Watcher;

/// Who has to be heard, and when each was last.
#[derive(Debug)]
pub(super) struct Hearing {
    watcher: Arc<dyn Watcher>,
    /// `None`: not yet.
    voices: Mutex<BTreeMap<Voice, Option<Instant>>>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Voice {
    Server(Address),
    Sentinels,
}

impl Hearing {
    /// Nobody counts yet, so nothing is ever heard.
    pub(super) fn new(watcher: Arc<dyn Watcher>) -> Self {
        Self { watcher, voices: Mutex::default() }
    }

    /// From now on these servers count and no others. One that is new has not been heard yet.
    pub(super) fn follow(&self, servers: impl IntoIterator<Item = Address>) {
        let mut voices = self.lock();
        let mut known = mem::take(&mut *voices);
        *voices = servers
            .into_iter()
            .map(Voice::Server)
            .chain(known.contains_key(&Voice::Sentinels).then_some(Voice::Sentinels))
            .map(|voice| known.remove_entry(&voice).unwrap_or((voice, None)))
            .collect();
    }

    /// From now on sentinels count too.
    pub(super) fn follow_sentinels(&self) {
        self.lock().entry(Voice::Sentinels).or_default();
    }

    /// Whatever changed before `at` has been told, as far as this server is concerned. One that does not count is ignored.
    pub(super) fn heard(&self, server: &Address, at: Instant) {
        self.take(&Voice::Server(server.clone()), at);
    }

    /// Most sentinels have said since `at` who the primary is.
    pub(super) fn sentinels_heard(&self, at: Instant) {
        self.take(&Voice::Sentinels, at);
    }

    fn take(&self, voice: &Voice, at: Instant) {
        let all = {
            let mut voices = self.lock();
            let Some(last) = voices.get_mut(voice) else { return };
            *last = (*last).max(Some(at));
            // `None` is less than any time.
            voices.values().copied().min().flatten()
        };
        if let Some(all) = all {
            self.watcher.heard(all);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Voice, Option<Instant>>> {
        self.voices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Default, Debug)]
    struct Last(Mutex<Option<Instant>>);

    impl Watcher for Last {
        fn changed(&self, _: &str) {}
        fn reset(&self) {}
        fn heard(&self, at: Instant) {
            *self.0.lock().unwrap() = Some(at);
        }
    }

    #[test]
    fn the_store_is_heard_as_late_as_the_last_of_all() {
        let last = Arc::new(Last::default());
        let hearing = Hearing::new(Arc::clone(&last) as Arc<dyn Watcher>);
        let [a, b] = ["a", "b"].map(|host| Address::Tcp(host.into(), 1));
        let origin = Instant::now();
        let at = |secs| origin + Duration::from_secs(secs);
        let told = || *last.0.lock().unwrap();

        hearing.heard(&a, at(1));
        assert_eq!(told(), None, "it does not count");
        hearing.follow([a.clone(), b.clone()]);
        hearing.heard(&a, at(2));
        assert_eq!(told(), None, "b has not been heard");
        hearing.heard(&b, at(3));
        assert_eq!(told(), Some(at(2)));
        hearing.heard(&a, at(4));
        assert_eq!(told(), Some(at(3)));
        hearing.heard(&a, at(1));
        assert_eq!(told(), Some(at(3)), "an earlier time takes nothing back");

        hearing.follow_sentinels();
        hearing.heard(&b, at(5));
        assert_eq!(told(), Some(at(3)), "the sentinels have not been heard");
        hearing.sentinels_heard(at(6));
        assert_eq!(told(), Some(at(4)));

        hearing.follow([b.clone()]);
        hearing.heard(&b, at(7));
        assert_eq!(told(), Some(at(6)), "a does not count any more");
        hearing.follow([a.clone(), b.clone()]);
        hearing.sentinels_heard(at(9));
        assert_eq!(told(), Some(at(6)), "a counts anew, and what it said before does not");
    }
}
