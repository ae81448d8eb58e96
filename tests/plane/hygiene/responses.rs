//! What an upstream can send, byte by byte: one answer to each request, or none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Method, Request, StatusCode, Version};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    client::{Client, Raw, Reply, request},
    eventually,
    gate::TestGate,
    upstream::{RawUpstream, StreamBody},
};

/// An answer that nobody asked for. No client may ever get it.
const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

/// How the first request ends for its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ends {
    /// With 502.
    BadGateway,
    /// In the middle of the answer.
    BrokenOff,
    /// With an answer of this content.
    With(&'static str),
}
use Ends::{BadGateway, BrokenOff, With};

impl Ends {
    pub(super) fn text(self) -> String {
        match self {
            BadGateway => "502 upstream_unavailable".to_owned(),
            BrokenOff => "broken off".to_owned(),
            With(text) => format!("with {text}"),
        }
    }
}

/// How a request ended, in the words of [`Ends::text`]. What is of one connection only never comes through.
pub(super) async fn outcome(client: &mut Client<StreamBody>, request: Request<StreamBody>, answer: &str) -> String {
    let reply = match client.send(request).await {
        // The header may be lost together with what comes after it.
        Err(error) => Err(error),
        Ok(response) => Reply::read(response).await,
    };
    match reply {
        Err(_) => "broken off".to_owned(),
        Ok(reply) if reply.status == StatusCode::BAD_GATEWAY => format!("502 {}", reply.code()),
        Ok(reply) => {
            let stays = |name: &str| reply.headers.contains_key(name) || reply.trailers.contains_key(name);
            assert!(!CONNECTION.into_iter().any(stays), "{answer:?}: {reply:?}");
            format!("with {}", reply.text())
        }
    }
}

/// What the upstream sends over its first connection. `{long}` stands for 70,000 bytes, `{evil}` for another answer.
const ANSWERS: [(&str, Ends); 74] = [
    // Where does a line end?
    ("HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: evil=1\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nX: a\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nX: a\n\n{evil}", BadGateway),
    ("HTTP/1.1 200 OK\nContent-Length: 2\nX: a\n\nok", With("ok")),
    ("HTTP/1.1 200 OK\r\nX: a\rContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nX: a\r\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nX: a\x7f\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nX\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    // Is it HTTP?
    ("ok", BadGateway),
    ("\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    (" HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1\t200 OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("SSH-2.0-OpenSSH_9\r\n", BadGateway),
    ("\x15\x03\x03\0\x02\x02\x28", BadGateway),
    // Where does the answer end?
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!", BadGateway),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok!", BadGateway),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", With("ok")),
    ("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BadGateway),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n2\r\nok\r\n0\r\n\r\n", BadGateway),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", BadGateway),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        BadGateway,
    ),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", BadGateway),
    ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", BadGateway),
    ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n", BadGateway),
    ("HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil", BadGateway),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n", BrokenOff),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokX\r\n0\r\n\r\n", BrokenOff),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n", BrokenOff),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n", BrokenOff),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000002\r\nok\r\n0\r\n\r\n", BrokenOff),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;{long}\r\nok\r\n0\r\n\r\n", BrokenOff),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: {long}\r\n\r\n", BrokenOff),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX : 1\r\n\r\n", BrokenOff),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", BrokenOff),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", BrokenOff),
    ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", BrokenOff),
    // Is there more than one?
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{evil}", With("ok")),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n{evil}", With("")),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{evil}", With("ok")),
    ("HTTP/1.1 204 No Content\r\n\r\n{evil}", With("")),
    ("HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n{evil}", With("")),
    (
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{evil}",
        With("ok"),
    ),
    (
        "HTTP/1.1 100 Continue\r\nContent-Length: 4\r\n\r\nevilHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        BadGateway,
    ),
    ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n{evil}", BadGateway),
    ("HTTP/1.1 199 Odd\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", With("ok")),
    // Too much of it.
    ("HTTP/1.1 200 OK\r\nX: {long}\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 {long}\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/1.1 200 OK\r\n{many}Content-Length: 2\r\n\r\nok", BadGateway),
    ("{interim}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    // Fields of the connection, and those that the gate alone may set, do not reach the client.
    (
        "HTTP/1.1 200 OK\r\nConnection: x-evil, keep-alive\r\nX-Evil: 1\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\nUpgrade: h2c\r\n\
         Proxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nok",
        With("ok"),
    ),
    (
        "HTTP/1.1 200 OK\r\nTrailer: x-evil\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nConnection: close\r\nKeep-Alive: 5\r\n\
         Proxy-Connection: close\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        With("ok"),
    ),
];

/// Fields that no client gets.
const CONNECTION: [&str; 7] =
    ["x-evil", "connection", "keep-alive", "upgrade", "proxy-connection", "proxy-authenticate", "set-cookie"];

fn expand(answer: &str) -> String {
    answer
        .replace("{evil}", EVIL)
        .replace("{long}", &"x".repeat(70_000))
        .replace("{many}", &"X: 1\r\n".repeat(300))
        .replace("{interim}", &"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100))
}

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

/// Its first connection answers with this, and then ends, where the answer needs an end; all others answer `second`.
async fn upstream(answer: String, ends: bool) -> RawUpstream {
    RawUpstream::start(move |mut stream, number| {
        let answer = answer.clone();
        async move {
            while read_head(&mut stream).await {
                if number > 0 {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond").await;
                    continue;
                }
                let _ = stream.write_all(answer.as_bytes()).await;
                if ends {
                    return;
                }
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_one_answer_or_none() {
    let mut wrong = Vec::new();
    for (answer, expected) in ANSWERS {
        let ends = matches!(expected, BrokenOff) || !answer.starts_with("HTTP/1.1 ");
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let upstream = upstream(expand(answer), ends).await;
            let settings = "auth = \"none\"\nresponse_timeout = \"5s\"\nbody_idle_timeout = \"5s\"";
            let gate = TestGate::start(&upstream.route(settings)).await;
            let mut client = Client::connect(version, gate.address()).await;
            let get = || request(version, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
            let found = outcome(&mut client, get(), answer).await;
            let right = expected.text();
            // Whoever comes next, over the same connection where it still stands, gets an answer of their own.
            let mut other = Client::connect(version, gate.address()).await;
            let next = other.fetch(get()).await;
            let next_text = String::from_utf8_lossy(&next.body).into_owned();
            let kept = matches!(expected, With(_)) && next_text == right["with ".len()..];
            if found != right || !(next_text == "second" || kept) {
                wrong.push(format!("{version:?}: {answer:.120?}\n    {found}, not {right}; then {next_text:.60}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Bytes that come when nobody waits for any: the connection is not used again.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_ahead_of_its_request_is_nobodys() {
    let evils = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&evils);
    let (go, wait) = tokio::sync::watch::channel(());
    let upstream = RawUpstream::start(move |mut stream, number| {
        let (count, mut wait) = (Arc::clone(&count), wait.clone());
        async move {
            if number > 0 {
                while read_head(&mut stream).await {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond").await;
                }
                return;
            }
            read_head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst").await;
            let _ = wait.changed().await;
            let _ = stream.write_all(EVIL.as_bytes()).await;
            count.fetch_add(1, Ordering::SeqCst);
            while read_head(&mut stream).await {}
        }
    })
    .await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"")).await;
    assert_eq!(gate.get("/", "").await.text(), "first");
    go.send(()).unwrap();
    eventually("it was sent", async || evils.load(Ordering::SeqCst) == 1).await;
    for _ in 0..3 {
        assert_eq!(gate.get("/", "").await.text(), "second");
    }
}

/// The answer to `HEAD` has no content, whatever comes.
#[tokio::test(flavor = "multi_thread")]
async fn content_after_an_answer_to_head_is_nobodys() {
    let upstream = upstream(EVIL.to_owned(), false).await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"")).await;
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let reply = Raw::exchange(gate.address(), head).await;
    assert!(reply.ends_with("second") && !reply.contains("evil"), "{reply}");
}

/// An answer that comes before the request has ended, and one that never ends.
#[tokio::test(flavor = "multi_thread")]
async fn answers_at_odd_times() {
    let upstream = upstream("HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nearly".to_owned(), false).await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"")).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n";
    let mut raw = Raw::connect(gate.address()).await;
    raw.write(head).await;
    let reply = raw.read_until("early").await;
    assert!(reply.starts_with("HTTP/1.1 413 "), "{reply}");
    // What is left of the request is never taken for another one, nor sent to the upstream as one.
    let _ = raw.0.write_all(b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(gate.get("/", "").await.text(), "second");

    let endless = RawUpstream::start(|mut stream, _| async move {
        read_head(&mut stream).await;
        while stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let gate = TestGate::start(&endless.route("auth = \"none\"\nresponse_timeout = \"1s\"")).await;
    let begun = Instant::now();
    let reply = gate.get("/", "").await;
    assert!(matches!(reply.status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT), "{reply:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());

    let slow = RawUpstream::start(|mut stream, _| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let gate = TestGate::start(&slow.route("auth = \"none\"\nresponse_timeout = \"1s\"")).await;
    let begun = Instant::now();
    assert_eq!(gate.get("/", "").await.code(), "upstream_timeout");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
