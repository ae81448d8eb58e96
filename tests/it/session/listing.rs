//! What operators see of a user's sessions.

use super::*;
use crate::{
    cli,
    support::{openapi::AdminClient, program},
};

const SESSIONS: &str = "/v1/subjects/acme/auth0%7Calice/sessions";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_users_sessions_are_told_a_page_at_a_time() {
    let mut worlds = vec![World::embedded().await];
    worlds.extend(World::redis().await);
    for world in worlds {
        let gate = with_idle(&world, "1h")
            .with("SESSION_ABSOLUTE_LIMIT", "8h")
            .with("SESSION_GATEWAY", "edge-1")
            .start()
            .await;
        for number in 0..7 {
            gate.expect(&world.token(ALICE, json!({ "sid": format!("s{number}"), "azp": "app" })), "admit").await;
        }
        gate.expect(&world.token("auth0|bob", json!({ "sid": "b" })), "admit").await;
        gate.change(Method::POST, "/v1/sessions/acme/s3/end", Value::Null).await;
        let admin = AdminClient::new(gate.admin, None);
        let list = async |query: &str| admin.get(&format!("{SESSIONS}{query}")).await.is(200, None).json();

        let all = list("").await;
        let names = |page: &Value| -> Vec<String> {
            page["sessions"].as_array().unwrap().iter().map(|each| each["session"].as_str().unwrap().into()).collect()
        };
        assert_eq!(names(&all), ["s0", "s1", "s2", "s4", "s5", "s6"], "an ended one is not alive");
        assert_eq!(all["next"], Value::Null);
        let first = &all["sessions"][0];
        assert_eq!((&first["gateway"], &first["client"]), (&json!("edge-1"), &json!("app")));
        assert_eq!((&first["idle_limit"], &first["absolute_limit"]), (&json!(3600), &json!(28_800)));
        assert!(first["idle"].as_u64().unwrap() > 3590 && first["absolute"].as_u64().unwrap() > 28_790);

        let (mut found, mut query) = (Vec::new(), "?all=true&limit=2".to_owned());
        loop {
            let page = list(&query).await;
            assert!(names(&page).len() <= 2);
            found.extend(names(&page));
            let Some(next) = page["next"].as_str() else { break };
            query = format!("?all=true&limit=2&after={next}");
        }
        assert_eq!(found, ["s0", "s1", "s2", "s3", "s4", "s5", "s6"]);
        let ended = list("?all=true&after=s2&limit=1").await;
        assert_eq!(ended["sessions"][0]["state"], "ended");

        gate.change(Method::POST, "/v1/subjects/acme/auth0%7Calice/logout", Value::Null).await;
        assert_eq!(names(&list("").await).len(), 0, "logged out everywhere");
        assert_eq!(list("?all=true").await["sessions"][0]["state"], "logged_out");
        for wrong in ["?limit=0", "?limit=201", "?limit=x", "?all=perhaps", "?after=", "?page=2"] {
            admin.get(&format!("{SESSIONS}{wrong}")).await.is(400, "invalid_request");
        }
    }
}

/// Without limits nothing is recorded unless it is wanted, and then no request waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_without_limits_are_recorded_where_that_is_wanted() {
    let world = World::embedded().await;
    let gate = world.gate().with("SESSION_RECORD", "true").with("ACTIVITY_FLUSH_INTERVAL", "10ms").start().await;
    let reply = gate.get(&token(&world, "one")).await;
    assert_eq!(reply.status, 200);
    assert!(!reply.headers.contains_key("portcullis-session-idle"));
    eventually("it is recorded", async || {
        let page = gate.change(Method::GET, SESSIONS, Value::Null).await;
        page["sessions"][0]["session"] == "one" && page["sessions"][0]["idle_limit"] == Value::Null
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_lists_and_ends_them() {
    let gate = program::Gate::setup().and("[session]\nidle_limit = \"1h\"\n").start().await;
    let (one, two) = (gate.token(json!({ "sid": "one" })), gate.token(json!({ "sid": "two" })));
    cli::ask(&gate, &["sessions", ALICE]).ends_with(0).says("no sessions");
    gate.call(&one).await.is(200, None);
    gate.call(&two).await.is(200, None);
    cli::ask(&gate, &["sessions", ALICE])
        .ends_with(0)
        .says("SESSION")
        .says("one")
        .says("two")
        .says("live")
        .says("of 1h");
    cli::ask(&gate, &["sessions", ALICE, "--end", "three"]).ends_with(1).complains("no session `three`");
    cli::ask(&gate, &["sessions", "auth0|bob", "--end", "one"]).ends_with(1).complains("no session `one`");
    cli::ask(&gate, &["sessions", ALICE, "--end", "one", "--reason", "lost laptop"]).ends_with(0).says("lost laptop");
    gate.call(&one).await.is(401, "session_ended");
    gate.call(&two).await.is(200, None);
    let all: Value =
        serde_json::from_str(&cli::ask(&gate, &["sessions", ALICE, "--all", "--output", "json"]).out).unwrap();
    assert_eq!(all["sessions"].as_array().unwrap().len(), 2);
    assert_eq!(all["sessions"][0]["state"], "ended");
}
