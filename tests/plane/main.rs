//! The data plane over real sockets: protocols, streams, upstreams, and what hostile clients try.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test that cannot go on fails")]

#[path = "../it"]
#[allow(dead_code, clippy::needless_pass_by_value, reason = "shared with the integration tests")]
mod it {
    pub(crate) mod support;
}

mod access;
mod authority;
mod cors;
mod http1;
mod hygiene;
mod limits;
mod listener;
mod proxy;
mod reload;
mod secure;
mod streams;
mod upstreams;

use it::support;
