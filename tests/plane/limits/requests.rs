//! Requests in flight.

use std::{sync::Mutex, time::Duration};

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use super::{call, get, grpc_status, limited, refusal};
use crate::{
    proxy::{HTTP1, HTTP2, client},
    support::{client::Reply, eventually, gate::TestGate, upstream::StreamBody},
};

type Sender = mpsc::Sender<std::io::Result<Frame<Bytes>>>;

/// From now on the upstream answers with streams that go on until their sender, which comes here, is dropped.
fn streams(gate: &TestGate) -> mpsc::Receiver<Sender> {
    let (senders, streams) = mpsc::channel(16);
    gate.upstream.handle(move |_| {
        let senders = senders.clone();
        async move {
            let (sender, body) = StreamBody::channel();
            senders.send(sender).await.unwrap();
            Response::new(body)
        }
    });
    streams
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_shed_until_a_response_has_ended() {
    for version in [HTTP1, HTTP2] {
        let gate = TestGate::start(&limited("max_requests = 2")).await;
        let token = gate.good_token();
        let mut opened = streams(&gate);
        let (mut one, mut other) = (client(version, &gate).await, client(version, &gate).await);
        let first = one.send(get(version, "/", &token)).await.unwrap();
        let second = other.send(get(version, "/", &token)).await.unwrap();
        let first_sender = opened.recv().await.unwrap();
        let _second_sender = opened.recv().await.unwrap();
        let reply = client(version, &gate).await.fetch(get(version, "/", &token)).await;
        assert_eq!(refusal(&reply), (503, "overloaded".to_owned(), Some(1)));
        assert_eq!(gate.get("/", "nonsense").await.status.as_u16(), 401, "the verdict comes first");
        assert_eq!(gate.upstream.hits(), 2);
        // A response that has ended makes room,
        drop(first_sender);
        assert!(first.into_body().collect().await.unwrap().to_bytes().is_empty());
        let served =
            async || client(version, &gate).await.send(get(version, "/", &token)).await.unwrap().status() == 200;
        eventually("a response that ended makes room", served).await;
        let sender = opened.recv().await.unwrap();
        // and so does one whose client has gone.
        drop((second, other, sender));
        eventually("a client that went away makes room", served).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_other_routes_take_no_place() {
    let other = "[[routes]]\npath = \"/other\"\nupstream = \"{upstream}\"\n";
    let gate = TestGate::start(&[&limited("max_requests = 1"), other].concat()).await;
    let token = gate.good_token();
    let mut opened = streams(&gate);
    let mut holder = client(HTTP1, &gate).await;
    let _held = holder.send(get(HTTP1, "/", &token)).await.unwrap();
    let _sender = opened.recv().await.unwrap();
    for _ in 0..3 {
        assert_eq!(gate.get("/", "").await.status.as_u16(), 401);
        assert_eq!(refusal(&gate.get("/", &token).await), (503, "overloaded".to_owned(), Some(1)));
    }
    let response = client(HTTP1, &gate).await.send(get(HTTP1, "/other", &token)).await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_is_told_in_its_own_form() {
    let gate = TestGate::start(&limited("max_requests = 1")).await;
    let token = gate.good_token();
    let mut opened = streams(&gate);
    let mut holder = client(HTTP2, &gate).await;
    let _held = holder.send(get(HTTP2, "/", &token)).await.unwrap();
    let _sender = opened.recv().await.unwrap();
    let reply = holder.fetch(call(&token)).await;
    assert_eq!(grpc_status(&reply), ("14", "overloaded"));
    assert_eq!(gate.upstream.hits(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn some_may_wait_for_a_place() {
    let gate = TestGate::start(&limited("max_requests = 1, max_waiting = 1, max_wait = \"10s\"")).await;
    let token = gate.good_token();
    let mut opened = streams(&gate);
    let mut holder = client(HTTP1, &gate).await;
    let held = holder.send(get(HTTP1, "/", &token)).await.unwrap();
    let sender = opened.recv().await.unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (mut waiter, sent) = (client(HTTP1, &gate).await, get(HTTP1, "/", &token));
        waiting.spawn(async move { Reply::read(waiter.send(sent).await.unwrap()).await.unwrap() });
    }
    // One waits, whichever came first, and the other is shed.
    let shed = waiting.join_next().await.unwrap().unwrap();
    assert_eq!(refusal(&shed), (503, "overloaded".to_owned(), Some(1)));
    assert_eq!(gate.upstream.hits(), 1);
    drop(sender);
    Reply::read(held).await.unwrap();
    drop(opened.recv().await.unwrap());
    assert_eq!(waiting.join_next().await.unwrap().unwrap().status.as_u16(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_longer_than_they_may() {
    let gate = TestGate::start(&limited("max_requests = 1, max_waiting = 5, max_wait = \"50ms\"")).await;
    let token = gate.good_token();
    let mut opened = streams(&gate);
    let mut holder = client(HTTP1, &gate).await;
    let _held = holder.send(get(HTTP1, "/", &token)).await.unwrap();
    let _sender = opened.recv().await.unwrap();
    assert_eq!(refusal(&gate.get("/", &token).await), (503, "overloaded".to_owned(), Some(1)));
}

/// Whatever comes at once, the upstream never sees more than it may.
#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_never_sees_more() {
    let gate = TestGate::start(&limited("max_requests = 3")).await;
    let token = gate.good_token();
    let seen = std::sync::Arc::new(Mutex::new((0_usize, 0_usize)));
    let counted = std::sync::Arc::clone(&seen);
    gate.upstream.handle(move |_| {
        let counted = std::sync::Arc::clone(&counted);
        async move {
            let now = {
                let mut seen = counted.lock().unwrap();
                seen.0 += 1;
                seen.1 = seen.1.max(seen.0);
                seen.0
            };
            tokio::time::sleep(Duration::from_millis(2)).await;
            counted.lock().unwrap().0 -= 1;
            crate::support::upstream::text(now.to_string())
        }
    });
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (mut client, token) = (client(HTTP1, &gate).await, token.clone());
        tasks.spawn(async move {
            let mut counts = (0, 0);
            for _ in 0..40 {
                match client.fetch(get(HTTP1, "/", &token)).await.status.as_u16() {
                    200 => counts.0 += 1,
                    503 => counts.1 += 1,
                    status => panic!("{status}"),
                }
            }
            counts
        });
    }
    let (served, shed) =
        tasks.join_all().await.into_iter().fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1));
    assert!(served >= 3 && shed > 0, "{served} {shed}");
    assert!(seen.lock().unwrap().1 <= 3, "{:?}", seen.lock().unwrap());
    assert_eq!(gate.upstream.hits(), served);
}
