//! Users that are made up as they are asked for.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{Api, user};
use crate::support::auth0::{Auth0, Population, User, iso};

#[tokio::test]
async fn ten_million_users_are_each_found_by_their_id() {
    let tenant = Auth0::start().await;
    let api = Api::of(&tenant).await;
    let population = Population::of(10_000_000);
    tenant.populate(population);
    let mut ids = BTreeSet::new();
    for number in (0..10_000_000).step_by(99_991) {
        let made = population.user(number);
        assert_eq!(population.number(&made.id), Some(number), "{}", made.id);
        assert_eq!(api.get(&user(&made.id)).await.json(), made.json());
        assert!(ids.insert(made.id));
    }
    for id in ["auth0|", "auth0|5f3c2a100000000000000000", "email|5f3c2a10", "google-oauth2|1", "samlp|acme-saml|Jörg/"]
    {
        assert_eq!(population.number(id), None, "{id}");
    }
    let one = population.id(5_000_000);
    let answer = api.patch(&one, json!({ "blocked": true, "app_metadata": { "by": "x" } })).await.json();
    assert_eq!(answer, api.get(&user(&one)).await.json());
    assert_eq!(answer["blocked"], true);
    assert_eq!(tenant.violations(), 0, "{:?}", tenant.violations_told());
}

#[test]
fn users_are_of_all_kinds_and_the_same_each_time() {
    let population = Population::of(20_000);
    let mut kinds = BTreeMap::<&str, u32>::new();
    let mut before = i64::MIN;
    let mut ids = BTreeSet::new();
    for number in 0..population.count {
        let user = population.user(number);
        assert_eq!(user, population.user(number));
        assert!(user.created_at >= before && user.created_at <= population.as_of, "in the order of their numbers");
        before = user.created_at;
        assert!(user.last_login.is_none_or(|at| at >= user.created_at && at <= population.as_of));
        assert_eq!(user.last_login.is_some(), user.logins_count.is_some_and(|count| count > 0));
        let last_active = user.app_metadata.get("last_active");
        for (kind, applies) in [
            (user.connection.strategy, true),
            ("never", user.last_login.is_none()),
            ("uncounted", user.logins_count.is_none()),
            ("blocked", user.is_blocked()),
            ("unblocked", user.blocked == Some(false)),
            ("active", user.last_login.is_some_and(|at| at > population.as_of - 30 * 86_400_000)),
            ("date", last_active.is_some_and(serde_json::Value::is_string)),
            ("number", last_active.is_some_and(serde_json::Value::is_number)),
        ] {
            *kinds.entry(kind).or_default() += u32::from(applies);
        }
        assert!(ids.insert(user.id));
    }
    for (kind, share) in [
        ("google-oauth2", 0.2),
        ("email", 0.05),
        ("samlp", 0.02),
        ("auth0", 0.73),
        ("never", 0.05),
        ("uncounted", 0.025),
        ("blocked", 0.03),
        ("unblocked", 0.01),
        ("active", 0.68),
        ("date", 0.15),
        ("number", 0.05),
    ] {
        let found = f64::from(kinds[kind]) / 20_000.0;
        assert!((found - share).abs() < 0.02, "{kind}: {found}");
    }
}

#[tokio::test]
async fn what_is_added_and_removed_is_seen_over_the_population() {
    let tenant = Auth0::start().await;
    let population = Population::of(100);
    tenant.populate(population);
    tenant.add_user(User::new("auth0|added"));
    tenant.add_user(User::new(population.id(7)).logins_count(77));
    assert!(tenant.remove_user(&population.id(8)));
    assert!(!tenant.remove_user("auth0|nobody"));
    let mut users = Vec::new();
    tenant.each_user(|user| users.push(user));
    assert_eq!(users.len(), 100);
    assert_eq!(users[7].logins_count, Some(77));
    assert_eq!(users[8].id, population.id(9));
    assert_eq!(users[99].id, "auth0|added");
}

#[test]
fn times_are_written_as_everybody_writes_them() {
    for day in (-800_000_i64..800_000).step_by(7) {
        let at = day * 86_400_000 + (day * 7_654_321).rem_euclid(86_400_000);
        let time = jiff::Timestamp::from_millisecond(at).unwrap();
        if (0..=9999).contains(&time.to_zoned(jiff::tz::TimeZone::UTC).year()) {
            assert_eq!(iso(at), format!("{time:.3}"));
        }
    }
}
