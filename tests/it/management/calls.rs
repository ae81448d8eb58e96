//! What is asked about a user, and done to them.

use std::collections::HashSet;

use http::StatusCode;
use portcullis::management::{access::Extent, tenant::TenantError, users::Patience};
use serde_json::json;

use super::{PATIENCE, id, tenant, users, watched};
use crate::support::auth0::{Auth0, Fault, Limit, User};

const ODD: [&str; 5] = [
    "auth0|5f3c2a10",
    "samlp|acme-saml|Jörg/7 #1?+&%7C;@corp.example",
    "oauth2|a/../b",
    "waad|=_.-~:[]",
    "google-oauth2|10769150350006150715113082367",
];

fn path(id: &str) -> String {
    format!("/api/v2/users/{}", percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC))
}

#[tokio::test]
async fn a_user_is_read_blocked_and_let_in_again_whatever_their_id() {
    let auth0 = Auth0::start().await;
    let users = users(&auth0);
    for name in ODD {
        auth0.add_user(User::new(name).created_at(1_700_000_000_000).with("nickname", json!("x")));
        let user = users.get(&id(name)).await.unwrap().unwrap();
        assert_eq!(user.id.as_str(), name);
        assert!(!user.blocked && !user.doubtful);
        assert!(users.set_blocked(&id(name), true).await.unwrap().unwrap().blocked);
        assert!(auth0.is_blocked(name));
        assert!(users.get(&id(name)).await.unwrap().unwrap().blocked);
        assert!(!users.set_blocked(&id(name), false).await.unwrap().unwrap().blocked);
        assert!(!auth0.is_blocked(name));
        let calls = auth0.calls(&path(name));
        let patches: Vec<_> = calls.iter().filter(|call| call.method == "PATCH").map(|call| &call.body).collect();
        assert_eq!(patches, [&json!({ "blocked": true }), &json!({ "blocked": false })]);
        assert_eq!(auth0.done_to(name).patches, 2);
    }
    assert_eq!(auth0.violations_told(), [""; 0]);
}

#[tokio::test]
async fn who_is_not_there_is_none() {
    let auth0 = Auth0::start().await;
    let users = users(&auth0);
    assert_eq!(users.get(&id("auth0|nobody")).await.unwrap(), None);
    assert_eq!(users.set_blocked(&id("auth0|nobody"), true).await.unwrap(), None);
    auth0.fail("/api/v2/users/auth0%7Cnobody/", Fault::Status(404));
    assert!(!users.revoke(&id("auth0|nobody"), Extent::All).await.unwrap());
    assert_eq!(auth0.calls("/api/v2/users/").len(), 3, "asked once each");
}

#[tokio::test]
async fn what_a_user_has_is_revoked_as_far_as_was_asked_for() {
    let auth0 = Auth0::start().await;
    let users = users(&auth0);
    for name in ODD {
        auth0.add_user(User::new(name));
        for extent in [Extent::Session, Extent::RefreshTokens, Extent::All] {
            assert!(users.revoke(&id(name), extent).await.unwrap());
        }
        let done = auth0.done_to(name);
        assert_eq!(
            (done.sessions_deleted, done.refresh_tokens_deleted, done.access_revoked, done.patches),
            (1, 1, 1, 0)
        );
    }
    assert_eq!(auth0.violations_told(), [""; 0]);
}

#[tokio::test]
async fn another_user_than_was_asked_for_is_not_taken_for_them() {
    let auth0 = Auth0::start().await;
    auth0.add_user(User::new("auth0|ada"));
    auth0.fail("/api/v2/users/auth0%7Cada", Fault::Garbage(r#"{"user_id":"auth0|bob","created_at":1700000000}"#));
    let patience = Patience { attempts: 1, ..PATIENCE };
    let error = users(&auth0).with_patience(patience).get(&id("auth0|ada")).await.unwrap_err();
    assert!(matches!(error, TenantError::Malformed), "{error}");
}

#[tokio::test]
async fn a_call_is_repeated_as_long_as_that_can_help() {
    let faults = [
        Fault::TooMany,
        Fault::Status(500),
        Fault::Status(503),
        Fault::Status(408),
        Fault::Hang,
        Fault::DoneThenHang,
        Fault::CutBody,
        Fault::Truncate,
        Fault::Garbage("<html>"),
    ];
    let repeated = async |fault: Fault| {
        let auth0 = Auth0::start().await;
        auth0.add_user(User::new("auth0|ada"));
        auth0.fail("/api/v2/users/", fault.clone());
        let (users, watch) = watched(&auth0);
        let user = users.set_blocked(&id("auth0|ada"), true).await.unwrap().unwrap();
        assert!(user.blocked && auth0.is_blocked("auth0|ada"), "{fault:?}");
        assert_eq!(watch.told("retrying").len(), 1, "{fault:?}");
        let waits = *watch.waits.lock().unwrap();
        assert!(waits.0 > 0 && waits.0 == waits.1, "{fault:?}: {waits:?}");
        assert_eq!(auth0.violations_told(), [""; 0]);
    };
    futures_util::future::join_all(faults.map(repeated)).await;
}

#[tokio::test]
async fn what_stays_broken_is_given_up() {
    let auth0 = Auth0::start().await;
    let patience = Patience { attempts: 3, ..PATIENCE };
    let users = users(&auth0).with_patience(patience);
    for _ in 0..4 {
        auth0.fail("/api/v2/users/", Fault::Status(502));
    }
    let error = users.get(&id("auth0|ada")).await.unwrap_err();
    assert!(matches!(error, TenantError::Status { status: StatusCode::BAD_GATEWAY, .. }), "{error}");
    assert_eq!((auth0.faults_left(), auth0.calls("/api/v2/users/").len()), (1, 3));
}

#[tokio::test]
async fn what_repeating_cannot_mend_is_not_repeated() {
    let auth0 = Auth0::start().await;
    let (users, watch) = watched(&auth0);
    auth0.fail("/api/v2/users/", Fault::Status(400));
    let error = users.get(&id("auth0|ada")).await.unwrap_err();
    assert!(error.is_final(), "{error}");

    auth0.grant(&["read:users"]);
    let error = users.set_blocked(&id("auth0|ada"), true).await.unwrap_err();
    assert!(error.is_lasting());
    assert!(error.to_string().contains("update:users") && !error.to_string().contains("ada"), "{error}");
    assert_eq!(auth0.calls("/api/v2/users/").len(), 2);
    assert_eq!(watch.told("retrying"), [""; 0]);
}

#[tokio::test]
async fn nothing_is_asked_before_the_time_that_was_named() {
    let auth0 = Auth0::start().await;
    auth0.limit(Limit { burst: 3, per_second: 4.0, retry_after: false });
    let (users, watch) = watched(&auth0);
    let user = id("auth0|ada");
    auth0.add_user(User::new(user.as_str()));
    for round in 0..10 {
        if round == 4 {
            // Others take what is left.
            auth0.take_from_limit(6);
        }
        users.set_blocked(&user, true).await.unwrap().unwrap();
    }
    assert_eq!(auth0.done_to("auth0|ada").patches, 10);
    assert!(!watch.told("retrying").is_empty() && watch.waits.lock().unwrap().0 > 0);
    assert_eq!(auth0.violations_told(), [""; 0]);
}

#[tokio::test]
async fn what_the_application_may_do_is_known_before_it_does_it() {
    let auth0 = Auth0::start().await;
    auth0.grant(&["read:users", "read:roles"]);
    let tenant = tenant(&auth0);
    let needed = ["read:users", "update:users", "delete:sessions"];
    assert_eq!((tenant.granted(), tenant.lacks(&needed)), (None, vec![]), "not yet");
    tenant.log_in().await.unwrap();
    assert_eq!(
        tenant.granted().unwrap().iter().map(|scope| &**scope).collect::<Vec<_>>(),
        ["read:roles", "read:users"]
    );
    assert_eq!(tenant.lacks(&needed), ["update:users", "delete:sessions"]);
    assert_eq!(auth0.calls("/api/v2/").len(), 0);
    // Whoever does not tell may grant them all.
    auth0.fail("/oauth/token", Fault::Garbage(r#"{"access_token":"x","expires_in":60}"#));
    let silent = super::tenant(&auth0);
    silent.log_in().await.unwrap();
    assert_eq!((silent.granted(), silent.lacks(&needed)), (None, vec![]));
}

#[tokio::test]
async fn the_members_of_a_role_are_all_of_them() {
    let auth0 = Auth0::start().await;
    let ids: Vec<String> = (0..250).map(|number| format!("auth0|{number}")).collect();
    for id in &ids {
        auth0.add_user(User::new(&**id));
    }
    for name in ["Never block this", "never block", "Never block"] {
        let role = auth0.add_role(name);
        if name == "Never block" {
            assert!(auth0.assign_role(&role, ids.clone()));
        }
    }
    let users = users(&auth0);
    auth0.fail("/api/v2/roles/", Fault::CutBody);
    let members = users.members_of("Never block").await.unwrap();
    assert_eq!(members, ids.iter().map(|text| id(text)).collect::<HashSet<_>>());
    assert_eq!(users.members_of("never block").await.unwrap().len(), 0);
    let error = users.members_of("Never").await.unwrap_err();
    assert_eq!(error.to_string(), "the tenant has no role that is called `Never`");
    assert!(error.is_final());
    auth0.grant(&["read:users"]);
    let error = users.members_of("Never block").await.unwrap_err();
    assert!(error.to_string().contains("read:roles"), "{error}");
}

#[tokio::test]
async fn a_connection_is_found_by_its_name() {
    let auth0 = Auth0::start().await;
    let users = users(&auth0);
    assert_eq!(&*users.connection_id("acme-saml").await.unwrap(), "con_Sa2wY6uGoFe0Np8M");
    let error = users.connection_id("acme").await.unwrap_err();
    assert_eq!(error.to_string(), "the tenant has no connection that is called `acme`");
}
