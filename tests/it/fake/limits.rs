//! Rate limits.

use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::{Api, refused, user};
use crate::support::{
    auth0::{Auth0, Group, Limit, User, now},
    eventually,
    http::Answer,
};

fn number(answer: &Answer, name: &str) -> i64 {
    answer.field(name).unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

#[tokio::test]
async fn each_group_of_endpoints_can_have_its_own_bucket() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.add_user(User::new("auth0|a"));
    let slow = Limit { burst: 2, per_second: 0.1, retry_after: false };
    tenant.limit_group(Group::WriteUsers, slow);
    for remaining in [1, 0] {
        let answer = api.patch("auth0|a", json!({ "blocked": true })).await;
        assert_eq!(answer.status, 200);
        assert_eq!(number(&answer, "x-ratelimit-limit"), 2);
        assert_eq!(number(&answer, "x-ratelimit-remaining"), remaining);
    }
    let refusal = api.patch("auth0|a", json!({ "blocked": true })).await;
    refused(&refusal, 429, "too_many_requests");
    assert_eq!(refusal.field("retry-after"), None);
    let wait = number(&refusal, "x-ratelimit-reset") - now() / 1000;
    assert!((8..=11).contains(&wait), "seconds since 1970, when a token is next added: {wait}");
    assert_eq!(api.get(&user("auth0|a")).await.status, 200, "reads go on");
    assert_eq!(tenant.done_to("auth0|a").patches, 2);
    assert_eq!(tenant.violations(), 0, "who has been told so just now may have been on the way");

    let told = Instant::now();
    eventually("nothing is on the way any more", async || told.elapsed() > Duration::from_millis(150)).await;
    assert_eq!(api.patch("auth0|a", json!({ "blocked": true })).await.status, 429);
    assert_eq!(tenant.violations(), 1, "before the time that was named: {:?}", tenant.violations_told());
}

#[tokio::test]
async fn all_endpoints_share_a_bucket_otherwise_and_who_waits_goes_on() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.limit(Limit { burst: 2, per_second: 0.5, retry_after: true });
    assert_eq!(api.get("users").await.status, 200);
    assert_eq!(api.get("roles").await.status, 200);
    let refusal = api.get("connections").await;
    refused(&refusal, 429, "too_many_requests");
    let wait = u64::try_from(number(&refusal, "retry-after")).unwrap();
    assert!(wait <= 3, "{wait}");
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(number(&refusal, "x-ratelimit-reset").unsigned_abs());
    let named = until.elapsed().err().map(|early| early.duration()).unwrap_or_default();
    let told = Instant::now();
    eventually("the time has come", async || told.elapsed() > named.max(Duration::from_secs(wait))).await;
    assert_eq!(api.get("connections").await.status, 200);
    assert_eq!(tenant.violations(), 0);
    tenant.take_from_limit(5);
    assert_eq!(api.get("connections").await.status, 429, "others use it too");
}
