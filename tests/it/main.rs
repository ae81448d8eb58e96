//! Integration tests: one binary, a module per capability.

mod store;
mod support;
