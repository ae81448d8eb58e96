//! The request travels on: forwarded fields, connections to upstreams, bodies both ways.

use std::time::Duration;

use http::uri::Authority;

/// An upstream and how to talk to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpstreamSettings {
    /// Host and port. The port is always there.
    pub authority: Authority,
    /// The protocol spoken to it.
    pub protocol: Protocol,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long it may take from the last byte of the request to the header of the response.
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
    /// HTTP/2 with prior knowledge, cleartext.
    Http2,
}
