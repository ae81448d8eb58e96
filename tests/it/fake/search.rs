//! The search of users.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Api, encoded, refused, user};
use crate::support::{
    auth0::{Auth0, CONNECTIONS, Population, User},
    eventually,
};

fn at(time: &str) -> i64 {
    time.parse::<portcullis::clock::Timestamp>().unwrap().as_millis()
}

async fn found(api: &Api<'_>, q: &str) -> Vec<String> {
    let answer = api.get(&format!("users?search_engine=v3&fields=user_id&q={}", encoded(q))).await;
    assert_eq!(answer.status, 200, "{q}: {}", answer.text());
    let users = answer.json();
    users
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user["user_id"].as_str().unwrap()["auth0|".len()..].to_owned())
        .collect()
}

#[tokio::test]
async fn queries_find_who_fits() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    let user = |id: &str| User::new(format!("auth0|{id}")).created_at(at("2026-01-01T00:00:00Z"));
    tenant.add_user(user("old").last_login(at("2026-01-30T12:00:00Z")).logins_count(3).email("Old@X.example"));
    tenant.add_user(user("day").last_login(at("2026-01-31T23:59:59.999Z")).logins_count(10).blocked(true));
    tenant.add_user(user("new").last_login(at("2026-02-01T00:00:00Z")).logins_count(100).blocked(false));
    tenant.add_user(user("zero").created_at(at("2026-02-02T00:00:00Z")).logins_count(0));
    tenant.add_user(user("never").created_at(at("2026-02-03T00:00:00Z")).connection(&CONNECTIONS[1]));
    tenant.add_user(user("meta").app_metadata("last_active", json!("2026-01-05")).app_metadata("plan", json!("gold")));
    for (q, expected) in [
        ("", "old day new zero never meta"),
        ("last_login:[* TO 2026-01-31]", "old day"),
        ("last_login:[* TO 2026-01-31}", "old"),
        ("last_login:{* TO 2026-01-31T23:59:59.999Z}", "old"),
        ("last_login:{2026-01-31 TO *]", "new"),
        ("last_login:[2026-01-30T12:00:00Z TO 2026-02]", "old day new"),
        ("last_login:{2026-01-30T12:00:00Z TO *}", "day new"),
        ("created_at:[2026-02-02 TO 2026-02-03}", "zero"),
        ("last_login:2026-01-31", "day"),
        ("blocked:true", "day"),
        ("blocked:false", "new"),
        ("-blocked:true", "old new zero never meta"),
        ("NOT _exists_:blocked", "old zero never meta"),
        ("NOT _exists_:logins_count OR logins_count:0", "zero never meta"),
        ("logins_count:[3 TO 100}", "old day"),
        ("logins_count:{3 TO *]", "day new"),
        ("identities.connection:\"google-oauth2\"", "never"),
        ("email:\"old@x.EXAMPLE\"", "old"),
        ("email.domain:X.example", "old"),
        ("user_id:\"auth0|new\"", "new"),
        ("user_id:auth0|n*", "new never"),
        ("user_id:*ero", "zero"),
        ("app_metadata.plan:gold", "meta"),
        ("app_metadata.last_active:[* TO 2026-01-06]", "meta"),
        ("app_metadata.plan:*", "meta"),
        ("(last_login:[* TO 2026-01-31] OR NOT _exists_:last_login) AND -blocked:true", "old zero never meta"),
        ("NOT (blocked:true OR blocked:false) AND created_at:[* TO 2026-02-02]", "old zero meta"),
        ("created_at:[2026-02-01 TO *] AND created_at:[* TO 2026-02-02]", "zero"),
    ] {
        assert_eq!(found(&api, q).await.join(" "), expected, "{q}");
    }
}

#[tokio::test]
async fn what_is_not_understood_is_refused() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    for q in [
        "blocked",
        "blocked:",
        "blocked:true OR",
        "blocked:true logins_count:0",
        "blocked:true and logins_count:0",
        "blocked:true AND logins_count:0 OR _exists_:email",
        "(blocked:true",
        "blocked:true)",
        "NOT",
        "nothing:true",
        "last_login:[2026-01-31]",
        "last_login:[* TO yesterday]",
        "last_login:[* TO 2026-13-01]",
        "last_login:[* TO 2026-01-31",
        "logins_count:>3",
        "name:\"a",
        "email:*sa",
        "user_metadata.a:[1 TO 2]",
        "user_metadata.a:b*",
    ] {
        refused(&api.get(&format!("users?search_engine=v3&q={}", encoded(q))).await, 400, "invalid_query_string");
    }
    for query in [
        "per_page=101",
        "per_page=0",
        "page=x",
        "sort=created_at",
        "sort=what:1",
        "search_engine=v2",
        "q=blocked:true",
        "limit=5",
    ] {
        refused(&api.get(&format!("users?{query}")).await, 400, "invalid_query_string");
    }
}

#[tokio::test]
async fn pages_end_at_1000() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    let population = Population::of(1234);
    tenant.populate(population);
    assert_eq!(api.get("users").await.json().as_array().unwrap().len(), 50);
    let page = api.get("users?per_page=100&page=9&include_totals=true&fields=user_id").await.json();
    assert_eq!(page["users"][99], json!({ "user_id": population.id(999) }));
    let totals = (&page["start"], &page["limit"], &page["length"], &page["total"]);
    assert_eq!(totals, (&json!(900), &json!(100), &json!(100), &json!(1234)));
    refused(&api.get("users?per_page=100&page=10").await, 400, "invalid_paging");
    refused(&api.get("users?per_page=99&page=10").await, 400, "invalid_paging");
    tenant.end_totals(true);
    assert_eq!(api.get("users?include_totals=true").await.json()["total"], 1000);

    let page = api.get("users?search_engine=v3&sort=last_login:-1&per_page=100&q=_exists_:last_login").await.json();
    let logins: Vec<&str> = page.as_array().unwrap().iter().map(|user| user["last_login"].as_str().unwrap()).collect();
    assert!(logins.is_sorted_by(|one, two| one >= two), "{logins:?}");
    let page =
        api.get("users?sort=last_login:1&per_page=100&page=9&include_fields=false&fields=identities").await.json();
    assert_eq!(page[0].get("identities"), None);
}

#[tokio::test]
async fn a_change_is_found_later_than_it_is_read() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    let population = Population { blocked: 0.0, ..Population::of(10) };
    tenant.populate(population);
    tenant.set_search_delay(Duration::from_secs(2));
    let id = population.id(3);
    let blocked = async || {
        let users = api.get("users?search_engine=v3&q=blocked:true").await.json();
        users.as_array().unwrap().iter().filter(|user| user["user_id"] == id.as_str()).count()
    };
    let patched = Instant::now();
    assert_eq!(api.patch(&id, json!({ "blocked": true })).await.status, 200);
    assert_eq!(api.get(&user(&id)).await.json()["blocked"], true, "at once");
    assert_eq!(blocked().await, 0);
    assert_eq!(api.patch(&id, json!({ "nickname": "x" })).await.status, 200);
    eventually("it is found", async || blocked().await == 1).await;
    assert!(patched.elapsed() >= Duration::from_secs(2));
    tenant.add_user(User::new("auth0|a").blocked(true));
    assert_eq!(
        api.get("users?search_engine=v3&q=user_id:auth0|a").await.json()[0]["blocked"],
        true,
        "what is set up is there at once"
    );
}

#[tokio::test]
async fn queries_that_take_too_long_time_out() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.time_out_searches(1);
    refused(&api.get("users").await, 503, "query_timeout");
    assert_eq!(api.get("users").await.status, 200);
    tenant.populate(Population::of(1_000_000_000));
    refused(&api.get("users?search_engine=v3&q=blocked:true").await, 503, "query_timeout");
    let window: Value = api
        .get(&format!(
            "users?search_engine=v3&include_totals=true&q={}",
            encoded("created_at:[2025-05-01T00:00Z TO 2025-05-01T00:00:01Z}")
        ))
        .await
        .json();
    let total = window["total"].as_u64().unwrap();
    assert!((1..20).contains(&total), "a narrow window is found: {total}");
}
