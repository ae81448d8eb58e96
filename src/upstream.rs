//! The request travels on: forwarded fields, connections to upstreams, bodies both ways.
//!
//! - [`fields`]: which header fields stop here, and which are added.
//! - [`body`]: bodies and trailers, streamed with their limits.
//! - [`pool`]: connections, kept and new.
//! - [`http1`]: HTTP/1.1 over one connection.
//! - [`transport`]: how an endpoint is reached: TCP, TLS, Unix sockets.
//! - [`proxy`]: the service that puts them together.

pub mod body;
pub mod fields;
pub mod http1;
pub mod pool;
pub mod proxy;
pub mod transport;

use std::time::Duration;

use http::uri::Authority;

use self::transport::Transport;
pub use self::{body::Body, proxy::Upstream};

/// An upstream and how to talk to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpstreamSettings {
    /// Host and port, as a request may be told them. The port is always there; that of a Unix socket is `localhost`.
    pub authority: Authority,
    /// How it is reached.
    pub transport: Transport,
    /// The protocol spoken to it.
    pub protocol: Protocol,
    /// How long connecting may take, the TLS handshake included.
    pub connect_timeout: Duration,
    /// How long it may take from the end of the request to the header of the response, or not go on reading the request.
    pub response_timeout: Duration,
    /// How long a body may stand still, either way.
    pub body_idle_timeout: Duration,
    /// How long a connection is kept without use.
    pub keep_alive: Duration,
    /// How many unused connections are kept, at most.
    pub max_idle: usize,
    /// Whether the upstream sees the client's `Host` (true) or its own authority.
    pub preserve_host: bool,
}

/// The protocol spoken to an upstream.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: with prior knowledge in clear text, by ALPN with TLS.
    Http2,
}
