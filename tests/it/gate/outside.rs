//! What other programs write into Redis is enforced as fast as what the gate writes itself.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::support::full::{Gate, World, now, subject_path};

const ALICE: &str = "auth0|alice";

/// How long a change from outside may take to be enforced: half of what is promised. It is milliseconds, on a machine that is
/// not busy.
const PROMPT: Duration = Duration::from_secs(1);

async fn a_gate_that_admits(token: &str, world: &World) -> Gate {
    let gate = world.gate().start().await;
    gate.expect(token, "admit").await;
    gate.expect(token, "admit").await;
    gate
}

/// Runs a command that another program might, and waits until it is enforced.
async fn enforced(world: &World, gate: &Gate, command: &[&str], token: &str, verdict: &str) -> Duration {
    let begun = Instant::now();
    let _: redis::Value = world.command(command);
    gate.becomes(token, verdict).await;
    let took = begun.elapsed();
    assert!(took < PROMPT, "{command:?} was enforced after {took:?}");
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_marker_in_each_form_is_enforced_at_once_and_so_is_its_removal() {
    let Some(world) = World::redis().await else { return };
    let token = world.token(ALICE, json!({"sid": "s:1", "jti": "t 1"}));
    let gate = a_gate_that_admits(&token, &world).await;
    let at = now().as_millis();
    let cases = [
        ("logout:acme:auth0|alice", at.to_string(), "logged_out"),
        ("logout:acme:auth0|alice", json!({"at": at, "clock": "issuer"}).to_string(), "logged_out"),
        ("logout:acme:auth0|alice", json!({"at": now().to_string(), "by": "help desk"}).to_string(), "logged_out"),
        ("block:acme:auth0|alice", at.to_string(), "user_blocked"),
        ("block:acme:auth0|alice", json!({"at": at, "reason": "stolen laptop"}).to_string(), "user_blocked"),
        ("session:acme:s:1", at.to_string(), "session_ended"),
        ("session:acme:s:1", json!({"at": at}).to_string(), "session_ended"),
        ("token:acme:t 1", at.to_string(), "revoked"),
        ("client:acme:web-app", at.to_string(), "revoked"),
        ("issuer:acme", at.to_string(), "revoked"),
    ];
    let mut slowest = Duration::ZERO;
    for (key, value, verdict) in cases {
        let key = format!("portcullis:m:{key}");
        slowest = slowest.max(enforced(&world, &gate, &["SET", &key, &value], &token, verdict).await);
        slowest = slowest.max(enforced(&world, &gate, &["DEL", &key], &token, "admit").await);
    }
    println!("the slowest change from outside was enforced after {slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expiry_ends_what_a_marker_refused() {
    let Some(world) = World::redis().await else { return };
    let token = world.token(ALICE, json!({}));
    let gate = a_gate_that_admits(&token, &world).await;
    let at = now().as_millis().to_string();
    enforced(&world, &gate, &["SET", "portcullis:m:block:acme:auth0|alice", &at, "PX", "300"], &token, "user_blocked")
        .await;
    gate.becomes(&token, "admit").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_forgets_everything_at_once() {
    let Some(world) = World::redis().await else { return };
    let token = world.token(ALICE, json!({}));
    let gate = a_gate_that_admits(&token, &world).await;
    for flush in ["FLUSHALL", "FLUSHDB"] {
        gate.change(Method::PUT, &subject_path(ALICE, "/block"), Value::Null).await;
        gate.expect(&token, "user_blocked").await;
        enforced(&world, &gate, &[flush], &token, "admit").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_refuses_is_visible_and_can_be_mended() {
    let Some(world) = World::redis().await else { return };
    let token = world.token(ALICE, json!({"jti": "t"}));
    let gate = a_gate_that_admits(&token, &world).await;
    let cases: [(&str, &str, Option<&str>); 6] = [
        ("logout:acme:auth0|alice", "logged_out", Some("logout")),
        ("block:acme:auth0|alice", "user_blocked", Some("block")),
        ("session:acme:session of auth0|alice", "session_ended", None),
        ("token:acme:t", "revoked", None),
        ("client:acme:web-app", "revoked", None),
        ("issuer:acme", "revoked", None),
    ];
    for (key, verdict, shown) in cases {
        let key = format!("portcullis:m:{key}");
        // A slip, a time in seconds, and a key of another type.
        for garbage in [&["SET", &key, "yes"][..], &["SET", &key, "1763700000"], &["HSET", &key, "at", "1763700000123"]]
        {
            let _: redis::Value = world.command(&["DEL", &key]);
            gate.becomes(&token, "admit").await;
            let before = gate.metric("portcullis_markers_unreadable_total").await;
            enforced(&world, &gate, garbage, &token, verdict).await;
            gate.expect(&token, verdict).await;
            assert!(gate.metric("portcullis_markers_unreadable_total").await > before, "{garbage:?} is not counted");
            if let Some(member) = shown {
                assert_eq!(gate.look_up(ALICE).await[member], json!({"unreadable": true}), "{garbage:?}");
            }
        }
        enforced(&world, &gate, &["DEL", &key], &token, "admit").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marker_of_ours_replaces_what_cannot_be_read() {
    let Some(world) = World::redis().await else { return };
    let token = world.token(ALICE, json!({}));
    let gate = a_gate_that_admits(&token, &world).await;
    let key = "portcullis:m:block:acme:auth0|alice";
    enforced(&world, &gate, &["SET", key, "yes"], &token, "user_blocked").await;
    gate.change(Method::DELETE, &subject_path(ALICE, "/block"), Value::Null).await;
    gate.expect(&token, "admit").await;

    enforced(&world, &gate, &["DEL", key], &token, "admit").await;
    enforced(&world, &gate, &["HSET", key, "a", "b"], &token, "user_blocked").await;
    let refused = gate.admin(Method::DELETE, &subject_path(ALICE, "/block"), Value::Null).await;
    assert_eq!((refused.status.as_u16(), &*refused.code()), (503, "store_refused"), "{}", refused.text());
    gate.expect(&token, "user_blocked").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_at_one_gate_ends_at_the_other() {
    let Some(world) = World::redis().await else { return };
    let (near, far) = (world.gate().start().await, world.gate().start().await);
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        let token = world.token(ALICE, json!({"sid": format!("session {round}")}));
        near.expect(&token, "admit").await;
        far.expect(&token, "admit").await;
        assert_eq!(near.log_out(&token, "").await.status, 204);
        near.expect(&token, "session_ended").await;
        slowest = slowest.max(far.becomes(&token, "session_ended").await);
    }
    println!("the other gate refused within {slowest:?} of the acknowledgement");
    assert!(slowest < PROMPT, "the other gate refused after {slowest:?}");

    let token = world.token(ALICE, json!({}));
    far.expect(&token, "admit").await;
    near.change(Method::PUT, &subject_path(ALICE, "/block"), Value::Null).await;
    far.becomes(&token, "user_blocked").await;
    far.change(Method::DELETE, &subject_path(ALICE, "/block"), Value::Null).await;
    near.becomes(&token, "admit").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gates_with_other_prefixes_keep_apart() {
    let Some(world) = World::redis().await else { return };
    let (one, other) = (world.gate().start().await, world.gate().with("STORE_PREFIX", "other:").start().await);
    let token = world.token(ALICE, json!({}));
    one.change(Method::PUT, &subject_path(ALICE, "/block"), Value::Null).await;
    one.expect(&token, "user_blocked").await;
    other.expect(&token, "admit").await;
}
