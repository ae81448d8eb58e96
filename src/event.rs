//! Where markers come from: every way in which the gate is told that a session ended, or that a user was active.
//!
//! A source has one file. It takes what its sender sends, makes sure that it is from there, and reads it into a [`Batch`] of
//! [`SessionEvent`]s. From there all go one way, the [`pipeline`]: known events are left out, the others become markers and
//! activity in the store, each change leaves an audit line, and what came of it is told by [`health`]. Only then is the sender
//! told that it has been taken.
//!
//! - [`session_event`]: what all sources have in common.
//! - [`pipeline`], [`health`]: the one way, and how each source is.
//! - [`receiver`]: senders that call the gate, under `/.portcullis/events/<name>`.
//! - [`lead`]: sources that the gate asks; one gateway of a fleet does at a time.
//! - [`subject`], [`identifier_index`]: whom events are about.
//! - [`source`], [`sources`]: what a source is made of, and all that a gateway has.
//! - [`auth0`], [`backchannel_logout`], [`shared_signals`], [`token_revocation`]: the senders.
//!
//! Senders deliver at least once, late, out of order and partly masked. So events are ordered by their own time, markers merge, and
//! what cannot be understood is counted and logged, and answered as a success: repeating it would not help.

pub mod auth0;
pub mod backchannel_logout;
pub mod health;
pub mod identifier_index;
pub mod lead;
pub mod pipeline;
pub mod receiver;
pub mod session_event;
pub mod shared_signals;
pub mod source;
pub mod sources;
pub mod subject;
pub mod token_revocation;

pub use self::{
    health::{Health, SourceReport},
    pipeline::Pipeline,
    session_event::{Batch, EventId, Gap, GapReason, Happening, SessionEvent},
    source::SourceName,
    sources::{SourceSettings, Sources},
    subject::{Resolver, SubjectIdentifier},
};
