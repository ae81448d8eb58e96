//! Store by store: a new fleet, and at each rate marker after marker.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use http::HeaderValue;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    background::Background,
    cold::{self, Loaded, Watch},
    failover,
    gateway::Gateway,
    machine::Machine,
    plan::{BACKGROUND_TOKENS, Plan, Scenario},
    probe::Probes,
    report::{self, Measurement},
    tokens::{Issuer, subject},
    topology::{self, Store},
    upstream,
    writer::{By, Program, Writer},
};

/// Between markers, so that one is over before the next begins.
const PAUSE: Duration = Duration::from_millis(20);

/// How many writes a second tell what one costs the servers.
const WRITES: u32 = 500;

/// Gateways on a store.
pub(crate) struct Fleet {
    // In the order in which they are to end.
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) store: Store,
    _directory: TempDir,
}

/// What all fleets have in common.
pub(crate) struct Bench<'a> {
    pub(crate) plan: &'a Plan,
    upstream: SocketAddr,
    issuer: Arc<Issuer>,
    pub(crate) tokens: Arc<[HeaderValue]>,
}

pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    let issuer = Arc::new(Issuer::new()?);
    let tokens = issuer.sign(plan.tokens()).await?.into();
    let bench = Bench { plan, upstream: upstream::start_apart()?, issuer, tokens };
    println!("{} gateways\n", plan.gateways);
    for scenario in plan.scenarios() {
        bench.run(scenario).await.with_context(|| format!("{scenario:?}"))?;
    }
    Ok(())
}

impl Bench<'_> {
    async fn run(&self, scenario: Scenario) -> anyhow::Result<()> {
        match scenario {
            Scenario::Standalone => self.measure("standalone", topology::standalone()?).await,
            Scenario::Cluster => self.measure("cluster", topology::cluster()?).await,
            Scenario::Sentinel => {
                let fleet = self.start(topology::sentinel()?).await?;
                report::failover(&failover::run(self, fleet).await?)
            }
            Scenario::Cold => self.cold().await,
        }
    }

    async fn start(&self, store: Store) -> anyhow::Result<Fleet> {
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("jwks.json"), self.issuer.jwks().to_string())?;
        let start = |_| Gateway::start(directory.path(), &store.url, self.upstream, self.plan.workers, "");
        let gateways = try_join_all((0..self.plan.gateways).map(start)).await?;
        Ok(Fleet { gateways, store, _directory: directory })
    }

    async fn measure(&self, name: &str, store: Store) -> anyhow::Result<()> {
        let fleet = self.start(store).await?;
        report::begin(name, self.plan);
        for (number, rate) in self.plan.rates.iter().enumerate() {
            eprintln!("{name}: {} markers at {rate} requests/s", self.plan.markers);
            report::add(&self.at_rate(&fleet, number, *rate).await?)?;
        }
        report::cost(&self.cost(&fleet).await?);
        Ok(())
    }

    async fn cold(&self) -> anyhow::Result<()> {
        let mut loaded = Loaded::new(self.plan)?;
        let scans = [100, 250, 1000].map(|count| loaded.scan(count)).into_iter().collect::<Result<Vec<_>, _>>()?;
        let gets = [1, 6, 60, 600].map(|depth| loaded.get(depth)).into_iter().collect::<Result<Vec<_>, _>>()?;
        let memory = loaded.memory;
        let watch = Watch::start(&loaded.store.servers[0])?;
        let fleet = self.start(loaded.store).await?;
        let start = cold::until_quiet(&fleet, "start", watch).await?;
        let watch = Watch::start(&fleet.store.servers[0])?;
        cold::disconnect_all(&fleet.store).await?;
        let again = cold::until_quiet(&fleet, "all connections lost", watch).await?;
        report::cold(memory, &scans, &gets, &[start, again]);
        Ok(())
    }

    async fn at_rate(&self, fleet: &Fleet, number: usize, rate: u32) -> anyhow::Result<Measurement> {
        let background = Background::start(&fleet.gateways, &self.tokens[..BACKGROUND_TOKENS].into(), rate);
        let mut probes = Probes::new(&fleet.gateways, &self.tokens);
        let mut writer = self.writer(fleet);
        // Every gateway has seen every token of the background.
        sleep(Duration::from_secs(if rate > 0 && !self.plan.smoke { 3 } else { 1 })).await;
        let (machine, (admitted, _), begun) = (Machine::now(fleet)?, background.counts(), Instant::now());
        let (mut fates, mut answers) = (Vec::with_capacity(self.plan.markers), Vec::with_capacity(self.plan.markers));
        for n in 0..self.plan.markers {
            let token = BACKGROUND_TOKENS + number * self.plan.markers + n;
            probes.warm_up(token).await.context("a token is not admitted before its marker is written")?;
            sleep(PAUSE).await;
            writer.log_out(&subject(token)).await?;
            fates.push(probes.follow(token, Instant::now()).await?);
            // The same once more: how long refusals take that nobody waits for.
            answers.push(probes.follow(token, Instant::now()).await?.refused);
        }
        let busy = Machine::now(fleet)?.busy_since(&machine)?;
        let (now_admitted, other) = background.counts();
        let served = (now_admitted - admitted) as f64 / begun.elapsed().as_secs_f64();
        background.stop()?;
        ensure!(other == 0, "{other} requests of the background were not admitted");
        Ok(Measurement { served, busy, fates, answers })
    }

    fn writer(&self, fleet: &Fleet) -> Writer {
        match self.plan.by {
            By::Program => Writer::Program(Program::new(fleet.store.servers[0].address())),
            By::Gateway => Writer::Gateway(fleet.gateways[0].admin),
        }
    }

    /// What a write costs all servers together, in microseconds of CPU time, per gateway too.
    async fn cost(&self, fleet: &Fleet) -> anyhow::Result<[f64; 2]> {
        let watched = self.plan.watched();
        let before = fleet.store.cpu_time()?;
        sleep(watched).await;
        let idle = fleet.store.cpu_time()?.saturating_sub(before);
        let mut program = Program::new(fleet.store.servers[0].address());
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / WRITES);
        let (before, begun, mut writes) = (fleet.store.cpu_time()?, Instant::now(), 0_u32);
        while begun.elapsed() < watched {
            ticks.tick().await;
            // Nobody has a token of these.
            program.log_out(&subject(1_000_000 + writes as usize)).await?;
            writes += 1;
        }
        let used = fleet.store.cpu_time()?.saturating_sub(before).saturating_sub(idle);
        let each = used.as_secs_f64() * 1e6 / f64::from(writes);
        Ok([each, each / fleet.gateways.len() as f64])
    }
}
