//! What may be read and changed of a user.

use http::Method;
use serde_json::{Value, json};

use super::{Api, encoded, refused, user};
use crate::support::auth0::{Attempt, Auth0, Done, User, days_ago, iso};

#[tokio::test]
async fn a_user_is_read_as_they_are_now() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    let (created, seen) = (days_ago(400), days_ago(100));
    let odd = "auth0|Jörg/1 #?%7C+@x";
    tenant.add_user(User::new(odd).created_at(created).last_login(seen).last_active(seen).email("j@x.example"));
    let found = api.get(&user(odd)).await.json();
    assert_eq!(found["user_id"], odd);
    assert_eq!(found["created_at"], iso(created));
    assert_eq!(found["last_login"], iso(seen));
    assert_eq!(found["logins_count"], 1);
    assert_eq!(found["app_metadata"], json!({ "last_active": iso(seen) }));
    assert_eq!(found["identities"][0]["connection"], "Username-Password-Authentication");
    assert_eq!(found.get("blocked"), None, "who was never blocked has no such member");

    tenant.add_user(User::new("auth0|new"));
    let found = api.get(&user("auth0|new")).await.json();
    assert_eq!((found.get("last_login"), found.get("logins_count")), (None, None), "nor a login who never had one");
    let found = api.get(&format!("{}?fields=user_id,created_at", user(odd))).await.json();
    assert_eq!(found.as_object().unwrap().len(), 2, "{found}");

    refused(&api.get(&user("auth0|nobody")).await, 404, "inexistent_user");
    assert!(tenant.remove_user(odd));
    refused(&api.get(&user(odd)).await, 404, "inexistent_user");
    assert_eq!(tenant.violations(), 0);
}

#[tokio::test]
async fn ids_are_percent_encoded_once() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.add_user(User::new("auth0|a/b"));
    for (path, status) in [
        ("users/auth0|ab".to_owned(), 400),
        (format!("users/{}", encoded(&encoded("auth0|a/b"))), 400),
        ("users/auth0%7Ca/b".to_owned(), 404),
    ] {
        assert_eq!(api.get(&path).await.status, status, "{path}");
    }
    assert_eq!(tenant.violations(), 3, "{:?}", tenant.violations_told());
    assert_eq!(api.get(&user("auth0|a/b")).await.status, 200);
    assert_eq!(tenant.violations(), 3);
}

#[tokio::test]
async fn what_is_patched_is_answered_with_the_whole_user() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.add_user(User::new("auth0|a").email("a@x.example").app_metadata("a", json!({ "b": 1 })));
    let answer = api.patch("auth0|a", json!({ "blocked": true })).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["blocked"], true);
    assert_eq!(answer.json()["email"], "a@x.example");
    assert!(tenant.is_blocked("auth0|a"));

    let metadata = json!({ "app_metadata": { "c": 2, "a": { "d": 3 } } });
    let answer = api.patch("auth0|a", metadata).await.json();
    assert_eq!(answer["app_metadata"], json!({ "a": { "d": 3 }, "c": 2 }), "merged at the first level, not below");
    let answer = api.patch("auth0|a", json!({ "app_metadata": { "a": null } })).await.json();
    assert_eq!(answer["app_metadata"], json!({ "c": 2 }));

    let answer = api.patch("auth0|a", json!({ "password": "n3w-s3cr3t" })).await.json();
    assert_eq!(answer["blocked"], false, "a new password ends a block");
    assert!(!answer.to_string().contains("s3cr3t"));
    assert_eq!(tenant.done_to("auth0|a"), Done { patches: 4, ..Done::default() });
    refused(&api.patch("auth0|nobody", json!({ "blocked": true })).await, 404, "inexistent_user");
    assert_eq!(tenant.patched(), (1, 4));
}

#[tokio::test]
async fn only_the_tenant_writes_some_members() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.add_user(User::new("auth0|a").last_login(days_ago(3)));
    let before = tenant.user("auth0|a").unwrap();
    for body in [
        json!({ "last_login": iso(0), "blocked": true }),
        json!({ "logins_count": 3 }),
        json!({ "created_at": iso(0) }),
        json!({ "user_id": "auth0|b" }),
        json!({ "identities": [] }),
        json!({ "blocked": "true" }),
        json!({ "app_metadata": [] }),
        json!({ "anything": 1 }),
        json!({}),
        json!([]),
    ] {
        refused(&api.patch("auth0|a", body).await, 400, "invalid_body");
    }
    assert_eq!(tenant.user("auth0|a"), Some(before));
    assert_eq!(tenant.patched(), (0, 0));
}

#[tokio::test]
async fn a_login_that_is_refused_is_counted_all_the_same() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    let before = days_ago(100);
    tenant.add_user(User::new("auth0|a").last_login(before).logins_count(7));
    assert_eq!(tenant.attempt_login("auth0|a"), Attempt::Admitted);
    api.patch("auth0|a", json!({ "blocked": true })).await;
    assert!(tenant.change_user("auth0|a", |user| user.last_login = Some(before)));
    assert_eq!(tenant.attempt_login("auth0|a"), Attempt::Refused);
    let user = tenant.user("auth0|a").unwrap();
    assert_eq!(user.logins_count, Some(9));
    assert!(user.last_login > Some(days_ago(1)));
    assert_eq!(tenant.attempt_login("auth0|nobody"), Attempt::Unknown);
}

#[tokio::test]
async fn sessions_and_refresh_tokens_are_revoked() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.add_user(User::new("auth0|a"));
    let path = user("auth0|a");
    for body in [Value::Null, json!({ "session_id": "s", "preserve_refresh_tokens": true })] {
        assert_eq!(api.send(Method::POST, &format!("{path}/revoke-access"), &body).await.status, 202);
    }
    for body in [json!({ "session": "s" }), json!({ "preserve_refresh_tokens": "no" })] {
        let answer = api.send(Method::POST, &format!("{path}/revoke-access"), &body).await;
        refused(&answer, 400, "invalid_body");
    }
    assert_eq!(api.send(Method::DELETE, &format!("{path}/sessions"), &Value::Null).await.status, 202);
    assert_eq!(api.send(Method::DELETE, &format!("{path}/refresh-tokens"), &Value::Null).await.status, 202);
    let done = Done { patches: 0, access_revoked: 2, refresh_tokens_deleted: 1, sessions_deleted: 1 };
    assert_eq!(tenant.done_to("auth0|a"), done);
    let counts = tenant.counts();
    assert_eq!((counts.reads, counts.writes, counts.jobs, counts.tokens), (0, 6, 0, 1));
    assert_eq!(tenant.counts_by_kind()["POST users/{id}/revoke-access"], 4);
}

#[tokio::test]
async fn calls_are_counted_and_only_the_last_are_kept() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.keep_calls(3);
    tenant.add_user(User::new("auth0|a"));
    for _ in 0..5 {
        api.get(&user("auth0|a")).await;
    }
    assert_eq!(tenant.calls("/").len(), 3);
    assert_eq!(tenant.counts().reads, 5);
}

#[tokio::test]
async fn others_come_in_between() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    let (long_ago, just_now) = (days_ago(100), days_ago(0));
    tenant.add_user(User::new("auth0|a").last_login(long_ago));
    tenant.change_before("PATCH /api/v2/users/", "auth0|a", move |user| user.last_login = Some(just_now));
    assert_eq!(api.get(&user("auth0|a")).await.json()["last_login"], iso(long_ago));
    let answer = api.patch("auth0|a", json!({ "blocked": true })).await.json();
    assert_eq!(answer["last_login"], iso(just_now), "who looks at the answer sees it");
}

#[tokio::test]
async fn what_is_done_can_be_seen_in_the_log_and_in_events() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.set_echo(true);
    tenant.add_user(User::new("auth0|a"));
    tenant.attempt_login("auth0|a");
    api.patch("auth0|a", json!({ "blocked": true, "password": "n3w-s3cr3t" })).await;
    api.patch("auth0|a", json!({ "blocked": true })).await;
    tenant.attempt_login("auth0|a");
    let log = api.get(&format!("logs?q={}&sort=date:1", encoded("date:[2020-01-01T00:00:00Z TO *]"))).await;
    let kinds: Vec<String> =
        log.json().as_array().unwrap().iter().map(|record| record["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["s", "sapi", "sapi", "f"]);
    assert_eq!(log.json()[2]["details"]["request"]["path"], "/api/v2/users/auth0%7Ca");
    assert!(!log.text().contains("s3cr3t"));
}
