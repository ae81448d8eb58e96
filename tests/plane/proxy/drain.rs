//! The end: what is under way ends well, what is new is turned away, what takes too long is cut off.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, Response};
use http_body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, sync::Notify};

use super::{HTTP1, HTTP2, client, route};
use crate::support::{
    client::{Raw, Reply, request},
    eventually,
    gate::TestGate,
    upstream::{StreamBody, text},
};

/// A gate whose upstream answers when it is told to.
async fn waiting(listener: &str) -> (TestGate, Arc<Notify>) {
    let gate = TestGate::start(&format!("[listener]\n{listener}\n{}", route(HTTP1, "auth = \"none\""))).await;
    let answer = Arc::new(Notify::new());
    let told = Arc::clone(&answer);
    gate.upstream.handle(move |_| {
        let told = Arc::clone(&told);
        async move {
            told.notified().await;
            text("done")
        }
    });
    (gate, answer)
}

async fn is_closed(address: std::net::SocketAddr) {
    eventually("the listener is closed", async || TcpStream::connect(address).await.is_err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_end_and_their_connections_after_them() {
    let (mut gate, answer) = waiting("").await;
    let address = gate.address();
    let mut idle = Raw::connect(address).await;
    let mut fresh = Raw::connect(address).await;
    idle.write("GET /.portcullis/x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    idle.read_until("no_endpoint").await;
    let mut busy = Raw::connect(address).await;
    busy.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the request is under way", async || gate.upstream.hits() == 1).await;

    let upstream = Arc::clone(&gate.upstream);
    let stopping = tokio::spawn(async move { gate.stop().await });
    is_closed(address).await;
    idle.read_to_end().await;
    fresh.read_to_end().await;
    assert!(!stopping.is_finished());
    answer.notify_one();
    let reply = busy.read_to_end().await;
    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("done"), "{reply}");
    assert!(reply.contains("connection: close"), "{reply}");
    assert!(stopping.await.unwrap(), "nothing had to be cut off");
    assert_eq!(upstream.hits(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_told_to_go_away() {
    let (mut gate, answer) = waiting("").await;
    let address = gate.address();
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let get = || request(HTTP2, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
    let response = sender.send_request(get());
    let response = tokio::spawn(response);
    eventually("the request is under way", async || gate.upstream.hits() == 1).await;

    let upstream = Arc::clone(&gate.upstream);
    let stopping = tokio::spawn(async move { gate.stop().await });
    is_closed(address).await;
    eventually("the client knows", async || sender.ready().await.is_err() || sender.send_request(get()).await.is_err())
        .await;
    answer.notify_one();
    let reply = Reply::read(response.await.unwrap().unwrap()).await.unwrap();
    assert_eq!(reply.text(), "done");
    connection.await.unwrap().unwrap();
    assert!(stopping.await.unwrap());
    assert_eq!(upstream.hits(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_is_cut_off() {
    for version in [HTTP1, HTTP2] {
        let (mut gate, _answer) = waiting("drain_timeout = \"300ms\"").await;
        let (frames, body) = StreamBody::channel();
        let body = std::sync::Mutex::new(Some(body));
        gate.upstream.handle(move |_| {
            let body = body.lock().unwrap().take().unwrap();
            async { Response::new(body) }
        });
        let mut client = client(version, &gate).await;
        let sent = request(version, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
        let response = client.send(sent).await.unwrap();
        frames.send(Ok(Frame::data("endless".into()))).await.unwrap();
        let since = Instant::now();
        assert!(!gate.stop().await, "the request did not end by itself");
        assert!(
            (Duration::from_millis(290)..Duration::from_secs(5)).contains(&since.elapsed()),
            "{:?}",
            since.elapsed()
        );
        assert!(Reply::read(response).await.is_err(), "a response that is cut off does not look complete");
        eventually("the upstream is let go", async || frames.is_closed()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn before_it_drains_it_goes_on_for_a_while() {
    let (mut gate, answer) = waiting("drain_delay = \"2s\"").await;
    let address = gate.address();
    let since = Instant::now();
    let stopping = tokio::spawn(async move { gate.stop().await });
    answer.notify_one();
    assert_eq!(crate::support::client::get(address, "/", "").await.text(), "done");
    assert!(since.elapsed() < Duration::from_secs(2), "too slow to tell");
    assert!(stopping.await.unwrap());
    assert!(since.elapsed() >= Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_is_dropped_is_gone() {
    let (gate, _answer) = waiting("").await;
    let (address, admin) = (gate.address(), gate.admin());
    let mut busy = Raw::connect(address).await;
    busy.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the request is under way", async || gate.upstream.hits() == 1).await;
    // It stays: the gate must not see it go first, and answer for it.
    let _upstream = Arc::clone(&gate.upstream);
    drop(gate);
    assert_eq!(busy.read_to_end().await, "");
    is_closed(address).await;
    is_closed(admin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_gate_that_leaves_end_their_connections() {
    let (mut gate, answer) = waiting("drain_delay = \"2s\"").await;
    let address = gate.address();
    let mut kept = Raw::connect(address).await;
    kept.write("GET /.portcullis/x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!kept.read_until("no_endpoint").await.contains("connection: close"));
    let mut shared = client(HTTP2, &gate).await;
    let stopping = tokio::spawn(async move { gate.stop().await });
    eventually("the gate leaves", async || {
        let mut other = Raw::connect(address).await;
        other.write("GET /.portcullis/x HTTP/1.1\r\nHost: a\r\n\r\n").await;
        other.read_until("no_endpoint").await.contains("connection: close")
    })
    .await;
    kept.write("GET /.portcullis/x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let reply = kept.read_to_end().await;
    assert!(reply.contains("connection: close") && reply.contains("no_endpoint"), "{reply}");
    answer.notify_one();
    let reply = shared.fetch(request(HTTP2, Method::GET, "/", "").body(StreamBody::from("")).unwrap()).await;
    assert_eq!(reply.text(), "done", "HTTP/2 goes on until the listener closes");
    assert!(stopping.await.unwrap());
}
