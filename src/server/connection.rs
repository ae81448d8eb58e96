//! One connection: which protocol it speaks, and serving it until it ends or the gate drains.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::{Instant, timeout};

use super::{
    ListenerSettings,
    current::Peer,
    ending::Ending,
    form::SentAhead,
    framing::{Seen, Strict},
    listener::{Held, Service},
    patience::{Limits, Patient, Progress, Served, Streams},
    socket::Accepted,
    tls::{self, Tls},
    transport::{Begun, Transport},
};
use crate::{
    gate::problem,
    seldom::Seldom,
    upstream::{
        fields::{Downstream, Scheme},
        interim::Interim,
        tunnel::Hold,
    },
};

/// How many requests an HTTP/2 connection may have under way.
const MAX_STREAMS: u32 = 200;

/// How many of them a client may take back before they are looked at (rapid reset), and how many the gate may have had to reset for what
/// was wrong with them (MadeYouReset); with more, the connection ends. No client that means well comes near.
const MAX_RESET_EARLY: usize = 20;
const MAX_FAULTY: usize = 256;

/// How much of one request's body may be on its way to the gate, and of all bodies of a connection. One that its upstream is slow to
/// read must not hold up the others, so the latter is a multiple; it is also the most memory that a connection takes for them.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;

/// How much of one response is held for a client that is slow to read it; over HTTP/1.1 a header has to fit in as well.
const SEND_BUFFER: usize = 64 * 1024;

/// How long a connection that was taken just before the gate drains may take to begin: its client was answered by the system, and knows
/// of nothing.
const LAST_REQUEST: Duration = Duration::from_secs(2);

/// Serves a connection. Ends with it, or, once the gate drains, with the requests that are under way.
///
/// An HTTP/1.1 connection ends with its next response from when the gate was told to stop: whoever has more to ask goes to another gate, or
/// comes back over a new connection while there is one to be had. HTTP/2 can end without losing a request, so it is told when it is time.
pub async fn serve(accepted: Accepted, held: Held, service: Service) {
    let Service { gateways: current, tls, drain } = service;
    let (settings, at) = (Arc::clone(current.load().listener()), Instant::now());
    let begun = drain.begun();
    let too_late = async {
        begun.cancelled().await;
        tokio::time::sleep(LAST_REQUEST).await;
    };
    let started = tokio::select! {
        biased;
        // Boxed: it is large, and over soon, where a connection may be idle for long.
        started = Box::pin(start(accepted, held, tls.as_deref(), settings.header_timeout)) => started,
        () = too_late => None,
    };
    let Some(Started { stream, speaks_http2, downstream }) = started else { return };
    let gateway = current.load();
    // HTTP/2 has interim responses too, but the library no way to send them.
    let interim = (!speaks_http2).then(Interim::default);
    let seen = Seen::default();
    let downstream = Downstream { interim: interim.clone(), drain: drain.clone(), ..downstream };
    let refusals = gateway.refusals(downstream.peer.clone());
    let peer = Peer::new(downstream, &gateway);
    let progress = Progress::since(gateway.in_flight(), at);
    drop(gateway);
    let limits = Limits { header: settings.header_timeout, idle: settings.idle_timeout, shared: speaks_http2 };
    let stream = Patient::new(stream, Arc::clone(&progress), limits).awaited();
    let requests = Arc::clone(&progress);
    let (noted, sending) = (seen.clone(), interim.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        let gateway = current.load();
        let serving = if speaks_http2 { requests.serve_stream() } else { requests.serve() };
        let (downstream, drain) = (peer.seen_by(&gateway), drain.clone());
        let (progress, sending) = (Arc::clone(&requests), sending.clone());
        let (noted, number) = (noted.clone(), requests.begun());
        if request.headers().contains_key(header::EXPECT) && noted.is_beyond(number) {
            request.extensions_mut().insert(SentAhead);
        }
        async move {
            let mut response = gateway.serve(request, downstream).await;
            if let Some(interim) = sending {
                interim.sent().await;
            }
            let tunnel = response.extensions_mut().remove::<Hold>();
            if response.status() == StatusCode::SWITCHING_PROTOCOLS && noted.is_beyond(number) {
                // Frames before the answer (RFC 6455 §4.1): were they taken for requests, or the other way round?
                tracing::debug!("upgrade refused: its client did not wait for the answer");
                if let Some(tunnel) = tunnel {
                    tunnel.refuse();
                }
                response = sent_too_early();
            } else if let Some(tunnel) = tunnel {
                tunnel.keep(progress.serve());
            }
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                serving.switch();
            } else if !speaks_http2 && drain.is_leaving() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            if let Some(deadline) = response.body().deadline() {
                serving.end_by(deadline);
            }
            Ok::<_, Infallible>(response.map(|body| Served::new(body, serving)))
        }
    });
    let ends = pin!(either(begun.cancelled(), progress.idle(settings.idle_timeout)));
    let ends = Seldom::new(ends);
    let result = if speaks_http2 {
        let mut connection = Box::pin(http2(&settings).serve_connection(TokioIo::new(stream), service));
        let result = tokio::select! {
            biased;
            result = connection.as_mut() => result,
            () = ends => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        result.inspect_err(|error| refusals.note_end(error))
    } else {
        let strict = Strict::new(stream, Arc::clone(&progress), seen, interim.unwrap_or_default(), refusals);
        let mut connection = pin!(http1(&settings).serve_connection(TokioIo::new(strict), service).with_upgrades());
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
        .max_buf_size(SEND_BUFFER.max(settings.max_header_size))
        .header_read_timeout(None::<Duration>);
    builder
}

fn http2(settings: &ListenerSettings) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(Streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESET_EARLY)
        .max_local_error_reset_streams(MAX_FAULTY)
        .max_header_list_size(u32::try_from(settings.max_header_size).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(settings.idle_timeout)
        .keep_alive_timeout(settings.header_timeout)
        .enable_connect_protocol();
    builder
}

/// The refusal of a handshake whose client sent more than that before it was answered.
fn sent_too_early() -> Response<Ending> {
    let detail = "This is not HTTP, or can be read in more than one way.";
    let mut response = problem::response(StatusCode::BAD_REQUEST, "malformed_request", detail);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response.map(|body| Ending::new(body, None, None))
}

async fn either(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::select! {
        () = one => {}
        () = other => {}
    }
}

/// A connection whose first bytes have come.
struct Started {
    stream: Begun<Held>,
    speaks_http2: bool,
    downstream: Downstream,
}

/// Finds out who is there, and what they speak, within `limit` in all. `None`: they are gone, or took too long.
async fn start(accepted: Accepted, held: Held, tls: Option<&Tls>, limit: Duration) -> Option<Started> {
    let since = Instant::now();
    let (transport, downstream, agreed) = match accepted {
        Accepted::Unix(stream) => (Transport::Unix(stream), Downstream::unix(), None),
        Accepted::Tcp(stream, peer) => {
            // Answers go out at once; a client that does not care has lost nothing when this fails.
            let _ = stream.set_nodelay(true);
            let mut downstream = Downstream::new(peer.ip(), false);
            match tls {
                None => (Transport::Tcp(stream), downstream, None),
                Some(tls) => {
                    let stream = match tls.accept(stream, limit).await {
                        Ok(stream) => stream,
                        Err(failure) => {
                            tracing::debug!(
                                error = &failure as &dyn std::error::Error,
                                network.peer.address = downstream.peer.to_str().unwrap_or_default(),
                                "client was not served"
                            );
                            return None;
                        }
                    };
                    downstream.scheme = Scheme::Https;
                    downstream.certificate = tls::client_certificate(&stream);
                    let agreed = tls::speaks_http2(&stream);
                    (Transport::Tls(stream), downstream, Some(agreed))
                }
            }
        }
    };
    let mut stream = Begun::new(transport, held);
    let speaks_http2 = timeout(limit.saturating_sub(since.elapsed()), stream.speaks_http2()).await.ok()?.ok()?;
    // HTTP/2 over TLS is agreed on by ALPN alone (RFC 9113 §3.2).
    Some(Started { stream, speaks_http2: agreed.unwrap_or(speaks_http2), downstream })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::gateway::Gateway;

    const fn of_connection<A, B, C, F: Future>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    const fn of_request<'a, A, B, F: Future>(_: fn(&'a Gateway, A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// Whoever keeps many idle connections pays for what their tasks have room for. What is large and rare belongs into a box.
    #[test]
    fn a_connection_has_no_room_for_what_is_rare() {
        assert!(of_connection(serve) <= 3 * 1024, "{}", of_connection(serve));
        assert!(of_request(Gateway::serve) <= 2560, "{}", of_request(Gateway::serve));
    }
}
