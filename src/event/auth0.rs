//! Auth0: the log of a tenant, streamed or asked for, and the events of its users.
//!
//! - [`record`]: what a log record means.
//! - [`framing`]: the forms in which records come together.
//! - [`log_stream`], [`logs`]: streamed to the gate; asked for by it.
//! - [`user_event`]: what an event of an event stream means.
//! - [`event_stream`], [`events`]: sent to the gate; asked for by it.
//! - [`sse`]: how they come then.
//! - `bookmark`: how far those that are asked for were read.

mod bookmark;
pub mod event_stream;
pub mod events;
pub mod framing;
pub mod log_stream;
pub mod logs;
pub mod record;
pub mod sse;
pub mod user_event;
