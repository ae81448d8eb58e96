//! What is behind the gate: how it is reached, which of several is asked, and what happens when one is not there.

mod api;
mod tls;
mod unix;
