//! The length of bodies.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body::Frame;
use http_body_util::BodyExt;

use super::{grpc_status, refusal};
use crate::{
    proxy::{HTTP1, HTTP2, client, each_pair, route},
    support::{
        client::{Raw, request},
        eventually,
        gate::TestGate,
        upstream::{StreamBody, text},
    },
};

fn limited(upstream: Version) -> String {
    route(upstream, "limits.max_body_size = \"10KiB\"")
}

fn post(version: Version, token: &str, body: impl Into<StreamBody>) -> Request<StreamBody> {
    request(version, Method::POST, "/", token).body(body.into()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_is_told_is_refused_at_once() {
    each_pair(async |downstream, upstream| {
        let gate = TestGate::start(&limited(upstream)).await;
        let token = gate.good_token();
        let reply = client(downstream, &gate).await.fetch(post(downstream, &token, "x".repeat(10_240))).await;
        assert_eq!((reply.status.as_u16(), gate.upstream.last().body.len()), (200, 10_240));
        let reply = client(downstream, &gate).await.fetch(post(downstream, &token, "x".repeat(10_241))).await;
        assert_eq!(refusal(&reply), (413, "body_too_large".to_owned(), None));
        assert_eq!(client(downstream, &gate).await.fetch(post(downstream, "", "x".repeat(10_241))).await.status, 401);
        assert_eq!(gate.upstream.hits(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_to_send_what_would_be_refused() {
    let gate = TestGate::start(&limited(HTTP1)).await;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Length: 99999\r\nExpect: 100-continue\r\n\r\n",
        gate.good_token()
    );
    let reply = Raw::exchange(gate.address(), head).await;
    assert!(reply.starts_with("HTTP/1.1 413"), "{reply}");
    assert_eq!(gate.upstream.hits(), 0);
}

/// The upstream reads bodies; how many bytes came of those that broke off, and how many did.
fn watched(gate: &TestGate) -> (Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let (bytes, broken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = (Arc::clone(&bytes), Arc::clone(&broken));
    gate.upstream.handle(move |request| {
        let (bytes, broken) = counters.clone();
        async move {
            let mut body = request.into_body();
            loop {
                match body.frame().await {
                    None => return text("ok"),
                    Some(Ok(frame)) => {
                        bytes.fetch_add(frame.data_ref().map_or(0, Bytes::len), Ordering::SeqCst);
                    }
                    Some(Err(_)) => {
                        broken.fetch_add(1, Ordering::SeqCst);
                        return text("broken");
                    }
                }
            }
        }
    });
    (bytes, broken)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_is_not_told_is_counted() {
    each_pair(async |downstream, upstream| {
        let gate = TestGate::start(&limited(upstream)).await;
        let (bytes, broken) = watched(&gate);
        for (count, status) in [(10, 200), (11, 413)] {
            let (sender, body) = StreamBody::channel();
            let sending = tokio::spawn(async move {
                for _ in 0..count {
                    // Who is told that it is too much need not take the rest.
                    if sender.send(Ok(Frame::data(Bytes::from(vec![b'x'; 1024])))).await.is_err() {
                        return;
                    }
                }
            });
            let reply = client(downstream, &gate).await.fetch(post(downstream, &gate.good_token(), body)).await;
            assert_eq!(reply.status.as_u16(), status, "{count} KiB");
            assert_eq!(reply.code(), if status == 413 { "body_too_large" } else { "" });
            sending.await.unwrap();
        }
        // If it heard of the request at all, which may have ended before anything was sent on.
        let told = async || broken.load(Ordering::SeqCst) == gate.upstream.hits() - 1;
        eventually("the upstream sees that the rest is missing", told).await;
        assert!(bytes.load(Ordering::SeqCst) <= 20_480, "{bytes:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_already_is_broken_off() {
    for version in [HTTP1, HTTP2] {
        let gate = TestGate::start(&limited(HTTP1)).await;
        gate.upstream.echo();
        let (sender, body) = StreamBody::channel();
        let sending =
            tokio::spawn(
                async move { while sender.send(Ok(Frame::data(Bytes::from(vec![b'x'; 1024])))).await.is_ok() {} },
            );
        let mut client = client(version, &gate).await;
        let response: Response<_> = client.send(post(version, &gate.good_token(), body)).await.unwrap();
        // Whether the header or the limit comes first is a matter of time.
        if response.status() == 200 {
            let echoed = response.into_body().collect().await;
            assert!(echoed.is_err(), "{version:?}: it ended as if it were complete");
        } else {
            assert_eq!(response.status(), 413);
        }
        drop(client);
        sending.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_counts_in_full() {
    let gate = TestGate::start(&limited(HTTP2)).await;
    let _ = watched(&gate);
    let (sender, body) = StreamBody::channel();
    let sending = tokio::spawn(async move {
        for _ in 0..20 {
            if sender.send(Ok(Frame::data(Bytes::from(vec![0; 1024])))).await.is_err() {
                return;
            }
        }
    });
    let builder = request(HTTP2, Method::POST, "/service/Method", &gate.good_token());
    let sent = builder.header("content-type", "application/grpc").body(body).unwrap();
    assert_eq!(grpc_status(&client(HTTP2, &gate).await.fetch(sent).await), ("8", "body_too_large"));
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_body_at_all_may_be_all_that_is_taken() {
    let gate = TestGate::start(&route(HTTP1, "limits.max_body_size = \"0B\"")).await;
    assert_eq!(gate.get("/", &gate.good_token()).await.status.as_u16(), 200);
    let reply = client(HTTP1, &gate).await.fetch(post(HTTP1, &gate.good_token(), "x")).await;
    assert_eq!(reply.status.as_u16(), 413);
}
