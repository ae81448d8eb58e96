//! Clients: HTTP/1.1, HTTP/2 with prior knowledge, and bare sockets.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A response, read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Reply {
    /// Reads the response to its end.
    pub(crate) async fn read(response: Response<Incoming>) -> Result<Self, hyper::Error> {
        let (head, body) = response.into_parts();
        let body = timeout(PATIENCE, body.collect()).await.expect("the body ends in time")?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(Self { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
    }

    /// The body as text.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    /// The `code` of a problem body; empty: it is none.
    pub(crate) fn code(&self) -> String {
        if self.headers.get("content-type").is_none_or(|value| value != "application/problem+json") {
            return String::new();
        }
        let problem: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        problem["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// A connection that speaks one protocol.
pub(crate) enum Client<B> {
    Http1(http1::SendRequest<B>),
    Http2(http2::SendRequest<B>),
}

/// A request that a client of this version can send to `api.example`. An empty token is not sent.
pub(crate) fn request(version: Version, method: Method, path: &str, token: &str) -> http::request::Builder {
    let builder = Request::builder().method(method);
    let builder = if version == Version::HTTP_2 {
        builder.version(version).uri(format!("http://api.example{path}"))
    } else {
        builder.uri(path).header("host", "api.example")
    };
    if token.is_empty() { builder } else { builder.header("authorization", format!("Bearer {token}")) }
}

impl<B> Client<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(crate) async fn connect(version: Version, address: SocketAddr) -> Self {
        if version == Version::HTTP_2 { Self::http2(address).await } else { Self::http1(address).await }
    }

    pub(crate) async fn http1(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::Http1(sender)
    }

    pub(crate) async fn http2(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::Http2(sender)
    }

    /// Sends a request; resolves with the response's header.
    pub(crate) async fn send(&mut self, request: Request<B>) -> Result<Response<Incoming>, hyper::Error> {
        let response = async {
            match self {
                Self::Http1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
                Self::Http2(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
            }
        };
        timeout(PATIENCE, response).await.expect("a response in time")
    }

    /// Sends a request and reads the response to its end.
    pub(crate) async fn fetch(&mut self, request: Request<B>) -> Reply {
        Reply::read(self.send(request).await.unwrap()).await.unwrap()
    }
}

/// `GET` over HTTP/1.1 and a connection of its own. An empty token is not sent.
pub(crate) async fn get(address: SocketAddr, path: &str, token: &str) -> Reply {
    let mut request = Request::get(path).header("host", "api.example");
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    Client::http1(address).await.fetch(request.body(Empty::<Bytes>::new()).unwrap()).await
}

/// A bare socket, or what is like one.
pub(crate) struct Raw<S = TcpStream>(pub(crate) S);

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// Sends this and reads until the other side closes.
    pub(crate) async fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
        let mut raw = Self::connect(address).await;
        // The other side may well close before it has read everything.
        let _ = raw.0.write_all(bytes.as_ref()).await;
        raw.read_to_end().await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Everything until the other side closes; an abort counts as a close.
    pub(crate) async fn read_to_end(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = timeout(PATIENCE, self.0.read_to_end(&mut bytes)).await.expect("the connection closes in time");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What comes until it contains `end`.
    pub(crate) async fn read_until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        let read = async {
            while !String::from_utf8_lossy(&bytes).contains(end) {
                if self.0.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                    break;
                }
            }
        };
        let in_time = timeout(PATIENCE, read).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(in_time.is_ok(), "no {end:?} in time, but {text:?}");
        text
    }
}
