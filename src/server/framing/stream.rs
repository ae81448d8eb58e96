//! A connection whose requests are looked at before they are parsed.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{HeaderValue, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Framing;
use crate::{
    gate::problem,
    server::{access, patience::Progress},
    telemetry::metrics::ServerMetrics,
    upstream::interim::Interim,
};

/// What stands in a refused request instead of the byte that must not be there: the parser takes it nowhere, and answers 400.
const NOWHERE: u8 = 0;

/// How the parser answers what it refuses, up to the date; and the problem that is sent instead.
const AUTOMATIC: [(&[u8], StatusCode, &str, &str); 3] = [
    (
        b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: ",
        StatusCode::BAD_REQUEST,
        "malformed_request",
        "This is not HTTP, or can be read in more than one way.",
    ),
    (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: ",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "header_too_large",
        "The header of the request is too large.",
    ),
    (
        b"HTTP/1.1 414 URI Too Long\r\nconnection: close\r\ncontent-length: 0\r\ndate: ",
        StatusCode::URI_TOO_LONG,
        "target_too_long",
        "The target of the request is too long.",
    ),
];

/// `Mon, 01 Jan 2024 00:00:00 GMT`, and the end of the header.
const DATE_AND_END: usize = 29 + 4;

/// How far a connection has been looked at: how many headers have come, and, in the lowest bit, whether anything behind the last of them.
#[derive(Clone, Default, Debug)]
pub(in crate::server) struct Seen(Arc<AtomicU64>);

impl Seen {
    fn note(&self, framing: &Framing) {
        self.0.store(framing.heads() << 1 | u64::from(framing.is_beyond()), Ordering::Relaxed);
    }

    /// Whether anything has come behind the header of this request, counted from 1: its content, or what should have waited for the
    /// response.
    pub(in crate::server) fn is_beyond(&self, request: u64) -> bool {
        self.0.load(Ordering::Relaxed) > request << 1
    }
}

/// Where it is told what was refused.
#[derive(Clone, Debug)]
pub(in crate::server) struct Refusals {
    pub(in crate::server) metrics: Arc<ServerMetrics>,
    /// Whether there is an access log.
    pub(in crate::server) is_logged: bool,
    pub(in crate::server) peer: HeaderValue,
}

impl Refusals {
    fn note(&self, status: StatusCode, code: &'static str) {
        self.metrics.count_malformed(code);
        if self.is_logged {
            access::refused(&self.peer, status.as_u16(), code);
        }
    }
}

/// A connection of HTTP/1.1. What can be read in two ways never reaches its reader, and what its reader refuses is answered by a problem.
/// Interim responses go out in front of it.
#[derive(Debug)]
pub(in crate::server) struct Strict<T> {
    stream: T,
    progress: Arc<Progress>,
    framing: Framing,
    seen: Seen,
    interim: Interim,
    refusals: Refusals,
    refused: bool,
    /// What is left to be sent instead of an answer of the parser, and how long that was.
    instead: Option<(Bytes, usize)>,
}

impl<T> Strict<T> {
    /// Looks at what comes over `stream`, whose requests `progress` counts, and tells `seen`. `interim`: what goes out in front.
    pub(in crate::server) const fn new(
        stream: T,
        progress: Arc<Progress>,
        seen: Seen,
        interim: Interim,
        refusals: Refusals,
    ) -> Self {
        Self { stream, progress, framing: Framing::new(), seen, interim, refusals, refused: false, instead: None }
    }

    /// Whether there is anything that the parser may refuse: a header of which no request has come.
    fn may_be_refused(&self) -> bool {
        self.refused || self.framing.is_within_head() || self.framing.heads() > self.progress.begun()
    }

    fn look(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        if self.progress.has_switched() {
            self.framing.switch();
        }
        let found = self.framing.look(&buffer.filled()[before..]);
        self.seen.note(&self.framing);
        let Err(at) = found else { return };
        tracing::debug!("request refused: where it ends can be read in more than one way");
        self.refused = true;
        let end = before + at + 1;
        buffer.filled_mut()[end - 1] = NOWHERE;
        buffer.set_filled(end);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Strict<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.refused {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.look(buffer, before);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> Strict<T> {
    /// Sends a problem instead of these bytes, if they are an answer of the parser; else `None`.
    fn poll_answer(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        if self.instead.is_none() {
            if !bytes.starts_with(b"HTTP/1.1 4") || !self.may_be_refused() {
                return None;
            }
            let (problem, status, code) = problem_instead(bytes)?;
            self.refusals.note(status, code);
            self.instead = Some((problem, bytes.len()));
        }
        let (problem, length) = self.instead.as_mut()?;
        while problem.has_remaining() {
            match Pin::new(&mut self.stream).poll_write(context, problem) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(written)) => problem.advance(written),
                other => return Some(other),
            }
        }
        let length = *length;
        self.instead = None;
        Some(Poll::Ready(Ok(length)))
    }
}

/// The problem in place of an answer of the parser.
fn problem_instead(answer: &[u8]) -> Option<(Bytes, StatusCode, &'static str)> {
    let (start, status, code, detail) =
        AUTOMATIC.iter().find(|(start, ..)| answer.starts_with(start) && answer.len() == start.len() + DATE_AND_END)?;
    let length = b"content-length: 0\r\ndate: ".len();
    let body = problem::body(*status, code, detail);
    let fields = format!(
        "content-type: application/problem+json\r\ncache-control: no-store\r\ncontent-length: {}\r\ndate: ",
        body.len()
    );
    let problem = [&start[..start.len() - length], fields.as_bytes(), &answer[start.len()..], &body].concat();
    Some((problem.into(), *status, code))
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Strict<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.poll_answer(context, bytes) {
            Some(answered) => answered,
            None => Pin::new(&mut self.stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = slices
            && let Some(answered) = self.poll_answer(context, only)
        {
            return answered;
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whoever flushes has written all there is.
        let Self { stream, interim, .. } = &mut *self;
        ready!(interim.poll_send(stream, context))?;
        Pin::new(stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
