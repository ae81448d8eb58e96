//! A request arrives: accept, HTTP/1.1 and HTTP/2, limits, drain.
//!
//! - [`socket`]: where it listens; `hand_over`: leaving to another process.
//! - [`listener`]: accepting, the limit of connections, drain; `crowd`: how many each address has.
//! - [`connection`]: one connection and its protocol; [`transport`]: what its bytes travel by; [`tls`].
//! - [`patience`]: clients that take too long.
//! - [`http1`]: HTTP/1.1, from the bytes of a request to those of its response; [`http2`]: HTTP/2, from its streams.
//! - `form`: the one form of a request.
//! - [`gateway`]: what happens to a request; [`current`]: which of them, while configurations come and go.
//! - `client_address`, [`request_id`], `trace_context`: where a request came from, and what it is called.
//! - `passage`, [`ending`]: from the verdict to the upstream, and what ends with the response.
//! - [`access`]: the access log.
//! - [`own`]: the gate's own endpoints.

pub mod access;
mod client_address;
pub mod connection;
mod crowd;
pub mod current;
mod date;
pub mod ending;
mod form;
pub mod gateway;
mod hand_over;
pub mod http1;
pub mod http2;
pub mod listener;
pub mod own;
mod passage;
pub mod patience;
mod random;
pub mod request_id;
pub mod socket;
pub mod tls;
mod trace_context;
pub mod transport;
mod upgrade;

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

use self::{
    request_id::RequestIds,
    socket::{ListenAddress, SocketOptions},
    tls::TlsSettings,
};
use crate::limit::rate::Rate;

/// The public listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenerSettings {
    /// Where it listens. Never empty.
    pub addresses: Vec<ListenAddress>,
    /// How it does.
    pub sockets: SocketOptions,
    /// TLS for connections by TCP; `None`: they are in the clear.
    pub tls: Option<TlsSettings>,
    /// How long a client may take to send the header of a request, its first bytes included.
    pub header_timeout: Duration,
    /// How long a connection may be idle between requests, or a client may take to read what it is sent.
    pub idle_timeout: Duration,
    /// For how long the gate waits awake for more; zero: it sleeps.
    pub busy_poll: Duration,
    /// The largest header, in bytes.
    pub max_header_size: usize,
    /// The most header fields.
    pub max_headers: usize,
    /// The most connections at once; more wait in the listen queue.
    pub max_connections: usize,
    /// The most of one client address; more are closed. `None`: as many as there may be.
    pub max_connections_per_address: Option<usize>,
    /// What each client address may ask of the gate's own endpoints. `None`: any number.
    pub own_per_address: Option<Rate>,
    /// How long `/readyz` says no before the listener closes.
    pub drain_delay: Duration,
    /// How long requests in flight may go on after that.
    pub drain_timeout: Duration,
    /// Peers whose `Forwarded` and `X-Forwarded-*` fields are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether those of peers at Unix sockets are.
    pub trusts_unix: bool,
    /// Whether their `Client-Cert` fields are believed, too.
    pub believes_client_cert: bool,
    /// Whose `X-Request-Id` is kept.
    pub request_ids: RequestIds,
    /// Whether requests without a `traceparent` get one.
    pub begins_traces: bool,
}

impl ListenerSettings {
    /// Whether a peer is a proxy whose word counts. `None`: it is at a Unix socket.
    #[must_use]
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        peer.map_or(self.trusts_unix, |peer| self.trusted_proxies.iter().any(|network| network.contains(&peer)))
    }
}
