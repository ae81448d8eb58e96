//! Gateways that end in the middle of things, and clocks that jump.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use crate::{
    fleet::{Fleet, MAX_STALENESS, Plan, WHILE, durable_world, load_on_redis, set_at, subject},
    load::{Connection, Load},
    recorder::Token,
    support::{eventually, full::World, program::program},
};

/// It is killed while it acknowledges logouts; what it acknowledged is there, and enforced by the others and by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_killed_while_it_acknowledges() {
    let Some(world) = durable_world().await else { return };
    let mut fleet = Fleet::start(world, vec![Plan::process(), Plan::process(), Plan::here()]).await;
    // Only those that are killed write.
    let load = Load::with_writers(&fleet, &fleet.places()[..2], None);
    for round in 0..6 {
        // Not in step with the writers.
        fleet.run_for(Duration::from_millis(400 + 37 * round)).await;
        let gateway = usize::try_from(round % 2).unwrap();
        fleet.restart(gateway, Duration::from_millis(50 * round)).await;
    }
    fleet.recovers().await;
    let report = fleet.finish(load).await;
    assert!(report.unanswered > 0, "the end of a gateway was felt: {report}");
}

/// What the embedded store acknowledged survives the end of its only gateway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_with_an_embedded_store_that_is_killed_while_it_acknowledges() {
    let mut fleet = Fleet::start(World::embedded().await, vec![Plan::process()]).await;
    let load = Load::start(&fleet, None);
    for round in 0..5 {
        fleet.run_for(Duration::from_millis(400 + 37 * round)).await;
        fleet.restart(0, Duration::ZERO).await;
    }
    fleet.recovers().await;
    let report = fleet.finish(load).await;
    assert!(report.unanswered > 0, "the end of the gateway was felt: {report}");
}

/// What it knew when it fell asleep is old when it wakes up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_sleeps() {
    let Some(world) = durable_world().await else { return };
    let fleet = Fleet::start(world, vec![Plan::here(), Plan::process(), Plan::process()]).await;
    let raw = set_at(fleet.world.server().url());
    let load = Load::with_writers(&fleet, &fleet.places()[..1], Some(&raw));
    fleet.run_for(WHILE).await;
    for sleep in [MAX_STALENESS / 2, MAX_STALENESS * 3 / 2, MAX_STALENESS * 3] {
        for gateway in [1, 2] {
            fleet.recorder.goes_down(gateway, Instant::now());
            fleet.gateways[gateway].stop();
        }
        fleet.run_for(sleep).await;
        for gateway in [1, 2] {
            fleet.gateways[gateway].cont();
            fleet.recorder.is_up(gateway, Instant::now());
        }
        fleet.recovers().await;
    }
    fleet.finish(load).await;
}

/// One directory, one process: a second one would not hear of the first one's markers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_gateway_on_one_directory_is_refused() {
    let fleet = Fleet::start(World::embedded().await, vec![Plan::process()]).await;
    let load = Load::start(&fleet, None);
    fleet.run_for(WHILE / 4).await;
    let (text, variables) = fleet.world.configuration("");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gate.toml");
    fs::write(&file, text).unwrap();
    for _ in 0..3 {
        let mut second = program();
        second.args(["serve", "--config"]).arg(&file).envs(variables.clone());
        let output = tokio::task::spawn_blocking(move || second.stdin(Stdio::null()).output().unwrap()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("store directory") && said.contains("is in use by another process"), "{said}");
    }
    fleet.run_for(WHILE).await;
    fleet.finish(load).await;
}

/// What waits is one time per subject, however long it waits, and nothing of it is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn activity_waits_for_the_store_and_is_written_afterwards() {
    let Some(world) = durable_world().await else { return };
    let plan = || Plan::here().allowing().with("ACTIVITY_RESOLUTION", "1s");
    let mut fleet = Fleet::start(world, vec![plan(), plan()]).await;
    let load = load_on_redis(&fleet);
    fleet.run_for(WHILE / 2).await;
    fleet.world.server_mut().kill();
    fleet.are_stale(&[0, 1]).await;
    let people = fleet.people.count();
    let mut connections: Vec<_> = fleet.places().into_iter().map(Connection::to).collect();
    let mut admitted = vec![false; people];
    let begun = crate::support::full::now();
    // Longer than the resolution, so that each subject has more than one time to keep.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2500) {
        for (person, admitted) in admitted.iter_mut().enumerate() {
            let token = fleet.people.token(Token { person, session: 0 });
            let outcome = connections[person % 2].judge(token).await;
            *admitted |= matches!(outcome, crate::recorder::Outcome::Admitted { .. });
        }
    }
    let admitted: Vec<_> = (0..people).filter(|person| admitted[*person]).collect();
    assert!(admitted.len() > people / 2, "{} of {people} were admitted", admitted.len());
    // One time of each, and one more of those that were seen again while theirs was tried to be written.
    let bound = 2.0 * f64::from(u32::try_from(people).unwrap());
    for gateway in &fleet.gateways {
        eventually("activity waits", async || gateway.metric("portcullis_activity_pending").await > 10.0).await;
        let pending = gateway.metric("portcullis_activity_pending").await;
        assert!(pending <= bound, "{pending} wait");
    }
    fleet.world.server_mut().restart();
    fleet.recovers().await;
    for &person in &admitted {
        eventually("activity of the outage is written", async || {
            let path = format!("/v1/subjects/acme/{}", subject(person).replace('|', "%7C"));
            let known = fleet.gateways[0].admin(http::Method::GET, &path).await;
            let seen = known.json()["last_activity"].as_str().and_then(|time| time.parse().ok());
            seen.is_some_and(|seen: portcullis::clock::Timestamp| seen >= begun)
        })
        .await;
    }
    fleet.finish(load).await;
}

/// Debian's `faketime`, wherever its architecture keeps it.
fn libfaketime() -> Option<PathBuf> {
    let directories = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let found = directories.map(|directory| directory.join("faketime/libfaketime.so.1")).find(|file| file.exists());
    if found.is_none() {
        println!("SKIPPED: libfaketime is not installed (Debian: apt install faketime), no clock is stepped");
    }
    found
}

/// A gateway whose wall clock follows a file, while its monotonic clock goes on.
fn with_clock(library: &Path, clock: &Path) -> Plan {
    Plan::process()
        .environment("LD_PRELOAD", library.to_str().unwrap())
        .environment("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap())
        .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .environment("DONT_FAKE_MONOTONIC", "1")
        .environment("FAKETIME_NO_CACHE", "1")
}

/// Replaces the file in one step: a reader never finds half of it.
fn set_clock(clock: &Path, offset: &str) {
    let new = clock.with_extension("new");
    fs::write(&new, format!("{offset}\n")).unwrap();
    fs::rename(new, clock).unwrap();
}

/// How old the gateway says that a marker is, which it dates itself: how far its clock is from ours, in seconds.
async fn clock_of(fleet: &Fleet, gateway: usize, person: usize) -> i64 {
    let path = format!("/v1/subjects/acme/{}/logout", subject(person).replace('|', "%7C"));
    let answer = fleet.gateways[gateway].admin(http::Method::POST, &path).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let at: portcullis::clock::Timestamp = answer.json()["marker"]["at"].as_str().unwrap().parse().unwrap();
    (at.as_millis() - crate::support::full::now().as_millis() + 500).div_euclid(1000)
}

/// Staleness is a matter of the monotonic clock. The steps are those that the tokens' own times allow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_is_stepped_changes_nothing() {
    let Some(library) = libfaketime() else { return };
    let Some(world) = durable_world().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let clock = directory.path().join("clock");
    set_clock(&clock, "+0");
    let mut fleet = Fleet::start(world, vec![with_clock(&library, &clock), Plan::here(), Plan::here()]).await;
    let load = load_on_redis(&fleet);
    fleet.run_for(WHILE).await;
    let begun = Instant::now();
    let last = fleet.people.count() - 1;
    for (number, seconds) in [600, -20, 1800, 0].into_iter().enumerate() {
        set_clock(&clock, &format!("{seconds:+}"));
        let person = last - number;
        let mark = fleet.recorder.attempted(crate::recorder::Ends::Logout(person), "", Instant::now());
        let apart = clock_of(&fleet, 0, person).await;
        assert!((apart - seconds).abs() <= 1, "the gateway's clock is {apart} s from ours, not {seconds} s");
        fleet.recorder.removed(mark, Instant::now(), Instant::now() + Duration::from_secs(3600));
        fleet.run_for(WHILE).await;
    }
    fleet.assert_never_stale(begun, &[0, 1, 2]);
    // Steps while the store is silent neither hasten nor delay the moment from which it is not trusted.
    for seconds in [900, -20] {
        fleet.world.server().stop();
        set_clock(&clock, &format!("{seconds:+}"));
        fleet.are_stale(&[0, 1, 2]).await;
        fleet.world.server().cont();
        fleet.recovers().await;
    }
    fleet.world.server_mut().kill();
    set_clock(&clock, "+0");
    fleet.world.server_mut().restart();
    fleet.recovers().await;
    fleet.finish(load).await;
}
