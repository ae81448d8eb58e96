//! All users, by an export.

use std::time::Duration;

use http::header;
use portcullis::management::{
    listing::{Listed, Listing, Way},
    tenant::{ExportFault, TenantError},
    users::Patience,
};
use serde_json::json;

use super::{PATIENCE, are_the_same, everyone, expected, users, watched};
use crate::support::auth0::{Auth0, Chaos, Fault, Population, User};

const ALL: Listing = Listing { connection: None, way: Way::Export, job: None };

/// A tenant with so many users.
async fn tenant(count: u64) -> Auth0 {
    let auth0 = Auth0::start().await;
    auth0.populate(Population::of(count));
    auth0.set_export_time(Duration::from_millis(50));
    auth0
}

fn fault(error: Option<TenantError>) -> Option<ExportFault> {
    match error {
        Some(TenantError::Export { fault, .. }) => Some(fault),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_users_are_listed_once_each_with_a_few_calls() {
    let auth0 = tenant(100_000).await;
    let (users, watch) = watched(&auth0);
    let heard = everyone(&users, ALL).await;
    are_the_same(&heard, &expected(&auth0, |_| true));
    assert_eq!((heard.jobs.len(), heard.unreadable), (1, 0));

    let counts = auth0.counts();
    assert_eq!((counts.jobs, counts.downloads, counts.tokens, counts.writes), (1, 1, 1, 0));
    assert!(counts.reads < 10, "{counts:?}");
    assert_eq!(auth0.violations_told(), [""; 0]);
    let downloads = auth0.calls("/exports/");
    assert!(downloads.iter().all(|call| !call.fields.contains_key(header::AUTHORIZATION)), "a token for the store");
    let asked = &auth0.calls("/api/v2/jobs/users-exports")[0].body;
    assert_eq!(asked["fields"][0], json!({ "name": "user_id", "export_as": "portcullis_user_id" }));
    assert_eq!(asked["fields"][5], json!({ "name": "app_metadata.last_active", "export_as": "last_active" }));
    assert!(asked.get("connection_id").is_none());
    assert_eq!(watch.told("exporting").last().unwrap(), "exporting Some(100)");
    let downloaded = watch.downloaded.lock().unwrap();
    assert!(downloaded.is_sorted() && downloaded.len() > 1);
}

#[tokio::test]
async fn a_tenant_without_users_has_none() {
    let auth0 = tenant(0).await;
    let heard = everyone(&users(&auth0), ALL).await;
    assert!(heard.error.is_none() && heard.users.is_empty() && heard.unreadable == 0 && heard.jobs.len() == 1);
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let auth0 = tenant(20_000).await;
    for fault in [
        Fault::CutBody,
        Fault::Truncate,
        Fault::CutBody,
        Fault::Status(500),
        Fault::TooMany,
        Fault::Garbage("{\"user_id\":\"auth0|x\"}\n"),
    ] {
        auth0.fail("/exports/", fault);
    }
    let (users, watch) = watched(&auth0);
    let heard = everyone(&users, ALL).await;
    are_the_same(&heard, &expected(&auth0, |_| true));
    let counts = auth0.counts();
    assert_eq!((auth0.faults_left(), counts.jobs, counts.downloads), (0, 1, 7));
    // Those that got further count anew; at last none did.
    let attempts: Vec<_> = watch.told("retrying").iter().map(|told| told.as_bytes()[9] - b'0').collect();
    assert!(attempts.len() == 6 && attempts[0] == 1 && attempts[5] >= 4, "{:?}", watch.told("retrying"));
}

#[tokio::test]
async fn a_download_that_gets_nowhere_is_given_up() {
    let auth0 = tenant(1000).await;
    for _ in 0..8 {
        auth0.fail("/exports/", Fault::CutBody);
    }
    let patience = Patience { attempts: 3, ..PATIENCE };
    let (users, watch) = watched(&auth0);
    let heard = everyone(&users.with_patience(patience), ALL).await;
    assert!(matches!(heard.error, Some(TenantError::Unreachable(_))), "{:?}", heard.error);
    assert!(heard.users.len() < 1000);
    // Those that got further than the one before count anew; at last three in a row did not.
    let attempts: Vec<_> = watch.told("retrying").iter().map(|told| told.as_bytes()[9] - b'0').collect();
    assert!(attempts.ends_with(&[1, 2]) && !attempts.contains(&3), "{attempts:?}");
    assert_eq!(auth0.counts().downloads, attempts.len() as u64 + 1);
}

#[tokio::test]
async fn a_download_that_stands_still_is_begun_again() {
    let auth0 = tenant(1000).await;
    auth0.fail("/exports/", Fault::Hang);
    let (users, watch) = watched(&auth0);
    let patience = Patience { stalled: Duration::from_millis(200), ..PATIENCE };
    let heard = everyone(&users.with_patience(patience), ALL).await;
    are_the_same(&heard, &expected(&auth0, |_| true));
    assert_eq!(watch.told("retrying"), ["retrying 1: the tenant did not answer in time"]);
}

#[tokio::test]
async fn a_link_that_has_run_out_is_renewed() {
    let auth0 = tenant(1000).await;
    auth0.set_link_lifetime(Duration::from_millis(300));
    auth0.fail("/exports/", Fault::Delay(Duration::from_millis(400)));
    let (users, watch) = watched(&auth0);
    let heard = everyone(&users, ALL).await;
    are_the_same(&heard, &expected(&auth0, |_| true));
    let statuses: Vec<_> = auth0.calls("/exports/").iter().map(|call| call.status.as_u16()).collect();
    assert_eq!(statuses, [403, 200]);
    assert!(watch.told("retrying")[0].contains("403"), "{:?}", watch.told("retrying"));
}

#[tokio::test]
async fn a_job_that_fails_is_replaced_twice() {
    let auth0 = tenant(1000).await;
    auth0.fail_exports(2);
    let heard = everyone(&users(&auth0), ALL).await;
    are_the_same(&heard, &expected(&auth0, |_| true));
    assert_eq!((heard.jobs.len(), auth0.counts().jobs), (3, 3));

    auth0.fail_exports(10);
    let heard = everyone(&users(&auth0), ALL).await;
    let text = heard.error.as_ref().unwrap().to_string();
    assert!(text.contains(&*heard.jobs[2]) && text.contains("failed at the tenant"), "{text}");
    assert_eq!(fault(heard.error), Some(ExportFault::Failed));
    assert_eq!((heard.jobs.len(), heard.users.len(), auth0.counts().jobs), (3, 0, 6));
}

#[tokio::test]
async fn a_job_is_gone_on_with_after_its_client_was_killed() {
    let auth0 = tenant(5000).await;
    let mut first = users(&auth0).everyone(ALL);
    let Some(Ok(Listed::Job(job))) = first.next().await else { panic!("no job") };
    assert!(matches!(first.next().await, Some(Ok(Listed::Users(_)))));
    drop(first);
    let heard = everyone(&users(&auth0), Listing { job: Some(job.clone()), ..ALL }).await;
    are_the_same(&heard, &expected(&auth0, |_| true));
    assert_eq!((heard.jobs, auth0.counts().jobs), (vec![job], 1));
}

#[tokio::test]
async fn a_job_that_was_forgotten_is_replaced() {
    let auth0 = tenant(1000).await;
    let job = Some("job_../of ?yesterday".into());
    let heard = everyone(&users(&auth0), Listing { job, ..ALL }).await;
    are_the_same(&heard, &expected(&auth0, |_| true));
    assert_eq!((heard.jobs.len(), auth0.counts().jobs), (2, 1));
    assert_ne!(heard.jobs[0], heard.jobs[1]);
}

#[tokio::test]
async fn a_job_that_is_forgotten_while_it_is_listed_is_not_replaced_by_one_that_lists_all_again() {
    let auth0 = tenant(5000).await;
    for _ in 0..8 {
        auth0.fail("/exports/", Fault::Truncate);
    }
    let mut listed = users(&auth0).everyone(ALL);
    let mut users = 0;
    let error = loop {
        match listed.next().await.unwrap() {
            Ok(Listed::Users(some)) => {
                users += some.len();
                auth0.set_job_lifetime(Duration::ZERO);
            }
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(users > 0 && users < 5000, "{users}");
    assert_eq!(fault(Some(error)), Some(ExportFault::Gone));
    assert_eq!(auth0.counts().jobs, 1);
}

#[tokio::test]
async fn the_users_of_a_connection_are_only_those() {
    let auth0 = tenant(3000).await;
    let users = users(&auth0);
    let google = |job| Listing { connection: Some("google-oauth2".into()), job, ..ALL };
    let heard = everyone(&users, google(None)).await;
    let of_google = expected(&auth0, |user| user.connection.name == "google-oauth2");
    assert!(!of_google.is_empty() && of_google.len() < 3000);
    are_the_same(&heard, &of_google);

    let heard = everyone(&users, Listing { connection: Some("nowhere".into()), ..ALL }).await;
    assert!(matches!(heard.error, Some(TenantError::Unknown { what: "connection", .. })), "{:?}", heard.error);

    // A job for others is not taken for one for these.
    let job = everyone(&users, google(None)).await.jobs.pop();
    let heard = everyone(&users, Listing { job: job.clone(), ..ALL }).await;
    assert_eq!(fault(heard.error), Some(ExportFault::Foreign));
    let heard = everyone(&users, Listing { connection: Some("email".into()), job, ..ALL }).await;
    assert_eq!(fault(heard.error), Some(ExportFault::Foreign));
}

#[tokio::test]
async fn who_cannot_be_read_or_judged_is_told_of() {
    let auth0 = tenant(100).await;
    let long = format!("auth0|{}", "x".repeat(300));
    auth0.add_user(User::new(&*long));
    auth0.add_user(User::new("auth0|masked").with("user_id", json!("*****")));
    auth0.add_user(
        User::new("auth0|huge").with("username", json!("x")).app_metadata("last_active", json!("x".repeat(2 << 20))),
    );
    auth0.add_user(User::new("auth0|odd").with("last_login", json!({ "at": "noon" })));
    auth0.add_user(User::new("auth0|text").app_metadata("last_active", json!("last week")));
    auth0.add_user(User::new("auth0|object").with("created_at", json!({ "$date": "2024-03-12T08:00:00.000Z" })));
    let heard = everyone(&users(&auth0), ALL).await;
    assert!(heard.error.is_none(), "{:?}", heard.error);
    assert_eq!((heard.users.len(), heard.unreadable), (103, 3));
    let user = |name: &str| &heard.users[&super::id(name)];
    assert!(user("auth0|odd").doubtful && user("auth0|text").doubtful && !user("auth0|object").doubtful);
    assert_eq!(user("auth0|object").created_at, Some("2024-03-12T08:00:00Z".parse().unwrap()));
}

#[tokio::test]
async fn activity_is_asked_for_by_the_name_that_it_has() {
    let auth0 = tenant(0).await;
    auth0.add_user(User::new("auth0|ada").app_metadata("seen", json!(1_777_680_000)));
    let heard = everyone(&users(&auth0).with_last_active("seen"), ALL).await;
    assert_eq!(heard.users[&super::id("auth0|ada")].last_active, Some("2026-05-02T00:00:00Z".parse().unwrap()));
}

#[tokio::test]
async fn an_export_that_was_begun_elsewhere_is_not_taken_for_one_of_people_who_never_logged_in() {
    let auth0 = tenant(100).await;
    let users = users(&auth0);
    // Nothing in it tells of logins.
    let order = json!({ "fields": [{ "name": "user_id" }, { "name": "created_at" }] });
    let begun = users.tenant().call(http::Method::POST, "/api/v2/jobs/users-exports", Some(&order)).await.unwrap();
    let job: serde_json::Value = begun.json().unwrap();
    let heard = everyone(&users, Listing { job: job["id"].as_str().map(Into::into), ..ALL }).await;
    assert_eq!(heard.users.len(), 0);
    assert_eq!(fault(heard.error), Some(ExportFault::Foreign));
}

#[tokio::test]
async fn a_place_that_cannot_be_trusted_is_not_gone_to() {
    let auth0 = tenant(10).await;
    auth0.fail(
        "/api/v2/jobs/job_",
        Fault::Garbage(r#"{"status":"completed","location":"http://files.example/x?sig=1"}"#),
    );
    let heard = everyone(&users(&auth0), ALL).await;
    assert!(!heard.error.as_ref().unwrap().to_string().contains("sig"));
    assert_eq!(fault(heard.error), Some(ExportFault::Insecure));
    assert_eq!(auth0.counts().downloads, 0);
}

#[tokio::test]
async fn who_may_not_export_is_told_so() {
    let auth0 = tenant(10).await;
    auth0.grant(&["update:users"]);
    let heard = everyone(&users(&auth0), ALL).await;
    let error = heard.error.unwrap();
    assert!(error.is_lasting() && error.to_string().contains("read:users"), "{error}");
    assert_eq!(auth0.calls("/api/v2/").len(), 1);
}

/// `PORTCULLIS_CHAOS_SEED` repeats a run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_on_the_way_everybody_is_listed_once() {
    let seeds = match std::env::var("PORTCULLIS_CHAOS_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => vec![1, 2],
    };
    for seed in seeds {
        let auth0 = tenant(5000).await;
        auth0.set_export_time(Duration::from_millis(400));
        auth0.set_chaos(Some(Chaos { hang_for: Duration::from_millis(700), ..Chaos::of_each(seed, 0.12) }));
        let patience = Patience { attempts: 20, stalled: Duration::from_millis(500), ..PATIENCE };
        let (users, watch) = watched(&auth0);
        let heard = everyone(&users.with_patience(patience), ALL).await;
        are_the_same(&heard, &expected(&auth0, |_| true));
        println!("PORTCULLIS_CHAOS_SEED={seed}: {:?}", watch.told("retrying"));
        assert_eq!(auth0.violations_told(), [""; 0], "{seed}");
    }
}
