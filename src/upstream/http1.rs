//! HTTP/1.1 towards upstreams (RFC 9112).
//!
//! A connection has no task of its own. Whoever wants the response drives it: first the future of [`exchange`](exchange()), then
//! [`ResponseBody::poll_frame`]. So a request costs no wake-up of another task, and an unused connection costs its socket and
//! little else.
//!
//! - [`connection`]: a stream, and what was read ahead of it.
//! - `encode`: a request's header as bytes.
//! - `head`: a response's header, and where its body ends.
//! - `upload`: sending a request while anything may come back.
//! - [`exchange`](mod@exchange): one request and its response.
//! - [`body`]: the body of a response.
//!
//! What upstreams send is read strictly: what could be read in two ways, or ends before it should, is an error, and its connection
//! is never used again.

pub mod body;
pub mod connection;
mod encode;
pub mod exchange;
mod head;
mod upload;

#[cfg(test)]
mod tests;

use crate::http1::content;

pub use self::{
    body::ResponseBody,
    connection::{Connection, Link, Upgraded},
    exchange::{Answer, Exchange, Failure, Unanswered, exchange},
};

/// What an upstream sent that is not HTTP/1.1, or that can be read in more than one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// The status line or a field.
    #[error("header of the response is malformed")]
    Header,
    /// The header goes on for too long.
    #[error("header of the response is too large")]
    TooLarge,
    /// `Content-Length` is no length, or several.
    #[error("length of the response is malformed")]
    Length,
    /// `Transfer-Encoding` beside `Content-Length`, in HTTP/1.0, or with another coding than `chunked`.
    #[error("transfer coding of the response cannot be read")]
    Coding,
    /// The chunked coding.
    #[error("chunks of the response are malformed")]
    Chunk,
    /// The trailer section.
    #[error("trailers of the response are malformed")]
    Trailers,
    /// One interim response after another.
    #[error("too many interim responses")]
    Interim,
    /// `101 Switching Protocols`, which nobody had asked for.
    #[error("protocol was switched unasked")]
    Switched,
}

impl From<content::Malformed> for Malformed {
    fn from(malformed: content::Malformed) -> Self {
        match malformed {
            content::Malformed::Chunk => Self::Chunk,
            content::Malformed::Trailers => Self::Trailers,
        }
    }
}

/// Decodes a whole response as if it had arrived in `pieces`: its status, its fields, its body and its trailers; `None` if it is
/// not complete. `ended`: the connection is closed after the last piece. For tests and fuzzing.
///
/// # Errors
/// [`Malformed`].
#[doc(hidden)]
pub fn decode_in_pieces<'a>(
    method: &http::Method,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    ended: bool,
) -> Result<Option<Decoded>, Malformed> {
    use crate::http1::{
        content::{Decoder, Sender, Step},
        read::append,
    };
    let mut buffer = bytes::Bytes::new();
    let mut unread = head::Unread::default();
    let mut decoding: Option<(http::StatusCode, http::HeaderMap, Decoder)> = None;
    let (mut body, mut trailers) = (Vec::new(), None);
    let step = |decoder: &mut Decoder, buffer: &mut bytes::Bytes, body: &mut Vec<u8>, trailers: &mut Option<_>| {
        loop {
            match decoder.step(buffer)? {
                Step::Data(data) => body.extend_from_slice(&data),
                Step::Trailers(found) => *trailers = Some(found),
                Step::More => return Ok::<_, Malformed>(false),
                Step::End => return Ok(true),
            }
        }
    };
    let mut complete = false;
    for piece in pieces {
        append(&mut buffer, bytes::Bytes::copy_from_slice(piece));
        while !complete {
            if let Some((_, _, decoder)) = &mut decoding {
                complete = step(decoder, &mut buffer, &mut body, &mut trailers)?;
                break;
            }
            match unread.parse(&mut buffer, method)? {
                None => break,
                Some(head) if head.status.is_informational() => {}
                Some(head) => {
                    decoding = Some((head.status, head.headers, Decoder::new(head.framing, Sender::Upstream)));
                }
            }
        }
    }
    let Some((status, headers, decoder)) = decoding else {
        // A header that will never end is not looked at until it does.
        return head::Unread::default().parse(&mut buffer, method).map(|_| None);
    };
    let complete = complete || ended && decoder.ends_with_connection();
    if !complete {
        return Ok(None);
    }
    Ok(Some(Decoded { status, headers, body, trailers, left: buffer.len() }))
}

/// What [`decode_in_pieces`] found.
#[doc(hidden)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// The status of the final response.
    pub status: http::StatusCode,
    /// Its fields.
    pub headers: http::HeaderMap,
    /// Its body, without any coding.
    pub body: Vec<u8>,
    /// Its trailers.
    pub trailers: Option<http::HeaderMap>,
    /// How many bytes came after it.
    pub left: usize,
}
