//! A wire between a gateway and its store that can be cut, frozen and slowed down.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// How many chunks may be on their way in one direction; more wait in the sender's socket.
const CHUNKS: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// Delivers everything, each chunk this much later.
    Open(Duration),
    /// Keeps connections, and takes new ones, but delivers nothing: nobody learns that the other side is gone.
    Frozen,
    /// No connections.
    Cut,
}

/// What the connections of a wire are to do.
#[derive(Clone, Copy, Debug)]
struct Orders {
    mode: Mode,
    /// Connections with smaller numbers are frozen for good.
    stranded: usize,
}

impl Orders {
    fn freeze(&self, connection: usize) -> bool {
        self.mode == Mode::Frozen || connection < self.stranded
    }
}

/// A relay on a loopback port. Dropped, it closes all its connections.
pub(crate) struct Wire {
    address: SocketAddr,
    orders: watch::Sender<Orders>,
    accepted: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Wire {
    /// A wire to this port.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (orders, watched) = watch::channel(Orders { mode: Mode::Open(Duration::ZERO), stranded: 0 });
        let accepted = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, port, watched, Arc::clone(&accepted)));
        Self { address, orders, accepted, _tasks: tasks }
    }

    /// Where a gateway finds its Redis.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    /// From now on connections stay and nothing arrives, in either direction.
    pub(crate) fn freeze(&self) {
        self.set(Mode::Frozen);
    }

    /// Closes all connections; no new ones.
    pub(crate) fn cut(&self) {
        self.set(Mode::Cut);
    }

    /// From now on each chunk arrives this much later.
    pub(crate) fn delay(&self, delay: Duration) {
        self.set(Mode::Open(delay));
    }

    /// As at first. What a frozen wire held back arrives now.
    pub(crate) fn heal(&self) {
        self.delay(Duration::ZERO);
    }

    /// Freezes for good the connections that there are. New ones work.
    pub(crate) fn strand(&self) {
        let stranded = self.connections();
        self.orders.send_modify(|orders| orders.stranded = stranded);
    }

    fn set(&self, mode: Mode) {
        self.orders.send_modify(|orders| orders.mode = mode);
    }

    /// How many connections were made to it so far.
    pub(crate) fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, port: u16, orders: watch::Receiver<Orders>, accepted: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let number = accepted.fetch_add(1, Ordering::SeqCst);
        connections.spawn(relay(stream, port, Watch { number, orders: orders.clone() }));
        while connections.try_join_next().is_some() {}
    }
}

async fn relay(near: TcpStream, port: u16, mut watch: Watch) {
    let mut cut = watch.clone();
    let exchange = async {
        watch.thaw().await;
        let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
        let _ = near.set_nodelay(true);
        let _ = far.set_nodelay(true);
        let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
        tokio::select! {
            () = pump(near_read, far_write, watch.clone()) => {}
            () = pump(far_read, near_write, watch.clone()) => {}
        }
    };
    tokio::select! {
        () = exchange => {}
        _ = cut.orders.wait_for(|orders| orders.mode == Mode::Cut) => {}
    }
}

/// A connection's view of its orders.
#[derive(Clone)]
struct Watch {
    number: usize,
    orders: watch::Receiver<Orders>,
}

impl Watch {
    fn delay(&self) -> Duration {
        if let Mode::Open(delay) = self.orders.borrow().mode { delay } else { Duration::ZERO }
    }

    /// Waits while the connection is frozen.
    async fn thaw(&mut self) {
        let number = self.number;
        let _ = self.orders.wait_for(|orders| !orders.freeze(number)).await;
    }
}

/// Passes chunks on, in order, each after the delay that stood when it came. Ends with either side.
async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut watch: Watch) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
    let delayed = watch.clone();
    let read = async {
        let mut chunk = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut chunk).await {
            if sender.send((Instant::now() + delayed.delay(), chunk[..length].to_vec())).await.is_err() {
                return;
            }
        }
        // The end of one side reaches the other no sooner than anything else does.
        drop(sender);
        std::future::pending::<()>().await;
    };
    let write = async {
        while let Some((due, chunk)) = receiver.recv().await {
            sleep_until(due).await;
            watch.thaw().await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        watch.thaw().await;
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}
