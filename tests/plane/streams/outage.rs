//! Streams while the store is silent, and after.

use serde_json::json;

use super::*;
use crate::support::full::{MARGIN, now};

fn routes(world: &World) -> String {
    let allow = "[[routes]]\nname = \"allow\"\npath = \"/events/allow\"\noutage = \"allow\"\nupstream = ";
    format!("outage = \"reject\"\n{allow}\"{}\"", world.upstream.url())
}

/// Both kinds of routes; the upstream answers both with a stream of events.
async fn begin(world: &World, gate: &Gate) -> (Feeds, Flow, Flow) {
    let feeds = Feeds::of(world);
    let rejected = Flow::begin(HTTP1, gate, "/events", &world.token(ALICE, json!({}))).await;
    let allowed = Flow::begin(HTTP1, gate, "/events/allow", &world.token(BOB, json!({}))).await;
    until_open(gate, 1.0).await;
    eventually("the other one too", async || open_on(gate, "allow").await > 0.5).await;
    (feeds, rejected, allowed)
}

/// The end of a response that is not a stream of events is a cut.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_store_ends_streams_or_not_as_the_route_says() {
    let Some(world) = World::redis().await else { return };
    let gate = world.gate().with("MARKERS_MAX_STALENESS", "1s").route(&routes(&world)).start().await;
    let (feeds, rejected, mut allowed) = begin(&world, &gate).await;
    world.server().stop();
    let begun = Instant::now();
    assert_eq!(rejected.end().await, End::Whole(None));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1) + MARGIN, "{took:?}");
    assert!((ended(&gate, "stale", true).await - 1.0).abs() < 0.5);
    feeds.send(BOB, "on").await;
    assert_eq!(allowed.next().await.unwrap(), "on");
    // What is written while nobody listens is found when the store is heard again.
    world.server().cont();
    world.command::<()>(&["SET", "portcullis:m:block:acme:auth0|bob", &now().as_millis().to_string()]);
    assert_eq!(allowed.end().await, End::Cut);
}

/// A connection that was cut and made again: any marker may have been written in between.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_while_the_connection_was_lost_ends_streams() {
    let Some(mut world) = World::redis().await else { return };
    let gate = world.gate().with("MARKERS_MAX_STALENESS", "10s").route(&routes(&world)).start().await;
    let (feeds, mut rejected, allowed) = begin(&world, &gate).await;
    world.server_mut().kill();
    world.server_mut().restart();
    world.command::<()>(&["SET", "portcullis:m:block:acme:auth0|bob", &now().as_millis().to_string()]);
    assert_eq!(allowed.end().await, End::Cut);
    // Who is not concerned never notices.
    feeds.send(ALICE, "on").await;
    assert_eq!(rejected.next().await.unwrap(), "on");
}
