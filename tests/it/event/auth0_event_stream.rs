//! Auth0's event stream, against a gate that runs: real events, dated today, and the requests that come right after them.

use std::{fs, path::Path, time::Duration};

use http::Method;
use portcullis::clock::Timestamp;
use serde_json::{Value, json};

use crate::support::{
    http::{Answer, send},
    program::{Gate, Setup, now},
    redis::RedisServer,
};

const URL: &str = "/.portcullis/events/users";
const TOKEN: &str = "0123456789abcdef";
const SOURCE: &str = "[sources.users]\ntype = \"auth0_event_stream\"\ntoken_file = \"users.token\"\n";

fn setup() -> Setup {
    Gate::setup().secret("users.token", TOKEN).and(SOURCE)
}

/// Runs a test with an embedded store, then with Redis.
async fn on_both_stores(test: impl AsyncFn(Gate)) {
    test(setup().start().await).await;
    let Some(server) = RedisServer::start() else { return };
    test(setup().redis(&server.url()).start().await).await;
}

/// An event about another user, at another time, under another id.
fn event(path: &str, user: &str, id: &str, at: Timestamp) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path);
    let mut event: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    event["id"] = json!(id);
    event["time"] = json!(at.to_string());
    event["data"]["object"]["user_id"] = json!(user);
    event
}

async fn deliver(gate: &Gate, body: impl Into<bytes::Bytes>) -> Answer {
    send(gate.address(), Method::POST, URL, &[("authorization", &format!("Bearer {TOKEN}"))], body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_very_next_request_of_a_blocked_or_deleted_user_is_refused() {
    on_both_stores(async |gate| {
        let blocked = "composed/auth0-events/user.updated-blocked.json";
        let [ada, bob, eve] = ["auth0|ada", "auth0|bob", "auth0|eve"];
        let token = |user: &str| gate.token(json!({ "sub": user, "sid": format!("session of {user}") }));
        for user in [ada, bob, eve] {
            gate.call(&token(user)).await.is(200, None);
        }
        let at = now().minus(Duration::from_secs(60));
        let answer = deliver(&gate, event(blocked, ada, "evt_1", at).to_string()).await;
        assert_eq!((answer.is(204, None).body.len(), answer.field("cache-control")), (0, Some("no-store")));
        gate.call(&token(ada)).await.is(401, "user_blocked");
        gate.call(&token(bob)).await.is(200, None);

        let deleted = event("auth0/events/user.deleted.json", bob, "evt_2", at);
        deliver(&gate, deleted.to_string()).await.is(204, None);
        gate.call(&token(bob)).await.is(401, "user_blocked");

        // It was not blocked before either, so nothing about that was changed.
        let updated = event("auth0/events/user.updated.json", ada, "evt_3", at.plus(Duration::from_secs(1)));
        deliver(&gate, updated.to_string()).await.is(204, None);
        gate.call(&token(ada)).await.is(401, "user_blocked");

        let mut cleared = event(blocked, ada, "evt_4", at.plus(Duration::from_secs(2)));
        cleared["data"]["object"]["blocked"] = json!(false);
        cleared["data"]["previous_object"]["blocked"] = json!(true);
        let late = event(blocked, ada, "evt_5", at.plus(Duration::from_secs(1)));
        deliver(&gate, json!([cleared, late]).to_string()).await.is(204, None);
        gate.call(&token(ada)).await.is(200, None);
        deliver(&gate, event(blocked, ada, "evt_1", at).to_string()).await.is(204, None);
        gate.call(&token(ada)).await.is(200, None);
        gate.call(&token(eve)).await.is(200, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_sent_is_turned_away_but_by_its_token() {
    let gate = setup().start().await;
    let test = event("auth0/events/webhook-test-user.created.json", "auth0|ada", "evt_1", now());
    let created = event("auth0/events/user.created.json", "auth0|ada", "evt_2", now());
    for body in [test.to_string(), created.to_string(), String::new(), "{".into(), "[]".into(), "rubbish".into()] {
        deliver(&gate, body).await.is(204, None);
    }
    let ready = gate.admin().get("/readyz").await.json();
    let told = &ready["sources"][0]["events"];
    assert_eq!((&told["test"], &told["ignored"], &told["malformed"]), (&json!(1), &json!(1), &json!(2)), "{told}");

    let blocked = event("composed/auth0-events/user.updated-blocked.json", "auth0|ada", "evt_3", now());
    for value in ["", TOKEN, "Bearer", "Bearer 0123456789abcdeF", "Bearer 0123456789abcdef0", "Basic 0123456789abcdef"]
    {
        let fields = [("authorization", value)];
        send(gate.address(), Method::POST, URL, &fields, blocked.to_string()).await.is(401, "unauthorized");
    }
    gate.call(&gate.token(json!({ "sub": "auth0|ada" }))).await.is(200, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_store_is_down_the_sender_is_asked_to_come_again() {
    let Some(server) = RedisServer::start() else { return };
    let gate = setup().redis(&server.url()).max_staleness("60s").start().await;
    let token = gate.token(json!({ "sub": "auth0|ada" }));
    let blocked = event("composed/auth0-events/user.updated-blocked.json", "auth0|ada", "evt_1", now()).to_string();
    server.stop();
    let answer = deliver(&gate, blocked.clone()).await;
    assert_eq!(answer.is(503, "not_stored").field("retry-after"), Some("1"));
    server.cont();
    crate::support::eventually("the event is taken", async || deliver(&gate, blocked.clone()).await.status == 204)
        .await;
    gate.call(&token).await.is(401, "user_blocked");
}
