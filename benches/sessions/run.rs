//! From an empty server on.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use portcullis::{
    clock::Clock,
    marker::MarkerKey,
    session::SessionKey,
    store::{
        Sessions, Store, Watcher,
        redis::{RedisSettings, RedisStore},
        sessions::MAX_SESSIONS,
    },
};
use redis::Connection;
use tokio::time::{Instant, sleep};

use crate::{
    ids::{self, Ids},
    plan::Plan,
    redis_server::RedisServer,
    watch::{Cost, Watch, used_memory},
};

/// How many operations are under way at a time, and how many sessions are in a batch of activity.
const AT_ONCE: usize = 200;
const BATCH: u64 = 1000;

/// How many sessions are on a page of idle ones.
const PAGE: u64 = 1000;

const PATIENCE: Duration = Duration::from_secs(1800);

pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    let server = RedisServer::start(&plan.redis.join("\n"))?;
    let url = format!("redis://{}", server.address());
    let connection = redis::Client::open(url.as_str())?.get_connection()?;
    let store = open(&url).await?;
    let ids = Ids::new(Clock::System.now())?;
    Run { plan, server, connection, store, ids }.everything().await
}

struct Run<'a> {
    plan: &'a Plan,
    server: RedisServer,
    connection: Connection,
    store: Arc<RedisStore>,
    ids: Ids,
}

impl Run<'_> {
    async fn everything(mut self) -> anyhow::Result<()> {
        let (sessions, some) = (self.plan.sessions, self.plan.some());
        let empty = used_memory(&mut self.connection)?;
        eprintln!("opening {sessions} sessions");
        let opened = self.open_new(0..sessions, true).await?;
        let with_records = used_memory(&mut self.connection)?;
        eprintln!("recording when each was active");
        let recorded = self.record(sessions, 1).await?;
        let with_activity = used_memory(&mut self.connection)?;

        let each = |bytes: u64| bytes as f64 / sessions as f64;
        let [records, activity] = [with_records - empty, with_activity - with_records];
        println!("{sessions} sessions, the keys of whose subjects are {}", self.encoding()?);
        for (what, bytes) in [("records", records), ("index of activity", activity), ("together", records + activity)] {
            println!("{what:<20} {:>8.1} bytes each, {:>8.2} GB", each(bytes), bytes as f64 / 1e9);
        }
        println!("{}", opened.show("open, new"));
        println!("{}", recorded.show("record activity, the first"));
        println!("{}", self.record(some.max(sessions / 10), 2).await?.show("record activity, later"));
        println!("{}", self.open_existing(some).await?.show("open, existing"));
        println!("{}", self.read(some).await?.show("read"));
        println!("{}", self.sessions_of(some / 12).await?.show("list the three sessions of a subject"));
        println!("{}", self.idle_pages()?.show("page of 1000 idle sessions"));
        println!("{}", self.crowd().await?.show("open, new, for a subject with 1000 sessions"));
        println!("{}", self.forget(sessions / 100).await?.show("forget when idle sessions were active"));
        let (keys, names) = (self.keys()?, self.names()?);
        println!("{}", names.show(&format!("SCAN for the names of markers, {keys} keys")));
        Ok(())
    }

    async fn open_new(&self, numbers: std::ops::Range<u64>, tells: bool) -> anyhow::Result<Cost> {
        let count = numbers.end - numbers.start;
        let (watch, step, begun) = (Watch::start(&self.server)?, (count / 20).max(1), Instant::now());
        stream::iter(numbers)
            .map(async |n| {
                let opening = self.ids.opening(n)?;
                let kept = self.store.open_session(&opening).await?;
                ensure!(kept.opened == opening.at && kept.active == opening.at, "session {n} was there before");
                if tells && (n + 1) % step == 0 {
                    eprintln!("  {} of {count}, {:.0} s", n + 1, begun.elapsed().as_secs_f64());
                }
                Ok(())
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        watch.stop(&self.server, count)
    }

    async fn record(&self, count: u64, round: u32) -> anyhow::Result<Cost> {
        let watch = Watch::start(&self.server)?;
        for first in (0..count).step_by(usize::try_from(BATCH)?) {
            let batch = (first..count.min(first + BATCH))
                .map(|n| Ok((self.ids.key(n)?, self.ids.active(n, round))))
                .collect::<anyhow::Result<Vec<_>>>()?;
            self.store.record_session_activity(&batch, Duration::from_secs(1)).await?;
        }
        watch.stop(&self.server, count)
    }

    async fn open_existing(&self, count: u64) -> anyhow::Result<Cost> {
        let watch = Watch::start(&self.server)?;
        let spread = self.plan.sessions / count;
        stream::iter(0..count)
            .map(async |turn| {
                let opening = self.ids.opening(turn * spread)?;
                let kept = self.store.open_session(&opening).await?;
                ensure!(kept.opened == opening.at && kept.active > opening.at, "session {turn} is not what it was");
                Ok(())
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        watch.stop(&self.server, count)
    }

    async fn read(&self, count: u64) -> anyhow::Result<Cost> {
        let watch = Watch::start(&self.server)?;
        let spread = self.plan.sessions / count;
        stream::iter(0..count)
            .map(async |turn| {
                let opening = self.ids.opening(turn * spread)?;
                let kept = self.store.session(&opening.key).await?.context("a session is gone")?;
                ensure!(kept.client == opening.client && kept.gateway == opening.gateway, "a session is another");
                Ok(())
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        watch.stop(&self.server, count)
    }

    async fn sessions_of(&self, count: u64) -> anyhow::Result<Cost> {
        let watch = Watch::start(&self.server)?;
        stream::iter(0..count)
            .map(async |turn| {
                let page = self.store.sessions_of(&self.ids.subject_of_three(turn)?, None, 100).await?;
                ensure!(page.len() == 3, "a subject has {} sessions", page.len());
                Ok(())
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        watch.stop(&self.server, count)
    }

    /// As whoever ends idle sessions would ask: the first page of each set.
    fn idle_pages(&mut self) -> anyhow::Result<Cost> {
        let watch = Watch::start(&self.server)?;
        for shard in 0..64 {
            let mut page = redis::cmd("ZRANGE");
            page.arg(format!("portcullis:active:{}:{shard:02}", self.ids.issuer())).arg("-inf").arg("+inf");
            page.arg("BYSCORE").arg("LIMIT").arg(0).arg(PAGE).arg("WITHSCORES");
            let page: Vec<(String, f64)> = page.query(&mut self.connection)?;
            ensure!(!page.is_empty(), "a set is empty");
        }
        watch.stop(&self.server, 64)
    }

    /// Each new one makes an old one go.
    async fn crowd(&self) -> anyhow::Result<Cost> {
        let subject = self.ids.subject(u64::MAX)?;
        let open = async |n: u64| -> anyhow::Result<()> {
            let key = SessionKey { subject: subject.clone(), id: ids::session(self.plan.sessions + n)? };
            let opening = portcullis::store::sessions::Opening { key, ..self.ids.opening(n)? };
            self.store.open_session(&opening).await?;
            Ok(())
        };
        let most = u64::try_from(MAX_SESSIONS)?;
        for n in 0..most {
            open(n).await?;
        }
        let watch = Watch::start(&self.server)?;
        for n in most..2 * most {
            open(n).await?;
        }
        let cost = watch.stop(&self.server, most)?;
        let left = self.store.sessions_of(&subject, None, usize::MAX).await?.len();
        ensure!(left == MAX_SESSIONS, "{left} sessions of a subject are kept");
        Ok(cost)
    }

    /// Of those that were not active again.
    async fn forget(&mut self, count: u64) -> anyhow::Result<Cost> {
        let first = self.plan.some().max(self.plan.sessions / 10);
        let before = self.sessions_with_activity()?;
        let watch = Watch::start(&self.server)?;
        self.store.forget_idle_sessions(self.ids.issuer(), self.ids.active(first + count, 1)).await?;
        let gone = before - self.sessions_with_activity()?;
        ensure!(gone == count.min(self.plan.sessions.saturating_sub(first)), "{gone} were forgotten");
        watch.stop(&self.server, gone)
    }

    fn sessions_with_activity(&mut self) -> anyhow::Result<u64> {
        let mut pipeline = redis::pipe();
        for shard in 0..64 {
            pipeline.zcard(format!("portcullis:active:{}:{shard:02}", self.ids.issuer()));
        }
        Ok(pipeline.query::<Vec<u64>>(&mut self.connection)?.iter().sum())
    }

    fn keys(&mut self) -> anyhow::Result<u64> {
        Ok(redis::cmd("DBSIZE").query(&mut self.connection)?)
    }

    /// As a gateway that starts, but without its pauses: every key is looked at, whatever it is.
    fn names(&mut self) -> anyhow::Result<Cost> {
        let watch = Watch::start(&self.server)?;
        let (mut cursor, mut calls) = ("0".to_owned(), 0);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg("portcullis:m:*").arg("COUNT").arg(250);
            let (next, names): (String, Vec<String>) = scan.query(&mut self.connection)?;
            ensure!(names.is_empty(), "there are markers");
            (cursor, calls) = (next, calls + 1);
            if cursor == "0" {
                return watch.stop(&self.server, calls);
            }
        }
    }

    /// How Redis keeps the hashes of some subjects.
    fn encoding(&mut self) -> anyhow::Result<String> {
        let mut encodings = std::collections::BTreeSet::new();
        for n in 0..20 {
            let subject = self.ids.subject(n)?;
            let key = format!("portcullis:sessions:{}:{}", subject.issuer, subject.id.as_str());
            encodings.insert(redis::cmd("OBJECT").arg("ENCODING").arg(key).query::<String>(&mut self.connection)?);
        }
        Ok(encodings.into_iter().collect::<Vec<_>>().join(" and "))
    }
}

/// A gateway's store, once it knows the names of all markers.
async fn open(url: &str) -> anyhow::Result<Arc<RedisStore>> {
    let settings = RedisSettings { response_timeout: Duration::from_secs(10), ..RedisSettings::from_url(url)? };
    let store = RedisStore::open(&settings, Arc::new(Nobody), Clock::System)?;
    let (nobody, begun) = (MarkerKey::issuer(&"nobody".try_into()?), Instant::now());
    while !store.lacks(&nobody) {
        ensure!(begun.elapsed() < PATIENCE, "the names of markers are not loaded after {PATIENCE:?}");
        sleep(Duration::from_millis(10)).await;
    }
    Ok(store)
}

/// Hears of nothing.
#[derive(Debug)]
struct Nobody;

impl Watcher for Nobody {
    fn changed(&self, _: &str) {}
    fn reset(&self) {}
    fn heard(&self, _: std::time::Instant) {}
}
