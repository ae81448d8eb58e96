//! Runs that gateways begin by themselves.

use std::{fs, path::Path, time::Duration};

use portcullis::inactive::report::{Line, Lines};

use super::{logged_in, with_tenant};
use crate::{
    gate::on_both_stores,
    support::{
        auth0::{Auth0, CLIENT_ID, CLIENT_SECRET, Limit},
        eventually, eventually_within,
        full::{Gate, Setup, World},
        program,
    },
};

on_both_stores!(a_gateway_blocks_them_by_itself, without_block_it_only_reports, it_stops_at_the_brakes);

fn scheduled<'w>(setup: Setup<'w>, tenant: &Auth0, reports: &Path) -> Setup<'w> {
    with_tenant(setup, tenant)
        .with("INACTIVE_FOR", "90d")
        .with("INACTIVE_RECORDED_SINCE", "2020-01-01")
        .with("INACTIVE_EVERY", "1d")
        .with("INACTIVE_JITTER", "0s")
        .with("INACTIVE_MAX_SHARE", "50%")
        .with("INACTIVE_REPORTS", reports.to_str().unwrap())
}

async fn tenant() -> Auth0 {
    let tenant = Auth0::start().await;
    tenant.set_export_time(Duration::from_millis(50));
    for number in 0..10 {
        tenant.add_user(logged_in(&format!("auth0|gone{number}"), 200));
        tenant.add_user(logged_in(&format!("auth0|here{number}"), 1));
    }
    tenant
}

fn reports_in(directory: &Path) -> Vec<Vec<Line>> {
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    files.map(|path| Lines::open(&path).unwrap().filter_map(Result::ok).collect()).collect()
}

async fn runs(gates: &[&Gate], result: &str) -> f64 {
    let sample = format!("portcullis_inactive_runs_total{{issuer=\"acme\",result=\"{result}\"}}");
    let mut all = 0.0;
    for gate in gates {
        all += gate.metric(&sample).await;
    }
    all
}

async fn a_gateway_blocks_them_by_itself(world: World) {
    let (tenant, directory) = (tenant().await, tempfile::tempdir().unwrap());
    let setup = || scheduled(world.gate(), &tenant, directory.path()).with("INACTIVE_BLOCK", "true");
    let gate = setup().start().await;
    eventually("a run is over", async || runs(&[&gate], "done").await > 0.0).await;
    assert_eq!(tenant.patched(), (10, 1));
    let block = &gate.look_up("auth0|gone3").await["block"];
    assert_eq!((&block["blocked"], &block["source"]), (&true.into(), &"inactive".into()));
    let all = reports_in(directory.path());
    assert_eq!((all.len(), all[0].len()), (1, 12));
    assert!(matches!(&all[0][11], Line::Summary(summary) if summary.outcomes["blocked"] == 10));
    assert!(gate.metric("portcullis_inactive_last_run_timestamp_seconds{issuer=\"acme\"}").await > 1e9);
    let found = "portcullis_inactive_users{issuer=\"acme\",standing=\"inactive\"}";
    assert!((gate.metric(found).await - 10.0).abs() < 0.1);
    assert!(
        (gate.metric("portcullis_inactive_outcomes_total{issuer=\"acme\",outcome=\"blocked\"}").await - 10.0).abs()
            < 0.1
    );
    gate.instance.stop().await;

    // Nor is it done again because a gateway starts.
    tenant.add_user(logged_in("auth0|gone-too", 200));
    let gate = setup().start().await;
    let begun = tokio::time::Instant::now();
    eventually("it would have begun", async || begun.elapsed() > Duration::from_secs(4)).await;
    assert!(runs(&[&gate], "done").await < 0.5);
    assert!(!tenant.is_blocked("auth0|gone-too"));
}

async fn without_block_it_only_reports(world: World) {
    let (tenant, directory) = (tenant().await, tempfile::tempdir().unwrap());
    let gate = scheduled(world.gate(), &tenant, directory.path()).start().await;
    eventually("a run is over", async || runs(&[&gate], "done").await > 0.0).await;
    assert_eq!(tenant.counts().writes, 0);
    let all = reports_in(directory.path());
    assert_eq!(all[0].iter().filter(|line| matches!(line, Line::User(line) if line.outcome == "found")).count(), 10);
}

async fn it_stops_at_the_brakes(world: World) {
    let (tenant, directory) = (tenant().await, tempfile::tempdir().unwrap());
    let gate = scheduled(world.gate(), &tenant, directory.path())
        .with("INACTIVE_BLOCK", "true")
        .with("INACTIVE_MAX", "9")
        .start()
        .await;
    eventually("a run is over", async || runs(&[&gate], "braked").await > 0.0).await;
    assert_eq!(tenant.counts().writes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_gateway_of_a_fleet_does_it() {
    let Some(world) = World::redis().await else { return };
    let (tenant, directory) = (tenant().await, tempfile::tempdir().unwrap());
    let setup = || scheduled(world.gate(), &tenant, directory.path()).with("INACTIVE_BLOCK", "true");
    let (one, two, three) = tokio::join!(setup().start(), setup().start(), setup().start());
    let gates = [&one, &two, &three];
    eventually("a run is over", async || runs(&gates, "done").await > 0.0).await;
    assert_eq!(tenant.patched(), (10, 1));
    assert_eq!(reports_in(directory.path()).len(), 1);
    assert!(runs(&gates, "done").await < 1.5);
}

/// A gateway that is killed in the middle of a run of its own goes on when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_killed_goes_on_with_its_run() {
    let tenant = Auth0::start().await;
    tenant.set_export_time(Duration::from_millis(50));
    for number in 0..120 {
        tenant.add_user(logged_in(&format!("auth0|{number:03}"), 200));
    }
    tenant.limit(Limit { burst: 40, per_second: 200.0, retry_after: false });
    let reports = tempfile::tempdir().unwrap();
    let more = format!(
        "[issuers.main.management]\ndomain = {:?}\nclient_id = {CLIENT_ID:?}\nclient_secret_file = \"m2m\"\nrate_share = 100\n\
         [inactive]\nfor = \"90d\"\nrecorded_since = \"2020-01-01\"\nevery = \"1d\"\njitter = \"0s\"\nblock = true\n\
         max_share = \"100%\"\nreports = {:?}\n",
        tenant.base(),
        reports.path()
    );
    let mut gate = program::Gate::setup().and(&more).secret("m2m", CLIENT_SECRET).start().await;
    for enough in [20, 60] {
        eventually("some are blocked", async || tenant.patched().0 >= enough).await;
        gate.kill_and_restart().await;
    }
    let runs = "portcullis_inactive_runs_total{issuer=\"main\",result=\"done\"} 1";
    eventually_within(Duration::from_secs(60), "the run is over", async || {
        gate.admin().get("/metrics").await.text().contains(runs)
    })
    .await;
    assert_eq!(tenant.patched(), (120, 1), "everybody once");
    let all = reports_in(reports.path());
    assert_eq!(all.len(), 1, "one run, one report");
    let told: Vec<_> = all[0].iter().filter(|line| matches!(line, Line::User(_))).collect();
    assert_eq!(told.len(), 120);
    assert!(matches!(all[0].last(), Some(Line::Summary(_))));
    for number in [0, 50, 119] {
        let known = gate.admin().get(&format!("/v1/subjects/main/auth0%7C{number:03}")).await.json();
        assert_eq!(known["block"]["blocked"], true);
    }
}
