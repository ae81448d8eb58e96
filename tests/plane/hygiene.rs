//! Every request has one reading, or is refused; and nobody can hold the gate up.

mod bodies;
mod document;
mod floods;
#[allow(dead_code, reason = "a whole vocabulary")]
mod frames;
mod http1;
mod http2;
mod process;
mod recorder;
mod slow;
mod strict;
