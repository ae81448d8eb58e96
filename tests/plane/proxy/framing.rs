//! Requests that two servers may read differently never reach the upstream as two, and those that are malformed not at all.

use http::Method;
use tokio::io::AsyncReadExt;

use super::{HTTP2, client, each_pair, route};
use crate::support::{
    client::{Raw, request},
    gate::TestGate,
    upstream::StreamBody,
};

/// A gate that lets everyone through to an upstream of this version.
async fn open(upstream: http::Version) -> TestGate {
    TestGate::start(&route(upstream, "auth = \"none\"")).await
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends it, with a second request after it; the status of the first response, and how many responses there were.
async fn attack(gate: &TestGate, bytes: impl AsRef<[u8]>) -> (String, usize) {
    let reply = Raw::exchange(gate.address(), [bytes.as_ref(), SMUGGLED.as_bytes()].concat()).await;
    (reply.split(' ').nth(1).unwrap_or_default().to_owned(), reply.matches("HTTP/1.1 ").count())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_goes_nowhere() {
    let gate = open(http::Version::HTTP_11).await;
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let cases: Vec<(&str, &str)> = vec![
        // Which host is meant?
        ("400", "GET / HTTP/1.1\r\n\r\n"),
        ("400", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        ("400", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("400", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        ("400", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        ("400", "GET / HTTP/1.1\r\nHost: x@a\r\n\r\n"),
        ("400", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        ("400", "GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n"),
        ("400", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("400", "GET http://x@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("400", "GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("400", "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        // Where does the request end?
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody"),
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 5\r\n\r\nbody"),
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nbody"),
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nbody"),
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n\r\nbody"),
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4 4\r\n\r\nbody"),
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nbody"),
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\nbody"),
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 4\r\n\r\nbody"),
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\nbody"),
        ("501", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        ("400", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
        // Where does a field end?
        ("400", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n"),
        ("400", "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        ("400", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\rContent-Length: 4\r\n\r\n"),
        ("400", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\x002\r\n\r\n"),
        ("400", "GET / HTTP/1.1\r\nHost: a\r\nX\0: 1\r\n\r\n"),
        ("400", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
        ("400", "GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n"),
        ("400", "GET / HTTP/1.1\r\nHost: a\r\nX(y): 1\r\n\r\n"),
        // What is asked for?
        ("400", "G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("400", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("400", "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        ("400", "GET /\r\n\r\n"),
        ("400", "GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("501", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
        ("501", "TRACE / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nMax-Forwards: 0\r\n\r\n"),
        ("404", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("431", &long),
    ];
    for (status, bytes) in cases {
        // What is refused for its meaning, and not for its form, leaves the connection in order.
        let close = bytes.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
        assert_eq!(attack(&gate, close).await, (status.to_owned(), 1), "{bytes:?}");
        assert_eq!(gate.upstream.hits(), 0, "{bytes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_stays_one() {
    for upstream in [http::Version::HTTP_11, HTTP2] {
        let gate = open(upstream).await;
        let cases: [(&str, &str); 8] = [
            // Whoever takes only one of the two for what it is sees another request.
            (
                "400",
                "POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 41\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
            (
                "400",
                "POST /one HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
            ),
            (
                "400",
                "POST /one HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
            // Chunks that are none.
            ("400", "POST /one HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nbody\r\n0\r\n\r\n"),
            ("400", "POST /one HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nbody\r\n0\r\n\r\n"),
            ("400", "POST /one HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbodyX\r\n0\r\n\r\n"),
            (
                "400",
                "POST /one HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\nbody\r\n0\r\n\r\n",
            ),
            ("400", "POST /one HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4;x\ny\r\nbody\r\n0\r\n\r\n"),
        ];
        for (status, bytes) in cases {
            let (found, responses) = attack(&gate, bytes).await;
            assert!(found == status && responses <= 1, "{found} {responses}: {bytes:?}");
            let smuggled = gate.upstream.requests().iter().any(|got| got.target.contains("smuggled"));
            assert!(!smuggled, "{bytes:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn absolute_targets_are_served_by_their_path() {
    let gate = open(http::Version::HTTP_11).await;
    for (target, expected) in [
        ("http://a/x?y=1", "/x?y=1"),
        ("http://A", "/"),
        ("http://a?y=1", "/?y=1"),
        ("http://a//x/../y", "/y"),
        ("/x?y=http://b/..//%2e", "/x?y=http://b/..//%2e"),
    ] {
        let reply =
            Raw::exchange(gate.address(), format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
                .await;
        assert!(reply.starts_with("HTTP/1.1 200"), "{target}: {reply}");
        let got = gate.upstream.last();
        assert_eq!((&*got.target, got.values("host")), (expected, vec!["a"]), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_authorities_are_refused() {
    each_pair(async |downstream, upstream| {
        let gate = open(upstream).await;
        let mut client = client(downstream, &gate).await;
        let sent = request(downstream, Method::GET, "/", "").header("host", "other.example");
        let reply = client.fetch(sent.body(StreamBody::from("")).unwrap()).await;
        assert_eq!((reply.status.as_u16(), &*reply.code()), (400, "invalid_host"));
        assert_eq!(gate.upstream.hits(), 0);
    })
    .await;
}

/// A client that sends all it has before it reads must still learn why it was refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_a_client_that_still_sends() {
    let gate = TestGate::start("").await;
    for _ in 0..5 {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8388608\r\n\r\n";
        let mut raw = Raw::connect(gate.address()).await;
        // No reset at any time: not all systems would leave the response readable.
        raw.write([head.as_bytes(), &vec![b'x'; 8 << 20]].concat()).await;
        let mut reply = String::new();
        raw.0.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 401") && reply.contains("missing_token"), "{reply:?}");
    }
}
