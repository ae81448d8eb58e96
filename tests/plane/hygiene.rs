//! Every request has one reading, or is refused; and nobody can hold the gate up.

mod document;
#[allow(dead_code, reason = "a whole vocabulary")]
mod frames;
mod http1;
mod http2;
mod recorder;
mod strict;
