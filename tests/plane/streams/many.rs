//! Ten thousand streams, without their connections: what each takes, and what a marker costs.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http::Request;
use portcullis::gate::{Admission, GateLayer, Policy};
use serde_json::json;
use tower::{Layer, ServiceExt, service_fn};

use super::*;

const STREAMS: usize = 10_000;

/// The resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_are_cheap_and_a_marker_touches_its_own() {
    let world = World::embedded().await;
    let gate = world.gate().start().await;
    let layer = GateLayer::new(gate.instance.judge().clone(), Policy::new("many"));
    let mut admissions = Vec::new();
    for number in 0..STREAMS {
        let service = layer.layer(service_fn(async |request: Request<()>| {
            let mut response = Response::new(Bytes::new());
            response.extensions_mut().insert(request.extensions().get::<Admission>().unwrap().clone());
            Ok::<_, std::convert::Infallible>(response)
        }));
        let token = world.token(&format!("user {}", number % (STREAMS / 2)), json!({ "jti": number.to_string() }));
        let request = Request::get("/").header("authorization", format!("Bearer {token}")).body(()).unwrap();
        let response = service.oneshot(request).await.unwrap();
        admissions.push(response.extensions().get::<Admission>().unwrap().clone());
    }
    let over = AtomicUsize::new(0);
    let judge = gate.instance.judge().clone();
    let streams = &judge.parts().streams;
    let judged = async || gate.metric("portcullis_streams_judged_total").await;
    let before = resident();
    let mut ends: FuturesUnordered<_> = admissions
        .iter()
        .map(|admission| async {
            let reason = admission.ended().await;
            over.fetch_add(1, Ordering::SeqCst);
            (admission.claims().subject.id.as_str().to_owned(), reason)
        })
        .collect();
    assert!(timeout(Duration::from_millis(1), ends.next()).await.is_err());
    let each = resident().saturating_sub(before) / STREAMS;
    assert_eq!(streams.len(), STREAMS);
    eventually("all were judged once", async || judged().await >= 10_000.0).await;
    println!("{each} bytes for each stream");
    assert!(each < 2048, "{each} bytes for each stream");

    let before = judged().await;
    block(&gate, "user 7").await;
    for _ in 0..2 {
        let (subject, reason) = timeout(PATIENCE, ends.next()).await.unwrap().unwrap();
        assert_eq!((subject.as_str(), reason.code()), ("user 7", "user_blocked"));
    }
    assert!(judged().await - before < 2.5, "others are left alone");
    assert_eq!(streams.len(), STREAMS - 2);

    // A marker of the issuer covers them all.
    let begun = Instant::now();
    gate.change(Method::POST, "/v1/issuers/acme/not-before", Value::Null).await;
    let mut left = STREAMS - 2;
    while let Some((_, reason)) = timeout(PATIENCE, ends.next()).await.unwrap() {
        assert_eq!(reason.code(), "revoked");
        left -= 1;
    }
    println!("all of them ended after {:?}", begun.elapsed());
    assert_eq!((left, streams.len(), over.load(Ordering::SeqCst)), (0, 0, STREAMS));
}
