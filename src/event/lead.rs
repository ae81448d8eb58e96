//! Work that one gateway of a fleet does at a time: whoever has the lease in the store.
//!
//! A gateway that dies leaves its lease behind, and another takes over when it has run out. One that hangs may go on for a
//! moment after that, beside the other; so whatever is done here must bear being done twice.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::store::Notes;

/// How long a lease lasts.
pub const TERM: Duration = Duration::from_secs(10);

/// How often it is renewed, and asked for by those who do not have it.
const RENEWAL: Duration = Duration::from_secs(2);

/// A piece of work that is to be done by one gateway at a time.
#[derive(Clone, Debug)]
pub struct Lead {
    /// The name of the lease.
    pub name: Arc<str>,
    /// Who this gateway is: a name that no other has.
    pub owner: Arc<str>,
    /// How long the lease lasts.
    pub term: Duration,
}

impl Lead {
    /// Does `work` while this gateway has the lease, again and again, until `stop`. `work` ends when the token that it is given is
    /// cancelled, which means that the lease may be lost; `standby` is called when another gateway has it.
    pub async fn run<F: Future<Output = ()>>(
        &self,
        notes: &dyn Notes,
        stop: &CancellationToken,
        standby: impl Fn(),
        work: impl Fn(CancellationToken) -> F,
    ) {
        let pause = RENEWAL.min(self.term / 4);
        while !stop.is_cancelled() {
            match notes.lease(&self.name, &self.owner, self.term).await {
                Ok(true) => {
                    let lost = stop.child_token();
                    let guard = lost.clone().drop_guard();
                    tokio::select! {
                        () = work(lost.clone()) => {}
                        () = self.renew(notes, &lost, pause) => lost.cancel(),
                    }
                    drop(guard);
                    if stop.is_cancelled() {
                        // Whoever waits need not wait for the term to end; if it fails, they do.
                        let _ = notes.release(&self.name, &self.owner).await;
                        return;
                    }
                }
                Ok(false) => standby(),
                Err(error) => {
                    tracing::debug!(lease = %self.name, error = &error as &dyn std::error::Error, "lease not had");
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Resolves when the lease may be lost.
    async fn renew(&self, notes: &dyn Notes, lost: &CancellationToken, pause: Duration) {
        let mut until = Instant::now() + self.term;
        loop {
            tokio::select! {
                () = lost.cancelled() => return,
                () = sleep(pause) => {}
            }
            let asked = Instant::now();
            match notes.lease(&self.name, &self.owner, self.term).await {
                Ok(true) => until = asked + self.term,
                Ok(false) => return,
                Err(_) if Instant::now() + pause >= until => return,
                Err(_) => {}
            }
        }
    }
}
