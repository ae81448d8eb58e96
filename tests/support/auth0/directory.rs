//! Who the users are: the population, and over it whatever was added, changed or removed.
//!
//! A read takes a snapshot, which costs nothing until the next change. The search sees a change only some time after it was made;
//! what tests set up is seen at once.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use super::{Auth0, population::Population, user::User};

/// Users of the population have their number; those that were added come after them, in the order in which they were.
type Key = u64;

const ADDED: Key = 1 << 63;

/// What has become of a user.
#[derive(Clone, PartialEq, Debug)]
enum Version {
    /// As the population has them.
    Made,
    /// The population's, but for this.
    Changed(Change),
    Whole(Arc<User>),
    Gone,
}

/// What most changes are about, so that a hundred thousand take little memory.
#[derive(Clone, PartialEq, Debug)]
struct Change {
    blocked: Option<bool>,
    last_login: Option<i64>,
    logins_count: Option<u64>,
    updated_at: i64,
    app_metadata: Option<Arc<Map<String, Value>>>,
}

#[derive(Clone, Debug)]
struct Entry {
    now: Version,
    /// What was replaced and when, as far as the search may still see it; the oldest first.
    before: Vec<(Instant, Version)>,
}

#[derive(Clone)]
pub(crate) struct Directory {
    population: Option<Population>,
    entries: Arc<BTreeMap<Key, Entry>>,
    keys: Arc<HashMap<Box<str>, Key>>,
    next: Key,
    /// How long after a change the search sees it.
    pub(crate) search_delay: Duration,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            population: None,
            entries: Arc::default(),
            keys: Arc::default(),
            next: ADDED,
            search_delay: Duration::from_secs(1),
        }
    }
}

/// As what a reader sees the users.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum View {
    Now,
    /// As the search does.
    Indexed,
}

impl Directory {
    fn key(&self, id: &str) -> Option<Key> {
        self.keys.get(id).copied().or_else(|| self.population?.number(id))
    }

    fn version(&self, key: Key, view: View) -> &Version {
        let Some(entry) = self.entries.get(&key) else { return &Version::Made };
        match view {
            View::Now => &entry.now,
            View::Indexed => {
                let shown = entry.before.iter().find(|(replaced, _)| replaced.elapsed() < self.search_delay);
                shown.map_or(&entry.now, |(_, version)| version)
            }
        }
    }

    fn made(&self, key: Key) -> Option<User> {
        self.population.filter(|population| key < population.count).map(|population| population.user(key))
    }

    fn at(&self, key: Key, view: View) -> Option<User> {
        match self.version(key, view) {
            Version::Made => self.made(key),
            Version::Changed(change) => self.made(key).map(|user| change.applied(user)),
            Version::Whole(user) => Some(User::clone(user)),
            Version::Gone => None,
        }
    }

    /// This user as of now.
    pub(crate) fn user(&self, id: &str) -> Option<User> {
        self.at(self.key(id)?, View::Now)
    }

    /// The keys of all users, those of the population limited to when they were created.
    pub(crate) fn keys(&self, created: Range<i64>) -> impl Iterator<Item = Key> + use<> {
        let made = self.population.map(|population| population.created_between(created.start, created.end));
        let made = made.unwrap_or(0..0);
        // Those who were changed beyond recognition may have been created at any time.
        let is_apart = |(key, entry): &(&Key, &Entry)| {
            **key >= ADDED || (matches!(entry.now, Version::Whole(_)) && !made.contains(*key))
        };
        let apart: Vec<Key> = self.entries.iter().filter(is_apart).map(|(key, _)| *key).collect();
        made.chain(apart)
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> u64 {
        self.population.map_or(0, |population| population.count) + (self.next - ADDED)
    }

    /// A user by key, for [`Directory::keys`].
    pub(crate) fn read(&self, key: Key, view: View) -> Option<User> {
        self.at(key, view)
    }

    fn put(&mut self, key: Key, version: Version, is_set_up: bool) {
        let before = self.version(key, View::Now).clone();
        let (delay, at) = (self.search_delay, Instant::now());
        let entries = Arc::make_mut(&mut self.entries);
        let entry = entries.entry(key).or_insert(Entry { now: Version::Made, before: Vec::new() });
        entry.before.retain(|(replaced, _)| at - *replaced < delay);
        if is_set_up || delay.is_zero() {
            entry.before.clear();
        } else {
            entry.before.push((at, before));
        }
        entry.now = version;
    }

    /// Changes a user; none: there is none.
    pub(crate) fn change(&mut self, id: &str, is_set_up: bool, change: impl FnOnce(&mut User)) -> Option<User> {
        let key = self.key(id)?;
        let before = self.at(key, View::Now)?;
        let mut user = before;
        change(&mut user);
        let version = self.made(key).and_then(|made| Change::between(made, &user)).map(Version::Changed);
        self.put(key, version.unwrap_or_else(|| Version::Whole(Arc::new(user.clone()))), is_set_up);
        Some(user)
    }

    fn add(&mut self, user: User) {
        let key = self.key(&user.id).unwrap_or_else(|| {
            let key = self.next;
            self.next += 1;
            Arc::make_mut(&mut self.keys).insert(user.id.as_str().into(), key);
            key
        });
        self.put(key, Version::Whole(Arc::new(user)), true);
    }

    fn remove(&mut self, id: &str) -> bool {
        let key = self.key(id).filter(|key| self.at(*key, View::Now).is_some());
        key.is_some_and(|key| {
            self.put(key, Version::Gone, false);
            true
        })
    }
}

impl Change {
    /// What makes the one out of the other, if that is all.
    fn between(made: User, user: &User) -> Option<Self> {
        let metadata = (made.app_metadata != user.app_metadata).then(|| Arc::new(user.app_metadata.clone()));
        let change = Self {
            blocked: user.blocked,
            last_login: user.last_login,
            logins_count: user.logins_count,
            updated_at: user.updated_at,
            app_metadata: metadata,
        };
        (change.applied(made) == *user).then_some(change)
    }

    fn applied(&self, mut user: User) -> User {
        user.blocked = self.blocked;
        user.last_login = self.last_login;
        user.logins_count = self.logins_count;
        user.updated_at = self.updated_at;
        if let Some(metadata) = &self.app_metadata {
            user.app_metadata.clone_from(metadata);
        }
        user
    }
}

impl Auth0 {
    /// The tenant has these users besides those that are added.
    pub(crate) fn populate(&self, population: Population) {
        self.state().directory.population = Some(population);
    }

    /// Adds a user, or replaces the one with this id. The search finds them at once.
    pub(crate) fn add_user(&self, user: User) {
        self.state().directory.add(user);
    }

    /// Removes a user; whether there was one. The search finds them for some time still.
    pub(crate) fn remove_user(&self, id: &str) -> bool {
        self.state().directory.remove(id)
    }

    /// Somebody else changes a user, say in the dashboard. The search sees it at once. Whether there is one.
    pub(crate) fn change_user(&self, id: &str, change: impl FnOnce(&mut User)) -> bool {
        self.state().directory.change(id, true, change).is_some()
    }

    /// This user as of now.
    pub(crate) fn user(&self, id: &str) -> Option<User> {
        self.state().directory.user(id)
    }

    /// Whether there is such a user and they are blocked.
    pub(crate) fn is_blocked(&self, id: &str) -> bool {
        self.user(id).is_some_and(|user| user.is_blocked())
    }

    /// Shows every user as of now, in the order of exports; the tenant answers meanwhile.
    pub(crate) fn each_user(&self, mut look: impl FnMut(User)) {
        let directory = self.state().directory.clone();
        directory.keys(i64::MIN..i64::MAX).filter_map(|key| directory.read(key, View::Now)).for_each(&mut look);
    }

    /// How long after a change by the API the search sees it; a second at first.
    pub(crate) fn set_search_delay(&self, delay: Duration) {
        self.state().directory.search_delay = delay;
    }
}
