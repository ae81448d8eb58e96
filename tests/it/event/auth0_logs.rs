//! The log of a tenant, asked for.

use std::time::Duration;

use serde_json::{Value, json};

use super::{come_to, outcomes, report, worlds};
use crate::support::{
    auth0::{Auth0, CLIENT_ID, CLIENT_SECRET, Call, Fault, Limit, logout},
    eventually,
    full::{Gate, Setup, World},
};

const LOGS: &str = "/api/v2/logs";

/// A gate with the source, and these settings of it besides.
fn gate<'w>(world: &'w World, auth0: &Auth0, settings: &str) -> Setup<'w> {
    let domain = auth0.base();
    let source = format!("[sources.log]\ntype = \"auth0_logs\"\ndomain = \"{domain}\"\nclient_id = \"{CLIENT_ID}\"");
    let lease = if settings.contains("lease") { "" } else { "lease = \"1s\"" };
    let setup = world.gate().route(&format!("{source}\ninterval = \"100ms\"\n{lease}\n{settings}"));
    setup.with("SOURCES_LOG_CLIENT_SECRET", CLIENT_SECRET)
}

fn session(sub: &str) -> String {
    format!("session of {sub}")
}

fn logged_in(sub: &str) -> Value {
    json!({ "type": "s", "user_id": sub, "details": { "session_id": session(sub) } })
}

/// A user logs out at the tenant, and is refused here before long.
async fn is_cut_off(world: &World, auth0: &Auth0, gate: &Gate, sub: &str) {
    let token = world.token(sub, json!({}));
    gate.expect(&token, "admit").await;
    auth0.log_out(sub, &session(sub));
    gate.becomes(&token, "session_ended").await;
}

/// The pages that were asked for by checkpoint: from which record on.
fn checkpoints(calls: &[Call]) -> Vec<String> {
    let from = |call: &Call| Some(call.target.split_once("?from=")?.1.split('&').next()?.to_owned());
    calls.iter().filter_map(from).collect()
}

fn searches(calls: &[Call]) -> usize {
    calls.iter().filter(|call| call.target.contains("?q=")).count()
}

async fn state(gate: &Gate) -> String {
    report(gate, "log").await["state"].as_str().unwrap().to_owned()
}

async fn last_error(gate: &Gate) -> String {
    report(gate, "log").await["last_error"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_logout_in_the_log_ends_its_session_and_no_other() {
    for world in worlds().await {
        let auth0 = Auth0::start().await;
        let [early, bystander] = ["auth0|early", "auth0|bystander"].map(|sub| world.token(sub, json!({})));
        auth0.log_out("auth0|early", &session("auth0|early"));
        let gate = gate(&world, &auth0, "").start().await;
        gate.becomes(&early, "session_ended").await;
        is_cut_off(&world, &auth0, &gate, "auth0|alice").await;
        let other_session = world.token("auth0|alice", json!({ "sid": "another" }));
        gate.expect(&other_session, "admit").await;
        gate.expect(&bystander, "admit").await;
        let report = report(&gate, "log").await;
        assert_eq!((&report["state"], &report["backlog"]), (&json!("connected"), &json!(0)), "{report}");
        assert_eq!(auth0.tokens_issued(), 1);
        assert!(auth0.calls(LOGS).iter().all(|call| call.status == 200), "nothing that the tenant does not take");
    }
}

#[tokio::test]
async fn a_gate_that_is_started_again_goes_on_where_it_was() {
    for world in worlds().await {
        let auth0 = Auth0::start().await;
        for number in 0..250 {
            auth0.log(logged_in(&format!("auth0|{number}")));
        }
        let first = gate(&world, &auth0, "overlap = \"0s\"").start().await;
        is_cut_off(&world, &auth0, &first, "auth0|alice").await;
        eventually("there is no more", async || {
            let asked = checkpoints(&auth0.calls(LOGS));
            asked.len() > 2 && asked.last() == asked.get(asked.len() - 2)
        })
        .await;
        assert!(checkpoints(&auth0.calls(LOGS)).len() >= 4, "three pages, and then none");
        first.instance.stop().await;
        let before = auth0.calls(LOGS);

        let bob = world.token("auth0|bob", json!({}));
        auth0.log_out("auth0|bob", &session("auth0|bob"));
        let second = gate(&world, &auth0, "overlap = \"0s\"").start().await;
        second.becomes(&bob, "session_ended").await;
        let after = auth0.calls(LOGS).split_off(before.len());
        assert_eq!(searches(&after), 0);
        assert_eq!(checkpoints(&after).first(), checkpoints(&before).last(), "not a record twice");
        // The record of Bob's logout, and nothing else: what is read twice would be a duplicate, or active again.
        come_to(&second, "log", "changed", 1.0).await;
        assert!(outcomes(&second, "log", "active").await < 0.1);
    }
}

#[tokio::test]
async fn a_record_that_turns_up_late_is_found() {
    for world in worlds().await {
        let auth0 = Auth0::start().await;
        let gate = gate(&world, &auth0, "overlap = \"4s\"").start().await;
        for round in 0..3 {
            let sub = format!("auth0|late-{round}");
            let token = world.token(&sub, json!({}));
            let late = auth0.next_log_id();
            let passed = auth0.log(logged_in("auth0|bystander"));
            eventually("what comes behind it is read", async || checkpoints(&auth0.calls(LOGS)).contains(&passed))
                .await;
            gate.expect(&token, "admit").await;
            auth0.log_as(&late, logout(&sub, &session(&sub)));
            gate.becomes(&token, "session_ended").await;
        }
        assert!(outcomes(&gate, "log", "duplicate").await > 0.0, "what was taken before is left out");
        eventually("in time, nothing is read again", async || {
            let asked = checkpoints(&auth0.calls(LOGS));
            asked.len() > 30 && asked[asked.len() - 20..].iter().all(|from| Some(from) == asked.last())
        })
        .await;
    }
}

#[tokio::test]
async fn nothing_is_asked_before_the_time_that_a_refusal_names() {
    for retry_after in [false, true] {
        let world = World::embedded().await;
        let auth0 = Auth0::start().await;
        auth0.limit(Limit { burst: 3, per_second: 2.0, retry_after });
        for number in 0..120 {
            auth0.log(logged_in(&format!("auth0|{number}")));
        }
        // Others have used it up.
        auth0.take_from_limit(5);
        let gate = gate(&world, &auth0, "rate_share = 100").start().await;
        is_cut_off(&world, &auth0, &gate, "auth0|alice").await;
        auth0.take_from_limit(5);
        is_cut_off(&world, &auth0, &gate, "auth0|bob").await;
        let refused = auth0.calls(LOGS).iter().filter(|call| call.status == 429).count();
        assert!(refused >= 2, "the limit was reached {refused} times");
        assert_eq!(auth0.violations(), 0);
    }
}

#[tokio::test]
async fn others_find_their_share_of_the_limit() {
    let world = World::embedded().await;
    let auth0 = Auth0::start().await;
    auth0.limit(Limit { burst: 20, per_second: 0.2, retry_after: false });
    for number in 0..3000 {
        auth0.log(logged_in(&format!("auth0|{number}")));
    }
    let gate = gate(&world, &auth0, "").start().await;
    eventually("it slows down", async || auth0.calls(LOGS).len() > 12).await;
    let calls = auth0.calls(LOGS);
    assert!(calls.iter().all(|call| call.status == 200), "the limit is never reached");
    let quick = calls.windows(2).take_while(|pair| pair[1].at - pair[0].at < Duration::from_secs(1)).count();
    assert!((9..=11).contains(&quick), "half of the bucket is left to others: {quick} were asked for at once");
    drop(gate);
}

#[tokio::test]
async fn what_does_not_come_whole_is_asked_for_again() {
    for world in worlds().await {
        let auth0 = Auth0::start().await;
        let gate = gate(&world, &auth0, "").start().await;
        is_cut_off(&world, &auth0, &gate, "auth0|alice").await;
        let faults = [
            Fault::Truncate,
            Fault::CutBody,
            Fault::Garbage("<html>"),
            Fault::Garbage("{\"error\":\"none\"}"),
            Fault::Garbage(""),
            Fault::Status(503),
            Fault::Delay(Duration::from_millis(500)),
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            let (sub, token) = (format!("auth0|{number}"), world.token(&format!("auth0|{number}"), json!({})));
            for other in 0..3 {
                auth0.log(logged_in(&format!("auth0|other-{other}")));
            }
            auth0.fail(LOGS, fault);
            auth0.log_out(&sub, &session(&sub));
            gate.becomes(&token, "session_ended").await;
            assert_eq!(auth0.faults_left(), 0, "{number}");
        }
        let report = report(&gate, "log").await;
        assert!(report["failures"].as_u64().unwrap() >= 6, "{report}");
        assert_eq!(report["events"]["malformed"], Value::Null, "no part of a page was taken: {report}");
    }
}

#[tokio::test]
async fn records_that_cannot_be_read_keep_no_others_from_being_read() {
    let world = World::embedded().await;
    let auth0 = Auth0::start().await;
    for record in [
        json!({ "type": "slo", "user_id": "", "details": "*****" }),
        json!({ "type": 7 }),
        json!({ "type": "sapi", "details": { "request": "*****" } }),
        json!({ "type": "never heard of" }),
        json!({ "type": "slo", "date": [], "user_id": { "a": 1 } }),
    ] {
        auth0.log(record);
    }
    let gate = gate(&world, &auth0, "").start().await;
    is_cut_off(&world, &auth0, &gate, "auth0|alice").await;
}

#[tokio::test]
async fn what_somebody_has_to_mend_is_said_so() {
    let world = World::embedded().await;
    let auth0 = Auth0::start().await;
    let wrong_secret = gate(&world, &auth0, "").with("SOURCES_LOG_CLIENT_SECRET", "wrong-s3cr3t").start().await;
    eventually("the credentials are refused", async || state(&wrong_secret).await == "retrying").await;
    let error = last_error(&wrong_secret).await;
    assert!(error.contains("client_id and client_secret must be those of a machine-to-machine application"), "{error}");
    assert!(!error.contains("s3cr3t"), "{error}");
    assert_eq!(auth0.calls("/oauth/token").len(), 1, "they do not become right by being repeated");
    wrong_secret.instance.stop().await;

    auth0.grant(&["read:events"]);
    let no_scope = gate(&world, &auth0, "").start().await;
    eventually("a scope is missing", async || state(&no_scope).await == "retrying").await;
    let error = last_error(&no_scope).await;
    assert!(error.contains("grant it read:logs"), "{error}");
}

#[tokio::test]
async fn a_token_that_is_no_longer_good_is_fetched_anew() {
    let world = World::embedded().await;
    let auth0 = Auth0::start().await;
    let gate = gate(&world, &auth0, "").start().await;
    is_cut_off(&world, &auth0, &gate, "auth0|alice").await;
    auth0.revoke_tokens();
    is_cut_off(&world, &auth0, &gate, "auth0|bob").await;
    assert_eq!(auth0.tokens_issued(), 2);
    assert_eq!(report(&gate, "log").await["failures"], 0);
    gate.instance.stop().await;

    auth0.set_token_lifetime(Duration::from_secs(1));
    let gate = self::gate(&world, &auth0, "").start().await;
    eventually("tokens that end are replaced", async || auth0.tokens_issued() > 4).await;
    assert!(auth0.calls(LOGS).iter().filter(|call| call.status == 401).count() <= 1, "before they end");
    is_cut_off(&world, &auth0, &gate, "auth0|carol").await;
}

#[tokio::test]
async fn a_checkpoint_that_the_tenant_does_not_know_any_more_is_replaced_by_its_date() {
    for world in worlds().await {
        let auth0 = Auth0::start().await;
        let first = gate(&world, &auth0, "").start().await;
        is_cut_off(&world, &auth0, &first, "auth0|alice").await;
        first.instance.stop().await;

        let bob = world.token("auth0|bob", json!({}));
        let kept = auth0.log_out("auth0|bob", &session("auth0|bob"));
        auth0.forget_logs_before(&kept);
        let second = gate(&world, &auth0, "").start().await;
        second.becomes(&bob, "session_ended").await;
        let is_said = async || last_error(&second).await.contains("does not know the checkpoint any more");
        eventually("it is said", is_said).await;
        is_cut_off(&world, &auth0, &second, "auth0|carol").await;
    }
}

#[tokio::test]
async fn one_gateway_asks_and_another_takes_over() {
    let Some(world) = World::redis().await else { return };
    let auth0 = Auth0::start().await;
    let first = gate(&world, &auth0, "overlap = \"0s\"").start().await;
    is_cut_off(&world, &auth0, &first, "auth0|alice").await;
    let second = gate(&world, &auth0, "overlap = \"0s\"").start().await;
    eventually("the other waits", async || state(&second).await == "standby").await;
    assert_eq!((state(&first).await.as_str(), auth0.tokens_issued()), ("connected", 1));
    is_cut_off(&world, &auth0, &second, "auth0|bob").await;
    assert_eq!((state(&second).await.as_str(), auth0.tokens_issued()), ("standby", 1));

    // It dies, and leaves its lease behind.
    drop(first);
    is_cut_off(&world, &auth0, &second, "auth0|carol").await;
    eventually("the other asks", async || state(&second).await == "connected").await;
    assert_eq!(auth0.tokens_issued(), 2);
    assert_eq!(searches(&auth0.calls(LOGS)), 1, "and goes on where the first one was");

    let third = gate(&world, &auth0, "lease = \"5m\"").start().await;
    eventually("the third waits", async || state(&third).await == "standby").await;
    second.instance.stop().await;
    is_cut_off(&world, &auth0, &third, "auth0|dora").await;
    let fourth = gate(&world, &auth0, "lease = \"5m\"").start().await;
    eventually("the fourth waits", async || state(&fourth).await == "standby").await;
    third.instance.stop().await;
    is_cut_off(&world, &auth0, &fourth, "auth0|eve").await;
}

#[tokio::test]
async fn nothing_is_lost_while_the_store_does_not_answer() {
    let Some(world) = World::redis().await else { return };
    let auth0 = Auth0::start().await;
    let gate = gate(&world, &auth0, "lease = \"1m\"").start().await;
    is_cut_off(&world, &auth0, &gate, "auth0|alice").await;
    let token = world.token("auth0|bob", json!({}));
    world.server().stop();
    auth0.log_out("auth0|bob", &session("auth0|bob"));
    eventually("it cannot be stored", async || report(&gate, "log").await["failures"].as_u64() > Some(0)).await;
    world.server().cont();
    gate.becomes(&token, "session_ended").await;
    is_cut_off(&world, &auth0, &gate, "auth0|carol").await;
}
