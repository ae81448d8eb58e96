//! The access log, and what a request is called.

mod identifiers;
mod lines;
