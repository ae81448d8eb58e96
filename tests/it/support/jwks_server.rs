//! An issuer's web server on a loopback port, that misbehaves on demand.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

/// Serves documents by path. Dropped, it closes its port and all connections.
pub(crate) struct JwksServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    held: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    documents: Mutex<HashMap<String, (StatusCode, Bytes)>>,
    hits: Mutex<HashMap<String, usize>>,
}

impl JwksServer {
    /// A server without documents: 404 to everything.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let (held, is_held) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&shared), is_held));
        Self { address, shared, held, _tasks: tasks }
    }

    /// The URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers `path` with 200 and this document from now on.
    pub(crate) fn put(&self, path: &str, document: impl Into<Bytes>) {
        self.answer(path, StatusCode::OK, document);
    }

    /// Answers `path` with this status and document from now on.
    pub(crate) fn answer(&self, path: &str, status: StatusCode, document: impl Into<Bytes>) {
        self.shared.documents.lock().unwrap().insert(path.to_owned(), (status, document.into()));
    }

    /// How often `path` was asked for.
    pub(crate) fn hits(&self, path: &str) -> usize {
        self.shared.hits.lock().unwrap().get(path).copied().unwrap_or_default()
    }

    /// Keeps all answers back until [`release`](Self::release).
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Lets the answers go.
    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, held: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (shared, held) = (Arc::clone(&shared), held.clone());
        connections.spawn(async move {
            let service = service_fn(|request| answer(Arc::clone(&shared), held.clone(), request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer<B>(
    shared: Arc<Shared>,
    mut held: watch::Receiver<bool>,
    request: Request<B>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    *shared.hits.lock().unwrap().entry(path.to_owned()).or_default() += 1;
    let _ = held.wait_for(|held| !held).await;
    let document = shared.documents.lock().unwrap().get(path).cloned();
    let (status, body) = document.unwrap_or((StatusCode::NOT_FOUND, Bytes::new()));
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    if status.is_redirection() {
        response.headers_mut().insert("location", "/elsewhere".parse().unwrap());
    }
    Ok(response)
}
