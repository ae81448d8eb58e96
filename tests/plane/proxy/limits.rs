//! Clients and upstreams that take too long, send too much, or break off.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use super::{HTTP1, HTTP2, client, each_pair, route};
use crate::support::{
    client::{Raw, Reply, request},
    eventually,
    gate::TestGate,
    ports::free_address,
    upstream::{RawUpstream, StreamBody, text},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// How long the gate kept the connection after this was sent.
async fn kept_open(gate: &TestGate, bytes: &[u8]) -> Duration {
    let since = Instant::now();
    let mut raw = Raw::connect(gate.address()).await;
    raw.write(bytes).await;
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), raw.0.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "still open after {bytes:?}");
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_has_to_come_in_time() {
    let gate = TestGate::start("[listener]\nheader_timeout = \"300ms\"\nidle_timeout = \"60s\"").await;
    let starts: [&[u8]; 6] =
        [b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\nX", b"PRI * HT", PREFACE, &[PREFACE, SETTINGS].concat()];
    for start in starts {
        let open = kept_open(&gate, start).await;
        let bounds = Duration::from_millis(290)..Duration::from_secs(5);
        assert!(bounds.contains(&open), "{open:?} after {start:?}");
    }
    // Now and then a byte is not enough.
    let since = Instant::now();
    let mut raw = Raw::connect(gate.address()).await;
    for byte in format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(1000)).bytes() {
        if raw.0.write_all(&[byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(30)).await;
    }
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}

/// Whoever was silent at first has no more time for it.
#[tokio::test(flavor = "multi_thread")]
async fn the_time_for_the_first_header_is_one() {
    let gate = TestGate::start("[listener]\nheader_timeout = \"4s\"\nidle_timeout = \"60s\"").await;
    let since = Instant::now();
    let mut raw = Raw::connect(gate.address()).await;
    sleep(Duration::from_secs(3)).await;
    raw.write("GET / HTTP/1.1\r\nHost: a\r\nX").await;
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), raw.0.read_to_end(&mut rest)).await;
    let open = since.elapsed();
    assert!(read.is_ok() && (3900..6500).contains(&open.as_millis()), "{open:?}");
}

/// An empty line after a request begins no other.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_line_is_no_header() {
    let limits = "[listener]\nheader_timeout = \"500ms\"\nidle_timeout = \"20s\"\n";
    let gate = TestGate::start(&[limits, &route(HTTP1, "auth = \"none\"")].concat()).await;
    let mut raw = Raw::connect(gate.address()).await;
    raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    raw.read_until("ok").await;
    raw.write("\r\n").await;
    sleep(Duration::from_millis(1500)).await;
    raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    raw.read_until("ok").await;
    // What begins one after it has to come in time.
    let since = Instant::now();
    raw.write("\r\nGET / HT").await;
    assert_eq!(raw.read_to_end().await, "");
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_as_many_connections_as_it_may() {
    let open = route(HTTP1, "auth = \"none\"");
    let gate = TestGate::start(&["[listener]\nmax_connections_per_address = 2\n", &open].concat()).await;
    let mut both = [Raw::connect(gate.address()).await, Raw::connect(gate.address()).await];
    for raw in &mut both {
        raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        raw.read_until("ok").await;
    }
    let mut third = TcpStream::connect(gate.address()).await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(10), third.read_to_end(&mut rest)).await.unwrap();
    assert!(!matches!(closed, Ok(1..)), "it is not served");
    let metrics = crate::support::client::get(gate.admin(), "/metrics", "").await;
    let line = "portcullis_connections_refused_total 1";
    assert!(metrics.text().lines().any(|found| found == line), "{}", metrics.text());
    let [first, mut second] = both;
    second.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    second.read_until("ok").await;
    drop(first);
    crate::support::eventually("there is room again", async || {
        let mut raw = Raw::connect(gate.address()).await;
        let _ = raw.0.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        let mut reply = Vec::new();
        let _ = raw.0.read_to_end(&mut reply).await;
        reply.ends_with(b"ok")
    })
    .await;

    let settings = "[listener]\nmax_connections_per_address = 1\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let gate = TestGate::start(&[settings, &open].concat()).await;
    for _ in 0..3 {
        let mut raw = Raw::connect(gate.address()).await;
        raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        raw.read_until("ok").await;
        // A proxy is many clients.
        std::mem::forget(raw);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn between_requests_only_the_idle_limit_counts() {
    each_pair(async |downstream, upstream| {
        let limits = "[listener]\nheader_timeout = \"400ms\"\nidle_timeout = \"10s\"\n";
        let gate = TestGate::start(&[limits, &route(upstream, "auth = \"none\"")].concat()).await;
        let mut client = client(downstream, &gate).await;
        for pause in [0, 500, 900] {
            sleep(Duration::from_millis(pause)).await;
            let sent = request(downstream, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
            assert_eq!(client.fetch(sent).await.text(), "ok", "after {pause} ms");
        }
        // Nor does it count while a request is served.
        gate.upstream.delay(Duration::from_millis(600));
        let sent = request(downstream, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
        assert_eq!(client.fetch(sent).await.text(), "late");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed() {
    let limits = "[listener]\nheader_timeout = \"1s\"\nidle_timeout = \"400ms\"\n";
    let gate = TestGate::start(&[limits, &route(HTTP1, "auth = \"none\"")].concat()).await;
    let mut raw = Raw::connect(gate.address()).await;
    raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    raw.read_until("ok").await;
    let since = Instant::now();
    assert_eq!(raw.read_to_end().await, "");
    assert!(since.elapsed() > Duration::from_millis(350), "{:?}", since.elapsed());

    // HTTP/2 is told so, rather than cut off: the end is one without error.
    let stream = TcpStream::connect(gate.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let sent = request(HTTP2, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
    Reply::read(sender.send_request(sent).await.unwrap()).await.unwrap();
    let since = Instant::now();
    tokio::time::timeout(Duration::from_secs(10), connection).await.unwrap().unwrap().unwrap();
    assert!(since.elapsed() > Duration::from_millis(350), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_has_to_be_small_enough() {
    let toml = format!(
        "[listener]\nmax_header_size = \"8KiB\"\nmax_headers = 16\n[tokens]\nmax_length = \"4KiB\"\n{}",
        route(HTTP1, "auth = \"none\"")
    );
    let gate = TestGate::start(&toml).await;
    let reply = Raw::exchange(
        gate.address(),
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n{}", "x".repeat(9000), "x".repeat(1 << 20)),
    )
    .await;
    assert!(reply.starts_with("HTTP/1.1 431"), "{reply}");
    for version in [HTTP1, HTTP2] {
        let mut client = client(version, &gate).await;
        let mut builder = request(version, Method::GET, "/", "");
        for n in 0..17 {
            builder = builder.header(format!("x-{n}"), "1");
        }
        let reply = client.fetch(builder.body(StreamBody::from("")).unwrap()).await;
        assert_eq!(reply.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "{version:?}");
    }
    // Crumbs are one field.
    let mut builder = request(HTTP2, Method::GET, "/", "");
    for n in 0..30 {
        builder = builder.header("cookie", format!("c{n}=1"));
    }
    assert_eq!(client(HTTP2, &gate).await.fetch(builder.body(StreamBody::from("")).unwrap()).await.text(), "ok");
    let sent = request(HTTP2, Method::GET, "/", "").header("x", "x".repeat(9000)).body(StreamBody::from("")).unwrap();
    let reply = client(HTTP2, &gate).await.send(sent).await;
    assert!(reply.is_ok_and(|reply| reply.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    assert_eq!(gate.upstream.hits(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_wait_until_there_is_room() {
    let gate = TestGate::start("[listener]\nmax_connections = 2").await;
    let token = gate.good_token();
    let mut open = [Raw::connect(gate.address()).await, Raw::connect(gate.address()).await];
    for raw in &mut open {
        raw.write(format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n")).await;
        raw.read_until("ok").await;
    }
    let address = gate.address();
    let waiting = tokio::spawn(async move { crate::support::client::get(address, "/", &token).await });
    sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    drop(open);
    assert_eq!(waiting.await.unwrap().text(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_is_cut_off() {
    let limits = "[listener]\nidle_timeout = \"500ms\"\n";
    let gate = TestGate::start(&[limits, &route(HTTP1, "auth = \"none\"")].concat()).await;
    let (frames, body) = StreamBody::channel();
    let body = std::sync::Mutex::new(Some(body));
    gate.upstream.handle(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async { Response::new(body) }
    });
    let mut raw = Raw::connect(gate.address()).await;
    raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let chunk = Bytes::from(vec![0; 64 * 1024]);
    let since = Instant::now();
    while frames.send(Ok(Frame::data(chunk.clone()))).await.is_ok() {
        assert!(since.elapsed() < Duration::from_secs(10), "never cut off");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_body_that_stands_still_is_given_up() {
    each_pair(async |downstream, upstream| {
        let limits = "auth = \"none\"\nbody_idle_timeout = \"300ms\"\nresponse_timeout = \"60s\"";
        let gate = TestGate::start(&route(upstream, limits)).await;
        let (frames, body) = StreamBody::channel();
        let sent = request(downstream, Method::POST, "/", "").body(body).unwrap();
        frames.send(Ok(Frame::data("some".into()))).await.unwrap();
        let reply = client(downstream, &gate).await.fetch(sent).await;
        assert_eq!((reply.status, &*reply.code()), (StatusCode::REQUEST_TIMEOUT, "request_timeout"));
        drop(frames);
    })
    .await;
}

/// The upstream's time begins when it has the request.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_may_take_longer_than_a_response() {
    each_pair(async |downstream, upstream| {
        let limits = "auth = \"none\"\nbody_idle_timeout = \"2s\"\nresponse_timeout = \"400ms\"";
        let gate = TestGate::start(&route(upstream, limits)).await;
        let (frames, body) = StreamBody::channel();
        let sent = request(downstream, Method::POST, "/", "").body(body).unwrap();
        tokio::spawn(async move {
            for _ in 0..4 {
                frames.send(Ok(Frame::data("part".into()))).await.unwrap();
                sleep(Duration::from_millis(250)).await;
            }
        });
        let reply = client(downstream, &gate).await.fetch(sent).await;
        assert_eq!(reply.text(), "ok");
        assert_eq!(gate.upstream.last().body.len(), 16);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_has_to_answer_in_time() {
    each_pair(async |downstream, upstream| {
        let gate = TestGate::start(&route(upstream, "auth = \"none\"\nresponse_timeout = \"300ms\"")).await;
        gate.upstream.delay(Duration::from_secs(30));
        let mut client = client(downstream, &gate).await;
        let endless = StreamBody::channel();
        tokio::spawn(async move { while endless.0.send(Ok(Frame::data(vec![0; 65536].into()))).await.is_ok() {} });
        for body in [StreamBody::from(""), StreamBody::from("body"), endless.1] {
            let sent = request(downstream, Method::POST, "/", "").body(body).unwrap();
            let since = Instant::now();
            let reply = client.fetch(sent).await;
            assert_eq!((reply.status, &*reply.code()), (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout"));
            assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_stands_still_is_broken_off() {
    each_pair(async |downstream, upstream| {
        let gate = TestGate::start(&route(upstream, "auth = \"none\"\nbody_idle_timeout = \"300ms\"")).await;
        let (frames, body) = StreamBody::channel();
        let body = std::sync::Mutex::new(Some(body));
        gate.upstream.handle(move |_| {
            let body = body.lock().unwrap().take().unwrap();
            async { Response::new(body) }
        });
        frames.send(Ok(Frame::data("some".into()))).await.unwrap();
        let sent = request(downstream, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
        let mut client = client(downstream, &gate).await;
        let response = client.send(sent).await.unwrap();
        assert!(Reply::read(response).await.is_err());
        eventually("the upstream is let go", async || frames.is_closed()).await;
    })
    .await;
}

async fn assert_problem(gate: &TestGate, status: u16, code: &str) {
    for version in [HTTP1, HTTP2] {
        let sent = request(version, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
        let reply = client(version, gate).await.fetch(sent).await;
        assert_eq!((reply.status.as_u16(), &*reply.code()), (status, code));
        assert_eq!(reply.headers["cache-control"], "no-store");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_not_there_is_a_bad_gateway() {
    let free = free_address();
    for protocol in ["http1", "http2"] {
        let toml = format!("[[routes]]\nupstream = \"http://{free}\"\nprotocol = \"{protocol}\"\nauth = \"none\"");
        assert_problem(&TestGate::start(&toml).await, 502, "upstream_unavailable").await;
        let toml =
            format!("[[routes]]\nupstream = \"http://nowhere.invalid\"\nprotocol = \"{protocol}\"\nauth = \"none\"");
        assert_problem(&TestGate::start(&toml).await, 502, "upstream_unavailable").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_accept_is_a_gateway_timeout() {
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    // Nobody accepts these, so the queue stays full.
    let mut queued = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queued.push(stream);
    }
    let toml = format!("[[routes]]\nupstream = \"http://{address}\"\nauth = \"none\"\nconnect_timeout = \"200ms\"");
    assert_problem(&TestGate::start(&toml).await, 504, "upstream_connect_timeout").await;
}

/// Reads a request's header.
async fn read_head(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return false,
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_breaks_http_is_a_bad_gateway() {
    let answers = [
        String::new(),
        "HTTP/1.1 200 OK\r\nContent-".into(),
        "SSH-2.0-OpenSSH\r\n".into(),
        "HTTP/1.1 200 OK\r\nX : 1\r\n\r\n".into(),
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx".into(),
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".into(),
        format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(70_000)),
    ];
    for answer in answers {
        let sent = answer.clone();
        let upstream = RawUpstream::start(move |mut stream, _| {
            let answer = answer.clone();
            async move {
                read_head(&mut stream).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        })
        .await;
        println!("{sent:.60}");
        assert_problem(&TestGate::start(&upstream.route("auth = \"none\"")).await, 502, "upstream_unavailable").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_breaks_off_does_not_look_complete() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ] {
        let upstream = RawUpstream::start(move |mut stream, _| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        })
        .await;
        let gate = TestGate::start(&upstream.route("auth = \"none\"")).await;
        for version in [HTTP1, HTTP2] {
            let sent = request(version, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
            let mut client = client(version, &gate).await;
            let body = match client.send(sent).await {
                Ok(response) => response.into_body().collect().await,
                Err(error) => Err(error),
            };
            assert!(body.is_err(), "{version:?} {answer}");
        }
        // To HTTP/1.0 the end of the connection is the end of the body: only an abort tells.
        let mut raw = Raw::connect(gate.address()).await;
        raw.write("GET / HTTP/1.0\r\n\r\n").await;
        let (mut reply, read) = (Vec::new(), ());
        let read = match raw.0.read_to_end(&mut reply).await {
            Ok(_) => Ok(read),
            Err(error) => Err(error),
        };
        let reply = String::from_utf8_lossy(&reply).into_owned();
        assert!(read.is_err() || reply.contains("content-length: 10") || reply.is_empty(), "{reply}");
    }
}

/// Answers so many requests per connection, and closes it as if that were nothing.
async fn answer_some(mut stream: TcpStream, requests: usize) {
    for _ in 0..requests {
        if !read_head(&mut stream).await {
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_connections_that_the_upstream_closes_cost_no_request() {
    let upstream = RawUpstream::start(|stream, number| answer_some(stream, 1 + number % 7)).await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"")).await;
    let address = gate.address();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        workers.spawn(async move {
            let mut client = crate::support::client::Client::http1(address).await;
            for _ in 0..500 {
                let sent = request(HTTP1, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
                assert_eq!(client.fetch(sent).await.text(), "ok");
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_done_is_not_repeated() {
    let bodies = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&bodies);
    // The first request of a connection is answered; the second is read in full, and the connection closed.
    let upstream = RawUpstream::start(move |mut stream, _| {
        let count = std::sync::Arc::clone(&count);
        async move {
            answer_some_with_bodies(&mut stream, &count).await;
        }
    })
    .await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"")).await;
    let mut client = client(HTTP1, &gate).await;
    for (method, status) in [(Method::POST, 200), (Method::POST, 502), (Method::PUT, 200), (Method::PUT, 502)] {
        let sent = request(HTTP1, method.clone(), "/", "").body(StreamBody::from("body")).unwrap();
        let before = bodies.load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!(client.fetch(sent).await.status.as_u16(), status, "{method}");
        assert_eq!(bodies.load(std::sync::atomic::Ordering::SeqCst), before + 1, "{method}");
    }
}

async fn answer_some_with_bodies(stream: &mut TcpStream, count: &std::sync::atomic::AtomicUsize) {
    let mut body = [0; 4];
    for requests in 0..2 {
        if !read_head(stream).await || stream.read_exact(&mut body).await.is_err() {
            return;
        }
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if requests == 0 {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    }
}

/// Upstreams that end an HTTP/2 connection in order, or drop it with requests that they have not answered.
#[tokio::test(flavor = "multi_thread")]
async fn http2_connections_that_the_upstream_ends_cost_no_request() {
    for drops in [false, true] {
        end_connections(drops).await;
    }
}

async fn end_connections(drops: bool) {
    let upstream = RawUpstream::start(move |stream, _| async move {
        let (served, mut is_enough) = tokio::sync::watch::channel(0);
        let service = hyper::service::service_fn(move |_| {
            served.send_modify(|served| *served += 1);
            let silent = drops && *served.borrow() > 20;
            async move {
                if silent {
                    std::future::pending::<()>().await;
                }
                Ok::<_, std::convert::Infallible>(text("ok"))
            }
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = is_enough.wait_for(|served| *served > 20) => {}
        }
        if !drops {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    })
    .await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"\nprotocol = \"http2\"")).await;
    let address = gate.address();
    let mut workers = tokio::task::JoinSet::new();
    // Several at once would lose responses that are half sent.
    for _ in 0..if drops { 1 } else { 4 } {
        workers.spawn(async move {
            let mut client = crate::support::client::Client::http1(address).await;
            let mut failed = 0;
            for _ in 0..250 {
                let sent = request(HTTP1, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
                failed += usize::from(client.fetch(sent).await.status != StatusCode::OK);
            }
            failed
        });
    }
    let mut failed = 0;
    while let Some(worker) = workers.join_next().await {
        failed += worker.unwrap();
    }
    assert_eq!(failed, 0);
}

/// Calls that clients give up are reset one by one; the connection to the upstream lives on.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_given_up_do_not_harm_others() {
    let gate = TestGate::start(&route(HTTP2, "auth = \"none\"")).await;
    gate.upstream.handle(|request| async move {
        if request.uri().path() == "/slow" {
            sleep(Duration::from_secs(60)).await;
        }
        text("ok")
    });
    let mut client = client(HTTP2, &gate).await;
    let first = request(HTTP2, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
    assert_eq!(client.fetch(first).await.text(), "ok");
    for n in 0..1500 {
        let sent = request(HTTP2, Method::GET, "/slow", "").body(StreamBody::from("")).unwrap();
        let given_up = tokio::time::timeout(Duration::from_millis(1), client.send(sent)).await;
        assert!(given_up.is_err(), "{n}");
    }
    let sent = request(HTTP2, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
    assert_eq!(client.fetch(sent).await.text(), "ok");
    assert_eq!(gate.upstream.connections(), 1);
}
