//! Faults by chance.

use std::{collections::BTreeMap, time::Duration};

use http::Method;
use serde_json::json;

use super::{Api, address, user};
use crate::support::{
    auth0::{Auth0, Chaos, Fault, User},
    http::try_send,
};

#[tokio::test]
async fn a_share_of_the_calls_fails_and_the_rest_do_not() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.add_user(User::new("auth0|a"));
    let chaos = Chaos { hang_for: Duration::from_millis(1), cut: 0.0, ..Chaos::of_each(7, 0.1) };
    tenant.set_chaos(Some(chaos));
    let mut outcomes = BTreeMap::<u16, u32>::new();
    for _ in 0..300 {
        let target = format!("/api/v2/{}", user("auth0|a"));
        let fields = [("authorization", api.authorization.as_str()), ("content-type", "application/json")];
        let body = json!({ "blocked": true }).to_string();
        let answer = try_send(address(tenant.base()), Method::PATCH, &target, &fields, body).await;
        if let Ok(answer) = &answer {
            assert_eq!(answer.status == 429, answer.field("x-ratelimit-reset").is_some() && answer.status != 200);
        }
        *outcomes.entry(answer.map_or(0, |answer| answer.status.as_u16())).or_default() += 1;
    }
    for (status, expected) in [(200, 210), (429, 30), (500, 15), (503, 15), (0, 30)] {
        let found = outcomes.get(&status).copied().unwrap_or_default();
        assert!(found.abs_diff(expected) <= expected / 2 + 5, "{status}: {outcomes:?}");
    }
    let patches = tenant.done_to("auth0|a").patches;
    assert!(patches > outcomes[&200], "some of those who heard nothing were heard: {patches}, {outcomes:?}");
    tenant.set_chaos(None);
    assert_eq!(api.get(&user("auth0|a")).await.status, 200);
}

#[tokio::test]
async fn a_fault_meets_the_request_that_it_is_meant_for() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    tenant.add_user(User::new("auth0|a"));
    tenant.fail(format!("PATCH /api/v2/{}", user("auth0|a")), Fault::Status(503));
    assert_eq!(api.get(&user("auth0|a")).await.status, 200);
    assert_eq!(api.patch("auth0|a", json!({ "blocked": true })).await.status, 503);
    assert_eq!(api.patch("auth0|a", json!({ "blocked": true })).await.status, 200);
    assert_eq!(tenant.patched(), (1, 1));
}
