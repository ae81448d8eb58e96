//! HTTP/1.1 with upstreams, byte by byte: what is sent, what is taken for an answer, and which connections are used again.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use http::{HeaderMap, Method, StatusCode, Version};
use http_body::Frame;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, mpsc},
};

use crate::support::{
    client::{Client, Raw, Reply, request},
    eventually,
    gate::TestGate,
    upstream::{RawUpstream, StreamBody},
};

const HTTP1: Version = Version::HTTP_11;

/// Reads a request's header; `None`: the connection ended.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// An upstream that answers the first request with these bytes, and those after it in order; and how many connections it got.
/// It closes a connection only when the gate does, unless `closes`.
async fn answering(bytes: &str, closes: bool) -> (RawUpstream, Arc<AtomicUsize>) {
    let (bytes, count) = (bytes.to_owned(), Arc::new(AtomicUsize::new(0)));
    let (connections, answered) = (Arc::clone(&count), Arc::new(AtomicUsize::new(0)));
    let upstream = RawUpstream::start(move |mut stream, _| {
        connections.fetch_add(1, Ordering::SeqCst);
        let (bytes, answered) = (bytes.clone(), Arc::clone(&answered));
        async move {
            while read_head(&mut stream).await.is_some() {
                if answered.fetch_add(1, Ordering::SeqCst) == 0 {
                    stream.write_all(bytes.as_bytes()).await.unwrap();
                    if closes {
                        return;
                    }
                } else {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond";
                    stream.write_all(answer).await.unwrap();
                }
            }
        }
    })
    .await;
    (upstream, count)
}

/// What comes after the interim responses, which are passed on.
fn last(mut reply: &str) -> &str {
    while reply.starts_with("HTTP/1.1 1") {
        reply = reply.split_once("\r\n\r\n").map_or("", |(_, rest)| rest);
    }
    reply
}

async fn open(upstream: &RawUpstream) -> TestGate {
    TestGate::start(&upstream.route("auth = \"none\"\nresponse_timeout = \"10s\"")).await
}

/// What cannot be an answer, or can be read as two, is none; and its connection is not asked again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_is_a_bad_gateway() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(70_000));
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(100);
    let cases = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nsecret",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nsecret",
        "HTTP/1.1 200 OK\r\nContent-Length: six\r\n\r\nsecret",
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecret\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n6\r\nsecret\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nsecret",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecret\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\nsecret",
        "HTTP/1.1 200 OK\r\nX-Secret: 1\r\n folded\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Secret : 1\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Secret: 1\rX: 2\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Secret: 1\x002\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200\rOK\r\nContent-Length: 0\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret",
        "HTTP/2 200 OK\r\nContent-Length: 6\r\n\r\nsecret",
        "secret",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: secret\r\nConnection: upgrade\r\n\r\n",
        &interim,
        &long,
    ];
    for bytes in cases {
        let shown = &bytes[..bytes.len().min(120)];
        let (upstream, connections) = answering(bytes, false).await;
        let gate = open(&upstream).await;
        let mut raw = Raw::connect(gate.address()).await;
        raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let reply = raw.read_until("}").await;
        assert!(
            last(&reply).starts_with("HTTP/1.1 502 ") && reply.contains("upstream_unavailable"),
            "{shown:?}: {reply}"
        );
        assert!(!reply.to_lowercase().contains("secret"), "{shown:?}: {reply}");
        raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        raw.read_until("second").await;
        assert_eq!(connections.load(Ordering::SeqCst), 2, "{shown:?}");
    }
}

/// What an answer is, and whether its connection serves the next request.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_used_again_when_nothing_is_left_on_them() {
    let cases = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst", "first", 1),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nfirst", "first", 1),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nfirst\r\n0\r\nX-Sum: 1\r\n\r\n", "first", 1),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst", "first", 1),
        ("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst", "first", 1),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nfirst", "first", 1),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "204", 1),
        // The upstream said that it ends.
        ("HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 5\r\n\r\nfirst", "first", 2),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nfirst", "first", 2),
        // More came than was asked for.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirstHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen",
            "first",
            2,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst\r\n", "first", 2),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\nX", "first", 2),
    ];
    for (bytes, shown, expected) in cases {
        let (upstream, connections) = answering(bytes, false).await;
        let gate = open(&upstream).await;
        let mut raw = Raw::connect(gate.address()).await;
        raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let reply = raw.read_until(shown).await;
        assert!(last(&reply).starts_with("HTTP/1.1 20"), "{bytes:?}: {reply}");
        raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let reply = raw.read_until("second").await;
        assert!(!reply.contains("stolen"), "{bytes:?}: {reply}");
        assert_eq!(connections.load(Ordering::SeqCst), expected, "{bytes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_connection_ends_only_a_body_without_a_length() {
    let cases = [
        ("HTTP/1.1 200 OK\r\n\r\nall of it", true),
        ("HTTP/1.0 200 OK\r\n\r\nall of it", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nall of it", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nall of it\r\n", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nall of it\r\n0\r\n", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nall of itX\r\n0\r\n\r\n", false),
    ];
    for (bytes, complete) in cases {
        let (upstream, _) = answering(bytes, true).await;
        let gate = open(&upstream).await;
        let mut client = Client::http1(gate.address()).await;
        let sent = request(HTTP1, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
        // What is known to be broken before anything has left is not even begun.
        let read = match client.send(sent).await {
            Ok(response) => Reply::read(response).await,
            Err(error) => Err(error),
        };
        assert_eq!(read.is_ok(), complete, "{bytes:?}: {read:?}");
    }
}

/// Every byte of a request, as the upstream gets it.
#[tokio::test(flavor = "multi_thread")]
async fn requests_are_framed_in_one_way() {
    let (got, mut requests) = mpsc::channel(1);
    let upstream = RawUpstream::start(move |mut stream, _| {
        let got = got.clone();
        async move {
            while let Some(head) = read_head(&mut stream).await {
                let mut body = Vec::new();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if head.contains("transfer-encoding: chunked\r\n") {
                    while !body.ends_with(b"\r\n\r\n") {
                        body.push(stream.read_u8().await.unwrap());
                    }
                } else if let Some(length) = length {
                    body = vec![0; length.parse().unwrap()];
                    stream.read_exact(&mut body).await.unwrap();
                }
                got.send((head, String::from_utf8(body).unwrap())).await.unwrap();
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            }
        }
    })
    .await;
    let gate = open(&upstream).await;
    let framing = |head: &str| -> Vec<String> {
        let is_framing = |line: &&str| line.starts_with("content-length") || line.starts_with("transfer-encoding");
        head.lines().filter(is_framing).map(str::to_owned).collect()
    };
    let cases = [
        ("GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a?b HTTP/1.1", &[][..], ""),
        ("OPTIONS /a HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS /a HTTP/1.1", &[], ""),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
            "POST / HTTP/1.1",
            &["content-length: 4"],
            "body",
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "POST / HTTP/1.1", &["content-length: 0"], ""),
        ("PUT / HTTP/1.1\r\nHost: a\r\n\r\n", "PUT / HTTP/1.1", &["content-length: 0"], ""),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
            "POST / HTTP/1.1",
            &["transfer-encoding: chunked"],
            "",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1",
            &["transfer-encoding: chunked"],
            "0\r\n\r\n",
        ),
    ];
    let mut raw = Raw::connect(gate.address()).await;
    for (sent, line, frames, body) in cases {
        raw.write(sent).await;
        raw.read_until("\r\n\r\n").await;
        let (head, got) = requests.recv().await.unwrap();
        assert_eq!(head.lines().next(), Some(line), "{sent:?}");
        assert_eq!(framing(&head), frames, "{sent:?}: {head}");
        if body.is_empty() && !frames.is_empty() && frames[0].starts_with("transfer") {
            // Chunks may be joined on the way.
            assert!(got == "2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n" || got == "4\r\nbody\r\n0\r\n\r\n", "{got:?}");
        } else {
            assert_eq!(got, body, "{sent:?}");
        }
    }
    // Trailers come after the last chunk; a body that is large is not changed.
    let (frames, body) = StreamBody::channel();
    let large = "x".repeat(100_000);
    let sent = large.clone();
    tokio::spawn(async move {
        frames.send(Ok(Frame::data(sent.into()))).await.unwrap();
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
        frames.send(Ok(Frame::trailers(trailers))).await.unwrap();
    });
    let sent = request(Version::HTTP_2, Method::POST, "/", "").header("te", "trailers").body(body).unwrap();
    let reply = Client::http2(gate.address()).await.fetch(sent).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    let (_, got) = requests.recv().await.unwrap();
    assert!(got.ends_with("\r\n0\r\nx-sum: 1\r\n\r\n"), "{:?}", &got[got.len() - 40..]);
    assert_eq!(got.matches('x').count(), large.len() + 1);
}

/// A request that must not be sent twice is not sent over a connection that has ended already.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_ended_is_not_used() {
    let closed = Arc::new(Notify::new());
    let tell = Arc::clone(&closed);
    let upstream = RawUpstream::start(move |mut stream, _| {
        let tell = Arc::clone(&tell);
        async move {
            let mut body = [0; 4];
            if read_head(&mut stream).await.is_none() || stream.read_exact(&mut body).await.is_err() {
                return;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            drop(stream);
            tell.notify_one();
        }
    })
    .await;
    let gate = open(&upstream).await;
    let mut client = Client::http1(gate.address()).await;
    for round in 0..200 {
        let sent = request(HTTP1, Method::POST, "/", "").body(StreamBody::from("body")).unwrap();
        assert_eq!(client.fetch(sent).await.text(), "ok", "round {round}");
        closed.notified().await;
    }
}

/// A body that its client breaks off is not taken for a complete one.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_breaks_off_does_not_look_complete() {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ends);
    let upstream = RawUpstream::start(move |mut stream, _| {
        let seen = Arc::clone(&seen);
        async move {
            if read_head(&mut stream).await.is_some() {
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                seen.lock().unwrap().push(String::from_utf8(rest).unwrap());
            }
        }
    })
    .await;
    let gate = open(&upstream).await;
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut raw = Raw::connect(gate.address()).await;
        raw.write(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n4\r\nbody\r\n")).await;
        tokio::time::timeout(std::time::Duration::from_millis(50), raw.0.readable()).await.unwrap_err();
        drop(raw);
    }
    eventually("both requests have ended", async || ends.lock().unwrap().len() == 2).await;
    let ends = ends.lock().unwrap();
    assert!(ends.iter().all(|end| end.contains("body") && !end.contains("0\r\n\r\n")), "{ends:?}");
}
