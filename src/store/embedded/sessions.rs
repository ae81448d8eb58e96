//! Sessions. Whoever comes upon one that is known asks the thread that reads; the other one decides what is new.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    EmbeddedStore,
    change::Change,
    reader::{Question, Read},
    writer::Write,
};
use crate::{
    clock::Timestamp,
    session::SessionKey,
    store::{
        StoreError,
        notes::{check_name, check_value},
        sessions::{Opening, Sessions, StoredSession},
    },
    token::claims::{IssuerName, SessionId, Subject},
};

#[async_trait]
impl Sessions for EmbeddedStore {
    async fn open_session(&self, opening: &Opening) -> Result<StoredSession, StoreError> {
        if let Some(kept) = self.session(&opening.key).await?
            && !opening.meet(Some(&kept)).1
        {
            return Ok(kept);
        }
        self.write(|answer| Write::Open(opening.clone(), answer)).await
    }

    async fn session(&self, key: &SessionKey) -> Result<Option<StoredSession>, StoreError> {
        self.query(|answer| Read::Session { key: key.clone(), answer }).await
    }

    async fn sessions_of(
        &self,
        subject: &Subject,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<(SessionId, StoredSession)>, StoreError> {
        let (subject, after) = (subject.clone(), after.cloned());
        self.query(|answer| Read::Sessions { subject, after, limit, answer }).await
    }

    async fn record_session_activity(
        &self,
        batch: &[(SessionKey, Timestamp)],
        clock_skew: Duration,
    ) -> Result<Vec<Option<Timestamp>>, StoreError> {
        self.write(|answer| Write::SessionActivity { batch: batch.to_vec(), clock_skew, answer }).await
    }

    /// Nothing is to be done: when a session was last active is in its row, which goes when its time is over.
    async fn forget_idle_sessions(&self, _: &IssuerName, _: Timestamp) -> Result<(), StoreError> {
        self.check_open()
    }

    async fn keep_limits(&self, name: &str, table: &str) -> Result<(), StoreError> {
        check_name(&self.name, name)?;
        check_value(&self.name, table)?;
        self.change(Change::KeepLimits { name: name.to_owned(), table: table.to_owned() }).await.map(drop)
    }

    async fn limits(&self, name: &str) -> Result<Option<String>, StoreError> {
        check_name(&self.name, name)?;
        self.query(|answer| Read::Notes(Question::Limits { name: name.to_owned(), answer })).await
    }
}
