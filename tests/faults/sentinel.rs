//! Redis behind Sentinel: primaries end, hang, change places and come back, and the sentinels themselves fall silent.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;

use crate::{
    fleet::{Fleet, MAX_STALENESS, Plan, WHILE, subject},
    load::{Connection, Load, RawWrite, Written},
    recorder::{Outcome, Token},
    support::{
        full::World,
        redis::ask,
        sentinel::{Sentinels, primary_port},
    },
};

/// Another program, that asks the sentinels each time and waits for replicas, too.
fn set_by(sentinels: &Sentinels, replicas: u32) -> RawWrite {
    let ports = sentinels.ports();
    Arc::new(move |key, value| {
        let Some(port) = primary_port(&ports) else { return false };
        let set_and_wait = || -> redis::RedisResult<u32> {
            let client = redis::Client::open(("127.0.0.1", port))?;
            let mut connection = client.get_connection_with_timeout(Duration::from_millis(500))?;
            connection.set_read_timeout(Some(Duration::from_secs(1)))?;
            redis::cmd("SET").arg(key).arg(value).exec(&mut connection)?;
            redis::cmd("WAIT").arg(replicas).arg(400).query(&mut connection)
        };
        set_and_wait().is_ok_and(|have| have >= replicas)
    })
}

/// Gateways whose writes are acknowledged once so many replicas have them.
async fn fleet_with(sentinels: &Sentinels, replicas: u32, plans: Vec<Plan>) -> Fleet {
    let replicated =
        |plan: Plan| plan.with("STORE_REPLICAS", &replicas.to_string()).with("STORE_REPLICA_TIMEOUT", "400ms");
    let world = World::at(sentinels.url()).await;
    let ports = sentinels.ports();
    let look = move |key: &str| ask(primary_port(&ports)?, &["EXISTS", key]).ok();
    Fleet::start(world, plans.into_iter().map(replicated).collect()).await.look_by(look)
}

async fn fleet(sentinels: &Sentinels, plans: Vec<Plan>) -> Fleet {
    fleet_with(sentinels, 1, plans).await
}

fn three() -> Vec<Plan> {
    vec![Plan::here(), Plan::here(), Plan::here()]
}

fn load(fleet: &Fleet, sentinels: &Sentinels) -> Load {
    Load::start(fleet, Some(&set_by(sentinels, 1)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_killed() {
    let Some(mut sentinels) = Sentinels::start() else { return };
    let fleet = fleet(&sentinels, three()).await;
    let load = load(&fleet, &sentinels);
    fleet.run_for(WHILE).await;
    sentinels.server_mut(0).kill();
    let second = sentinels.fails_over(0).await;
    fleet.recovers().await;
    fleet.run_for(WHILE).await;
    // It begins as a primary, until the sentinels see it.
    sentinels.server_mut(0).restart();
    sentinels.is_demoted(0).await;
    fleet.recovers().await;
    sentinels.server_mut(second).kill();
    sentinels.fails_over(second).await;
    fleet.recovers().await;
    let report = fleet.finish(load).await;
    assert!(report.stale > 0, "the outage was felt: {report}");
}

/// It knows nothing of what was written meanwhile, and would admit whom the others refuse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ex_primary_that_wakes_up() {
    let Some(sentinels) = Sentinels::start() else { return };
    let fleet = fleet(&sentinels, three()).await;
    let load = load(&fleet, &sentinels);
    fleet.run_for(WHILE).await;
    sentinels.server(0).stop();
    sentinels.fails_over(0).await;
    fleet.recovers().await;
    // What ends now is news to the one that sleeps.
    fleet.run_for(WHILE).await;
    sentinels.server(0).cont();
    fleet.run_for(2 * MAX_STALENESS).await;
    sentinels.is_demoted(0).await;
    fleet.recovers().await;
    fleet.finish(load).await;
}

/// It wakes up while everybody still tries to reach it, and answers as if nothing had happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ex_primary_that_wakes_up_the_moment_it_is_replaced() {
    let Some(sentinels) = Sentinels::start() else { return };
    let fleet = fleet(&sentinels, three()).await;
    let load = load(&fleet, &sentinels);
    fleet.run_for(WHILE).await;
    let mut primary = 0;
    for _ in 0..2 {
        sentinels.server(primary).stop();
        sentinels.is_replaced(primary).await;
        sentinels.server(primary).cont();
        let next = sentinels.fails_over(primary).await;
        fleet.recovers().await;
        sentinels.is_demoted(primary).await;
        primary = next;
    }
    fleet.finish(load).await;
}

/// A gateway sleeps as long as its primary: to both of them nothing has happened, and at first nobody tells them otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_sleeps_and_wakes_up_together_with_an_ex_primary() {
    let Some(sentinels) = Sentinels::start() else { return };
    let fleet = fleet(&sentinels, vec![Plan::here(), Plan::process(), Plan::here()]).await;
    let places = fleet.places();
    let load = Load::with_writers(&fleet, &[places[0].clone(), places[2].clone()], Some(&set_by(&sentinels, 1)));
    fleet.run_for(WHILE).await;
    fleet.recorder.goes_down(1, Instant::now());
    fleet.gateways[1].stop();
    sentinels.server(0).stop();
    sentinels.fails_over(0).await;
    // Sessions end that neither of them hears of.
    fleet.run_for(WHILE).await;
    sentinels.stop_sentinels();
    sentinels.server(0).cont();
    fleet.gateways[1].cont();
    fleet.recorder.is_up(1, Instant::now());
    fleet.run_for(MAX_STALENESS).await;
    sentinels.cont_sentinels();
    fleet.recovers().await;
    sentinels.is_demoted(0).await;
    fleet.finish(load).await;
}

/// `SENTINEL FAILOVER`. Until the old primary hears of it, it goes on taking writes, and so do the replicas that still follow
/// it: only a write that *all* replicas have is on the new one, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn primaries_that_change_places() {
    let Some(sentinels) = Sentinels::start() else { return };
    let fleet = fleet_with(&sentinels, 2, three()).await;
    let load = Load::start(&fleet, Some(&set_by(&sentinels, 2)));
    fleet.run_for(WHILE).await;
    sentinels.fail_over();
    sentinels.fails_over(0).await;
    // Until the old primary follows the new one there are not two replicas.
    sentinels.is_demoted(0).await;
    fleet.recovers().await;
    fleet.finish(load).await;
}

/// Nobody says who the primary is: the one that was it may have been replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_fall_silent() {
    let Some(sentinels) = Sentinels::start() else { return };
    let fleet = fleet(&sentinels, three()).await;
    let load = load(&fleet, &sentinels);
    fleet.run_for(WHILE).await;
    sentinels.stop_sentinels();
    fleet.are_stale(&[0, 1, 2]).await;
    fleet.run_for(WHILE).await;
    sentinels.cont_sentinels();
    fleet.recovers().await;
    fleet.finish(load).await;
}

/// A marker that no replica has is not acknowledged, however often it is asked for, and whatever is known of it already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_that_no_replica_has_is_never_acknowledged() {
    let Some(sentinels) = Sentinels::start() else { return };
    let fleet = fleet(&sentinels, three()).await;
    let person = fleet.people.count() - 1;
    let token = fleet.people.token(Token { person, session: 0 });
    let mut connection = Connection::to(fleet.gateways[0].place());
    assert_eq!(connection.judge(token).await, Outcome::Admitted { flagged: false });
    for replica in [1, 2] {
        sentinels.server(replica).stop();
    }
    for query in ["", "", "", "?everywhere", "?everywhere"] {
        let written = connection.log_out(token, query).await;
        assert_ne!(written, Written::Acknowledged, "no replica has it");
    }
    let path = format!("/v1/subjects/acme/{}/block", subject(person).replace('|', "%7C"));
    for _ in 0..2 {
        let answer = fleet.gateways[1].admin(Method::PUT, &path).await;
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    for replica in [1, 2] {
        sentinels.server(replica).cont();
    }
    crate::support::eventually("the block is acknowledged", async || {
        fleet.gateways[1].admin(Method::PUT, &path).await.status == 200
    })
    .await;
}
