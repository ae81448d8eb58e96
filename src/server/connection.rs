//! One connection: which protocol it speaks, and serving it until it ends or the gate drains.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use tokio::time::{Instant, timeout_at};

use super::{
    ListenerSettings,
    current::Peer,
    ending::Ending,
    gateway::Gateway,
    http1::{self, HeadLimits, Refusals},
    http2,
    listener::{Held, Service},
    patience::{Limits, Patient, Progress, Served, Serving},
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
        let started = start(accepted, held, tls.as_deref(), at + settings.header_timeout, &drain).await?;
        Some(ready(started, &current.load(), &settings, at))
    };
    let ready = tokio::select! {
        biased;
        // Boxed: it is large, and over soon, where a connection may be idle for long.
        ready = Box::pin(start) => ready,
        () = too_late => None,
    };
    let Some(Ready { stream, unread, peer, progress, speaks_http2, refusals }) = ready else { return };
    let ends = pin!(either(begun.cancelled(), progress.idle(settings.idle_timeout)));
    let ends = Seldom::new(ends);
    let requests = Arc::clone(&progress);
    let result = if speaks_http2 {
        let service = move |request, interim| {
            let gateway = current.load();
            let downstream = peer.seen_by(&gateway);
            let (serving, over) = requests.serve_stream();
            (move || answer(gateway, request, downstream, interim, serving), over)
        };
        // Boxed, for those of HTTP/1.1.
        let served =
            Box::pin(http2::serve(stream, unread, (&*settings).into(), Arc::clone(&progress), service, ends)).await;
        served.inspect_err(|error| refusals.note_end(&**error))
    } else {
        let limits = HeadLimits { size: settings.max_header_size, fields: settings.max_headers };
        let interim = Interim::default();
        let settings = http1::Settings { limits, interim: interim.clone(), refusals, drain };
        let service = move |request| {
            let gateway = current.load();
            let downstream = peer.seen_by(&gateway);
            answer(gateway, request, downstream, interim.clone(), requests.serve())
        };
        http1::serve(stream, unread, &settings, service, ends).await
    };
    if let Err(error) = result {
        tracing::debug!(error = &*error as &dyn std::error::Error, "connection from client ended");
    }
}

/// A connection that is ready to be served.
struct Ready {
    /// In a box: it is handed on, and a future has room for what it was given beside what it makes of it.
    stream: Box<Patient<Begun<Held>>>,
    /// What was read of it.
    unread: Bytes,
    peer: Peer,
    progress: Arc<Progress>,
    speaks_http2: bool,
    refusals: Refusals,
}

fn ready(
    Started { mut stream, speaks_http2, downstream }: Started,
    gateway: &Gateway,
    settings: &ListenerSettings,
    accepted: Instant,
) -> Ready {
    let refusals = gateway.refusals(downstream.peer.clone());
    let peer = Peer::new(downstream, gateway);
    let progress = Progress::since(gateway.in_flight(), accepted);
    let unread = stream.take_unread();
    let limits = Limits { header: settings.header_timeout, idle: settings.idle_timeout, shared: speaks_http2 };
    let stream = Box::new(Patient::new(stream, Arc::clone(&progress), limits).awaited());
    Ready { stream, unread, peer, progress, speaks_http2, refusals }
}

/// Has a request served.
async fn answer(
    gateway: Arc<Gateway>,
    request: Box<Request<Incoming>>,
    downstream: Arc<Downstream>,
    interim: Interim,
    serving: Serving,
) -> Response<Served<Ending>> {
    let mut response = gateway.serve(request, downstream, Some(interim)).await;
    if let Some(tunnel) = response.extensions_mut().remove::<Hold>() {
        tunnel.keep(serving.another());
    }
    if let Some(deadline) = response.body().deadline() {
        serving.end_by(deadline);
    }
    response.map(|body| Served::new(body, serving))
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

/// Finds out who is there, and what they speak, before `deadline`. `None`: they are gone, or took too long.
async fn start(accepted: Accepted, held: Held, tls: Option<&Tls>, deadline: Instant, drain: &Drain) -> Option<Started> {
    let (transport, downstream, agreed) = match accepted {
        Accepted::Unix(stream) => (Transport::Unix(stream), Downstream::unix(drain.clone()), None),
        Accepted::Tcp(stream, peer) => {
            let mut downstream = Downstream::new(peer.ip(), false, drain.clone());
            match tls {
                None => (Transport::Tcp(stream), downstream, None),
                Some(tls) => {
                    // Boxed, for those in the clear.
                    let limit = deadline.saturating_duration_since(Instant::now());
                    let stream = match Box::pin(tls.accept(stream, limit)).await {
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
    let speaks_http2 = timeout_at(deadline, stream.speaks_http2()).await.ok()?.ok()?;
    // HTTP/2 over TLS is agreed on by ALPN alone (RFC 9113 §3.2).
    Some(Started { stream, speaks_http2: agreed.unwrap_or(speaks_http2), downstream })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn of_connection<A, B, C, F: Future>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    const fn of_request<'a, A, B, C, F: Future>(_: fn(&'a Gateway, A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// Whoever keeps many idle connections pays for what their tasks have room for. What is large and rare belongs into a box.
    #[test]
    fn a_connection_has_no_room_for_what_is_rare() {
        assert!(of_connection(serve) <= 3 * 1024, "{}", of_connection(serve));
        assert!(of_request(Gateway::serve) <= 2560, "{}", of_request(Gateway::serve));
        let of_stream = http2::tests::of_stream(|(gateway, request, downstream, interim, serving)| {
            move || answer(gateway, request, downstream, interim, serving)
        });
        assert!(of_stream <= 2048, "{of_stream}");
    }
}
