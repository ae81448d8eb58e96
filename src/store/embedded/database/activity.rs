//! The table of activity, as an index of who was last admitted when.
//!
//! In a table without row ids the index `(issuer, seen)` goes on with the subject: it is in the order of pages, and holds all that they say.

use rusqlite::{
    Connection, OptionalExtension, Row, params,
    types::{ToSqlOutput, ValueRef},
};

use crate::{
    clock::Timestamp,
    store::Seen,
    token::claims::{IssuerName, Subject, SubjectId},
};

/// How many subjects are counted in one step.
const STRIDE: u32 = 100_000;

const PAGE: &str = "SELECT seen, subject FROM activity \
    WHERE issuer = ?1 AND (seen, subject) > (?2, ?3) AND seen < ?4 ORDER BY seen, subject LIMIT ?5";
const STEP: &str = "SELECT seen, subject FROM activity \
    WHERE issuer = ?1 AND (seen, subject) > (?2, ?3) AND seen < ?4 ORDER BY seen, subject LIMIT 1 OFFSET ?5";
const COUNT: &str = "SELECT count(*) FROM activity WHERE issuer = ?1 AND (seen, subject) > (?2, ?3) AND seen < ?4";

/// A place in the order of pages. What stands there need not be readable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in super::super) struct Place {
    seen: i64,
    subject: Box<[u8]>,
}

impl Place {
    /// Before all who were last admitted at this time or later.
    pub(in super::super) fn before(seen: Timestamp) -> Self {
        // No id is empty.
        Self { seen: seen.as_millis(), subject: Box::default() }
    }

    /// That of a subject.
    pub(in super::super) fn of(seen: &Seen) -> Self {
        Self { seen: seen.at.as_millis(), subject: seen.subject.as_str().as_bytes().into() }
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let subject = match row.get_ref(1)? {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.into(),
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => Box::default(),
        };
        Ok(Self { seen: row.get(0)?, subject })
    }

    fn subject(&self) -> ToSqlOutput<'_> {
        ToSqlOutput::Borrowed(ValueRef::Text(&self.subject))
    }

    /// Who stands there, if that is an id.
    fn seen(&self) -> Option<Seen> {
        let subject = SubjectId::try_from(str::from_utf8(&self.subject).ok()?).ok()?;
        Some(Seen { at: Timestamp::from_millis(self.seen), subject })
    }
}

/// A part of the subjects, and where it goes on, unless it was the last.
pub(in super::super) type Part<T> = (T, Option<Place>);

/// Activity, within a transaction if it is to be changed.
pub(in super::super) struct ActivityTable<'a> {
    connection: &'a Connection,
}

impl<'a> ActivityTable<'a> {
    pub(super) const fn new(connection: &'a Connection) -> Self {
        Self { connection }
    }

    /// When subjects were last admitted, in their order.
    pub(in super::super) fn last(
        &self,
        issuer: &IssuerName,
        subjects: &[SubjectId],
    ) -> rusqlite::Result<Vec<Option<Timestamp>>> {
        let mut select =
            self.connection.prepare_cached("SELECT seen FROM activity WHERE issuer = ?1 AND subject = ?2")?;
        let mut last = |subject: &SubjectId| {
            let key = [issuer.as_str(), subject.as_str()];
            select.query_row(key, |row| row.get(0).map(Timestamp::from_millis)).optional()
        };
        subjects.iter().map(&mut last).collect()
    }

    /// Looks at the next `limit` of those who were last admitted before a time. Whoever has no id is left out.
    pub(in super::super) fn page(
        &self,
        issuer: &IssuerName,
        before: Timestamp,
        after: &Place,
        limit: usize,
    ) -> rusqlite::Result<Part<Vec<Seen>>> {
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut select = self.connection.prepare_cached(PAGE)?;
        let values = params![issuer.as_str(), after.seen, after.subject(), before.as_millis(), most];
        let places = select.query_map(values, Place::read)?.collect::<rusqlite::Result<Vec<_>>>()?;
        let page = places.iter().filter_map(Place::seen).collect();
        Ok((page, places.into_iter().nth(limit.saturating_sub(1))))
    }

    /// Counts the next of those who were last admitted before a time.
    pub(in super::super) fn count(
        &self,
        issuer: &IssuerName,
        before: Timestamp,
        after: &Place,
    ) -> rusqlite::Result<Part<u64>> {
        let before = before.as_millis();
        let mut step = self.connection.prepare_cached(STEP)?;
        let values = params![issuer.as_str(), after.seen, after.subject(), before, STRIDE - 1];
        if let Some(place) = step.query_row(values, Place::read).optional()? {
            return Ok((STRIDE.into(), Some(place)));
        }
        let mut count = self.connection.prepare_cached(COUNT)?;
        let values = params![issuer.as_str(), after.seen, after.subject(), before];
        let rest: i64 = count.query_row(values, |row| row.get(0))?;
        Ok((rest.unsigned_abs(), None))
    }

    /// Removes `limit` of those who were last admitted before a time, those first who were not for longest; whether there may be more.
    pub(in super::super) fn forget_before(
        &self,
        issuer: &IssuerName,
        before: Timestamp,
        limit: usize,
    ) -> rusqlite::Result<bool> {
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut delete = self.connection.prepare_cached(
            "DELETE FROM activity WHERE issuer = ?1 AND subject IN (SELECT subject FROM activity \
             WHERE issuer = ?1 AND seen < ?2 ORDER BY seen LIMIT ?3)",
        )?;
        Ok(delete.execute(params![issuer.as_str(), before.as_millis(), most])? >= limit)
    }

    /// Removes subjects unless they were last admitted later.
    pub(in super::super) fn forget(&self, batch: &[(Subject, Timestamp)]) -> rusqlite::Result<()> {
        let mut delete =
            self.connection.prepare_cached("DELETE FROM activity WHERE issuer = ?1 AND subject = ?2 AND seen <= ?3")?;
        batch.iter().try_for_each(|(subject, seen)| {
            delete.execute(params![subject.issuer.as_str(), subject.id.as_str(), seen.as_millis()]).map(drop)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten million rows are neither looked through nor sorted.
    #[test]
    fn everything_goes_by_the_index() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(&super::super::STEPS.join("\n")).unwrap();
        let plan = |statement: &str, parameters: usize| {
            let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
            assert_eq!(explain.parameter_count(), parameters);
            let rows = explain.query_map(rusqlite::params_from_iter(vec![1; parameters]), |row| row.get(3));
            rows.unwrap().collect::<rusqlite::Result<Vec<String>>>().unwrap()
        };
        let bounds = "(issuer=? AND (seen,subject)>(?,?) AND seen<?)";
        for (statement, parameters) in [(PAGE, 5), (STEP, 5), (COUNT, 4)] {
            assert_eq!(
                plan(statement, parameters),
                [format!("SEARCH activity USING COVERING INDEX activity_seen {bounds}")]
            );
        }
    }

    #[test]
    fn large_numbers_are_counted_in_steps() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(&super::super::STEPS.join("\n")).unwrap();
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
                    INSERT INTO activity SELECT 'acme', 'user-' || i, i % 3 FROM n";
        connection.execute(fill, [2 * STRIDE + 7]).unwrap();
        let (table, issuer) = (ActivityTable::new(&connection), IssuerName::try_from("acme").unwrap());
        let (mut steps, mut place) = (Vec::new(), Some(Place::before(Timestamp::MIN)));
        while let Some(after) = place {
            let (count, next) = table.count(&issuer, Timestamp::MAX, &after).unwrap();
            steps.push(count);
            place = next;
        }
        assert_eq!(steps, [u64::from(STRIDE), u64::from(STRIDE), 7]);
    }
}
