//! Whom to trust changes: with the next request, whatever was cached.

use http::StatusCode;
use serde_json::json;

use super::{ISSUER, Live, issuer, outcome, plain, route, text};
use crate::support::{
    eventually,
    gate::now,
    jwks_server::JwksServer,
    keys::{SigningKey, TestIssuer},
};

const OTHER: &str = "https://other.example/";

#[tokio::test(flavor = "multi_thread")]
async fn a_new_issuer_is_trusted_and_a_removed_one_is_not() {
    let live = Live::start(&plain("")).await;
    let other = TestIssuer::new(OTHER);
    std::fs::write(live.directory.path().join("other.json"), other.jwks().to_string()).unwrap();
    let (ours, theirs) = (live.token(json!({})), other.token(&other.claims(now() - 10)));
    let verdicts = async || [outcome(&live.get("/", &ours).await), outcome(&live.get("/", &theirs).await)];
    assert_eq!(verdicts().await, ["200", "invalid_token"]);

    live.reload(&text("", &format!("{ISSUER}{}", issuer("other", OTHER, "other.json")), &route(""))).await;
    assert_eq!(verdicts().await, ["200", "200"]);
    assert!(live.instance.is_ready());
    let issuers = live.admin().get("/readyz").await.json()["issuers"].clone();
    assert_eq!(issuers.as_object().unwrap().keys().collect::<Vec<_>>(), ["main", "other"]);

    live.reload(&text("", &issuer("other", OTHER, "other.json"), &route(""))).await;
    assert_eq!(verdicts().await, ["invalid_token", "200"]);
    live.admin().get("/v1/subjects/main/auth0%7Calice").await.is(404, "no_issuer");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_audiences_count_for_tokens_that_were_seen() {
    let live = Live::start(&plain("")).await;
    let (token, admins) = (live.token(json!({})), live.token(json!({ "aud": "https://admin.example" })));
    let verdicts = async || [outcome(&live.get("/", &token).await), outcome(&live.get("/", &admins).await)];
    assert_eq!(verdicts().await, ["200", "invalid_token"]);
    live.reload(&plain("").replace("https://api.example", "https://admin.example")).await;
    assert_eq!(verdicts().await, ["invalid_token", "200"]);
}

/// Its keys stay at hand: nobody is refused because they have to be fetched again.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_stay_where_they_were_are_not_fetched_again() {
    let keys = JwksServer::start().await;
    let live_text = |audience: &str| {
        let from_url = ISSUER.replace("jwks_file = \"jwks.json\"", &format!("jwks_url = {:?}", keys.url("/jwks")));
        text("", &from_url, &route("")).replace("https://api.example", audience)
    };
    let main = TestIssuer::new("https://issuer.example/");
    keys.put("/jwks", main.jwks().to_string());
    let live = Live::start(&live_text("https://api.example")).await;
    let mut claims = main.claims(now() - 10);
    claims["aud"] = json!("https://admin.example");
    let admins = main.token(&claims);
    assert_eq!(live.get("/", &admins).await.code(), "invalid_token");
    let fetched = keys.hits("/jwks");
    keys.answer("/jwks", StatusCode::INTERNAL_SERVER_ERROR, "");
    live.reload(&live_text("https://admin.example")).await;
    assert_eq!(outcome(&live.get("/", &admins).await), "200");
    assert_eq!(keys.hits("/jwks"), fetched);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_from_elsewhere_are_there_before_they_are_needed() {
    let live = Live::start(&plain("")).await;
    let next = TestIssuer {
        identifier: "https://issuer.example/".to_owned(),
        keys: vec![SigningKey::generate("next", jsonwebtoken::Algorithm::ES256)],
    };
    std::fs::write(live.directory.path().join("next.json"), next.jwks().to_string()).unwrap();
    let (old, new) = (live.token(json!({})), next.token(&next.claims(now() - 10)));
    assert_eq!(outcome(&live.get("/", &old).await), "200");
    live.reload(&plain("").replace("jwks.json", "next.json")).await;
    assert_eq!(outcome(&live.get("/", &new).await), "200", "at once");
    assert_eq!(live.get("/", &old).await.code(), "invalid_token");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_cannot_be_reached_is_not_trusted_yet() {
    let keys = JwksServer::start().await;
    keys.answer("/jwks", StatusCode::BAD_GATEWAY, "");
    let other = TestIssuer::new(OTHER);
    let live = Live::start(&plain("").replacen("signal", "auto", 1)).await;
    let addition =
        issuer("other", OTHER, "").replace("jwks_file = \"\"", &format!("jwks_url = {:?}", keys.url("/jwks")));
    let both = text("", &format!("{ISSUER}{addition}"), &route("")).replacen("signal", "auto", 1);
    let report = live.fail(&both).await;
    assert_eq!(report["outcome"], "refused");
    assert_eq!(report["problems"][0]["key"], "issuers.other");
    assert!(report["problems"][0]["line"].is_u64(), "{report}");
    assert_eq!(live.outcome().await, "200");
    assert!(live.instance.is_ready(), "the gate does not become unready by it");

    // It is tried again, without anybody's help.
    keys.put("/jwks", other.jwks().to_string());
    let theirs = other.token(&other.claims(now() - 10));
    eventually("it is trusted", async || outcome(&live.get("/", &theirs).await) == "200").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_secret_changes() {
    let secret = |byte: u8| SigningKey::from_secret("k", jsonwebtoken::Algorithm::HS256, &[byte; 32]);
    let hmac = ISSUER.replace("ES256", "HS256").replace("jwks_file = \"jwks.json\"", "secret_file = \"secret\"");
    let live = Live::start(&plain("")).await;
    let claims = live.issuer.claims(now() - 10);
    let [one, other] = [b'1', b'2'].map(|byte| secret(byte).token(&claims));
    std::fs::write(live.directory.path().join("secret"), [b'1'; 32]).unwrap();
    live.reload(&text("", &hmac, &route(""))).await;
    assert_eq!(outcome(&live.get("/", &one).await), "200");
    std::fs::write(live.directory.path().join("secret"), [b'2'; 32]).unwrap();
    live.reload(&text("", &hmac, &route(""))).await;
    assert_eq!(live.get("/", &one).await.code(), "invalid_token");
    assert_eq!(outcome(&live.get("/", &other).await), "200");
}
