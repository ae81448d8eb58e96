//! What the register writes: when sessions were active, in batches.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    super::live::{LiveSession, TokenSession},
    SessionRegister,
};
use crate::{activity::Writing, clock::Timestamp, store::StoreError};

/// The most sessions that are written in one call of the store.
const BATCH: usize = 1000;

/// How many sessions are opened at once that the store could not be asked about when they were first seen.
const OPENINGS: usize = 64;

/// How often sessions that were idle for longer than they are kept are removed from the index.
const TIDYING: Duration = Duration::from_secs(3600);

impl SessionRegister {
    /// Writes that the session was active. Failing, it is written with the next flush, as if the store had been out.
    pub async fn record(&self, session: &TokenSession) {
        let Some(live) = session.live.get().filter(|_| self.cache.is_current()) else { return };
        let skew = self.settings.retention.clock_skew;
        let active = live.send(self.clock.now(), skew);
        let batch = [(live.key.clone(), active)];
        let written = self.store.sessions().record_session_activity(&batch, skew);
        match timeout(self.settings.read_timeout, written).await {
            Ok(Ok(before)) => {
                live.took(active, before.first().copied().flatten(), skew);
                self.metrics.written.inc();
            }
            Ok(Err(_)) | Err(_) => drop(self.metrics.failures.inc()),
        }
        // In any case: a store that takes no writes is not tried by each request, but by each flush.
        live.record(active);
    }

    /// Writes what is due, or all that waits. What the store does not take waits on.
    ///
    /// # Errors
    /// The store's, at its first refusal.
    ///
    /// # Cancel safety
    /// Dropping the future loses what was being written: call it only from a task that is not cancelled.
    pub async fn flush(self: &Arc<Self>, all: bool) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut waiting = self.pool.take(if all { Timestamp::MAX } else { now });
        while !waiting.is_empty() {
            let rest = waiting.split_off(waiting.len().min(BATCH));
            if let Err(error) = self.write(&waiting, now).await {
                waiting.extend(rest);
                self.pool.put_back(waiting, now);
                self.metrics.failures.inc();
                return Err(error);
            }
            waiting = rest;
        }
        Ok(())
    }

    async fn write(self: &Arc<Self>, sessions: &[Arc<LiveSession>], now: Timestamp) -> Result<(), StoreError> {
        let openings = stream::iter(sessions.to_vec()).map(|session| self.open_late(session));
        let opened: Vec<bool> = openings.buffered(OPENINGS).try_collect().await?;
        let skew = self.settings.retention.clock_skew;
        let sent: Vec<Timestamp> = sessions.iter().map(|session| session.send(now, skew)).collect();
        // What was written before a request was admitted is not written twice.
        let new = |session: &LiveSession, sent: Timestamp, opened: bool| opened && !session.has_sent(sent);
        let kept: Vec<_> = sessions
            .iter()
            .zip(&sent)
            .zip(opened)
            .filter_map(|((session, sent), opened)| new(session, *sent, opened).then_some((session, *sent)))
            .collect();
        let batch: Vec<_> = kept.iter().map(|(session, sent)| (session.key.clone(), *sent)).collect();
        let before = self.store.sessions().record_session_activity(&batch, skew).await?;
        for ((session, sent), before) in kept.iter().zip(before) {
            session.took(*sent, before, skew);
        }
        self.metrics.written.inc_by(batch.len() as u64);
        for (session, sent) in sessions.iter().zip(sent) {
            self.pool.written(session, sent);
        }
        Ok(())
    }

    /// Opens a session if the store could not be asked about it before; false: it will not have it, and must not hold up the others.
    async fn open_late(self: &Arc<Self>, session: Arc<LiveSession>) -> Result<bool, StoreError> {
        if session.opened().is_some() {
            return Ok(true);
        }
        match self.ask(&session, session.told).await {
            Ok(()) => Ok(true),
            Err(error @ StoreError::Refused { .. }) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a session cannot be recorded");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes every `flush_interval` until it is told to stop, and then once more.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(self.settings.activity.flush_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut outcome = Writing::of("the activity of sessions");
        let mut tidied = Instant::now();
        loop {
            let stopping = tokio::select! {
                () = stop.cancelled() => true,
                _ = ticks.tick() => false,
            };
            outcome.went(&self.flush(stopping).await, stopping);
            if stopping {
                return;
            }
            self.pool.tidy();
            if tidied.elapsed() >= TIDYING {
                tidied = Instant::now();
                self.tables.doubt();
                self.forget_idle().await;
            }
        }
    }

    /// Keeps the index small. What was idle for longer than any limit stays so without it. Failing, it is tried again the next time.
    async fn forget_idle(&self) {
        let retention = &self.settings.retention;
        let idle = self.tables.current().limits.longest_idle().unwrap_or(retention.session);
        let before = self.clock.now().minus(idle.saturating_add(retention.tokens()));
        for (issuer, _) in &self.settings.issuers {
            if let Err(error) = self.store.sessions().forget_idle_sessions(issuer, before).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "idle sessions could not be forgotten");
            }
        }
    }
}
