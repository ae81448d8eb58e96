//! The end of a gate, as those know it who hold connections.
//!
//! ```text
//! told to stop ──► leaving ───────────────► draining ──────────────► over
//!                  `drain_delay`: requests   `drain_timeout`: nothing   what is left is told, and ended
//!                  are taken as before       new, the rest may end      a moment later
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a tunnel has to take its leave, such as by a close frame, once the grace period is over.
const FAREWELL: Duration = Duration::from_secs(1);

/// How far the end of a gate has come. Clones share it.
#[derive(Clone, Default, Debug)]
pub struct Drain(Arc<Inner>);

#[derive(Default, Debug)]
struct Inner {
    leaving: AtomicBool,
    begun: CancellationToken,
    over: CancellationToken,
    tunnels: TaskTracker,
}

impl Drain {
    /// The gate was told to stop: clients should go elsewhere with their next requests.
    pub fn leave(&self) {
        self.0.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the gate was told to stop. Costs an atomic load.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.0.leaving.load(Ordering::Relaxed)
    }

    /// The listener is closed, and the grace period begins.
    pub fn begin(&self) {
        self.leave();
        self.0.begun.cancel();
    }

    /// Cancelled when the grace period begins. Each connection takes one of its own: it is looked at whenever a connection wakes, and
    /// those who share one share a lock.
    #[must_use]
    pub fn begun(&self) -> CancellationToken {
        self.0.begun.child_token()
    }

    /// The grace period is over.
    pub fn end(&self) {
        self.begin();
        self.0.over.cancel();
    }

    /// Cancelled when the grace period is over: tunnels take their leave now.
    #[must_use]
    pub fn over(&self) -> CancellationToken {
        self.0.over.child_token()
    }

    /// Runs what outlives its request: the tunnel of an upgraded connection (RFC 9110 §7.8). The gate waits for it when it drains, and drops
    /// it one second after [`over`](Self::over).
    pub fn spawn(&self, tunnel: impl Future<Output = ()> + Send + 'static) {
        let over = self.over();
        self.0.tunnels.spawn(async move {
            let cut_off = async {
                over.cancelled().await;
                tokio::time::sleep(FAREWELL).await;
            };
            tokio::select! {
                biased;
                () = tunnel => {}
                () = cut_off => tracing::debug!("tunnel was cut off"),
            }
        });
    }

    /// How many tunnels there are.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        self.0.tunnels.len()
    }

    /// Resolves when there is no tunnel any more, after [`begin`](Self::begin).
    pub async fn tunnels_ended(&self) {
        self.0.tunnels.close();
        self.0.tunnels.wait().await;
    }
}

/// Ends everything when it is dropped, such as with a gate that is dropped instead of stopped.
#[derive(Debug)]
pub(crate) struct EndOnDrop(pub(crate) Drain);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_is_waited_for_told_and_cut_off() {
        let drain = Drain::default();
        let over = drain.over();
        drain.spawn(async move { over.cancelled().await });
        drain.spawn(std::future::pending());
        assert!(!drain.is_leaving());
        drain.begin();
        assert!(drain.is_leaving() && drain.begun().is_cancelled() && !drain.over().is_cancelled());
        assert!(tokio::time::timeout(Duration::from_secs(3600), drain.tunnels_ended()).await.is_err());
        assert_eq!(drain.tunnels(), 2);
        drain.end();
        let since = tokio::time::Instant::now();
        drain.tunnels_ended().await;
        assert_eq!(since.elapsed(), FAREWELL);
    }

    #[tokio::test]
    async fn a_gate_that_is_dropped_ends_its_tunnels() {
        let drain = Drain::default();
        drain.spawn({
            let over = drain.over();
            async move { over.cancelled().await }
        });
        drop(EndOnDrop(drain.clone()));
        drain.tunnels_ended().await;
    }
}
