//! The gate's own endpoints. Here: `POST /.portcullis/logout` of the real program, over real sockets.

mod actions;
mod last_logout;
mod redirect;
mod revocation;

use http::Method;
use serde_json::json;

use crate::support::{eventually, program::Gate, redis::RedisServer};

const LOGOUT: &str = "/.portcullis/logout";

#[tokio::test]
async fn a_logout_ends_the_session_of_the_token() {
    let gate = Gate::start().await;
    let token = gate.token(json!({ "sid": "one" }));
    let same_session = gate.token(json!({ "sid": "one", "jti": "refreshed" }));
    let other_session = gate.token(json!({ "sid": "two" }));
    let other_user = gate.token(json!({ "sub": "auth0|bob", "sid": "three" }));
    gate.call(&token).await.is(200, None);

    let answer = gate.log_out(&token, "").await;
    assert_eq!((answer.is(204, None).body.len(), answer.field("cache-control")), (0, Some("no-store")));
    let refused = gate.call(&token).await;
    assert!(refused.is(401, "session_ended").field("www-authenticate").unwrap().contains("invalid_token"));
    gate.call(&same_session).await.is(401, "session_ended");
    gate.call(&other_session).await.is(200, None);
    gate.call(&other_user).await.is(200, None);
}

#[tokio::test]
async fn a_second_logout_changes_nothing() {
    let gate = Gate::start().await;
    let token = gate.token(json!({ "sid": "one" }));
    for _ in 0..3 {
        gate.log_out(&token, "").await.is(204, None);
    }
    gate.log_out(&gate.token(json!({ "sid": "one", "jti": "refreshed" })), "").await.is(204, None);
    eventually("it is in the audit trail", async || gate.audit().len() == 1).await;

    let token = gate.token(json!({ "sid": "two" }));
    for _ in 0..3 {
        gate.log_out(&token, "?everywhere").await.is(204, None);
        gate.log_out(&token, "").await.is(204, None);
    }
    eventually("it is in the audit trail", async || gate.audit().len() == 2).await;
}

#[tokio::test]
async fn everywhere_is_every_session_of_the_user() {
    let gate = Gate::start().await;
    let tokens = [json!({ "sid": "one" }), json!({ "sid": "two" }), json!({})].map(|claims| gate.token(claims));
    let other_user = gate.token(json!({ "sub": "auth0|bob" }));
    gate.log_out(&tokens[0], "?everywhere").await.is(204, None);
    for token in &tokens {
        gate.call(token).await.is(401, "logged_out");
    }
    gate.call(&other_user).await.is(200, None);

    let known = gate.admin().get("/v1/subjects/main/auth0%7Calice").await.json();
    let at: portcullis::clock::Timestamp = known["logout"]["at"].as_str().unwrap().parse().unwrap();
    gate.call(&gate.token(json!({ "sid": "four", "last_logout": at.as_millis() }))).await.is(200, None);
    gate.call(&gate.token(json!({ "sid": "five", "last_logout": at.as_millis() - 1 }))).await.is(401, "logged_out");
}

#[tokio::test]
async fn everywhere_is_asked_for_in_so_many_words() {
    let gate = Gate::start().await;
    let everywhere = ["?everywhere", "?everywhere=", "?everywhere=true", "?everywhere=1", "?a=b&everywhere"];
    let here = ["", "?", "?everywhere=false", "?everywhere=0", "?a=everywhere", "?Everywhere"];
    for (queries, code) in [(&everywhere[..], "logged_out"), (&here[..], "session_ended")] {
        for query in queries {
            let id = format!("id {query}");
            let token = gate.token(json!({ "sub": id, "sid": id }));
            gate.log_out(&token, query).await.is(204, None);
            gate.call(&token).await.is(401, code);
        }
    }
}

/// The end of one session is not the end of all: nobody is told so who did not get it.
#[tokio::test]
async fn a_token_of_an_ended_session_does_not_log_out_everywhere() {
    let gate = Gate::start().await;
    let (token, other) = (gate.token(json!({ "sid": "one" })), gate.token(json!({ "sid": "two" })));
    gate.log_out(&token, "").await.is(204, None);
    gate.log_out(&token, "?everywhere").await.is(401, "session_ended");
    gate.call(&other).await.is(200, None);
}

#[tokio::test]
async fn without_a_session_there_is_only_everywhere() {
    let gate = Gate::start().await;
    let (token, other) = (gate.token(json!({})), gate.token(json!({ "sid": "one" })));
    gate.log_out(&token, "").await.is(204, None);
    gate.call(&token).await.is(401, "logged_out");
    gate.call(&other).await.is(401, "logged_out");
}

#[tokio::test]
async fn only_a_good_token_logs_out() {
    let gate = Gate::start().await;
    let token = gate.token(json!({ "sid": "one" }));
    let missing = gate.request(Method::POST, LOGOUT, &[]).await;
    assert!(missing.is(401, "missing_token").field("www-authenticate").unwrap().starts_with("Bearer"));
    gate.log_out(&format!("{token}x"), "").await.is(401, "invalid_token");
    gate.log_out(&gate.token(json!({ "sid": "one", "aud": "https://else.example" })), "")
        .await
        .is(401, "invalid_token");
    gate.log_out(&gate.token(json!({ "sid": "one", "iat": 1_700_000_000, "exp": 1_700_003_600 })), "")
        .await
        .is(401, "token_expired");
    let bearer = format!("Bearer {token}");
    let twice = [("authorization", &*bearer), ("authorization", &*bearer)];
    gate.request(Method::POST, LOGOUT, &twice).await.is(400, "invalid_request");
    gate.admin().put("/v1/subjects/main/auth0%7Calice/block", json!({})).await.is(200, None);
    gate.log_out(&token, "").await.is(401, "user_blocked");
    gate.admin().delete("/v1/subjects/main/auth0%7Calice/block").await.is(200, None);
    gate.call(&token).await.is(200, None);
}

#[tokio::test]
async fn a_logout_is_a_post() {
    let gate = Gate::start().await;
    let token = gate.token(json!({ "sid": "one" }));
    let bearer = format!("Bearer {token}");
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::OPTIONS, Method::HEAD] {
        let answer = gate.request(method.clone(), LOGOUT, &[("authorization", &bearer)]).await;
        assert_eq!((answer.status.as_u16(), answer.field("allow")), (405, Some("POST")), "{method}");
    }
    gate.call(&token).await.is(200, None);
}

#[tokio::test]
async fn nothing_else_is_there_and_no_route_leads_there() {
    let gate = Gate::start().await;
    let bearer = format!("Bearer {}", gate.token(json!({})));
    for path in ["/.portcullis", "/.portcullis/", "/.portcullis/x", "/.portcullis/logout/", "/.portcullis/logout/x"] {
        gate.request(Method::POST, path, &[("authorization", &bearer)]).await.is(404, "no_endpoint");
    }
    // The upstream has no such page, and says so itself.
    gate.request(Method::GET, "/.portcullisx", &[("authorization", &bearer)]).await.is(404, None);
}

/// A browser sends a cookie whoever asks it to.
#[tokio::test]
async fn a_cookie_logs_out_only_where_the_site_itself_asks() {
    let gate = Gate::setup().cookie("session").start().await;
    let cookie = |sid: &str| format!("theme=dark; session={}", gate.token(json!({ "sid": sid })));
    let host = gate.address().to_string();
    let own = format!("http://{host}");
    let kept = cookie("kept");
    for forged in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "unheard-of"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("origin", &*format!("http://evil.example/{host}")),
    ] {
        let answer = gate.request(Method::POST, LOGOUT, &[("cookie", &kept), forged]).await;
        answer.is(403, "cross_site");
    }
    gate.request(Method::GET, "/hello", &[("cookie", &kept)]).await.is(200, None);
    for (sid, asked) in [
        ("a", ("sec-fetch-site", "same-origin")),
        ("b", ("sec-fetch-site", "none")),
        ("c", ("origin", &*own)),
        ("d", ("x-requested-with", "a program")),
    ] {
        let cookie = cookie(sid);
        gate.request(Method::POST, LOGOUT, &[("cookie", &cookie), asked]).await.is(204, None);
        gate.request(Method::GET, "/hello", &[("cookie", &cookie)]).await.is(401, "session_ended");
    }
    // A token that a script puts there is not sent by itself.
    let bearer = format!("Bearer {}", gate.token(json!({ "sid": "e" })));
    let fields = [("authorization", &*bearer), ("sec-fetch-site", "cross-site"), ("origin", "https://app.example")];
    gate.request(Method::POST, LOGOUT, &fields).await.is(204, None);
}

#[tokio::test]
async fn a_logout_that_cannot_be_stored_is_told() {
    let Some(mut redis) = RedisServer::start() else { return };
    let gate = Gate::setup().redis(&redis.url()).max_staleness("30s").start().await;
    let token = gate.token(json!({ "sid": "one" }));
    gate.call(&token).await.is(200, None);
    redis.kill();
    let answer = gate.log_out(&token, "").await;
    assert_eq!(answer.is(503, "not_stored").field("retry-after"), Some("1"));
    assert!(answer.field("www-authenticate").is_none(), "the token is not at fault");

    redis.restart();
    eventually("the logout is taken", async || gate.log_out(&token, "").await.status == 204).await;
    eventually("it is enforced", async || gate.call(&token).await.status == 401).await;
    gate.call(&token).await.is(401, "session_ended");
}

#[tokio::test]
async fn while_the_store_is_silent_nobody_is_told_that_they_are_out() {
    let Some(mut redis) = RedisServer::start() else { return };
    let gate = Gate::setup().redis(&redis.url()).max_staleness("1s").start().await;
    let token = gate.token(json!({ "sid": "one" }));
    let over = gate.token(json!({ "sid": "two" }));
    let everywhere = gate.token(json!({ "sub": "auth0|bob", "sid": "three" }));
    gate.log_out(&over, "").await.is(204, None);
    gate.log_out(&everywhere, "?everywhere").await.is(204, None);
    gate.call(&token).await.is(200, None);
    gate.call(&over).await.is(401, "session_ended");
    gate.call(&everywhere).await.is(401, "logged_out");
    redis.kill();
    eventually("the gate is stale", async || gate.call(&token).await.status == 503).await;
    // What is cached as over may not be over any more: it is tried like any other.
    for token in [&token, &over, &everywhere] {
        for query in ["", "?everywhere"] {
            let answer = gate.log_out(token, query).await;
            assert_eq!(answer.is(503, "not_stored").field("retry-after"), Some("1"), "{query}");
            assert!(answer.field("www-authenticate").is_none(), "the token is not at fault");
        }
    }
    // This Redis comes back without what it held.
    redis.restart();
    eventually("the logout is taken", async || gate.log_out(&over, "").await.status == 204).await;
    // It may be stored before the gate hears of changes again.
    eventually("the logout is enforced", async || gate.call(&over).await.status == 401).await;
    gate.call(&over).await.is(401, "session_ended");
}

/// What was acknowledged is durable: no flush, no farewell.
#[tokio::test]
async fn a_killed_gate_loses_no_logout() {
    let mut gate = Gate::start().await;
    for round in 0..3 {
        let ended = gate.token(json!({ "sid": format!("ended-{round}") }));
        let everywhere = gate.token(json!({ "sub": format!("user-{round}"), "sid": "x" }));
        let kept = gate.token(json!({ "sid": format!("kept-{round}") }));
        gate.log_out(&ended, "").await.is(204, None);
        gate.log_out(&everywhere, "?everywhere").await.is(204, None);
        gate.kill_and_restart().await;
        gate.call(&ended).await.is(401, "session_ended");
        gate.call(&everywhere).await.is(401, "logged_out");
        gate.call(&kept).await.is(200, None);
    }
}
