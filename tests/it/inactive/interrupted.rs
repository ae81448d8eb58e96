//! Runs that are killed: nobody is left blocked in one place only, nobody is blocked twice, and the report tells of everybody once.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::{Site, logged_in};
use crate::{
    gate::on_both_stores,
    support::{
        auth0::{Fault, Limit},
        eventually,
        full::World,
        wire::Wire,
    },
};

on_both_stores!(
    a_run_that_is_killed_again_and_again_ends_as_if_it_never_was,
    who_was_blocked_in_one_place_only_is_repaired
);

const APPLY: [&str; 11] = [
    "--for",
    "90d",
    "--recorded-since",
    "2020-01-01T00:00:00Z",
    "--max-share",
    "100%",
    "--block",
    "--apply",
    "--report",
    "run.ndjson",
    "--output=text",
];

const RUN: &str = "/v1/issuers/acme/inactive/run";

/// What the store keeps of a run.
async fn kept(site: &Site) -> Value {
    site.gate.change(Method::GET, RUN, Value::Null).await
}

/// Spares the wait for the lease of a run that was killed to run out.
async fn let_go(site: &Site) {
    if let Some(owner) = kept(site).await["owner"].as_str() {
        site.gate.change(Method::DELETE, RUN, json!({ "owner": owner })).await;
    }
}

async fn a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(world: World) {
    let site = Site::new(world).await;
    let users: Vec<String> = (0..150).map(|number| format!("auth0|{number:03}")).collect();
    for user in &users {
        site.tenant.add_user(logged_in(user, 200));
    }
    site.tenant.limit(Limit { burst: 40, per_second: 200.0, retry_after: false });
    for kill in 1..=4 {
        let mut child = site.begin(&APPLY);
        let enough = kill * 25;
        eventually("some are blocked", async || site.tenant.patched().0 >= enough).await;
        child.kill().await.unwrap();
        let_go(&site).await;
    }
    assert_ne!(kept(&site).await["progress"], Value::Null, "it can go on");
    let ran = site.run(&APPLY).await.ends_with(0);
    ran.says("goes on; it had blocked ");
    for user in &users {
        assert_eq!(site.blocked(user).await, (true, true), "{user}");
    }
    assert_eq!(site.tenant.patched(), (150, 1), "everybody once");
    let told: Vec<String> =
        site.reported("run.ndjson").iter().map(|line| line.replace("repaired", "blocked")).collect();
    assert_eq!(told, users.iter().map(|user| format!("{user} blocked")).collect::<Vec<_>>());
    assert_eq!(kept(&site).await, json!({ "issuer": "acme", "owner": null, "progress": null, "unfinished": {} }));
    assert_eq!(site.tenant.counts().jobs, 1, "the export is used again");
}

async fn who_was_blocked_in_one_place_only_is_repaired(world: World) {
    let site = Site::new(world).await;
    for user in ["auth0|a", "auth0|b"] {
        site.tenant.add_user(logged_in(user, 200));
    }
    // The second call about a user is the PATCH: it is done, and nobody hears of it.
    site.tenant.fail("/api/v2/users/auth0%7Ca", Fault::Delay(Duration::ZERO));
    site.tenant.fail("/api/v2/users/auth0%7Ca", Fault::DoneThenHang);
    let mut child = site.begin(&APPLY);
    eventually("one is blocked at the issuer", async || site.tenant.is_blocked("auth0|a")).await;
    eventually("the other is blocked", async || site.blocked("auth0|b").await == (true, true)).await;
    child.kill().await.unwrap();
    assert_eq!(site.blocked("auth0|a").await, (true, false));
    assert!(
        kept(&site).await["unfinished"]
            .as_object()
            .unwrap()
            .values()
            .any(|kept| kept.as_str().unwrap().contains("auth0|a"))
    );
    let_go(&site).await;
    // Another question is another run, and ends what was begun as well.
    let other = [&APPLY[..], &["--exclude", "auth0|zzz"]].concat();
    let other: Vec<&str> =
        other.into_iter().map(|word| if word == "run.ndjson" { "other.ndjson" } else { word }).collect();
    site.run(&other).await.ends_with(0).says("repaired");
    assert_eq!(site.blocked("auth0|a").await, (true, true));
    assert_eq!(site.tenant.done_to("auth0|a").patches, 1);
    assert!(site.reported("other.ndjson").contains(&"auth0|a repaired".to_owned()));
}

/// Whom somebody unblocked at the issuer meanwhile is not blocked again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_unblocked_meanwhile_stays_so() {
    let site = Site::new(World::embedded().await).await;
    site.tenant.add_user(logged_in("auth0|a", 200));
    // It is blocked at both, and killed while the refresh tokens are being revoked.
    site.tenant.fail("/api/v2/users/auth0%7Ca/revoke-access", Fault::Hang);
    let revoke = [&APPLY[..], &["--revoke", "all"]].concat();
    let mut child = site.begin(&revoke);
    eventually("it is blocked", async || site.blocked("auth0|a").await == (true, true)).await;
    child.kill().await.unwrap();
    site.tenant.change_user("auth0|a", |user| user.blocked = Some(false));
    // Without the shortcut: the lease runs out.
    let ran = site.run(&revoke).await.ends_with(0);
    ran.says("unblocked meanwhile 1").says("run ").complains("waiting for another run to end");
    assert_eq!(site.blocked("auth0|a").await, (false, false));
    assert_eq!(site.reported("run.ndjson"), ["auth0|a unblocked_meanwhile"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runs_do_not_go_on_at_once() {
    let site = Site::new(World::embedded().await).await;
    for number in 0..60 {
        site.tenant.add_user(logged_in(&format!("auth0|{number:03}"), 200));
    }
    site.tenant.limit(Limit { burst: 40, per_second: 100.0, retry_after: false });
    let first = site.begin(&APPLY);
    eventually("it blocks", async || site.tenant.patched().0 > 5).await;
    let other: Vec<&str> =
        APPLY.into_iter().map(|word| if word == "run.ndjson" { "other.ndjson" } else { word }).collect();
    let (first, second) = tokio::join!(Site::ran(first), site.run(&other));
    first.ends_with(0).says("blocked 60");
    second.ends_with(0).says("nobody was blocked");
    assert_eq!(site.tenant.patched(), (60, 1));
}

/// A signal lets a run end in order: others may run at once, and it goes on when it is asked for again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_interrupted_by_hand_lets_go() {
    let site = Site::new(World::embedded().await).await;
    for number in 0..200 {
        site.tenant.add_user(logged_in(&format!("auth0|{number:03}"), 200));
    }
    site.tenant.limit(Limit { burst: 40, per_second: 100.0, retry_after: false });
    let child = site.begin(&APPLY);
    eventually("it blocks", async || site.tenant.patched().0 > 5).await;
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    Site::ran(child).await.ends_with(1).complains("start again, and it goes on where it was");
    assert_eq!(kept(&site).await["owner"], Value::Null);
    site.run(&APPLY).await.ends_with(0).says("goes on");
    assert_eq!(site.tenant.patched(), (200, 1));
    assert_eq!(site.reported("run.ndjson").len(), 200);
}

/// A gate that is restarted, or a network that fails, holds a run up and does not end it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_that_is_away_for_a_moment_is_waited_for() {
    let site = Site::new(World::embedded().await).await;
    for number in 0..100 {
        site.tenant.add_user(logged_in(&format!("auth0|{number:03}"), 200));
    }
    site.tenant.limit(Limit { burst: 40, per_second: 100.0, retry_after: false });
    let wire = Wire::to(site.gate.admin.port()).await;
    let mut command = site.program(&[&["inactive"], &APPLY[..]].concat());
    let child = command.env("PORTCULLIS_ADMIN_URL", wire.url().replace("redis://", "http://")).spawn().unwrap();
    eventually("some are blocked", async || site.tenant.patched().0 > 10).await;
    wire.cut();
    let cut = tokio::time::Instant::now();
    eventually("it is away for longer than a call takes", async || cut.elapsed() > Duration::from_secs(2)).await;
    let away = site.tenant.patched().0;
    assert!(away < 100);
    wire.heal();
    Site::ran(child).await.ends_with(0).says("blocked 100");
    assert_eq!(site.tenant.patched(), (100, 1));
}

/// A limit is one of the whole run, however often it is interrupted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_holds_for_all_of_a_run() {
    let site = Site::new(World::embedded().await).await;
    for number in 0..100 {
        site.tenant.add_user(logged_in(&format!("auth0|{number:03}"), 200));
    }
    site.tenant.limit(Limit { burst: 40, per_second: 100.0, retry_after: false });
    let limited = [&APPLY[..], &["--limit", "50", "--max", "50"]].concat();
    let mut child = site.begin(&limited);
    eventually("some are blocked", async || site.tenant.patched().0 > 20).await;
    child.kill().await.unwrap();
    let_go(&site).await;
    site.run(&limited).await.ends_with(0).says("goes on");
    assert_eq!(site.tenant.patched(), (50, 1));
    assert_eq!(site.reported("run.ndjson").len(), 50);
}

/// A run that is killed when one user is blocked at the issuer alone, and nobody else is.
async fn blocked_at_the_issuer_alone(site: &Site, arguments: &[&str]) {
    site.tenant.fail("PATCH /api/v2/users/auth0%7Ca", Fault::DoneThenHang);
    let mut child = site.begin(arguments);
    eventually("one is blocked at the issuer", async || site.tenant.is_blocked("auth0|a")).await;
    child.kill().await.unwrap();
    let_go(site).await;
    assert_eq!(site.blocked("auth0|a").await, (true, false));
}

/// What a run ends with is what another had done already, and nothing that nobody has agreed to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_whom_nothing_was_done_nothing_is_done() {
    let site = Site::new(World::embedded().await).await;
    for user in ["auth0|a", "auth0|b"] {
        site.tenant.add_user(logged_in(user, 200));
    }
    // One is blocked, the other is begun with.
    site.tenant.fail("GET /api/v2/users/auth0%7Cb", Fault::Hang);
    blocked_at_the_issuer_alone(&site, &APPLY).await;
    assert_eq!(kept(&site).await["unfinished"].as_object().unwrap().len(), 2);
    let refused = [&APPLY[..8], &["--max", "0", "--report", "other.ndjson"]].concat();
    site.run(&refused).await.ends_with(1).says("repaired 1").complains("more than the 0 that a run may block");
    assert_eq!(site.blocked("auth0|a").await, (true, true));
    assert_eq!(site.blocked("auth0|b").await, (false, false));
    assert_eq!(site.tenant.patched(), (1, 1));
    assert_eq!(kept(&site).await["unfinished"], json!({}));

    // It is taken back by the report that tells of it.
    site.run(&["undo", "other.ndjson", "--apply"]).await.ends_with(0).says("unblocked 1");
    assert_eq!(site.blocked("auth0|a").await, (false, false));
}

/// Whoever does not ask the issuer leaves to others what has to do with it, and the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_ask_the_issuer_and_runs_that_do_not_leave_each_other_alone() {
    let site = Site::new(World::embedded().await).await;
    site.tenant.add_user(logged_in("auth0|a", 200));
    blocked_at_the_issuer_alone(&site, &APPLY).await;
    let here = [&APPLY[..8], &["--markers-only", "--report", "here.ndjson"]].concat();
    site.run(&here).await.ends_with(0).says("nobody was blocked");
    assert_eq!(site.blocked("auth0|a").await, (true, false));
    assert_eq!(kept(&site).await["unfinished"].as_object().unwrap().len(), 1);
    let there = [&APPLY[..8], &["--report", "there.ndjson"]].concat();
    site.run(&there).await.ends_with(0).says("repaired 1");
    assert_eq!(site.blocked("auth0|a").await, (true, true));
}

/// What was asked for is done to the end, whatever the next run is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_to_be_revoked_is_revoked() {
    let site = Site::new(World::embedded().await).await;
    site.tenant.add_user(logged_in("auth0|a", 200));
    blocked_at_the_issuer_alone(&site, &[&APPLY[..], &["--revoke", "all"]].concat()).await;
    site.run(&APPLY).await.ends_with(0).says("repaired 1");
    assert_eq!(site.tenant.done_to("auth0|a").access_revoked, 1);
}
