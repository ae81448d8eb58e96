//! Who was found, in the order of how long they have been inactive: on disk, so that ten million users need no more memory than ten.
//!
//! A private temporary database of SQLite, which removes itself. It is filled, then sorted once, then read in pages.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, Row, params};

use super::evidence::{Cover, Evidence, Kind, Latest, Registered, Standing, Trust};
use crate::{clock::Timestamp, token::claims::SubjectId};

/// How much of it is in memory, in KiB.
const CACHE: i32 = 16 * 1024;

const SCHEMA: &str = "\
CREATE TABLE found (certain INTEGER, at INTEGER, user TEXT, recorded INTEGER, created INTEGER, last_login INTEGER, last_active INTEGER,
    registered INTEGER) STRICT;
CREATE TABLE plan (certain INTEGER, at INTEGER, user TEXT, recorded INTEGER, created INTEGER, last_login INTEGER, last_active INTEGER,
    registered INTEGER, PRIMARY KEY (certain, at, user)) STRICT, WITHOUT ROWID;";

/// Why a plan cannot be kept: the disk, most likely.
#[derive(Debug, thiserror::Error)]
#[error("the plan cannot be kept in the temporary directory; SQLITE_TMPDIR or TMPDIR names another")]
pub struct PlanError(#[from] rusqlite::Error);

/// A user who was not seen since, and the evidence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Who.
    pub user: SubjectId,
    /// All that is known.
    pub evidence: Evidence,
}

/// What came out of looking at all users.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// All that were looked at.
    pub known: u64,
    /// Those who were seen since.
    pub active: u64,
    /// Those who were not, for certain.
    pub inactive: u64,
    /// Those who were not, but may have been active unseen.
    pub uncertain: u64,
    /// Those who are left out.
    pub excluded: u64,
    /// Those who are blocked already.
    pub blocked: u64,
    /// What the issuer told that cannot be read.
    pub unreadable: u64,
    /// Of the inactive ones, by where their latest activity is known from.
    pub evidence: BTreeMap<Kind, u64>,
    /// Of the inactive ones, by what makes it certain.
    pub covers: BTreeMap<Cover, u64>,
    /// The one who has been inactive for longest, and the one who has for shortest.
    pub span: Option<(Timestamp, Timestamp)>,
}

/// A plan. Clones share it.
#[derive(Clone, Debug)]
pub struct Plan {
    connection: Arc<Mutex<Connection>>,
    /// Since when they have been inactive.
    pub since: Timestamp,
    /// What that rests on.
    pub trust: Trust,
    /// How many there are.
    pub counts: Counts,
}

impl Plan {
    /// An empty plan: nobody was found yet.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new(since: Timestamp, trust: Trust) -> Result<Self, PlanError> {
        // Without a name it is a file that SQLite removes by itself.
        let connection = Connection::open("")?;
        connection.pragma_update(None, "cache_size", -CACHE)?;
        connection.pragma_update(None, "temp_store", "FILE")?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), since, trust, counts: Counts::default() })
    }

    /// Adds users who were not seen since; those who were are counted only.
    ///
    /// # Errors
    /// [`PlanError`].
    pub async fn add(&mut self, users: Vec<Finding>) -> Result<(), PlanError> {
        let mut found = Vec::new();
        for finding in users {
            let standing = finding.evidence.judge(self.since, &self.trust);
            self.counts.add(standing, finding.evidence.latest());
            if standing != Standing::Active {
                found.push((matches!(standing, Standing::Inactive(_)), finding));
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        self.with(move |connection| {
            let transaction = connection.transaction()?;
            {
                let mut insert =
                    transaction.prepare_cached("INSERT INTO found VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
                for (certain, Finding { user, evidence }) in &found {
                    let millis = |kind| evidence.of(kind).map(Timestamp::as_millis);
                    let at = evidence.latest().map_or(i64::MIN, |latest| latest.at.as_millis());
                    let [recorded, created, last_login, last_active] =
                        [Kind::Recorded, Kind::Created, Kind::LastLogin, Kind::LastActive].map(millis);
                    let registered = evidence
                        .registered
                        .map(|registered| i64::from(registered.never_logged_in) + 2 * i64::from(registered.doubtful));
                    let user = user.as_str();
                    insert.execute(params![
                        certain,
                        at,
                        user,
                        recorded,
                        created,
                        last_login,
                        last_active,
                        registered
                    ])?;
                }
            }
            transaction.commit()
        })
        .await
    }

    /// Brings all that was added into its order. From then on, [`page`](Self::page) finds it.
    ///
    /// # Errors
    /// [`PlanError`].
    pub async fn sort(&self) -> Result<(), PlanError> {
        self.with(|connection| {
            connection.execute_batch(
                "BEGIN; INSERT OR IGNORE INTO plan SELECT * FROM found ORDER BY certain, at, user; DROP TABLE found; COMMIT;",
            )
        })
        .await
    }

    /// Some of those who are inactive, or of whom it is uncertain: those behind `after`, the longest inactive first.
    ///
    /// # Errors
    /// [`PlanError`].
    pub async fn page(&self, certain: bool, after: Option<&Finding>, limit: u64) -> Result<Vec<Finding>, PlanError> {
        let after = after.map(|after| (sorted_at(after), after.user.as_str().to_owned()));
        let (at, user) = after.unwrap_or((i64::MIN, String::new()));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.with(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT user, recorded, created, last_login, last_active, registered FROM plan \
                 WHERE certain = ?1 AND (at, user) > (?2, ?3) ORDER BY at, user LIMIT ?4",
            )?;
            select.query_map(params![certain, at, user, limit], finding)?.collect()
        })
        .await
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, PlanError> {
        let connection = Arc::clone(&self.connection);
        let work = move || work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner));
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(PlanError(rusqlite::Error::InvalidQuery)),
        }
    }
}

impl Counts {
    fn add(&mut self, standing: Standing, latest: Option<Latest>) {
        match standing {
            Standing::Active => self.active += 1,
            Standing::Uncertain => self.uncertain += 1,
            Standing::Inactive(cover) => {
                self.inactive += 1;
                *self.covers.entry(cover).or_default() += 1;
                if let Some(Latest { at, kind }) = latest {
                    *self.evidence.entry(kind).or_default() += 1;
                    let (oldest, newest) = self.span.unwrap_or((at, at));
                    self.span = Some((oldest.min(at), newest.max(at)));
                }
            }
        }
    }
}

fn sorted_at(finding: &Finding) -> i64 {
    finding.evidence.latest().map_or(i64::MIN, |latest| latest.at.as_millis())
}

fn finding(row: &Row<'_>) -> rusqlite::Result<Finding> {
    let user = row.get_ref(0)?.as_str()?;
    let user = SubjectId::try_from(user)
        .map_err(|fault| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(fault)))?;
    let time = |column: usize| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millis));
    let registered = match row.get::<_, Option<i64>>(5)? {
        None => None,
        Some(flags) => Some(Registered {
            created: time(2)?,
            last_login: time(3)?,
            last_active: time(4)?,
            never_logged_in: flags & 1 != 0,
            doubtful: flags & 2 != 0,
        }),
    };
    Ok(Finding { user, evidence: Evidence { recorded: time(1)?, registered } })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn day(day: u32) -> Timestamp {
        Timestamp::from_secs(1_700_000_000).plus(DAY * day)
    }

    fn recorded(user: &str, at: u32) -> Finding {
        Finding { user: user.try_into().unwrap(), evidence: Evidence { recorded: Some(day(at)), registered: None } }
    }

    #[tokio::test]
    async fn who_was_found_comes_in_order_and_in_pages() {
        let trust = Trust { recorded_since: Some(day(0)), ..Trust::default() };
        let mut plan = Plan::new(day(50), trust).unwrap();
        let never = Registered { created: Some(day(3)), never_logged_in: true, ..Registered::default() };
        let new =
            Finding { user: "new".try_into().unwrap(), evidence: Evidence { recorded: None, registered: Some(never) } };
        plan.add(vec![recorded("c", 20), recorded("a", 20), recorded("late", 50), recorded("b", 10)]).await.unwrap();
        plan.add(vec![new.clone(), recorded("b", 10)]).await.unwrap();
        plan.sort().await.unwrap();
        let first = plan.page(true, None, 2).await.unwrap();
        assert_eq!(first, [new, recorded("b", 10)]);
        let rest = plan.page(true, first.last(), 10).await.unwrap();
        assert_eq!(rest, [recorded("a", 20), recorded("c", 20)]);
        assert_eq!(plan.page(true, rest.last(), 10).await.unwrap(), []);
        assert_eq!(plan.page(false, None, 10).await.unwrap(), []);
        let Counts { active, inactive, uncertain, span, .. } = plan.counts.clone();
        assert_eq!((active, inactive, uncertain), (1, 5, 0));
        assert_eq!(span, Some((day(3), day(20))));
        assert_eq!(plan.counts.evidence, BTreeMap::from([(Kind::Created, 1), (Kind::Recorded, 4)]));
    }

    #[tokio::test]
    async fn those_of_whom_it_is_uncertain_are_apart() {
        let mut plan = Plan::new(day(50), Trust::default()).unwrap();
        let nothing = Finding { user: "nothing".try_into().unwrap(), evidence: Evidence::default() };
        plan.add(vec![recorded("a", 20), nothing.clone()]).await.unwrap();
        plan.sort().await.unwrap();
        assert_eq!(plan.page(true, None, 10).await.unwrap(), []);
        assert_eq!(plan.page(false, None, 1).await.unwrap(), std::slice::from_ref(&nothing));
        assert_eq!(plan.page(false, Some(&nothing), 10).await.unwrap(), [recorded("a", 20)]);
    }
}
