//! What the tests share.

pub(crate) mod auth0;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod full;
pub(crate) mod gate;
pub(crate) mod http;
pub(crate) mod jwks_server;
pub(crate) mod keys;
pub(crate) mod log;
pub(crate) mod openapi;
#[path = "../support/ports.rs"]
pub(crate) mod ports;
pub(crate) mod program;
pub(crate) mod redis;
pub(crate) mod sentinel;
pub(crate) mod transmitter;
pub(crate) mod upstream;
pub(crate) mod watcher;
pub(crate) mod wire;

use std::time::{Duration, Instant};

/// How long anything may take to come true.
const PATIENCE: Duration = Duration::from_secs(15);

/// Polls until `condition` holds, and names what did not come true.
pub(crate) async fn eventually(what: &str, condition: impl AsyncFnMut() -> bool) {
    eventually_within(PATIENCE, what, condition).await;
}

/// The same, for what may take longer.
pub(crate) async fn eventually_within(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < limit, "did not happen within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The same, for those who set servers up and cannot go on without.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < 2 * PATIENCE, "did not happen within {:?}: {what}", 2 * PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
}
