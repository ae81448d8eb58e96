//! What both sides of the gate have in common of HTTP/1.1 (RFC 9112): how content is framed, and how bytes are read and written.
//!
//! Connections have no buffers of their own: what is read goes into one that all connections of a thread share, and what is written comes
//! from another. So a connection that waits costs its socket and little else.
//!
//! - `read`: reading into a shared block.
//! - `lines`: how the lines of a header end.
//! - `content`: taking the framing off content; `chunked`: the chunked coding.
//! - `encode`: fields, chunks and trailers as bytes.
//! - `outgoing`: a message on its way out.
//! - `spare`: maps for fields, used again.
//!
//! Clients are served by [`server::http1`](crate::server::http1), upstreams asked by [`upstream::http1`](crate::upstream::http1).

mod chunked;
pub(crate) mod content;
pub(crate) mod encode;
pub(crate) mod lines;
pub(crate) mod outgoing;
pub(crate) mod read;
pub(crate) mod spare;

/// Whether a value that is a list (RFC 9110 §5.6.1) has this item, in any case.
pub(crate) fn lists(value: &[u8], item: &[u8]) -> bool {
    value.split(|&byte| byte == b',').any(|found| found.trim_ascii().eq_ignore_ascii_case(item))
}
