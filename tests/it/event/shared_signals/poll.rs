//! RFC 8936.

use serde_json::json;

use super::{TAKEOVER, count, iss_sub, on_both, source};
use crate::support::{
    eventually, eventually_within,
    full::{Gate, World},
    keys::SigningKey,
    program,
    transmitter::{AUDIENCE, CAEP, RISC, TOKEN, Transmitter},
};

/// A gate that polls.
async fn polls(world: &World, transmitter: &Transmitter) -> Gate {
    let source = format!(
        "[sources.partner]\ntype = \"shared_signals\"\ntransmitter = \"{}\"\naudiences = [\"{AUDIENCE}\"]\n\
         delivery = \"poll\"\npoll_url = \"{}\"\npoll_every = \"1s\"\n",
        transmitter.issuer(),
        transmitter.url("/ssf/poll")
    );
    let gate = world.gate().with("SOURCES_PARTNER_TOKEN", TOKEN).with("ISSUERS_ACME_CLAIMS_EMAIL", "email");
    gate.route(&source).start().await
}

#[tokio::test]
async fn what_is_polled_is_stored_and_then_acknowledged() {
    on_both(async |world: World, transmitter: Transmitter| {
        let disabled =
            |sub: &str| transmitter.claims(sub, &format!("{RISC}account-disabled"), iss_sub(&world, sub), json!({}));
        for number in 0..250 {
            transmitter.enqueue(&disabled(&format!("early-{number}")));
        }
        let gate = polls(&world, &transmitter).await;
        eventually("all are acknowledged", async || transmitter.waiting() == 0).await;
        gate.expect(&world.token("early-0", json!({})), "user_blocked").await;
        gate.expect(&world.token("early-249", json!({})), "user_blocked").await;
        gate.expect(&world.token("bystander", json!({})), "admit").await;
        eventually("it is connected", async || source(&gate).await["state"] == "connected").await;

        // While a question waits.
        transmitter.enqueue(&disabled("late"));
        gate.becomes(&world.token("late", json!({})), "user_blocked").await;
        eventually("it is acknowledged", async || transmitter.is_acknowledged("late")).await;
        // What comes again is acknowledged again.
        transmitter.enqueue(&disabled("late"));
        eventually("it is acknowledged again", async || transmitter.waiting() == 0).await;
        assert_eq!((count(&gate, "changed").await, count(&gate, "duplicate").await), (251, 1));
        assert_eq!(transmitter.most_polling(), 1);
        transmitter.assert_no_violations();

        // A restart goes on where the other left off.
        gate.instance.stop().await;
        transmitter.enqueue(&disabled("meanwhile"));
        let gate = polls(&world, &transmitter).await;
        gate.becomes(&world.token("meanwhile", json!({})), "user_blocked").await;
        transmitter.assert_no_violations();
    })
    .await;
}

/// Killed at any moment, it has acknowledged nothing that is not stored.
#[tokio::test]
async fn a_gate_that_is_killed_loses_nothing_that_it_polled() {
    let transmitter = Transmitter::start().await;
    let user = |number: usize| format!("auth0|{number}");
    for number in 0..400 {
        let subject = json!({ "format": "iss_sub", "iss": "https://issuer.example/", "sub": user(number) });
        transmitter.enqueue(&transmitter.claims(
            &format!("set-{number}"),
            &format!("{RISC}account-disabled"),
            subject,
            json!({}),
        ));
    }
    let source = format!(
        "[sources.partner]\ntype = \"shared_signals\"\ntransmitter = \"{}\"\naudiences = [\"{AUDIENCE}\"]\n\
         delivery = \"poll\"\npoll_url = \"{}\"\nmax_events = 20\ntoken_file = \"token\"\n",
        transmitter.issuer(),
        transmitter.url("/ssf/poll")
    );
    let mut gate = program::Gate::setup().secret("token", TOKEN).and(&source).start().await;
    eventually("some are acknowledged", async || transmitter.waiting() < 350).await;
    gate.kill_and_restart().await;
    for number in (0..400).filter(|number| transmitter.is_acknowledged(&format!("set-{number}"))) {
        gate.call(&gate.token(json!({ "sub": user(number) }))).await.is(401, "user_blocked");
    }
    // The lease of the one that was killed has to run out.
    eventually_within(2 * TAKEOVER, "none is left", async || transmitter.waiting() == 0).await;
    for number in [0, 123, 399] {
        gate.call(&gate.token(json!({ "sub": user(number) }))).await.is(401, "user_blocked");
    }
    transmitter.assert_no_violations();
}

#[tokio::test]
async fn what_is_at_fault_is_refused_and_the_rest_is_taken() {
    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    let event = format!("{CAEP}session-revoked");
    let claims = |jti: &str| transmitter.claims(jti, &event, iss_sub(&world, "auth0|a"), json!({}));
    let mut for_others = claims("aud");
    for_others["aud"] = json!("https://else.example");
    transmitter.enqueue(&for_others);
    let mut of_others = claims("iss");
    of_others["iss"] = json!("https://else.example");
    transmitter.enqueue(&of_others);
    let stranger = SigningKey::generate("set-key", jsonwebtoken::Algorithm::RS256);
    let header = json!({ "typ": "secevent+jwt", "alg": "RS256", "kid": "set-key" });
    transmitter.enqueue_as("key", stranger.compact(header.to_string(), claims("key").to_string()));
    transmitter.enqueue_as("renamed", transmitter.sign(&claims("another name")));
    transmitter.enqueue_as("garbage", "garbage".to_owned());
    transmitter.enqueue(&claims("good"));
    let gate = polls(&world, &transmitter).await;
    gate.becomes(&world.token("auth0|a", json!({})), "logged_out").await;
    eventually("all are answered", async || transmitter.waiting() == 0).await;
    for (jti, err) in [
        ("aud", "invalid_audience"),
        ("iss", "invalid_issuer"),
        ("key", "authentication_failed"),
        ("renamed", "invalid_request"),
        ("garbage", "invalid_request"),
    ] {
        assert_eq!(transmitter.refusal(jti).as_deref(), Some(err), "{jti}");
        assert!(!transmitter.is_acknowledged(jti));
    }
    assert!(transmitter.is_acknowledged("good") && transmitter.refusal("good").is_none());
    transmitter.assert_no_violations();
}

/// What was said about an address before it changed hands is about the one who had it then.
#[tokio::test]
async fn what_comes_together_is_read_in_the_order_in_which_it_was_said() {
    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    let gate = polls(&world, &transmitter).await;
    let address = json!({ "format": "email", "email": "alice@example.com" });
    let alice = world.token("auth0|a", json!({ "email": "alice@example.com" }));
    gate.expect(&alice, "admit").await;
    let mut attempt = 0;
    eventually("she is found by her address", async || {
        attempt += 1;
        let event = format!("{CAEP}session-presented");
        transmitter.enqueue(&transmitter.claims(&format!("attempt {attempt}"), &event, address.clone(), json!({})));
        eventually("it is taken", async || transmitter.waiting() == 0).await;
        count(&gate, "active").await > 0
    })
    .await;
    transmitter.set(|knobs| knobs.down = true);
    let recycled = transmitter.claims("a", &format!("{RISC}identifier-recycled"), address.clone(), json!({}));
    let mut revoked = transmitter.claims("b", &format!("{CAEP}session-revoked"), address, json!({}));
    revoked["iat"] = json!(revoked["iat"].as_i64().unwrap() - 3);
    transmitter.enqueue(&recycled);
    transmitter.enqueue(&revoked);
    transmitter.set(|knobs| knobs.down = false);
    eventually("both are taken", async || transmitter.waiting() == 0).await;
    gate.expect(&alice, "logged_out").await;
}

#[tokio::test]
async fn what_is_not_stored_is_not_acknowledged() {
    let Some(mut world) = World::redis().await else { return };
    let transmitter = Transmitter::start().await;
    let gate = polls(&world, &transmitter).await;
    eventually("it is connected", async || source(&gate).await["state"] == "connected").await;
    let disabled = transmitter.claims("j", &format!("{RISC}account-disabled"), iss_sub(&world, "auth0|a"), json!({}));
    world.server_mut().kill();
    transmitter.enqueue(&disabled);
    eventually("it was tried, or the lease is lost", async || {
        source(&gate).await["failures"].as_u64().unwrap_or(0) > 0 || transmitter.requests("POST poll") > 3
    })
    .await;
    assert!(!transmitter.is_acknowledged("j"));
    world.server_mut().restart();
    let alice = world.token("auth0|a", json!({}));
    eventually_within(2 * TAKEOVER, "it is taken", async || gate.verdict(&alice).await == "user_blocked").await;
    eventually("it is acknowledged", async || transmitter.is_acknowledged("j")).await;
    transmitter.assert_no_violations();
}

#[tokio::test]
async fn one_gateway_of_a_fleet_polls_and_another_takes_over() {
    let Some(world) = World::redis().await else { return };
    let transmitter = Transmitter::start().await;
    let disabled =
        |sub: &str| transmitter.claims(sub, &format!("{RISC}account-disabled"), iss_sub(&world, sub), json!({}));
    let one = polls(&world, &transmitter).await;
    eventually("one polls", async || source(&one).await["state"] == "connected").await;
    let other = polls(&world, &transmitter).await;
    eventually("the other stands by", async || source(&other).await["state"] == "standby").await;
    transmitter.enqueue(&disabled("a"));
    other.becomes(&world.token("a", json!({})), "user_blocked").await;
    one.instance.stop().await;
    transmitter.enqueue(&disabled("b"));
    other.becomes(&world.token("b", json!({})), "user_blocked").await;
    assert_eq!(transmitter.most_polling(), 1);
    transmitter.assert_no_violations();
}

#[tokio::test]
async fn a_transmitter_that_is_away_is_asked_again() {
    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    transmitter.set(|knobs| knobs.down = true);
    let gate = polls(&world, &transmitter).await;
    eventually("it says so", async || {
        let source = source(&gate).await;
        source["state"] == "retrying" && source["last_error"].as_str().is_some_and(|error| error.contains("503"))
    })
    .await;
    transmitter.set(|knobs| knobs.down = false);
    transmitter.enqueue(&transmitter.claims("j", &format!("{RISC}account-disabled"), iss_sub(&world, "a"), json!({})));
    gate.becomes(&world.token("a", json!({})), "user_blocked").await;
    transmitter.assert_no_violations();
}
