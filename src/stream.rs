//! Open streams end with their session.
//!
//! A long response, a WebSocket or a gRPC call belongs to the token that opened it. When a marker or an expiry covers that token, the
//! stream ends within `max_staleness`.
//!
//! - [`registry`]: which streams are open, and which of them have to be judged again; without I/O.
//! - [`open`]: one open stream, and all of a process.
//! - `warden`: the one task that judges streams again.
//! - [`tether`]: a request that is under way, and becomes a stream when it lasts.
//! - [`metrics`]: open streams, and what they ended by.
//! - [`websocket`]: frames of WebSocket, and how to say goodbye.
//! - [`leash`]: the rest of a request whose response has begun.
//! - `message`: where messages of gRPC begin and end.
//!
//! # What it costs
//!
//! A request that is over within [`Streams::grace`] costs nothing: whoever waits for it anyway opens the stream when it lasts longer. An
//! open stream costs memory; no timer of its own, and no look at it until
//!
//! 1. the store tells of a change under one of its token's keys, which are looked up by their hash,
//! 2. its token expires, or the time of its session is up as far as was known when it was last judged, or
//! 3. any marker may have changed (a new connection to the store), or the store falls silent or is heard again.
//!
//! Then the same judge judges it that judged the request.
//!
//! # Why no marker is missed
//!
//! A change moves the generation of its key on *before* streams are looked up ([`Watching`]), and a stream is judged *after* it was
//! entered. Both take the lock of the registry. If the look-up comes first, the judge finds the new generation and reads the marker; else the
//! look-up finds the stream.

pub mod leash;
mod message;
pub mod metrics;
pub mod open;
pub mod registry;
pub mod tether;
mod warden;
pub mod websocket;

pub(crate) use self::warden::watch_over;
pub use self::{
    leash::Leash,
    message::Boundaries,
    metrics::{Kind, StreamMetrics},
    open::{OpenStream, Streams, Watching},
    tether::Tether,
};
