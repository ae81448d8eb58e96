//! Accepts connections, up to a limit, until it drains.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};

use super::{
    ListenerSettings, connection,
    crowd::{Crowd, Member},
    current::CurrentGateway,
    hand_over::{self, Probe},
    socket::{Accepted, Bound, ListenAddress, Listening},
    tls::Tls,
};
use crate::drain::{Drain, EndOnDrop};

/// How long it is until a socket that cannot be listened on is tried again: twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// What connections are served with.
#[derive(Clone, Debug)]
pub struct Service {
    /// The gateway of now.
    pub gateways: CurrentGateway,
    /// TLS, for connections by TCP.
    pub tls: Option<Arc<Tls>>,
    /// The end of the gate.
    pub drain: Drain,
}

/// What goes with a connection as long as it is open.
#[derive(Debug)]
pub struct Held {
    _open: Open,
    _slot: OwnedSemaphorePermit,
    _member: Option<Member>,
}

/// Serves `sockets` until the gate drains; then lets requests and tunnels that are under way end, for `drain_timeout` at most, and
/// cuts off the rest.
///
/// Returns whether all of them ended by themselves.
///
/// # Cancel safety
/// Dropping the future closes the sockets and all connections at once.
pub async fn run(sockets: Sockets, service: Service) -> bool {
    let (gateways, drain) = (service.gateways.clone(), service.drain.clone());
    let end = EndOnDrop(drain.clone());
    let slots = Arc::new(Semaphore::new(gateways.load().listener().max_connections.min(Semaphore::MAX_PERMITS)));
    let Sockets { open, waiting, ready, listening, deaf } = sockets;
    let (mut acceptors, crowd) = (JoinSet::new(), Crowd::default());
    let accept = |acceptors: &mut JoinSet<_>, socket| {
        let acceptor = Acceptor {
            socket,
            service: service.clone(),
            slots: Arc::clone(&slots),
            crowd: crowd.clone(),
            probe: Probe::default(),
        };
        acceptors.spawn(acceptor.run());
    };
    for socket in open {
        accept(&mut acceptors, socket);
    }
    let mut left = Vec::new();
    if !waiting.is_empty() && drain.begun().run_until_cancelled(ready).await.is_some() {
        left = listen_all(waiting, &deaf, |socket| accept(&mut acceptors, socket));
    }
    // Nobody waits for it any more when the gate is dropped.
    let _ = listening.send(());

    let (mut connections, mut pause, drained) = (Vec::new(), FIRST_PAUSE, drain.begun());
    loop {
        tokio::select! {
            Some(ended) = acceptors.join_next() => match ended {
                Ok(left) => connections.push(left),
                Err(error) => report(Err(error)),
            },
            () = drained.cancelled(), if !left.is_empty() => left.clear(),
            () = sleep(pause), if !left.is_empty() => {
                left = listen_all(left, &deaf, |socket| accept(&mut acceptors, socket));
                pause = (2 * pause).min(LAST_PAUSE);
            }
            else => break,
        }
    }
    drain.begun().cancelled().await;
    let all = async {
        for connections in &mut connections {
            while let Some(ended) = connections.join_next().await {
                report(ended);
            }
        }
        // A connection may leave a tunnel behind.
        drain.tunnels_ended().await;
    };
    let ended = timeout(gateways.load().listener().drain_timeout, all).await.is_ok();
    drop(end);
    // They say goodbye over connections that others may share.
    drain.tunnels_ended().await;
    for connections in &mut connections {
        connections.shutdown().await;
    }
    ended
}

/// What a gate listens on.
pub struct Sockets {
    open: Vec<Listening>,
    /// Clients are better off with the process before, or in the queue, until the gate can serve them.
    waiting: Vec<Bound>,
    ready: BoxFuture<'static, ()>,
    listening: oneshot::Sender<()>,
    deaf: Arc<AtomicBool>,
}

impl Sockets {
    /// Listens on these. Those that may wait are listened on once `ready` resolves; the receiver is told when all are.
    ///
    /// # Errors
    /// The system's, with the address.
    pub fn open(
        bound: Vec<Bound>,
        ready: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(Self, oneshot::Receiver<()>), (ListenAddress, io::Error)> {
        let (waiting, now): (Vec<_>, Vec<_>) = bound.into_iter().partition(Bound::may_wait);
        let listen = |socket: Bound| {
            let address = socket.address().clone();
            socket.listen().map_err(|error| (address, error))
        };
        let open = now.into_iter().map(listen).collect::<Result<_, _>>()?;
        let (listening, told) = oneshot::channel();
        Ok((Self { open, waiting, ready: Box::pin(ready), listening, deaf: Arc::default() }, told))
    }

    /// Whether one of those that waited cannot be listened on so far.
    #[must_use]
    pub fn deaf(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.deaf)
    }
}

/// Listens on all of them that can be. Returns those that cannot; `deaf`: there are any.
fn listen_all(waiting: Vec<Bound>, deaf: &AtomicBool, mut accept: impl FnMut(Listening)) -> Vec<Bound> {
    let mut left = Vec::new();
    for socket in waiting {
        match socket.try_listen() {
            Ok(socket) => {
                if socket.shared().is_some() {
                    hand_over::spread(&socket);
                }
                accept(socket);
            }
            Err((socket, error)) => {
                let address = socket.address();
                tracing::error!(error = &error as &dyn std::error::Error, %address, "cannot listen, and tries again");
                left.push(socket);
            }
        }
    }
    if deaf.swap(!left.is_empty(), Ordering::Relaxed) && left.is_empty() {
        tracing::info!("listens on all addresses after all");
    }
    left
}

/// Accepts the connections of one socket.
struct Acceptor {
    socket: Listening,
    service: Service,
    slots: Arc<Semaphore>,
    crowd: Crowd,
    probe: Probe,
}

impl Acceptor {
    /// Accepts until the gate drains, and leaves nobody behind. Returns the connections.
    async fn run(self) -> JoinSet<()> {
        let mut connections = JoinSet::new();
        self.accept_until(self.service.drain.begun().cancelled(), &mut connections).await;
        if let Some(address) = self.socket.shared() {
            self.accept_until(self.leave(address), &mut connections).await;
        }
        if !self.socket.outlives() {
            // What waits would be reset.
            while let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned()
                && let Ok(accepted) = self.socket.accept_now()
            {
                self.take(accepted, slot, &mut connections);
            }
        }
        connections
    }

    /// Has another process take over, if there is one.
    async fn leave(&self, address: SocketAddr) {
        // Connections that are idle end with the drain, and make room.
        drop(timeout(hand_over::UNDER_WAY, self.slots.acquire()).await);
        let is_full = || self.slots.available_permits() == 0;
        if hand_over::lead_away(&self.socket, address, &self.probe, is_full).await {
            tracing::info!(%address, "another process takes new connections from now on");
            sleep(hand_over::UNDER_WAY).await;
        }
    }

    async fn accept_until(&self, end: impl Future<Output = ()>, connections: &mut JoinSet<()>) {
        let mut end = pin!(end);
        loop {
            tokio::select! {
                accepted = accept(&self.socket, &self.slots) => {
                    if let Some((accepted, slot)) = accepted {
                        self.take(accepted, slot, connections);
                    }
                }
                Some(ended) = connections.join_next() => report(ended),
                () = &mut end => return,
            }
        }
    }

    fn take(&self, accepted: Accepted, slot: OwnedSemaphorePermit, connections: &mut JoinSet<()>) {
        if let Accepted::Tcp(_, peer) = &accepted
            && self.service.drain.is_leaving()
            && self.probe.is(*peer)
        {
            return;
        }
        let gateway = self.service.gateways.load();
        let Ok(member) = self.admit(&accepted, gateway.listener()) else {
            gateway.connections_refused().inc();
            return;
        };
        let held = Held { _open: Open::new(gateway.connections()), _slot: slot, _member: member };
        // In a box: a task copies what it runs several times, from its beginning to its end.
        connections.spawn(Box::pin(connection::serve(accepted, held, self.service.clone())));
    }
}

impl Acceptor {
    /// Counts a connection among those of its address, where they are limited. `Err`: there are too many.
    fn admit(&self, accepted: &Accepted, settings: &ListenerSettings) -> Result<Option<Member>, ()> {
        let (Some(most), Accepted::Tcp(_, peer)) = (settings.max_connections_per_address, accepted) else {
            return Ok(None);
        };
        if settings.trusts(Some(peer.ip().to_canonical())) {
            return Ok(None);
        }
        let member = self.crowd.enter(peer.ip(), most);
        if member.is_none() {
            tracing::debug!(network.peer.address = %peer.ip(), "connection is closed: its address has as many as it may");
        }
        member.map(Some).ok_or(())
    }
}

/// An open connection, as it is counted.
#[derive(Debug)]
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

async fn accept(socket: &Listening, slots: &Arc<Semaphore>) -> Option<(Accepted, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match socket.accept().await {
        Ok(accepted) => Some((accepted, slot)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::socket::{SocketOptions, bind};

    #[tokio::test]
    async fn who_cannot_listen_in_the_end_is_deaf() {
        let directory = tempfile::tempdir().unwrap();
        let options = SocketOptions { shared: true, unix_mode: 0o660 };
        for is_gone in [false, true] {
            let path = directory.path().join(format!("{is_gone}"));
            std::fs::create_dir(&path).unwrap();
            let bound = bind(&ListenAddress::Unix(path.join("gate.sock")), options).unwrap();
            if is_gone {
                std::fs::remove_dir_all(&path).unwrap();
            }
            let (deaf, mut open) = (AtomicBool::new(false), Vec::new());
            let left = listen_all(bound, &deaf, |socket| open.push(socket));
            assert_eq!((open.len(), left.len()), (usize::from(!is_gone), usize::from(is_gone)));
            assert_eq!(deaf.load(Ordering::Relaxed), is_gone);
            if is_gone {
                std::fs::create_dir(&path).unwrap();
                assert_eq!(listen_all(left, &deaf, |socket| open.push(socket)).len(), 0);
                assert!(!deaf.load(Ordering::Relaxed));
                assert!(std::os::unix::net::UnixStream::connect(path.join("gate.sock")).is_ok());
                drop(open);
                assert!(!path.join("gate.sock").exists(), "nothing is left of it");
            }
        }
    }

    /// Another process listens where this one is bound, and goes.
    #[tokio::test]
    async fn an_address_that_becomes_free_is_listened_on() {
        let options = SocketOptions { shared: true, unix_mode: 0o660 };
        let bound = bind(&ListenAddress::Tcp(([127, 0, 0, 1], 0).into()), options).unwrap();
        let ListenAddress::Tcp(address) = bound[0].address().clone() else { panic!("by TCP") };
        let deaf = AtomicBool::new(false);
        // One that shares the address by `SO_REUSEADDR` alone keeps others from listening.
        let other = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        other.set_reuse_address(true).unwrap();
        other.bind(&address.into()).unwrap();
        other.listen(1).unwrap();
        let mut open = Vec::new();
        let left = listen_all(bound, &deaf, |socket| open.push(socket));
        assert_eq!((open.len(), left.len(), deaf.load(Ordering::Relaxed)), (0, 1, true));
        drop(other);
        let left = listen_all(left, &deaf, |socket| open.push(socket));
        assert_eq!((open.len(), left.len(), deaf.load(Ordering::Relaxed)), (1, 0, false));
        assert!(std::net::TcpStream::connect(address).is_ok());
    }
}
