//! The table of sessions.

use std::{sync::Arc, time::Duration};

use rusqlite::{Connection, Error, OptionalExtension, Row, params, types::Type};

use crate::{
    clock::Timestamp,
    session::SessionKey,
    store::sessions::{MAX_SESSIONS, Opening, StoredSession, recorded},
    token::claims::{ClientId, InvalidId, SessionId, Subject},
};

/// By subject, to list and to count; by when they may go; by when they were last active, to find who has been idle.
pub(super) const SCHEMA: &str = "\
CREATE TABLE sessions (issuer TEXT NOT NULL, id TEXT NOT NULL, subject TEXT NOT NULL, started INTEGER NOT NULL,
    opened INTEGER NOT NULL, active INTEGER NOT NULL, until INTEGER NOT NULL, limits TEXT NOT NULL, client TEXT,
    gateway TEXT NOT NULL, PRIMARY KEY (issuer, id)) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_subject ON sessions (issuer, subject, id);
CREATE INDEX sessions_until ON sessions (until);
CREATE INDEX sessions_active ON sessions (issuer, active);
CREATE TABLE limits (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;";

/// The sessions, within a transaction if they are to be changed. Those whose time is over are not there.
pub(in super::super) struct SessionTable<'a> {
    connection: &'a Connection,
    now: Timestamp,
}

impl<'a> SessionTable<'a> {
    pub(super) const fn new(connection: &'a Connection, now: Timestamp) -> Self {
        Self { connection, now }
    }

    /// What is kept of a session, if its id is still its subject's.
    pub(in super::super) fn get(&self, key: &SessionKey) -> rusqlite::Result<Option<StoredSession>> {
        let mut select = self.connection.prepare_cached(
            "SELECT started, opened, active, until, limits, client, gateway FROM sessions \
             WHERE issuer = ?1 AND id = ?2 AND subject = ?3 AND until > ?4",
        )?;
        let SessionKey { subject, id } = key;
        let values = params![subject.issuer.as_str(), id.as_str(), subject.id.as_str(), self.now.as_millis()];
        Ok(select.query_row(values, |row| readable(session(row, 0))).optional()?.flatten())
    }

    /// The sessions of a subject, in the order of their ids.
    pub(in super::super) fn page(
        &self,
        subject: &Subject,
        after: Option<&SessionId>,
        limit: usize,
    ) -> rusqlite::Result<Vec<(SessionId, StoredSession)>> {
        let mut select = self.connection.prepare_cached(
            "SELECT id, started, opened, active, until, limits, client, gateway FROM sessions \
             WHERE issuer = ?1 AND subject = ?2 AND id > ?3 AND until > ?4 ORDER BY id",
        )?;
        let after = after.map_or("", SessionId::as_str);
        let mut rows =
            select.query(params![subject.issuer.as_str(), subject.id.as_str(), after, self.now.as_millis()])?;
        let mut page = Vec::new();
        while page.len() < limit
            && let Some(row) = rows.next()?
        {
            page.extend(readable(identified(row))?);
        }
        Ok(page)
    }

    /// What is kept once somebody has come upon a session.
    pub(in super::super) fn open(&self, opening: &Opening) -> rusqlite::Result<StoredSession> {
        let kept = self.get(&opening.key)?;
        let (session, changed) = opening.meet(kept.as_ref());
        if changed {
            self.put(&opening.key, &session)?;
        }
        if kept.is_none() {
            self.make_room(&opening.key)?;
        }
        Ok(session)
    }

    fn put(&self, key: &SessionKey, session: &StoredSession) -> rusqlite::Result<()> {
        let mut replace = self.connection.prepare_cached(
            "REPLACE INTO sessions (issuer, id, subject, started, opened, active, until, limits, client, gateway) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?;
        let StoredSession { started, opened, active, until, limits, client, gateway } = session;
        let [started, opened, active, until] = [started, opened, active, until].map(|time| time.as_millis());
        let (issuer, subject, id) = (key.subject.issuer.as_str(), key.subject.id.as_str(), key.id.as_str());
        let client = client.as_ref().map(ClientId::as_str);
        replace
            .execute(params![issuer, id, subject, started, opened, active, until, &**limits, client, &**gateway])
            .map(drop)
    }

    /// Of too many sessions of a subject, those go whose time is over, then those that were opened first; never the one that was just
    /// opened.
    fn make_room(&self, newest: &SessionKey) -> rusqlite::Result<()> {
        let SessionKey { subject, id } = newest;
        let (issuer, subject) = (subject.issuer.as_str(), subject.id.as_str());
        let mut count =
            self.connection.prepare_cached("SELECT count(*) FROM sessions WHERE issuer = ?1 AND subject = ?2")?;
        let count: i64 = count.query_row([issuer, subject], |row| row.get(0))?;
        let excess = count.saturating_sub(i64::try_from(MAX_SESSIONS).unwrap_or(i64::MAX));
        if excess <= 0 {
            return Ok(());
        }
        let mut delete = self.connection.prepare_cached(
            "DELETE FROM sessions WHERE issuer = ?1 AND id IN (SELECT id FROM sessions \
             WHERE issuer = ?1 AND subject = ?2 AND id <> ?3 ORDER BY until > ?4, opened, id LIMIT ?5)",
        )?;
        delete.execute(params![issuer, subject, id.as_str(), self.now.as_millis(), excess]).map(drop)
    }

    /// Times never go back. Says what was recorded before of each, since it was opened.
    pub(in super::super) fn record_activity(
        &self,
        batch: &[(SessionKey, Timestamp)],
        clock_skew: Duration,
    ) -> rusqlite::Result<Vec<Option<Timestamp>>> {
        let mut select = self
            .connection
            .prepare_cached("SELECT active, opened FROM sessions WHERE issuer = ?1 AND id = ?2 AND subject = ?3")?;
        let mut update = self.connection.prepare_cached(
            "UPDATE sessions SET active = ?4 WHERE issuer = ?1 AND id = ?2 AND subject = ?3 AND active < ?4",
        )?;
        let record = |(SessionKey { subject, id }, active): &(SessionKey, Timestamp)| {
            let key = (subject.issuer.as_str(), id.as_str(), subject.id.as_str());
            let times = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
            let held: Option<(i64, i64)> = select.query_row(params![key.0, key.1, key.2], times).optional()?;
            let before =
                held.filter(|(active, opened)| active != opened).map(|(active, _)| Timestamp::from_millis(active));
            let active = recorded(*active, before, clock_skew);
            update.execute(params![key.0, key.1, key.2, active.as_millis()])?;
            Ok(before)
        };
        batch.iter().map(record).collect()
    }

    /// Removes some whose time is over.
    pub(in super::super) fn purge(&self, limit: usize) -> rusqlite::Result<()> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut delete = self.connection.prepare_cached(
            "DELETE FROM sessions WHERE (issuer, id) IN (SELECT issuer, id FROM sessions WHERE until <= ?1 LIMIT ?2)",
        )?;
        delete.execute(params![self.now.as_millis(), limit]).map(drop)
    }
}

/// The session in the columns from `first` on.
fn session(row: &Row<'_>, first: usize) -> rusqlite::Result<StoredSession> {
    let time = |column: usize| row.get(first + column).map(Timestamp::from_millis);
    let text = |column: usize| Ok::<Arc<str>, Error>(row.get_ref(first + column)?.as_str()?.into());
    let client = match row.get_ref(first + 5)?.as_str_or_null()? {
        Some(client) => Some(ClientId::try_from(client).map_err(|fault| unreadable(first + 5, fault))?),
        None => None,
    };
    Ok(StoredSession {
        started: time(0)?,
        opened: time(1)?,
        active: time(2)?,
        until: time(3)?,
        limits: text(4)?,
        client,
        gateway: text(6)?,
    })
}

/// The id in the first column, and its session.
fn identified(row: &Row<'_>) -> rusqlite::Result<(SessionId, StoredSession)> {
    let id = SessionId::kept(row.get_ref(0)?.as_str()?).map_err(|fault| unreadable(0, fault))?;
    Ok((id, session(row, 1)?))
}

fn unreadable(column: usize, fault: InvalidId) -> Error {
    Error::FromSqlConversionFailure(column, Type::Text, Box::new(fault))
}

/// What cannot be read is not there.
fn readable<T>(row: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    match row {
        Err(Error::FromSqlConversionFailure(..) | Error::InvalidColumnType(..) | Error::Utf8Error(..)) => Ok(None),
        row => row.map(Some),
    }
}
