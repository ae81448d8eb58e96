//! From login to logout, block, revocation, and back.

use std::time::Duration;

use http::{Method, StatusCode};
use portcullis::clock::Timestamp;
use serde_json::{Value, json};

use super::on_both_stores;
use crate::support::{
    eventually,
    full::{Gate, MARGIN, World, now, subject_path},
};

on_both_stores!(
    sessions_end_one_by_one_and_all_at_once,
    a_login_after_a_logout_is_admitted_and_a_refresh_is_not,
    a_block_beats_everything_until_it_is_lifted,
    a_block_ends_by_itself,
    what_was_issued_before_is_revoked,
    a_single_token_is_revoked,
    an_operator_ends_sessions,
);

const ALICE: &str = "auth0|alice";

async fn sessions_end_one_by_one_and_all_at_once(world: World) {
    let gate = world.gate().start().await;
    let phone = world.token(ALICE, json!({"sid": "phone"}));
    let laptop = world.token(ALICE, json!({"sid": "laptop"}));
    let bob = world.token("auth0|bob", json!({}));
    for token in [&phone, &laptop, &bob] {
        gate.expect(token, "admit").await;
    }

    assert_eq!(gate.log_out(&phone, "").await.status, StatusCode::NO_CONTENT);
    gate.expect(&phone, "session_ended").await;
    gate.expect(&laptop, "admit").await;
    gate.expect(&world.token(ALICE, json!({"sid": "phone", "jti": "refreshed"})), "session_ended").await;
    assert_eq!(gate.log_out(&phone, "").await.status, StatusCode::NO_CONTENT, "what is over may be ended again");

    assert_eq!(gate.log_out(&laptop, "?everywhere").await.status, StatusCode::NO_CONTENT);
    for token in
        [&phone, &laptop, &world.token(ALICE, json!({"sid": "tablet"})), &world.token(ALICE, json!({"sid": null}))]
    {
        gate.expect(token, "logged_out").await;
    }
    gate.expect(&bob, "admit").await;
}

/// When the subject logged out, as the login Action would ask.
async fn last_logout(gate: &Gate, sub: &str) -> Timestamp {
    gate.look_up(sub).await["logout"]["at"].as_str().unwrap().parse().unwrap()
}

async fn a_login_after_a_logout_is_admitted_and_a_refresh_is_not(world: World) {
    let gate = world.gate().start().await;
    let began = now().as_secs() - 30;
    let first = world.token(ALICE, json!({"auth_time": began}));
    gate.expect(&first, "admit").await;
    assert_eq!(gate.log_out(&first, "?everywhere").await.status, StatusCode::NO_CONTENT);
    let logout = last_logout(&gate, ALICE).await;
    let iat = now().as_secs();
    let login = |changes: Value| {
        let mut claims = json!({"iat": iat, "sid": "new"});
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        world.token(ALICE, claims)
    };

    gate.expect(&login(json!({})), "logged_out").await;
    gate.expect(&login(json!({"last_logout": logout.as_millis() - 1})), "logged_out").await;
    gate.expect(&login(json!({"last_logout": logout.as_millis()})), "admit").await;
    gate.expect(&login(json!({"last_logout": logout.to_string()})), "admit").await;

    // Within the skew of the gateway's clock and the issuer's, nothing but the claim tells.
    let exact = |millis: u64| login(issued_at(logout.plus(Duration::from_millis(millis))));
    gate.expect(&exact(999), "logged_out").await;
    gate.expect(&exact(1000), "logged_out").await;
    eventually("it is late enough", async || now() >= logout.plus(Duration::from_millis(1001))).await;
    gate.expect(&exact(1001), "admit").await;

    let refreshed = login(json!({"auth_time": began, "last_logout": logout.as_millis()}));
    gate.expect(&refreshed, "logged_out").await;
    let much_later = world.token(ALICE, json!({"iat": iat + 1, "auth_time": began, "last_logout": logout.as_millis()}));
    gate.expect(&much_later, "logged_out").await;
}

async fn a_block_beats_everything_until_it_is_lifted(world: World) {
    let gate = world.gate().start().await;
    let token = world.token(ALICE, json!({}));
    gate.expect(&token, "admit").await;
    let path = subject_path(ALICE, "/block");

    let answer = gate.change(Method::PUT, &path, json!({"reason": "stolen laptop", "by": "ops"})).await;
    assert_eq!((&answer["changed"], &answer["marker"]["by"]), (&json!(true), &json!("ops")));
    gate.expect(&token, "user_blocked").await;
    let knowing = world.token(ALICE, json!({"iat": now().as_secs(), "last_logout": now().as_millis() + 60_000}));
    gate.expect(&knowing, "user_blocked").await;
    assert_eq!(gate.log_out(&token, "?everywhere").await.code(), "user_blocked");
    gate.change(Method::POST, &subject_path("auth0|bob", "/logout"), Value::Null).await;
    gate.change(Method::PUT, &subject_path("auth0|bob", "/block"), Value::Null).await;
    gate.expect(&world.token("auth0|bob", json!({})), "user_blocked").await;

    gate.change(Method::DELETE, &path, Value::Null).await;
    gate.expect(&token, "admit").await;
    let late = now().minus(Duration::from_secs(60)).to_string();
    let answer = gate.change(Method::PUT, &path, json!({"at": late})).await;
    assert_eq!(answer["changed"], false, "an older block that comes late does not come back");
    gate.expect(&token, "admit").await;
}

async fn a_block_ends_by_itself(world: World) {
    let gate = world.gate().start().await;
    let token = world.token(ALICE, json!({}));
    gate.expect(&token, "admit").await;
    let until = now().plus(Duration::from_millis(1500));
    gate.change(Method::PUT, &subject_path(ALICE, "/block"), json!({"until": until.as_millis()})).await;
    gate.expect(&token, "user_blocked").await;
    gate.becomes(&token, "admit").await;
    let took = now().since(until);
    assert!(now() >= until, "admitted before the block ended");
    assert!(took <= MARGIN, "admitted {took:?} after the block ended");
}

async fn what_was_issued_before_is_revoked(world: World) {
    let gate = world.gate().start().await;
    let old = world.token(ALICE, json!({}));
    let other_client = world.token(ALICE, json!({"azp": "other"}));
    gate.expect(&old, "admit").await;
    gate.expect(&other_client, "admit").await;

    gate.change(Method::POST, "/v1/clients/acme/web-app/not-before", Value::Null).await;
    gate.expect(&old, "revoked").await;
    gate.expect(&other_client, "admit").await;
    gate.expect(&world.token(ALICE, issued_at(now().plus(Duration::from_millis(2)))), "admit").await;

    let at = now().as_millis() - 60_000;
    gate.change(Method::POST, "/v1/issuers/acme/not-before", json!({"at": at})).await;
    gate.expect(&other_client, "admit").await;
    let at = gate.change(Method::POST, "/v1/issuers/acme/not-before", Value::Null).await;
    gate.expect(&other_client, "revoked").await;
    gate.expect(&world.token("auth0|bob", json!({})), "revoked").await;
    let at: Timestamp = at["marker"]["at"].as_str().unwrap().parse().unwrap();
    gate.expect(&world.token(ALICE, issued_at(at)), "revoked").await;
    gate.expect(&world.token(ALICE, issued_at(at.plus(Duration::from_millis(1)))), "admit").await;
}

/// A fraction of a second is exact (RFC 7519 §2).
fn issued_at(time: Timestamp) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "exact for centuries")]
    let secs = time.as_millis() as f64 / 1000.0;
    json!({"iat": secs})
}

async fn a_single_token_is_revoked(world: World) {
    let gate = world.gate().start().await;
    let one = world.token(ALICE, json!({"jti": "one"}));
    let two = world.token(ALICE, json!({"jti": "two"}));
    gate.expect(&one, "admit").await;
    gate.expect(&two, "admit").await;
    gate.change(Method::POST, "/v1/tokens/acme/one/revoke", Value::Null).await;
    gate.expect(&one, "revoked").await;
    gate.expect(&two, "admit").await;
}

async fn an_operator_ends_sessions(world: World) {
    let gate = world.gate().start().await;
    let (one, two) = (world.token(ALICE, json!({"sid": "one"})), world.token(ALICE, json!({"sid": "two"})));
    gate.expect(&one, "admit").await;
    gate.expect(&two, "admit").await;
    gate.change(Method::POST, "/v1/sessions/acme/one/end", Value::Null).await;
    gate.expect(&one, "session_ended").await;
    gate.expect(&two, "admit").await;
    gate.change(Method::POST, &subject_path(ALICE, "/logout"), json!({"reason": "help desk"})).await;
    gate.expect(&one, "logged_out").await;
    gate.expect(&two, "logged_out").await;
}
