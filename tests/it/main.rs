//! Integration tests: one binary, a module per capability.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "helpers of tests are tests")]

#[cfg(all(feature = "embedded", feature = "redis"))]
mod store;
#[cfg(all(feature = "embedded", feature = "redis"))]
mod support;
