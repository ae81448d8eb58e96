//! Idle limits while processes end, sleep and change places: nobody who is active is taken for idle, and nobody who is idle goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::{Fleet, Place, Plan, WHILE, durable_world},
    load::Connection,
    recorder::{Outcome, Token},
    support::{eventually, full::World, sentinel::Sentinels},
};

const IDLE: Duration = Duration::from_secs(4);

/// What the end of a gateway, or of a primary, may take from what is recorded: the resolution, the flush, and what was on its way.
const LOST: Duration = Duration::from_millis(1100 + 400);

/// Sessions that are used, and those that are not.
const ACTIVE: usize = 24;
const QUIET: usize = 8;

fn plan(plan: Plan) -> Plan {
    plan.with("SESSION_IDLE_LIMIT", "4s")
}

/// Uses sessions on all gateways in turn, with pauses that are no idleness.
struct Activity {
    stop: CancellationToken,
    users: JoinSet<()>,
    admitted: Arc<AtomicUsize>,
}

impl Activity {
    fn start(fleet: &Fleet) -> Self {
        let (stop, admitted) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let mut users = JoinSet::new();
        for person in 0..ACTIVE {
            let token = fleet.people.token(Token { person, session: 0 }).to_owned();
            users.spawn(use_session(person, token, fleet.places(), Arc::clone(&admitted), stop.clone()));
        }
        Self { stop, users, admitted }
    }

    /// Everybody was admitted again and again since `before`.
    async fn goes_on(&self) {
        let before = self.admitted.load(Ordering::SeqCst);
        let goes_on = async || self.admitted.load(Ordering::SeqCst) > before + 2 * ACTIVE;
        eventually("sessions are used again", goes_on).await;
    }

    async fn finish(self) {
        self.stop.cancel();
        self.users.join_all().await;
    }
}

async fn use_session(
    person: usize,
    token: String,
    places: Vec<Place>,
    admitted: Arc<AtomicUsize>,
    stop: CancellationToken,
) {
    let mut connections: Vec<_> = places.into_iter().map(Connection::to).collect();
    let mut last: Option<Instant> = None;
    for round in person.. {
        let sent = Instant::now();
        let index = round % connections.len();
        match connections[index].judge(&token).await {
            Outcome::Admitted { .. } => {
                last = Some(sent);
                admitted.fetch_add(1, Ordering::SeqCst);
            }
            Outcome::Refused(code) => {
                let silence = last.map_or(Duration::ZERO, |last| last.elapsed());
                assert!(silence + LOST >= IDLE, "person {person} was refused with {code} after {silence:?}");
                // Nobody answered for too long: that is no fault of this session's gateway.
                return;
            }
            Outcome::Stale | Outcome::Unanswered => {}
            Outcome::Odd(what) => panic!("{what}"),
        }
        // From 50 ms to 2.2 s, in an order of its own for each.
        let pause = Duration::from_millis(50 + u64::try_from((round * 7919 + person * 104_729) % 2150).unwrap());
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// Each of the quiet sessions is begun.
async fn begin_quiet(fleet: &Fleet) {
    let mut connection = Connection::to(fleet.places()[0].clone());
    for person in ACTIVE..ACTIVE + QUIET {
        let token = fleet.people.token(Token { person, session: 0 });
        eventually("it is admitted", async || matches!(connection.judge(token).await, Outcome::Admitted { .. })).await;
    }
}

/// Each of the quiet sessions is over, whoever is asked.
async fn quiet_are_over(fleet: &Fleet) {
    for (index, place) in fleet.places().into_iter().enumerate() {
        let mut connection = Connection::to(place);
        for person in ACTIVE..ACTIVE + QUIET {
            let token = fleet.people.token(Token { person, session: 0 });
            let outcome = connection.judge_in_the_end(token).await;
            let expected = if index == 0 { "idle_timeout" } else { "session_ended" };
            assert_eq!(outcome, Outcome::Refused(expected.to_owned()), "person {person} at gateway {index}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_and_redis_end_and_sleep_while_sessions_are_used() {
    let Some(world) = durable_world().await else { return };
    let plans = vec![plan(Plan::here()), plan(Plan::process()), plan(Plan::process())];
    let mut fleet = Fleet::start(world, plans).await;
    begin_quiet(&fleet).await;
    let activity = Activity::start(&fleet);
    activity.goes_on().await;
    for gateway in [1, 2] {
        fleet.restart(gateway, Duration::from_millis(100)).await;
        activity.goes_on().await;
    }
    fleet.gateways[1].stop();
    fleet.run_for(WHILE).await;
    fleet.gateways[1].cont();
    activity.goes_on().await;
    fleet.world.server_mut().kill();
    fleet.run_for(WHILE / 2).await;
    fleet.world.server_mut().restart();
    activity.goes_on().await;
    fleet.world.server().stop();
    fleet.run_for(WHILE).await;
    fleet.world.server().cont();
    activity.goes_on().await;
    fleet.becomes_ready().await;
    quiet_are_over(&fleet).await;
    activity.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_takes_nobody_active_for_idle() {
    let Some(mut sentinels) = Sentinels::start() else { return };
    let world = World::at(sentinels.url()).await;
    let fleet = Fleet::start(world, vec![plan(Plan::here()), plan(Plan::here())]).await;
    begin_quiet(&fleet).await;
    let activity = Activity::start(&fleet);
    activity.goes_on().await;
    sentinels.server_mut(0).kill();
    let second = sentinels.fails_over(0).await;
    activity.goes_on().await;
    sentinels.server_mut(0).restart();
    sentinels.is_demoted(0).await;
    sentinels.fail_over();
    sentinels.fails_over(second).await;
    activity.goes_on().await;
    fleet.becomes_ready().await;
    quiet_are_over(&fleet).await;
    activity.finish().await;
}
