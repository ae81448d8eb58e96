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
    session::SessionKey,
    store::{StoreReport, reading, sessions::StoredSession},
    token::claims::{SessionId, Subject},
};

/// What can be asked.
#[derive(Debug)]
pub(super) enum Read {
    Marker { key: MarkerKey, answer: Answer<Reading<MarkerRecord>> },
    Activity { subject: Subject, answer: Answer<Option<Timestamp>> },
    Notes(Question),
    Session { key: SessionKey, answer: Answer<Option<StoredSession>> },
    Sessions { subject: Subject, after: Option<SessionId>, limit: usize, answer: Answer<SessionPage> },
    Report { answer: Answer<StoreReport> },
}

/// Some sessions of a subject.
pub(super) type SessionPage = Vec<(SessionId, StoredSession)>;

/// What can be asked about notes.
#[derive(Debug)]
pub(super) enum Question {
    Note { name: String, answer: Answer<Option<String>> },
    Jobs { queue: String, limit: usize, answer: Answer<(Vec<(String, String)>, usize)> },
    Members { set: String, answer: Answer<Vec<String>> },
    Limits { name: String, answer: Answer<Option<String>> },
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
        Read::Notes(question) => answer_about_notes(name, database, question),
        Read::Session { key, answer } if !answer.is_closed() => {
            let _ = answer.send(database.sessions().get(&key).map_err(|error| fault(name, error)));
        }
        Read::Sessions { subject, after, limit, answer } => {
            let page = database.sessions().page(&subject, after.as_ref(), limit);
            let _ = answer.send(page.map_err(|error| fault(name, error)));
        }
        Read::Report { answer } => {
            let description = format!("embedded store in {name}, SQLite {}", rusqlite::version());
            let asked = database.probe().map(|()| StoreReport { description, warnings: Vec::new() });
            let _ = answer.send(asked.map_err(|error| fault(name, error)));
        }
        Read::Marker { .. } | Read::Session { .. } => {}
    }
}

fn answer_about_notes(name: &Arc<str>, database: &Database, question: Question) {
    let notes = database.notes();
    let failed = |error| fault(name, error);
    match question {
        Question::Note { name, answer } => {
            let _ = answer.send(notes.note(&name).map_err(failed));
        }
        Question::Jobs { queue, limit, answer } => {
            let _ = answer.send(notes.jobs(&queue, limit).map_err(failed));
        }
        Question::Members { set, answer } => {
            let _ = answer.send(notes.members(&set).map_err(failed));
        }
        Question::Limits { name, answer } => {
            let _ = answer.send(notes.limits(&name).map_err(failed));
        }
    }
}
