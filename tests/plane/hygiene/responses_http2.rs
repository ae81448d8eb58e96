//! What an upstream of HTTP/2 can send, frame by frame: one answer to each request, or none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Response, Version};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use super::{
    frames::{
        ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, block,
        frame, frame_head, setting,
    },
    responses::{
        Ends::{self, BadGateway, BrokenOff, With},
        outcome,
    },
};
use crate::support::{
    client::{Client, Raw, request},
    gate::TestGate,
    upstream::{RawUpstream, StreamBody},
};

const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

const PUSH_PROMISE: u8 = 5;

/// A header, of a response that may be all of it.
fn head(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    frame(HEADERS, END_HEADERS | flags, stream, &block(fields))
}

fn ok(stream: u32) -> Vec<u8> {
    head(0, stream, &[(":status", "200")])
}

fn interim(stream: u32, status: &str) -> Vec<u8> {
    head(0, stream, &[(":status", status), ("link", "</x>")])
}

fn data(flags: u8, stream: u32, content: &str) -> Vec<u8> {
    frame(DATA, flags, stream, content.as_bytes())
}

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// A client's connection, seen from its upstream.
struct Upstream {
    stream: TcpStream,
}

impl Upstream {
    /// Begins a connection; these settings come first.
    async fn begin(mut stream: TcpStream, settings: &[u8]) -> Self {
        let mut preface = [0; 24];
        let _ = stream.read_exact(&mut preface).await;
        let _ = stream.write_all(&frame(SETTINGS, 0, 0, settings)).await;
        Self { stream }
    }

    /// The next frame that is no bookkeeping; `None`: the connection ended.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let (length, kind, flags, stream) = frame_head(&head);
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await.ok()?;
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(frame(SETTINGS, ACK, 0, &[])).await,
                SETTINGS | WINDOW_UPDATE => {}
                PING if flags & ACK == 0 => self.send(frame(PING, ACK, 0, &payload)).await,
                _ => return Some(Frame { kind, flags, stream, payload }),
            }
        }
    }

    async fn send(&mut self, frames: Vec<u8>) {
        let _ = self.stream.write_all(&frames).await;
    }
}

/// Its first connection answers the first request with this, and then ends if the answer needs an end; all others answer `second`.
async fn upstream(answer: Vec<u8>, ends: bool) -> RawUpstream {
    RawUpstream::start(move |stream, number| {
        let mut answer = (number == 0).then(|| answer.clone());
        async move {
            let mut upstream = Upstream::begin(stream, &[]).await;
            while let Some(frame) = upstream.next().await {
                if frame.kind == HEADERS {
                    let second = || [ok(frame.stream), data(END_STREAM, frame.stream, "second")].concat();
                    let is_first = answer.is_some();
                    upstream.send(answer.take().unwrap_or_else(second)).await;
                    if is_first && ends {
                        return;
                    }
                }
            }
        }
    })
    .await
}

/// What is sent for stream 1, what comes of it, and whether the connection ends after it.
fn answers() -> Vec<(&'static str, Vec<u8>, Ends, bool)> {
    let with = |fields: &[(&str, &str)], content: &str| {
        let fields = [&[(":status", "200")][..], fields].concat();
        [head(0, 1, &fields), data(END_STREAM, 1, content)].concat()
    };
    let length = |length, content: &str| with(&[("content-length", length)], content);
    let part = || [ok(1), data(0, 1, "par")].concat();
    let whole = || [ok(1), data(END_STREAM, 1, "ok")].concat();
    let trailers = |fields: &[(&str, &str)]| [ok(1), data(0, 1, "ok"), head(END_STREAM, 1, fields)].concat();
    let final_ = |frames: Vec<u8>| [frames, whole()].concat();
    let long = "x".repeat(70_000);
    vec![
        // Where does it end?
        ("a header and content", whole(), With("ok"), false),
        ("a header alone", head(END_STREAM, 1, &[(":status", "200")]), With(""), false),
        ("an end without content", [ok(1), data(END_STREAM, 1, "")].concat(), With(""), false),
        ("in parts", [ok(1), data(0, 1, "o"), data(0, 1, ""), data(END_STREAM, 1, "k")].concat(), With("ok"), false),
        ("a length", length("2", "ok"), With("ok"), false),
        ("the same length twice", with(&[("content-length", "2"), ("content-length", "2")], "ok"), With("ok"), false),
        ("two lengths", with(&[("content-length", "2"), ("content-length", "3")], "ok"), BadGateway, false),
        ("a length that is none", length("2x", "ok"), BadGateway, false),
        ("a length below zero", length("-2", "ok"), BadGateway, false),
        ("too little", length("3", "ok"), BrokenOff, false),
        ("too much", length("1", "ok"), BrokenOff, false),
        (
            "too little, in a header alone",
            head(END_STREAM, 1, &[(":status", "200"), ("content-length", "2")]),
            BadGateway,
            false,
        ),
        ("no header", data(END_STREAM, 1, "ok"), BadGateway, false),
        ("nothing", Vec::new(), BadGateway, true),
        ("a part, and then nothing", part(), BrokenOff, true),
        (
            "a part, and its length",
            [head(0, 1, &[(":status", "200"), ("content-length", "5")]), data(0, 1, "par")].concat(),
            BrokenOff,
            true,
        ),
        ("a part, and a reset", [part(), reset(1, INTERNAL_ERROR)].concat(), BrokenOff, false),
        ("a part, and a reset without error", [part(), reset(1, NO_ERROR)].concat(), BrokenOff, false),
        ("an empty length", length("", ""), BadGateway, false),
        ("a part, and it is given up", [part(), reset(1, CANCEL)].concat(), BrokenOff, false),
        (
            "a part of a length, and a reset without error",
            [head(0, 1, &[(":status", "200"), ("content-length", "5")]), data(0, 1, "par"), reset(1, NO_ERROR)]
                .concat(),
            BrokenOff,
            false,
        ),
        ("a part, and a goodbye", [part(), goaway(1, INTERNAL_ERROR)].concat(), BrokenOff, true),
        ("all, and a reset without error", [whole(), reset(1, NO_ERROR)].concat(), With("ok"), false),
        ("all, and a goodbye", [whole(), goaway(1, NO_ERROR)].concat(), With("ok"), true),
        ("a goodbye, and all", [goaway(1, NO_ERROR), whole()].concat(), With("ok"), true),
        ("trailers", trailers(&[("x-note", "1")]), With("ok"), false),
        (
            "trailers, and a reset without error",
            [trailers(&[("x-note", "1")]), reset(1, NO_ERROR)].concat(),
            With("ok"),
            false,
        ),
        // It is passed over: the library does not tell of it.
        ("a status in trailers", trailers(&[(":status", "200")]), With("ok"), false),
        (
            "trailers that do not end it",
            [ok(1), data(0, 1, "ok"), head(0, 1, &[("x-note", "1")])].concat(),
            BrokenOff,
            true,
        ),
        // Is there more than one?
        ("content after its end", [whole(), data(END_STREAM, 1, "evil")].concat(), With("ok"), true),
        ("a second header", [ok(1), ok(1), data(END_STREAM, 1, "ok")].concat(), BrokenOff, false),
        ("a promise", [frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), whole()].concat(), BadGateway, false),
        ("interim ones", final_([interim(1, "103"), interim(1, "102"), interim(1, "199")].concat()), With("ok"), false),
        ("too many interim ones", final_(interim(1, "103").repeat(65)), BadGateway, false),
        ("as many interim ones as there may be", final_(interim(1, "103").repeat(64)), With("ok"), false),
        ("another protocol", final_(interim(1, "101")), BadGateway, false),
        ("an interim one that is the last", head(END_STREAM, 1, &[(":status", "103")]), BadGateway, false),
        ("an interim one, and then nothing", interim(1, "103"), BadGateway, true),
        // Is it HTTP?
        ("no status", [head(0, 1, &[("x", "1")]), data(END_STREAM, 1, "ok")].concat(), BadGateway, false),
        (
            "a status that is none",
            [head(0, 1, &[(":status", "2000")]), data(END_STREAM, 1, "ok")].concat(),
            BadGateway,
            false,
        ),
        (
            "a request",
            [head(0, 1, &[(":method", "GET"), (":path", "/")]), data(END_STREAM, 1, "ok")].concat(),
            BadGateway,
            false,
        ),
        ("a name in upper case", with(&[("X-Upper", "1")], "ok"), BadGateway, false),
        ("a name that is none", with(&[("x evil", "1")], "ok"), BadGateway, false),
        ("a value with line breaks", with(&[("x", "a\r\nevil: 1")], "ok"), BadGateway, false),
        ("fields of one connection", with(&[("connection", "x-evil"), ("x-evil", "1")], "ok"), BadGateway, false),
        ("a transfer coding", with(&[("transfer-encoding", "chunked")], "ok"), BadGateway, false),
        ("too large", with(&[("x", &long)], "ok"), BadGateway, false),
        ("another protocol altogether", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), BadGateway, false),
        ("content for nobody", [data(0, 3, "evil"), whole()].concat(), BadGateway, false),
        // Fields that the gate alone may set, and those of proxies, do not reach the client.
        ("fields of proxies", with(&[("proxy-authenticate", "Basic"), ("x", "1")], "ok"), With("ok"), false),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_one_answer_or_none_over_http2() {
    let mut wrong = Vec::new();
    for (what, answer, expected, ends) in answers() {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let upstream = upstream(answer.clone(), ends).await;
            let settings = "auth = \"none\"\nprotocol = \"http2\"\nretries.attempts = 1\nresponse_timeout = \"5s\"\nbody_idle_timeout = \"5s\"";
            let gate = TestGate::start(&upstream.route(settings)).await;
            let mut client = Client::connect(version, gate.address()).await;
            // Not one that may be sent once more, but where the upstream says so.
            let post = || request(version, Method::POST, "/", "").body(StreamBody::from("")).unwrap();
            let (found, right) = (outcome(&mut client, post(), what).await, expected.text());
            let mut other = Client::connect(version, gate.address()).await;
            let next = other.fetch(request(version, Method::GET, "/", "").body(StreamBody::from("")).unwrap()).await;
            let next = String::from_utf8_lossy(&next.body).into_owned();
            if found != right || next != "second" {
                wrong.push(format!("{version:?}: {what}\n    {found}, not {right}; then {next:.60}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What an upstream says it did not touch is sent once more, whatever it was: over another connection if it said goodbye. Content that it did
/// not ask for is still there, and so is content that it had no room for.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_did_not_touch_is_sent_once_more() {
    let expecting =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    let at_once = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody";
    for (what, refuse, connections) in [
        ("a goodbye before it", (|stream| goaway(stream - 2, NO_ERROR)) as fn(u32) -> Vec<u8>, 2),
        ("a stream that is refused", |stream| reset(stream, REFUSED_STREAM), 1),
    ] {
        for request in [expecting, at_once] {
            let count = Arc::new(AtomicUsize::new(0));
            let seen = Arc::clone(&count);
            let upstream = RawUpstream::start(move |stream, number| {
                seen.fetch_add(1, Ordering::SeqCst);
                async move {
                    // SETTINGS_INITIAL_WINDOW_SIZE: it has room for nothing, which is known after the first request.
                    let mut upstream = Upstream::begin(stream, &setting(4, 0)).await;
                    let mut asked = if number == 0 { 0 } else { 2 };
                    while let Some(Frame { kind, flags, stream, payload }) = upstream.next().await {
                        let answer = || [ok(stream), data(END_STREAM, stream, "done")].concat();
                        let more = || frame(WINDOW_UPDATE, 0, stream, &4_u32.to_be_bytes());
                        if kind == HEADERS {
                            asked += 1;
                            let answers = asked == 1 || request == expecting;
                            if asked == 2 {
                                // What its client has to say has come as far as it can.
                                tokio::time::sleep(Duration::from_millis(100)).await;
                                upstream.send(refuse(stream)).await;
                            } else {
                                upstream.send(if answers { answer() } else { more() }).await;
                            }
                        } else if kind == DATA && flags & END_STREAM != 0 && payload == b"body" {
                            upstream.send(answer()).await;
                        }
                    }
                }
            })
            .await;
            let gate = TestGate::start(&upstream.route("auth = \"none\"\nprotocol = \"http2\"")).await;
            assert_eq!(gate.get("/", "").await.text(), "done");
            let reply = Raw::exchange(gate.address(), request).await;
            assert!(reply.starts_with("HTTP/1.1 200") && reply.contains("done"), "{what}: {reply}");
            assert_eq!(count.load(Ordering::SeqCst), connections, "{what}");
        }
    }
}

/// A request that is sent once more has as much time as before, whatever it waited for the first time.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_once_more_has_its_time() {
    let upstream = RawUpstream::start(move |stream, number| async move {
        // The first connection has room for nothing, which is known after the first request.
        let mut upstream = Upstream::begin(stream, &if number == 0 { setting(4, 0) } else { Vec::new() }).await;
        while let Some(Frame { kind, flags, stream, .. }) = upstream.next().await {
            if kind != HEADERS || number > 0 {
                continue;
            }
            if flags & END_STREAM != 0 {
                upstream.send([ok(stream), frame(DATA, END_STREAM, stream, b"")].concat()).await;
            } else {
                // Until its content has been asked for, since nobody said anything.
                tokio::time::sleep(Duration::from_millis(1500)).await;
                upstream.send(goaway(stream - 2, NO_ERROR)).await;
            }
        }
    })
    .await;
    let settings = "auth = \"none\"\nprotocol = \"http2\"\nresponse_timeout = \"1s\"";
    let gate = TestGate::start(&upstream.route(settings)).await;
    assert_eq!(gate.get("/", "").await.status, 200);
    let mut raw = Raw::connect(gate.address()).await;
    raw.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(raw.read_until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    raw.write("body").await;
    let reply = raw.read_until("upstream_timeout").await;
    assert!(reply.starts_with("HTTP/1.1 504"), "{reply}");
}

/// What is wrong with an answer is no reason to ask again.
#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_answer_is_an_answer() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let upstream = RawUpstream::start(move |stream, _| {
        let seen = Arc::clone(&seen);
        async move {
            let mut upstream = Upstream::begin(stream, &[]).await;
            while let Some(frame) = upstream.next().await {
                if frame.kind == HEADERS {
                    seen.fetch_add(1, Ordering::SeqCst);
                    upstream.send(head(END_STREAM, frame.stream, &[("x", "no status")])).await;
                }
            }
        }
    })
    .await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"\nprotocol = \"http2\"\nretries.attempts = 3")).await;
    assert_eq!(gate.get("/", "").await.code(), "upstream_unavailable");
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

/// What may have been done is not done twice: content that has gone is gone, and so is a request that was looked at.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_may_have_touched_is_sent_once() {
    for refuse in [
        (|stream| reset(stream, CANCEL)) as fn(u32) -> Vec<u8>,
        |stream| goaway(stream, NO_ERROR),
        // It may have been this very request.
        |stream| goaway(stream - 1, INTERNAL_ERROR),
    ] {
        let (count, (noted, mut requests)) = (Arc::new(AtomicUsize::new(0)), mpsc::channel(100));
        let seen = Arc::clone(&count);
        let upstream = RawUpstream::start(move |stream, _| {
            let (seen, noted) = (Arc::clone(&seen), noted.clone());
            async move {
                let mut upstream = Upstream::begin(stream, &[]).await;
                while let Some(frame) = upstream.next().await {
                    if frame.kind == HEADERS {
                        seen.fetch_add(1, Ordering::SeqCst);
                        upstream.send(refuse(frame.stream)).await;
                        let _ = noted.send(()).await;
                        return;
                    }
                }
            }
        })
        .await;
        let gate = TestGate::start(&upstream.route("auth = \"none\"\nprotocol = \"http2\"")).await;
        let mut client = Client::connect(Version::HTTP_11, gate.address()).await;
        let post = request(Version::HTTP_11, Method::POST, "/", "").body(StreamBody::from("")).unwrap();
        assert_eq!(client.fetch(post).await.code(), "upstream_unavailable");
        requests.recv().await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}

/// Nor is content that has gone, whatever the upstream says of it.
#[tokio::test(flavor = "multi_thread")]
async fn content_that_has_gone_is_not_sent_again() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let upstream = RawUpstream::start(move |stream, _| {
        let seen = Arc::clone(&seen);
        async move {
            let mut upstream = Upstream::begin(stream, &[]).await;
            while let Some(Frame { kind, stream, .. }) = upstream.next().await {
                if kind == DATA {
                    seen.fetch_add(1, Ordering::SeqCst);
                    upstream.send(reset(stream, REFUSED_STREAM)).await;
                }
            }
        }
    })
    .await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"\nprotocol = \"http2\"")).await;
    let put = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nsome";
    let mut raw = Raw::connect(gate.address()).await;
    raw.write(put).await;
    let reply = raw.read_until("upstream_unavailable").await;
    assert!(reply.starts_with("HTTP/1.1 502"), "{reply}");
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

/// Content that waits for a stream is sent when its turn has come, whoever waits behind it.
#[tokio::test(flavor = "multi_thread")]
async fn content_waits_for_its_stream() {
    const LENGTH: usize = 300_000;
    let upstream = RawUpstream::start(move |stream, _| async move {
        let mut requests =
            h2::server::Builder::new().max_concurrent_streams(1).handshake::<_, Bytes>(stream).await.unwrap();
        while let Some(Ok((request, mut answer))) = requests.accept().await {
            tokio::spawn(async move {
                let (mut content, mut length) = (request.into_body(), 0);
                while let Some(data) = content.data().await {
                    length += data.as_ref().unwrap().len();
                    content.flow_control().release_capacity(data.unwrap().len()).unwrap();
                }
                let mut response = answer.send_response(Response::new(()), false).unwrap();
                response.send_data(length.to_string().into(), true).unwrap();
            });
        }
    })
    .await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"\nprotocol = \"http2\"")).await;
    assert_eq!(gate.get("/", "").await.text(), "0");
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(Client::connect(Version::HTTP_11, gate.address()).await);
    }
    let answers = clients.into_iter().enumerate().map(|(number, mut client)| async move {
        let length = if number % 3 == 0 { 0 } else { LENGTH };
        let body = StreamBody::from(vec![b'x'; length]);
        let reply = client.fetch(request(Version::HTTP_11, Method::PUT, "/", "").body(body).unwrap()).await;
        assert_eq!(reply.text(), length.to_string());
    });
    futures_util::future::join_all(answers).await;
}

/// A connection that nobody uses is let go of, and one that somebody does is not.
#[tokio::test(flavor = "multi_thread")]
async fn an_unused_connection_is_let_go_of() {
    let (noted, mut ended) = mpsc::channel(100);
    let upstream = RawUpstream::start(move |stream, number| {
        let noted = noted.clone();
        async move {
            let mut upstream = Upstream::begin(stream, &[]).await;
            while let Some(frame) = upstream.next().await {
                match frame.kind {
                    // The second connection takes its time.
                    HEADERS if number == 1 => {
                        upstream.send([ok(frame.stream), data(0, frame.stream, "some")].concat()).await;
                    }
                    HEADERS => upstream.send([ok(frame.stream), data(END_STREAM, frame.stream, "ok")].concat()).await,
                    GOAWAY => {
                        let _ = noted.send((number, frame.code(8))).await;
                    }
                    _ => {}
                }
            }
            let _ = noted.send((number, u32::MAX)).await;
        }
    })
    .await;
    let settings = "auth = \"none\"\nprotocol = \"http2\"\nkeep_alive = \"1s\"";
    let gate = TestGate::start(&upstream.route(settings)).await;
    assert_eq!(gate.get("/", "").await.text(), "ok");
    assert_eq!(ended.recv().await, Some((0, NO_ERROR)));
    assert_eq!(ended.recv().await, Some((0, u32::MAX)));
    let mut raw = Raw::connect(gate.address()).await;
    raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    raw.read_until("some").await;
    assert!(tokio::time::timeout(Duration::from_secs(4), ended.recv()).await.is_err(), "it is in use");
    // And of use to others.
    let mut another = Raw::connect(gate.address()).await;
    another.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    another.read_until("some").await;
    drop((raw, another));
    assert_eq!(ended.recv().await.map(|(number, _)| number), Some(1));
}

/// An upstream that takes one request at a time is asked one at a time, over one connection.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_sent_than_the_upstream_takes() {
    let (most, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&most), Arc::clone(&seen));
    let upstream = RawUpstream::start(move |stream, _| {
        let (most, seen) = (Arc::clone(&counts.0), Arc::clone(&counts.1));
        async move {
            seen.fetch_add(1, Ordering::SeqCst);
            // SETTINGS_MAX_CONCURRENT_STREAMS.
            let mut upstream = Upstream::begin(stream, &setting(3, 1)).await;
            let mut open = Vec::new();
            loop {
                // Whatever else there is comes while the first one waits.
                let next = tokio::time::timeout(Duration::from_millis(50), upstream.next()).await;
                match next {
                    Ok(Some(frame)) if frame.kind == HEADERS => open.push(frame.stream),
                    Ok(Some(_)) => {}
                    Ok(None) => return,
                    Err(_) => {
                        most.fetch_max(open.len(), Ordering::SeqCst);
                        if let Some(stream) = open.pop() {
                            upstream.send([ok(stream), data(END_STREAM, stream, "ok")].concat()).await;
                        }
                    }
                }
            }
        }
    })
    .await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"\nprotocol = \"http2\"")).await;
    // Its settings are known after the first.
    assert_eq!(gate.get("/", "").await.text(), "ok");
    let asked = (0..8).map(|_| async { gate.get("/", "").await.text().to_owned() });
    let answers = futures_util::future::join_all(asked).await;
    assert_eq!(answers, ["ok"; 8]);
    assert_eq!((most.load(Ordering::SeqCst), seen.load(Ordering::SeqCst)), (1, 1));
}
