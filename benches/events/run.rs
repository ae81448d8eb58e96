//! Store by store: the gateway proxies alone, then with the log streamed to it.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use http::HeaderValue;
use tempfile::TempDir;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::{
    background::Background,
    gateway::Gateway,
    plan::{Plan, Store},
    probe::Probes,
    process::cpu_time,
    records::Records,
    redis_server::RedisServer,
    sender::{AUTHORIZATION, SOURCE, Sender, Times, date},
    tokens::{Issuer, subject},
    upstream,
};

/// How many tokens the proxied requests have.
const BACKGROUND_TOKENS: usize = 500;

pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    let issuer = Arc::new(Issuer::new()?);
    let tokens: Arc<[HeaderValue]> = issuer.sign(BACKGROUND_TOKENS + plan.probes() * plan.stores().len()).await?.into();
    let upstream = upstream::start_apart()?;
    for (number, store) in plan.stores().iter().enumerate() {
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("jwks.json"), issuer.jwks().to_string())?;
        let (server, url) = open(*store, &directory)?;
        let secret = directory.path().join("authorization");
        fs::write(&secret, AUTHORIZATION)?;
        let sources = format!(
            "[sources.{SOURCE}]\ntype = \"auth0_log_stream\"\nissuer = \"bench\"\nauthorization_file = {}\n",
            toml::Value::from(secret.display().to_string())
        );
        let gateway = Gateway::start(directory.path(), &url, upstream, plan.workers, &sources).await?;
        println!(
            "{store:?}: {} records/s in deliveries of {}, beside {} requests/s",
            plan.records, plan.batch, plan.requests
        );
        let first = BACKGROUND_TOKENS + number * plan.probes();
        measure(plan, gateway, server.as_ref(), &tokens, first, number as u64)
            .await
            .with_context(|| format!("{store:?}"))?;
    }
    Ok(())
}

fn open(store: Store, directory: &TempDir) -> anyhow::Result<(Option<RedisServer>, String)> {
    Ok(match store {
        Store::Embedded => (None, format!("embedded:{}", directory.path().join("data").display())),
        Store::Redis => {
            let server = RedisServer::start("")?;
            let url = format!("redis://{}/", server.address());
            (Some(server), url)
        }
    })
}

async fn measure(
    plan: &Plan,
    gateway: Gateway,
    server: Option<&RedisServer>,
    tokens: &Arc<[HeaderValue]>,
    first: usize,
    run: u64,
) -> anyhow::Result<()> {
    let gateways = [gateway];
    let background = Background::start(&gateways, &tokens[..BACKGROUND_TOKENS].into(), plan.requests);
    let mut probes = Probes::new(&gateways, tokens);
    // Every token has been seen.
    sleep(Duration::from_secs(2)).await;
    let cpu = || -> anyhow::Result<[Duration; 2]> {
        Ok([cpu_time(gateways[0].pid())?, server.map_or(Ok(Duration::ZERO), |server| cpu_time(server.pid()))?])
    };

    let (before, (admitted, _), begun) = (cpu()?, background.counts(), Instant::now());
    sleep(plan.duration() / 4).await;
    let alone = per_second(before, cpu()?, begun.elapsed());
    let proxied_alone = (background.counts().0 - admitted) as f64 / begun.elapsed().as_secs_f64();

    let mut records = Records::new(run);
    let mut sender = Sender::connect(gateways[0].address).await?;
    let mut ticks = interval(Duration::from_secs(1).mul_f64(plan.batch as f64 / f64::from(plan.records.max(1))));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut deliveries, mut refusals) = (Times::new()?, Times::new()?);
    let (before, (admitted, _), begun) = (cpu()?, background.counts(), Instant::now());
    let mut probe = 0;
    for number in 0..plan.deliveries() {
        ticks.tick().await;
        let token = (number % 10 == 0).then(|| first + probe);
        if let Some(token) = token {
            probe += 1;
            probes.warm_up(token).await.context("a token is not admitted before its logout")?;
        }
        let body = records.delivery(plan.batch, &date()?, token.map(subject).as_deref());
        let sent = Instant::now();
        sender.deliver(body).await?;
        deliveries.record(sent.into_std());
        if let Some(token) = token {
            let fate = probes.follow(token, Instant::now()).await?;
            refusals.add(sent.elapsed());
            ensure!(fate.admitted.is_zero(), "a token was admitted after its logout had been acknowledged");
        }
    }
    let took = begun.elapsed();
    let with = per_second(before, cpu()?, took);
    let proxied = (background.counts().0 - admitted) as f64 / took.as_secs_f64();
    let other = background.counts().1;
    background.stop()?;
    ensure!(other == 0, "{other} proxied requests were not admitted");

    let rate = (plan.deliveries() * plan.batch) as f64 / took.as_secs_f64();
    let per_record = |n: usize| (with[n] - alone[n]).max(0.0) * 1e6 / rate;
    println!(
        "  records     {rate:.0}/s taken; gateway {:.1} µs of CPU each, {:.0} % of a core",
        per_record(0),
        with[0] * 100.0
    );
    if server.is_some() {
        println!("  redis       {:.1} µs of CPU each, {:.0} % of a core", per_record(1), with[1] * 100.0);
    }
    println!(
        "  proxied     {proxied:.0}/s meanwhile, {proxied_alone:.0}/s before; {:.0} % of a core alone",
        alone[0] * 100.0
    );
    println!("  delivery    {}", deliveries.show());
    println!("  to refusal  {}, from sending the delivery to the refusal's arrival\n", refusals.show());
    Ok(())
}

/// Seconds of CPU time a second.
fn per_second(before: [Duration; 2], after: [Duration; 2], took: Duration) -> [f64; 2] {
    [0, 1].map(|n| after[n].saturating_sub(before[n]).as_secs_f64() / took.as_secs_f64())
}
