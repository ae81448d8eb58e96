//! A connection of HTTP/1.1 from one request to the next, byte by byte (RFC 9112).

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;
use tokio::io::AsyncWriteExt as _;

use super::{HTTP1, interim::read_head, route};
use crate::support::{
    client::Raw,
    gate::TestGate,
    upstream::{RawUpstream, StreamBody},
};

async fn open() -> TestGate {
    TestGate::start(&route(HTTP1, "auth = \"none\"")).await
}

/// A response without the value of its `Date`, of which there has to be one.
fn undated(response: &str) -> String {
    let (before, rest) = response.split_once("\r\ndate: ").expect("a date");
    let (date, after) = rest.split_once("\r\n").unwrap();
    assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
    assert!(!after.contains("\r\ndate: "), "{response}");
    format!("{before}\r\n{after}")
}

/// What an upstream of HTTP/1.1 says, and what becomes of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_is_framed_for_its_client() {
    const LENGTH: &str = "HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 4\r\n\r\nbody";
    const CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\n\r\n";
    const CLOSE: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbody";
    const EMPTY: &str = "HTTP/1.1 204 No Content\r\n\r\n";
    const REASON: &str = "HTTP/1.1 299 As You Like It\r\nContent-Length: 0\r\n\r\n";
    let plain = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let trailers = "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, te\r\n\r\n";
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let old = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
    let kept = "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\nHost: a\r\n\r\n";
    let cases = [
        (LENGTH, plain, "HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody"),
        (LENGTH, head, "HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 4\r\nconnection: close\r\n\r\n"),
        (LENGTH, old, "HTTP/1.0 200 OK\r\nx: y\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody"),
        (
            CHUNKS,
            plain,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
        ),
        (
            CHUNKS,
            trailers,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\nx-sum: 1\r\n\r\n",
        ),
        (CHUNKS, head, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"),
        // Its length is not known, and its client knows of no chunks.
        (CHUNKS, old, "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nbody"),
        (
            CLOSE,
            plain,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        ),
        (EMPTY, plain, "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"),
        (REASON, plain, "HTTP/1.1 299 As You Like It\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
    ];
    for (answer, request, expected) in cases {
        let upstream = RawUpstream::start(move |mut stream, _| async move {
            while read_head(&mut stream).await.is_some() {
                let answer = if request.starts_with("HEAD") {
                    answer.split_inclusive("\r\n\r\n").next().unwrap()
                } else {
                    answer
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
                if answer == CLOSE {
                    return;
                }
            }
        })
        .await;
        let gate =
            TestGate::start(&format!("[listener]\nrequest_id = \"off\"\n{}", upstream.route("auth = \"none\""))).await;
        let reply = Raw::exchange(gate.address(), request).await;
        assert_eq!(undated(&reply), expected, "{answer:?} {request:?}");
        if answer == LENGTH && request == old {
            let reply = Raw::exchange(gate.address(), kept).await;
            let (first, second) = reply.split_once("body").unwrap();
            assert!(first.contains("\r\nconnection: keep-alive\r\n") && second.contains("\r\nconnection: close\r\n"));
        }
    }
}

/// Requests that come at once, or a byte at a time, are answered one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_in_their_order() {
    let gate = open().await;
    gate.upstream.echo();
    let requests = "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none\
                    POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n\r\n\
                    POST /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nthree\
                    GET /4 HTTP/1.1\r\nHost: a\r\n\r\n";
    for size in [1, 7, 64, requests.len()] {
        let mut raw = Raw::connect(gate.address()).await;
        for piece in requests.as_bytes().chunks(size) {
            raw.write(piece).await;
            tokio::task::yield_now().await;
        }
        let reply = raw.read_to_end().await;
        assert_eq!(contents(&reply), ["one", "two", "three"], "what comes after \"close\" is not read: {reply}");
    }
}

/// The contents of these responses, each of which has some: in one piece or in chunks, of which there are as many as the gate finds ready.
fn contents(mut responses: &str) -> Vec<String> {
    let mut contents = Vec::new();
    while !responses.is_empty() {
        let (head, mut rest) = responses.split_once("\r\n\r\n").expect("a header");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let mut content = String::new();
        if head.contains("\r\ntransfer-encoding: chunked") {
            loop {
                let (size, chunk) = rest.split_once("\r\n").expect("a chunk");
                let (data, end) = chunk.split_at(usize::from_str_radix(size, 16).expect("a size"));
                content.push_str(data);
                rest = end.strip_prefix("\r\n").expect("the end of a chunk");
                if data.is_empty() {
                    break;
                }
            }
        } else {
            let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
            let (data, end) = rest.split_at(length.parse().expect("a length"));
            content.push_str(data);
            rest = end;
        }
        contents.push(content);
        responses = rest;
    }
    contents
}

/// Content that nobody wants is passed over where it is there; else the connection ends, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn content_that_nobody_wants_is_no_request() {
    let gate = TestGate::start(&route(HTTP1, "")).await;
    let get = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let post = |framing: &str, content: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{content}{get}");
    let smuggled = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
    for (request, answers) in [
        (post("Content-Length: 28", smuggled), 2),
        (post("Transfer-Encoding: chunked", &format!("1c\r\n{smuggled}\r\n1\r\nx\r\n0\r\nX: y\r\n\r\n")), 2),
        // More than is passed over, or not there yet, or not to be read at all.
        (post("Content-Length: 1000000", &"x".repeat(1000)), 1),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 28\r\nExpect: 100-continue\r\n\r\n".to_owned(), 1),
        (post("Transfer-Encoding: chunked", "x\r\n"), 1),
    ] {
        let reply = Raw::exchange(gate.address(), &request).await;
        assert_eq!(reply.matches("HTTP/1.1 401 Unauthorized\r\n").count(), answers, "{request:?}: {reply}");
        assert_eq!(reply.matches("HTTP/1.1 ").count(), answers, "{request:?}: {reply}");
        // The last answer says that it is the last one.
        assert_eq!(reply.matches("\r\nconnection: close\r\n").count(), 1, "{request:?}: {reply}");
        assert!(reply.rfind("connection: close") > reply.rfind("HTTP/1.1 "), "{request:?}: {reply}");
    }
    assert_eq!(gate.upstream.hits(), 0);
}

/// Small parts of a response that are there at once go out at once, and each goes out before the next is there.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_goes_out() {
    let gate = open().await;
    let (frames, body) = StreamBody::channel();
    let body = std::sync::Mutex::new(Some(body));
    gate.upstream.answer(move |_| Response::new(body.lock().unwrap().take().unwrap()));
    let mut raw = Raw::connect(gate.address()).await;
    raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = raw.read_until("\r\n\r\n").await;
    assert!(head.contains("\r\ntransfer-encoding: chunked\r\n"), "{head}");
    for part in ["a", "bb", "ccc"] {
        frames.send(Ok(Frame::data(Bytes::from(part)))).await.unwrap();
        let expected = format!("{:x}\r\n{part}\r\n", part.len());
        assert_eq!(raw.read_until(&expected).await, expected);
    }
    let large = "x".repeat(100_000);
    frames.send(Ok(Frame::data(Bytes::from(large.clone())))).await.unwrap();
    drop(frames);
    let rest = raw.read_until("\r\n0\r\n\r\n").await;
    assert_eq!(rest.matches('x').count(), large.len());
    raw.write("GET / HTTP/1.1\r\nHost: a\r\n").await;
    gate.upstream.answer(|_| {
        let mut response = Response::new(StreamBody::from(""));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    });
    raw.write("\r\n").await;
    let head = raw.read_until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 304 Not Modified\r\n") && !head.contains("content-length"), "{head}");
}
