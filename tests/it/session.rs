//! Session lifetime: limits, activity, and what clients see of them.

mod endpoints;
mod limits;
mod listing;
mod model;
mod outage;

use std::time::{Duration, Instant};

use http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::support::{
    client::Reply,
    eventually,
    full::{Gate, Setup, World, now, request, verdict},
};

const ALICE: &str = "auth0|alice";

/// As short as an idle limit can be.
const IDLE: Duration = Duration::from_millis(2100);

/// A gate with that limit, which records activity as finely as it can.
fn short(world: &World) -> Setup<'_> {
    with_idle(world, "2100ms")
}

fn with_idle<'w>(world: &'w World, limit: &str) -> Setup<'w> {
    world
        .gate()
        .with("ACTIVITY_RESOLUTION", "1s")
        .with("ACTIVITY_FLUSH_INTERVAL", "10ms")
        .with("SESSION_IDLE_LIMIT", limit)
}

/// A token of one of alice's sessions.
fn token(world: &World, session: &str) -> String {
    world.token(ALICE, json!({ "sid": session }))
}

/// What `/.portcullis/session` says, which does not count as activity.
async fn look(gate: &Gate, token: &str) -> Reply {
    gate.send(request(Method::GET, "/.portcullis/session", token)).await
}

fn read(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    serde_json::from_slice(&reply.body).unwrap()
}

async fn background(gate: &Gate, token: &str) -> Reply {
    let mut request = request(Method::GET, "/", token);
    request.headers_mut().insert("portcullis-activity", HeaderValue::from_static("background"));
    gate.send(request).await
}

/// Waits until a session that nobody uses is refused; how long after `since` that was.
async fn until_idle(gate: &Gate, token: &str, since: Instant) -> Duration {
    eventually("the session is idle", async || verdict(&look(gate, token).await) == "idle_timeout").await;
    since.elapsed()
}
