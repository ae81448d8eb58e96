//! Taking back a run.

use http::Method;
use serde_json::json;

use super::{Site, logged_in};
use crate::{
    gate::on_both_stores,
    support::full::{World, subject_path},
};

on_both_stores!(a_run_is_taken_back_by_its_report);

const APPLY: [&str; 8] =
    ["--for", "90d", "--recorded-since", "2020-01-01T00:00:00Z", "--max-share", "100%", "--block", "--apply"];

async fn a_run_is_taken_back_by_its_report(world: World) {
    let site = Site::new(world).await;
    let users = ["auth0|a", "auth0|b", "auth0|c", "auth0|d"];
    for user in users {
        site.tenant.add_user(logged_in(user, 200));
    }
    site.run(&[&APPLY[..], &["--report", "run.ndjson"]].concat()).await.ends_with(0).says("blocked 4");
    let dry = site.run(&["undo", "run.ndjson"]).await.ends_with(0);
    dry.says("4 users that run ").says("would be unblocked; nothing was changed, --apply does it");
    assert_eq!(site.blocked("auth0|a").await, (true, true));

    // One was blocked by an operator since, one unblocked, one is gone.
    site.gate
        .change(Method::PUT, &subject_path("auth0|b", "/block"), json!({ "by": "cli:eve", "reason": "fraud" }))
        .await;
    site.gate.change(Method::DELETE, &subject_path("auth0|c", "/block"), json!({})).await;
    site.tenant.change_user("auth0|c", |user| user.blocked = Some(false));
    assert!(site.tenant.remove_user("auth0|d"));
    let undone = site.run(&["undo", "run.ndjson", "--apply", "--report", "undo.ndjson"]).await.ends_with(0);
    undone.says("blocked by another 1, gone 1, not blocked 1, unblocked 1");
    let expected = ["auth0|a unblocked", "auth0|b blocked_by_another", "auth0|c not_blocked", "auth0|d gone"];
    assert_eq!(site.reported("undo.ndjson"), expected);
    assert_eq!(site.blocked("auth0|a").await, (false, false));
    assert_eq!(site.blocked("auth0|b").await, (true, true));

    let active = site.known("auth0|a").await["last_activity"].as_str().unwrap().parse().unwrap();
    assert!(super::days_ago(1) < active, "longer than the cleared block is kept");
    // It counts as activity, so that the next run does not block them again at once.
    site.run(&APPLY).await.ends_with(0).says("nobody was blocked");
    site.run(&["undo", "run.ndjson", "--apply"]).await.ends_with(0).says("not blocked 2");
    let undo = site.run(&["undo", "undo.ndjson"]).await.ends_with(1);
    undo.complains("is of a run that blocked nobody (undo)");
}

/// What somebody did at the issuer is not taken back with what was done here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_left_the_issuer_alone_is_taken_back_here_alone() {
    let site = Site::new(World::embedded().await).await;
    site.tenant.add_user(logged_in("auth0|fraud", 200).blocked(true));
    site.recorded("auth0|fraud", super::days_ago(200)).await;
    let here = [&APPLY[..], &["--markers-only", "--report", "run.ndjson"]].concat();
    site.run(&here).await.ends_with(0).says("blocked 1");
    site.run(&["undo", "run.ndjson", "--apply"]).await.ends_with(0).says("unblocked 1");
    assert_eq!(site.blocked("auth0|fraud").await, (true, false));
    assert_eq!(site.tenant.counts().writes, 0);
}

/// A crash, or a full disk, leaves half a line at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_breaks_off_is_taken_back_as_far_as_it_goes() {
    let site = Site::new(World::embedded().await).await;
    for number in 0..8 {
        site.tenant.add_user(logged_in(&format!("auth0|{number}"), 200));
    }
    site.run(&[&APPLY[..], &["--report", "run.ndjson"]].concat()).await.ends_with(0).says("blocked 8");
    let text = std::fs::read_to_string(site.path("run.ndjson")).unwrap();
    std::fs::write(site.path("torn.ndjson"), &text[..text.len() - 40]).unwrap();
    site.run(&["undo", "torn.ndjson", "--apply"]).await.ends_with(0).says("unblocked 8");
    let lines: Vec<_> = text.lines().collect();
    std::fs::write(site.path("odd.ndjson"), format!("{}\n{}\n{{}}\n{}\n", lines[0], lines[1], lines[2])).unwrap();
    site.run(&["undo", "odd.ndjson"]).await.ends_with(1).complains("odd.ndjson, line 3: not a line of a report");
}
