//! Integration tests: one binary, a module per capability.
#![cfg(feature = "server")]

mod support;
mod token;
