//! A client that leaves one answer standing while it takes others: over HTTP/2 a connection is no sign of life of its streams.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frames::{Answer, DATA, Http2, PING, RST_STREAM, WINDOW_UPDATE, frame, get, setting};
use crate::support::{eventually, gate::TestGate, upstream::RawUpstream};

/// `CANCEL` (RFC 9113 §7).
const CANCEL: u32 = 8;

/// Answers each request with a body that goes on for as long as somebody takes it. How many of them do is counted.
async fn streams(open: &Arc<AtomicUsize>) -> RawUpstream {
    let open = Arc::clone(open);
    RawUpstream::start(move |mut stream, _| {
        let open = Arc::clone(&open);
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
            open.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n").await;
            while stream.write_all(&[b'x'; 16_384]).await.is_ok() {}
            open.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await
}

/// Takes of stream 3 alone until stream 1 is reset: after how long, and with what code.
async fn until_reset(connection: &mut Http2) -> (Duration, u32) {
    let (begun, mut taken) = (Instant::now(), 0_u32);
    loop {
        assert!(begun.elapsed() < Duration::from_secs(20), "never reset; {taken} taken of the other");
        let received = connection.next().await.expect("the connection goes on");
        match (received.kind, received.stream) {
            (PING, _) if received.flags == 0 => {
                connection.send(frame(PING, 1, 0, &received.payload)).await;
            }
            (DATA, 3) => {
                let length = u32::try_from(received.payload.len()).unwrap();
                taken += length;
                let update = length.to_be_bytes();
                connection
                    .send([frame(WINDOW_UPDATE, 0, 0, &update), frame(WINDOW_UPDATE, 0, 3, &update)].concat())
                    .await;
                // A client that takes its time.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (RST_STREAM, 1) => return (begun.elapsed(), received.code(4)),
            (RST_STREAM, other) => panic!("stream {other} was reset"),
            _ => {}
        }
    }
}

/// What was held for the stream that stood still is free, and the other one goes on.
async fn goes_on_without_it(connection: &mut Http2, open: &AtomicUsize) {
    eventually("the upstream is let go", async || open.load(Ordering::SeqCst) == 1).await;
    // Its place is there for another one,
    connection.send([get(5, "/next"), frame(WINDOW_UPDATE, 0, 5, &100_000_u32.to_be_bytes())].concat()).await;
    let (mut answered, mut taken) = (false, false);
    while !answered || !taken {
        let received = connection.next().await.expect("the connection goes on");
        match (received.kind, received.stream) {
            (DATA, 5) => answered = true,
            (DATA, 3) => {
                let update = u32::try_from(received.payload.len()).unwrap().to_be_bytes();
                connection
                    .send([frame(WINDOW_UPDATE, 0, 0, &update), frame(WINDOW_UPDATE, 0, 3, &update)].concat())
                    .await;
                taken = true;
            }
            (RST_STREAM, stream) => panic!("stream {stream} was reset"),
            _ => {}
        }
    }
    // and there is no third.
    connection.send([get(7, "/too-much"), frame(WINDOW_UPDATE, 0, 7, &1000_u32.to_be_bytes())].concat()).await;
    assert!(matches!(connection.answer(7).await, Answer::Response(503, _)));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_answer_that_stands_is_ended_alone() {
    for window in [0, 1, 20_000] {
        let open = Arc::default();
        let upstream = streams(&open).await;
        let listener = "[listener]\nidle_timeout = \"2s\"\nheader_timeout = \"30s\"\n";
        let route = upstream.route("auth = \"none\"\nlimits = { max_requests = 2 }");
        let gate = TestGate::start(&[listener, &route].concat()).await;
        let mut connection = Http2::with_settings(gate.address(), &setting(4, window)).await;
        // The connection itself has room for all of them.
        connection.send(frame(WINDOW_UPDATE, 0, 0, &1_000_000_000_u32.to_be_bytes())).await;
        connection.send([get(1, "/stands"), get(3, "/goes-on")].concat()).await;
        connection.send(frame(WINDOW_UPDATE, 0, 3, &100_000_u32.to_be_bytes())).await;
        let (after, code) = until_reset(&mut connection).await;
        assert_eq!(code, CANCEL);
        assert!(after > Duration::from_millis(1800), "{after:?}");
        goes_on_without_it(&mut connection, &open).await;
    }
}

/// The time that a request may take in all is over whether its client takes the answer or not.
#[tokio::test(flavor = "multi_thread")]
async fn the_total_time_is_up_for_an_answer_that_stands() {
    let open = Arc::default();
    let upstream = streams(&open).await;
    let listener = "[listener]\nidle_timeout = \"60s\"\nheader_timeout = \"1s\"\n";
    let gate = TestGate::start(&[listener, &upstream.route("auth = \"none\"\ntotal_timeout = \"2s\"")].concat()).await;
    let mut connection = Http2::with_settings(gate.address(), &setting(4, 1)).await;
    connection.send(get(1, "/stands")).await;
    let (after, code) = until_reset(&mut connection).await;
    assert_eq!(code, CANCEL);
    assert!(after > Duration::from_millis(1800), "{after:?}");
    eventually("the upstream is let go", async || open.load(Ordering::SeqCst) == 0).await;

    // Over HTTP/1.1 the connection is the answer's alone.
    let mut stream = tokio::net::TcpStream::connect(gate.address()).await.unwrap();
    stream.write_all(b"GET /stands HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    eventually("it is asked for", async || open.load(Ordering::SeqCst) == 1).await;
    eventually("the upstream is let go", async || open.load(Ordering::SeqCst) == 0).await;
}

/// An answer that is there as a whole is no more than one of which there is more to come.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_answer_that_stands_is_ended_alone() {
    let listener = "[listener]\nidle_timeout = \"2s\"\nheader_timeout = \"30s\"\n";
    let route = "[[routes]]\nauth = \"none\"\nupstream = \"{upstream}\"\nlimits = { max_requests = 1 }\n";
    let gate = TestGate::start(&[listener, route].concat()).await;
    let mut connection = Http2::with_settings(gate.address(), &setting(4, 1)).await;
    connection.send(get(1, "/stands")).await;
    let begun = Instant::now();
    loop {
        let received = connection.next().await.expect("the connection goes on");
        match (received.kind, received.stream) {
            (PING, _) if received.flags == 0 => {
                connection.send(frame(PING, 1, 0, &received.payload)).await;
            }
            (RST_STREAM, 1) => break assert_eq!(received.code(4), CANCEL),
            _ => assert!(begun.elapsed() < Duration::from_secs(20), "never reset"),
        }
    }
    assert!(begun.elapsed() > Duration::from_millis(1800), "{:?}", begun.elapsed());
    // Its place is free.
    connection.send([get(3, "/next"), frame(WINDOW_UPDATE, 0, 3, &100_000_u32.to_be_bytes())].concat()).await;
    assert_eq!(connection.answer(3).await, Answer::Response(200, b"ok".to_vec()));
}
