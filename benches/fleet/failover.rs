//! Markers while the primary dies and a replica takes its place.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use redis::aio::MultiplexedConnection;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::{
    background::Background,
    plan::BACKGROUND_TOKENS,
    probe::{Fate, Probes},
    redis_server::RedisServer,
    run::{Bench, Fleet},
    tokens::subject,
    topology::SERVICE,
    writer::{connect, logout},
};

/// One marker each.
const EVERY: Duration = Duration::from_millis(80);

/// Other requests a second, to all gateways together.
const RATE: u32 = 1000;

/// A failover that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of it.
pub(crate) struct Failover {
    pub(crate) markers: usize,
    /// From the end of the old primary until the new one acknowledged a marker.
    pub(crate) without_primary: Duration,
    /// The worst of the markers that the old primary acknowledged, and of the others.
    pub(crate) before: Fate,
    pub(crate) after: Fate,
    /// Requests of the background that were admitted, and others.
    pub(crate) background: (u64, u64),
}

pub(crate) async fn run(bench: &Bench<'_>, mut fleet: Fleet) -> anyhow::Result<Failover> {
    let background = Background::start(&fleet.gateways, &bench.tokens[..BACKGROUND_TOKENS].into(), RATE);
    let tokens = BACKGROUND_TOKENS..BACKGROUND_TOKENS + bench.plan.markers;
    let mut probes = Probes::new(&fleet.gateways, &bench.tokens);
    for token in tokens.clone() {
        probes.warm_up(token).await.context("a token is not admitted before its marker is written")?;
    }
    let mut program =
        Program { sentinels: fleet.store.sentinels.iter().map(RedisServer::address).collect(), connection: None };
    let (mut before, mut after) = (JoinSet::new(), JoinSet::new());
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut killed, mut without_primary) = (None, None);
    for (n, token) in tokens.clone().enumerate() {
        ticks.tick().await;
        if n == bench.plan.markers / 3 {
            killed = Some(Instant::now());
            drop(fleet.store.servers.remove(0));
        }
        program.log_out(&subject(token)).await?;
        let acknowledged = Instant::now();
        if let Some(killed) = killed {
            without_primary.get_or_insert(acknowledged - killed);
        }
        let mut probes = Probes::new(&fleet.gateways, &bench.tokens);
        let followed = if killed.is_some() { &mut after } else { &mut before };
        followed.spawn(async move { probes.follow(token, acknowledged).await });
    }
    let (before, after) = (worst(before).await?, worst(after).await?);
    for token in tokens {
        let fate = probes.follow(token, Instant::now()).await?;
        ensure!(fate.admitted.is_zero(), "a token was admitted again after its refusal");
    }
    let counts = background.counts();
    background.stop()?;
    let without_primary = without_primary.context("no marker was written after the failover")?;
    Ok(Failover { markers: bench.plan.markers, without_primary, before, after, background: counts })
}

async fn worst(mut followed: JoinSet<anyhow::Result<Fate>>) -> anyhow::Result<Fate> {
    let mut worst = Fate::default();
    while let Some(fate) = followed.join_next().await {
        worst = worst.worse(fate??);
    }
    Ok(worst)
}

/// A program that asks sentinels where the primary is, and has a replica confirm what it writes.
struct Program {
    sentinels: Vec<std::net::SocketAddr>,
    connection: Option<MultiplexedConnection>,
}

impl Program {
    /// Again and again, until a primary and a replica have it.
    async fn log_out(&mut self, subject: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if matches!(self.try_log_out(subject).await, Ok(replicas) if replicas > 0) {
                return Ok(());
            }
            self.connection = None;
            sleep(Duration::from_millis(20)).await;
        }
        bail!("no marker could be written for {} s", PATIENCE.as_secs())
    }

    async fn try_log_out(&mut self, subject: &str) -> anyhow::Result<u32> {
        let mut connection = match &self.connection {
            Some(connection) => connection.clone(),
            None => self.connect().await?,
        };
        logout(subject)?.exec_async(&mut connection).await?;
        let replicas = redis::cmd("WAIT").arg(1).arg(500).query_async(&mut connection).await?;
        self.connection = Some(connection);
        Ok(replicas)
    }

    async fn connect(&self) -> anyhow::Result<MultiplexedConnection> {
        for sentinel in &self.sentinels {
            let mut ask = redis::cmd("SENTINEL");
            ask.arg("GET-MASTER-ADDR-BY-NAME").arg(SERVICE);
            let (host, port): (String, u16) = ask.query_async(&mut connect(*sentinel).await?).await?;
            if let Ok(connection) = connect(format!("{host}:{port}").parse()?).await {
                return Ok(connection);
            }
        }
        bail!("no sentinel knows of a primary that is there")
    }
}
