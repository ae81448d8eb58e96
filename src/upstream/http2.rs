//! HTTP/2 towards upstreams (RFC 9113), by the `h2` library.
//!
//! A connection has one task, which reads and writes for all that share it. Whoever wants a response drives the rest: first the future of
//! [`exchange`](exchange()), then [`ResponseBody::poll_frame`]; but for content that is still to be sent when the response has begun.
//!
//! - `connection`: what requests share, and the task that keeps it.
//! - `link`: what is known of it without a look at what it says.
//! - [`exchange`](mod@exchange): one request and its response.
//! - `upload`: sending its content.
//! - `body`: the content of a response.
//! - `duplex`: a stream after an extended `CONNECT` (RFC 8441).

mod body;
mod connection;
mod duplex;
mod exchange;
mod link;
mod upload;

#[cfg(test)]
mod tests;

pub(super) use self::{
    body::ResponseBody,
    connection::Connection,
    duplex::Duplex,
    exchange::{Answer, Failure, Unanswered, exchange},
};
