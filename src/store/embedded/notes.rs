//! Notes. Only jobs have to be on disk when they are acknowledged, see `change`.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    EmbeddedStore,
    change::Change,
    reader::{Question, Read},
    writer::{Remember, Write},
};
use crate::store::{
    Notes, StoreError,
    notes::{NoteDigest, check_name, check_value},
};

/// The most rows of one job: marker writes and reads wait for no more than one of these.
pub(super) const CHUNK: usize = 500;

impl EmbeddedStore {
    /// Whether there was what the change expected, or may be more of what it removes.
    pub(super) async fn change(&self, change: Change) -> Result<bool, StoreError> {
        self.write(|answer| Write::Change(change, answer)).await
    }

    fn check_names<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<(), StoreError> {
        names.into_iter().try_for_each(|name| check_name(&self.name, name))
    }

    fn check_values<'a>(&self, values: impl IntoIterator<Item = &'a str>) -> Result<(), StoreError> {
        values.into_iter().try_for_each(|value| check_value(&self.name, value))
    }

    /// What is in memory needs no thread, but ends with the store.
    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        if self.writes.is_closed() { Err(self.stopped()) } else { Ok(()) }
    }
}

#[async_trait]
impl Notes for EmbeddedStore {
    async fn seen(&self, source: &str, events: &[NoteDigest]) -> Result<Vec<bool>, StoreError> {
        self.check_names([source])?;
        self.check_open()?;
        Ok(self.memory.remembered.has(source, events))
    }

    async fn remember(&self, source: &str, events: &[NoteDigest], capacity: usize) -> Result<(), StoreError> {
        self.check_names([source])?;
        for chunk in events.chunks(CHUNK) {
            let remember = Remember { source: source.to_owned(), events: chunk.to_vec(), capacity };
            self.write(|answer| Write::Remember(remember, answer)).await?;
        }
        Ok(())
    }

    async fn note(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.check_names([name])?;
        self.query(|answer| Read::Notes(Question::Note { name: name.to_owned(), answer })).await
    }

    async fn swap_note(&self, name: &str, expected: Option<&str>, value: Option<&str>) -> Result<bool, StoreError> {
        self.check_names([name])?;
        self.check_values(value)?;
        let [expected, value] = [expected, value].map(|text| text.map(str::to_owned));
        self.change(Change::Swap { name: name.to_owned(), expected, value }).await
    }

    async fn lease(&self, name: &str, owner: &str, term: Duration) -> Result<bool, StoreError> {
        self.check_names([name])?;
        self.check_values([owner])?;
        self.check_open()?;
        Ok(self.leases.take(name, owner, term))
    }

    async fn release(&self, name: &str, owner: &str) -> Result<(), StoreError> {
        self.check_names([name])?;
        self.check_open()?;
        self.leases.release(name, owner);
        Ok(())
    }

    async fn leader(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.check_names([name])?;
        self.check_open()?;
        Ok(self.leases.owner(name))
    }

    async fn put_jobs(&self, queue: &str, jobs: &[(String, String)]) -> Result<(), StoreError> {
        self.check_names([queue])?;
        self.check_names(jobs.iter().map(|(id, _)| &**id))?;
        self.check_values(jobs.iter().map(|(_, value)| &**value))?;
        for chunk in jobs.chunks(CHUNK) {
            self.change(Change::PutJobs { queue: queue.to_owned(), jobs: chunk.to_vec() }).await?;
        }
        Ok(())
    }

    async fn jobs(&self, queue: &str, limit: usize) -> Result<(Vec<(String, String)>, usize), StoreError> {
        self.check_names([queue])?;
        self.query(|answer| Read::Notes(Question::Jobs { queue: queue.to_owned(), limit, answer })).await
    }

    async fn remove_jobs(&self, queue: &str, ids: &[String]) -> Result<(), StoreError> {
        self.check_names([queue])?;
        for chunk in ids.chunks(CHUNK) {
            self.change(Change::RemoveJobs { queue: queue.to_owned(), ids: chunk.to_vec() }).await?;
        }
        Ok(())
    }

    async fn add_members(&self, sets: &[(String, String)], keep: Duration) -> Result<(), StoreError> {
        self.check_names(sets.iter().map(|(set, _)| &**set))?;
        self.check_values(sets.iter().map(|(_, member)| &**member))?;
        for chunk in sets.chunks(CHUNK) {
            self.change(Change::AddMembers { sets: chunk.to_vec(), keep }).await?;
        }
        Ok(())
    }

    async fn members(&self, set: &str) -> Result<Vec<String>, StoreError> {
        self.check_names([set])?;
        self.query(|answer| Read::Notes(Question::Members { set: set.to_owned(), answer })).await
    }

    async fn remove_set(&self, set: &str) -> Result<(), StoreError> {
        self.check_names([set])?;
        self.change(Change::RemoveSet { name: set.to_owned() }).await.map(drop)
    }
}
