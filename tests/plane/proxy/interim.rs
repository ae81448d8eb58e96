//! Interim responses (RFC 9110 §15.2), such as `103 Early Hints` (RFC 8297).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    task::JoinSet,
};

use crate::{
    secure::{Secure, connect},
    support::{client::Raw, gate::TestGate, upstream::RawUpstream},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Reads a request's header; `None`: the connection ended.
pub(super) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// A connection over HTTP/2 of a client that looks at interim responses.
pub(super) async fn http2(secure: Option<&Secure>, gate: &TestGate) -> SendRequest<Bytes> {
    let (requests, connection) = h2::client::handshake(connect(secure, gate.address(), "h2").await).await.unwrap();
    tokio::spawn(connection);
    requests.ready().await.unwrap()
}

/// The next interim response; `None`: the response comes next.
pub(super) async fn next(response: &mut ResponseFuture) -> Option<Response<()>> {
    let next = std::future::poll_fn(|context| response.poll_informational(context));
    tokio::time::timeout(Duration::from_secs(15), next).await.expect("something in time").transpose().unwrap()
}

/// The status of a response, and its content.
pub(super) async fn whole(response: ResponseFuture) -> (StatusCode, String) {
    let (head, mut body) = response.await.unwrap().into_parts();
    let mut content = Vec::new();
    while let Some(data) = body.data().await {
        content.extend_from_slice(&data.unwrap());
    }
    (head.status, String::from_utf8(content).unwrap())
}

/// An upstream that sends this before each answer, and waits for a word before the answer itself.
async fn hinting(hints: &str) -> (RawUpstream, Arc<Notify>) {
    let (hints, go) = (hints.to_owned(), Arc::new(Notify::new()));
    let word = Arc::clone(&go);
    let upstream = RawUpstream::start(move |mut stream, _| {
        let (hints, word) = (hints.clone(), Arc::clone(&word));
        async move {
            while read_head(&mut stream).await.is_some() {
                stream.write_all(hints.as_bytes()).await.unwrap();
                word.notified().await;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody").await.unwrap();
            }
        }
    })
    .await;
    (upstream, go)
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_come_before_the_response_they_belong_to() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nLink: </a.js>\r\nConnection: X-Hop\r\n\
                 X-Hop: 1\r\nKeep-Alive: timeout=5\r\nPortcullis-Session-Idle: 9\r\nX-Request-Id: theirs\r\n\
                 Access-Control-Allow-Origin: *\r\nX-Kept: 1\r\n\r\n\
                 HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 199 Odd One\r\n\r\n";
    let (upstream, go) = hinting(hints).await;
    let secure = Secure::new();
    for secure in [None, Some(&secure)] {
        let listener = secure.map(Secure::listener).unwrap_or_default();
        let gate = TestGate::start(&format!("{listener}{}", upstream.route("auth = \"none\""))).await;
        let mut raw = Raw(connect(secure, gate.address(), "http/1.1").await);
        for _ in 0..3 {
            raw.write(GET).await;
            assert_eq!(
                raw.read_until("HTTP/1.1 199 \r\n\r\n").await,
                "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\nlink: </a.js>\r\nx-kept: 1\r\n\r\n\
                 HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 199 \r\n\r\n"
            );
            go.notify_one();
            let reply = raw.read_until("body").await;
            assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.matches("HTTP/1.1").count() == 1, "{reply}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_know_of_none_get_none() {
    let (upstream, go) = hinting("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"")).await;
    go.notify_one();
    let reply = Raw::exchange(gate.address(), "GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert!(reply.ends_with("body") && !reply.contains("103"), "{reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_they_come_on_the_stream_of_their_request() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nLink: </a.js>\r\nConnection: X-Hop\r\n\
                 X-Hop: 1\r\nX-Request-Id: theirs\r\nX-Kept: 1\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";
    let (upstream, go) = hinting(hints).await;
    let secure = Secure::new();
    for secure in [None, Some(&secure)] {
        let listener = secure.map(Secure::listener).unwrap_or_default();
        let gate = TestGate::start(&format!("{listener}{}", upstream.route("auth = \"none\""))).await;
        let mut requests = http2(secure, &gate).await;
        let mut waiting = Vec::new();
        for _ in 0..3 {
            let request = Request::get("https://api.example/").body(()).unwrap();
            let (mut response, _) = requests.send_request(request, true).unwrap();
            let hint = next(&mut response).await.unwrap();
            assert_eq!(hint.status(), StatusCode::EARLY_HINTS);
            assert_eq!(
                hint.headers().get_all("link").iter().collect::<Vec<_>>(),
                ["</style.css>; rel=preload", "</a.js>"]
            );
            assert_eq!((hint.headers().len(), &hint.headers()["x-kept"]), (3, &"1".parse().unwrap()));
            assert_eq!(next(&mut response).await.unwrap().status(), StatusCode::PROCESSING);
            waiting.push(response);
        }
        for response in waiting {
            go.notify_one();
            assert_eq!(whole(response).await, (StatusCode::OK, "body".to_owned()));
        }
    }
}

/// The same, over HTTP/2.
async fn hinting_http2(hints: Vec<Response<()>>) -> (RawUpstream, Arc<Notify>) {
    let go = Arc::new(Notify::new());
    let word = Arc::clone(&go);
    let upstream = RawUpstream::start(move |stream, _| {
        let (hints, word) = (hints.clone(), Arc::clone(&word));
        async move {
            let mut requests = h2::server::handshake(stream).await.unwrap();
            let mut answering = JoinSet::new();
            while let Some(Ok((_, mut answer))) = requests.accept().await {
                let (hints, word) = (hints.clone(), Arc::clone(&word));
                answering.spawn(async move {
                    for hint in hints {
                        answer.send_informational(hint).unwrap();
                    }
                    word.notified().await;
                    answer.send_response(Response::new(()), false).unwrap().send_data("body".into(), true).unwrap();
                });
            }
        }
    })
    .await;
    (upstream, go)
}

fn hint(status: u16, fields: &[(&str, &str)]) -> Response<()> {
    let hint = fields.iter().fold(Response::builder().status(status), |hint, (name, value)| hint.header(*name, *value));
    hint.body(()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn those_of_upstreams_of_http2_pass_likewise() {
    let links =
        [("link", "</style.css>; rel=preload"), ("link", "</a.js>"), ("x-request-id", "theirs"), ("x-kept", "1")];
    let (upstream, go) = hinting_http2(vec![hint(103, &links), hint(100, &[]), hint(102, &[])]).await;
    let secure = Secure::new();
    for secure in [None, Some(&secure)] {
        let listener = secure.map(Secure::listener).unwrap_or_default();
        let route = upstream.route("auth = \"none\"\nprotocol = \"http2\"");
        let gate = TestGate::start(&format!("{listener}{route}")).await;
        let mut raw = Raw(connect(secure, gate.address(), "http/1.1").await);
        for _ in 0..3 {
            raw.write(GET).await;
            assert_eq!(
                raw.read_until("102 Processing\r\n\r\n").await,
                "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\nlink: </a.js>\r\nx-kept: 1\r\n\r\n\
                 HTTP/1.1 102 Processing\r\n\r\n"
            );
            go.notify_one();
            let reply = raw.read_until("body").await;
            assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.matches("HTTP/1.1").count() == 1, "{reply}");
        }
        let mut requests = http2(secure, &gate).await;
        let mut waiting = Vec::new();
        for _ in 0..3 {
            let request = Request::get("https://api.example/").body(()).unwrap();
            let (mut response, _) = requests.send_request(request, true).unwrap();
            let hint = next(&mut response).await.unwrap();
            assert_eq!((hint.status(), hint.headers().len()), (StatusCode::EARLY_HINTS, 3));
            assert_eq!(next(&mut response).await.unwrap().status(), StatusCode::PROCESSING);
            waiting.push(response);
        }
        for response in waiting {
            go.notify_one();
            assert_eq!(whole(response).await, (StatusCode::OK, "body".to_owned()));
        }
        // Whoever knows of none gets none.
        go.notify_one();
        let mut raw = Raw(connect(secure, gate.address(), "http/1.1").await);
        raw.write("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        let reply = raw.read_to_end().await;
        assert!(reply.ends_with("body") && !reply.contains("103"), "{reply}");
    }
}

/// Nothing tells how many of them a client has read.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_hints_is_cut_down_over_http2() {
    let hint = format!("HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n", "x".repeat(3000));
    let (upstream, go) = hinting(&hint.repeat(60)).await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"")).await;
    let mut requests = http2(None, &gate).await;
    let (mut response, _) = requests.send_request(Request::get("http://api.example/").body(()).unwrap(), true).unwrap();
    go.notify_one();
    let mut count = 0;
    while let Some(hint) = next(&mut response).await {
        assert_eq!(hint.headers()["link"].len(), 3000);
        count += 1;
    }
    assert!((1..=5).contains(&count), "{count}");
    assert_eq!(whole(response).await, (StatusCode::OK, "body".to_owned()));
}

/// A client that sends on and does not read for a while: each hint is still where it belongs.
#[tokio::test(flavor = "multi_thread")]
async fn hints_of_pipelined_requests_are_never_out_of_order() {
    const LENGTH: usize = 3 << 20;
    let count = Arc::new(AtomicUsize::new(0));
    let served = Arc::clone(&count);
    let upstream = RawUpstream::start(move |mut stream, _| {
        let served = Arc::clone(&served);
        async move {
            while let Some(head) = read_head(&mut stream).await {
                let number = head.split([' ', '/']).nth(2).unwrap().to_owned();
                let answer = format!(
                    "HTTP/1.1 103 Early Hints\r\nLink: {number}\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\nX-Number: {number}\r\n\r\n{}",
                    number.repeat(LENGTH)
                );
                // All of it at once.
                stream.write_all(answer.as_bytes()).await.unwrap();
                served.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"")).await;
    let mut raw = Raw::connect(gate.address()).await;
    let requests: Vec<_> = (1..=6).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    raw.write(requests.concat()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for number in 1..=6 {
        let hint = raw_head(&mut raw).await;
        assert_eq!(hint, format!("HTTP/1.1 103 Early Hints\r\nlink: {number}\r\n\r\n"));
        let head = raw_head(&mut raw).await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains(&format!("x-number: {number}\r\n")), "{head}");
        let mut body = vec![0; LENGTH];
        raw.0.read_exact(&mut body).await.unwrap();
        assert!(body.iter().all(|&byte| char::from(byte).to_digit(10) == Some(number)));
    }
}

async fn raw_head(raw: &mut Raw) -> String {
    tokio::time::timeout(Duration::from_secs(15), read_head(&mut raw.0)).await.expect("a header in time").unwrap()
}

/// What comes of many large ones is bounded; what comes is whole, and the response follows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_hints_is_cut_down() {
    let hint = format!("HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n", "x".repeat(3000));
    let large = format!("HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n", "y".repeat(60_000));
    let (upstream, go) = hinting(&format!("{large}{}", hint.repeat(60))).await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"")).await;
    let mut raw = Raw::connect(gate.address()).await;
    go.notify_one();
    raw.write(GET).await;
    let reply = raw.read_until("body").await;
    let (hints, answer) = reply.split_at(reply.find("HTTP/1.1 200").unwrap());
    assert!(answer.ends_with("body") && hints.starts_with(&hint), "{answer}");
    assert_eq!(hints.replace(&hint, ""), "", "whole ones only");
    // Too many are no answer.
    let (upstream, _) = hinting(&"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100)).await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"")).await;
    let mut raw = Raw::connect(gate.address()).await;
    raw.write(GET).await;
    let reply = raw.read_until("upstream_unavailable").await;
    assert_eq!(reply.matches("HTTP/1.1 502").count(), 1, "{reply}");
}

/// What was told cannot be taken back, so nobody else is asked; the answer of the gate comes after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hint_and_then_nothing_is_a_bad_gateway() {
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    let upstream = RawUpstream::start(move |mut stream, _| {
        asked.fetch_add(1, Ordering::SeqCst);
        async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"\nretries.attempts = 3")).await;
    let hint_and_no_more = async |gate: &TestGate| {
        let mut raw = Raw::connect(gate.address()).await;
        raw.write(GET).await;
        let reply = raw.read_until("upstream_unavailable").await;
        assert!(reply.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 502"), "{reply}");
    };
    hint_and_no_more(&gate).await;
    assert_eq!(count.load(Ordering::SeqCst), 1);
    // Over HTTP/2 likewise.
    let asked = Arc::clone(&count);
    let upstream = RawUpstream::start(move |stream, _| {
        asked.fetch_add(1, Ordering::SeqCst);
        async move {
            let mut requests = h2::server::handshake(stream).await.unwrap();
            let (_, mut answer) = requests.accept().await.unwrap().unwrap();
            answer.send_informational(hint(103, &[("link", "</a>")])).unwrap();
            // It goes out while others are waited for, of whom there are none.
            let _ = tokio::time::timeout(Duration::from_millis(300), requests.accept()).await;
        }
    })
    .await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"\nprotocol = \"http2\"\nretries.attempts = 3")).await;
    hint_and_no_more(&gate).await;
    assert_eq!(count.load(Ordering::SeqCst), 2);
}
