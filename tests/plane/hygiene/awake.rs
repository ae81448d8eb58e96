//! A gate that waits awake: when it does, by the time that it runs, and that it sleeps all the same.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use super::{
    floods::api,
    process::{Process, Witness},
};
use crate::support::{
    client::Raw,
    upstream::{RawUpstream, StreamBody, TestUpstream},
};

const AWAKE: &str = "busy_poll = \"10ms\"";

/// How often something comes, and how far apart: half of that time, a gate is awake.
const TIMES: usize = 50;
const APART: Duration = Duration::from_millis(20);

/// It sleeps when nothing comes for longer.
#[tokio::test(flavor = "multi_thread")]
async fn it_sleeps_in_the_end() {
    let upstream = api().await;
    let gate = Process::start(AWAKE, &upstream.route("auth = \"none\"")).await;
    let witness = Witness::of(gate.address());
    witness.is_served(20).await;
    witness.end().await;
    let (cpu, begun) = (gate.cpu(), Instant::now());
    sleep(Duration::from_secs(2)).await;
    let used = gate.cpu().saturating_sub(cpu);
    assert!(used < begun.elapsed() / 2, "{used:?}");
}

/// A gate that waits awake uses more than one that does not, while this happens to it.
async fn is_awake_for(route: &str, head: &str, happens: impl AsyncFn(&mut Raw)) {
    let mut used = Vec::new();
    for listener in ["", AWAKE] {
        let gate = Process::start(listener, route).await;
        let mut client = Raw::connect(gate.address()).await;
        client.write(head).await;
        let cpu = gate.cpu();
        happens(&mut client).await;
        used.push(gate.cpu().saturating_sub(cpu));
    }
    assert!(used[1] > used[0] + Duration::from_millis(100), "{used:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wake_it() {
    let upstream = api().await;
    is_awake_for(&upstream.route("auth = \"none\""), "", async |client| {
        for _ in 0..TIMES {
            client.write("GET /witness HTTP/1.1\r\nHost: a\r\n\r\n").await;
            client.read_until("ok").await;
            sleep(APART).await;
        }
    })
    .await;
}

/// Nothing comes from the client meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_of_http2_says_wakes_it() {
    let upstream = TestUpstream::start().await;
    upstream.handle(|_| async {
        let (frames, body) = StreamBody::channel();
        tokio::spawn(async move {
            for number in 1..=TIMES {
                sleep(APART).await;
                let event = Bytes::from(format!("event {number}."));
                let _ = frames.send(Ok(Frame::data(event))).await;
            }
        });
        Response::new(body)
    });
    let route = format!("[[routes]]\nauth = \"none\"\nprotocol = \"http2\"\nupstream = \"{}\"\n", upstream.url());
    is_awake_for(&route, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", async |client| {
        client.read_until(&format!("event {TIMES}.")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_through_a_websocket_wakes_it() {
    let upstream = RawUpstream::start(|mut stream, _| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        if head.starts_with(b"GET /witness ") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            return;
        }
        // RFC 6455 §1.3 has this pair of a key and what is made of it.
        let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        let _ = stream.write_all(switched.as_bytes()).await;
        for number in 1..=TIMES {
            sleep(APART).await;
            let event = format!("event {number:02}.");
            // One message of nine bytes of text.
            let _ = stream.write_all(&[b"\x81\x09", event.as_bytes()].concat()).await;
        }
        let _ = stream.read(&mut [0; 16]).await;
    })
    .await;
    let handshake = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    is_awake_for(&upstream.route("auth = \"none\""), handshake, async |client| {
        client.read_until(&format!("event {TIMES}.")).await;
    })
    .await;
}
