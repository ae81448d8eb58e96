//! The SQLite file and every statement that meets it.

mod activity;
mod notes;
mod sessions;

use std::{path::Path, sync::Arc, time::Duration};

use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params, types::ValueRef,
};

pub(super) use self::{
    activity::{ActivityTable, Part, Place},
    notes::NoteTables,
    sessions::SessionTable,
};
use super::EmbeddedOpenError;
use crate::{
    clock::{Clock, Timestamp},
    store::StoreError,
    token::claims::Subject,
};

/// `PRAGMA application_id` of our files: "Port".
const APPLICATION_ID: i64 = 0x506f_7274;

/// What leads from each version of the schema to the next, from an empty file on. Never changed, only added to.
const STEPS: [&str; 3] = [MARKERS_AND_ACTIVITY, notes::SCHEMA, sessions::SCHEMA];

/// `PRAGMA user_version` of our files.
#[expect(clippy::cast_possible_wrap, reason = "there are not that many")]
const SCHEMA_VERSION: i64 = STEPS.len() as i64;

const MARKERS_AND_ACTIVITY: &str = "\
CREATE TABLE markers (key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL, expires INTEGER) STRICT, WITHOUT ROWID;
CREATE INDEX markers_expires ON markers (expires) WHERE expires IS NOT NULL;
CREATE TABLE activity (issuer TEXT NOT NULL, subject TEXT NOT NULL, seen INTEGER NOT NULL, PRIMARY KEY (issuer, subject))
    STRICT, WITHOUT ROWID;
CREATE INDEX activity_seen ON activity (issuer, seen);";

const SELECT_MARKER: &str = "SELECT value FROM markers WHERE key = ?1 AND (expires IS NULL OR expires > ?2)";

/// How long to wait for another connection to let go: a backup, or somebody's `sqlite3`.
const BUSY: Duration = Duration::from_secs(2);

/// One connection to the file.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    clock: Clock,
}

impl Database {
    /// The connection that makes and checks the file. What it commits is on disk.
    pub(super) fn open(file: &Path, clock: Clock) -> Result<Self, EmbeddedOpenError> {
        let database = Self::connect(file, OpenFlags::default(), clock)?;
        database.prepare_file(file)?;
        Ok(database)
    }

    /// A connection whose latest commits a power cut may undo.
    pub(super) fn open_relaxed(file: &Path, clock: Clock) -> Result<Self, EmbeddedOpenError> {
        let database = Self::connect(file, OpenFlags::default(), clock)?;
        let set = database.connection.pragma_update(None, "synchronous", "NORMAL");
        set.map_err(|error| open_fault(file, error))?;
        Ok(database)
    }

    /// A connection that cannot write.
    pub(super) fn open_read_only(file: &Path, clock: Clock) -> Result<Self, EmbeddedOpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Self::connect(file, flags, clock)
    }

    fn connect(file: &Path, flags: OpenFlags, clock: Clock) -> Result<Self, EmbeddedOpenError> {
        // A path is a path: no `file:` URIs.
        let connection = Connection::open_with_flags(file, flags - OpenFlags::SQLITE_OPEN_URI)
            .and_then(|connection| connection.busy_timeout(BUSY).map(|()| connection))
            .map_err(|error| open_fault(file, error))?;
        Ok(Self { connection, clock })
    }

    fn prepare_file(&self, file: &Path) -> Result<(), EmbeddedOpenError> {
        let failed = |error| open_fault(file, error);
        let pragma = |name: &str| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let application = pragma("application_id").map_err(failed)?;
        let version = pragma("user_version").map_err(failed)?;
        let objects = "SELECT count(*) FROM sqlite_schema";
        let objects: i64 = self.connection.query_row(objects, [], |row| row.get(0)).map_err(failed)?;
        let fresh = (application, version, objects) == (0, 0, 0);
        if !fresh && application != APPLICATION_ID {
            return Err(EmbeddedOpenError::Foreign { file: file.to_owned() });
        }
        if version > SCHEMA_VERSION {
            let (found, known) = (version, SCHEMA_VERSION);
            return Err(EmbeddedOpenError::Newer { file: file.to_owned(), found, known });
        }
        self.use_write_ahead_log(file)?;
        if !fresh {
            self.check(file)?;
        }
        self.upgrade(version).map_err(failed)
    }

    fn use_write_ahead_log(&self, file: &Path) -> Result<(), EmbeddedOpenError> {
        let failed = |error| open_fault(file, error);
        let mode: String =
            self.connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(failed)?;
        if mode != "wal" {
            let source = format!("its file system has no write-ahead log (journal mode `{mode}`)").into();
            return Err(EmbeddedOpenError::Unusable { file: file.to_owned(), source });
        }
        self.connection.pragma_update(None, "synchronous", "FULL").map_err(failed)
    }

    /// Makes the schema what it is now: of an older one, or of nothing.
    fn upgrade(&self, version: i64) -> rusqlite::Result<()> {
        if version == SCHEMA_VERSION {
            return Ok(());
        }
        let steps = STEPS[usize::try_from(version).unwrap_or_default()..].join("\n");
        self.connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {steps} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        ))
    }

    /// Looks through the markers, which are few; activity is too much to look through at every start.
    fn check(&self, file: &Path) -> Result<(), EmbeddedOpenError> {
        let check = "PRAGMA quick_check('markers')";
        let found: String =
            self.connection.query_row(check, [], |row| row.get(0)).map_err(|error| open_fault(file, error))?;
        if found == "ok" {
            return Ok(());
        }
        Err(EmbeddedOpenError::Damaged { file: file.to_owned(), problem: found })
    }

    /// The value under a key, unless it has expired.
    pub(super) fn marker(&self, key: &str) -> rusqlite::Result<Option<Vec<u8>>> {
        select_marker(&self.connection, key, self.clock.now())
    }

    /// The notes, to be read.
    pub(super) fn notes(&self) -> NoteTables<'_> {
        NoteTables::new(&self.connection, self.clock.now())
    }

    /// Activity, to be read.
    pub(super) const fn activity(&self) -> ActivityTable<'_> {
        ActivityTable::new(&self.connection)
    }

    /// The sessions, to be read.
    pub(super) fn sessions(&self) -> SessionTable<'_> {
        SessionTable::new(&self.connection, self.clock.now())
    }

    /// Names every stored marker, expired ones too.
    pub(super) fn each_marker(&self, mut name: impl FnMut(&str)) -> rusqlite::Result<()> {
        let mut select = self.connection.prepare("SELECT key FROM markers")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            name(row.get_ref(0)?.as_str()?);
        }
        Ok(())
    }

    /// Does all of `work`, or nothing, and returns when it is committed.
    pub(super) fn transaction<T>(
        &mut self,
        work: impl FnOnce(&Markers<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let markers = Markers { transaction, now: self.clock.now() };
        let result = work(&markers)?;
        markers.transaction.commit()?;
        Ok(result)
    }

    /// Times never go back.
    pub(super) fn record_activity(&mut self, batch: &[(Subject, Timestamp)]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut upsert = transaction.prepare_cached(
                "INSERT INTO activity (issuer, subject, seen) VALUES (?1, ?2, ?3) \
                 ON CONFLICT DO UPDATE SET seen = excluded.seen WHERE excluded.seen > seen",
            )?;
            for (subject, seen) in batch {
                upsert.execute(params![subject.issuer.as_str(), subject.id.as_str(), seen.as_millis()])?;
            }
        }
        transaction.commit()
    }

    /// Does all of `work` on the notes, or nothing, and returns when it is committed.
    pub(super) fn change_notes<T>(
        &mut self,
        work: impl FnOnce(&NoteTables<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let now = self.clock.now();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = work(&NoteTables::new(&transaction, now))?;
        transaction.commit()?;
        Ok(result)
    }

    /// Does all of `work` on the sessions, or nothing, and returns when it is committed.
    pub(super) fn change_sessions<T>(
        &mut self,
        work: impl FnOnce(&SessionTable<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let now = self.clock.now();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = work(&SessionTable::new(&transaction, now))?;
        transaction.commit()?;
        Ok(result)
    }

    /// Removes some expired markers and names them.
    pub(super) fn purge(&mut self, limit: usize) -> rusqlite::Result<Vec<String>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut delete = self.connection.prepare_cached(
            "DELETE FROM markers WHERE key IN (SELECT key FROM markers WHERE expires <= ?1 LIMIT ?2) RETURNING key",
        )?;
        delete.query_map(params![self.clock.now().as_millis(), limit], |row| row.get(0))?.collect()
    }

    /// Whether the file still answers.
    pub(super) fn probe(&self) -> rusqlite::Result<()> {
        self.connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
    }
}

/// The markers within a transaction.
pub(super) struct Markers<'a> {
    transaction: Transaction<'a>,
    now: Timestamp,
}

impl Markers<'_> {
    pub(super) fn get(&self, key: &str) -> rusqlite::Result<Option<Vec<u8>>> {
        select_marker(&self.transaction, key, self.now)
    }

    pub(super) fn put(&self, key: &str, value: &str, expires: Option<Timestamp>) -> rusqlite::Result<()> {
        let mut upsert = self.transaction.prepare_cached(
            "INSERT INTO markers (key, value, expires) VALUES (?1, ?2, ?3) \
             ON CONFLICT DO UPDATE SET value = excluded.value, expires = excluded.expires",
        )?;
        upsert.execute(params![key, value.as_bytes(), expires.map(Timestamp::as_millis)]).map(drop)
    }
}

fn select_marker(connection: &Connection, key: &str, now: Timestamp) -> rusqlite::Result<Option<Vec<u8>>> {
    let mut select = connection.prepare_cached(SELECT_MARKER)?;
    let value = |row: &rusqlite::Row<'_>| match row.get_ref(0)? {
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => Ok(bytes.to_vec()),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => Ok(Vec::new()),
    };
    select.query_row(params![key, now.as_millis()], value).optional()
}

/// An error while opening.
pub(super) fn open_fault(file: &Path, error: rusqlite::Error) -> EmbeddedOpenError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            EmbeddedOpenError::Damaged { file: file.to_owned(), problem: error.to_string() }
        }
        _ => EmbeddedOpenError::Unusable { file: file.to_owned(), source: Box::new(error) },
    }
}

/// An error of an operation: what somebody must mend is refused, the rest is unavailability.
pub(super) fn fault(store: &Arc<str>, error: rusqlite::Error) -> StoreError {
    let remedy = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "its disk is full",
        Some(ErrorCode::ReadOnly) => "its files are read-only",
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => "its file is damaged, restore it from a backup",
        _ => return StoreError::unavailable(store, error),
    };
    StoreError::Refused { store: Arc::clone(store), message: format!("{remedy} ({error})") }
}
