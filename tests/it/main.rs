//! Integration tests: one binary, a module per capability.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test that cannot go on fails")]
#![allow(clippy::needless_pass_by_value, reason = "calls read better with `json!` in place")]

mod admin;
mod cli;
mod config;
mod deploy;
mod event;
mod fake;
mod fuzz;
mod gate;
mod inactive;
mod layer;
mod management;
mod own;
mod session;
mod store;
#[allow(dead_code, reason = "shared with the tests of the data plane and of faults")]
mod support;
mod token;
