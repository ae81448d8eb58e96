//! Every fault of Redis, against real processes, with requests running all the while: nothing is admitted later than
//! promised, no acknowledged marker is lost, and nobody is logged out by a fault of the store.
//!
//! `cargo test --test faults -- --nocapture` prints a line of figures per scenario.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test that cannot go on fails")]

#[path = "../it"]
#[allow(dead_code, clippy::needless_pass_by_value, reason = "shared with the integration tests")]
mod it {
    pub(crate) mod support;
}

mod cluster;
mod fleet;
mod gateway;
mod load;
mod recorder;
mod sentinel;
mod sessions;
mod standalone;
mod topologies;

use it::support;
