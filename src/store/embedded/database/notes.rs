//! The tables of notes.

use rusqlite::{Connection, OptionalExtension, params};

use super::ActivityTable;
use crate::{
    clock::Timestamp,
    store::notes::{MAX_MEMBERS, NoteDigest},
};

/// The events of a source are numbered without gaps in the order in which they came, so that nobody has to count them, and that new
/// ones and those that go are next to each other.
pub(super) const SCHEMA: &str = "\
CREATE TABLE seen (source TEXT NOT NULL, place INTEGER NOT NULL, event BLOB NOT NULL, PRIMARY KEY (source, place))
    STRICT, WITHOUT ROWID;
CREATE TABLE notes (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE jobs (queue TEXT NOT NULL, id TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (queue, id)) STRICT, WITHOUT ROWID;
CREATE TABLE sets (name TEXT NOT NULL PRIMARY KEY, until INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX sets_until ON sets (until);
CREATE TABLE members (name TEXT NOT NULL, member TEXT NOT NULL, PRIMARY KEY (name, member)) STRICT, WITHOUT ROWID;";

/// The notes, within a transaction if they are to be changed.
pub(in super::super) struct NoteTables<'a> {
    connection: &'a Connection,
    now: Timestamp,
}

impl<'a> NoteTables<'a> {
    pub(super) const fn new(connection: &'a Connection, now: Timestamp) -> Self {
        Self { connection, now }
    }

    /// Names every event, by source.
    pub(in super::super) fn each_seen(&self, mut name: impl FnMut(&str, NoteDigest)) -> rusqlite::Result<()> {
        let mut select = self.connection.prepare("SELECT source, event FROM seen")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            name(row.get_ref(0)?.as_str()?, row.get(1)?);
        }
        Ok(())
    }

    /// Adds events behind the last, and removes the first ones of more than `capacity`, which it names.
    pub(in super::super) fn remember(
        &self,
        source: &str,
        events: &[NoteDigest],
        capacity: usize,
    ) -> rusqlite::Result<Vec<NoteDigest>> {
        let mut last = self.connection.prepare_cached("SELECT coalesce(max(place), 0) FROM seen WHERE source = ?1")?;
        let mut place: i64 = last.query_row([source], |row| row.get(0))?;
        let mut insert =
            self.connection.prepare_cached("INSERT INTO seen (source, place, event) VALUES (?1, ?2, ?3)")?;
        for event in events {
            place += 1;
            insert.execute(params![source, place, event])?;
        }
        let mut delete =
            self.connection.prepare_cached("DELETE FROM seen WHERE source = ?1 AND place <= ?2 RETURNING event")?;
        let capacity = i64::try_from(capacity).unwrap_or(i64::MAX);
        delete.query_map(params![source, place.saturating_sub(capacity)], |row| row.get(0))?.collect()
    }

    /// A note.
    pub(in super::super) fn note(&self, name: &str) -> rusqlite::Result<Option<String>> {
        let mut select = self.connection.prepare_cached("SELECT value FROM notes WHERE name = ?1")?;
        select.query_row([name], |row| row.get(0)).optional()
    }

    /// Replaces or removes a note if it is what was expected, and says whether it was.
    pub(in super::super) fn swap(
        &self,
        name: &str,
        expected: Option<&str>,
        value: Option<&str>,
    ) -> rusqlite::Result<bool> {
        if self.note(name)?.as_deref() != expected {
            return Ok(false);
        }
        match value {
            Some(value) => {
                let mut upsert = self.connection.prepare_cached(
                    "INSERT INTO notes (name, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value",
                )?;
                upsert.execute([name, value])?;
            }
            None => {
                self.connection.prepare_cached("DELETE FROM notes WHERE name = ?1")?.execute([name])?;
            }
        }
        Ok(true)
    }

    /// Keeps a table of limits, unless there is one of this name.
    pub(in super::super) fn keep_limits(&self, name: &str, table: &str) -> rusqlite::Result<()> {
        let mut insert = self
            .connection
            .prepare_cached("INSERT INTO limits (name, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
        insert.execute([name, table]).map(drop)
    }

    /// A table of limits.
    pub(in super::super) fn limits(&self, name: &str) -> rusqlite::Result<Option<String>> {
        let mut select = self.connection.prepare_cached("SELECT value FROM limits WHERE name = ?1")?;
        select.query_row([name], |row| row.get(0)).optional()
    }

    /// Puts jobs into a queue, in the place of those with the same ids.
    pub(in super::super) fn put_jobs(&self, queue: &str, jobs: &[(String, String)]) -> rusqlite::Result<()> {
        let mut upsert = self.connection.prepare_cached(
            "INSERT INTO jobs (queue, id, value) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET value = excluded.value",
        )?;
        jobs.iter().try_for_each(|(id, value)| upsert.execute([queue, id, value]).map(drop))
    }

    /// Some jobs, and how many there are. Not always the same ones of many: those at which somebody fails would be in the way of the others.
    pub(in super::super) fn jobs(&self, queue: &str, limit: usize) -> rusqlite::Result<(Vec<(String, String)>, usize)> {
        let mut count = self.connection.prepare_cached("SELECT count(*) FROM jobs WHERE queue = ?1")?;
        let count: i64 = count.query_row([queue], |row| row.get(0))?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut select = self.connection.prepare_cached(
            "SELECT id, value FROM jobs WHERE queue = ?1 ORDER BY id LIMIT ?2 OFFSET abs(random() % ?3)",
        )?;
        let choices = count.saturating_sub(limit).max(0) + 1;
        let jobs = select.query_map(params![queue, limit, choices], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok((jobs.collect::<rusqlite::Result<_>>()?, usize::try_from(count).unwrap_or_default()))
    }

    /// Removes jobs.
    pub(in super::super) fn remove_jobs(&self, queue: &str, ids: &[String]) -> rusqlite::Result<()> {
        let mut delete = self.connection.prepare_cached("DELETE FROM jobs WHERE queue = ?1 AND id = ?2")?;
        ids.iter().try_for_each(|id| delete.execute([queue, id]).map(drop))
    }

    /// Adds members to sets that are kept until then.
    pub(in super::super) fn add_members(
        &self,
        sets: &[(String, String)],
        until: impl Fn(Timestamp) -> Timestamp,
    ) -> rusqlite::Result<()> {
        let mut keep = self.connection.prepare_cached(
            "INSERT INTO sets (name, until) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET until = excluded.until",
        )?;
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO members (name, member) SELECT ?1, ?2 \
             WHERE (SELECT count(*) FROM members WHERE name = ?1) < ?3 ON CONFLICT DO NOTHING",
        )?;
        for (name, member) in sets {
            self.forget_set_if_over(name)?;
            keep.execute(params![name, until(self.now).as_millis()])?;
            insert.execute(params![name, member, i64::try_from(MAX_MEMBERS).unwrap_or(i64::MAX)])?;
        }
        Ok(())
    }

    /// The members of a set, unless it is over.
    pub(in super::super) fn members(&self, name: &str) -> rusqlite::Result<Vec<String>> {
        let mut select = self
            .connection
            .prepare_cached("SELECT member FROM members JOIN sets USING (name) WHERE name = ?1 AND until > ?2")?;
        select.query_map(params![name, self.now.as_millis()], |row| row.get(0))?.collect()
    }

    /// Removes a set.
    pub(in super::super) fn remove_set(&self, name: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached("DELETE FROM sets WHERE name = ?1")?.execute([name])?;
        self.connection.prepare_cached("DELETE FROM members WHERE name = ?1")?.execute([name]).map(drop)
    }

    /// Removes some sets that are over.
    pub(in super::super) fn purge(&self, limit: usize) -> rusqlite::Result<()> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut select = self.connection.prepare_cached("SELECT name FROM sets WHERE until <= ?1 LIMIT ?2")?;
        let over = select.query_map(params![self.now.as_millis(), limit], |row| row.get::<_, String>(0))?;
        for name in over.collect::<rusqlite::Result<Vec<_>>>()? {
            self.remove_set(&name)?;
        }
        Ok(())
    }

    /// Activity, within the same transaction.
    pub(in super::super) const fn activity(&self) -> ActivityTable<'a> {
        ActivityTable::new(self.connection)
    }

    fn forget_set_if_over(&self, name: &str) -> rusqlite::Result<()> {
        let mut select = self.connection.prepare_cached("SELECT 1 FROM sets WHERE name = ?1 AND until <= ?2")?;
        if select.exists(params![name, self.now.as_millis()])? { self.remove_set(name) } else { Ok(()) }
    }
}
