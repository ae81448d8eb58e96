//! The end of a gate, in order and not.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::{
    client::Raw,
    eventually,
    full::{World, subject_path},
};

const ALICE: &str = "auth0|alice";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_the_gate() {
    let world = World::embedded().await;
    let (alice, bob) = (world.token(ALICE, json!({})), world.token("auth0|bob", json!({})));
    let gate = world.gate().start().await;
    gate.change(Method::PUT, &subject_path(ALICE, "/block"), Value::Null).await;
    assert_eq!(gate.log_out(&bob, "").await.status, StatusCode::NO_CONTENT);
    assert!(gate.instance.stop().await);

    let gate = world.gate().launch().await;
    // From the first request on: an empty cache is never taken for "no markers".
    eventually("the gate has its keys", async || {
        let verdict = gate.verdict(&alice).await;
        assert!(["keys_unavailable", "stale", "user_blocked"].contains(&&*verdict), "{verdict}");
        verdict == "user_blocked"
    })
    .await;
    gate.expect(&bob, "session_ended").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_that_is_dropped_lets_go_of_everything() {
    let world = World::embedded().await;
    let gate = world.gate().start().await;
    let (address, admin) = (gate.address, gate.admin);
    gate.expect(&world.token(ALICE, json!({})), "admit").await;
    drop(gate);
    for address in [address, admin] {
        eventually("nobody listens", async || TcpStream::connect(address).await.is_err()).await;
    }
    eventually("the store is free", async || {
        let lock = std::fs::File::open(directory(&world).join("portcullis.lock")).unwrap();
        lock.try_lock().is_ok()
    })
    .await;
}

fn directory(world: &World) -> &std::path::Path {
    match &world.store {
        crate::support::full::Backing::Embedded(directory) => directory.path(),
        _ => panic!("an embedded store is wanted"),
    }
}

/// An operator whose request never ends does not hold up the stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dawdling_operator_is_not_waited_for() {
    let world = World::embedded().await;
    let gate = world.gate().start().await;
    let mut dawdler = Raw::connect(gate.admin).await;
    dawdler.write("PUT /v1/subjects/acme/x/block HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{").await;
    let mut silent = Raw::connect(gate.admin).await;
    silent.write("GET /live").await;
    gate.readiness().await;
    assert!(tokio::time::timeout(Duration::from_secs(5), gate.instance.stop()).await.expect("the gate stops in time"));
}
