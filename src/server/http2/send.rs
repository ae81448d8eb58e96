//! The response to a request, on its stream.

use std::{error::Error, future::poll_fn, pin::Pin, task::Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::Body;

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
pub(super) async fn content<B>(stream: &mut SendStream<Bytes>, mut body: B) -> Result<(), BodyError>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    loop {
        let frame = poll_fn(|context| {
            if let Poll::Ready(reason) = stream.poll_reset(context)? {
                return Poll::Ready(Err(BodyError::from(h2::Error::from(reason))));
            }
            Pin::new(&mut body).poll_frame(context).map(Ok)
        });
        let frame = match frame.await?.transpose() {
            Ok(frame) => frame,
            Err(error) => {
                stream.send_reset(reason(&*error));
                return Err(error);
            }
        };
        let Some(frame) = frame else { return Ok(stream.send_data(Bytes::new(), true)?) };
        match frame.into_data() {
            Ok(data) => {
                let is_last = body.is_end_stream();
                if !data.is_empty() {
                    room(stream).await?;
                }
                stream.send_data(data, is_last)?;
                if is_last {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(mut trailers) = frame.into_trailers() {
                    return end_with(stream, &mut trailers);
                }
            }
        }
    }
}

fn end_with(stream: &mut SendStream<Bytes>, trailers: &mut HeaderMap) -> Result<(), BodyError> {
    fields::strip_response_trailers(trailers);
    Ok(stream.send_trailers(std::mem::take(trailers))?)
}

/// Resolves when the client takes more. No more is claimed of the connection's window than that: the library asks for as much as there is
/// once it has it, and a stream that has nothing to send must not hold what others need.
///
/// # Errors
/// It takes no more.
pub(super) async fn room(stream: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(more) => drop(more?),
            None => return Err(Reason::CANCEL.into()),
        }
    }
    Ok(())
}

/// What the client is told of content that broke off.
fn reason(error: &(dyn Error + 'static)) -> Reason {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    let told = causes.find_map(|error| error.downcast_ref::<h2::Error>()?.reason());
    told.unwrap_or(Reason::INTERNAL_ERROR)
}
