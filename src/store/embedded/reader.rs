//! The threads that read: one for what requests wait for, one for questions that take longer.

use std::sync::Arc;

use super::{
    Answer,
    database::{Database, Part, Place, fault},
    queue::{Inbox, Next},
};
use crate::{
    clock::Timestamp,
    marker::{MarkerKey, MarkerRecord, Reading},
    session::SessionKey,
    store::{Seen, StoreReport, reading, sessions::StoredSession},
    token::claims::{IssuerName, SessionId, Subject, SubjectId},
};

/// What can be asked.
#[derive(Debug)]
pub(super) enum Read {
    Marker { key: MarkerKey, answer: Answer<Reading<MarkerRecord>> },
    Notes(Question),
    Session { key: SessionKey, answer: Answer<Option<StoredSession>> },
    Sessions { subject: Subject, after: Option<SessionId>, limit: usize, answer: Answer<SessionPage> },
    Report { answer: Answer<StoreReport> },
    Activity(Survey),
}

/// Some sessions of a subject.
pub(super) type SessionPage = Vec<(SessionId, StoredSession)>;

/// What can be asked about the activity of an issuer's subjects.
#[derive(Debug)]
pub(super) enum Survey {
    Last { issuer: IssuerName, subjects: Vec<SubjectId>, answer: Answer<Vec<Option<Timestamp>>> },
    Page { issuer: IssuerName, before: Timestamp, after: Place, limit: usize, answer: Answer<Part<Vec<Seen>>> },
    Count { issuer: IssuerName, before: Timestamp, after: Place, answer: Answer<Part<u64>> },
}

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
        Read::Notes(question) => answer_about_notes(name, database, question),
        Read::Activity(survey) => answer_about_activity(name, database, survey),
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

fn answer_about_activity(name: &Arc<str>, database: &Database, survey: Survey) {
    let activity = database.activity();
    let failed = |error| fault(name, error);
    match survey {
        Survey::Last { issuer, subjects, answer } if !answer.is_closed() => {
            let _ = answer.send(activity.last(&issuer, &subjects).map_err(failed));
        }
        Survey::Page { issuer, before, after, limit, answer } if !answer.is_closed() => {
            let _ = answer.send(activity.page(&issuer, before, &after, limit).map_err(failed));
        }
        Survey::Count { issuer, before, after, answer } if !answer.is_closed() => {
            let _ = answer.send(activity.count(&issuer, before, &after).map_err(failed));
        }
        Survey::Last { .. } | Survey::Page { .. } | Survey::Count { .. } => {}
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
