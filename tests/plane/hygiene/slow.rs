//! Clients that take their time, many at once: what they cost, how long they may, and that others are served meanwhile.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Response};
use http_body::Frame;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    floods::api,
    frames::{Answer, HEADERS, Http2, PING, WINDOW_UPDATE, frame, get, setting},
    process::{MIB, Process, Witness},
};
use crate::support::{
    client::{Client, Raw, request},
    eventually,
    gate::TestGate,
    upstream::StreamBody,
};

/// How many of them there are at once.
const MANY: usize = 300;

/// A gate, and somebody whom it must go on serving.
async fn gate(listener: &str) -> (Process, Witness) {
    let upstream = api().await;
    let gate = Process::start(listener, &upstream.route("auth = \"none\"\nbody_idle_timeout = \"2s\"")).await;
    // It lives as long as the test.
    std::mem::forget(upstream);
    let witness = Witness::of(gate.address());
    witness.is_served(3).await;
    gate.forget_peak();
    (gate, witness)
}

/// Connections on which this was sent.
async fn connections(address: SocketAddr, bytes: &str) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..MANY {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        all.push(stream);
    }
    all
}

/// Others were served, and this much memory for each was enough.
async fn was_harmless(what: &str, gate: &Process, witness: Witness, before: usize, each: usize) {
    witness.is_served(3).await;
    let (served, longest) = witness.end().await;
    let taken = gate.peak().saturating_sub(before);
    println!("{what}: {} KiB each; others: {served}, {longest:?} at most", taken / MANY / 1024);
    assert!(taken < MANY * each + 8 * MIB, "{what}: {} KiB", taken / 1024);
    assert!(longest < Duration::from_secs(10), "{what}: others waited for {longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_a_byte_at_a_time() {
    let (gate, witness) = gate("header_timeout = \"2s\"\nidle_timeout = \"60s\"").await;
    let before = gate.memory();
    let begun = Instant::now();
    let mut slow = JoinSet::new();
    for mut stream in connections(gate.address(), "GET / HTTP/1.1\r\nHost: a\r\nX: ").await {
        slow.spawn(async move {
            // Until it is cut off.
            while stream.write_all(b"x").await.is_ok() {
                sleep(Duration::from_millis(100)).await;
            }
        });
    }
    timeout(Duration::from_secs(30), async { while slow.join_next().await.is_some() {} })
        .await
        .expect("all are cut off");
    assert!(begun.elapsed() > Duration::from_millis(1900), "{:?}", begun.elapsed());
    was_harmless("headers a byte at a time", &gate, witness, before, 64 * 1024).await;
}

/// A body has no least rate: it holds a connection on either side, no more, and only as long as it moves at all.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_a_byte_at_a_time() {
    let (gate, witness) = gate("").await;
    let before = gate.memory();
    let mut all =
        connections(gate.address(), "POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").await;
    for _ in 0..5 {
        for stream in &mut all {
            stream.write_all(b"x").await.unwrap();
        }
        sleep(Duration::from_millis(200)).await;
    }
    witness.is_served(3).await;
    // Now they stand still.
    for mut stream in all {
        let mut reply = String::new();
        let _ = timeout(Duration::from_secs(20), stream.read_to_string(&mut reply)).await.expect("it is cut off");
        assert!(reply.starts_with("HTTP/1.1 408 ") && reply.contains("request_timeout"), "{reply}");
    }
    was_harmless("bodies a byte at a time", &gate, witness, before, 128 * 1024).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_anything_to_do() {
    let (gate, witness) = gate("idle_timeout = \"3s\"\nmax_connections = 320").await;
    let before = gate.memory();
    let mut all = connections(gate.address(), "GET /witness HTTP/1.1\r\nHost: a\r\n\r\n").await;
    for stream in &mut all {
        let mut reply = Vec::new();
        while !reply.ends_with(b"ok") {
            stream.read_buf(&mut reply).await.unwrap();
        }
    }
    witness.is_served(3).await;
    // All that may be: a newcomer waits until some have been idle for too long.
    let mut more = Vec::new();
    for _ in 0..30 {
        more.push(TcpStream::connect(gate.address()).await.unwrap());
    }
    let begun = Instant::now();
    witness.is_served(3).await;
    println!("waited for room: {:?}", begun.elapsed());
    for mut stream in all {
        let mut rest = Vec::new();
        assert_eq!(timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.unwrap().unwrap(), 0);
    }
    was_harmless("connections without anything to do", &gate, witness, before, 48 * 1024).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads() {
    let (gate, witness) = gate("idle_timeout = \"3s\"").await;
    let before = gate.memory();
    let files = gate.open_files();
    let all = connections(gate.address(), "GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await;
    witness.is_served(3).await;
    eventually("they are cut off", async || gate.open_files() < files + MANY / 10).await;
    drop(all);
    was_harmless("answers that nobody reads", &gate, witness, before, 192 * 1024).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_waiting_for_answers() {
    let (gate, witness) = gate("idle_timeout = \"3s\"").await;
    let before = gate.memory();
    let mut stream = TcpStream::connect(gate.address()).await.unwrap();
    let many = "GET /witness HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
    let mut sent = 0;
    // Nothing is read, so the gate stops as well.
    while sent < 1_000_000
        && timeout(Duration::from_secs(2), stream.write_all(many.as_bytes())).await.is_ok_and(|sent| sent.is_ok())
    {
        sent += 1000;
    }
    println!("{sent} requests");
    assert!(sent < 1_000_000);
    was_harmless("requests without waiting for answers", &gate, witness, before, 16 * 1024).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_end() {
    let (gate, witness) = gate("").await;
    let before = gate.memory();
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(MIB));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "X: 1\r\n".repeat(100_000));
    let empty = "\r\n".repeat(MIB);
    for (bytes, status, code) in
        [(long, 431, "header_too_large"), (many, 431, "header_too_large"), (empty, 400, "malformed_request")]
    {
        let mut all = JoinSet::new();
        for _ in 0..MANY / 3 {
            let (address, bytes) = (gate.address(), bytes.clone());
            all.spawn(async move { Raw::exchange(address, bytes).await });
        }
        while let Some(reply) = all.join_next().await {
            let reply = reply.unwrap();
            assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")) && reply.contains(code), "{reply}");
        }
    }
    was_harmless("headers without end", &gate, witness, before, 96 * 1024).await;
}

/// Over HTTP/2 no write waits for a client that makes no room for what it asked for. It is cut off all the same.
#[tokio::test(flavor = "multi_thread")]
async fn room_that_nobody_makes() {
    for window in [0, 1, 1000] {
        let upstream = api().await;
        let settings = "[listener]\nidle_timeout = \"1s\"\nheader_timeout = \"30s\"\n";
        let gate = TestGate::start(&[settings, &upstream.route("auth = \"none\"")].concat()).await;
        let mut connection = Http2::with_settings(gate.address(), &setting(4, window)).await;
        for stream in [1, 3, 5] {
            connection.send(get(stream, "/big")).await;
        }
        let begun = Instant::now();
        // It goes on answering, so it is there.
        while let Some(received) = connection.next().await {
            assert!(begun.elapsed() < Duration::from_secs(15), "never cut off");
            if received.kind == PING && received.flags == 0 {
                connection.send(frame(PING, 1, 0, &received.payload)).await;
            }
        }
        assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
    }
}

/// A client that went without a word is noticed while its request waits, as it does not answer; one that answers may wait.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_no_longer_there() {
    let settings = "[listener]\nidle_timeout = \"1s\"\nheader_timeout = \"1s\"\n";
    let gate = TestGate::start(&[settings, "[[routes]]\nupstream = \"{upstream}\"\nauth = \"none\"\n"].concat()).await;
    gate.upstream.handle(|_| std::future::pending::<Response<StreamBody>>());
    for answers in [true, false] {
        let mut connection = Http2::connect(gate.address()).await;
        connection.send(get(1, "/")).await;
        let (begun, mut asked) = (Instant::now(), 0);
        let ended = loop {
            let Some(received) = connection.next().await else { break true };
            if received.kind == PING && received.flags == 0 {
                asked += 1;
                if answers {
                    connection.send(frame(PING, 1, 0, &received.payload)).await;
                }
            }
            if asked == 4 {
                break false;
            }
        };
        assert_eq!((ended, asked), if answers { (false, 4) } else { (true, 1) });
        assert!(begun.elapsed() > Duration::from_millis(1900), "{:?}", begun.elapsed());
    }
}

/// Who makes room now and then, and who waits for an upstream that says nothing, are not cut off.
#[tokio::test(flavor = "multi_thread")]
async fn patience_is_for_those_who_take_something() {
    let upstream = api().await;
    let settings = "[listener]\nidle_timeout = \"3s\"\nheader_timeout = \"30s\"\n";
    let gate = TestGate::start(&[settings, &upstream.route("auth = \"none\"")].concat()).await;
    let mut connection = Http2::with_settings(gate.address(), &setting(4, 60_000)).await;
    connection.send([frame(WINDOW_UPDATE, 0, 0, &1_000_000_000_u32.to_be_bytes()), get(1, "/big")].concat()).await;
    for _ in 0..40 {
        sleep(Duration::from_millis(100)).await;
        connection.send(frame(WINDOW_UPDATE, 0, 1, &60_000_u32.to_be_bytes())).await;
        while let Some(received) = connection.next().await {
            if received.kind == PING && received.flags == 0 {
                connection.send(frame(PING, 1, 0, &received.payload)).await;
            }
            if received.kind != PING && received.kind != HEADERS && received.stream == 1 {
                break;
            }
        }
    }
    connection.send(get(3, "/witness")).await;
    assert_eq!(connection.answer(3).await, Answer::Response(200, b"ok".to_vec()));

    let gate = TestGate::start(&[settings, "[[routes]]\nupstream = \"{upstream}\"\nauth = \"none\"\n"].concat()).await;
    let (frames, body) = StreamBody::channel();
    let body = std::sync::Mutex::new(Some(body));
    gate.upstream.handle(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async { Response::new(body) }
    });
    let mut client = Client::http2(gate.address()).await;
    let sent = request(http::Version::HTTP_2, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
    let mut response = client.send(sent).await.unwrap();
    for _ in 0..2 {
        // For longer than anybody may take nothing of what is there.
        sleep(Duration::from_millis(3500)).await;
        frames.send(Ok(Frame::data(Bytes::from("event")))).await.unwrap();
        let frame = http_body_util::BodyExt::frame(response.body_mut()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "event");
    }
}
