//! One Redis, and what may happen to it.

use std::time::{Duration, Instant};

use crate::{
    fleet::{Fleet, MAX_STALENESS, Plan, WHILE, durable_world, key, load_on_redis, set_at},
    load::{Connection, Load, Written},
    recorder::Ends,
    support::{
        eventually,
        full::{World, now},
        redis::RedisServer,
        wire::Wire,
    },
};

async fn world(options: &[&str]) -> Option<World> {
    Some(World::with(RedisServer::start_with(options)?).await)
}

fn three() -> Vec<Plan> {
    vec![Plan::here(), Plan::here(), Plan::here()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_comes_back() {
    let Some(world) = durable_world().await else { return };
    let mut fleet = Fleet::start(world, three()).await;
    let load = load_on_redis(&fleet);
    fleet.run_for(WHILE).await;
    for outage in [0, 1, 2] {
        fleet.world.server_mut().kill();
        fleet.run_for(WHILE * outage).await;
        fleet.world.server_mut().restart();
        fleet.recovers().await;
    }
    fleet.run_for(WHILE).await;
    let report = fleet.finish(load).await;
    assert!(report.stale > 0 && !report.unstored.is_empty(), "the outage was felt: {report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_for_a_moment_and_for_long() {
    let Some(world) = world(&[]).await else { return };
    let fleet = Fleet::start(world, three()).await;
    let load = load_on_redis(&fleet);
    fleet.run_for(WHILE).await;
    for pause in [MAX_STALENESS / 4, MAX_STALENESS * 3 / 4] {
        fleet.world.server().stop();
        fleet.run_for(pause).await;
        fleet.world.server().cont();
        fleet.recovers().await;
    }
    fleet.world.server().stop();
    fleet.are_stale(&[0, 1, 2]).await;
    fleet.run_for(WHILE).await;
    fleet.world.server().cont();
    fleet.recovers().await;
    let report = fleet.finish(load).await;
    assert!(report.stale > 0, "the outage was felt: {report}");
}

/// A gateway behind a wire of its own, beside two that reach the server.
async fn one_behind_a_wire(plan: Plan) -> Option<(Fleet, Wire)> {
    let world = world(&[]).await?;
    let wire = Wire::to(world.server().port()).await;
    let plans = vec![Plan::here(), Plan::here(), plan.with("STORE_URL", &wire.url())];
    Some((Fleet::start(world, plans).await, wire))
}

/// Writers that do not use the gateway behind the wire.
fn load_beside(fleet: &Fleet) -> Load {
    let raw = set_at(fleet.world.server().url());
    Load::with_writers(fleet, &fleet.places()[..2], Some(&raw))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_gateway_is_cut_off_by_a_connection_that_is_half_open() {
    let Some((fleet, wire)) = one_behind_a_wire(Plan::here()).await else { return };
    let load = load_beside(&fleet);
    fleet.run_for(WHILE).await;
    let (begun, before) = (Instant::now(), fleet.recorder.acknowledgements());
    wire.freeze();
    fleet.are_stale(&[2]).await;
    fleet.run_for(WHILE).await;
    assert!(fleet.recorder.acknowledgements() > before + 10, "sessions end meanwhile");
    fleet.assert_never_stale(begun, &[0, 1]);
    wire.heal();
    fleet.recovers().await;
    // Shorter than the bound: it may go on, and must not miss anything.
    wire.freeze();
    fleet.run_for(MAX_STALENESS / 2).await;
    wire.heal();
    fleet.recovers().await;
    fleet.assert_never_stale(begun, &[0, 1]);
    fleet.finish(load).await;
}

/// Whatever was on its way is gone for good, and only a new connection helps: a firewall forgot the old ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_forgotten_by_the_network_are_given_up() {
    let Some((fleet, wire)) = one_behind_a_wire(Plan::here()).await else { return };
    let load = load_beside(&fleet);
    fleet.run_for(WHILE).await;
    let begun = Instant::now();
    for _ in 0..3 {
        let connections = wire.connections();
        wire.strand();
        eventually("new connections are made", async || wire.connections() > connections).await;
        fleet.recovers().await;
    }
    fleet.assert_never_stale(begun, &[0, 1]);
    fleet.finish(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_killed_again_and_again() {
    let Some(world) = world(&[]).await else { return };
    let fleet = Fleet::start(world, three()).await;
    let load = load_on_redis(&fleet);
    fleet.run_for(WHILE).await;
    for _ in 0..20 {
        let _: usize = fleet.world.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        fleet.run_for(Duration::from_millis(150)).await;
    }
    fleet.recovers().await;
    fleet.finish(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn markers_that_are_flushed_are_forgotten_and_later_ones_enforced() {
    let Some(world) = world(&[]).await else { return };
    let fleet = Fleet::start(world, three()).await;
    let load = load_on_redis(&fleet);
    fleet.run_for(WHILE).await;
    let start = Instant::now();
    for how in [["FLUSHALL", "SYNC"], ["FLUSHDB", "ASYNC"], ["FLUSHALL", "ASYNC"]] {
        let begun = Instant::now();
        let _: String = fleet.world.command(&how);
        fleet.recorder.removed_all(begun, Instant::now());
        fleet.run_for(WHILE + MAX_STALENESS / 2).await;
    }
    fleet.assert_never_stale(start, &[0, 1, 2]);
    fleet.finish(load).await;
}

/// Slower than any deadline, it is as good as away, and nothing piles up before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_far_too_slow() {
    let Some(world) = world(&["--enable-debug-command", "local"]).await else { return };
    let wire = Wire::to(world.server().port()).await;
    let plan = || Plan::here().with("STORE_URL", &wire.url());
    let fleet = Fleet::start(world, vec![plan(), plan(), plan()]).await;
    let load = load_on_redis(&fleet);
    fleet.run_for(WHILE).await;
    // A round trip of 80 ms: slow, and within every deadline.
    wire.delay(Duration::from_millis(40));
    fleet.recovers().await;
    let begun = Instant::now();
    fleet.run_for(WHILE).await;
    fleet.assert_never_stale(begun, &[0, 1, 2]);
    // A round trip of a second.
    wire.delay(Duration::from_millis(500));
    fleet.are_stale(&[0, 1, 2]).await;
    fleet.run_for(WHILE).await;
    // Three gateways with a few connections each: a dozen attempts a second at the very most.
    let connections = wire.connections();
    fleet.run_for(WHILE).await;
    let attempts = wire.connections() - connections;
    assert!(attempts < 60, "{attempts} connections were tried while none could work");
    wire.heal();
    fleet.recovers().await;
    let clients: String = fleet.world.command(&["CLIENT", "LIST"]);
    assert!(clients.lines().count() < 30, "connections pile up:\n{clients}");
    let url = fleet.world.server().url();
    let sleeping = tokio::task::spawn_blocking(move || {
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        redis::cmd("DEBUG").arg("SLEEP").arg("2.5").exec(&mut connection).unwrap();
    });
    fleet.are_stale(&[0, 1, 2]).await;
    sleeping.await.unwrap();
    fleet.recovers().await;
    let report = fleet.finish(load).await;
    assert!(report.stale > 0, "the outage was felt: {report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_route_keeps_its_outage_policy() {
    let Some(world) = durable_world().await else { return };
    let mut fleet = Fleet::start(world, vec![Plan::here().allowing(), Plan::here(), Plan::here().allowing()]).await;
    let load = load_on_redis(&fleet);
    fleet.run_for(WHILE).await;
    fleet.world.server_mut().kill();
    fleet.are_stale(&[0, 1, 2]).await;
    fleet.run_for(WHILE).await;
    fleet.world.server_mut().restart();
    fleet.recovers().await;
    fleet.world.server().stop();
    fleet.are_stale(&[0, 1, 2]).await;
    fleet.world.server().cont();
    fleet.recovers().await;
    let report = fleet.finish(load).await;
    assert!(report.stale > 0 && report.flagged > 0, "both policies were needed: {report}");
    let mut counted = 0.0;
    for gateway in &fleet.gateways {
        counted += gateway.metric("portcullis_verdicts_total{route=\"api\",verdict=\"stale_admitted\"}").await;
    }
    let flagged = f64::from(u32::try_from(report.flagged).unwrap());
    assert!((counted - flagged).abs() < 0.1, "{flagged} were flagged, {counted} counted");
}

/// Markers that end by themselves are forgotten as soon as Redis says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn markers_that_expire_are_forgotten() {
    /// How long Redis itself may take to notice, on a busy machine.
    const NOTICES: Duration = Duration::from_millis(500);

    let Some(world) = world(&[]).await else { return };
    let fleet = Fleet::start(world, three()).await;
    let load = load_on_redis(&fleet);
    fleet.run_for(WHILE).await;
    let mut last = Instant::now();
    for number in 0..60 {
        let Some(person) = fleet.people.next() else { break };
        let lasts = Duration::from_millis(500 + 30 * number);
        let (ends, begun) = (Ends::Logout(person), Instant::now());
        let mark = fleet.recorder.attempted(ends, key(ends), begun);
        let (at, lasts_for) = (now().as_millis().to_string(), lasts.as_millis().to_string());
        let _: String = fleet.world.command(&["SET", &key(ends), &at, "PX", &lasts_for]);
        let done = Instant::now();
        fleet.recorder.acknowledged(mark, done);
        fleet.recorder.removed(mark, begun + lasts, done + lasts + NOTICES);
        last = last.max(done + lasts + NOTICES + MAX_STALENESS);
    }
    // Requests about them go on until the last of them must be forgotten.
    fleet.run_for(last.saturating_duration_since(Instant::now()) + WHILE).await;
    fleet.finish(load).await;
}

/// The server takes no writes: whoever ends a session is told that it did not happen.
async fn takes_no_writes(fleet: &Fleet, gateway_says: &str) {
    let mut connection = Connection::to(fleet.gateways[0].place());
    let person = fleet.people.count() - 1;
    let path = format!("/v1/subjects/acme/auth0%7C{person}/logout");
    let answer = fleet.gateways[0].admin(http::Method::POST, &path).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains(gateway_says), "{}", answer.text());
    let token = fleet.people.token(crate::recorder::Token { person, session: 0 });
    for query in ["", "?everywhere"] {
        assert_eq!(connection.log_out(token, query).await, Written::NotStored("not_stored".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_full_or_read_only_takes_no_logout_and_nobody_is_told_otherwise() {
    let Some(world) = world(&[]).await else { return };
    let fleet = Fleet::start(world, three()).await;
    let load = load_on_redis(&fleet);
    let command = |command: &[&str]| {
        let _: redis::Value = fleet.world.command(command);
    };
    fleet.run_for(WHILE).await;
    let troubles: [(&[&str], &[&str], &str, &str); 3] = [
        (
            &["CONFIG", "SET", "maxmemory", "1"],
            &["CONFIG", "SET", "maxmemory", "0"],
            "its memory is full",
            "`maxmemory` are used",
        ),
        (
            &["CONFIG", "SET", "min-replicas-to-write", "1"],
            &["CONFIG", "SET", "min-replicas-to-write", "0"],
            "the store did not answer",
            // It says so to whoever writes; it is no property of a server that could be asked for.
            "",
        ),
        (&["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"], "READONLY", "not ready"),
    ];
    for (begin, end, says, warns) in troubles {
        command(begin);
        takes_no_writes(&fleet, says).await;
        let unstored = fleet.recorder.acknowledgements();
        fleet.run_for(WHILE).await;
        // Writes that were under way when it began aside.
        assert!(fleet.recorder.acknowledgements() <= unstored, "writes were acknowledged although {says}");
        eventually(&format!("readiness says: {warns}"), async || {
            let readiness = fleet.gateways[0].admin(http::Method::GET, "/readyz").await;
            readiness.json()["warnings"].to_string().contains(warns) || readiness.status == 503
        })
        .await;
        command(end);
        fleet.recovers().await;
    }
    let report = fleet.finish(load).await;
    assert!(!report.unstored.is_empty(), "writes were refused: {report}");
}
