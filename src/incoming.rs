//! The content of a request, by whichever version of HTTP it came.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::server::{http1, http2};

/// The content of a request. It is read no faster than it is asked for.
#[derive(Debug)]
pub enum Incoming {
    /// There is none.
    Empty,
    /// Over HTTP/1.1 or HTTP/1.0.
    Http1(http1::content::Content),
    /// Over HTTP/2.
    Http2(http2::content::Content),
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => body.poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(Into::into))),
            Self::Http2(body) => body.poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
