//! What is sent once more, and what never is.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Method, Version};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{Api, metric, route};
use crate::support::{
    client::{Client, Reply, request},
    gate::TestGate,
    ports::free_address,
    upstream::{RawUpstream, StreamBody},
};

const RETRIES: &str = "portcullis_upstream_retries_total{route=\"several\"}";
const EXHAUSTED: &str = "portcullis_upstream_retries_exhausted_total{route=\"several\"}";

/// Reads the header of each request, writes this, and closes.
struct Cutter {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Cutter {
    async fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, requests) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let (count, mut tasks) = (Arc::clone(&requests), JoinSet::new());
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                cut(stream, answer, &count).await;
            }
        });
        Self { address, requests, _tasks: tasks }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn cut(mut stream: TcpStream, answer: &str, requests: &AtomicUsize) {
    let mut read = Vec::new();
    while !read.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
            return;
        }
    }
    requests.fetch_add(1, Ordering::SeqCst);
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// In turn, and whoever fails is not left alone.
fn in_turn(addresses: &[SocketAddr], settings: &str) -> String {
    route(addresses, &format!("balance = \"round_robin\"\nejection.failures = 0\n{settings}"))
}

async fn send(gate: &TestGate, method: Method, body: &'static str) -> Reply {
    let request = request(Version::HTTP_11, method, "/", "").body(StreamBody::from(body)).unwrap();
    Client::http1(gate.address()).await.fetch(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn idempotent_requests_without_a_body_are_sent_elsewhere() {
    let (cutter, api) = (Cutter::start("").await, Api::start("api"));
    let gate = TestGate::start(&in_turn(&[cutter.address, api.address()], "")).await;
    for _ in 0..10 {
        for method in [Method::GET, Method::OPTIONS, Method::DELETE, Method::PUT] {
            assert_eq!(send(&gate, method, "").await.text(), "api");
        }
    }
    assert_eq!((cutter.requests(), api.hits()), (20, 40));
    assert_eq!((metric(&gate, RETRIES).await, metric(&gate, EXHAUSTED).await), (20, 0));
}

/// They may have been done.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_done_is_sent_once() {
    let (cutter, api) = (Cutter::start("").await, Api::start("api"));
    let gate = TestGate::start(&in_turn(&[cutter.address, api.address()], "")).await;
    let mut failed = 0;
    for (method, body) in [(Method::POST, ""), (Method::PATCH, ""), (Method::PUT, "body"), (Method::POST, "body")] {
        for _ in 0..2 {
            failed += usize::from(send(&gate, method.clone(), body).await.status == 502);
        }
    }
    assert_eq!((failed, cutter.requests(), api.hits()), (4, 4, 4));
    assert_eq!(metric(&gate, RETRIES).await, 0);
}

/// Nothing of it went out, so anything may.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_sent_is_sent_elsewhere() {
    for protocol in ["http1", "http2"] {
        let api = Api::start("api");
        let settings = format!("protocol = \"{protocol}\"");
        let gate = TestGate::start(&in_turn(&[free_address(), free_address(), api.address()], &settings)).await;
        for (method, body) in [(Method::POST, "body"), (Method::GET, ""), (Method::PATCH, "body")] {
            for _ in 0..3 {
                assert_eq!(send(&gate, method.clone(), body).await.text(), "api", "{protocol} {method}");
            }
        }
        // Refused connections harm nobody, and are no retries.
        assert_eq!(metric(&gate, RETRIES).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_an_answer() {
    // Begun, malformed, or a refusal.
    for (answer, status) in [
        ("HTTP/1.1 200 OK\r\nContent-", 502),
        ("nonsense\r\n\r\n", 502),
        ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", 503),
    ] {
        let (cutter, api) = (Cutter::start(answer).await, Api::start("api"));
        let gate = TestGate::start(&in_turn(&[cutter.address, api.address()], "")).await;
        let mut statuses = Vec::new();
        for _ in 0..2 {
            statuses.push(send(&gate, Method::GET, "").await.status.as_u16());
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, status], "{answer}");
        assert_eq!((cutter.requests(), api.hits(), metric(&gate, RETRIES).await), (1, 1, 0), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_counted_and_may_be_one() {
    let cutters = [Cutter::start("").await, Cutter::start("").await, Cutter::start("").await];
    let addresses = cutters.each_ref().map(|cutter| cutter.address);
    for (attempts, expected) in [(1, 1), (2, 2), (3, 3)] {
        let before: usize = cutters.iter().map(Cutter::requests).sum();
        let gate = TestGate::start(&in_turn(&addresses, &format!("retries.attempts = {attempts}"))).await;
        let reply = send(&gate, Method::GET, "").await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (502, "upstream_unavailable"));
        let after: usize = cutters.iter().map(Cutter::requests).sum();
        assert_eq!(after - before, expected);
    }
    // Each was asked once, since another one is tried each time.
    assert!(cutters.iter().all(|cutter| cutter.requests() >= 1));
}

/// Answers the first so many requests and keeps the connection; whatever comes later is read, and the connection closed.
async fn ill_after(answers: usize) -> (RawUpstream, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let upstream = RawUpstream::start(move |mut stream, _| {
        let count = Arc::clone(&count);
        async move {
            let mut read = Vec::new();
            while matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                if !read.ends_with(b"\r\n\r\n") {
                    continue;
                }
                read.clear();
                if count.fetch_add(1, Ordering::SeqCst) >= answers {
                    return;
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    (upstream, requests)
}

/// A kept connection that breaks off when the request has come is a try like any other, but that the request takes another one in any case.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_over_a_kept_connection_is_counted() {
    for (attempts, expected) in [(1, 2), (2, 2), (3, 3)] {
        let (upstream, requests) = ill_after(2).await;
        let settings = format!("retries.attempts = {attempts}\nejection.failures = 0");
        let gate = TestGate::start(&route(&[upstream.address()], &settings)).await;
        let mut clients = [Client::http1(gate.address()).await, Client::http1(gate.address()).await];
        let get = || request(Version::HTTP_11, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
        // Two connections are kept.
        let [one, other] = &mut clients;
        let (first, second) = tokio::join!(one.fetch(get()), other.fetch(get()));
        assert_eq!((first.status.as_u16(), second.status.as_u16()), (200, 200));
        assert_eq!(one.fetch(get()).await.status, 502);
        assert_eq!(requests.load(Ordering::SeqCst) - 2, expected, "{attempts} attempts");
        assert_eq!(metric(&gate, RETRIES).await, expected as u64 - 1);
    }
}

/// An upstream that refuses a stream (RFC 9113 §8.7) is asked once more over the connection that is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_stream_opens_no_connection() {
    let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&connections), Arc::clone(&requests));
    let upstream = RawUpstream::start(move |mut stream, _| {
        let (connections, requests) = (Arc::clone(&counts.0), Arc::clone(&counts.1));
        async move {
            connections.fetch_add(1, Ordering::SeqCst);
            let mut preface = [0; 24];
            let _ = stream.read_exact(&mut preface).await;
            // Empty settings.
            let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
            let mut head = [0; 9];
            while stream.read_exact(&mut head).await.is_ok() {
                let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
                let _ = stream.read_exact(&mut payload).await;
                // Settings are acknowledged, and requests refused.
                if head[3] == 4 && head[4] == 0 {
                    let _ = stream.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await;
                } else if head[3] == 1 {
                    requests.fetch_add(1, Ordering::SeqCst);
                    let refused = [&[0, 0, 4, 3, 0], &head[5..9], &[0, 0, 0, 7]].concat();
                    let _ = stream.write_all(&refused).await;
                }
            }
        }
    })
    .await;
    let settings = "protocol = \"http2\"\nejection.failures = 0";
    let gate = TestGate::start(&route(&[upstream.address()], settings)).await;
    for sent in [2, 4, 6] {
        assert_eq!(send(&gate, Method::GET, "").await.status, 502);
        assert_eq!((connections.load(Ordering::SeqCst), requests.load(Ordering::SeqCst)), (1, sent));
    }
    assert_eq!(metric(&gate, RETRIES).await, 3);
}

/// As many as ask at once wait for one connection, and hear of its failure together.
#[tokio::test(flavor = "multi_thread")]
async fn one_connection_is_made_for_all_who_wait() {
    let gate = TestGate::start("[[routes]]\nupstream = \"{upstream}\"\nauth = \"none\"\nprotocol = \"http2\"\n").await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(Client::http1(gate.address()).await);
    }
    let before = gate.upstream.connections();
    let mut asking = JoinSet::new();
    for mut client in clients {
        asking.spawn(async move {
            let request = request(Version::HTTP_11, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
            client.fetch(request).await.status.as_u16()
        });
    }
    assert_eq!(asking.join_all().await, [200; 30]);
    assert_eq!(gate.upstream.connections() - before, 1);
}

/// All of them are ill: most requests are not sent twice.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_not_doubled() {
    let cutters = [Cutter::start("").await, Cutter::start("").await];
    let addresses = cutters.each_ref().map(|cutter| cutter.address);
    let gate = TestGate::start(&in_turn(&addresses, "retries = { budget = 10, min_per_second = 1 }")).await;
    for _ in 0..100 {
        assert_eq!(send(&gate, Method::GET, "").await.status, 502);
    }
    let sent: usize = cutters.iter().map(Cutter::requests).sum();
    let (retries, exhausted) = (metric(&gate, RETRIES).await, metric(&gate, EXHAUSTED).await);
    assert_eq!((sent as u64, exhausted), (100 + retries, 100 - retries));
    // The floor of ten seconds and a tenth; more if this takes longer than that.
    assert!((10..60).contains(&retries), "{retries}");
}

/// The preface ends like a header does, so the connection is closed after it.
#[tokio::test(flavor = "multi_thread")]
async fn over_http2_too() {
    let (cutter, api) = (Cutter::start("").await, Api::start("api"));
    let gate = TestGate::start(&in_turn(&[cutter.address, api.address()], "protocol = \"http2\"")).await;
    for _ in 0..8 {
        assert_eq!(send(&gate, Method::GET, "").await.text(), "api");
    }
    assert_eq!((cutter.requests(), metric(&gate, RETRIES).await), (4, 4));
}
