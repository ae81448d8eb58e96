//! Changes and look-ups.

use std::time::Duration;

use http::Method;
use portcullis::clock::Timestamp;
use serde_json::{Value, json};

use crate::support::{
    eventually,
    program::{Gate, now},
};

#[tokio::test]
async fn a_logout_is_stored_and_takes_effect() {
    let gate = Gate::start().await;
    let token = gate.token(json!({}));
    gate.call(&token).await.is(200, None);
    let said = json!({ "reason": "lost laptop", "by": "ops" });
    let change = gate.admin().post("/v1/subjects/main/auth0%7Calice/logout", said).await;
    let change = change.is(200, None).json();
    assert_eq!((&change["key"], &change["changed"]), (&json!("logout:main:auth0|alice"), &json!(true)));
    gate.call(&token).await.is(401, "logged_out");
    let known = gate.admin().get("/v1/subjects/main/auth0%7Calice").await.json();
    assert_eq!(known["logout"], change["marker"]);
    assert_eq!(known["logout"]["reason"], "lost laptop");
    assert_eq!(known["logout"]["by"], "ops");
    assert!(known["last_activity"].is_string(), "{known}");
}

#[tokio::test]
async fn a_block_holds_until_it_is_lifted() {
    let gate = Gate::start().await;
    let (path, token) = ("/v1/subjects/main/auth0%7Calice/block", gate.token(json!({})));
    let until = now().plus(Duration::from_secs(3600));
    let block = gate.admin().put(path, json!({ "until": until.as_millis() })).await;
    assert_eq!(block.is(200, None).json()["marker"]["until"], until.to_string());
    gate.call(&token).await.is(401, "user_blocked");
    gate.call(&gate.token(json!({}))).await.is(401, "user_blocked");
    gate.admin().delete(path).await.is(200, None);
    gate.call(&token).await.is(200, None);
    let known = gate.admin().get("/v1/subjects/main/auth0%7Calice").await.json();
    assert_eq!(known["block"]["blocked"], json!(false));
}

/// A block and its end may fall into one millisecond, or the block may come from a gateway whose clock is ahead.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_takes_back_what_is_dated_ahead() {
    let gate = Gate::start().await;
    let path = "/v1/subjects/main/alice/block";
    let ahead = now().plus(Duration::from_secs(30)).as_millis();
    gate.admin().put(path, json!({ "at": ahead })).await.is(200, None);
    let lifted = gate.admin().delete(path).await;
    assert_eq!(lifted.json()["marker"]["blocked"], false, "the block is lifted");
    let again = gate.admin().put(path, json!({})).await;
    assert_eq!(again.json()["marker"]["blocked"], true, "and holds again");
}

#[tokio::test]
async fn a_block_ends_by_itself() {
    let gate = Gate::start().await;
    let token = gate.token(json!({}));
    let until = now().plus(Duration::from_millis(300));
    let path = "/v1/subjects/main/auth0%7Calice/block";
    gate.admin().put(path, json!({ "until": until.to_string() })).await.is(200, None);
    eventually("the block ends", async || gate.call(&token).await.status == 200).await;
    assert!(now() >= until);
}

#[tokio::test]
async fn an_ended_session_leaves_the_others_alone() {
    let gate = Gate::start().await;
    let (one, other) = (gate.token(json!({ "sid": "s/1" })), gate.token(json!({ "sid": "s2" })));
    gate.admin().post("/v1/sessions/main/s%2F1/end", json!({})).await.is(200, None);
    gate.call(&one).await.is(401, "session_ended");
    gate.call(&other).await.is(200, None);
    let known = gate.admin().get("/v1/sessions/main/s%2F1").await.json();
    assert!(known["session"] == "s/1" && known["end"]["at"].is_string(), "{known}");
    assert_eq!(gate.admin().get("/v1/sessions/main/s2").await.json()["end"], json!(null));
}

#[tokio::test]
async fn a_revoked_token_leaves_the_others_alone() {
    let gate = Gate::start().await;
    let (one, other) = (gate.token(json!({ "jti": "t1" })), gate.token(json!({ "jti": "t2" })));
    gate.admin().post("/v1/tokens/main/t1/revoke", json!({ "reason": "leaked" })).await.is(200, None);
    gate.call(&one).await.is(401, "revoked");
    gate.call(&other).await.is(200, None);
    let known = gate.admin().get("/v1/tokens/main/t1").await.json();
    assert!(known["token"] == "t1" && known["revocation"]["reason"] == "leaked", "{known}");
    assert_eq!(gate.admin().get("/v1/tokens/main/t2").await.json()["revocation"], json!(null));
}

#[tokio::test]
async fn a_not_before_covers_a_client_or_an_issuer() {
    let gate = Gate::start().await;
    let (one, other) = (gate.token(json!({ "azp": "web" })), gate.token(json!({ "azp": "cron" })));
    gate.admin().post("/v1/clients/main/web/not-before", json!({})).await.is(200, None);
    gate.call(&one).await.is(401, "revoked");
    gate.call(&other).await.is(200, None);
    let known = gate.admin().get("/v1/clients/main/web/not-before").await.json();
    assert!(known["client"] == "web" && known["not_before"]["at"].is_string(), "{known}");
    assert_eq!(gate.admin().get("/v1/issuers/main/not-before").await.json()["not_before"], json!(null));
    gate.admin().post("/v1/issuers/main/not-before", json!({})).await.is(200, None);
    gate.call(&other).await.is(401, "revoked");
    assert!(gate.admin().get("/v1/issuers/main/not-before").await.json()["not_before"]["at"].is_string());
}

/// Events come twice and late.
#[tokio::test]
async fn an_older_change_is_acknowledged_and_changes_nothing() {
    let gate = Gate::start().await;
    let path = "/v1/subjects/main/alice/logout";
    let first = gate.admin().post(path, json!({ "at": "2026-01-31T12:00:00Z" })).await.json();
    for at in [json!("2026-01-31T13:00:00+01:00"), json!(1_769_860_800_000_i64), json!("2026-01-30T12:00:00Z")] {
        let again = gate.admin().post(path, json!({ "at": at })).await.json();
        assert_eq!((&again["changed"], &again["marker"]), (&json!(false), &first["marker"]), "{at}");
    }
    assert_eq!(first["marker"]["at"], "2026-01-31T12:00:00.000Z");
    let later = gate.admin().post(path, json!({ "at": "2026-02-01T12:00:00Z" })).await.json();
    assert_eq!(later["changed"], json!(true));
}

#[tokio::test]
async fn ids_are_taken_byte_for_byte() {
    let gate = Gate::start().await;
    for (written, id) in [
        ("auth0%7Calice", "auth0|alice"),
        ("auth0|alice", "auth0|alice"),
        ("a%2Fb", "a/b"),
        ("%2F..%2F", "/../"),
        ("..%2f", "../"),
        ("100%25", "100%"),
        ("%2525", "%25"),
        ("a%20b", "a b"),
        ("a+b", "a+b"),
        ("J%C3%BCrgen%20%F0%9F%94%91", "Jürgen 🔑"),
        ("a%3Fb%23c", "a?b#c"),
        ("logout%3Amain%3Ax", "logout:main:x"),
        ("alice@clients", "alice@clients"),
    ] {
        let path = format!("/v1/subjects/main/{written}");
        let change = gate.admin().put(&format!("{path}/block"), json!({})).await;
        assert_eq!(change.is(200, None).json()["key"], format!("block:main:{id}"), "{written}");
        assert_eq!(gate.admin().get(&path).await.json()["subject"], id, "{written}");
        gate.call(&gate.token(json!({ "sub": id }))).await.is(401, "user_blocked");
    }
}

#[tokio::test]
async fn a_path_that_may_mean_something_else_is_refused() {
    let gate = Gate::start().await;
    let long = format!("/v1/subjects/main/{}", "x".repeat(256));
    for (path, code) in [
        ("/v1/subjects/main/100%", "invalid_path"),
        ("/v1/subjects/main/%zz", "invalid_path"),
        ("/v1/subjects/main/%ff%fe", "invalid_path"),
        ("/v1/subjects/main/%C3", "invalid_path"),
        ("/v1/subjects/%ff/alice", "invalid_path"),
        ("/v1/subjects/main/a%00b", "invalid_request"),
        ("/v1/subjects/main/a%0Ab", "invalid_request"),
        (&*long, "invalid_request"),
    ] {
        gate.admin().get(path).await.is(400, code);
        gate.admin().post(&format!("{path}/logout"), json!({})).await.is(400, code);
    }
    assert!(gate.audit().is_empty());
}

#[tokio::test]
async fn an_unknown_issuer_is_told_which_ones_there_are() {
    let gate = Gate::setup()
        .and("[issuers.partner]\nissuer = \"https://partner.example/\"\naudiences = [\"x\"]\njwks_file = \"jwks.json\"\n")
        .and("algorithms = [\"ES256\"]\n")
        .start()
        .await;
    for path in ["/v1/subjects/mian/alice", "/v1/sessions/mian/s", "/v1/issuers/mian/not-before"] {
        let answer = gate.admin().get(path).await;
        let problem = answer.is(404, "no_issuer").json();
        assert_eq!(problem["detail"], "there is no such issuer; configured are: main, partner");
    }
}

#[tokio::test]
async fn a_body_that_is_not_understood_changes_nothing() {
    let gate = Gate::start().await;
    let ahead = (now().as_millis() + 120_000).to_string();
    let soon = now().plus(Duration::from_secs(30)).to_string();
    for (body, told) in [
        ("{", "EOF while parsing an object at line 1 column 1".to_owned()),
        ("[]", "the body must be a JSON object".to_owned()),
        (
            "{\n  \"reson\": \"x\"\n}",
            "the body is not as it should be: there is no field `reson`; there are: at, until, reason, by at line 2 column 9".to_owned(),
        ),
        ("{\"at\": 1769860800}", "`at` must be an RFC 3339 time".to_owned()),
        ("{\"at\": \"yesterday\"}", "`at` must be an RFC 3339 time".to_owned()),
        ("{\"at\": 1769860800000.5}", "`at` must be an RFC 3339 time".to_owned()),
        (&format!("{{\"at\": {ahead}}}"), "`at` lies in the future".to_owned()),
        ("{\"until\": \"2026-01-31T12:00:00Z\"}", "`until` must lie ahead, and come after `at`".to_owned()),
        (&format!("{{\"at\": \"{soon}\", \"until\": \"{soon}\"}}"), "`until` must lie ahead, and come after".to_owned()),
        ("{\"by\": \"\"}", "`by` must be text of 1 to 255 bytes".to_owned()),
        (&json!({ "reason": "x".repeat(256) }).to_string(), "`reason` must be text of 1 to 255 bytes".to_owned()),
        (&json!({ "by": "a\u{1b}[2Jb" }).to_string(), "without control characters".to_owned()),
    ] {
        let answer = gate.admin().send(Method::PUT, "/v1/subjects/main/alice/block", body.to_owned()).await;
        let detail = answer.is(400, "invalid_request").json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(&told), "{body}: {detail}");
    }
    let answer = gate.admin().post("/v1/subjects/main/alice/logout", json!({ "until": "2036-01-01T00:00:00Z" })).await;
    assert!(answer.is(400, "invalid_request").text().contains("there is no field `until`"), "only a block ends");
    assert_eq!(gate.admin().get("/v1/subjects/main/alice").await.json()["block"], json!(null));
    assert!(gate.audit().is_empty());
}

#[tokio::test]
async fn what_is_stored_and_unreadable_is_told_and_mended() {
    let gate = Gate::start().await;
    let file = rusqlite::Connection::open(gate.directory().join("data/portcullis.db")).unwrap();
    for key in
        ["block:main:alice", "logout:main:alice", "session:main:s", "token:main:t", "client:main:c", "issuer:main"]
    {
        file.execute("INSERT INTO markers (key, value) VALUES (?1, ?2)", (key, b"rubbish".as_slice())).unwrap();
    }
    let unreadable = json!({ "unreadable": true });
    let known = gate.admin().get("/v1/subjects/main/alice").await.json();
    assert_eq!((&known["logout"], &known["block"]), (&unreadable, &unreadable));
    for (path, member) in [
        ("/v1/sessions/main/s", "end"),
        ("/v1/tokens/main/t", "revocation"),
        ("/v1/clients/main/c/not-before", "not_before"),
        ("/v1/issuers/main/not-before", "not_before"),
    ] {
        assert_eq!(gate.admin().get(path).await.json()[member], unreadable, "{path}");
    }
    gate.admin().delete("/v1/subjects/main/alice/block").await.is(200, None);
    assert_eq!(gate.admin().get("/v1/subjects/main/alice").await.json()["block"]["blocked"], json!(false));
}

#[tokio::test]
async fn a_verdict_is_explained() {
    let gate = Gate::start().await;
    let token = gate.token(json!({ "sid": "s1", "jti": "t1" }));
    let explain = async |token: &str| {
        let answer = gate.admin().post("/v1/explain", json!({ "token": token, "route": "api" })).await;
        answer.is(200, None).json()
    };
    let admitted = explain(&format!(" {token}\n")).await;
    assert_eq!((&admitted["verdict"], &admitted["passes"]), (&json!("admit"), &json!(true)));
    assert_eq!(admitted["token"]["session"], "s1");
    let idle = gate.admin().get("/v1/subjects/main/auth0%7Calice").await.json();
    assert_eq!(idle["last_activity"], json!(null), "asking is no activity");

    gate.admin().put("/v1/subjects/main/auth0%7Calice/block", json!({})).await;
    let blocked = explain(&token).await;
    assert_eq!((&blocked["verdict"], &blocked["passes"]), (&json!("user_blocked"), &json!(false)));
    let last = blocked["steps"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["rule"], &last["refuses"]), (&json!("block"), &json!("user_blocked")));

    let forged = explain(&format!("{token}x")).await;
    assert_eq!((&forged["verdict"], &forged["token"]), (&json!("invalid_token"), &json!(null)));
    assert!(forged["fault"].is_string());
    let long_ago = gate.issuer.token(&gate.issuer.claims(1_763_700_000 - 86_400));
    assert_eq!(explain(&long_ago).await["verdict"], "token_expired");

    gate.admin().post("/v1/explain", json!({})).await.is(400, "invalid_request");
    gate.admin().post("/v1/explain", json!({ "token": 5 })).await.is(400, "invalid_request");
    let answer = gate.admin().post("/v1/explain", json!({ "token": token, "route": "apj" })).await;
    assert_eq!(answer.is(404, "no_route").json()["detail"], "there is no such route; there are: api");
    for said in [&gate.log(), admitted.to_string().as_str(), forged.to_string().as_str()] {
        assert!(!said.contains(&token[..40]), "a token was repeated");
    }
}

/// A body may be a token by mistake; nothing of it comes back or is logged.
#[tokio::test]
async fn a_token_in_the_wrong_place_is_not_repeated() {
    let gate = Gate::setup().log_level("debug").start().await;
    let token = gate.token(json!({}));
    for body in [
        token.clone(),
        format!("\"{token}\""),
        json!({ &token: 1 }).to_string(),
        json!({ "tokem": token }).to_string(),
        json!({ "token": [token] }).to_string(),
        json!({ "token": token, "route": { "x": token } }).to_string(),
        json!({ "token": "x", "route": token }).to_string(),
        format!("{{\"token\": \"{token}"),
    ] {
        let answer = gate.admin().send(Method::POST, "/v1/explain", body).await;
        assert!(answer.status.is_client_error(), "{answer:?}");
        assert!(!answer.text().contains("eyJ"), "{answer:?}");
    }
    assert!(!gate.log().contains(&token[..40]), "a token was logged");
}

#[tokio::test]
async fn a_silent_store_is_told_from_a_fault() {
    use crate::support::redis::RedisServer;

    let Some(mut redis) = RedisServer::start() else { return };
    let gate = Gate::setup().redis(&redis.url()).max_staleness("1s").start().await;
    gate.admin().put("/v1/subjects/main/alice/block", json!({})).await.is(200, None);
    redis.kill();
    let written = gate.admin().put("/v1/subjects/main/alice/block", json!({})).await;
    assert!(written.is(503, "store_unavailable").text().contains("repeating it is harmless"));
    let read = gate.admin().get("/v1/subjects/main/alice").await;
    assert!(!read.is(503, "store_unavailable").text().contains("repeating"));
    eventually("the gate is not ready", async || gate.admin().get("/readyz").await.status == 503).await;
    let explained = gate.admin().post("/v1/explain", json!({ "token": gate.token(json!({})) })).await.json();
    assert_eq!((&explained["verdict"], &explained["stale"]), (&json!("stale"), &json!(true)));
    redis.restart();
    gate.wait_until_ready().await;
    eventually("changes are taken again", async || {
        gate.admin().put("/v1/subjects/main/alice/block", json!({})).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn last_activity_is_the_latest_of_written_and_waiting() {
    let gate = Gate::start().await;
    let before = now();
    gate.call(&gate.token(json!({}))).await.is(200, None);
    let known: Value = gate.admin().get("/v1/subjects/main/auth0%7Calice").await.json();
    let last: Timestamp = known["last_activity"].as_str().unwrap().parse().unwrap();
    assert!(before <= last && last <= now(), "{known}");
}
