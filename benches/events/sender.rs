//! The log stream of a tenant: deliveries on a schedule, each acknowledged before the next on its connection.

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use portcullis::clock::Timestamp;
use tokio::net::TcpStream;

/// The name of the source, and what its sender says of itself.
pub(crate) const SOURCE: &str = "log";
pub(crate) const AUTHORIZATION: &str = "the sender of the log";

/// A connection of the sender.
pub(crate) struct Sender(SendRequest<Full<Bytes>>);

impl Sender {
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // How it ends shows in the deliveries that go over it.
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Sends a delivery; returns when it has been acknowledged.
    pub(crate) async fn deliver(&mut self, body: String) -> anyhow::Result<()> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/.portcullis/events/{SOURCE}"))
            .header(header::HOST, "api.example")
            .header(header::AUTHORIZATION, AUTHORIZATION)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        self.0.ready().await?;
        let response = self.0.send_request(request).await.context("a delivery was not answered")?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "a delivery was answered {status}: {}", String::from_utf8_lossy(&body));
        Ok(())
    }
}

/// The time, as a log writes it.
#[expect(clippy::disallowed_methods, reason = "a writer of logs, nothing that judges")]
pub(crate) fn date() -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    Ok(Timestamp::from_millis(i64::try_from(now)?).to_string())
}

/// How long deliveries took.
pub(crate) struct Times(Histogram<u64>);

impl Times {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, 60_000_000, 3)?))
    }

    pub(crate) fn record(&mut self, since: Instant) {
        self.add(since.elapsed());
    }

    pub(crate) fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// p50, p99 and the longest, in milliseconds.
    pub(crate) fn show(&self) -> String {
        let millis = |micros: u64| micros as f64 / 1000.0;
        let [half, most] = [50.0, 99.0].map(|share| millis(self.0.value_at_percentile(share)));
        format!("p50 {half:.2} ms, p99 {most:.2} ms, max {:.2} ms ({} of them)", millis(self.0.max()), self.0.len())
    }
}
