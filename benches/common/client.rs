//! One kept-alive connection, over which requests are sent and answers checked.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::upstream::{content, length};

/// Whoever takes longer counts as an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who connects where TLS is spoken: to be set before.
pub(crate) static TLS: Mutex<Option<TlsConnector>> = Mutex::new(None);

/// What is sent, and what must come back.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    pub(crate) address: SocketAddr,
    pub(crate) path: &'static str,
    /// `Authorization` fields, taken in turn; empty: none is sent.
    pub(crate) tokens: Arc<[HeaderValue]>,
    /// The place of the first to be taken.
    pub(crate) first: usize,
    pub(crate) expected: StatusCode,
    pub(crate) manner: Manner,
}

/// How connections are used.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[allow(dead_code, reason = "most benches keep connections")]
pub(crate) enum Manner {
    /// HTTP/1.1, kept.
    #[default]
    Kept,
    /// HTTP/1.1, a new one for each request.
    New,
    /// HTTP/1.1 over TLS, kept.
    Tls,
    /// HTTP/2 with prior knowledge, kept.
    Http2,
}

enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Where requests are sent from.
pub(crate) struct Client {
    pub(crate) requests: Arc<Requests>,
    connection: Option<Connection>,
}

impl Client {
    /// It connects when it has something to send.
    pub(crate) const fn new(requests: Arc<Requests>) -> Self {
        Self { requests, connection: None }
    }

    /// One request and its answer.
    pub(crate) async fn exchange(&mut self, number: usize) -> anyhow::Result<()> {
        match timeout(PATIENCE, self.try_exchange(number)).await {
            Ok(Ok(())) => Ok(()),
            failed => {
                // What is left of the answer must not be taken for the next one.
                self.connection = None;
                failed.context("there was no answer within 10 s")?
            }
        }
    }

    /// One request and what it was answered, whatever that is.
    pub(crate) async fn ask(&mut self, number: usize) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = self.requests.build(number);
        let Requests { address, manner, .. } = *self.requests;
        let connection = match &mut self.connection {
            Some(connection) if manner != Manner::New && !connection.is_closed() => connection,
            closed => closed.insert(connect(address, manner).await?),
        };
        let response = match connection {
            Connection::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Connection::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    async fn try_exchange(&mut self, number: usize) -> anyhow::Result<()> {
        let (status, body) = self.ask(number).await?;
        let expected = self.requests.expected;
        ensure!(status == expected, "answered {status} instead of {expected}: {}", String::from_utf8_lossy(&body));
        let length = length(self.requests.path);
        ensure!(status != StatusCode::OK || body.len() == length, "answered {} bytes instead of {length}", body.len());
        Ok(())
    }
}

impl Requests {
    fn build(&self, number: usize) -> Request<Full<Bytes>> {
        let content = content(self.path);
        let method = if content.is_empty() { Method::GET } else { Method::POST };
        let mut request = Request::new(Full::new(content));
        *request.method_mut() = method;
        *request.uri_mut() = match self.manner {
            Manner::Kept | Manner::New | Manner::Tls => http::Uri::from_static(self.path),
            // It is fixed, and valid.
            Manner::Http2 => format!("http://api.example{}", self.path).parse().unwrap_or_default(),
        };
        let fields = request.headers_mut();
        if self.manner != Manner::Http2 {
            fields.insert(header::HOST, HeaderValue::from_static("api.example"));
        }
        fields.insert(header::USER_AGENT, HeaderValue::from_static("load/1.0 (generator of load)"));
        fields.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        fields.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, br"));
        if !self.tokens.is_empty() {
            fields.insert(header::AUTHORIZATION, self.tokens[(self.first + number) % self.tokens.len()].clone());
        }
        request
    }
}

impl Connection {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}

async fn connect(address: SocketAddr, manner: Manner) -> anyhow::Result<Connection> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    if manner == Manner::Tls {
        let name = ServerName::try_from("api.example")?;
        let connector = TLS.lock().unwrap_or_else(PoisonError::into_inner).clone().context("nobody is trusted")?;
        let stream = connector.connect(name, stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        return Ok(Connection::Http1(sender));
    }
    let io = TokioIo::new(stream);
    // How a connection ends shows in the requests that go over it.
    if manner == Manner::Http2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        return Ok(Connection::Http2(sender));
    }
    let (sender, connection) = http1::handshake(io).await?;
    tokio::spawn(connection);
    Ok(Connection::Http1(sender))
}
