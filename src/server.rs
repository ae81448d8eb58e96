//! A request arrives: accept, HTTP/1.1 and HTTP/2, limits, drain.
//!
//! - [`listener`]: sockets, the limit of connections, drain.
//! - [`connection`]: one connection and its protocol.
//! - [`patience`]: clients that take too long.
//! - `framing`: where a request ends.
//! - `form`: the one form of a request.
//! - [`gateway`]: what happens to a request; [`current`]: which of them, while configurations come and go.
//! - [`access`]: the access log.
//! - [`own`]: the gate's own endpoints.

pub mod access;
pub mod connection;
pub mod current;
mod form;
mod framing;
pub mod gateway;
pub mod listener;
pub mod own;
pub mod patience;

use std::{net::SocketAddr, time::Duration};

use ipnet::IpNet;

/// The public listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenerSettings {
    /// Where it listens.
    pub address: SocketAddr,
    /// How long a client may take to send the header of a request, its first bytes included.
    pub header_timeout: Duration,
    /// How long a connection may be idle between requests, or a client may take to read what it is sent.
    pub idle_timeout: Duration,
    /// The largest header, in bytes.
    pub max_header_size: usize,
    /// The most header fields.
    pub max_headers: usize,
    /// The most connections at once; more wait in the listen queue.
    pub max_connections: usize,
    /// How long `/readyz` says no before the listener closes.
    pub drain_delay: Duration,
    /// How long requests in flight may go on after that.
    pub drain_timeout: Duration,
    /// Peers whose `Forwarded` and `X-Forwarded-*` fields are believed.
    pub trusted_proxies: Vec<IpNet>,
}
