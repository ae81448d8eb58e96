//! An API on a loopback port that records what it gets and answers as told.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

/// What an upstream answers with.
pub(crate) type UpstreamResponse = Response<StreamBody>;

type Handler = dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = UpstreamResponse> + Send>> + Send + Sync;

/// A request as the upstream got it.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) authority: Option<String>,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    /// Filled in once it was read by a handler that reads it.
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Recorded {
    /// All values of a field, in order.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }
}

/// Speaks HTTP/1.1 and HTTP/2 with prior knowledge. Dropped, it closes its port and all connections.
pub(crate) struct TestUpstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    requests: Mutex<Vec<Recorded>>,
    handler: Mutex<Arc<Handler>>,
    connections: AtomicUsize,
}

impl TestUpstream {
    /// Reads each body to its end and answers `ok`.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handler: Arc<Handler> = Arc::new(|_| Box::pin(async { text("ok") }));
        let shared = Arc::new(Shared {
            requests: Mutex::default(),
            handler: Mutex::new(handler),
            connections: AtomicUsize::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        let upstream = Self { address, shared, _tasks: tasks };
        upstream.answer(|_| text("ok"));
        upstream
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on: reads each body to its end, records it, and answers with this.
    pub(crate) fn answer(&self, answer: impl Fn(&Recorded) -> UpstreamResponse + Send + Sync + 'static) {
        let (shared, answer) = (Arc::clone(&self.shared), Arc::new(answer));
        self.handle(move |request| {
            let (shared, answer) = (Arc::clone(&shared), Arc::clone(&answer));
            async move {
                let index = request.extensions().get::<Index>().unwrap().0;
                // A body that breaks off stays unrecorded.
                let Ok(body) = request.into_body().collect().await else { return text("broken body") };
                let trailers = body.trailers().cloned().unwrap_or_default();
                let recorded = {
                    let mut requests = shared.requests.lock().unwrap();
                    requests[index].body = body.to_bytes();
                    requests[index].trailers = trailers;
                    requests[index].clone()
                };
                answer(&recorded)
            }
        });
    }

    /// From now on: does this with each request. Its header is recorded already.
    pub(crate) fn handle<F>(&self, handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static)
    where
        F: Future<Output = UpstreamResponse> + Send + 'static,
    {
        *self.shared.handler.lock().unwrap() = Arc::new(move |request| Box::pin(handler(request)));
    }

    /// From now on: sends each body back as it comes, trailers included.
    pub(crate) fn echo(&self) {
        self.handle(|request| async { Response::new(StreamBody::incoming(request.into_body())) });
    }

    /// From now on: takes this long before it answers.
    pub(crate) fn delay(&self, delay: Duration) {
        self.handle(move |_| async move {
            tokio::time::sleep(delay).await;
            text("late")
        });
    }

    /// Everything it got so far.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The last request it got.
    #[track_caller]
    pub(crate) fn last(&self) -> Recorded {
        self.shared.requests.lock().unwrap().last().expect("the upstream got a request").clone()
    }

    /// How many requests it got so far.
    pub(crate) fn hits(&self) -> usize {
        self.shared.requests.lock().unwrap().len()
    }

    /// How many connections it accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

/// The place of a request among those recorded.
#[derive(Clone, Copy)]
struct Index(usize);

/// An upstream that does with each connection what it is told, byte by byte.
pub(crate) struct RawUpstream {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl RawUpstream {
    /// `serve` gets each connection and its number, from 0.
    pub(crate) async fn start<F>(serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let _ = stream.set_nodelay(true);
                connections.spawn(serve(stream, number));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, _tasks: tasks }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A route to it, with further settings.
    pub(crate) fn route(&self, settings: &str) -> String {
        format!("[[routes]]\nupstream = \"http://{}\"\n{settings}\n", self.address)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        connections.spawn(serve(stream, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut first = [0; 3];
    // Only `PRI` begins like that; requests of tests have methods of three letters or more.
    while stream.peek(&mut first).await.is_ok_and(|seen| (1..3).contains(&seen)) {
        tokio::task::yield_now().await;
    }
    let service = service_fn(move |mut request: Request<Incoming>| {
        let index = record(&shared, &request);
        request.extensions_mut().insert(Index(index));
        let handler = Arc::clone(&shared.handler.lock().unwrap());
        let head = request.method() == Method::HEAD;
        async move {
            let response = handler(request).await;
            Ok::<_, Infallible>(if head { without_body(response) } else { response })
        }
    });
    let io = TokioIo::new(stream);
    if first == *b"PRI" {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
}

/// The header alone: over HTTP/2, hyper would send the body after it.
fn without_body(mut response: UpstreamResponse) -> UpstreamResponse {
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().insert("content-length", length.into());
    }
    response.map(|_| StreamBody::from(""))
}

fn record(shared: &Shared, request: &Request<Incoming>) -> usize {
    let mut requests = shared.requests.lock().unwrap();
    requests.push(Recorded {
        method: request.method().clone(),
        target: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        authority: request.uri().authority().map(ToString::to_string),
        version: request.version(),
        headers: request.headers().clone(),
        body: Bytes::new(),
        trailers: HeaderMap::new(),
    });
    requests.len() - 1
}

/// A body whose frames come as they are sent. Dropping the sender ends it.
pub(crate) struct StreamBody(Source);

enum Source {
    Whole(Option<Bytes>),
    Channel(mpsc::Receiver<io::Result<Frame<Bytes>>>),
    Incoming(Incoming),
}

impl StreamBody {
    /// A body, and where to put its frames: `Err` breaks it off.
    pub(crate) fn channel() -> (mpsc::Sender<io::Result<Frame<Bytes>>>, Self) {
        let (sender, receiver) = mpsc::channel(1);
        (sender, Self(Source::Channel(receiver)))
    }
}

impl<T: Into<Bytes>> From<T> for StreamBody {
    fn from(whole: T) -> Self {
        let whole = whole.into();
        Self(Source::Whole((!whole.is_empty()).then_some(whole)))
    }
}

impl StreamBody {
    /// A body that is passed on.
    pub(crate) const fn incoming(body: Incoming) -> Self {
        Self(Source::Incoming(body))
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.get_mut().0 {
            Source::Whole(whole) => Poll::Ready(whole.take().map(|whole| Ok(Frame::data(whole)))),
            Source::Channel(receiver) => {
                receiver.poll_recv(context).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            Source::Incoming(incoming) => {
                Pin::new(incoming).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Source::Whole(None))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match &self.0 {
            Source::Whole(whole) => http_body::SizeHint::with_exact(whole.as_ref().map_or(0, |w| w.len() as u64)),
            Source::Channel(_) => http_body::SizeHint::default(),
            Source::Incoming(incoming) => incoming.size_hint(),
        }
    }
}

/// A response with this body.
pub(crate) fn text(body: impl Into<Bytes>) -> UpstreamResponse {
    Response::new(StreamBody::from(body))
}
