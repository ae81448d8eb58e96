//! Questions to an index of many subjects.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use portcullis::{
    clock::{Clock, Timestamp},
    store::{Seen, Store},
    token::claims::SubjectId,
};
use tokio::time::Instant;

use crate::{
    cost::Watch,
    ids::{Ids, mixed},
    place::Place,
    plan::Plan,
};

/// How many subjects are recorded in one call, or looked up.
const BATCH: u64 = 1000;

/// How many are on the first page, as whoever looks would ask for it.
const FIRST: usize = 1000;

/// How often what is short is repeated.
const TIMES: u64 = 20;

/// Before how many days whoever is forgotten was last admitted.
const FORGOTTEN: u32 = 360;

pub(crate) async fn run(plan: &Plan, place: Place) -> anyhow::Result<()> {
    let ids = Ids::new(Clock::System.now())?;
    let store = place.open().await?;
    let empty = place.size()?;
    let begun = Instant::now();
    eprintln!("filling in {} subjects", plan.subjects);
    let store = fill(plan, &place, &ids, store).await?;
    println!("{} subjects filled in within {:.0} s", plan.subjects, begun.elapsed().as_secs_f64());
    let bytes = place.size()?.saturating_sub(empty);
    println!("{:.1} bytes each, {:.2} GB", bytes as f64 / plan.subjects as f64, bytes as f64 / 1e9);
    let run = Run { plan, place, store, ids };
    run.pages().await?;
    run.within_a_moment().await?;
    run.everyone().await?;
    run.counts().await?;
    run.look_ups().await?;
    run.records().await?;
    run.forgets().await?;
    run.store.close().await;
    Ok(())
}

async fn fill(plan: &Plan, place: &Place, ids: &Ids, store: Arc<dyn Store>) -> anyhow::Result<Arc<dyn Store>> {
    if place.server().is_none() {
        store.close().await;
        place.fill_file(ids, plan.subjects)?;
        return place.open().await;
    }
    let (watch, mut told) = (Watch::start(place.server())?, 0);
    for first in (0..plan.subjects).step_by(usize::try_from(BATCH)?) {
        record(ids, &*store, first..plan.subjects.min(first + BATCH), Duration::ZERO).await?;
        if first >= told {
            eprintln!("  {first} of {}", plan.subjects);
            told += plan.subjects / 10;
        }
    }
    println!("{}", watch.stop(plan.subjects)?.show("record, the first time, batches of 1000"));
    Ok(store)
}

/// That these were admitted, so much later than they were.
async fn record(ids: &Ids, store: &dyn Store, some: std::ops::Range<u64>, later: Duration) -> anyhow::Result<()> {
    let batch = some.map(|n| Ok((ids.subject(n)?, ids.seen(n).plus(later)))).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(store.record_activity(&batch).await?)
}

struct Run<'a> {
    plan: &'a Plan,
    place: Place,
    store: Arc<dyn Store>,
    ids: Ids,
}

impl Run<'_> {
    async fn inactive(&self, before: Timestamp, after: Option<&Seen>, limit: usize) -> anyhow::Result<Vec<Seen>> {
        let page = self.store.inactive(&self.ids.issuer, before, after, limit).await?;
        ensure!(page.iter().all(|seen| seen.at < before), "somebody is not inactive");
        ensure!(page.windows(2).all(|pair| pair[0] < pair[1]), "a page is out of order");
        ensure!(page.first().is_none_or(|first| after.is_none_or(|after| after < first)), "somebody is given twice");
        Ok(page)
    }

    /// The first ones of those who have been inactive for 90 days.
    async fn pages(&self) -> anyhow::Result<()> {
        let (others, watch) = (self.place.others(&self.store).await?, Watch::start(self.place.server())?);
        for _ in 0..TIMES {
            ensure!(self.inactive(self.ids.ago(90), None, FIRST).await?.len() == FIRST, "a page is not full");
        }
        println!("{}", watch.stop(TIMES)?.show("the first 1000"));
        println!("  {}", others.stop().await?);
        Ok(())
    }

    /// Pages that begin and end within the moment that every tenth subject shares.
    async fn within_a_moment(&self) -> anyhow::Result<()> {
        let (at, limit) = (self.ids.import(), usize::try_from(self.plan.subjects / 40)?.min(FIRST));
        let watch = Watch::start(self.place.server())?;
        for turn in 0..TIMES {
            let id = format!("auth0|{:x}", mixed(turn, 9) % 0xc000_0000_0000_0000);
            let after = Seen { at, subject: (&*id).try_into()? };
            let page = self.inactive(Timestamp::MAX, Some(&after), limit).await?;
            ensure!(page.len() == limit, "a page is not full");
        }
        println!("{}", watch.stop(TIMES)?.show(&format!("{limit} amid {} of one moment", self.plan.subjects / 10)));
        Ok(())
    }

    async fn everyone(&self) -> anyhow::Result<()> {
        let (others, watch) = (self.place.others(&self.store).await?, Watch::start(self.place.server())?);
        let (mut last, mut count, mut pages, mut longest) = (None::<Seen>, 0, 0, Duration::ZERO);
        loop {
            let begun = Instant::now();
            let page = self.inactive(Timestamp::MAX, last.as_ref(), usize::try_from(self.plan.page)?).await?;
            longest = longest.max(begun.elapsed());
            let Some(end) = page.last() else { break };
            (count, pages, last) = (count + page.len() as u64, pages + 1, Some(end.clone()));
        }
        ensure!(count == self.plan.subjects, "{count} subjects were given");
        let cost = watch.stop(pages)?;
        println!("{}", cost.show(&format!("all, in pages of {}", self.plan.page)));
        println!("  the longest took {:.1} ms; {}", longest.as_secs_f64() * 1e3, others.stop().await?);
        Ok(())
    }

    async fn counts(&self) -> anyhow::Result<()> {
        let (others, watch) = (self.place.others(&self.store).await?, Watch::start(self.place.server())?);
        for _ in 0..TIMES / 4 {
            let count = self.store.count_activity(&self.ids.issuer, self.ids.ago(90)).await?;
            ensure!(count.known == self.plan.subjects, "{count:?}");
            ensure!((0.7..0.85).contains(&(count.inactive as f64 / count.known as f64)), "{count:?}");
        }
        println!("{}", watch.stop(TIMES / 4)?.show("count"));
        println!("  {}", others.stop().await?);
        Ok(())
    }

    async fn look_ups(&self) -> anyhow::Result<()> {
        let asked = (0..TIMES * BATCH).map(|n| mixed(n, 7) % self.plan.subjects).collect::<Vec<_>>();
        let watch = Watch::start(self.place.server())?;
        for some in asked.chunks(usize::try_from(BATCH)?) {
            let subjects: Vec<SubjectId> =
                some.iter().map(|n| Ok(self.ids.subject(*n)?.id)).collect::<anyhow::Result<_>>()?;
            let times = self.store.last_activities(&self.ids.issuer, &subjects).await?;
            let expected = some.iter().map(|n| Some(self.ids.seen(*n)));
            ensure!(times.into_iter().eq(expected), "a time is another");
        }
        println!("{}", watch.stop(TIMES * BATCH)?.show("look up, 1000 at once"));
        Ok(())
    }

    /// Each a millisecond later than before: its place in the index changes.
    async fn records(&self) -> anyhow::Result<()> {
        let count = (self.plan.subjects / 10).min(100_000);
        let (others, watch) = (self.place.others(&self.store).await?, Watch::start(self.place.server())?);
        for first in (0..count).step_by(usize::try_from(BATCH)?) {
            record(&self.ids, &*self.store, first..count.min(first + BATCH), Duration::from_millis(1)).await?;
        }
        println!("{}", watch.stop(count)?.show("record, later, batches of 1000"));
        println!("  {}", others.stop().await?);
        Ok(())
    }

    async fn forgets(&self) -> anyhow::Result<()> {
        let (issuer, before) = (&self.ids.issuer, self.ids.ago(FORGOTTEN));
        let old = self.store.count_activity(issuer, before).await?;
        let (others, watch) = (self.place.others(&self.store).await?, Watch::start(self.place.server())?);
        self.store.forget_inactive(issuer, before).await?;
        let cost = watch.stop(old.inactive)?;
        let left = self.store.count_activity(issuer, before).await?;
        ensure!(left.inactive == 0 && left.known == old.known - old.inactive, "{old:?} became {left:?}");
        let first = self.store.inactive(issuer, Timestamp::MAX, None, 1).await?;
        ensure!(first.first().context("nobody is left")?.at >= before, "somebody was not forgotten");
        println!("{}", cost.show("forget"));
        println!("  {}", others.stop().await?);
        Ok(())
    }
}
