//! The thread that writes: all marker writes that wait are committed together, then acknowledged.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Answer, DirectoryLock, Memory,
    change::Change,
    database::{Database, fault},
    notes::CHUNK,
    queue::{Inbox, Next, Ticket},
};
use crate::{
    clock::Timestamp,
    marker::{MarkerKey, MarkerRecord},
    session::SessionKey,
    store::{
        Merged, StoreError, Watcher, merged,
        notes::NoteDigest,
        sessions::{Opening, StoredSession},
    },
    token::claims::Subject,
};

/// How often the watcher hears that this thread lives.
pub(super) const BEAT: Duration = Duration::from_millis(250);

/// How often expired markers and notes are looked for, and how many of each are removed at a time.
const PURGE_INTERVAL: Duration = Duration::from_secs(1);
const PURGE_CHUNK: usize = 200;

/// The most marker writes in one transaction.
const GROUP: usize = 256;

/// The most activities in one transaction: marker writes wait for no more than one of these.
const ACTIVITY_CHUNK: usize = 500;

/// The most sessions that are opened in one transaction.
const OPENINGS: usize = 100;

/// What can be asked for.
#[derive(Debug)]
pub(super) enum Write {
    Merge(Merge, Answer<Merged>),
    Activity(Vec<(Subject, Timestamp)>, Answer<()>),
    SessionActivity {
        batch: Vec<(SessionKey, Timestamp)>,
        clock_skew: Duration,
        answer: Answer<Vec<Option<Timestamp>>>,
    },
    Open(Opening, Answer<StoredSession>),
    Remember(Remember, Answer<()>),
    Change(Change, Answer<bool>),
}

/// A marker to merge.
#[derive(Debug)]
pub(super) struct Merge {
    pub(super) key: MarkerKey,
    pub(super) record: MarkerRecord,
    pub(super) expires: Option<Timestamp>,
}

/// Events to remember.
#[derive(Debug)]
pub(super) struct Remember {
    pub(super) source: String,
    pub(super) events: Vec<NoteDigest>,
    pub(super) capacity: usize,
}

/// An activity batch of which a part may be written.
struct Activity {
    batch: Batch,
    written: usize,
    /// Keeps the place in the queue taken.
    _ticket: Ticket<()>,
}

enum Batch {
    Subjects(Vec<(Subject, Timestamp)>, Answer<()>),
    Sessions(SessionBatch),
}

struct SessionBatch {
    batch: Vec<(SessionKey, Timestamp)>,
    clock_skew: Duration,
    /// What was recorded before of those that are written.
    before: Vec<Option<Timestamp>>,
    answer: Answer<Vec<Option<Timestamp>>>,
}

impl Batch {
    const fn len(&self) -> usize {
        match self {
            Self::Subjects(batch, _) => batch.len(),
            Self::Sessions(sessions) => sessions.batch.len(),
        }
    }

    fn record(&mut self, part: Range<usize>, database: &mut Database) -> rusqlite::Result<()> {
        match self {
            Self::Subjects(batch, _) => database.record_activity(&batch[part]),
            Self::Sessions(SessionBatch { batch, clock_skew, before, .. }) => {
                let some = database.change_sessions(|sessions| sessions.record_activity(&batch[part], *clock_skew))?;
                before.extend(some);
                Ok(())
            }
        }
    }

    fn answer(self, result: Result<(), StoreError>) {
        match self {
            Self::Subjects(_, answer) => drop(answer.send(result)),
            Self::Sessions(SessionBatch { before, answer, .. }) => drop(answer.send(result.map(|()| before))),
        }
    }
}

/// The thread's state. The fields are dropped in this order: the lock goes last.
pub(super) struct Writer {
    name: Arc<str>,
    inbox: Inbox<Write>,
    watcher: Arc<dyn Watcher>,
    memory: Arc<Memory>,
    durable: Database,
    relaxed: Database,
    activities: VecDeque<Activity>,
    openings: VecDeque<Ticket<(Opening, Answer<StoredSession>)>>,
    remembers: VecDeque<Ticket<(Remember, Answer<()>)>>,
    changes: VecDeque<Ticket<(Change, Answer<bool>)>>,
    heard: Instant,
    purged: Instant,
    _lock: DirectoryLock,
}

impl Writer {
    pub(super) fn new(
        name: Arc<str>,
        inbox: Inbox<Write>,
        watcher: Arc<dyn Watcher>,
        memory: Arc<Memory>,
        durable: Database,
        relaxed: Database,
        lock: DirectoryLock,
    ) -> Self {
        let now = Instant::now();
        watcher.reset();
        watcher.heard(now);
        Self {
            name,
            inbox,
            watcher,
            memory,
            durable,
            relaxed,
            activities: VecDeque::new(),
            openings: VecDeque::new(),
            remembers: VecDeque::new(),
            changes: VecDeque::new(),
            heard: now,
            purged: now,
            _lock: lock,
        }
    }

    /// Writes until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let mut open = true;
        while open || self.is_busy() {
            let merges = self.collect(&mut open);
            self.commit(merges);
            self.open_some_sessions();
            self.record_some_activity();
            self.remember_some_events();
            self.change_some_notes();
            self.beat();
            self.purge();
        }
    }

    /// Whether something is left to do.
    fn is_busy(&self) -> bool {
        !self.activities.is_empty()
            || !self.openings.is_empty()
            || !self.remembers.is_empty()
            || !self.changes.is_empty()
    }

    /// Waits for a job, unless there is other work, and takes what else waits.
    fn collect(&mut self, open: &mut bool) -> Vec<Ticket<(Merge, Answer<Merged>)>> {
        let mut merges = Vec::new();
        let mut next = if *open && !self.is_busy() { self.inbox.wait_for(BEAT) } else { self.inbox.take() };
        loop {
            match next {
                Next::Job(ticket) => match ticket.split() {
                    (Write::Merge(merge, answer), place) => merges.push(place.with((merge, answer))),
                    (Write::Activity(batch, answer), place) => {
                        let batch = Batch::Subjects(batch, answer);
                        self.activities.push_back(Activity { batch, written: 0, _ticket: place });
                    }
                    (Write::SessionActivity { batch, clock_skew, answer }, place) => {
                        let before = Vec::with_capacity(batch.len());
                        let batch = Batch::Sessions(SessionBatch { batch, clock_skew, before, answer });
                        self.activities.push_back(Activity { batch, written: 0, _ticket: place });
                    }
                    (Write::Open(opening, answer), place) => self.openings.push_back(place.with((opening, answer))),
                    (Write::Remember(remember, answer), place) => {
                        self.remembers.push_back(place.with((remember, answer)));
                    }
                    (Write::Change(change, answer), place) => self.changes.push_back(place.with((change, answer))),
                },
                Next::Nothing => break,
                Next::Closed => {
                    *open = false;
                    break;
                }
            }
            if merges.len() >= GROUP {
                break;
            }
            next = self.inbox.take();
        }
        merges
    }

    /// One transaction for all. The watcher is told when it is durable, and before anybody is told so.
    fn commit(&mut self, tickets: Vec<Ticket<(Merge, Answer<Merged>)>>) {
        if tickets.is_empty() {
            return;
        }
        match self.durable.transaction(|markers| {
            let merge_one = |ticket: &Ticket<(Merge, Answer<Merged>)>| {
                let (Merge { key, record, expires }, _) = &ticket.job;
                let held = markers.get(key.as_str())?;
                let merged = merged(key, held.as_deref(), record);
                if held.is_none() {
                    self.memory.presence.add(key.as_str());
                }
                if merged.changed {
                    markers.put(key.as_str(), &merged.record.encode(), *expires)?;
                }
                Ok(merged)
            };
            tickets.iter().map(merge_one).collect::<rusqlite::Result<Vec<_>>>()
        }) {
            Ok(results) => {
                for (ticket, merged) in tickets.into_iter().zip(results) {
                    let (merge, answer) = ticket.job;
                    if merged.changed {
                        self.watcher.changed(merge.key.as_str());
                    }
                    let _ = answer.send(Ok(merged));
                }
            }
            Err(error) => {
                let error = fault(&self.name, error);
                for ticket in tickets {
                    let _ = ticket.job.1.send(Err(error.clone()));
                }
            }
        }
    }

    /// One transaction for those that wait, one after the other: each is told what the ones before it have left.
    fn open_some_sessions(&mut self) {
        let some = self.openings.len().min(OPENINGS);
        let tickets: Vec<_> = self.openings.drain(..some).collect();
        if tickets.is_empty() {
            return;
        }
        match self.relaxed.change_sessions(|sessions| {
            tickets.iter().map(|ticket| sessions.open(&ticket.job.0)).collect::<rusqlite::Result<Vec<_>>>()
        }) {
            Ok(kept) => {
                for (ticket, kept) in tickets.into_iter().zip(kept) {
                    let _ = ticket.job.1.send(Ok(kept));
                }
            }
            Err(error) => {
                let error = fault(&self.name, error);
                for ticket in tickets {
                    let _ = ticket.job.1.send(Err(error.clone()));
                }
            }
        }
    }

    fn record_some_activity(&mut self) {
        let Some(mut activity) = self.activities.pop_front() else { return };
        let end = activity.batch.len().min(activity.written + ACTIVITY_CHUNK);
        let recorded = activity.batch.record(activity.written..end, &mut self.relaxed);
        activity.written = end;
        match recorded {
            Ok(()) if end < activity.batch.len() => self.activities.push_front(activity),
            result => activity.batch.answer(result.map_err(|error| fault(&self.name, error))),
        }
    }

    /// Memory follows the file. Of what a power cut takes from it, events are taken again, which changes nothing.
    fn remember_some_events(&mut self) {
        let Some(ticket) = self.remembers.pop_front() else { return };
        let (Remember { source, events, capacity }, answer) = ticket.job;
        let fresh = self.memory.remembered.fresh(&source, &events);
        let result = match self.relaxed.change_notes(|notes| notes.remember(&source, &fresh, capacity)) {
            Ok(removed) => {
                self.memory.remembered.update(&source, fresh, &removed);
                Ok(())
            }
            Err(error) => Err(fault(&self.name, error)),
        };
        let _ = answer.send(result);
    }

    /// One transaction for as many as are not too much together, in their order.
    fn change_some_notes(&mut self) {
        let tickets = self.some_changes();
        let Some(first) = tickets.first() else { return };
        let database = if first.job.0.is_durable() { &mut self.durable } else { &mut self.relaxed };
        let changed = database.change_notes(|notes| {
            tickets.iter().map(|ticket| ticket.job.0.apply(notes)).collect::<rusqlite::Result<Vec<_>>>()
        });
        match changed {
            Ok(answers) => {
                for (ticket, answer) in tickets.into_iter().zip(answers) {
                    let _ = ticket.job.1.send(Ok(answer));
                }
            }
            Err(error) => {
                let error = fault(&self.name, error);
                for ticket in tickets {
                    let _ = ticket.job.1.send(Err(error.clone()));
                }
            }
        }
    }

    /// The first ones that wait, of one durability.
    fn some_changes(&mut self) -> Vec<Ticket<(Change, Answer<bool>)>> {
        let mut some: Vec<Ticket<(Change, Answer<bool>)>> = Vec::new();
        let mut size = 0;
        while let Some(Ticket { job: (change, _), .. }) = self.changes.front() {
            size += change.size();
            let fits =
                size <= CHUNK && some.first().is_none_or(|first| first.job.0.is_durable() == change.is_durable());
            if !some.is_empty() && !fits {
                break;
            }
            some.extend(self.changes.pop_front());
        }
        some
    }

    /// A thread that hangs or is gone falls silent.
    fn beat(&mut self) {
        if self.heard.elapsed() >= BEAT {
            self.heard = Instant::now();
            self.watcher.heard(self.heard);
        }
    }

    /// Failing, it is tried again the next time: what has expired is not read anyway.
    fn purge(&mut self) {
        if self.purged.elapsed() < PURGE_INTERVAL {
            return;
        }
        self.purged = Instant::now();
        match self.relaxed.purge(PURGE_CHUNK) {
            Ok(keys) => {
                for key in &keys {
                    self.memory.presence.remove(key);
                    self.watcher.changed(key);
                }
            }
            Err(error) => tracing::warn!(store.name = %self.name, %error, "expired markers cannot be removed"),
        }
        if let Err(error) = self.relaxed.change_notes(|notes| notes.purge(PURGE_CHUNK)) {
            tracing::warn!(store.name = %self.name, %error, "expired notes cannot be removed");
        }
        if let Err(error) = self.relaxed.change_sessions(|sessions| sessions.purge(ACTIVITY_CHUNK)) {
            tracing::warn!(store.name = %self.name, %error, "expired sessions cannot be removed");
        }
    }
}
