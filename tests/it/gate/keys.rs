//! The issuer's keys: missing at the start, rotated, taken back.

use std::time::Duration;

use http::{Method, StatusCode};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::on_both_stores;
use crate::support::{
    eventually,
    full::{KEYS, World, now},
    keys::SigningKey,
};

on_both_stores!(
    without_keys_nothing_is_said_about_a_token,
    a_removed_key_ends_its_tokens_although_they_are_cached,
    an_unknown_key_causes_one_fetch,
);

const ALICE: &str = "auth0|alice";

async fn without_keys_nothing_is_said_about_a_token(world: World) {
    world.keys.answer(KEYS, StatusCode::SERVICE_UNAVAILABLE, "");
    let gate = world.gate().with("ISSUERS_ACME_REFETCH_INTERVAL", "1s").launch().await;
    let token = world.token(ALICE, json!({}));
    let reply = gate.get(&token).await;
    assert_eq!((reply.status, &*reply.code()), (StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable"));
    assert_eq!(reply.headers["retry-after"], "1");
    assert!(!reply.headers.contains_key("www-authenticate"), "nobody is to be logged out by this");
    assert_eq!(gate.readiness().await, StatusCode::SERVICE_UNAVAILABLE);
    let ready = gate.admin(Method::GET, "/readyz", Value::Null).await;
    assert!(ready.text().contains("503"), "the reason is told: {}", ready.text());
    assert_eq!(gate.admin(Method::GET, "/startupz", Value::Null).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(gate.admin(Method::GET, "/livez", Value::Null).await.status, StatusCode::OK);

    gate.expect("not.a.token", "invalid_token").await;
    gate.expect(&world.token(ALICE, json!({"iss": "https://other.example/"})), "invalid_token").await;
    gate.expect("", "missing_token").await;

    world.keys.put(KEYS, world.issuer.jwks().to_string());
    gate.becomes(&token, "admit").await;
    eventually("the gate is ready", async || gate.readiness().await == StatusCode::OK).await;
}

async fn a_removed_key_ends_its_tokens_although_they_are_cached(world: World) {
    let gate = world.gate().with("ISSUERS_ACME_REFRESH_INTERVAL", "1s").with("ISSUERS_ACME_REFETCH_INTERVAL", "1s");
    let gate = gate.start().await;
    let old = world.token(ALICE, json!({}));
    gate.expect(&old, "admit").await;
    gate.expect(&old, "admit").await;
    assert!(gate.metric("portcullis_token_cache_hits_total").await > 0.5, "the token is cached");

    let next = SigningKey::generate("key-2", Algorithm::ES256);
    let with_next = || next.token(&world.issuer.claims(now().as_secs() - 5));
    let new = with_next();
    gate.expect(&new, "invalid_token").await;
    world.keys.put(KEYS, json!({"keys": [world.issuer.keys[0].jwk(), next.jwk()]}).to_string());
    gate.becomes(&new, "admit").await;
    gate.expect(&old, "admit").await;
    world.keys.put(KEYS, json!({"keys": [next.jwk()]}).to_string());
    gate.becomes(&old, "invalid_token").await;
    gate.expect(&new, "admit").await;

    // An issuer that is away takes no keys with it.
    world.keys.answer(KEYS, StatusCode::INTERNAL_SERVER_ERROR, "");
    let fetches = world.keys.hits(KEYS);
    eventually("two fetches fail", async || world.keys.hits(KEYS) >= fetches + 2).await;
    gate.expect(&new, "admit").await;
    gate.expect(&with_next(), "admit").await;
    assert_eq!(gate.readiness().await, StatusCode::OK);
}

async fn an_unknown_key_causes_one_fetch(world: World) {
    let gate = world.gate().start().await;
    let known = world.token(ALICE, json!({}));
    gate.expect(&known, "admit").await;
    let next = SigningKey::generate("key-2", Algorithm::ES256);
    let unknown = SigningKey::generate("key-3", Algorithm::ES256);
    let claims = |id: usize| {
        let mut claims = world.issuer.claims(now().as_secs() - 5);
        claims["sub"] = json!(format!("auth0|{id}"));
        claims
    };
    world.keys.put(KEYS, json!({"keys": [world.issuer.keys[0].jwk(), next.jwk()]}).to_string());
    let before = world.keys.hits(KEYS);
    world.keys.hold();
    let tokens: Vec<String> = (0..20).map(|id| next.token(&claims(id))).collect();
    let crowd = futures_util::future::join_all(tokens.iter().map(|token| gate.verdict(token)));
    let release = async {
        eventually("the issuer is asked", async || world.keys.hits(KEYS) > before).await;
        // Those with a known key do not wait.
        tokio::time::timeout(Duration::from_secs(5), gate.expect(&known, "admit")).await.unwrap();
        world.keys.release();
    };
    let (verdicts, ()) = tokio::join!(crowd, release);
    assert!(verdicts.iter().all(|verdict| verdict == "admit"), "{verdicts:?}");
    for id in 0..20 {
        gate.expect(&unknown.token(&claims(id)), "invalid_token").await;
    }
    assert_eq!(world.keys.hits(KEYS), before + 1, "one fetch for all of them");
}
