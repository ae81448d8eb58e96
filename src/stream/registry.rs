//! Which streams are open, and which of them have to be judged again. A plain structure: no I/O, no clock, no tasks.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::clock::Timestamp;

/// A stream's number: later ones are larger.
pub type StreamId = u64;

/// Open streams, the keys that concern them, and what has to be judged.
///
/// Keys are hashes. Should two keys have the same one, streams are judged once more than they need be.
#[derive(Debug)]
pub struct Registry<T> {
    streams: BTreeMap<StreamId, Known<T>>,
    next: StreamId,
    /// Each stream under each of its keys.
    keys: BTreeSet<(u64, StreamId)>,
    /// When streams want to be judged by themselves.
    due: BTreeSet<(Timestamp, StreamId)>,
    /// Those that are to be judged, and since when: before everything else.
    new: BTreeMap<StreamId, Instant>,
    /// Keys that changed, since when, and up to which stream that has been seen to.
    changed: BTreeMap<u64, Pass>,
    /// All streams, likewise.
    all: Option<Pass>,
}

#[derive(Debug)]
struct Known<T> {
    stream: T,
    keys: Box<[u64]>,
    due: Option<Timestamp>,
}

/// A walk over streams in their order.
#[derive(Clone, Copy, Debug)]
struct Pass {
    since: Instant,
    next: StreamId,
    /// Another has to follow, and since when.
    again: Option<Instant>,
}

impl Pass {
    const fn new(since: Instant) -> Self {
        Self { since, next: 0, again: None }
    }
}

/// A stream that has to be judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Work<T> {
    /// Its number.
    pub id: StreamId,
    /// The stream.
    pub stream: T,
    /// Since when it has to be.
    pub since: Instant,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self {
            streams: BTreeMap::new(),
            next: 0,
            keys: BTreeSet::new(),
            due: BTreeSet::new(),
            new: BTreeMap::new(),
            changed: BTreeMap::new(),
            all: None,
        }
    }
}

impl<T: Clone> Registry<T> {
    /// A stream opens, and has to be judged.
    pub fn open(&mut self, stream: T, keys: Box<[u64]>, now: Instant) -> StreamId {
        let id = self.next;
        self.next += 1;
        self.keys.extend(keys.iter().map(|key| (*key, id)));
        self.streams.insert(id, Known { stream, keys, due: None });
        self.new.insert(id, now);
        id
    }

    /// A stream is over; nothing happens if it was already.
    pub fn close(&mut self, id: StreamId) {
        let Some(known) = self.streams.remove(&id) else { return };
        for key in known.keys {
            self.keys.remove(&(key, id));
        }
        if let Some(due) = known.due {
            self.due.remove(&(due, id));
        }
        self.new.remove(&id);
    }

    /// The streams under this key have to be judged; whether there are any.
    pub fn changed(&mut self, key: u64, now: Instant) -> bool {
        let is_watched = self.keys.range((key, 0)..).next().is_some_and(|(found, _)| *found == key);
        if is_watched {
            let passes = self.changed.entry(key);
            passes.and_modify(|pass| pass.again = Some(now)).or_insert(Pass::new(now));
        }
        is_watched
    }

    /// Every stream has to be judged since then; whether there are any.
    pub fn all(&mut self, since: Instant) -> bool {
        if !self.streams.is_empty() {
            match &mut self.all {
                Some(pass) => pass.again = Some(since),
                None => self.all = Some(Pass::new(since)),
            }
        }
        !self.streams.is_empty()
    }

    /// A stream has to be judged at `due` and after.
    pub fn set_due(&mut self, id: StreamId, due: Timestamp) {
        let Some(known) = self.streams.get_mut(&id) else { return };
        if let Some(before) = known.due.replace(due) {
            self.due.remove(&(before, id));
        }
        self.due.insert((due, id));
    }

    /// When the first stream wants to be judged by itself.
    #[must_use]
    pub fn first_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The next stream to be judged: those that were just opened or concerned by a change come first, then those whose time has come,
    /// then all others.
    pub fn next(&mut self, now: Timestamp, at: Instant) -> Option<Work<T>> {
        if let Some((id, since)) = self.new.pop_first() {
            return self.work(id, since);
        }
        while let Some((key, pass)) = self.changed.first_key_value().map(|(key, pass)| (*key, *pass)) {
            let found = self.keys.range((key, pass.next)..).next().filter(|(found, _)| *found == key);
            if let Some(&(_, id)) = found {
                self.changed.insert(key, Pass { next: id + 1, ..pass });
                return self.work(id, pass.since);
            }
            match pass.again {
                Some(since) => self.changed.insert(key, Pass::new(since)),
                None => self.changed.remove(&key),
            };
        }
        if let Some((due, id)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, id));
            if let Some(known) = self.streams.get_mut(&id) {
                known.due = None;
            }
            return self.work(id, at);
        }
        while let Some(pass) = self.all {
            if let Some((&id, _)) = self.streams.range(pass.next..).next() {
                self.all = Some(Pass { next: id + 1, ..pass });
                return self.work(id, pass.since);
            }
            self.all = pass.again.map(Pass::new);
        }
        None
    }

    /// How many streams are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    fn work(&self, id: StreamId, since: Instant) -> Option<Work<T>> {
        self.streams.get(&id).map(|known| Work { id, stream: known.stream.clone(), since })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use proptest::prelude::*;

    use super::*;

    /// What may happen to a registry.
    #[derive(Clone, Debug)]
    enum Step {
        Open(Vec<u64>),
        Close(u64),
        Changed(u64),
        All,
        Due(u64, i64),
        /// Time passes.
        Passes(i64),
        /// Some of the work is done.
        Judge(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            prop::collection::vec(0..6_u64, 0..4).prop_map(Step::Open),
            (0..12_u64).prop_map(Step::Close),
            (0..6_u64).prop_map(Step::Changed),
            Just(Step::All),
            (0..12_u64, 0..50_i64).prop_map(|(id, due)| Step::Due(id, due)),
            (0..20_i64).prop_map(Step::Passes),
            (0..4_usize).prop_map(Step::Judge),
        ]
    }

    /// Each open stream: its keys, whether it has to be judged, and when it is due.
    #[derive(Default, Debug)]
    struct Model {
        streams: BTreeMap<u64, (Vec<u64>, bool, Option<i64>)>,
        opened: u64,
        now: i64,
    }

    impl Model {
        fn wants(&self, id: u64) -> bool {
            self.streams.get(&id).is_some_and(|(_, judge, due)| *judge || due.is_some_and(|due| due <= self.now))
        }
    }

    proptest! {
        /// Whatever happens, in any order: a stream that has to be judged is handed out, one that is over never is.
        #[test]
        fn streams_are_judged_when_they_have_to_be(steps in prop::collection::vec(step(), 1..60)) {
            let origin = Instant::from_std(std::time::Instant::now());
            let (mut registry, mut model) = (Registry::default(), Model::default());
            let judge = |registry: &mut Registry<u64>, model: &mut Model, most: usize| {
                for _ in 0..most {
                    let Some(work) = registry.next(Timestamp::from_millis(model.now), origin) else {
                        return Ok(false);
                    };
                    prop_assert_eq!(work.id, work.stream);
                    let known = model.streams.get_mut(&work.id);
                    prop_assert!(known.is_some(), "{} is over", work.id);
                    let (_, judge, due) = known.unwrap();
                    *judge = false;
                    // A walk may come by before its time has come, which changes nothing about that.
                    if due.is_some_and(|due| due <= model.now) && registry.streams[&work.id].due.is_none() {
                        *due = None;
                    }
                }
                Ok(true)
            };
            for step in steps {
                match step {
                    Step::Open(keys) => {
                        let id = registry.open(model.opened, keys.clone().into(), origin);
                        prop_assert_eq!(id, model.opened);
                        model.streams.insert(id, (keys, true, None));
                        model.opened += 1;
                    }
                    Step::Close(id) => {
                        registry.close(id);
                        model.streams.remove(&id);
                    }
                    Step::Changed(key) => {
                        let mut concerned = false;
                        for (_, judge, _) in model.streams.values_mut().filter(|(keys, ..)| keys.contains(&key)) {
                            (*judge, concerned) = (true, true);
                        }
                        prop_assert_eq!(registry.changed(key, origin), concerned);
                    }
                    Step::All => {
                        model.streams.values_mut().for_each(|(_, judge, _)| *judge = true);
                        prop_assert_eq!(registry.all(origin), !model.streams.is_empty());
                    }
                    Step::Due(id, due) => {
                        registry.set_due(id, Timestamp::from_millis(due));
                        if let Some(known) = model.streams.get_mut(&id) {
                            known.2 = Some(due);
                        }
                    }
                    Step::Passes(millis) => model.now += millis,
                    Step::Judge(most) => {
                        judge(&mut registry, &mut model, most)?;
                    }
                }
                prop_assert_eq!(registry.len(), model.streams.len());
            }
            prop_assert!(!judge(&mut registry, &mut model, 10_000)?, "it comes to an end");
            let left: Vec<u64> = model.streams.keys().copied().filter(|id| model.wants(*id)).collect();
            prop_assert!(left.is_empty(), "{:?} were forgotten", left);
            let first = model.streams.values().filter_map(|(.., due)| *due).min();
            prop_assert_eq!(registry.first_due(), first.map(Timestamp::from_millis));
            for id in 0..model.opened {
                registry.close(id);
            }
            prop_assert!(registry.keys.is_empty() && registry.due.is_empty() && registry.new.is_empty());
        }
    }

    #[test]
    fn a_change_touches_the_streams_of_its_key_alone() {
        let now = Instant::from_std(std::time::Instant::now());
        let mut registry = Registry::default();
        for stream in 0..1000_u64 {
            registry.open(stream, [stream, 5000].into(), now);
        }
        let judged = |registry: &mut Registry<u64>| {
            let mut judged = Vec::new();
            while let Some(work) = registry.next(Timestamp::from_millis(0), now) {
                judged.push(work.stream);
            }
            judged
        };
        assert_eq!(judged(&mut registry).len(), 1000);
        assert!(registry.changed(7, now) && !registry.changed(7000, now));
        assert_eq!(judged(&mut registry), [7]);
        assert!(registry.changed(5000, now));
        assert_eq!(judged(&mut registry).len(), 1000);
    }

    /// What has waited goes on counting from the first time, and what comes after that is not lost.
    #[test]
    fn repeated_changes_do_not_put_off() {
        let now = Instant::from_std(std::time::Instant::now());
        let mut registry = Registry::default();
        registry.open('a', [1].into(), now);
        registry.next(Timestamp::MIN, now);
        registry.changed(1, now);
        registry.changed(1, now + Duration::from_secs(1));
        let since = |registry: &mut Registry<char>| registry.next(Timestamp::MIN, now).map(|work| work.since);
        assert_eq!(since(&mut registry), Some(now));
        assert_eq!(since(&mut registry), Some(now + Duration::from_secs(1)));
        assert_eq!(since(&mut registry), None);
    }
}
