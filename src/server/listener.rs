//! Accepts connections, up to a limit, until it drains.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use prometheus_client::metrics::gauge::Gauge;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};

use super::{connection, current::CurrentGateway};
use crate::drain::{Drain, EndOnDrop};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Binds a listening socket that takes its address over from one that is closing.
///
/// # Errors
/// The system's.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves `listener` until `drain` begins; then lets requests and tunnels that are under way end, for `drain_timeout` at most, and
/// cuts off the rest.
///
/// Returns whether all of them ended by themselves.
///
/// # Cancel safety
/// Dropping the future closes the listener and all connections at once.
pub async fn run(listener: TcpListener, gateways: CurrentGateway, drain: Drain) -> bool {
    let mut connections = JoinSet::new();
    let begun = drain.begun();
    let end = EndOnDrop(drain.clone());
    let slots = Arc::new(Semaphore::new(gateways.load().listener().max_connections.min(Semaphore::MAX_PERMITS)));
    loop {
        tokio::select! {
            accepted = accept(&listener, &slots) => {
                let Some((stream, peer, slot)) = accepted else { continue };
                let (gateway, gateways, drain) = (gateways.load(), gateways.clone(), drain.clone());
                let (open, settings) = (Open::new(gateway.connections()), Arc::clone(gateway.listener()));
                connections.spawn(async move {
                    let _held = (open, slot);
                    connection::serve(stream, peer, gateways, &settings, drain).await;
                });
            }
            Some(ended) = connections.join_next() => report(ended),
            () = begun.cancelled() => break,
        }
    }
    drop(listener);
    let all = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
        // A connection may leave a tunnel behind.
        drain.tunnels_ended().await;
    };
    let ended = timeout(gateways.load().listener().drain_timeout, all).await.is_ok();
    drop(end);
    connections.shutdown().await;
    drain.tunnels_ended().await;
    ended
}

/// An open connection, as it is counted.
struct Open(Gauge);

impl Open {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(error = &error as &dyn std::error::Error, "serving a connection failed");
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, slot)),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "connection could not be accepted");
            // Out of file descriptors, most likely: they come back as connections end.
            if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                sleep(Duration::from_millis(50)).await;
            }
            None
        }
    }
}
