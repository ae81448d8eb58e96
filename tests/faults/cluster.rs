//! Redis Cluster: primaries end and hang, and slots move, with the markers in them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    fleet::{Fleet, MAX_STALENESS, Plan, WHILE, key},
    load::{Load, RawWrite},
    recorder::Ends,
    support::{
        cluster::{Cluster, ask_cluster},
        full::World,
    },
};

/// Another program, that goes where it is told to.
fn set_by(cluster: &Cluster) -> RawWrite {
    let ports = cluster.ports();
    Arc::new(move |key, value| ask_cluster::<String>(&ports, &["SET", key, value]).is_ok())
}

async fn fleet(cluster: &Cluster, replicas: &str) -> Fleet {
    fleet_of(cluster, replicas, vec![Plan::here(), Plan::here(), Plan::here()]).await
}

async fn fleet_of(cluster: &Cluster, replicas: &str, plans: Vec<Plan>) -> Fleet {
    let world = World::at(cluster.url()).await;
    let ports = cluster.ports();
    let replicated = |plan: Plan| plan.with("STORE_REPLICAS", replicas).with("STORE_REPLICA_TIMEOUT", "400ms");
    let fleet = Fleet::start(world, plans.into_iter().map(replicated).collect()).await;
    fleet.look_by(move |key| ask_cluster(&ports, &["EXISTS", key]).ok())
}

/// The slots of markers of persons whose sessions are about to end, and of some whose sessions have ended.
fn slots_in_use(fleet: &Fleet, cluster: &Cluster, count: usize) -> Vec<u16> {
    let next = fleet.people.taken();
    let persons = (next.saturating_sub(count / 2)..).take(count);
    persons
        .flat_map(|person| [key(Ends::Logout(person)), key(Ends::Block(person))])
        .map(|key| cluster.slot(&key))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_killed() {
    let Some(mut cluster) = Cluster::start() else { return };
    let fleet = fleet(&cluster, "1").await;
    // The other program does not wait for replicas, so what it writes may be lost with a primary.
    let load = Load::start(&fleet, None);
    fleet.run_for(WHILE).await;
    cluster.server_mut(0).kill();
    cluster.fails_over(0).await;
    fleet.recovers().await;
    fleet.run_for(WHILE).await;
    cluster.server_mut(0).restart();
    cluster.is_back(0).await;
    fleet.recovers().await;
    let report = fleet.finish(load).await;
    assert!(report.stale > 0, "the outage was felt: {report}");
}

/// It wakes up as if it still served its slots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ex_primary_that_wakes_up() {
    let Some(cluster) = Cluster::start() else { return };
    let fleet = fleet(&cluster, "1").await;
    let load = Load::start(&fleet, None);
    fleet.run_for(WHILE).await;
    cluster.server(1).stop();
    cluster.fails_over(1).await;
    fleet.recovers().await;
    fleet.run_for(WHILE).await;
    cluster.server(1).cont();
    fleet.run_for(2 * MAX_STALENESS).await;
    cluster.is_back(1).await;
    fleet.recovers().await;
    fleet.finish(load).await;
}

/// What was pushed while it slept was pushed by a node that it had not heard of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_sleeps_through_a_failover() {
    let Some(mut cluster) = Cluster::start() else { return };
    let fleet = fleet_of(&cluster, "1", vec![Plan::here(), Plan::process(), Plan::here()]).await;
    let places = fleet.places();
    let load = Load::with_writers(&fleet, &[places[0].clone(), places[2].clone()], None);
    fleet.run_for(WHILE).await;
    fleet.recorder.goes_down(1, Instant::now());
    fleet.gateways[1].stop();
    cluster.server_mut(0).kill();
    cluster.fails_over(0).await;
    // The other replicas are there, and the slots of the one that is gone have none.
    cluster.server_mut(0).restart();
    cluster.is_back(0).await;
    fleet.run_for(WHILE).await;
    fleet.gateways[1].cont();
    fleet.recorder.is_up(1, Instant::now());
    fleet.run_for(2 * MAX_STALENESS).await;
    fleet.recovers().await;
    fleet.finish(load).await;
}

/// `CLUSTER FAILOVER`: nobody is down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_and_its_replica_that_change_places() {
    let Some(cluster) = Cluster::start() else { return };
    let fleet = fleet(&cluster, "1").await;
    let load = Load::start(&fleet, None);
    fleet.run_for(WHILE).await;
    let mut primary = 2;
    for _ in 0..2 {
        let next = cluster.fail_over(primary);
        cluster.fails_over(primary).await;
        fleet.recovers().await;
        primary = next;
    }
    fleet.finish(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_with_their_markers() {
    let Some(cluster) = Cluster::start() else { return };
    let fleet = fleet(&cluster, "0").await;
    let load = Load::start(&fleet, Some(&set_by(&cluster)));
    fleet.run_for(WHILE).await;
    for round in 0..3 {
        for slot in slots_in_use(&fleet, &cluster, 16) {
            let to = (cluster.primary_of(slot) + 1 + round % 2) % 3;
            cluster.move_slot(slot, to);
            fleet.run_for(Duration::from_millis(15)).await;
        }
        fleet.recovers().await;
    }
    fleet.finish(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_to_a_primary_that_nobody_knew() {
    let Some(mut cluster) = Cluster::start() else { return };
    let fleet = fleet(&cluster, "0").await;
    let load = Load::start(&fleet, Some(&set_by(&cluster)));
    fleet.run_for(WHILE).await;
    let new = cluster.add_primary();
    for slot in slots_in_use(&fleet, &cluster, 40) {
        cluster.move_slot(slot, new);
    }
    fleet.run_for(2 * MAX_STALENESS).await;
    fleet.recovers().await;
    // And away again.
    for slot in slots_in_use(&fleet, &cluster, 20) {
        cluster.move_slot(slot, 0);
    }
    fleet.recovers().await;
    fleet.finish(load).await;
}
