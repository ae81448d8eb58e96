//! Working off what is to be revoked.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{GIVE_UP, Inner, LONGEST_PAUSE, Party, QUEUE, job::Job};
use crate::{event::auth0::tenant::TenantError, store::StoreError, telemetry::audit};

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

impl Inner {
    /// Works until the lease is lost.
    pub(super) async fn work(&self, lost: CancellationToken) {
        let mut attempts = HashMap::new();
        while !lost.is_cancelled() {
            if let Err(error) = self.round(&mut attempts, &lost).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "what is to be revoked at issuers cannot be read");
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
        let (jobs, waiting) = self.notes.jobs(QUEUE, BATCH).await?;
        self.metrics.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        attempts.retain(|id, _| jobs.iter().any(|(job, _)| job == id));
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
                self.notes.remove_jobs(QUEUE, std::slice::from_ref(&id)).await?;
                self.metrics.waiting.dec();
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
        let Some(Party { extent, tenant }) = self.issuers.get(&job.subject.issuer) else {
            // Another gateway may know the issuer, and have the lease before long.
            return if late { Outcome::GivenUp(None) } else { Outcome::Failed(TenantError::Gone) };
        };
        let call = job.call(*extent);
        let body = call.has_body.then(|| serde_json::json!({}));
        match tenant.call(call.method, &call.path, body.as_ref()).await {
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
        self.metrics.count(label);
        let error = error.as_ref().map(|error| error as &dyn std::error::Error);
        if label == "failed" {
            tracing::warn!(attempts, error, "revocation at the issuer failed; it is tried again");
            return false;
        }
        let what = job.and_then(|job| Some(job.call(self.issuers.get(&job.subject.issuer)?.extent).what));
        let key = job.map(Job::key);
        audit::record_revocation(what.unwrap_or("revocation"), key.as_ref(), label, attempts, error);
        true
    }
}
