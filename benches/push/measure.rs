//! One measurement: a new server, so many gateways, one writer.

use std::{
    collections::HashMap,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;

use crate::{
    mechanism::Mechanism,
    plan::Plan,
    process,
    reader::{Arrivals, Readers},
    redis_server::RedisServer,
    writer::{self, Written},
};

/// How many of the gateways note when they hear of a change. They have a thread of their own, so that it is the server
/// that is timed, and not how long hundreds of readers take on one core.
const OBSERVERS: usize = 4;

/// How long the last change may take to reach everyone.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came of one round.
#[derive(Debug)]
pub(crate) struct Round {
    /// The server's CPU time per write, in microseconds, less what it uses idle.
    pub(crate) cpu: f64,
    /// The same in a second without writes.
    pub(crate) idle: f64,
    /// Which share of one core the server used.
    pub(crate) busy: f64,
    /// Bytes that the server sent, and was sent, per write.
    pub(crate) sent: f64,
    pub(crate) received: f64,
    /// The server's memory for one gateway's connection, in bytes.
    pub(crate) memory: f64,
    /// From sending a write, in nanoseconds.
    pub(crate) since_sent: Histogram<u64>,
    /// From its acknowledgement; nothing for who was told before it.
    pub(crate) since_acknowledged: Histogram<u64>,
}

pub(crate) fn measure(mechanism: Mechanism, gateways: usize, plan: &Plan) -> anyhow::Result<Round> {
    let server = RedisServer::start("")?;
    let mut control = Control::open(server.address())?;
    let observers = gateways.min(OBSERVERS);
    let writes = plan.writes();
    let crowd = Readers::start(mechanism, server.address(), gateways - observers, 0)?;
    let noting = Readers::start(mechanism, server.address(), observers, writes)?;
    let idle = idle(&server, plan.idle())?;
    let memory = if gateways > 0 { control.memory_per_client()? } else { 0.0 };

    let (traffic, cpu, begun) = (control.traffic()?, process::cpu_time(server.pid())?, Instant::now());
    let written = writer::write(mechanism, server.address(), writes, plan.rate)?;
    wait_until_told(writes * gateways, || crowd.told() + noting.told())?;
    let (took, used) = (begun.elapsed(), process::cpu_time(server.pid())?.saturating_sub(cpu));
    let traffic = control.traffic()?.since(traffic);
    crowd.stop()?;
    let (since_sent, since_acknowledged) = latencies(&written, &noting.stop()?)?;

    let per_write = |total: f64| total / writes as f64;
    Ok(Round {
        cpu: per_write(used.saturating_sub(idle.mul_f64(took.as_secs_f64())).as_secs_f64() * 1e6),
        idle: idle.as_secs_f64() * 1e6,
        busy: used.as_secs_f64() / took.as_secs_f64(),
        sent: per_write(traffic.sent),
        received: per_write(traffic.received),
        memory,
        since_sent,
        since_acknowledged,
    })
}

/// The server's CPU time in a second in which nothing is written.
fn idle(server: &RedisServer, time: Duration) -> anyhow::Result<Duration> {
    let (cpu, begun) = (process::cpu_time(server.pid())?, Instant::now());
    thread::sleep(time);
    let used = process::cpu_time(server.pid())?.saturating_sub(cpu);
    Ok(used.div_f64(begun.elapsed().as_secs_f64()))
}

fn wait_until_told(expected: usize, told: impl Fn() -> usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while told() < expected {
        ensure!(Instant::now() < deadline, "gateways were told of {} of {expected} changes", told());
        thread::sleep(Duration::from_millis(1));
    }
    ensure!(told() == expected, "gateways were told of {} changes, and there were {expected}", told());
    Ok(())
}

fn latencies(written: &[Written], observers: &[Arrivals]) -> anyhow::Result<(Histogram<u64>, Histogram<u64>)> {
    let mut since_sent = Histogram::new_with_bounds(100, 60_000_000_000, 3)?;
    let mut since_acknowledged = since_sent.clone();
    let nanos = |from: Instant, to: Instant| u64::try_from((to.saturating_duration_since(from)).as_nanos());
    for arrivals in observers {
        for (write, arrival) in written.iter().zip(arrivals) {
            let arrival = arrival.context("a gateway was not told of a change")?;
            since_sent.record(nanos(write.sent, arrival)?)?;
            since_acknowledged.record(nanos(write.acknowledged, arrival)?)?;
        }
    }
    Ok((since_sent, since_acknowledged))
}

/// A connection for questions about the server.
pub(crate) struct Control(redis::Connection);

#[derive(Clone, Copy)]
struct Traffic {
    sent: f64,
    received: f64,
}

impl Traffic {
    fn since(self, earlier: Self) -> Self {
        Self { sent: self.sent - earlier.sent, received: self.received - earlier.received }
    }
}

impl Control {
    pub(crate) fn open(server: SocketAddr) -> anyhow::Result<Self> {
        let client = redis::Client::open(format!("redis://{server}"))?;
        Ok(Self(client.get_connection()?))
    }

    pub(crate) fn ask<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> anyhow::Result<T> {
        let mut command = redis::Cmd::new();
        command.arg(words);
        Ok(command.query(&mut self.0)?)
    }

    /// All clients but this one, each with what the server tells of it.
    pub(crate) fn clients(&mut self) -> anyhow::Result<Vec<HashMap<String, String>>> {
        let own: u64 = self.ask(&["CLIENT", "ID"])?;
        let list: String = self.ask(&["CLIENT", "LIST"])?;
        let fields = |line: &str| -> HashMap<_, _> {
            line.split(' ').filter_map(|word| word.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
        };
        Ok(list.lines().map(fields).filter(|client| client.get("id") != Some(&own.to_string())).collect())
    }

    fn memory_per_client(&mut self) -> anyhow::Result<f64> {
        let clients = self.clients()?;
        let memory = clients.iter().map(|client| Ok(client.get("tot-mem").context("no tot-mem")?.parse::<f64>()?));
        Ok(memory.sum::<anyhow::Result<f64>>()? / clients.len() as f64)
    }

    fn traffic(&mut self) -> anyhow::Result<Traffic> {
        let text: String = self.ask(&["INFO", "stats"])?;
        let field = |name: &str| -> anyhow::Result<f64> {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            Ok(value.with_context(|| format!("no {name}"))?.trim().parse()?)
        };
        Ok(Traffic { sent: field("total_net_output_bytes")?, received: field("total_net_input_bytes")? })
    }
}
