//! Streams that the gate looks after.

use serde_json::{Value, json};

use super::{iss_sub, managed, on_both, source};
use crate::support::{
    eventually,
    full::{Gate, World},
    transmitter::{AUDIENCE, CAEP, ENDPOINT, RISC, SSF, TOKEN, Transmitter, push},
};

async fn manages(world: &World, transmitter: &Transmitter, lines: &str) -> Gate {
    let source = format!(
        "[sources.partner]\ntype = \"shared_signals\"\ntransmitter = \"{}\"\naudiences = [\"{AUDIENCE}\"]\n{lines}",
        transmitter.issuer()
    );
    let gate = world.gate().with("SOURCES_PARTNER_TOKEN", TOKEN).route(&source);
    let gate = if lines.contains("poll") { gate } else { gate.with("SOURCES_PARTNER_AUTHORIZATION", "Bearer set") };
    gate.start().await
}

async fn is(gate: &Gate, state: &str) {
    eventually(&format!("the source is {state}"), async || source(gate).await["state"] == state).await;
}

#[tokio::test]
async fn a_stream_is_made_tried_and_found_again() {
    on_both(async |world: World, transmitter: Transmitter| {
        let gate = manages(&world, &transmitter, &managed()).await;
        transmitter.lead_to(gate.address);
        is(&gate, "connected").await;
        eventually("the verification event was taken", async || transmitter.pushed().contains(&202)).await;
        let streams = transmitter.streams();
        let [stream] = &streams[..] else { panic!("{streams:?}") };
        assert_eq!(
            stream["delivery"],
            json!({ "method": "urn:ietf:rfc:8935", "endpoint_url": ENDPOINT, "authorization_header": "Bearer set" })
        );
        let requested: Vec<&str> =
            stream["events_requested"].as_array().unwrap().iter().map(|uri| uri.as_str().unwrap()).collect();
        for wanted in
            [format!("{CAEP}session-revoked"), format!("{RISC}account-disabled"), format!("{RISC}identifier-changed")]
        {
            assert!(requested.contains(&&*wanted), "{wanted}");
        }
        assert!(!requested.contains(&&*format!("{CAEP}risk-level-change")));
        assert_eq!(super::count(&gate, "test").await, 1);

        let disabled = transmitter.claims("j", &format!("{RISC}account-disabled"), iss_sub(&world, "a"), json!({}));
        let token = transmitter.sign(&disabled);
        push(gate.address, &token, &[]).await.is(401, "unauthorized");
        assert_eq!(push(gate.address, &token, &[("authorization", "Bearer set")]).await.status, 202);
        gate.expect(&world.token("a", json!({})), "user_blocked").await;

        gate.instance.stop().await;
        let gate = manages(&world, &transmitter, &managed()).await;
        transmitter.lead_to(gate.address);
        is(&gate, "connected").await;
        eventually("it is tried again", async || transmitter.requests("POST verification") == 2).await;
        assert_eq!((transmitter.requests("POST stream"), transmitter.requests("PATCH stream")), (1, 0));
    })
    .await;
}

#[tokio::test]
async fn only_states_that_were_asked_for_are_good() {
    on_both(async |world: World, transmitter: Transmitter| {
        let gate = manages(&world, &transmitter, &managed()).await;
        transmitter.lead_to(gate.address);
        eventually("the verification event was taken", async || transmitter.pushed().contains(&202)).await;
        let verification = |jti: &str, payload: Value| {
            let subject = json!({ "format": "opaque", "id": "stream/1" });
            transmitter.sign(&transmitter.claims(jti, &format!("{SSF}verification"), subject, payload))
        };
        let credential = [("authorization", "Bearer set")];
        let answer = push(gate.address, &verification("1", json!({ "state": "made up" })), &credential).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["err"]), (400, &json!("invalid_state")));
        assert_eq!(push(gate.address, &verification("2", json!({})), &credential).await.status, 202, "sent unasked");
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_stands_still_is_called_so() {
    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    let gate = manages(&world, &transmitter, &managed()).await;
    transmitter.lead_to(gate.address);
    is(&gate, "connected").await;
    let updated = |jti: &str, payload: Value| {
        let subject = json!({ "format": "opaque", "id": "stream/1" });
        transmitter.sign(&transmitter.claims(jti, &format!("{SSF}stream-updated"), subject, payload))
    };
    let credential = [("authorization", "Bearer set")];
    let paused = updated("1", json!({ "status": "paused", "reason": "Internal error" }));
    assert_eq!(push(gate.address, &paused, &credential).await.status, 202);
    is(&gate, "stopped").await;
    let why = source(&gate).await["last_error"].as_str().unwrap().to_owned();
    assert!(why.contains("paused: Internal error"), "{why}");
    assert_eq!(push(gate.address, &updated("2", json!({ "status": "enabled" })), &credential).await.status, 202);
    is(&gate, "connected").await;
    let answer = push(gate.address, &updated("3", json!({})), &credential).await;
    assert_eq!(answer.json()["err"], "invalid_request");
}

/// A load balancer gives what is pushed to any of them.
#[tokio::test]
async fn one_gateway_of_a_fleet_looks_after_the_stream_and_any_is_told_of_it() {
    let Some(world) = World::redis().await else { return };
    let transmitter = Transmitter::start().await;
    let one = manages(&world, &transmitter, &managed()).await;
    is(&one, "connected").await;
    let other = manages(&world, &transmitter, &managed()).await;
    is(&other, "standby").await;
    eventually("a verification event was asked for", async || transmitter.requests("POST verification") == 1).await;
    transmitter.lead_to(other.address);
    eventually("the verification event was taken", async || transmitter.pushed() == [202]).await;
    assert_eq!(super::count(&other, "test").await, 1);
    let subject = json!({ "format": "opaque", "id": "stream/1" });
    let paused = transmitter.claims("1", &format!("{SSF}stream-updated"), subject, json!({ "status": "paused" }));
    let credential = [("authorization", "Bearer set")];
    assert_eq!(push(other.address, &transmitter.sign(&paused), &credential).await.status, 202);
    is(&one, "stopped").await;
    is(&other, "standby").await;
    assert_eq!(transmitter.streams().len(), 1);
    assert!(source(&one).await["failures"] == 0 && source(&other).await["failures"] == 0);
}

/// The status is asked for, too: the event may have been lost.
#[tokio::test]
async fn a_stream_that_was_stopped_unheard_is_noticed() {
    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    transmitter.set(|knobs| knobs.inactivity_timeout = Some(2));
    let gate = manages(&world, &transmitter, &managed()).await;
    transmitter.lead_to(gate.address);
    is(&gate, "connected").await;
    transmitter.set(|knobs| knobs.status = "disabled");
    is(&gate, "stopped").await;
    assert!(source(&gate).await["last_error"].as_str().unwrap().contains("SYSTEM_DOWN_FOR_MAINTENANCE"));
    transmitter.set(|knobs| knobs.status = "enabled");
    is(&gate, "connected").await;
}

#[tokio::test]
async fn a_stream_that_is_not_as_it_should_be_is_changed_or_complained_of() {
    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    transmitter.add_stream(json!({
        "stream_id": "theirs", "iss": transmitter.issuer(), "aud": AUDIENCE,
        "delivery": { "method": "urn:ietf:rfc:8935", "endpoint_url": ENDPOINT, "authorization_header": "Bearer old" },
        "events_requested": [format!("{CAEP}session-revoked")], "events_delivered": [format!("{CAEP}session-revoked")],
    }));
    let gate = manages(&world, &transmitter, &managed()).await;
    transmitter.lead_to(gate.address);
    is(&gate, "connected").await;
    assert_eq!((transmitter.requests("PATCH stream"), transmitter.requests("POST stream")), (1, 0));
    assert!(transmitter.streams()[0]["events_requested"].as_array().unwrap().len() > 5);
    assert_eq!(transmitter.streams()[0]["delivery"]["authorization_header"], "Bearer set");

    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    transmitter.set(|knobs| knobs.audience = "https://assigned.example");
    let gate = manages(&world, &transmitter, &managed()).await;
    transmitter.lead_to(gate.address);
    is(&gate, "stopped").await;
    let why = source(&gate).await["last_error"].as_str().unwrap().to_owned();
    assert!(why.contains("`https://assigned.example`") && why.contains("`audiences`"), "{why}");
    eventually("it was tried again", async || transmitter.requests("GET stream") > 1).await;
    is(&gate, "stopped").await;
    assert_eq!(transmitter.requests("POST stream"), 1, "there is one already");
}

#[tokio::test]
async fn a_stream_may_be_polled() {
    on_both(async |world: World, transmitter: Transmitter| {
        let gate = manages(&world, &transmitter, "delivery = \"poll\"\nmanage = true\npoll_every = \"1s\"\n").await;
        is(&gate, "connected").await;
        eventually("the verification event came back", async || super::count(&gate, "test").await == 1).await;
        assert_eq!(transmitter.streams()[0]["delivery"]["method"], "urn:ietf:rfc:8936");
        let disabled = transmitter.claims("j", &format!("{RISC}account-disabled"), iss_sub(&world, "a"), json!({}));
        transmitter.enqueue(&disabled);
        gate.becomes(&world.token("a", json!({})), "user_blocked").await;
        eventually("all are acknowledged", async || transmitter.waiting() == 0).await;
        transmitter.assert_no_violations();
    })
    .await;
}

#[tokio::test]
async fn a_client_gets_access_tokens_and_keeps_them() {
    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    let source = format!(
        "[sources.partner]\ntype = \"shared_signals\"\ntransmitter = \"{}\"\naudiences = [\"{AUDIENCE}\"]\n{}\
         token_url = \"{}\"\nclient_id = \"gate-1\"\nscope = \"ssf.manage\"\n",
        transmitter.issuer(),
        managed(),
        transmitter.url("/oauth/token")
    );
    let gate = world.gate().with("SOURCES_PARTNER_CLIENT_SECRET", "s&cret").route(&source).start().await;
    transmitter.lead_to(gate.address);
    is(&gate, "connected").await;
    eventually("the verification event was taken", async || transmitter.pushed().contains(&202)).await;
    assert!(transmitter.requests("GET status") > 0);
    assert_eq!(transmitter.tokens(), 1);
    transmitter.assert_no_violations();
}

/// The transmitter says no more often than every two seconds; the gate was restarted within them.
#[tokio::test]
async fn verification_is_asked_for_no_more_often_than_is_allowed() {
    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    transmitter.set(|knobs| knobs.min_verification_interval = Some(2));
    let gate = manages(&world, &transmitter, &managed()).await;
    transmitter.lead_to(gate.address);
    eventually("the verification event was taken", async || transmitter.pushed().contains(&202)).await;
    gate.instance.stop().await;
    let gate = manages(&world, &transmitter, &managed()).await;
    transmitter.lead_to(gate.address);
    eventually("a second verification event was taken", async || {
        transmitter.pushed().iter().filter(|status| **status == 202).count() == 2
    })
    .await;
    assert!(transmitter.requests("POST verification") <= 4, "{}", transmitter.requests("POST verification"));
    is(&gate, "connected").await;
}
