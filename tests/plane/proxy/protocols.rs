//! HTTP/1.1 and HTTP/2 on either side: bodies, trailers, and nothing held back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{HTTP1, HTTP2, client, each_pair, route};
use crate::support::{
    client::{Raw, Reply, request},
    eventually,
    gate::TestGate,
    upstream::{RawUpstream, StreamBody, text},
};

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_responses_pass_unchanged() {
    each_pair(async |downstream, upstream| {
        let gate = TestGate::start(&route(upstream, "")).await;
        gate.upstream.answer(|got| {
            let mut response = match got.target.as_str() {
                "/204" | "/304" => text(""),
                _ => text("hello"),
            };
            if let Ok(status) = got.target[1..4].parse() {
                *response.status_mut() = status;
            }
            response.headers_mut().insert("etag", "\"1\"".parse().unwrap());
            response
        });
        let mut client = client(downstream, &gate).await;
        let token = gate.good_token();
        let cases: [(Method, &str, &str, u16, &str); 10] = [
            (Method::GET, "/200?a=b&a=%20c", "", 200, "hello"),
            (Method::POST, "/201", "sent", 201, "hello"),
            (Method::PUT, "/200", "", 200, "hello"),
            (Method::DELETE, "/204", "", 204, ""),
            (Method::PATCH, "/200", "x", 200, "hello"),
            (Method::OPTIONS, "/200", "", 200, "hello"),
            (Method::HEAD, "/200", "", 200, ""),
            (Method::GET, "/304", "", 304, ""),
            (Method::GET, "/503", "", 503, "hello"),
            (Method::from_bytes(b"PROPFIND").unwrap(), "/200", "<x/>", 200, "hello"),
        ];
        for (method, target, body, status, expected) in cases {
            let sent = request(downstream, method.clone(), target, &token).body(StreamBody::from(body)).unwrap();
            let reply = client.fetch(sent).await;
            assert_eq!((reply.status.as_u16(), reply.text()), (status, expected), "{method} {target}");
            assert_eq!(reply.headers["etag"], "\"1\"");
            let length = reply.headers.get("content-length").map(|length| length.to_str().unwrap());
            assert!(
                matches!((status, length), (204 | 304, None | Some("0")) | (_, Some("5"))),
                "{method} {target}: {length:?}"
            );
            let got = gate.upstream.last();
            assert_eq!((&got.method, got.target.as_str(), got.version), (&method, target, upstream));
            assert_eq!(got.body, body, "{method} {target}");
        }
        assert_eq!(gate.upstream.connections(), 1, "one connection is used again and again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_bodies_of_any_size_arrive_whole() {
    each_pair(async |downstream, upstream| {
        let gate = TestGate::start(&route(upstream, "")).await;
        gate.upstream.echo();
        let mut client = client(downstream, &gate).await;
        let sent: Bytes = (0..=250).cycle().take(8 * MIB).collect();
        for streamed in [false, true] {
            let body = if streamed {
                let (frames, body) = StreamBody::channel();
                let sent = sent.clone();
                tokio::spawn(async move {
                    for chunk in sent.chunks(100_000) {
                        frames.send(Ok(Frame::data(Bytes::copy_from_slice(chunk)))).await.unwrap();
                    }
                });
                body
            } else {
                StreamBody::from(sent.clone())
            };
            let sent_request = request(downstream, Method::POST, "/", &gate.good_token()).body(body).unwrap();
            let reply = client.fetch(sent_request).await;
            assert!(reply.body == sent, "{} bytes came back, streamed: {streamed}", reply.body.len());
        }
        // Nothing at all, of unknown length.
        let (frames, body) = StreamBody::channel();
        drop(frames);
        let reply = client.fetch(request(downstream, Method::POST, "/", &gate.good_token()).body(body).unwrap()).await;
        assert_eq!((reply.status, reply.text()), (StatusCode::OK, ""));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_arrives_before_the_next_is_sent() {
    each_pair(async |downstream, upstream| {
        let gate = TestGate::start(&route(upstream, "")).await;
        gate.upstream.echo();
        let mut client = client(downstream, &gate).await;
        let (frames, body) = StreamBody::channel();
        let sent = request(downstream, Method::POST, "/", &gate.good_token()).body(body).unwrap();
        frames.send(Ok(Frame::data("part 0".into()))).await.unwrap();
        let mut response = client.send(sent).await.unwrap();
        for part in 0..20 {
            let frame = tokio::time::timeout(Duration::from_secs(5), response.body_mut().frame()).await;
            let data = frame.expect("a part that is not held back").unwrap().unwrap().into_data().unwrap();
            assert_eq!(data, format!("part {part}"));
            frames.send(Ok(Frame::data(format!("part {}", part + 1).into()))).await.unwrap();
        }
        drop(frames);
        assert_eq!(Reply::read(response).await.unwrap().text(), "part 20");
    })
    .await;
}

/// A request that waits in the gate's buffer must not hold back what is streamed before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipelined_request_holds_nothing_back() {
    let gate = TestGate::start("").await;
    let (frames, body) = StreamBody::channel();
    let body = std::sync::Mutex::new(Some(body));
    gate.upstream.handle(move |_| {
        let body = body.lock().unwrap().take();
        async move { body.map_or_else(|| text("second"), Response::new) }
    });
    let one = format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n", gate.good_token());
    let mut raw = Raw::connect(gate.address()).await;
    raw.write(format!("{one}{one}")).await;
    frames.send(Ok(Frame::data("first".into()))).await.unwrap();
    raw.read_until("first").await;
    drop(frames);
    raw.read_until("second").await;
}

/// How much was sent once nothing more is accepted.
async fn until_it_stands_still(sent: &AtomicUsize) -> usize {
    let (mut before, mut since) = (0, Instant::now());
    eventually("the sender is held up", async || {
        let now = sent.load(Ordering::SeqCst);
        if now != before {
            (before, since) = (now, Instant::now());
        }
        now > 0 && since.elapsed() > Duration::from_millis(500)
    })
    .await;
    before
}

/// Far more than the buffers of the sockets on the way, which the system makes as large as 20 MiB.
const MORE_THAN_BUFFERS: usize = 128 * MIB;
const BUFFERS: usize = 32 * MIB;

/// Sends a lot, and counts.
fn flood() -> (Arc<AtomicUsize>, StreamBody) {
    let (frames, body) = StreamBody::channel();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    tokio::spawn(async move {
        let chunk = Bytes::from(vec![0; 64 * 1024]);
        while count.load(Ordering::SeqCst) < MORE_THAN_BUFFERS {
            if frames.send(Ok(Frame::data(chunk.clone()))).await.is_err() {
                return;
            }
            count.fetch_add(chunk.len(), Ordering::SeqCst);
        }
    });
    (sent, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_up_the_upstream() {
    each_pair(async |downstream, upstream| {
        let gate = TestGate::start(&route(upstream, "")).await;
        let (sent, body) = flood();
        let body = std::sync::Mutex::new(Some(body));
        gate.upstream.handle(move |_| {
            let body = body.lock().unwrap().take().unwrap();
            async { Response::new(body) }
        });
        let mut client = client(downstream, &gate).await;
        let sent_request =
            request(downstream, Method::GET, "/", &gate.good_token()).body(StreamBody::from("")).unwrap();
        let response = client.send(sent_request).await.unwrap();
        let stalled = until_it_stands_still(&sent).await;
        assert!(stalled < BUFFERS, "{} MiB were taken", stalled / MIB);
        // It goes on once it is read.
        assert_eq!(Reply::read(response).await.unwrap().body.len(), MORE_THAN_BUFFERS);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_read_holds_up_the_client() {
    each_pair(async |downstream, upstream| {
        let gate = TestGate::start(&route(upstream, "")).await;
        let read = Arc::new(tokio::sync::Notify::new());
        let wait = Arc::clone(&read);
        gate.upstream.handle(move |request| {
            let wait = Arc::clone(&wait);
            async move {
                wait.notified().await;
                let body = request.into_body().collect().await.unwrap();
                text(body.to_bytes().len().to_string())
            }
        });
        let (sent, body) = flood();
        let mut client = client(downstream, &gate).await;
        let sent_request = request(downstream, Method::POST, "/", &gate.good_token()).body(body).unwrap();
        let reply = tokio::spawn(async move { client.fetch(sent_request).await });
        let stalled = until_it_stands_still(&sent).await;
        assert!(stalled < BUFFERS, "{} MiB were taken", stalled / MIB);
        read.notify_one();
        assert_eq!(reply.await.unwrap().text(), MORE_THAN_BUFFERS.to_string());
    })
    .await;
}

/// Over HTTP/2, all requests share a connection: those that stand still must not hold up the others.
#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_do_not_hold_up_others() {
    let gate = TestGate::start(&route(HTTP2, "")).await;
    gate.upstream.handle(|request| async move {
        if request.uri().path() == "/flood" { Response::new(flood().1) } else { text("ok") }
    });
    let token = gate.good_token();
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut client = client(HTTP1, &gate).await;
        let sent = request(HTTP1, Method::GET, "/flood", &token).body(StreamBody::from("")).unwrap();
        stalled.push((client.send(sent).await.unwrap(), client));
    }
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(1) {
        let reply = tokio::time::timeout(Duration::from_secs(5), gate.get("/", &token)).await;
        assert_eq!(reply.expect("nobody stands in the way").text(), "ok");
    }
    assert_eq!(gate.upstream.connections(), 1);
}

fn trailers(pairs: &[(&'static str, &'static str)]) -> Frame<Bytes> {
    let pair = |&(name, value): &(&'static str, &'static str)| (name.parse().unwrap(), value.parse().unwrap());
    Frame::trailers(pairs.iter().map(pair).collect::<HeaderMap>())
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_both_ways_without_those_of_the_gate() {
    each_pair(async |downstream, upstream| {
        let gate = TestGate::start(&route(upstream, "")).await;
        gate.upstream.answer(|_| {
            let (frames, body) = StreamBody::channel();
            tokio::spawn(async move {
                frames.send(Ok(Frame::data("data".into()))).await.unwrap();
                let sent = [("x-sum", "2"), ("x-more", "3"), ("set-cookie", "a=1"), ("content_type", "text/html")];
                frames.send(Ok(trailers(&sent))).await.unwrap();
            });
            let declared = "x-sum, x-more, set-cookie, content_type";
            Response::builder().header("trailer", declared).body(body).unwrap()
        });
        let (frames, body) = StreamBody::channel();
        tokio::spawn(async move {
            let sent = [
                ("x-sum", "1"),
                ("x-forwarded-user", "mallory"),
                ("x_forwarded_user", "mallory"),
                ("portcullis-stale", "false"),
                ("x-forwarded-for", "6.6.6.6"),
                ("authorization", "Bearer x"),
            ];
            frames.send(Ok(Frame::data("data".into()))).await.unwrap();
            frames.send(Ok(trailers(&sent))).await.unwrap();
        });
        let declared = "x-sum, x-forwarded-user, x_forwarded_user, portcullis-stale, x-forwarded-for";
        let sent = request(downstream, Method::POST, "/", &gate.good_token())
            .header("te", "trailers")
            .header("trailer", declared)
            .body(body)
            .unwrap();
        let reply = client(downstream, &gate).await.fetch(sent).await;
        assert_eq!(reply.text(), "data");
        assert_eq!(
            (&reply.trailers["x-sum"], &reply.trailers["x-more"]),
            (&"2".parse().unwrap(), &"3".parse().unwrap())
        );
        assert_eq!(reply.trailers.len(), 2, "{:?}", reply.trailers);
        let got = gate.upstream.last();
        assert_eq!(got.body, "data");
        assert_eq!(got.values("te"), ["trailers"]);
        let names: Vec<&str> = got.trailers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["x-sum"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crumbs_of_cookies_become_one_field() {
    let gate = TestGate::start(&route(HTTP1, "")).await;
    for downstream in [HTTP1, HTTP2] {
        let sent = request(downstream, Method::GET, "/", &gate.good_token())
            .header("cookie", "a=1")
            .header("cookie", "b=2; c=3")
            .body(StreamBody::from(""))
            .unwrap();
        client(downstream, &gate).await.fetch(sent).await;
        assert_eq!(gate.upstream.last().values("cookie"), ["a=1; b=2; c=3"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_is_served() {
    each_pair(async |_, upstream| {
        let gate = TestGate::start(&route(upstream, "")).await;
        gate.upstream.echo();
        let token = gate.good_token();
        let reply = Raw::exchange(
            gate.address(),
            format!("POST /x HTTP/1.0\r\nAuthorization: Bearer {token}\r\nContent-Length: 4\r\n\r\nbody"),
        )
        .await;
        assert!(reply.starts_with("HTTP/1.0 200 OK\r\n") || reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
        assert!(reply.ends_with("\r\n\r\nbody"), "{reply}");
        assert!(!reply.to_lowercase().contains("transfer-encoding"), "{reply}");
        assert_eq!(gate.upstream.last().values("via"), ["1.0 portcullis"]);
        let mut raw = Raw::connect(gate.address()).await;
        for _ in 0..2 {
            let head = format!("GET /x HTTP/1.0\r\nConnection: keep-alive\r\nAuthorization: Bearer {token}\r\n\r\n");
            raw.write(head).await;
            let reply = raw.read_until("\r\n\r\n").await;
            assert!(reply.to_lowercase().contains("connection: keep-alive"), "{reply}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_calls_pass_and_are_refused_in_their_own_form() {
    let gate = TestGate::start(&route(HTTP2, "scopes = [\"read:orders\"]")).await;
    gate.upstream.answer(|_| {
        let (frames, body) = StreamBody::channel();
        tokio::spawn(async move {
            frames.send(Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\x01x")))).await.unwrap();
            frames.send(Ok(trailers(&[("grpc-status", "0")]))).await.unwrap();
        });
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    });
    let mut client = client(HTTP2, &gate).await;
    let mut call = async |token: &str| {
        let call = request(HTTP2, Method::POST, "/orders.Orders/List", token)
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .body(StreamBody::from(&b"\0\0\0\0\0"[..]))
            .unwrap();
        client.fetch(call).await
    };
    let reply = call(&gate.good_token()).await;
    assert_eq!((reply.status, &reply.body[..]), (StatusCode::OK, &b"\0\0\0\0\x01x"[..]));
    assert_eq!(reply.trailers["grpc-status"], "0");
    assert_eq!(gate.upstream.last().values("te"), ["trailers"]);
    let refused = [
        ("", "16", "missing_token"),
        (&*gate.token(json!({"exp": 1})), "16", "token_expired"),
        (&*gate.token(json!({"scope": "openid"})), "7", "insufficient_scope"),
    ];
    for (token, status, message) in refused {
        let reply = call(token).await;
        assert_eq!(reply.status, StatusCode::OK, "{message}");
        assert_eq!(
            (&reply.headers["grpc-status"], &reply.headers["grpc-message"]),
            (&status.parse().unwrap(), &message.parse().unwrap())
        );
        assert_eq!(reply.headers["content-type"], "application/grpc");
        assert!(reply.body.is_empty() && reply.trailers.is_empty());
    }
    assert_eq!(gate.upstream.hits(), 1);
}

/// An answer may come before the request has been read, or read at all.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_reaches_a_client_that_still_sends() {
    each_pair(async |downstream, upstream| {
        let gate = TestGate::start(&route(upstream, "")).await;
        gate.upstream.handle(|_| async {
            let mut response = text("too large");
            *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            response
        });
        let (_sent, body) = flood();
        let sent = request(downstream, Method::POST, "/", &gate.good_token()).body(body).unwrap();
        let response = client(downstream, &gate).await.send(sent).await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    })
    .await;
}

/// Not even if the upstream closes right after it, and resets the connection with what it has not read.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_outlives_its_connection() {
    let upstream = RawUpstream::start(|mut stream, _| async move {
        let mut buffer = vec![0; 1 << 20];
        let _ = stream.read(&mut buffer).await;
        let _ = stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").await;
    })
    .await;
    let gate = TestGate::start(&upstream.route("auth = \"none\"")).await;
    for round in 0..50 {
        let (_sent, body) = flood();
        let sent = request(HTTP2, Method::POST, "/", "").body(body).unwrap();
        let response = client(HTTP2, &gate).await.send(sent).await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_the_exchange_with_the_upstream() {
    each_pair(async |downstream: Version, upstream| {
        let gate = TestGate::start(&route(upstream, "")).await;
        let (frames, body) = StreamBody::channel();
        let body = std::sync::Mutex::new(Some(body));
        gate.upstream.handle(move |_| {
            let body = body.lock().unwrap().take().unwrap();
            async { Response::new(body) }
        });
        let mut client = client(downstream, &gate).await;
        let sent = request(downstream, Method::GET, "/", &gate.good_token()).body(StreamBody::from("")).unwrap();
        let response = client.send(sent).await.unwrap();
        assert!(!frames.is_closed());
        drop((response, client));
        eventually("the upstream notices", async || frames.is_closed()).await;
    })
    .await;
}
