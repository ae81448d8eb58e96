//! The verdict takes effect: a tower [`Layer`](tower::Layer) in front of any HTTP service.
//!
//! 1. A request is judged by [`Judge`]: its credential is found, verified, held against markers, and decided upon by
//!    [`verdict::decide`](crate::verdict::decide). What is known from the caches is judged at once; only a miss waits.
//! 2. Whatever the policy, inbound copies of identity fields are removed first, in every spelling that an upstream may
//!    fold together.
//! 3. An admitted request gets its claims as header fields and as the extension [`Admission`]; its subject is active.
//! 4. A refused one is answered as RFC 6750, RFC 9457 and, for gRPC calls, gRPC say, and goes no further.
//!
//! A proxy in front that adds or folds header fields of its own must not touch those that [`Policy::identity`] names.

pub mod engine;
mod future;
pub(crate) mod grpc;
pub mod identity;
pub mod judge;
mod layer;
pub mod policy;
pub mod problem;
pub mod refusal;
mod service;
pub mod time_left;
pub mod tokens;
pub mod verdicts;

pub use self::{
    engine::{Engine, EngineSettings, Trust},
    future::ResponseFuture,
    judge::{Decision, Judge, Judgement},
    layer::GateLayer,
    policy::Policy,
    service::{Admission, Gate, Passed},
};
