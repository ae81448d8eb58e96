//! One Redis, and what may happen to it.

use std::{sync::Arc, time::Duration};

use crate::{
    fleet::{Fleet, Plan},
    load::{Load, RawWrite},
    support::{full::World, redis::RedisServer},
};

/// What is acknowledged is on the disk.
const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// How long requests run before, between and after.
const WHILE: Duration = Duration::from_millis(1200);

async fn world(options: &[&str]) -> Option<World> {
    Some(World::with(RedisServer::start_with(options)?).await)
}

fn three() -> Vec<Plan> {
    vec![Plan::here(), Plan::here(), Plan::here()]
}

/// `SET` at this URL, over a connection of its own.
fn set_at(url: String) -> RawWrite {
    Arc::new(move |key, value| {
        let set = || {
            let connection = redis::Client::open(&*url)?.get_connection_with_timeout(Duration::from_millis(300));
            let mut connection = connection?;
            connection.set_read_timeout(Some(Duration::from_millis(300)))?;
            redis::cmd("SET").arg(key).arg(value).exec(&mut connection)
        };
        set().is_ok()
    })
}

fn load(fleet: &Fleet) -> Load {
    Load::start(fleet, Some(set_at(fleet.world.server().url())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_comes_back() {
    let Some(world) = world(DURABLE).await else { return };
    let mut fleet = Fleet::start(world, three()).await;
    let load = load(&fleet);
    fleet.run_for(WHILE).await;
    for outage in [0, 1, 2] {
        fleet.world.server_mut().kill();
        fleet.run_for(WHILE * outage).await;
        fleet.world.server_mut().restart();
        fleet.recovers().await;
    }
    fleet.run_for(WHILE).await;
    let report = fleet.finish(load).await;
    assert!(report.stale > 0 && report.unstored > 0, "the outage was felt: {report}");
}
