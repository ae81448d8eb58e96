//! The Events API of a tenant.

use std::time::Duration;

use serde_json::{Value, json};

use super::{come_to, outcomes, report, worlds};
use crate::support::{
    auth0::{Auth0, CLIENT_ID, CLIENT_SECRET, Call, Piece, frame},
    eventually,
    full::{Gate, Setup, World, now},
};

const EVENTS: &str = "/api/v2/events";

/// A gate with the source, and these settings of it besides.
fn gate<'w>(world: &'w World, auth0: &Auth0, settings: &str) -> Setup<'w> {
    let domain = auth0.base();
    let source =
        format!("[sources.users]\ntype = \"auth0_events\"\ndomain = \"{domain}\"\nclient_id = \"{CLIENT_ID}\"");
    let setup = world.gate().route(&format!("{source}\nlease = \"1s\"\n{settings}"));
    setup.with("SOURCES_USERS_CLIENT_SECRET", CLIENT_SECRET)
}

fn user(sub: &str, blocked: bool) -> Value {
    json!({ "user_id": sub, "blocked": blocked, "created_at": "2024-03-12T08:00:00.000Z", "identities": [] })
}

/// An administrator blocks a user, who is refused here before long. The event's offset.
async fn is_blocked(world: &World, auth0: &Auth0, gate: &Gate, sub: &str) -> String {
    let token = world.token(sub, json!({}));
    gate.expect(&token, "admit").await;
    let offset = auth0.publish("user.updated", user(sub, true));
    gate.becomes(&token, "user_blocked").await;
    offset
}

fn last_event_id(call: &Call) -> Option<&str> {
    call.fields.get("last-event-id").map(|id| id.to_str().unwrap())
}

async fn last_error(gate: &Gate) -> String {
    report(gate, "users").await["last_error"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_block_takes_effect_and_so_does_its_end() {
    for world in worlds().await {
        let auth0 = Auth0::start().await;
        auth0.publish("user.updated", user("auth0|early", true));
        let [early, alice, bystander] =
            ["auth0|early", "auth0|alice", "auth0|bystander"].map(|sub| world.token(sub, json!({})));
        let gate = gate(&world, &auth0, "").start().await;
        gate.becomes(&early, "user_blocked").await;
        is_blocked(&world, &auth0, &gate, "auth0|alice").await;
        auth0.publish("user.updated", user("auth0|alice", false));
        gate.becomes(&alice, "admit").await;
        auth0.publish("user.deleted", json!({ "user_id": "auth0|alice" }));
        gate.becomes(&alice, "user_blocked").await;
        gate.expect(&bystander, "admit").await;
        let calls = auth0.calls(EVENTS);
        assert_eq!((calls.len(), calls[0].status.as_u16()), (1, 200));
        assert!(calls[0].target.contains("event_type=user.updated&event_type=user.deleted&from_timestamp="));
        assert_eq!(calls[0].fields["accept"], "text/event-stream");
        assert_eq!(report(&gate, "users").await["state"], "connected");
    }
}

#[tokio::test]
async fn a_gate_that_is_started_again_goes_on_where_it_was() {
    for world in worlds().await {
        let auth0 = Auth0::start().await;
        let first = gate(&world, &auth0, "").start().await;
        let offset = is_blocked(&world, &auth0, &first, "auth0|alice").await;
        first.instance.stop().await;
        eventually("the stream is closed", async || auth0.open_streams() == 0).await;

        let bob = world.token("auth0|bob", json!({}));
        auth0.publish("user.updated", user("auth0|bob", true));
        let second = gate(&world, &auth0, "").start().await;
        second.becomes(&bob, "user_blocked").await;
        let calls = auth0.calls(EVENTS);
        assert_eq!(last_event_id(calls.last().unwrap()), Some(&*offset));
        come_to(&second, "users", "changed", 1.0).await;
        assert!(outcomes(&second, "users", "duplicate").await < 0.1);
    }
}

#[tokio::test]
async fn an_offset_without_an_event_counts_too() {
    for world in worlds().await {
        let auth0 = Auth0::start().await;
        let first = gate(&world, &auth0, "").start().await;
        is_blocked(&world, &auth0, &first, "auth0|alice").await;
        // Not one of those that were asked for.
        let offset = auth0.publish("user.created", user("auth0|new", false));
        let progress = format!("event: offset-only\nid: {offset}\ndata: {}\n\n", json!({ "offset": offset }));
        auth0.send(&Piece::text(progress));
        auth0.send(&Piece::End);
        eventually("the gate is back", async || auth0.calls(EVENTS).len() > 1).await;
        assert_eq!(last_event_id(auth0.calls(EVENTS).last().unwrap()), Some(&*offset));
        assert_eq!(report(&first, "users").await["failures"], 0, "an end in order is no failure");
    }
}

#[tokio::test]
async fn streams_that_are_closed_every_now_and_then_are_no_trouble() {
    let world = World::embedded().await;
    let auth0 = Auth0::start().await;
    auth0.set_stream_lifetime(Duration::from_millis(2100));
    let gate = gate(&world, &auth0, "").start().await;
    for number in 0..20 {
        is_blocked(&world, &auth0, &gate, &format!("auth0|{number}")).await;
    }
    eventually("there were several streams", async || auth0.calls(EVENTS).len() > 2).await;
    let calls = auth0.calls(EVENTS);
    let apart = calls[2].at - calls[1].at;
    assert!(apart < Duration::from_secs(4), "at once, and not {apart:?} later");
    assert_eq!(report(&gate, "users").await["failures"], 0);
}

#[tokio::test]
async fn an_offset_that_is_no_longer_kept_is_replaced_by_a_time() {
    for world in worlds().await {
        let auth0 = Auth0::start().await;
        let first = gate(&world, &auth0, "").start().await;
        is_blocked(&world, &auth0, &first, "auth0|alice").await;
        first.instance.stop().await;
        eventually("the stream is closed", async || auth0.open_streams() == 0).await;

        let bob = world.token("auth0|bob", json!({}));
        auth0.publish("user.updated", user("auth0|bystander", false));
        auth0.expire_offsets();
        auth0.publish("user.updated", user("auth0|bob", true));
        let second = gate(&world, &auth0, "").start().await;
        second.becomes(&bob, "user_blocked").await;
        let calls = auth0.calls(EVENTS);
        let [.., expired, anew] = &calls[..] else { panic!("{calls:?}") };
        assert_eq!(expired.status, 410);
        assert!(anew.target.contains("from_timestamp=") && last_event_id(anew).is_none());
        assert!(last_error(&second).await.contains("does not keep the offset any more"));
    }
}

#[tokio::test]
async fn a_stream_that_ends_with_an_error_is_opened_again() {
    let world = World::embedded().await;
    let auth0 = Auth0::start().await;
    let gate = gate(&world, &auth0, "").start().await;
    let offset = is_blocked(&world, &auth0, &gate, "auth0|alice").await;
    auth0.send(&Piece::text("event: error\ndata: {\"error\":{\"code\":\"internal\"}}\n\n"));
    eventually("it is opened again", async || auth0.calls(EVENTS).len() == 2).await;
    assert_eq!(last_event_id(&auth0.calls(EVENTS)[1]), Some(&*offset));
    assert!(last_error(&gate).await.contains("ended the stream with an error"));
    is_blocked(&world, &auth0, &gate, "auth0|bob").await;
}

#[tokio::test]
async fn an_event_that_breaks_off_comes_again() {
    for world in worlds().await {
        let auth0 = Auth0::start().await;
        let event = json!({ "type": "user.updated", "id": "evt_1", "time": now().to_string(),
                            "data": { "object": user("auth0|alice", true) } });
        let offset = auth0.publish_event(event.clone());
        let whole = frame(&offset, &event);
        // Everything but the empty line that ends it.
        for length in [whole.len() / 2, whole.len() - 1] {
            auth0.script(vec![Piece::text(":connected\n\n"), Piece::text(&whole[..length]), Piece::Cut]);
        }
        let alice = world.token("auth0|alice", json!({}));
        let gate = gate(&world, &auth0, "").start().await;
        gate.becomes(&alice, "user_blocked").await;
        let calls = auth0.calls(EVENTS);
        assert_eq!(calls.len(), 3);
        assert!(calls.iter().all(|call| last_event_id(call).is_none()), "half an event has no offset");
        come_to(&gate, "users", "changed", 1.0).await;
    }
}

#[tokio::test]
async fn a_stream_that_brings_nothing_on_is_given_up() {
    let world = World::embedded().await;
    let auth0 = Auth0::start().await;
    let drop_by_drop = (0..1000).flat_map(|_| [Piece::Pause(Duration::from_millis(100)), Piece::text("x")]);
    let begin = [Piece::text(":connected\n\nid: 1\ndata: ")];
    auth0.script(begin.into_iter().chain(drop_by_drop).collect());
    auth0.script(vec![Piece::text(":connected\n\n"), Piece::Pause(Duration::from_secs(3600))]);
    auth0.publish("user.updated", user("auth0|alice", true));
    let alice = world.token("auth0|alice", json!({}));
    let gate = gate(&world, &auth0, "idle_timeout = \"1s\"").start().await;
    gate.becomes(&alice, "user_blocked").await;
    assert_eq!(auth0.calls(EVENTS).len(), 3);
    assert!(last_error(&gate).await.contains("said nothing for 1 s"), "{}", last_error(&gate).await);
}

#[tokio::test]
async fn an_event_that_is_too_long_is_passed_over() {
    for world in worlds().await {
        let auth0 = Auth0::start().await;
        let block = json!({ "type": "user.updated", "id": "evt_2", "time": now().to_string(),
                            "data": { "object": user("auth0|alice", true) } });
        let long = format!("event: user.updated\nid: long==\ndata: {{\"x\":\"{}\"}}\n\n", "x".repeat(5_000_000));
        let garbage = "event: user.updated\nid: garbage==\ndata: {\"off\n\n";
        auth0.script(vec![
            Piece::text(long),
            Piece::text(garbage),
            Piece::text(frame("block==", &block)),
            Piece::Pause(Duration::from_secs(3600)),
        ]);
        let alice = world.token("auth0|alice", json!({}));
        let gate = gate(&world, &auth0, "").start().await;
        gate.becomes(&alice, "user_blocked").await;
        assert_eq!(auth0.calls(EVENTS).len(), 1, "in the same stream");
        come_to(&gate, "users", "malformed", 2.0).await;
    }
}

#[tokio::test]
async fn one_gateway_is_connected_and_another_takes_over() {
    let Some(world) = World::redis().await else { return };
    let auth0 = Auth0::start().await;
    let first = gate(&world, &auth0, "").start().await;
    is_blocked(&world, &auth0, &first, "auth0|alice").await;
    let second = gate(&world, &auth0, "").start().await;
    let state = async |gate: &Gate| report(gate, "users").await["state"].as_str().unwrap().to_owned();
    eventually("the other waits", async || state(&second).await == "standby").await;
    is_blocked(&world, &auth0, &second, "auth0|bob").await;
    assert_eq!(auth0.calls(EVENTS).len(), 1);

    drop(first);
    is_blocked(&world, &auth0, &second, "auth0|carol").await;
    assert_eq!(state(&second).await, "connected");
    assert!(auth0.calls(EVENTS).iter().all(|call| call.status == 200), "one connection is what free plans allow");
}
