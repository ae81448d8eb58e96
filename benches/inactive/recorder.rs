//! Admitted requests of many users, as the gate records them.

use std::{collections::HashSet, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use portcullis::{
    activity::{ActivitySettings, Recorder, Trace},
    clock::{Clock, Timestamp},
    token::claims::Subject,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    cost::Watch,
    ids::{Ids, mixed},
    place::Place,
    plan::Plan,
};

/// Requests come in bursts, so many a second.
const BURSTS: u64 = 100;

pub(crate) async fn run(plan: &Plan, place: Place) -> anyhow::Result<()> {
    let (clock, store) = (Clock::System, place.open().await?);
    let ids = Ids::new(clock.now())?;
    let users: Vec<(Subject, Trace)> =
        (0..plan.users).map(|n| Ok((ids.subject(n)?, Trace::default()))).collect::<anyhow::Result<_>>()?;
    let recorder = Arc::new(Recorder::new(ActivitySettings::default(), clock.clone()));
    let mut registry = Registry::default();
    recorder.register(&mut registry);
    let metric = |name: &str| -> anyhow::Result<u64> {
        recorder.measure();
        let mut text = String::new();
        encode(&mut text, &registry)?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such metric")?;
        Ok(line.trim().parse()?)
    };

    let stop = CancellationToken::new();
    let others = place.others(&store).await?;
    let watch = Watch::start(place.server())?;
    let writing = tokio::spawn(Arc::clone(&recorder).run(Arc::clone(&store), stop.clone()));
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(BURSTS)?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (burst, bursts) = (plan.rate / BURSTS, plan.seconds * BURSTS);
    let (mut seen, mut most, mut touching) = (HashSet::new(), 0, Duration::ZERO);
    for turn in 0..bursts {
        ticks.tick().await;
        let begun = Instant::now();
        for n in turn * burst..(turn + 1) * burst {
            let user = mixed(n, 11) % plan.users;
            let (subject, trace) = users.get(usize::try_from(user)?).context("no such user")?;
            recorder.touch(trace, subject, clock.now());
        }
        touching += begun.elapsed();
        if turn % 5 == 0 {
            most = most.max(metric("activity_pending")?);
        }
    }
    stop.cancel();
    let begun = Instant::now();
    writing.await?;
    let (flush, cost) = (begun.elapsed(), watch.stop(bursts * burst)?);

    for n in 0..bursts * burst {
        seen.insert(mixed(n, 11) % plan.users);
    }
    let (written, left) = (metric("activity_written_total")?, metric("activity_pending")?);
    ensure!(left == 0, "{left} are not written");
    let count = store.count_activity(&ids.issuer, Timestamp::MAX).await?;
    ensure!(count.known == seen.len() as u64, "{count:?} instead of {}", seen.len());
    println!("{}", cost.show("admitted request"));
    println!("{}", crate::cost::Cost { count: written, ..cost }.show("write"));
    let touch = touching.as_secs_f64() * 1e9 / (bursts * burst) as f64;
    println!(
        "to take note of a request took {touch:.0} ns; {most} users waited at most; the last flush took {flush:.2?}"
    );
    println!("  {}", others.stop().await?);
    store.close().await;
    Ok(())
}
