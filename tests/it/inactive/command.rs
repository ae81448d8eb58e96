//! Finding and blocking, as an operator sees it.

use serde_json::json;

use super::{DAY, Site, days_ago, logged_in};
use crate::{
    gate::on_both_stores,
    support::{
        auth0::{Fault, User},
        full::{World, now},
    },
};

on_both_stores!(
    everyone_is_judged_by_all_evidence,
    who_is_blocked_is_blocked_at_the_issuer_and_here,
    without_a_management_api_the_record_is_all_there_is,
    only_those_who_are_asked_for_are_looked_at,
    a_failure_with_one_is_told_and_does_not_stop_the_run,
);

/// Ninety days that the operator vouches for.
const LONG: [&str; 4] = ["--for", "90d", "--recorded-since", "2020-01-01T00:00:00Z"];

async fn everyone_is_judged_by_all_evidence(world: World) {
    let site = Site::new(world).await;
    let tenant = &site.tenant;
    tenant.add_user(logged_in("auth0|gone", 200));
    tenant.add_user(logged_in("auth0|here", 20));
    // By the login alone, they would be.
    tenant.add_user(logged_in("auth0|refreshes", 200));
    site.recorded("auth0|refreshes", days_ago(3)).await;
    tenant.add_user(logged_in("auth0|tracked", 200).last_active(days_ago(5).as_millis()));
    tenant.add_user(logged_in("auth0|tracked-long-ago", 200).last_active_millis(days_ago(100).as_millis()));
    tenant.add_user(User::new("auth0|never").created_at(days_ago(150).as_millis()));
    tenant.add_user(User::new("auth0|new").created_at(days_ago(10).as_millis()));
    tenant.add_user(logged_in("auth0|blocked", 300).blocked(true));
    tenant.add_user(logged_in("auth0|odd", 300).with("last_login", json!("yesterday or so")));

    let ran = site.run(&[&LONG[..], &["--output", "json"]].concat()).await.ends_with(0);
    assert_eq!(
        ran.users(),
        ["auth0|gone found", "auth0|never found", "auth0|tracked-long-ago found", "auth0|odd left"]
    );
    let answer = ran.json();
    let evidence: Vec<_> = answer["users"].as_array().unwrap().iter().map(|user| user["evidence"].clone()).collect();
    assert_eq!(evidence, ["last_login", "created_at", "last_active", "created_at"]);
    let summary = &answer["summary"];
    let counts = ["known", "active", "inactive", "uncertain", "blocked_before"].map(|name| summary[name].as_u64());
    assert_eq!(counts, [9, 4, 3, 1, 1].map(Some), "{summary}");
    assert_eq!(tenant.counts().writes, 0);

    // A gate that has just begun to record says so, instead of calling anybody inactive but those who never logged in.
    let young = site.run(&["--for", "90d", "--block"]).await.ends_with(0);
    let young = young.says("inactive   1,").says("uncertain  3, not seen since, but perhaps active unseen");
    young.says("1 would be blocked; nothing was changed, --apply does it");
    // Nor does anybody's word go further than what is kept of the record.
    let long = ["--for", "401d", "--recorded-since", "2020-01-01T00:00:00Z", "--output", "json"];
    tenant.add_user(logged_in("auth0|ages", 1000));
    assert_eq!(site.run(&long).await.users(), ["auth0|ages left"]);
    // Unless logins do not last so long.
    let covered = site.run(&["--for", "90d", "--login-lifetime", "30d", "--output", "json"]).await;
    assert_eq!(covered.json()["users"][0]["covered_by"], "login_lifetime");
    assert_eq!(covered.json()["summary"]["inactive"], 4);
}

async fn who_is_blocked_is_blocked_at_the_issuer_and_here(world: World) {
    let token = world.token("auth0|gone", json!({}));
    let site = Site::new(world).await;
    site.tenant.add_user(logged_in("auth0|gone", 200));
    site.tenant.add_user(logged_in("saml|a b/ü?#%", 300));
    for number in 0..40 {
        site.tenant.add_user(logged_in(&format!("auth0|here{number}"), 1));
    }
    let block = [&LONG[..], &["--block"]].concat();
    let plan = site.run(&block).await.ends_with(0);
    plan.says("2 would be blocked; nothing was changed, --apply does it");
    assert_eq!(site.tenant.counts().writes, 0);
    assert_eq!(site.blocked("auth0|gone").await, (false, false));
    site.gate.expect(&token, "admit").await;
    // Who has just been there is not inactive any more.
    let ran = site.run(&[&block[..], &["--apply", "--revoke", "all", "--report", "run.ndjson"]].concat()).await;
    ran.ends_with(0).says("blocked 1; the report is run.ndjson");
    assert_eq!(site.blocked("auth0|gone").await, (false, false));
    assert_eq!(site.blocked("saml|a b/ü?#%").await, (true, true));
    assert_eq!(site.reported("run.ndjson"), ["saml|a b/ü?#% blocked"]);
    let done = site.tenant.done_to("saml|a b/ü?#%");
    assert_eq!((done.patches, done.access_revoked), (1, 1));
    assert_eq!(site.tenant.violations_told(), [""; 0]);
    let known = site.known("saml|a b/ü?#%").await;
    assert!(known["block"]["by"].as_str().unwrap().starts_with("inactive:"), "{known}");
    assert!(known["block"]["reason"].as_str().unwrap().starts_with("not active since "), "{known}");

    // The same again finds nobody.
    site.run(&[&block[..], &["--apply"]].concat()).await.ends_with(0).says("blocked    1").says("nobody was blocked");
    // A report is not overwritten.
    let again = site.run(&[&block[..], &["--apply", "--report", "run.ndjson"]].concat()).await.ends_with(1);
    again.complains("run.ndjson is there already, and is not a report of run");

    let unblock = site.program(&["unblock", "saml|a b/ü?#%", "--issuer-too"]).spawn().unwrap();
    Site::ran(unblock).await.ends_with(0).says("unblocked");
    // Whoever is unblocked has the whole time again.
    assert_eq!(site.blocked("saml|a b/ü?#%").await, (false, false));
    let plan = site.run(&block).await;
    plan.ends_with(0).says("inactive   0");
}

async fn without_a_management_api_the_record_is_all_there_is(world: World) {
    let site = Site::new(world).await;
    site.recorded("auth0|gone", days_ago(200)).await;
    site.recorded("auth0|here", days_ago(2)).await;
    site.recorded("service@clients", days_ago(300)).await;
    let ours = [&LONG[..], &["--markers-only", "--max-share", "100%", "--block"]].concat();
    site.run(&ours).await.ends_with(0).says("3 users of acme that were admitted here").says("excluded   1");
    site.run(&[&ours[..], &["--apply"]].concat()).await.ends_with(0).says("blocked 1");
    assert_eq!(site.known("auth0|gone").await["block"]["blocked"], true);
    assert_eq!(site.known("auth0|here").await["block"], json!(null));
    assert_eq!(site.tenant.counts().reads, 0);
    let revoke = site.run(&[&ours[..], &["--revoke", "all"]].concat()).await.ends_with(1);
    revoke.complains("--revoke needs the issuer's Management API");
}

async fn only_those_who_are_asked_for_are_looked_at(world: World) {
    let site = Site::new(world).await;
    for id in [
        "auth0|ceo",
        "auth0|admin",
        "auth0|test-1",
        "auth0|test-2",
        "google-oauth2|1",
        "auth0|kept",
        "auth0|a",
        "auth0|b",
    ] {
        // Each at its own time: those who are gone longest come first.
        let days = match id {
            "auth0|b" => 400,
            "auth0|a" => 300,
            _ => 200,
        };
        site.tenant.add_user(logged_in(id, days));
    }
    let role = site.tenant.add_role("admins");
    assert!(site.tenant.assign_role(&role, ["auth0|admin"]));
    std::fs::write(site.path("keep.txt"), "# these stay\nauth0|kept\n").unwrap();
    let exclude =
        ["--exclude", "auth0|ceo", "--exclude", "*|test-*", "--exclude-file", "keep.txt", "--exclude-role", "admins"];
    let ours = [&LONG[..], &exclude, &["--output", "json"]].concat();
    assert_eq!(site.run(&ours).await.users(), ["auth0|b found", "auth0|a found", "google-oauth2|1 found"]);
    let google = site.run(&[&ours[..], &["--connection", "google-oauth2"]].concat()).await.ends_with(0);
    assert_eq!(google.users(), ["google-oauth2|1 found"]);
    assert_eq!(site.run(&[&ours[..], &["--limit", "1"]].concat()).await.users(), ["auth0|b found"]);
    let searched = site.run(&[&ours[..], &["--search"]].concat()).await.ends_with(0);
    assert_eq!(searched.users().len(), 3);
    let csv = site.run(&[&LONG[..], &exclude, &["--output", "csv"]].concat()).await.ends_with(0).out;
    assert!(csv.starts_with("user,outcome,standing,last,evidence,"), "{csv}");
    assert!(csv.lines().nth(1).unwrap().starts_with("auth0|b,found,inactive,20"), "{csv}");
    let table = site.run(&LONG).await.ends_with(0);
    table.says("USER ").says("auth0|b ").says("8 users of acme that the issuer knows");
    let unknown = site.run(&[&LONG[..], &["--exclude-role", "nobody"]].concat()).await.ends_with(1);
    unknown.complains("nobody");
}

async fn a_failure_with_one_is_told_and_does_not_stop_the_run(world: World) {
    let site = Site::new(world).await;
    for id in ["auth0|a", "auth0|b", "auth0|c", "auth0|d"] {
        site.tenant.add_user(logged_in(id, 200));
    }
    site.tenant.fail("/api/v2/users/auth0%7Cb", Fault::Status(400));
    let ran = site
        .run(&[&LONG[..], &["--block", "--apply", "--max-share", "100%", "--report", "run.ndjson"]].concat())
        .await
        .ends_with(3);
    ran.says("blocked 3, failed 1");
    let mut reported = site.reported("run.ndjson");
    reported.retain(|line| line.starts_with("auth0|b"));
    assert_eq!(reported, ["auth0|b failed"]);
    assert_eq!(site.blocked("auth0|b").await, (false, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_are_not_blocked() {
    let site = Site::new(World::embedded().await).await;
    for number in 0..10 {
        site.tenant.add_user(logged_in(&format!("auth0|gone{number}"), 200));
        site.tenant.add_user(logged_in(&format!("auth0|here{number}"), 1));
    }
    let apply = [&LONG[..], &["--block", "--apply"]].concat();
    let share = site.run(&apply).await.ends_with(1);
    share.complains("10 of 20 users would be blocked, 50.0 %, more than the 5 % that a run may block");
    let max = site
        .run(&[&apply[..], &["--max-share", "100%", "--max", "9", "--report", "run.ndjson"]].concat())
        .await
        .ends_with(1);
    max.complains("10 users would be blocked, more than the 9 that a run may block");
    assert_eq!(site.tenant.counts().writes, 0);
    assert_eq!(site.tenant.counts().jobs, 1, "what was refused goes on with the same export");
    let dry = site.run(&[&LONG[..], &["--block"]].concat()).await.ends_with(0);
    dry.says("it would be refused: 10 of 20 users");
    let limit = site
        .run(&[&apply[..], &["--max-share", "10%", "--limit", "2", "--report", "run.ndjson"]].concat())
        .await
        .ends_with(0);
    limit.says("blocked 2");
    assert_eq!(site.reported("run.ndjson").len(), 2);
    assert_eq!(site.tenant.patched().0, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_told_before_anything_is() {
    let site = Site::new(World::embedded().await).await;
    site.tenant.add_user(logged_in("auth0|gone", 200));
    site.tenant.grant(&["read:users"]);
    let apply = [&LONG[..], &["--block", "--apply"]].concat();
    site.run(&apply).await.ends_with(1).complains("grant it update:users on the Management API");
    assert_eq!(site.tenant.counts().writes, 0);
    site.run(&["--block"]).await.ends_with(1).complains("give --for, such as --for 90d");
    site.run(&["--for", "ninety"]).await.ends_with(2).complains("--for");
    site.run(&["--for", "90d", "--apply"]).await.ends_with(2).complains("--block");
    site.run(&["--for", "90d", "--block", "--max-share", "5"]).await.ends_with(2).complains("write a share such as 5%");
    site.run(&["--for", "90d", "--issuer", "other"]).await.ends_with(1).complains("no such issuer");
    site.run(&["undo", "nothing.ndjson"]).await.ends_with(1).complains("nothing.ndjson cannot be written or read");
}

/// The documented trap: a blocked user who tries to log in moves `last_login`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_of_a_blocked_user_is_no_activity() {
    let site = Site::new(World::embedded().await).await;
    site.tenant.add_user(logged_in("auth0|gone", 200));
    let apply = [&LONG[..], &["--block", "--apply", "--max-share", "100%"]].concat();
    site.run(&apply).await.ends_with(0).says("blocked 1");
    site.tenant.attempt_login("auth0|gone");
    assert!(site.tenant.user("auth0|gone").unwrap().last_login.unwrap() > now().minus(DAY).as_millis());
    site.run(&apply).await.ends_with(0).says("blocked    1").says("active").says("nobody was blocked");
    assert_eq!(site.tenant.done_to("auth0|gone").patches, 1);
}

/// Between the last look and the block, there is a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_in_the_last_moment_is_not_blocked() {
    let site = Site::new(World::embedded().await).await;
    for id in ["auth0|reads", "auth0|logs-in", "auth0|gone"] {
        site.tenant.add_user(logged_in(id, 200));
    }
    let log_in = |user: &mut User| user.last_login = Some(now().as_millis());
    site.tenant.change_before("GET /api/v2/users/auth0%7Creads", "auth0|reads", log_in);
    site.tenant.change_before("PATCH /api/v2/users/auth0%7Clogs%2Din", "auth0|logs-in", log_in);
    let apply = [&LONG[..], &["--block", "--apply", "--max-share", "100%", "--report", "run.ndjson"]].concat();
    site.run(&apply).await.ends_with(0).says("active 2, blocked 1");
    assert_eq!(site.reported("run.ndjson"), ["auth0|gone blocked", "auth0|logs-in active", "auth0|reads active"]);
    for id in ["auth0|reads", "auth0|logs-in"] {
        assert_eq!(site.blocked(id).await, (false, false), "{id}");
    }
    assert_eq!(site.tenant.done_to("auth0|reads").patches, 0, "nothing had to be taken back");
}

/// What a call came to is not told by the answer to the one after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_was_done_and_then_refused_is_done() {
    let site = Site::new(World::embedded().await).await;
    site.tenant.add_user(logged_in("auth0|gone", 200));
    site.tenant.fail("PATCH /api/v2/users/", Fault::CutBody);
    site.tenant.fail("PATCH /api/v2/users/", Fault::Status(400));
    let apply = [&LONG[..], &["--block", "--apply", "--max-share", "100%"]].concat();
    site.run(&apply).await.ends_with(0).says("blocked 1; the report is inactive-acme-");
    assert_eq!(site.blocked("auth0|gone").await, (true, true));
    let reports = std::fs::read_dir(site.path(""))
        .unwrap()
        .filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().starts_with("inactive-acme-"));
    assert_eq!(reports.count(), 1, "what can be taken back is written down, asked for or not");
}
