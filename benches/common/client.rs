//! One kept-alive connection, over which requests are sent and answers checked.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::upstream::BODY;

/// Whoever takes longer counts as an error.
const PATIENCE: Duration = Duration::from_secs(10);

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
}

/// Where requests are sent from.
pub(crate) struct Client {
    pub(crate) requests: Arc<Requests>,
    connection: Option<SendRequest<Empty<Bytes>>>,
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
        let connection = match &mut self.connection {
            Some(connection) if !connection.is_closed() => connection,
            closed => closed.insert(connect(self.requests.address).await?),
        };
        connection.ready().await?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    async fn try_exchange(&mut self, number: usize) -> anyhow::Result<()> {
        let (status, body) = self.ask(number).await?;
        let expected = self.requests.expected;
        ensure!(status == expected, "answered {status} instead of {expected}: {}", String::from_utf8_lossy(&body));
        ensure!(status != StatusCode::OK || body.len() == BODY, "answered {} bytes instead of {BODY}", body.len());
        Ok(())
    }
}

impl Requests {
    fn build(&self, number: usize) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = http::Uri::from_static(self.path);
        let fields = request.headers_mut();
        fields.insert(header::HOST, HeaderValue::from_static("api.example"));
        fields.insert(header::USER_AGENT, HeaderValue::from_static("load/1.0 (generator of load)"));
        fields.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        fields.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, br"));
        if !self.tokens.is_empty() {
            fields.insert(header::AUTHORIZATION, self.tokens[(self.first + number) % self.tokens.len()].clone());
        }
        request
    }
}

async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // How it ends shows in the requests that go over it.
    tokio::spawn(connection);
    Ok(sender)
}
