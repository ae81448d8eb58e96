//! The verdict takes effect.

pub mod policy;
