//! The gateway from outside.

mod config;
