//! How long things may take.

use std::{net::SocketAddr, time::Duration};

use http::Response;
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::{Api, ask, gate, metric, route};
use crate::support::{client, eventually, gate::TestGate, upstream::StreamBody};

/// An address that drops whoever wants to connect: its queue is full, and nobody empties it.
struct BlackHole {
    address: SocketAddr,
    _listener: tokio::net::TcpListener,
    _queue: JoinSet<()>,
}

impl BlackHole {
    async fn open() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = JoinSet::new();
        for _ in 0..8 {
            queue.spawn(async move {
                let _stream = TcpStream::connect(address).await;
                std::future::pending::<()>().await;
            });
        }
        eventually("it is full", async || {
            timeout(Duration::from_millis(200), TcpStream::connect(address)).await.is_err()
        })
        .await;
        Self { address, _listener: listener, _queue: queue }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_to_a_black_hole_takes_its_time_and_no_longer() {
    let hole = BlackHole::open().await;
    let gate = TestGate::start(&route(&[hole.address], "connect_timeout = \"50ms\"")).await;
    let reply = gate.get("/", "").await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (504, "upstream_connect_timeout"));

    // One of two: whoever meets it is served by the other, and soon nobody meets it.
    let api = Api::start("api");
    let settings = "connect_timeout = \"50ms\"\nejection = { failures = 3, time = \"1h\", max_time = \"1h\" }";
    let gate = TestGate::start(&route(&[hole.address, api.address()], settings)).await;
    assert_eq!(ask(&gate, 40).await["api"], 40);
    let endpoint = format!("{{route=\"several\",endpoint=\"http://{}\"}}", hole.address);
    assert_eq!(metric(&gate, &format!("portcullis_upstream_connect_failures_total{endpoint}")).await, 3);
    assert_eq!(metric(&gate, &format!("portcullis_upstream_ejections_total{endpoint}")).await, 1);
}

/// Whoever did not answer in time may be at it still: asking another one would double the work.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_begin_in_time_is_not_asked_for_elsewhere() {
    for protocol in ["http1", "http2"] {
        let (one, other) = (Api::start("one"), Api::start("other"));
        for api in [&one, &other] {
            api.handle(|_| std::future::pending());
        }
        let settings = format!("protocol = \"{protocol}\"\nresponse_timeout = \"50ms\"");
        let gate = gate(&[&one, &other], &settings).await;
        let reply = gate.get("/", "").await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (504, "upstream_timeout"), "{protocol}");
        assert_eq!(one.hits() + other.hits(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_request_may_be_limited() {
    for protocol in ["http1", "http2"] {
        let api = Api::start("api");
        let gate = gate(&[&api], &format!("protocol = \"{protocol}\"\ntotal_timeout = \"100ms\"")).await;
        // Before the header of the response.
        api.handle(|_| std::future::pending());
        let reply = gate.get("/", "").await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (504, "upstream_total_timeout"), "{protocol}");
        // After it, whether the body stands still or not.
        for pause in [Duration::from_secs(3600), Duration::from_millis(10)] {
            api.handle(move |_| async move {
                let (sender, body) = StreamBody::channel();
                tokio::spawn(async move {
                    loop {
                        let frame = http_body::Frame::data("x".into());
                        if sender.send(Ok(frame)).await.is_err() {
                            return;
                        }
                        tokio::time::sleep(pause).await;
                    }
                });
                Response::new(body)
            });
            let request = client::request(http::Version::HTTP_11, http::Method::GET, "/", "");
            let request = request.body(StreamBody::from("")).unwrap();
            let response = client::Client::http1(gate.address()).await.send(request).await.unwrap();
            assert_eq!(response.status(), 200);
            client::Reply::read(response).await.expect_err("the body breaks off");
        }
    }
}

/// Without the limit, a stream goes on.
#[tokio::test(flavor = "multi_thread")]
async fn by_default_a_stream_has_no_end() {
    let api = Api::start("api");
    let (sender, body) = StreamBody::channel();
    let body = std::sync::Mutex::new(Some(body));
    api.handle(move |_| {
        let body = body.lock().unwrap().take().expect("one request");
        async { Response::new(body) }
    });
    let gate = gate(&[&api], "").await;
    let address = gate.address();
    let reading = tokio::spawn(async move { client::get(address, "/", "").await });
    for _ in 0..20 {
        sender.send(Ok(http_body::Frame::data("x".into()))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(sender);
    assert_eq!(reading.await.unwrap().body.len(), 20);
}
