//! The response to a request, on its stream.

use std::{error::Error, future::poll_fn, pin::Pin, task::Poll};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderValue, Response, header};
use http_body::{Body, Frame};

use super::streams::Responder;
use crate::{
    server::date,
    upstream::{body::BodyError, fields},
};

/// Puts the header of a response into the form of HTTP/2 (RFC 9113 §8.2.2).
pub(super) fn put_in_form<B: Body>(response: &mut Response<B>) {
    let hint = response.body().size_hint().exact().filter(|_| !response.body().is_end_stream());
    let fields = response.headers_mut();
    let is_dated = fields.contains_key(header::DATE);
    if let (Some(length), header::Entry::Vacant(entry)) = (hint, fields.entry(header::CONTENT_LENGTH)) {
        entry.insert(HeaderValue::from(length));
    }
    if !is_dated {
        date::with(|value| drop(HeaderValue::from_bytes(value).map(|value| fields.insert(header::DATE, value))));
    }
}

/// Sends the content of a response, no faster than its client takes it.
///
/// # Errors
/// It broke off: of itself, which the client is told, or because the client takes no more.
pub(super) async fn content<B>(stream: &Responder, mut body: B) -> Result<(), BodyError>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    loop {
        let frame = poll_fn(|context| {
            if let Poll::Ready(why) = stream.poll_ended(context) {
                return Poll::Ready(Err(BodyError::from(why)));
            }
            Pin::new(&mut body).poll_frame(context).map(Ok)
        });
        let frame = match frame.await?.transpose() {
            Ok(frame) => frame,
            Err(error) => {
                stream.reset(reason(&*error));
                return Err(error);
            }
        };
        let (is_taken, is_last) = match frame.map(Frame::into_data) {
            None => (stream.send(Bytes::new(), true)?, true),
            Some(Ok(data)) => {
                poll_fn(|context| stream.poll_room(context)).await?;
                let is_last = body.is_end_stream();
                (stream.send(data, is_last)?, is_last)
            }
            Some(Err(frame)) => {
                let Ok(mut trailers) = frame.into_trailers() else { continue };
                fields::strip_response_trailers(&mut trailers);
                (stream.end_with(trailers)?, true)
            }
        };
        if !is_taken {
            // Until then the response is there, and what holds it to its time.
            poll_fn(|context| stream.poll_room(context)).await?;
        }
        if is_last {
            return Ok(());
        }
    }
}

/// What the client is told of content that broke off: what the upstream said of it. But for "no error", which clients may take for its end.
fn reason(error: &(dyn Error + 'static)) -> Reason {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    let told = causes.find_map(|error| error.downcast_ref::<h2::Error>()?.reason());
    told.filter(|told| *told != Reason::NO_ERROR).unwrap_or(Reason::INTERNAL_ERROR)
}
