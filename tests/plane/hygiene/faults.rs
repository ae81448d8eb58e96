//! Connections of HTTP/2 that the gate ends for what their client sent are counted; those that end for anything else are not.

use std::collections::BTreeMap;

use super::frames::{
    Answer, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2, RST_STREAM, WINDOW_UPDATE, frame, get, setting,
};
use crate::support::{client, eventually, gate::TestGate};

const OPEN: &str = "[[routes]]\nauth = \"none\"\nupstream = \"{upstream}\"\n";

/// What was counted, by fault.
async fn faults(gate: &TestGate) -> BTreeMap<String, u64> {
    let metrics = client::get(gate.admin(), "/metrics", "").await;
    let fault = |line: &str| {
        let (fault, count) = line.strip_prefix("portcullis_http2_faults_total{fault=\"")?.split_once("\"} ")?;
        Some((fault.to_owned(), count.parse().unwrap()))
    };
    metrics.text().lines().filter_map(fault).collect()
}

/// Sends this over a connection, and reads until it ends.
async fn end(gate: &TestGate, bytes: &[u8]) -> Option<u32> {
    let mut connection = Http2::connect(gate.address()).await;
    connection.send(bytes).await;
    let mut code = None;
    while let Some(frame) = connection.next().await {
        code = code.or((frame.kind == GOAWAY).then(|| frame.code(8)));
    }
    code
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_did_wrong_is_counted_by_what_it_is() {
    let gate = TestGate::start(OPEN).await;
    let none = faults(&gate).await;
    assert_eq!(none.len(), 6, "each is there from the start: {none:?}");
    let wrong = [
        ("protocol_error", 1, frame(DATA, 0, 0, b"x")),
        ("flow_control_error", 3, frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
        // Of a frame that is too large its head is enough.
        ("frame_size_error", 6, frame(DATA, 0, 1, &vec![0; 20_000])[..9].to_vec()),
        ("compression_error", 9, frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 64])),
    ];
    let mut expected = none;
    for (fault, code, bytes) in wrong {
        assert_eq!(end(&gate, &bytes).await, Some(code), "{fault}");
        *expected.get_mut(fault).unwrap() += 1;
        eventually(fault, async || faults(&gate).await == expected).await;
    }
    // Too much of something.
    let mut connection = Http2::connect(gate.address()).await;
    for number in 0..2000_u32 {
        let cancel = frame(RST_STREAM, 0, 2 * number + 1, &8_u32.to_be_bytes());
        if !connection.send([get(2 * number + 1, "/"), cancel].concat()).await {
            break;
        }
    }
    while connection.next().await.is_some() {}
    *expected.get_mut("enhance_your_calm").unwrap() += 1;
    eventually("enhance_your_calm", async || faults(&gate).await == expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_fault_of_a_client_is_not_counted() {
    let gate = TestGate::start(OPEN).await;
    let none = faults(&gate).await;
    // One that says goodbye, of which it is no business of the gate's why.
    for reason in [0_u32, 1, 11] {
        let mut connection = Http2::connect(gate.address()).await;
        assert!(connection.send(get(1, "/")).await);
        assert!(matches!(connection.answer(1).await, Answer::Response(200, _)));
        let goodbye = [0_u32.to_be_bytes(), reason.to_be_bytes()].concat();
        assert!(connection.send(frame(GOAWAY, 0, 0, &goodbye)).await);
        while connection.next().await.is_some() {}
    }
    // One that is gone in the middle of a frame, and one whose stream alone is wrong.
    let mut connection = Http2::with_settings(gate.address(), &setting(4, 70_000)).await;
    assert!(connection.send(&get(1, "/")[..20]).await);
    drop(connection);
    let mut connection = Http2::connect(gate.address()).await;
    assert!(connection.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &super::frames::request("GET", ""))).await);
    assert!(matches!(connection.answer(1).await, Answer::Reset(1) | Answer::Response(400, _)));
    drop(connection);
    eventually("all are gone", async || {
        let metrics = client::get(gate.admin(), "/metrics", "").await;
        metrics.text().lines().any(|line| line == "portcullis_connections 0")
    })
    .await;
    assert_eq!(faults(&gate).await, none);
}
