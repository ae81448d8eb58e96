//! All users, by searches.

use std::time::Duration;

use portcullis::management::{
    listing::{Listing, Way},
    tenant::TenantError,
    users::Patience,
};
use serde_json::Value;

use super::{PATIENCE, are_the_same, everyone, expected, id, users, watched};
use crate::support::auth0::{Auth0, Chaos, Fault, Population, User};

const SEARCH: Listing = Listing { connection: None, way: Way::Search, job: None };
const EXPORT: Listing = Listing { way: Way::Export, ..SEARCH };

async fn tenant(count: u64) -> Auth0 {
    let auth0 = Auth0::start().await;
    auth0.populate(Population::of(count));
    auth0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_find_whom_an_export_holds() {
    let auth0 = tenant(3500).await;
    // A migration: many at the same millisecond, others at the next.
    for number in 0..1200 {
        auth0.add_user(User::new(format!("auth0|m{number}")).created_at(1_700_000_000_000 + number % 2));
    }
    for (name, at) in [("old", 1_000_000_000_000), ("new", 4_102_444_800_000), ("first", 1_356_998_399_999)] {
        auth0.add_user(User::new(format!("auth0|{name}")).created_at(at));
    }
    let heard = everyone(&users(&auth0), SEARCH).await;
    are_the_same(&heard, &expected(&auth0, |_| true));
    assert_eq!((heard.jobs.len(), heard.unreadable), (0, 0));
    let exported = everyone(&users(&auth0), EXPORT).await;
    assert_eq!(heard.users, exported.users);
    let searches = auth0.calls("/api/v2/users?");
    assert!(searches.len() < 200, "{}", searches.len());
    assert!(searches.iter().all(|call| call.target.contains("search_engine=v3") && call.status == 200));
    assert_eq!(auth0.violations_told(), [""; 0]);
}

#[tokio::test]
async fn totals_that_end_at_a_thousand_do_not_mislead() {
    let auth0 = tenant(2500).await;
    auth0.end_totals(true);
    let heard = everyone(&users(&auth0), SEARCH).await;
    are_the_same(&heard, &expected(&auth0, |_| true));
}

#[tokio::test]
async fn users_without_a_date_of_creation_are_found_too() {
    let auth0 = tenant(10).await;
    for number in 0..250 {
        let user = User::new(format!("auth0|u{number}")).last_login(1_777_680_000_000);
        auth0.add_user(user.with("created_at", Value::Null));
    }
    auth0.add_user(User::new("auth0|odd").with("created_at", Value::Null));
    let heard = everyone(&users(&auth0), SEARCH).await;
    assert!(heard.error.is_none(), "{:?}", heard.error);
    assert_eq!(heard.users.len(), 261);
    assert!(!heard.users[&id("auth0|u7")].doubtful && heard.users[&id("auth0|odd")].doubtful);
}

#[tokio::test]
async fn too_many_at_once_are_told_of() {
    for totals_end in [false, true] {
        let auth0 = tenant(0).await;
        auth0.end_totals(totals_end);
        for number in 0..1001 {
            auth0.add_user(User::new(format!("auth0|{number}")).created_at(1_700_000_000_123));
        }
        let heard = everyone(&users(&auth0), SEARCH).await;
        let Some(error @ TenantError::TooMany { .. }) = heard.error else { panic!("{:?}", heard.error) };
        let text =
            "1000 users or more were created at 2023-11-14T22:13:20.123Z, which a search cannot list: export them";
        assert_eq!(error.to_string(), text);
        assert!(error.is_final());
    }
}

#[tokio::test]
async fn a_search_that_takes_too_long_is_made_smaller() {
    let auth0 = tenant(500).await;
    auth0.time_out_searches(3);
    let (users, watch) = watched(&auth0);
    let heard = everyone(&users, SEARCH).await;
    are_the_same(&heard, &expected(&auth0, |_| true));
    assert_eq!(watch.told("retrying"), [""; 0]);
    let searches = auth0.calls("/api/v2/users?");
    let windows: std::collections::HashSet<_> = searches.iter().map(|call| &call.target).collect();
    assert_eq!(windows.len(), searches.len(), "none twice");
}

#[tokio::test]
async fn the_users_of_a_connection_are_only_those() {
    let auth0 = tenant(600).await;
    let google = Listing { connection: Some("google-oauth2".into()), ..SEARCH };
    auth0.add_user(User::new("google-oauth2|7").last_login(1_777_680_000_000).with("created_at", Value::Null));
    auth0.add_user(User::new("auth0|7").last_login(1_777_680_000_000).with("created_at", Value::Null));
    let mut heard = everyone(&users(&auth0), google).await;
    assert!(heard.users.remove(&id("google-oauth2|7")).is_some());
    let is_wanted = |user: &User| user.connection.name == "google-oauth2" && user.more.is_empty();
    are_the_same(&heard, &expected(&auth0, is_wanted));
}

#[tokio::test]
async fn pages_that_do_not_add_up_are_read_again() {
    let auth0 = tenant(150).await;
    // The second page is that of a moment at which nobody was there.
    auth0.fail("/api/v2/users?", Fault::Delay(Duration::ZERO));
    auth0.fail("/api/v2/users?", Fault::Delay(Duration::ZERO));
    auth0.fail("/api/v2/users?", Fault::Garbage(r#"{"start":100,"limit":100,"length":0,"users":[],"total":0}"#));
    let heard = everyone(&users(&auth0), SEARCH).await;
    are_the_same(&heard, &expected(&auth0, |_| true));
    assert_eq!(heard.unreadable, 0);
}

#[tokio::test]
async fn who_is_counted_and_never_shown_is_not_left_out_in_silence() {
    let auth0 = tenant(0).await;
    for _ in 0..3 {
        let page = r#"{"users":[{"user_id":"auth0|a","created_at":1700000000},{"user_id":""}],"total":4}"#;
        auth0.fail("/api/v2/users?", Fault::Garbage(page));
    }
    let heard = everyone(&users(&auth0), SEARCH).await;
    assert!(heard.error.is_none(), "{:?}", heard.error);
    assert_eq!((heard.users.len(), heard.unreadable), (1, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_on_the_way_everybody_is_found_once() {
    let auth0 = tenant(1500).await;
    let seed = std::env::var("PORTCULLIS_CHAOS_SEED").map_or(7, |seed| seed.parse().unwrap());
    auth0.set_chaos(Some(Chaos { hang_for: Duration::from_millis(500), ..Chaos::of_each(seed, 0.06) }));
    let patience = Patience { attempts: 20, ..PATIENCE };
    let (users, watch) = watched(&auth0);
    let heard = everyone(&users.with_patience(patience), SEARCH).await;
    are_the_same(&heard, &expected(&auth0, |_| true));
    println!("PORTCULLIS_CHAOS_SEED={seed}: {:?}", watch.told("retrying"));
    assert_eq!(auth0.violations_told(), [""; 0], "{seed}");
}
