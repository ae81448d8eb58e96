//! Accepts connections, up to a limit, until it drains.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{ListenerSettings, connection, gateway::Gateway};

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

/// Serves `listener` until `stop` is cancelled; then lets requests that are under way end, for `drain_timeout` at most.
///
/// Returns whether all of them ended.
pub async fn run(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    settings: Arc<ListenerSettings>,
    stop: CancellationToken,
) -> bool {
    let connections = TaskTracker::new();
    let drain = CancellationToken::new();
    let slots = Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS)));
    let open = gateway.connections();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = stop.cancelled() => break,
        };
        let Some((stream, peer, slot)) = accepted else { continue };
        let (gateway, settings, drain, open) =
            (Arc::clone(&gateway), Arc::clone(&settings), drain.clone(), open.clone());
        connections.spawn(async move {
            open.inc();
            connection::serve(stream, peer, gateway, &settings, drain).await;
            open.dec();
            drop(slot);
        });
    }
    drop(listener);
    drain.cancel();
    connections.close();
    timeout(settings.drain_timeout, connections.wait()).await.is_ok()
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
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
