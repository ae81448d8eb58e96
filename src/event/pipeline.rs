//! The one way from what a source tells to what is stored.
//!
//! 1. Events that were taken already are left out, by their ids: those of this gateway's memory first, then, where something is
//!    to change, those that the store remembers. The store remembers only events that changed something; taking others again
//!    does no harm.
//! 2. What a delivery says about one key is merged first, and written once. Markers merge, so their order does not matter.
//! 3. Markers are durable, and activity is written, before the events are remembered, and only then is the sender told that they
//!    were taken: whatever fails in between, it sends them again, and nothing is lost or done twice.
//! 4. Each marker leaves an audit line, with the event that it came from.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream};

use super::{
    health::{Health, Outcome, Taken},
    session_event::{Batch, EventDigest, Happening, SessionEvent},
};
use crate::{
    clock::{Clock, Timestamp},
    marker::{Block, Logout, Marker, MarkerClock, MarkerKey, MarkerRecord, Source, ledger::Ledger},
    store::{Merged, Notes, StoreError},
    telemetry::audit::{self, Actor},
    token::claims::Subject,
};

/// How many markers of one delivery are written at a time.
const WRITES: usize = 128;

/// How many events of a source are remembered in the store, and here.
const REMEMBERED: usize = 100_000;

/// How far an event may lie ahead of this gateway's clock. What is further ahead is taken to have happened now: it would refuse
/// tokens that do not exist yet.
const MAX_AHEAD: Duration = Duration::from_secs(60);

/// The one way. Clones share it.
#[derive(Clone, Debug)]
pub struct Pipeline {
    ledger: Ledger,
    notes: Arc<dyn Notes>,
    clock: Clock,
}

/// A source, as the pipeline knows it.
#[derive(Debug)]
pub struct Origin {
    /// Its name in the settings.
    pub name: Arc<str>,
    /// What it is.
    pub source: Source,
    /// How it is.
    pub health: Health,
    recent: Mutex<Recent>,
}

impl Origin {
    /// A source that has not told anything yet.
    #[must_use]
    pub fn new(name: Arc<str>, source: Source, health: Health) -> Self {
        Self { name, source, health, recent: Mutex::default() }
    }
}

/// Events that were taken lately.
#[derive(Default, Debug)]
struct Recent {
    newer: HashSet<EventDigest, ahash::RandomState>,
    older: HashSet<EventDigest, ahash::RandomState>,
}

impl Recent {
    fn contains(&self, id: &EventDigest) -> bool {
        self.newer.contains(id) || self.older.contains(id)
    }

    fn add(&mut self, id: EventDigest) {
        if self.newer.len() >= REMEMBERED {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(id);
    }
}

/// A marker that is to be written, and the event that says so.
struct Change<'a> {
    record: MarkerRecord,
    event: &'a SessionEvent,
    what: &'static str,
}

type Times<'a> = HashMap<&'a Subject, Timestamp, ahash::RandomState>;

/// What a delivery comes to.
#[derive(Default)]
struct Plan<'a> {
    changes: HashMap<MarkerKey, Change<'a>, ahash::RandomState>,
    active: Times<'a>,
    deleted: Times<'a>,
}

impl Pipeline {
    /// A way into this store.
    #[must_use]
    pub fn new(ledger: Ledger, notes: Arc<dyn Notes>, clock: Clock) -> Self {
        Self { ledger, notes, clock }
    }

    /// Where the time comes from.
    #[must_use]
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What sources remember.
    #[must_use]
    pub const fn notes(&self) -> &Arc<dyn Notes> {
        &self.notes
    }

    /// The markers.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Takes a delivery. When this resolves, what it says is durable.
    ///
    /// # Errors
    /// [`StoreError`]: a part of it may have been stored. Taking it again is harmless.
    ///
    /// # Cancel safety
    /// As for an error.
    pub async fn take(&self, origin: &Origin, batch: &Batch) -> Result<Taken, StoreError> {
        let taken = self.store(origin, batch).await;
        if let Err(error) = &taken {
            origin.health.failed(self.clock.now(), error);
        }
        taken
    }

    async fn store(&self, origin: &Origin, batch: &Batch) -> Result<Taken, StoreError> {
        let now = self.clock.now();
        let fresh = self.fresh(origin, &batch.events).await?;
        let plan = self.plan(origin, &fresh, now);
        let mut taken = Taken {
            duplicates: batch.events.len() - fresh.len(),
            active: plan.active.len(),
            gaps: batch.gaps.len(),
            ..Taken::default()
        };
        (taken.changed, taken.unchanged) = self.write(origin, plan.changes).await?;
        let store = self.ledger.store();
        if !plan.active.is_empty() {
            let active: Vec<_> = plan.active.iter().map(|(subject, at)| ((*subject).clone(), *at)).collect();
            store.record_activity(&active).await?;
        }
        if !plan.deleted.is_empty() {
            let deleted: Vec<_> = plan.deleted.iter().map(|(subject, at)| ((*subject).clone(), *at)).collect();
            store.forget_activity(&deleted).await?;
        }
        self.remember(origin, &fresh).await?;
        origin.health.took(now, batch, &taken);
        Ok(taken)
    }

    /// The events that were not taken before. What only shows that somebody was active is not worth asking the store for.
    async fn fresh<'a>(
        &self,
        origin: &Origin,
        events: &'a [SessionEvent],
    ) -> Result<Vec<&'a SessionEvent>, StoreError> {
        let mut here = HashSet::<_, ahash::RandomState>::default();
        let mut fresh: Vec<&SessionEvent> = Vec::with_capacity(events.len());
        {
            let recent = origin.recent.lock().unwrap_or_else(PoisonError::into_inner);
            let mut is_new = |id: &EventDigest| !recent.contains(id) && here.insert(*id);
            fresh.extend(events.iter().filter(|event| event.id.as_ref().is_none_or(|id| is_new(&id.digest()))));
        }
        let asked: Vec<EventDigest> = fresh.iter().filter_map(|event| changing_id(event)).collect();
        if asked.is_empty() {
            return Ok(fresh);
        }
        let seen = self.notes.seen(&origin.name, &asked).await?;
        let seen: HashSet<_, ahash::RandomState> =
            asked.into_iter().zip(seen).filter_map(|(id, seen)| seen.then_some(id)).collect();
        fresh.retain(|event| changing_id(event).is_none_or(|id| !seen.contains(&id)));
        Ok(fresh)
    }

    async fn remember(&self, origin: &Origin, events: &[&SessionEvent]) -> Result<(), StoreError> {
        let changed: Vec<EventDigest> = events.iter().filter_map(|event| changing_id(event)).collect();
        if !changed.is_empty() {
            self.notes.remember(&origin.name, &changed, REMEMBERED).await?;
        }
        let mut recent = origin.recent.lock().unwrap_or_else(PoisonError::into_inner);
        for id in events.iter().filter_map(|event| event.id.as_ref()) {
            recent.add(id.digest());
        }
        Ok(())
    }

    fn plan<'a>(&self, origin: &Origin, events: &[&'a SessionEvent], now: Timestamp) -> Plan<'a> {
        let mut plan = Plan::default();
        for event in events {
            let (at, clock) = if event.at > now.plus(MAX_AHEAD) {
                (now, MarkerClock::Gateway)
            } else {
                (event.at, origin.source.clock())
            };
            for happening in &event.happenings {
                let (key, marker) = match happening {
                    Happening::Active(subject) => {
                        keep_latest(&mut plan.active, subject, at.min(now));
                        continue;
                    }
                    Happening::Deleted(subject) => {
                        keep_latest(&mut plan.deleted, subject, at);
                        let until = Some(at.plus(self.ledger.retention().tokens()));
                        (MarkerKey::block(subject), Marker::Block(Block { blocked: true, at, until }))
                    }
                    Happening::Blocked(subject) => {
                        (MarkerKey::block(subject), Marker::Block(Block { blocked: true, at, until: None }))
                    }
                    Happening::Unblocked(subject) => {
                        (MarkerKey::block(subject), Marker::Block(Block { blocked: false, at, until: None }))
                    }
                    Happening::LoggedOut(subject) => (MarkerKey::logout(subject), Marker::Logout(Logout { at, clock })),
                    Happening::SessionEnded { issuer, session } => {
                        (MarkerKey::session(issuer, session), Marker::SessionEnd(at))
                    }
                    Happening::TokenRevoked { issuer, token } => {
                        (MarkerKey::token(issuer, token), Marker::TokenRevoked(at))
                    }
                };
                if self.ledger.retention().is_outlived(&marker, now) {
                    origin.health.count(Outcome::Outlived, 1);
                    continue;
                }
                let record = MarkerRecord {
                    by: Some(origin.name.to_string()),
                    reason: Some(event.kind.to_string()),
                    ..MarkerRecord::new(marker).written_by(origin.source)
                };
                plan.merge(key, Change { record, event, what: happening.as_str() });
            }
        }
        plan
    }

    /// Writes all of them, or as many as the store takes; how many changed something, and how many did not.
    async fn write(
        &self,
        origin: &Origin,
        changes: HashMap<MarkerKey, Change<'_>, ahash::RandomState>,
    ) -> Result<(usize, usize), StoreError> {
        let (mut news, mut repetitions, mut failure) = (0, 0, None);
        // In a list first: an iterator with a closure in this future would keep it from being `Send`.
        let mut writes = Vec::with_capacity(changes.len());
        for (key, change) in changes {
            writes.push(self.write_one(key, change).boxed());
        }
        let mut writes = stream::iter(writes).buffer_unordered(WRITES);
        while let Some((key, Change { record, event, what }, result)) = writes.next().await {
            let actor = Actor {
                who: origin.name.to_string(),
                from: None,
                event: event.id.as_ref().map(|id| format!("{} {}", event.kind, id.as_str())),
            };
            audit::record(&actor, what, &key, &record.marker, &result);
            match result {
                Ok(merged) if merged.changed => {
                    news += 1;
                    origin.health.observe_lag(self.clock.now().since(event.at));
                }
                Ok(_) => repetitions += 1,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok((news, repetitions)), Err)
    }

    async fn write_one<'a>(
        &self,
        key: MarkerKey,
        change: Change<'a>,
    ) -> (MarkerKey, Change<'a>, Result<Merged, StoreError>) {
        let result = self.ledger.write(&key, &change.record).await;
        (key, change, result)
    }
}

impl<'a> Plan<'a> {
    fn merge(&mut self, key: MarkerKey, change: Change<'a>) {
        match self.changes.entry(key) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(change);
            }
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                let merged = entry.get().record.clone().merge(change.record.clone());
                if merged != entry.get().record {
                    entry.insert(change);
                }
            }
        }
    }
}

fn changing_id(event: &SessionEvent) -> Option<EventDigest> {
    let id = event.id.as_ref()?;
    event.happenings.iter().any(Happening::is_change).then(|| id.digest())
}

fn keep_latest<'a>(times: &mut Times<'a>, subject: &'a Subject, at: Timestamp) {
    let latest = times.entry(subject).or_insert(at);
    *latest = at.max(*latest);
}

#[cfg(test)]
mod tests;
