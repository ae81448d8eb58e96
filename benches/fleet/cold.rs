//! A server with many markers and users, and what gateways cost it that know nothing yet.

use std::time::Duration;

use anyhow::{Context, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use hdrhistogram::Histogram;
use redis::{Connection, aio::MultiplexedConnection};
use tokio::time::{Instant, sleep};

use crate::{plan::Plan, process, redis_server::RedisServer, run::Fleet, tokens::subject, topology::Store, writer};

/// Over how many sorted sets activity is spread, see `docs/markers.md`.
const SHARDS: u8 = 64;

/// The keys that a request of somebody unknown is looked up by.
const KEYS_OF_A_TOKEN: usize = 6;

/// A server that uses less than this share of a core has nothing more to do.
const QUIET: f64 = 0.06;

/// What the server does all at once, in one number each.
pub(crate) struct Cost {
    pub(crate) cpu: Duration,
    pub(crate) took: Duration,
}

/// A pass over the names of all markers.
pub(crate) struct Scan {
    pub(crate) count: usize,
    pub(crate) calls: u32,
    pub(crate) cost: Cost,
}

/// Reads of markers that are not there, so many in a pipeline.
pub(crate) struct Gets {
    pub(crate) depth: usize,
    pub(crate) count: u32,
    pub(crate) cost: Cost,
}

/// Gateways that begin, or begin again.
pub(crate) struct Beginning {
    pub(crate) what: &'static str,
    pub(crate) cost: Cost,
    /// How long others wait for the server meanwhile, in microseconds.
    pub(crate) pings: Histogram<u64>,
}

/// A server with data.
pub(crate) struct Loaded {
    pub(crate) store: Store,
    connection: Connection,
    markers: usize,
    /// Bytes for a marker, and for a user's activity.
    pub(crate) memory: [f64; 2],
}

impl Loaded {
    pub(crate) fn new(plan: &Plan) -> anyhow::Result<Self> {
        let server = RedisServer::start("")?;
        let mut connection = redis::Client::open(format!("redis://{}", server.address()))?.get_connection()?;
        let empty = used_memory(&mut connection)?;
        eprintln!("writing {} markers", plan.preload);
        write_markers(&mut connection, plan.preload)?;
        let with_markers = used_memory(&mut connection)?;
        eprintln!("writing the activity of {} users", plan.users);
        write_activity(&mut connection, plan.users)?;
        let with_users = used_memory(&mut connection)?;
        let each = |bytes: f64, count: usize| bytes / count.max(1) as f64;
        Ok(Self {
            memory: [each(with_markers - empty, plan.preload), each(with_users - with_markers, plan.users)],
            markers: plan.preload,
            connection,
            store: Store { url: format!("redis://{}", server.address()), servers: vec![server], sentinels: Vec::new() },
        })
    }

    /// The names of all markers, once.
    pub(crate) fn scan(&mut self, count: usize) -> anyhow::Result<Scan> {
        let watch = Watch::start(&self.store.servers[0])?;
        let (mut cursor, mut calls, mut found) = ("0".to_owned(), 0, 0);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg("portcullis:m:*").arg("COUNT").arg(count);
            let (next, names): (String, Vec<String>) = scan.query(&mut self.connection)?;
            (cursor, calls, found) = (next, calls + 1, found + names.len());
            if cursor == "0" {
                break;
            }
        }
        ensure!(found >= self.markers, "SCAN found {found} of {} markers", self.markers);
        Ok(Scan { count, calls, cost: watch.stop(&self.store.servers[0])? })
    }

    /// Markers of users who have none.
    pub(crate) fn get(&mut self, depth: usize) -> anyhow::Result<Gets> {
        let pipelines = 20_000 / depth + 1;
        let watch = Watch::start(&self.store.servers[0])?;
        for n in 0..pipelines {
            let mut pipeline = redis::pipe();
            for at in 0..depth {
                pipeline.get(format!("portcullis:m:session:bench:Vq8sT3kLw2ZrXy0m{:016}", n * depth + at)).ignore();
            }
            pipeline.exec(&mut self.connection)?;
        }
        Ok(Gets { depth, count: u32::try_from(pipelines * depth)?, cost: watch.stop(&self.store.servers[0])? })
    }
}

impl Gets {
    /// CPU time for a user nobody knows, in microseconds.
    pub(crate) fn of_user(&self) -> f64 {
        self.cost.cpu.as_secs_f64() * 1e6 / f64::from(self.count) * KEYS_OF_A_TOKEN as f64
    }
}

/// What the server does until it is quiet again.
pub(crate) async fn until_quiet(fleet: &Fleet, what: &'static str, watch: Watch) -> anyhow::Result<Beginning> {
    let server = &fleet.store.servers[0];
    let mut connection = writer::connect(server.address()).await?;
    let mut pings = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    loop {
        let took = watch.begun.elapsed();
        let (before, begun) = (process::cpu_time(server.pid())?, Instant::now());
        while begun.elapsed() < Duration::from_secs(1) {
            ping(&mut connection, &mut pings).await?;
        }
        let used = process::cpu_time(server.pid())?.saturating_sub(before);
        if used.as_secs_f64() / begun.elapsed().as_secs_f64() < QUIET {
            return Ok(Beginning { what, cost: Cost { took, ..watch.stop(server)? }, pings });
        }
    }
}

/// Every gateway has to begin again.
pub(crate) async fn disconnect_all(store: &Store) -> anyhow::Result<()> {
    let mut connection = writer::connect(store.servers[0].address()).await?;
    let mut kill = redis::cmd("CLIENT");
    kill.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes");
    Ok(kill.exec_async(&mut connection).await?)
}

async fn ping(connection: &mut MultiplexedConnection, pings: &mut Histogram<u64>) -> anyhow::Result<()> {
    let sent = Instant::now();
    redis::cmd("PING").exec_async(connection).await?;
    pings.record(u64::try_from(sent.elapsed().as_micros())?)?;
    sleep(Duration::from_millis(5)).await;
    Ok(())
}

/// From a moment on.
pub(crate) struct Watch {
    begun: Instant,
    cpu: Duration,
}

impl Watch {
    pub(crate) fn start(server: &RedisServer) -> anyhow::Result<Self> {
        Ok(Self { begun: Instant::now(), cpu: process::cpu_time(server.pid())? })
    }

    fn stop(&self, server: &RedisServer) -> anyhow::Result<Cost> {
        Ok(Cost { cpu: process::cpu_time(server.pid())?.saturating_sub(self.cpu), took: self.begun.elapsed() })
    }
}

fn write_markers(connection: &mut Connection, count: usize) -> anyhow::Result<()> {
    let numbers: Vec<usize> = (0..count).collect();
    for some in numbers.chunks(1000) {
        let mut pipeline = redis::pipe();
        for n in some {
            pipeline.add_command(writer::logout(&subject(10_000_000 + n))?).ignore();
        }
        pipeline.exec(connection)?;
    }
    Ok(())
}

fn write_activity(connection: &mut Connection, users: usize) -> anyhow::Result<()> {
    let numbers: Vec<usize> = (0..users).collect();
    for some in numbers.chunks(50_000) {
        let mut sets: Vec<redis::Cmd> =
            (0..SHARDS).map(|shard| zadd(&format!("portcullis:seen:bench:{shard:02}"))).collect();
        for n in some {
            let user = subject(*n);
            let shard = digest(&SHA256, user.as_bytes()).as_ref()[0] % SHARDS;
            sets[usize::from(shard)].arg(1_763_700_000_000 + n).arg(user);
        }
        let mut pipeline = redis::pipe();
        for set in sets {
            // A set without members is no command.
            if set.args_iter().count() > 3 {
                pipeline.add_command(set).ignore();
            }
        }
        pipeline.exec(connection)?;
    }
    Ok(())
}

fn zadd(set: &str) -> redis::Cmd {
    let mut zadd = redis::cmd("ZADD");
    zadd.arg(set).arg("GT");
    zadd
}

fn used_memory(connection: &mut Connection) -> anyhow::Result<f64> {
    let text: String = redis::cmd("INFO").arg("memory").query(connection)?;
    let line = text.lines().find_map(|line| line.strip_prefix("used_memory:")).context("no used_memory")?;
    Ok(line.trim().parse()?)
}
