//! Which events were taken, in memory: each is asked for before it is taken, and at random, so the disk only keeps them in their order.

use std::{
    collections::{HashMap, HashSet},
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use crate::store::notes::NoteDigest;

/// What is remembered of each source, as it is in the file.
#[derive(Default, Debug)]
pub(super) struct Remembered {
    sources: RwLock<HashMap<String, Events>>,
}

type Events = HashSet<NoteDigest, ahash::RandomState>;

impl Remembered {
    /// Which of these events are there.
    pub(super) fn has(&self, source: &str, events: &[NoteDigest]) -> Vec<bool> {
        let sources = self.read();
        let remembered = sources.get(source);
        events.iter().map(|event| remembered.is_some_and(|remembered| remembered.contains(event))).collect()
    }

    /// Those of the events that are not there, each once.
    pub(super) fn fresh(&self, source: &str, events: &[NoteDigest]) -> Vec<NoteDigest> {
        let sources = self.read();
        let remembered = sources.get(source);
        let mut fresh = Events::default();
        let mut is_fresh = |event: &NoteDigest| {
            !remembered.is_some_and(|remembered| remembered.contains(event)) && fresh.insert(*event)
        };
        events.iter().filter(|event| is_fresh(event)).copied().collect()
    }

    /// The file has these besides, and those no more.
    pub(super) fn update(&self, source: &str, added: Vec<NoteDigest>, removed: &[NoteDigest]) {
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        let events = sources.entry(source.to_owned()).or_default();
        events.extend(added);
        for event in removed {
            events.remove(event);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<String, Events>> {
        self.sources.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_there_is_fresh_and_only_once() {
        let remembered = Remembered::default();
        let [a, b, c] = [[1; 16], [2; 16], [3; 16]];
        remembered.update("logs", vec![a], &[]);
        assert_eq!(remembered.fresh("logs", &[b, a, b, c]), [b, c]);
        assert_eq!(remembered.fresh("other", &[a, a]), [a]);
        remembered.update("logs", vec![b, c], &[a, c]);
        assert_eq!(remembered.has("logs", &[a, b, c]), [false, true, false]);
    }
}
