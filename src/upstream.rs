//! The request travels on: forwarded fields, connections to upstreams, bodies both ways.
//!
//! - [`fields`]: which header fields stop here, and which are added.
//! - [`body`]: bodies and trailers, streamed with their limits.
//! - [`pool`]: connections, kept and new.
//! - [`http1`]: HTTP/1.1 over one connection; `http2`: HTTP/2 over one that all requests share.
//! - `endpoints`: all endpoints of an upstream, and whose turn it is; [`endpoint`]: one of them.
//! - [`balance`]: how one of several is chosen; [`ejection`]: who is left alone for a while; [`health`]: asking who is well.
//! - [`resolve`]: names and their addresses.
//! - [`retry`]: what may be sent once more.
//! - [`metrics`]: what is counted.
//! - [`transport`]: how an endpoint is reached: TCP, TLS, Unix sockets.
//! - [`interim`]: interim responses on their way back; [`waiting`]: whoever waits for them and for the response.
//! - `outbound`: a request as its upstream gets it; `send`: one try; [`error`]: why there is no response.
//! - `websocket`: handshakes of WebSockets; [`tunnel`]: what passes after them.
//! - [`proxy`]: the service that puts them together.

pub mod balance;
pub mod body;
pub mod ejection;
pub mod endpoint;
mod endpoints;
pub mod error;
pub mod fields;
pub mod health;
pub mod http1;
mod http2;
pub mod interim;
pub mod metrics;
mod outbound;
pub mod pool;
pub mod proxy;
pub mod resolve;
pub mod retry;
mod send;
pub mod transport;
pub mod tunnel;
pub mod waiting;
mod websocket;

use std::time::Duration;

pub use self::{
    balance::Balance, body::Body, ejection::EjectionSettings, endpoint::OriginSettings, health::HealthSettings,
    proxy::Upstream, retry::RetrySettings,
};

/// An upstream and how to talk to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpstreamSettings {
    /// What it is made of. Never empty.
    pub origins: Vec<OriginSettings>,
    /// How one of them is chosen.
    pub balance: Balance,
    /// The protocol spoken to it.
    pub protocol: Protocol,
    /// How long connecting may take, the TLS handshake included.
    pub connect_timeout: Duration,
    /// How long it may take from the end of the request to the header of the response, or not go on reading the request.
    pub response_timeout: Duration,
    /// How long a body may stand still, either way.
    pub body_idle_timeout: Duration,
    /// Whether WebSockets may be opened to it.
    pub websocket: bool,
    /// How long nothing may pass through a WebSocket, either way.
    pub tunnel_idle_timeout: Duration,
    /// How long a request may take in all, to the end of its response.
    pub total_timeout: Option<Duration>,
    /// How long a connection is kept without use.
    pub keep_alive: Duration,
    /// How many unused connections are kept to each endpoint, at most.
    pub max_idle: usize,
    /// Whether the upstream sees the client's `Host` (true) or its own authority.
    pub preserve_host: bool,
    /// How often names are resolved.
    pub resolve_interval: Duration,
    /// How often a request may be tried.
    pub retries: RetrySettings,
    /// When endpoints are left alone.
    pub ejection: EjectionSettings,
    /// How endpoints are asked whether they are well; `None`: they are not.
    pub health: Option<HealthSettings>,
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
