//! Portcullis is a gate in front of APIs. It admits requests that carry a valid access token, and it drops the moment
//! a session ends: a JWT is good until its session ends, not until it expires.
//!
//! The modules stand in the order in which a request meets them. Without features, only the pure core is built: claims,
//! markers and their merges, session limits, and the [`verdict`]. Feature `gate` adds the tower `Layer`, `embedded` and
//! `redis` the stores, `server` (default) the gateway and its command line.

pub mod clock;

#[cfg(feature = "server")]
pub mod server;

#[cfg(feature = "server")]
pub mod busy_poll;

#[cfg(feature = "server")]
pub mod http1;

#[cfg(feature = "server")]
pub mod incoming;

#[cfg(feature = "server")]
pub mod route;

#[cfg(feature = "server")]
pub mod cors;

#[cfg(feature = "gate")]
pub mod credential;

pub mod token;

pub mod marker;

pub mod session;

pub mod verdict;

#[cfg(feature = "gate")]
pub mod gate;

#[cfg(feature = "gate")]
pub mod stream;

#[cfg(feature = "gate")]
pub mod activity;

#[cfg(feature = "server")]
pub mod limit;

#[cfg(feature = "server")]
pub mod upstream;

#[cfg(feature = "server")]
pub mod event;

#[cfg(feature = "server")]
pub mod logout;

#[cfg(feature = "server")]
pub mod management;

#[cfg(feature = "server")]
pub mod revocation;

#[cfg(feature = "server")]
pub mod inactive;

#[cfg(feature = "gate")]
pub mod store;

#[cfg(feature = "gate")]
pub mod http_client;

#[cfg(feature = "server")]
pub mod drain;

#[cfg(feature = "server")]
pub mod file_watch;

#[cfg(feature = "server")]
pub mod seldom;

#[cfg(feature = "server")]
pub mod admin;

#[cfg(feature = "server")]
pub mod config;

#[cfg(feature = "server")]
pub mod reload;

#[cfg(feature = "gate")]
pub mod telemetry;

#[cfg(feature = "server")]
pub mod instance;

#[cfg(feature = "server")]
pub mod cli;
