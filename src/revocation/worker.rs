//! Working off what is to be revoked.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{GIVE_UP, Issuer, LONGEST_PAUSE, job::Job};
use crate::{management::tenant::TenantError, store::StoreError, telemetry::audit};

/// How often the queue is looked at: other gateways put jobs into it.
const PAUSE: Duration = Duration::from_secs(1);

/// The pause after a first failed attempt; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The most jobs that are looked at in one round.
const BATCH: usize = 1000;

/// How many are under way at once.
const AT_ONCE: usize = 2;

/// How often a job was tried, and when it is tried again.
struct Attempts {
    failed: u32,
    next: Instant,
}

/// What became of an attempt.
enum Outcome {
    Done,
    /// The issuer knows no such session or user any more.
    Gone,
    GivenUp(Option<TenantError>),
    Failed(TenantError),
}

impl Issuer {
    /// Leaves the work to another gateway.
    pub(super) fn stand_by(&self) {
        self.metrics.set_waiting(&self.name, 0);
    }

    /// Works until the lease is lost.
    pub(super) async fn work(&self, lost: CancellationToken) {
        let mut attempts = HashMap::new();
        while !lost.is_cancelled() {
            if let Err(error) = self.round(&mut attempts, &lost).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(issuer = %self.name, error, "what is to be revoked at the issuer cannot be read");
            }
            tokio::select! {
                () = lost.cancelled() => {}
                () = self.wake.notified() => {}
                () = sleep(PAUSE) => {}
            }
        }
    }

    async fn round(
        &self,
        attempts: &mut HashMap<String, Attempts>,
        lost: &CancellationToken,
    ) -> Result<(), StoreError> {
        let (jobs, mut waiting) = self.notes.jobs(&self.queue, BATCH).await?;
        self.metrics.set_waiting(&self.name, waiting);
        let ids: HashSet<_> = jobs.iter().map(|(id, _)| id).collect();
        attempts.retain(|id, _| ids.contains(id));
        let now = Instant::now();
        let due = jobs.into_iter().filter(|(id, _)| attempts.get(id).is_none_or(|attempts| attempts.next <= now));
        let due: Vec<_> = due.collect();
        let outcomes = stream::iter(due)
            .take_until(lost.cancelled())
            .map(async |(id, text)| {
                let job = Job::decode(&text);
                let outcome = self.attempt(job.as_ref()).await;
                (id, job, outcome)
            })
            .buffer_unordered(AT_ONCE);
        let mut outcomes = std::pin::pin!(outcomes);
        while let Some((id, job, outcome)) = outcomes.next().await {
            let failed = attempts.get(&id).map_or(0, |attempts| attempts.failed) + 1;
            if self.settle(job.as_ref(), outcome, failed) {
                self.notes.remove_jobs(&self.queue, std::slice::from_ref(&id)).await?;
                waiting = waiting.saturating_sub(1);
                self.metrics.set_waiting(&self.name, waiting);
            } else {
                let pause = FIRST_PAUSE.saturating_mul(1 << (failed - 1).min(16)).min(LONGEST_PAUSE);
                attempts.insert(id, Attempts { failed, next: Instant::now() + pause });
            }
        }
        Ok(())
    }

    async fn attempt(&self, job: Option<&Job>) -> Outcome {
        let Some(job) = job else { return Outcome::GivenUp(None) };
        let late = self.clock.now().since(job.asked) >= GIVE_UP;
        match job.revocation(self.extent).call(&self.tenant).await {
            Ok(_) => Outcome::Done,
            Err(TenantError::Status { status: StatusCode::NOT_FOUND, .. } | TenantError::Gone) => Outcome::Gone,
            Err(error) if late || error.is_final() => Outcome::GivenUp(Some(error)),
            Err(error) => Outcome::Failed(error),
        }
    }

    /// Writes down what became of a job; whether that was the end of it.
    fn settle(&self, job: Option<&Job>, outcome: Outcome, attempts: u32) -> bool {
        let (label, error) = match outcome {
            Outcome::Done => ("revoked", None),
            Outcome::Gone => ("gone", None),
            Outcome::GivenUp(error) => ("given_up", error),
            Outcome::Failed(error) => ("failed", Some(error)),
        };
        self.metrics.count(&self.name, label);
        let error = error.as_ref().map(|error| error as &dyn std::error::Error);
        if label == "failed" {
            tracing::warn!(issuer = %self.name, attempts, error, "revocation at the issuer failed; it is tried again");
            return false;
        }
        let what = job.map(|job| job.revocation(self.extent).what);
        let key = job.map(Job::key);
        audit::record_revocation(what.unwrap_or("revocation"), key.as_ref(), label, attempts, error);
        true
    }
}
