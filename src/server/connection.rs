//! One connection: which protocol it speaks, and serving it until it ends or the gate drains.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use http::{HeaderValue, Request, StatusCode, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::timeout};

use super::{
    ListenerSettings,
    current::{CurrentGateway, Peer},
    framing::Strict,
    patience::{Limits, Patient, Progress, Served},
};
use crate::{drain::Drain, seldom::Seldom};

/// How an HTTP/2 connection with prior knowledge begins (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How many requests an HTTP/2 connection may have under way.
const MAX_STREAMS: u32 = 200;

/// How much of one request's body may be on its way to the gate, and of all bodies of a connection. One that its upstream is slow to
/// read must not hold up the others, so the latter is a multiple; it is also the most memory that a connection takes for them.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;

/// How much of one response is held for a client that is slow to read it.
const SEND_BUFFER: usize = 64 * 1024;

/// Serves a connection. Ends with it, or, once `drain` begins, with the requests that are under way.
///
/// An HTTP/1.1 connection ends with its next response from when the gate was told to stop: whoever has more to ask goes to another gate, or
/// comes back over a new connection while there is one to be had. HTTP/2 can end without losing a request, so it is told when it is time.
pub async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    current: CurrentGateway,
    settings: &ListenerSettings,
    drain: Drain,
) {
    let begun = drain.begun();
    // Answers go out at once; a client that does not care has lost nothing when this fails.
    let _ = stream.set_nodelay(true);
    let speaks_http2 = tokio::select! {
        biased;
        speaks = timeout(settings.header_timeout, speaks_http2(&stream)) => match speaks {
            Ok(Ok(speaks)) => speaks,
            Ok(Err(_)) | Err(_) => return,
        },
        () = begun.cancelled() => return,
    };
    let gateway = current.load();
    let peer = Peer::new(peer.ip().to_canonical(), drain.clone(), &gateway);
    let progress = Progress::new(gateway.in_flight());
    drop(gateway);
    let limits = Limits { header: settings.header_timeout, idle: settings.idle_timeout, shared: speaks_http2 };
    let stream = Patient::new(stream, Arc::clone(&progress), limits);
    let serving = Arc::clone(&progress);
    let service = service_fn(move |request: Request<Incoming>| {
        let (gateway, serving) = (current.load(), serving.serve());
        let (downstream, drain) = (peer.seen_by(&gateway), drain.clone());
        async move {
            let mut response = gateway.serve(request, downstream).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                serving.switch();
            } else if !speaks_http2 && drain.is_leaving() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| Served::new(body, serving)))
        }
    });
    let ends = pin!(either(begun.cancelled(), progress.idle(settings.idle_timeout)));
    let ends = Seldom::new(ends);
    let result = if speaks_http2 {
        let mut connection = pin!(http2(settings).serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            biased;
            result = connection.as_mut() => result,
            () = ends => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    } else {
        let strict = Strict::new(stream, Arc::clone(&progress));
        let mut connection = pin!(http1(settings).serve_connection(TokioIo::new(strict), service));
        tokio::select! {
            biased;
            result = connection.as_mut() => result,
            () = ends => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = &error as &dyn std::error::Error, "connection from client ended");
    }
}

fn http1(settings: &ListenerSettings) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_headers(settings.max_headers)
        .max_header_size(settings.max_header_size)
        .header_read_timeout(None::<Duration>);
    builder
}

fn http2(settings: &ListenerSettings) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(settings.max_header_size).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(settings.idle_timeout)
        .keep_alive_timeout(settings.header_timeout);
    builder
}

async fn either(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::select! {
        () = one => {}
        () = other => {}
    }
}

/// Looks at the first bytes and leaves them where they are.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        let seen = &first[..seen];
        if seen.is_empty() || !PREFACE.starts_with(seen) {
            return Ok(false);
        }
        if seen.len() == PREFACE.len() {
            return Ok(true);
        }
        // Part of a preface: what is there stays readable, so only time tells when there is more.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
