//! The store falls silent: cached knowledge is used as long as the promise allows, and then the outage policy.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    client::Reply,
    eventually,
    full::{Gate, MARGIN, Setup, World, now, request, subject_path, verdict},
};

const ALICE: &str = "auth0|alice";
const BLOCKED: &str = "auth0|blocked";

const STALENESS: Duration = Duration::from_secs(1);
const READ_TIMEOUT: Duration = Duration::from_millis(400);
const HEARTBEAT: Duration = Duration::from_millis(100);

fn quick(world: &World) -> Setup<'_> {
    world
        .gate()
        .with("MARKERS_MAX_STALENESS", "1s")
        .with("MARKERS_READ_TIMEOUT", "400ms")
        .with("MARKERS_WRITE_TIMEOUT", "1s")
        .with("STORE_HEARTBEAT", "100ms")
        .with("STORE_RESPONSE_TIMEOUT", "300ms")
        // So that it has to ask about everyone.
        .with("STORE_INDEX_LIMIT", "0")
        .with("ACTIVITY_RESOLUTION", "1s")
        .with("ACTIVITY_FLUSH_INTERVAL", "50ms")
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    Stopped,
}

impl Fault {
    fn begin(self, world: &mut World) {
        match self {
            Self::Killed => world.server_mut().kill(),
            Self::Stopped => world.server().stop(),
        }
    }

    fn end(self, world: &mut World) {
        match self {
            Self::Killed => world.server_mut().restart(),
            Self::Stopped => world.server().cont(),
        }
    }
}

/// No request hangs, whatever happens to the store.
async fn bounded(gate: &Gate, token: &str) -> Reply {
    let begun = Instant::now();
    let reply = gate.get(token).await;
    let took = begun.elapsed();
    assert!(took <= READ_TIMEOUT + MARGIN, "a request took {took:?}");
    reply
}

fn assert_stale(reply: &Reply) {
    assert_eq!((reply.status, &*reply.code()), (StatusCode::SERVICE_UNAVAILABLE, "stale"), "{}", reply.text());
    assert_eq!(reply.headers["retry-after"], "1");
    assert!(!reply.headers.contains_key("www-authenticate"), "nobody is to be logged out by this");
}

async fn rejects(fault: Fault) {
    let Some(mut world) = World::redis().await else { return };
    let gate = quick(&world).start().await;
    let token = world.token(ALICE, json!({}));
    let blocked = world.token(BLOCKED, json!({}));
    gate.change(Method::PUT, &subject_path(BLOCKED, "/block"), Value::Null).await;
    gate.expect(&token, "admit").await;
    gate.expect(&blocked, "user_blocked").await;

    fault.begin(&mut world);
    // From here on, nothing is heard.
    let begun = Instant::now();
    assert_stale(&bounded(&gate, &world.token("auth0|unknown", json!({}))).await);
    gate.expect(&blocked, "user_blocked").await;
    let mut last_admitted = None;
    let first_refused = loop {
        let asked = begun.elapsed();
        let reply = bounded(&gate, &token).await;
        if reply.status == StatusCode::OK {
            assert!(asked <= STALENESS + MARGIN, "admitted from the cache after {asked:?}");
            last_admitted = Some(asked);
            tokio::time::sleep(Duration::from_millis(2)).await;
        } else {
            assert_stale(&reply);
            break begun.elapsed();
        }
    };
    println!("{fault:?}: admitted from the cache until {last_admitted:?}, refused from {first_refused:?} on");
    let served = last_admitted.expect("what was known is served while the store is silent for less than max_staleness");
    assert!(served <= STALENESS, "admitted from the cache after {served:?}");
    assert!(first_refused + 5 * HEARTBEAT >= STALENESS, "refused after {first_refused:?} already");
    assert!(first_refused <= STALENESS + MARGIN, "refused after {first_refused:?} only");

    assert_stale(&bounded(&gate, &token).await);
    assert_stale(&bounded(&gate, &blocked).await);
    assert_eq!(gate.readiness().await, StatusCode::SERVICE_UNAVAILABLE);
    let reply = gate.admin(Method::PUT, &subject_path(ALICE, "/block"), Value::Null).await;
    assert_eq!((reply.status.as_u16(), &*reply.code()), (503, "store_unavailable"));
    for token in [&token, &blocked] {
        let reply = gate.log_out(token, "").await;
        let expected = if *token == blocked { (401, "user_blocked") } else { (503, "not_stored") };
        assert_eq!((reply.status.as_u16(), &*reply.code()), expected, "tried, although the store is silent");
        assert_eq!(reply.headers.get("retry-after").is_some(), expected.0 == 503);
    }

    fault.end(&mut world);
    gate.becomes(&token, "admit").await;
    assert_eq!(gate.readiness().await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_is_known_to_be_silent() {
    rejects(Fault::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_hangs_is_known_to_be_silent() {
    rejects(Fault::Stopped).await;
}

async fn allows(fault: Fault) {
    let Some(mut world) = World::redis().await else { return };
    let gate = quick(&world).route("outage = \"allow\"").start().await;
    let token = world.token(ALICE, json!({}));
    let blocked = world.token(BLOCKED, json!({}));
    gate.change(Method::PUT, &subject_path(BLOCKED, "/block"), Value::Null).await;
    gate.expect(&token, "admit").await;
    gate.expect(&blocked, "user_blocked").await;
    assert!(world.upstream.last().values("portcullis-stale").is_empty());

    fault.begin(&mut world);
    eventually("the gate knows that it is stale", async || gate.readiness().await != StatusCode::OK).await;
    let before = gate.verdicts("stale_admitted").await;
    for token in [&token, &world.token("auth0|unknown", json!({}))] {
        assert_eq!(verdict(&bounded(&gate, token).await), "admit");
        assert_eq!(world.upstream.last().values("portcullis-stale"), ["true"]);
    }
    assert_eq!(verdict(&bounded(&gate, &blocked).await), "user_blocked", "what is cached still refuses");
    assert!((gate.verdicts("stale_admitted").await - before - 2.0).abs() < 0.1);

    fault.end(&mut world);
    eventually("requests are no longer flagged", async || {
        gate.expect(&token, "admit").await;
        world.upstream.last().values("portcullis-stale").is_empty()
    })
    .await;
    let mut forged = request(Method::GET, "/", &token);
    forged.headers_mut().insert("portcullis-stale", "true".parse().unwrap());
    assert_eq!(verdict(&gate.send(forged).await), "admit");
    assert!(world.upstream.last().values("portcullis-stale").is_empty(), "clients cannot flag");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_an_allowing_route_goes_on_and_says_so() {
    allows(Fault::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_redis_that_hangs_an_allowing_route_goes_on_and_says_so() {
    allows(Fault::Stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_outage_the_cache_starts_empty() {
    let Some(mut world) = World::redis().await else { return };
    let gate = quick(&world).start().await;
    let token = world.token(ALICE, json!({}));
    let blocked = world.token(BLOCKED, json!({}));
    gate.change(Method::PUT, &subject_path(BLOCKED, "/block"), Value::Null).await;
    gate.expect(&token, "admit").await;
    gate.expect(&blocked, "user_blocked").await;

    world.server_mut().kill();
    eventually("the gate is stale", async || gate.verdict(&token).await == "stale").await;
    world.server_mut().restart();
    let at = now().as_millis().to_string();
    let _: redis::Value = world.command(&["SET", "portcullis:m:block:acme:auth0|alice", &at]);
    eventually("a block from before the reconnection is enforced", async || {
        let verdict = gate.verdict(&token).await;
        assert!(["stale", "user_blocked"].contains(&&*verdict), "{verdict}: the cache was trusted");
        verdict == "user_blocked"
    })
    .await;
    gate.expect(&blocked, "admit").await;
}

/// A logout that nobody could store is not answered as if it were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_is_not_acknowledged_while_redis_is_down() {
    let Some(mut world) = World::redis().await else { return };
    let gate = quick(&world).start().await;
    let token = world.token(ALICE, json!({}));
    gate.expect(&token, "admit").await;
    world.server_mut().kill();
    let reply = gate.log_out(&token, "").await;
    assert_eq!((reply.status.as_u16(), &*reply.code()), (503, "not_stored"), "{}", reply.text());
    assert_eq!(reply.headers["retry-after"], "1");
    world.server_mut().restart();
    gate.becomes(&token, "admit").await;
    eventually("the logout can be stored", async || gate.log_out(&token, "").await.status == 204).await;
    gate.becomes(&token, "session_ended").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn activity_of_an_outage_is_written_afterwards() {
    let Some(mut world) = World::redis().await else { return };
    let gate = quick(&world).route("outage = \"allow\"").start().await;
    let tokens: Vec<String> = (0..50).map(|id| world.token(&format!("auth0|{id}"), json!({}))).collect();
    world.server_mut().kill();
    eventually("the gate is stale", async || gate.readiness().await != StatusCode::OK).await;
    let begun = now();
    for token in &tokens {
        assert_eq!(verdict(&bounded(&gate, token).await), "admit");
    }
    let ended = now();
    eventually("writes fail", async || gate.metric("portcullis_activity_flush_failures_total").await > 0.0).await;
    world.server_mut().restart();
    for id in 0..50 {
        eventually("activity is written", async || {
            let known = gate.admin(Method::GET, &subject_path(&format!("auth0|{id}"), ""), Value::Null).await;
            known.status == StatusCode::OK
        })
        .await;
    }
    eventually("all of it is written", async || gate.metric("portcullis_activity_pending").await < 0.5).await;
    for id in 0..50 {
        let seen = gate.look_up(&format!("auth0|{id}")).await["last_activity"].as_str().unwrap().parse().unwrap();
        assert!((begun..=ended).contains(&seen), "{id}: {seen} is not within {begun} and {ended}");
    }
}

/// Many ask at once about what is not known while the store hangs: all are answered in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_before_a_redis_that_hangs_is_answered_in_time() {
    let Some(world) = World::redis().await else { return };
    let gate = quick(&world).start().await;
    world.server().stop();
    let requests = (0..60).map(|id| {
        let token = world.token(&format!("auth0|{}", id % 20), json!({}));
        let gate = &gate;
        async move { assert_stale(&bounded(gate, &token).await) }
    });
    futures_util::future::join_all(requests).await;
    world.server().cont();
    gate.becomes(&world.token(ALICE, json!({})), "admit").await;
}

/// No more wait than `max_waiting`; the rest is told at once, and who is known is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_before_a_redis_that_hangs_does_not_pile_up() {
    const WAITING: u32 = 3;
    const CROWD: u32 = 60;
    let Some(world) = World::redis().await else { return };
    let gate = quick(&world)
        .with("MARKERS_MAX_WAITING", &WAITING.to_string())
        .with("MARKERS_MAX_STALENESS", "30s")
        .with("STORE_RESPONSE_TIMEOUT", "10s")
        .start()
        .await;
    let known = world.token(ALICE, json!({}));
    gate.expect(&known, "admit").await;
    world.server().stop();
    let begun = Instant::now();
    let requests = (0..CROWD).map(|id| {
        let token = world.token(&format!("auth0|{id}"), json!({}));
        let gate = &gate;
        async move {
            assert_stale(&bounded(gate, &token).await);
            begun.elapsed()
        }
    });
    let served = async {
        while begun.elapsed() < READ_TIMEOUT / 2 {
            gate.expect(&known, "admit").await;
        }
    };
    let (took, ()) = futures_util::future::join(futures_util::future::join_all(requests), served).await;
    let waited = took.iter().filter(|took| **took >= READ_TIMEOUT).count();
    println!("{waited} of {CROWD} waited");
    assert!(waited >= WAITING as usize, "only {waited} waited");
    let shed = gate.metric("portcullis_marker_reads_shed_total").await;
    let failed = gate.metric("portcullis_marker_read_failures_total").await;
    assert!((shed + failed - f64::from(CROWD)).abs() < 0.1, "{shed} turned away, {failed} in vain");
    assert!(failed >= f64::from(WAITING), "{failed} in vain");
    // On a slow machine, a second few may come after the first few have given up.
    assert!(shed >= f64::from(CROWD / 2), "{shed} turned away");
    world.server().cont();
    gate.becomes(&world.token("auth0|1", json!({})), "admit").await;
}

/// Tokens and gates that begin while the store is away are served as soon as it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_that_starts_without_redis_waits_for_it() {
    let Some(mut world) = World::redis().await else { return };
    world.server_mut().kill();
    let gate = quick(&world).launch().await;
    let token = world.token(ALICE, json!({}));
    // Until the keys are there, that is what it says.
    eventually("the gate is stale", async || gate.verdict(&token).await == "stale").await;
    assert_stale(&bounded(&gate, &token).await);
    assert_eq!(gate.readiness().await, StatusCode::SERVICE_UNAVAILABLE);
    world.server_mut().restart();
    gate.becomes(&token, "admit").await;
    eventually("the gate is ready", async || gate.readiness().await == StatusCode::OK).await;
}
