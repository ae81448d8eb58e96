//! Sends requests over kept-alive connections, on a schedule or as fast as they are answered.

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet, time::timeout};

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

/// What came of it.
#[derive(Debug)]
pub(crate) struct Tally {
    /// From the moment a request should have left to the end of its answer, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Answers that were not what was expected, or did not come.
    pub(crate) errors: u64,
    /// What the first of them was.
    pub(crate) first_error: Option<String>,
    pub(crate) took: Duration,
}

/// One request that is due.
#[derive(Clone, Copy, Debug)]
struct Job {
    number: usize,
    due: Instant,
}

struct Client {
    requests: Arc<Requests>,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

/// Open connections, warmed up.
pub(crate) struct Clients(Vec<Client>);

impl Clients {
    /// Opens connections and sends a request over each.
    pub(crate) async fn connect(count: usize, requests: &Arc<Requests>) -> anyhow::Result<Self> {
        let mut clients = Vec::with_capacity(count);
        for n in 0..count {
            let mut client = Client { requests: Arc::clone(requests), connection: None };
            client.exchange(n).await?;
            clients.push(client);
        }
        Ok(Self(clients))
    }

    /// Sends `count` requests as fast as they are answered.
    pub(crate) async fn hurry(self, requests: &Arc<Requests>, count: usize) -> anyhow::Result<Self> {
        let lanes = self.0.len();
        let mut tasks = JoinSet::new();
        for (lane, mut client) in self.0.into_iter().enumerate() {
            client.requests = Arc::clone(requests);
            tasks.spawn(async move {
                for number in (lane..count).step_by(lanes) {
                    client.exchange(number).await?;
                }
                anyhow::Ok(client)
            });
        }
        let mut clients = Vec::with_capacity(lanes);
        while let Some(client) = tasks.join_next().await {
            clients.push(client??);
        }
        Ok(Self(clients))
    }

    /// Sends `count` requests, `rate` a second. Each connection has a schedule of its own, as clients do; a request that
    /// has to wait for the one before it on its connection is late.
    pub(crate) async fn keep_pace(self, requests: &Arc<Requests>, count: usize, rate: u32) -> anyhow::Result<Tally> {
        let (mut senders, mut tasks) = (Vec::new(), JoinSet::new());
        let lanes = self.0.len();
        for mut client in self.0 {
            client.requests = Arc::clone(requests);
            let (sender, jobs) = mpsc::channel(count / lanes + 1);
            senders.push(sender);
            tasks.spawn(client.work(jobs));
        }
        let begin = Instant::now() + Duration::from_millis(10);
        // A thread of its own: timers of the runtime are good to a millisecond only.
        thread::spawn(move || dispatch(&senders, begin, count, rate));
        let mut tally = Tally::new()?;
        while let Some(part) = tasks.join_next().await {
            tally.add(part??)?;
        }
        tally.took = begin.elapsed();
        Ok(tally)
    }
}

/// Hands each request to its connection when it is due.
fn dispatch(senders: &[mpsc::Sender<Job>], begin: Instant, count: usize, rate: u32) {
    for number in 0..count {
        let due = begin + Duration::from_secs(1).mul_f64(number as f64 / f64::from(rate));
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            thread::sleep(wait);
        }
        // There is room for all; who does not take them any more has given up.
        if senders[number % senders.len()].try_send(Job { number, due }).is_err() {
            return;
        }
    }
}

impl Client {
    async fn work(mut self, mut jobs: mpsc::Receiver<Job>) -> anyhow::Result<Tally> {
        let mut tally = Tally::new()?;
        while let Some(Job { number, due }) = jobs.recv().await {
            if let Err(error) = self.exchange(number).await {
                tally.errors += 1;
                tally.first_error.get_or_insert_with(|| format!("{error:#}"));
            }
            tally.latency.saturating_record(u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        Ok(tally)
    }

    /// One request and its answer.
    async fn exchange(&mut self, number: usize) -> anyhow::Result<()> {
        match timeout(PATIENCE, self.try_exchange(number)).await {
            Ok(Ok(())) => Ok(()),
            failed => {
                // What is left of the answer must not be taken for the next one.
                self.connection = None;
                failed.context("there was no answer within 10 s")?
            }
        }
    }

    async fn try_exchange(&mut self, number: usize) -> anyhow::Result<()> {
        let request = self.requests.build(number);
        let connection = match &mut self.connection {
            Some(connection) if !connection.is_closed() => connection,
            closed => closed.insert(connect(self.requests.address).await?),
        };
        connection.ready().await?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
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

impl Tally {
    fn new() -> anyhow::Result<Self> {
        let latency = Histogram::new_with_bounds(1000, 60_000_000_000, 3)?;
        Ok(Self { latency, errors: 0, first_error: None, took: Duration::ZERO })
    }

    fn add(&mut self, part: Self) -> anyhow::Result<()> {
        self.latency.add(part.latency)?;
        self.errors += part.errors;
        if self.first_error.is_none() {
            self.first_error = part.first_error;
        }
        Ok(())
    }
}
