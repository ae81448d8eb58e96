//! Floods over HTTP/2: each costs the gate a bounded amount of memory, and others are served meanwhile.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    frames::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Http2, PING, PRIORITY, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, block, frame, get, request, setting,
    },
    process::{MIB, Process, Witness},
};
use crate::support::{
    eventually,
    upstream::{RawUpstream, StreamBody, TestUpstream},
};

/// How long a flood may go on.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the gate may take for one of them.
const LIMIT: usize = 48 * MIB;

/// Answers `/witness`, begins `/big` and goes on as long as somebody reads, and nothing else.
pub(super) async fn api() -> RawUpstream {
    RawUpstream::start(|mut stream, _| async move {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
            if head.starts_with(b"GET /witness ") {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            } else if head.starts_with(b"GET /big ") {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n").await;
                while stream.write_all(&[b'x'; 16_384]).await.is_ok() {}
                return;
            } else {
                // Until the gate goes.
                while matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {}
                return;
            }
        }
    })
    .await
}

/// Sends this again and again, as often as is said, or until the gate has enough. What comes back is thrown away.
async fn flood(connection: Http2, times: usize, mut next: impl FnMut(usize) -> Vec<u8>) -> usize {
    let (mut read, mut write) = connection.stream.into_split();
    let drain = tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while matches!(read.read(&mut buffer).await, Ok(1..)) {}
    });
    let mut sent = 0;
    // Many frames at once, as an attacker would.
    while sent < times && !drain.is_finished() {
        let many: Vec<u8> = (sent..(sent + 64).min(times)).flat_map(&mut next).collect();
        if write.write_all(&many).await.is_err() {
            break;
        }
        sent = (sent + 64).min(times);
    }
    drop(write);
    let _ = drain.await;
    sent
}

/// The number of the stream of this request.
fn stream(number: usize) -> u32 {
    2 * u32::try_from(number).unwrap() + 1
}

/// Runs it against a gate of its own: what it took, and that it was bounded.
async fn survives(name: &str, attack: impl AsyncFn(SocketAddr) -> usize) {
    let upstream = api().await;
    survives_before(&upstream.route("auth = \"none\""), LIMIT, name, attack).await;
}

async fn survives_before(route: &str, limit: usize, name: &str, attack: impl AsyncFn(SocketAddr) -> usize) {
    let gate = Process::start("", route).await;
    let witness = Witness::of(gate.address());
    witness.is_served(3).await;
    let (files, memory, cpu) = (gate.open_files(), gate.memory(), gate.cpu());
    gate.forget_peak();
    let sent = timeout(PATIENCE, attack(gate.address())).await.unwrap_or_else(|_| panic!("{name} does not end"));
    witness.is_served(3).await;
    let (peak, used) = (gate.peak().saturating_sub(memory), gate.cpu().saturating_sub(cpu));
    let (served, longest) = witness.end().await;
    println!("{name}: {sent} sent, {} KiB, {used:?} of CPU; others: {served}, {longest:?} at most", peak / 1024);
    assert!(peak < limit, "{name} took {} MiB", peak / MIB);
    assert!(longest < Duration::from_secs(10), "{name}: others waited for {longest:?}");
    eventually("nothing is left of it", async || gate.open_files() <= files + 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rapid_reset() {
    survives("rapid reset", async |address| {
        flood(Http2::connect(address).await, 20_000, |number| {
            let cancel = frame(RST_STREAM, 0, stream(number), &8_u32.to_be_bytes());
            [get(stream(number), "/slow"), cancel].concat()
        })
        .await
    })
    .await;
}

/// The gate is made to reset streams itself, by frames that are wrong.
#[tokio::test(flavor = "multi_thread")]
async fn made_you_reset() {
    survives("window updates of nothing", async |address| {
        flood(Http2::connect(address).await, 20_000, |number| {
            let wrong = frame(WINDOW_UPDATE, 0, stream(number), &[0; 4]);
            [get(stream(number), "/slow"), wrong].concat()
        })
        .await
    })
    .await;
    survives("windows that overflow", async |address| {
        flood(Http2::connect(address).await, 20_000, |number| {
            let wrong = frame(WINDOW_UPDATE, 0, stream(number), &0x7fff_ffff_u32.to_be_bytes());
            [get(stream(number), "/slow"), wrong].concat()
        })
        .await
    })
    .await;
    survives("data after the end", async |address| {
        flood(Http2::connect(address).await, 20_000, |number| {
            [get(stream(number), "/slow"), frame(DATA, 0, stream(number), b"x")].concat()
        })
        .await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit() {
    survives("streams beyond the limit", async |address| {
        flood(Http2::connect(address).await, 20_000, |number| get(stream(number), "/slow")).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_end() {
    survives("continuation", async |address| {
        let fields = block([(&b"x"[..], &[b'x'; 8000][..]), (b"y", &[b'y'; 8000])]);
        let head = frame(HEADERS, 0, 1, &request("GET", "/"));
        let mut first = Some(head);
        flood(Http2::connect(address).await, 20_000, |_| {
            first.take().unwrap_or_else(|| frame(CONTINUATION, 0, 1, &fields))
        })
        .await
    })
    .await;
    survives("continuation of nothing", async |address| {
        let mut first = Some(frame(HEADERS, 0, 1, &request("GET", "/")));
        flood(Http2::connect(address).await, 200_000, |_| {
            first.take().unwrap_or_else(|| frame(CONTINUATION, 0, 1, &[]))
        })
        .await
    })
    .await;
}

/// A few bytes that stand for many: a field of the table, again and again (RFC 7541 §7.3).
#[tokio::test(flavor = "multi_thread")]
async fn headers_that_unfold() {
    survives("headers that unfold", async |address| {
        let mut connection = Http2::connect(address).await;
        // A literal that is put into the table: `x` with a value of 3,900 bytes, a length of 127 + 61 + 29 * 128.
        let mut long = request("GET", "/slow");
        long.extend([0x40, 1, b'x', 0x7f, 0xbd, 29]);
        long.extend([b'x'; 3900]);
        connection.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &long)).await;
        let again = [request("GET", "/slow"), vec![0xbe; 16_000]].concat();
        flood(connection, 2_000, |number| {
            [
                frame(HEADERS, END_HEADERS | END_STREAM, stream(number + 1), &again),
                frame(RST_STREAM, 0, stream(number + 1), &8_u32.to_be_bytes()),
            ]
            .concat()
        })
        .await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_cost_an_answer() {
    survives("pings", async |address| {
        flood(Http2::connect(address).await, 200_000, |_| frame(PING, 0, 0, &[0; 8])).await
    })
    .await;
    survives("settings", async |address| {
        flood(Http2::connect(address).await, 200_000, |_| frame(SETTINGS, 0, 0, &setting(3, 100))).await
    })
    .await;
    survives("settings of the table", async |address| {
        flood(Http2::connect(address).await, 200_000, |number| {
            frame(SETTINGS, 0, 0, &setting(1, if number % 2 == 0 { 0 } else { u32::MAX }))
        })
        .await
    })
    .await;
    survives("settings of windows", async |address| {
        let mut connection = Http2::connect(address).await;
        for number in 0..200 {
            connection.send(get(stream(number), "/slow")).await;
        }
        let many: Vec<u8> = (0..2730).flat_map(|number| setting(4, number % 2)).collect();
        flood(connection, 256, |_| frame(SETTINGS, 0, 0, &many)).await
    })
    .await;
    // Nobody reads the answers.
    survives("pings, deaf", async |address| {
        let mut connection = Http2::connect(address).await;
        let many: Vec<u8> = (0..4096).flat_map(|_| frame(PING, 0, 0, &[0; 8])).collect();
        let mut sent = 0;
        while sent < 4_000_000 && matches!(timeout(Duration::from_secs(2), connection.send(&many)).await, Ok(true)) {
            sent += 4096;
        }
        sent
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_say_nothing() {
    survives("empty data", async |address| {
        let mut first = Some(frame(HEADERS, END_HEADERS, 1, &request("POST", "/slow")));
        flood(Http2::connect(address).await, 200_000, |_| first.take().unwrap_or_else(|| frame(DATA, 0, 1, &[]))).await
    })
    .await;
    survives("acknowledgements", async |address| {
        flood(Http2::connect(address).await, 200_000, |_| frame(SETTINGS, ACK, 0, &[])).await
    })
    .await;
    survives("window updates", async |address| {
        flood(Http2::connect(address).await, 200_000, |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())).await
    })
    .await;
    survives("priorities", async |address| {
        flood(Http2::connect(address).await, 200_000, |number| frame(PRIORITY, 0, stream(number), &[0, 0, 0, 0, 16]))
            .await
    })
    .await;
    survives("frames of no known kind", async |address| {
        flood(Http2::connect(address).await, 200_000, |_| frame(0xbe, 0xff, 0, &[0; 32])).await
    })
    .await;
}

/// Content that nobody reads, a kibibyte in each block of what else comes.
#[tokio::test(flavor = "multi_thread")]
async fn content_among_much_else() {
    survives("content that nobody reads", async |address| {
        let mut connection = Http2::connect(address).await;
        for number in 0..16 {
            connection.send(frame(HEADERS, END_HEADERS, stream(number), &request("POST", "/slow"))).await;
        }
        let nothing = frame(0xbe, 0, 0, &[0; 16_000]);
        flood(connection, 4000, |number| {
            let data = frame(DATA, 0, stream(number % 16), &[b'x'; 1000]);
            [&data[..], &nothing, &nothing, &nothing, &nothing].concat()
        })
        .await
    })
    .await;
}

/// What is read is read into large blocks; what is left of one must not keep all of it.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_stop_in_the_middle_of_a_frame() {
    survives("halves of frames behind much else", async |address| {
        let mut connections = Vec::new();
        let nothing = frame(0xbe, 0, 0, &[0; 16_000]).repeat(4);
        for _ in 0..1000 {
            let mut connection = Http2::connect(address).await;
            assert!(connection.send([&nothing[..], &[0, 0, 8, 6, 0]].concat()).await);
            connections.push(connection);
        }
        // All that comes before it has been read when the rest of it is answered.
        for connection in &mut connections[990..] {
            assert!(connection.send([0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]).await);
            while connection.next().await.expect("an answer").kind != PING {}
        }
        connections.len()
    })
    .await;
}

/// As many requests as one connection may have, and windows that let next to nothing of the answers through.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_takes() {
    for (name, window) in [("windows of nothing", 0), ("windows of a byte", 1)] {
        survives(name, async |address| untaken(address, 200, window).await.len() * 200).await;
    }
}

/// Over HTTP/2 an upstream sends of each of them what its window lets through.
#[tokio::test(flavor = "multi_thread")]
async fn answers_over_http2_that_nobody_takes() {
    let (upstream, sent) = (TestUpstream::start().await, Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&sent);
    upstream.handle(move |request| {
        let count = Arc::clone(&count);
        async move {
            let (frames, body) = StreamBody::channel();
            if request.uri().path() == "/witness" {
                return Response::new(StreamBody::from("ok"));
            }
            tokio::spawn(async move {
                while frames.send(Ok(Frame::data(Bytes::from_static(&[b'x'; 16_384])))).await.is_ok() {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
            Response::new(body)
        }
    });
    let route = format!("[[routes]]\nupstream = \"{}\"\nauth = \"none\"\nprotocol = \"http2\"\n", upstream.url());
    // Fewer of them, for upstreams have limits of their own; in two connections, so half of what the others may take.
    let attack = async |address| {
        let connections = untaken(address, 75, 0).await;
        let (mut before, mut times) = (0, 0);
        let stands = async || {
            let now = sent.load(Ordering::SeqCst);
            times = if now == before { times + 1 } else { 0 };
            before = now;
            times > 60
        };
        eventually("nothing more is sent", stands).await;
        connections.len() * 75
    };
    survives_before(&route, LIMIT / 2, "windows of nothing, from HTTP/2", attack).await;
}

/// So many requests in each of two connections, whose answers begin and stand.
async fn untaken(address: SocketAddr, each: usize, window: u32) -> Vec<Http2> {
    let mut connections = Vec::new();
    for _ in 0..2 {
        let mut connection = Http2::with_settings(address, &setting(4, window)).await;
        for number in 0..each {
            connection.send(get(stream(number), "/big")).await;
        }
        connections.push(connection);
    }
    for connection in &mut connections {
        let mut answered = 0;
        while answered < each {
            let frame = connection.next().await.expect("answers");
            answered += usize::from(frame.kind == HEADERS);
        }
    }
    connections
}
