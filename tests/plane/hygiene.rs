//! Every request has one reading, or is refused; and nobody can hold the gate up.

mod awake;
mod bodies;
mod conformance;
mod differential;
mod document;
mod faults;
mod floods;
#[allow(dead_code, reason = "a whole vocabulary")]
mod frames;
mod handshakes;
mod http1;
mod http2;
mod mutations;
mod process;
mod recorder;
mod responses;
mod responses_http2;
mod slow;
mod stalled;
mod strict;
