//! How long changes take to arrive, as the gates themselves measure it.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    eventually,
    full::{Gate, World, now, subject_path},
};

/// How many changes of a source were measured, and how long they took together.
async fn measured(gate: &Gate, source: &str) -> (f64, f64) {
    let sample = |part: &str| format!("portcullis_revocation_propagation_seconds_{part}{{source=\"{source}\"}}");
    (gate.metric(&sample("count")).await, gate.metric(&sample("sum")).await)
}

async fn assert_measured(gate: &Gate, source: &str, count: f64) -> f64 {
    let (found, sum) = measured(gate, source).await;
    assert!((found - count).abs() < 0.1, "{found} of {source}, not {count}");
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_gate_measures_how_long_a_change_took_to_reach_it() {
    let Some(world) = World::redis().await else { return };
    let gates = [world.gate().start().await, world.gate().start().await];
    let token = |user: &str| world.token(user, json!({}));
    let users = ["auth0|blocked", "auth0|out", "auth0|outside", "auth0|unasked"].map(|user| (user, token(user)));
    let [(blocked, by_admin), (_, by_itself), (_, by_another), (unasked, _)] = &users;
    for gate in &gates {
        for token in [by_admin, by_itself, by_another] {
            gate.expect(token, "admit").await;
        }
    }
    gates[0].change(Method::PUT, &subject_path(blocked, "/block"), Value::Null).await;
    gates[0].change(Method::PUT, &subject_path(unasked, "/block"), Value::Null).await;
    assert_eq!(gates[1].log_out(by_itself, "").await.status, StatusCode::NO_CONTENT);
    // Its writer's clock is half a minute behind.
    let written = now().as_millis() - 30_000;
    let value = json!({ "at": now().as_millis(), "written": written, "source": "crm" }).to_string();
    let _: String = world.command(&["SET", "portcullis:m:logout:acme:auth0|outside", &value]);
    for gate in &gates {
        gate.becomes(by_admin, "user_blocked").await;
        gate.becomes(by_itself, "session_ended").await;
        gate.becomes(by_another, "logged_out").await;
        assert!(assert_measured(gate, "admin", 1.0).await < 2.0);
        assert!(assert_measured(gate, "logout", 1.0).await < 2.0);
        let sum = assert_measured(gate, "other", 1.0).await;
        assert!((30.0..32.0).contains(&sum), "{sum}");
    }

    // What is asked for again, unchanged, or without its time, is not measured.
    gates[0].change(Method::GET, &subject_path(blocked, ""), Value::Null).await;
    let _: i64 = world.command(&["PEXPIRE", "portcullis:m:logout:acme:auth0|outside", "600000"]);
    let _: String = world.command(&["SET", "portcullis:m:block:acme:auth0|blocked", &now().as_millis().to_string()]);
    eventually("the gates are told", async || {
        for gate in &gates {
            gate.expect(by_admin, "user_blocked").await;
            gate.expect(by_another, "logged_out").await;
        }
        let changes = gates[1].metric("portcullis_marker_changes_total").await;
        changes > 6.5
    })
    .await;
    for gate in &gates {
        gate.expect(by_admin, "user_blocked").await;
        gate.expect(by_another, "logged_out").await;
        for source in ["admin", "logout", "other"] {
            assert_measured(gate, source, 1.0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gate_with_a_store_of_its_own_wrote_is_measured_too() {
    let world = World::embedded().await;
    let gate = world.gate().start().await;
    let token = world.token("auth0|alice", json!({}));
    gate.expect(&token, "admit").await;
    gate.change(Method::PUT, &subject_path("auth0|alice", "/block"), Value::Null).await;
    gate.expect(&token, "user_blocked").await;
    assert!(assert_measured(&gate, "admin", 1.0).await < 2.0);
    let known = gate.look_up("auth0|alice").await;
    assert_eq!(known["block"]["source"], "admin");
    let written = known["block"]["written"].as_str().unwrap().parse().unwrap();
    assert!((now().minus(std::time::Duration::from_secs(60))..=now()).contains(&written), "{written}");
}
