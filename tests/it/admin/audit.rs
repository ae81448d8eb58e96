//! The audit trail: one line for each change, none for anything else.

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    eventually,
    program::{Gate, now},
    redis::RedisServer,
};

/// What happened, as a line tells it.
fn told(line: &Value) -> [&str; 4] {
    ["who", "what", "marker.key", "outcome"].map(|name| line[name].as_str().unwrap())
}

async fn lines(gate: &Gate, count: usize) -> Vec<Value> {
    eventually("the lines are there", async || gate.audit().len() >= count).await;
    let lines = gate.audit();
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

#[tokio::test]
async fn each_change_leaves_one_line() {
    let gate = Gate::start().await;
    let admin = gate.admin();
    let subject = "/v1/subjects/main/auth0%7Calice";
    admin.post(&format!("{subject}/logout"), json!({ "by": "ops" })).await;
    admin.put(&format!("{subject}/block"), json!({ "at": "2026-01-31T12:00:00Z", "reason": "fraud" })).await;
    admin.put(&format!("{subject}/block"), json!({ "at": "2026-01-31T12:00:00Z", "reason": "fraud" })).await;
    admin.delete(&format!("{subject}/block")).await;
    admin.post("/v1/sessions/main/s/end", json!({})).await;
    admin.post("/v1/tokens/main/t/revoke", json!({})).await;
    admin.post("/v1/clients/main/c/not-before", json!({})).await;
    admin.post("/v1/issuers/main/not-before", json!({ "at": "2026-01-31T12:00:00Z" })).await;
    let token = gate.token(json!({ "sub": "bob", "sid": "s2", "azp": "web", "iat": now().as_secs() }));
    gate.log_out(&token, "").await.is(204, None);
    gate.log_out(&token, "").await.is(204, None);

    // None of these is a change.
    admin.get(subject).await;
    admin.post("/v1/explain", json!({ "token": token })).await;
    admin.post("/v1/sessions/nowhere/s/end", json!({})).await;
    admin.post("/v1/sessions/main/s/end", json!({ "x": 1 })).await;
    gate.request(Method::POST, "/.portcullis/logout", &[]).await.is(401, "missing_token");

    let lines = lines(&gate, 9).await;
    let told: Vec<_> = lines.iter().map(told).collect();
    assert_eq!(
        told,
        [
            ["ops", "logout", "logout:main:auth0|alice", "changed"],
            ["admin", "block", "block:main:auth0|alice", "changed"],
            ["admin", "block", "block:main:auth0|alice", "unchanged"],
            ["admin", "unblock", "block:main:auth0|alice", "changed"],
            ["admin", "session_end", "session:main:s", "changed"],
            ["admin", "token_revocation", "token:main:t", "changed"],
            ["admin", "client_not_before", "client:main:c", "changed"],
            ["admin", "issuer_not_before", "issuer:main", "changed"],
            ["self", "session_end", "session:main:s2", "changed"],
        ]
    );
    assert!(lines.iter().all(|line| line["from"] == "127.0.0.1"), "{lines:#?}");
    assert_eq!(lines[1]["at"], "2026-01-31T12:00:00.000Z");
}

/// Whoever may change what the gate goes by is written down.
#[tokio::test]
async fn a_reload_that_somebody_asks_for_leaves_a_line() {
    let gate = Gate::start().await;
    gate.admin().send(Method::POST, "/v1/reload", "").await.is(200, None);
    let file = gate.directory().join("gate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("reload = \"signal\"\n{}", text.replace("[store]", "[stores]"))).unwrap();
    gate.admin().send(Method::POST, "/v1/reload", "").await.is(409, "not_reloaded");
    let lines = lines(&gate, 2).await;
    let told = |line: &Value| ["who", "what", "from", "outcome"].map(|name| line[name].as_str().unwrap().to_owned());
    assert_eq!(told(&lines[0]), ["admin", "reload", "127.0.0.1", "unchanged"]);
    assert_eq!(told(&lines[1]), ["admin", "reload", "127.0.0.1", "invalid"]);
    assert!(lines[1]["problems"].as_u64().unwrap() > 0, "{lines:#?}");
}

#[tokio::test]
async fn a_change_that_failed_leaves_a_line_too() {
    let Some(mut redis) = RedisServer::start() else { return };
    let gate = Gate::setup().redis(&redis.url()).max_staleness("30s").start().await;
    redis.kill();
    gate.admin().put("/v1/subjects/main/alice/block", json!({})).await.is(503, "store_unavailable");
    let lines = lines(&gate, 1).await;
    assert_eq!(told(&lines[0]), ["admin", "block", "block:main:alice", "failed"]);
    assert!(lines[0]["error"].is_string());
}

#[tokio::test]
async fn the_level_of_the_log_does_not_silence_it() {
    for (level, expected) in [("info,portcullis::audit=off", 0), ("error,portcullis::cli::serve=info", 1)] {
        let gate = Gate::setup().log_level(level).start().await;
        gate.admin().put("/v1/subjects/main/alice/block", json!({})).await.is(200, None);
        gate.admin().put("/v1/subjects/main/alice/block", json!({})).await.is(200, None);
        if expected > 0 {
            lines(&gate, 2).await;
        }
        let mut gate = gate;
        gate.terminate();
        assert!(gate.wait_for_end().success());
        assert_eq!(gate.audit().len(), expected * 2, "{level}");
    }
}
