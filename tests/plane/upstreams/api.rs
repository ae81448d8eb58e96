//! An API that can be anywhere, be killed, and come back.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{HeaderMap, Request, Uri, Version};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, UnixListener},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::support::upstream::{UpstreamResponse, text};

type Handler = dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = UpstreamResponse> + Send>> + Send + Sync;

/// What an API got.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) uri: Uri,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    /// By TLS: the name that was asked for.
    pub(super) server_name: Option<String>,
}

/// It answers with its name. Dropped, it closes its port and all connections.
pub(super) struct Api {
    address: Option<SocketAddr>,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    handler: Mutex<Arc<Handler>>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    open: AtomicUsize,
}

impl Api {
    /// Clear text on a loopback port.
    pub(super) fn start(name: &'static str) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), name)
    }

    /// Clear text at this address.
    pub(super) fn at(address: SocketAddr, name: &'static str) -> Self {
        Self::tcp(listen(address), name, None)
    }

    /// TLS on a loopback port.
    pub(super) fn tls(config: Arc<ServerConfig>, name: &'static str) -> Self {
        Self::tcp(listen("127.0.0.1:0".parse().unwrap()), name, Some(config))
    }

    fn tcp(listener: TcpListener, name: &'static str, tls: Option<Arc<ServerConfig>>) -> Self {
        let (shared, address) = (Shared::new(name), listener.local_addr().unwrap());
        let (of_all, mut tasks) = (Arc::clone(&shared), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                of_all.connections.fetch_add(1, Ordering::SeqCst);
                let _ = stream.set_nodelay(true);
                let (tls, shared) = (tls.clone(), Arc::clone(&of_all));
                connections.spawn(async move {
                    let Some(tls) = tls else { return serve(stream, shared, None).await };
                    let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
                    let name = stream.get_ref().1.server_name().map(str::to_owned);
                    serve(stream, shared, name).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address: Some(address), shared, _tasks: tasks }
    }

    /// Clear text on a Unix socket.
    pub(super) fn unix(path: &Path, name: &'static str) -> Self {
        let (shared, listener) = (Shared::new(name), UnixListener::bind(path).unwrap());
        let (of_all, mut tasks) = (Arc::clone(&shared), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                of_all.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(stream, Arc::clone(&of_all), None));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address: None, shared, _tasks: tasks }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address.expect("it has a port")
    }

    /// From now on: does this with each request.
    pub(super) fn handle<F>(&self, handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static)
    where
        F: Future<Output = UpstreamResponse> + Send + 'static,
    {
        *self.shared.handler.lock().unwrap() = Arc::new(move |request| Box::pin(handler(request)));
    }

    /// How many requests it got so far.
    pub(super) fn hits(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// The last request it got.
    #[track_caller]
    pub(super) fn last(&self) -> Seen {
        self.shared.seen.lock().unwrap().last().expect("it got a request").clone()
    }

    /// How many connections to it are open.
    pub(super) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// How many connections it accepted so far.
    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn new(name: &'static str) -> Arc<Self> {
        let handler: Arc<Handler> = Arc::new(move |_| Box::pin(async move { text(name) }));
        Arc::new(Self {
            handler: Mutex::new(handler),
            seen: Mutex::default(),
            connections: AtomicUsize::default(),
            open: AtomicUsize::default(),
        })
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(1024).unwrap()
}

async fn serve<S>(stream: S, shared: Arc<Shared>, server_name: Option<String>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    shared.open.fetch_add(1, Ordering::SeqCst);
    let closing = Arc::clone(&shared);
    let service = service_fn(move |request: Request<Incoming>| {
        shared.seen.lock().unwrap().push(Seen {
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
            server_name: server_name.clone(),
        });
        let handler = Arc::clone(&shared.handler.lock().unwrap());
        async move { Ok::<_, Infallible>(handler(request).await) }
    });
    // Errors are the other side's.
    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
    closing.open.fetch_sub(1, Ordering::SeqCst);
}
