//! One connection: which protocol it speaks, and serving it until it ends or the gate drains.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::{Instant, timeout};

use super::{
    ListenerSettings,
    current::Peer,
    ending::Ending,
    gateway::Gateway,
    http1::{self, HeadLimits, Refusals},
    listener::{Held, Service},
    patience::{Limits, Patient, Progress, Served, Serving, Streams},
    socket::Accepted,
    tls::{self, Tls},
    transport::{Begun, Transport},
};
use crate::{
    drain::Drain,
    incoming::Incoming,
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

/// How much of one response is held for a client that is slow to read it, over HTTP/2.
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
    let start = async {
        let started = start(accepted, held, tls.as_deref(), settings.header_timeout).await?;
        Some(ready(started, &current.load(), &settings, &drain, at))
    };
    let ready = tokio::select! {
        biased;
        // Boxed: it is large, and over soon, where a connection may be idle for long.
        ready = Box::pin(start) => ready,
        () = too_late => None,
    };
    let Some(Ready { stream, unread, peer, progress, interim, refusals }) = ready else { return };
    let ends = pin!(either(begun.cancelled(), progress.idle(settings.idle_timeout)));
    let ends = Seldom::new(ends);
    let result = if let Some(interim) = interim {
        let limits = HeadLimits { size: settings.max_header_size, fields: settings.max_headers };
        let settings = http1::Settings { limits, interim, refusals, drain };
        let requests = Arc::clone(&progress);
        let service = move |request| {
            let gateway = current.load();
            let downstream = peer.seen_by(&gateway);
            answer(gateway, request, downstream, requests.serve())
        };
        http1::serve(stream, unread, &settings, service, ends).await
    } else {
        let requests = Arc::clone(&progress);
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let gateway = current.load();
            let downstream = peer.seen_by(&gateway);
            let response = answer(gateway, Box::new(request.map(Incoming::Http2)), downstream, requests.serve_stream());
            async { Ok::<_, Infallible>(response.await) }
        });
        let mut connection = Box::pin(http2(&settings).serve_connection(TokioIo::new(stream), service));
        let result = tokio::select! {
            biased;
            result = connection.as_mut() => result,
            () = ends => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        result.inspect_err(|error| refusals.note_end(error)).map_err(Into::into)
    };
    if let Err(error) = result {
        tracing::debug!(error = &*error as &dyn std::error::Error, "connection from client ended");
    }
}

/// A connection that is ready to be served.
struct Ready {
    /// In a box, as its peer: they are handed on, and a future has room for what it was given beside what it makes of it.
    stream: Box<Patient<Begun<Held>>>,
    /// What was read of it, over HTTP/1.1.
    unread: Bytes,
    peer: Box<Peer>,
    progress: Arc<Progress>,
    /// HTTP/2 has interim responses too, but the library no way to send them.
    interim: Option<Interim>,
    refusals: Refusals,
}

fn ready(
    Started { mut stream, speaks_http2, downstream }: Started,
    gateway: &Gateway,
    settings: &ListenerSettings,
    drain: &Drain,
    accepted: Instant,
) -> Ready {
    let interim = (!speaks_http2).then(Interim::default);
    let downstream = Downstream { interim: interim.clone(), drain: drain.clone(), ..downstream };
    let refusals = gateway.refusals(downstream.peer.clone());
    let peer = Box::new(Peer::new(downstream, gateway));
    let progress = Progress::since(gateway.in_flight(), accepted);
    let unread = if speaks_http2 { Bytes::new() } else { stream.take_unread() };
    let limits = Limits { header: settings.header_timeout, idle: settings.idle_timeout, shared: speaks_http2 };
    let stream = Box::new(Patient::new(stream, Arc::clone(&progress), limits).awaited());
    Ready { stream, unread, peer, progress, interim, refusals }
}

/// Has a request served.
async fn answer(
    gateway: Arc<Gateway>,
    request: Box<Request<Incoming>>,
    downstream: Arc<Downstream>,
    serving: Serving,
) -> Response<Served<Ending>> {
    let mut response = gateway.serve(request, downstream).await;
    if let Some(tunnel) = response.extensions_mut().remove::<Hold>() {
        tunnel.keep(serving.another());
    }
    if let Some(deadline) = response.body().deadline() {
        serving.end_by(deadline);
    }
    response.map(|body| Served::new(body, serving))
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
