//! The thread that reads.

use std::sync::Arc;

use super::{
    Answer,
    database::{Database, fault},
    queue::{Inbox, Next},
};
use crate::{
    clock::Timestamp,
    marker::{MarkerKey, MarkerRecord, Reading},
    store::{StoreReport, reading},
    token::claims::Subject,
};

/// What can be asked.
#[derive(Debug)]
pub(super) enum Read {
    Marker { key: MarkerKey, answer: Answer<Reading<MarkerRecord>> },
    Activity { subject: Subject, answer: Answer<Option<Timestamp>> },
    Report { answer: Answer<StoreReport> },
}

/// Answers until the queue is closed.
pub(super) fn run(name: &Arc<str>, inbox: &Inbox<Read>, database: &Database) {
    loop {
        match inbox.wait() {
            Next::Job(ticket) => answer(name, database, ticket.job),
            Next::Nothing => {}
            Next::Closed => return,
        }
    }
}

/// Nobody may be waiting for the answer any more; then it is dropped.
fn answer(name: &Arc<str>, database: &Database, job: Read) {
    match job {
        Read::Marker { key, answer } if !answer.is_closed() => {
            let value = database.marker(key.as_str());
            let _ = answer.send(value.map(|value| reading(&key, value.as_deref())).map_err(|error| fault(name, error)));
        }
        Read::Activity { subject, answer } => {
            let _ = answer.send(database.last_activity(&subject).map_err(|error| fault(name, error)));
        }
        Read::Report { answer } => {
            let description = format!("embedded store in {name}, SQLite {}", rusqlite::version());
            let asked = database.probe().map(|()| StoreReport { description, warnings: Vec::new() });
            let _ = answer.send(asked.map_err(|error| fault(name, error)));
        }
        Read::Marker { .. } => {}
    }
}
