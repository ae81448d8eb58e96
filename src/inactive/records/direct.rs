//! The store of this process.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::try_join_all;

use super::{BlockedBy, Known, MAX_UNFINISHED, Overview, Records, RecordsError, RunChange, RunState, TERM};
use crate::{
    activity::{
        ActivitySettings, Recorder,
        upkeep::{UpkeepSettings, recording},
    },
    clock::{Clock, Timestamp},
    marker::{Block, Marker, MarkerKey, MarkerRecord, Reading, Source, ledger::Ledger},
    store::{Notes, Seen, StoreError},
    telemetry::audit::{self, Actor},
    token::claims::{IssuerName, Subject, SubjectId},
};

/// How long notes may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The store of this process, and what waits to be written to it.
#[derive(Clone, Debug)]
pub struct Direct {
    ledger: Ledger,
    recorder: Arc<Recorder>,
    notes: Arc<dyn Notes>,
    /// How much older than the truth a recorded time can be.
    delay: Duration,
    upkeep: UpkeepSettings,
    clock: Clock,
}

impl Direct {
    /// What `ledger`, `recorder` and `notes` hold, where activity is recorded and kept so.
    #[must_use]
    pub fn new(
        ledger: Ledger,
        recorder: Arc<Recorder>,
        notes: Arc<dyn Notes>,
        activity: ActivitySettings,
        upkeep: UpkeepSettings,
        clock: Clock,
    ) -> Self {
        let delay = activity.resolution + activity.flush_interval;
        Self { ledger, recorder, notes, delay, upkeep, clock }
    }

    /// With `may_be_stale`, the names of markers in memory are believed: hardly anybody has one.
    async fn known(
        &self,
        subject: Subject,
        written: Option<Timestamp>,
        may_be_stale: bool,
    ) -> Result<Known, StoreError> {
        let last_activity = written.max(self.recorder.pending(&subject));
        let key = MarkerKey::block(&subject);
        let block = if may_be_stale && self.ledger.store().lacks(&key) {
            Reading::Absent
        } else {
            self.ledger.look_up(&key).await?
        };
        Ok(match block {
            // It refuses, so it blocks.
            Reading::Unreadable => {
                Known { last_activity, blocked: Some(BlockedBy { by: None, source: None, at: Timestamp::MIN }) }
            }
            Reading::Present(MarkerRecord { marker: Marker::Block(block), by, source, .. }) => {
                if block.holds(self.clock.now()) {
                    Known { last_activity, blocked: Some(BlockedBy { by, source, at: block.at }) }
                } else {
                    let ended = block.until.filter(|_| block.blocked).unwrap_or(block.at);
                    Known { last_activity: last_activity.max(Some(ended)), blocked: None }
                }
            }
            Reading::Absent | Reading::Present(_) => Known { last_activity, blocked: None },
        })
    }
}

/// The name of the lease, the progress and the queue of an issuer's runs.
fn name(issuer: &IssuerName) -> String {
    format!("inactive:{issuer}")
}

async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(StoreError::timed_out(&"notes".into())))
}

#[async_trait]
impl Records for Direct {
    async fn overview(&self, issuer: &IssuerName, since: Timestamp) -> Result<Overview, RecordsError> {
        let recording = in_time(recording(&*self.notes, issuer)).await?;
        let count = self.ledger.store().count_activity(issuer, since).await?;
        let now = self.clock.now();
        let kept_since = now.minus(self.upkeep.retention);
        // Nobody who records lets it grow old.
        let recording = recording.filter(|recording| now.since(recording.last) <= self.upkeep.max_gap);
        let recorded_since = recording.map(|recording| recording.since.max(kept_since));
        Ok(Overview { now, recorded_since, kept_since, delay: self.delay, count })
    }

    async fn inactive(
        &self,
        issuer: &IssuerName,
        since: Timestamp,
        after: Option<&Seen>,
        limit: usize,
    ) -> Result<Vec<Seen>, RecordsError> {
        Ok(self.ledger.store().inactive(issuer, since, after, limit.min(super::MAX_PAGE)).await?)
    }

    async fn look_up(&self, issuer: &IssuerName, users: &[SubjectId]) -> Result<Vec<Known>, RecordsError> {
        let written = self.ledger.store().last_activities(issuer, users).await?;
        // Whoever asks about many asks again about each before anything is done to them.
        let many = users.len() > 1;
        let known = users
            .iter()
            .zip(written)
            .map(|(user, written)| self.known(Subject { issuer: issuer.clone(), id: user.clone() }, written, many));
        Ok(try_join_all(known).await?)
    }

    async fn block(&self, subject: &Subject, blocked: bool, by: &str, reason: &str) -> Result<(), RecordsError> {
        let key = MarkerKey::block(subject);
        // After what is stored, even within the same millisecond, and even if the writer's clock was ahead.
        let stored = self.ledger.look_up(&key).await?.present();
        let now = self.clock.now();
        let at = stored.map_or(now, |stored| now.max(stored.marker.at().plus(Duration::from_millis(1))));
        let marker = Marker::Block(Block { blocked, at, until: None });
        let record =
            MarkerRecord { by: Some(by.to_owned()), reason: Some(reason.to_owned()), ..MarkerRecord::new(marker) };
        let result = self.ledger.write(&key, &record.written_by(Source::Inactive)).await;
        let actor = Actor { who: by.to_owned(), from: None, event: None };
        audit::record(&actor, if blocked { "block" } else { "unblock" }, &key, &marker, &result);
        Ok(result.map(drop)?)
    }

    async fn renew(&self, subject: &Subject) -> Result<(), RecordsError> {
        Ok(self.ledger.store().record_activity(&[(subject.clone(), self.clock.now())]).await?)
    }

    async fn forget(&self, subject: &Subject) -> Result<(), RecordsError> {
        Ok(self.ledger.store().forget_activity(&[(subject.clone(), self.clock.now())]).await?)
    }

    async fn run(&self, issuer: &IssuerName) -> Result<RunState, RecordsError> {
        let name = name(issuer);
        let (owner, progress, (unfinished, _)) = in_time(async {
            tokio::try_join!(self.notes.leader(&name), self.notes.note(&name), self.notes.jobs(&name, MAX_UNFINISHED))
        })
        .await?;
        Ok(RunState { owner, progress, unfinished: unfinished.into_iter().collect() })
    }

    async fn hold(&self, issuer: &IssuerName, owner: &str, change: &RunChange) -> Result<bool, RecordsError> {
        let name = name(issuer);
        let held = in_time(async {
            if !self.notes.lease(&name, owner, TERM).await? {
                return Ok(false);
            }
            if let Some(progress) = &change.progress {
                // Only who holds the lease writes it; what was there before is replaced.
                let before = self.notes.note(&name).await?;
                self.notes.swap_note(&name, before.as_deref(), progress.as_deref()).await?;
            }
            if !change.begin.is_empty() {
                let begin: Vec<_> = change.begin.iter().map(|(id, value)| (id.clone(), value.clone())).collect();
                self.notes.put_jobs(&name, &begin).await?;
            }
            if !change.end.is_empty() {
                self.notes.remove_jobs(&name, &change.end).await?;
            }
            Ok(true)
        });
        Ok(held.await?)
    }

    async fn let_go(&self, issuer: &IssuerName, owner: &str) -> Result<(), RecordsError> {
        Ok(in_time(self.notes.release(&name(issuer), owner)).await?)
    }
}
