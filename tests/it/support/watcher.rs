//! A watcher that remembers what it was told.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Instant,
};

use portcullis::store::Watcher;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    Changed(String),
    Reset,
    Heard,
}

type Hook = Box<dyn Fn(&str) + Send>;

#[derive(Default)]
pub(crate) struct Recorder {
    told: Mutex<Vec<Told>>,
    on_change: Mutex<Option<Hook>>,
}

impl Recorder {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Everything so far, in order.
    pub(crate) fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    pub(crate) fn forget(&self) {
        self.told.lock().unwrap().clear();
    }

    pub(crate) fn count(&self, what: &Told) -> usize {
        self.told.lock().unwrap().iter().filter(|told| *told == what).count()
    }

    pub(crate) fn was_told(&self, what: &Told) -> bool {
        self.count(what) > 0
    }

    pub(crate) fn was_told_of(&self, key: &str) -> bool {
        self.was_told(&Told::Changed(key.to_owned()))
    }

    /// Calls `hook` within each `changed`.
    pub(crate) fn on_change(&self, hook: impl Fn(&str) + Send + 'static) {
        *self.on_change.lock().unwrap() = Some(Box::new(hook));
    }
}

impl Watcher for Recorder {
    fn changed(&self, key: &str) {
        if let Some(hook) = &*self.on_change.lock().unwrap() {
            hook(key);
        }
        self.told.lock().unwrap().push(Told::Changed(key.to_owned()));
    }

    fn reset(&self) {
        self.told.lock().unwrap().push(Told::Reset);
    }

    fn heard(&self, _: Instant) {
        self.told.lock().unwrap().push(Told::Heard);
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}
