//! The store falls silent: nobody is logged out for it, and what happens meanwhile counts.

use super::*;

fn quick<'w>(world: &'w World, outage: &str) -> Setup<'w> {
    short(world)
        .with("MARKERS_MAX_STALENESS", "1s")
        .with("MARKERS_READ_TIMEOUT", "400ms")
        .with("MARKERS_WRITE_TIMEOUT", "1s")
        .with("STORE_HEARTBEAT", "100ms")
        .with("STORE_RESPONSE_TIMEOUT", "300ms")
        .with("MARKERS_OUTAGE", outage)
}

/// Without the store nobody can say how long a session was idle: that is not its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_cannot_be_shown_to_be_idle_is_not_logged_out() {
    let Some(world) = World::redis().await else { return };
    let gate = quick(&world, "reject").start().await;
    let one = token(&world, "one");
    gate.expect(&one, "admit").await;
    let begun = Instant::now();
    world.server().stop();
    eventually("the idle limit is over", async || {
        let said = gate.verdict(&one).await;
        assert!(matches!(&*said, "admit" | "stale"), "{said}");
        begun.elapsed() > IDLE + Duration::from_secs(2)
    })
    .await;
    let refused = gate.get(&one).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "stale"));
    assert!(refused.headers.contains_key("retry-after") && !refused.headers.contains_key("www-authenticate"));
    world.server().cont();
}

/// With the policy `allow`, who was active while the store was out is not idle when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn activity_during_an_outage_counts() {
    let Some(world) = World::redis().await else { return };
    let gate = quick(&world, "allow").start().await;
    let (known, new) = (token(&world, "known"), token(&world, "new"));
    gate.expect(&known, "admit").await;
    world.server().stop();
    let begun = Instant::now();
    eventually("the idle limit is over twice", async || {
        gate.expect(&known, "admit").await;
        // First seen while nobody can be asked.
        gate.expect(&new, "admit").await;
        begun.elapsed() > 2 * IDLE
    })
    .await;
    world.server().cont();
    eventually("the store is heard", async || gate.readiness().await == 200).await;
    gate.expect(&known, "admit").await;
    gate.expect(&new, "admit").await;
    eventually("it is written", async || gate.metric("portcullis_session_activity_pending").await < 0.5).await;
    let told = read(&look(&gate, &new).await);
    let started: portcullis::clock::Timestamp = told["started"].as_str().unwrap().parse().unwrap();
    assert!(now().since(started) >= 2 * IDLE, "it began when it was first seen");
}

/// What waits to be written counts here though the store does not have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unwritten_activity_of_another_token_counts() {
    let Some(world) = World::redis().await else { return };
    // Writes of activity fail, and nothing else does.
    let gate = quick(&world, "reject").start().await;
    let (one, other) = (token(&world, "one"), world.token(ALICE, json!({ "sid": "one", "jti": "other" })));
    gate.expect(&one, "admit").await;
    gate.expect(&other, "admit").await;
    let _: String = world.command(&["ACL", "SETUSER", "default", "-zadd"]);
    let begun = Instant::now();
    eventually("the idle limit is over twice", async || {
        gate.expect(&other, "admit").await;
        begun.elapsed() > 2 * IDLE
    })
    .await;
    assert!(gate.metric("portcullis_session_activity_flush_failures_total").await > 0.0);
    gate.expect(&one, "admit").await;
    let _: String = world.command(&["ACL", "SETUSER", "default", "+zadd"]);
    eventually("it is written", async || gate.metric("portcullis_session_activity_pending").await < 0.5).await;
}

/// A session that the store will not have holds up nobody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_type_holds_up_no_other_session() {
    let Some(world) = World::redis().await else { return };
    let gate = world.gate().with("SESSION_RECORD", "true").with("ACTIVITY_FLUSH_INTERVAL", "10ms").start().await;
    let _: String = world.command(&["SET", "portcullis:sessions:acme:auth0|mallory", "x"]);
    gate.expect(&world.token("auth0|mallory", json!({})), "admit").await;
    gate.expect(&token(&world, "one"), "admit").await;
    eventually("the other one is recorded", async || {
        let page = gate.change(Method::GET, "/v1/subjects/acme/auth0%7Calice/sessions", Value::Null).await;
        page["sessions"][0]["session"] == "one"
    })
    .await;
    eventually("nothing waits", async || gate.metric("portcullis_session_activity_pending").await < 0.5).await;
}

/// What this gateway knows of a session's activity does not become younger because the store forgot it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_is_not_revived_by_a_store_that_forgot_it() {
    let Some(world) = World::redis().await else { return };
    let gate = short(&world).start().await;
    let (idle, active) = (token(&world, "idle"), token(&world, "active"));
    gate.expect(&idle, "admit").await;
    let begun = Instant::now();
    eventually("the idle limit is over", async || {
        gate.expect(&active, "admit").await;
        begun.elapsed() > IDLE
    })
    .await;
    let _: String = world.command(&["FLUSHALL"]);
    gate.expect(&active, "admit").await;
    eventually("it is idle", async || {
        let said = gate.verdict(&idle).await;
        assert_ne!(said, "admit");
        said == "idle_timeout"
    })
    .await;
}
