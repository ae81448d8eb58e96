//! Content, and where it ends (RFC 9112 §6).

use bytes::Bytes;
use http::HeaderMap;

use super::chunked::Chunked;

/// Where content ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// Who sends: content of clients is read more strictly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sender {
    /// Its content could be made to be read otherwise by the upstream.
    Client,
    /// Old servers leave white space behind the size of a chunk.
    Upstream,
}

/// What is wrong with content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Malformed {
    /// The chunked coding.
    #[error("chunks are malformed")]
    Chunk,
    /// The trailer section.
    #[error("trailers are malformed")]
    Trailers,
}

/// What came next.
#[derive(Debug)]
pub(crate) enum Step {
    /// A part of the content.
    Data(Bytes),
    /// The content has ended with these.
    Trailers(HeaderMap),
    /// More has to be read.
    More,
    /// The content has ended.
    End,
}

/// Takes the framing off content.
#[derive(Debug)]
pub(crate) enum Decoder {
    /// So many bytes are left.
    Length(u64),
    /// The chunked coding.
    Chunked(Box<Chunked>),
    /// Everything up to the end of the connection.
    Close,
}

impl Decoder {
    pub(crate) fn new(framing: Framing, sender: Sender) -> Self {
        match framing {
            Framing::Empty => Self::Length(0),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Box::new(Chunked::new(sender))),
            Framing::Close => Self::Close,
        }
    }

    /// Takes the next part off `buffer`.
    ///
    /// # Errors
    /// [`Malformed`]. Nothing after it may be read.
    pub(crate) fn step(&mut self, buffer: &mut Bytes) -> Result<Step, Malformed> {
        match self {
            Self::Length(0) => Ok(Step::End),
            Self::Chunked(chunked) => chunked.step(buffer),
            _ if buffer.is_empty() => Ok(Step::More),
            Self::Length(left) => {
                let size = usize::try_from(*left).map_or(buffer.len(), |left| left.min(buffer.len()));
                *left -= size as u64;
                Ok(Step::Data(buffer.split_to(size)))
            }
            Self::Close => Ok(Step::Data(std::mem::take(buffer))),
        }
    }

    /// Whether the end of the connection is the end of the content.
    pub(crate) const fn ends_with_connection(&self) -> bool {
        matches!(self, Self::Close)
    }
}
