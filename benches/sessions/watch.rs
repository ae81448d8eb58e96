//! What something costs the server.

use std::time::Duration;

use anyhow::Context;
use redis::Connection;
use tokio::time::Instant;

use crate::{process::cpu_time, redis_server::RedisServer};

/// From a moment on.
pub(crate) struct Watch {
    begun: Instant,
    cpu: Duration,
}

/// What so many of something took.
pub(crate) struct Cost {
    pub(crate) count: u64,
    cpu: Duration,
    took: Duration,
}

impl Watch {
    pub(crate) fn start(server: &RedisServer) -> anyhow::Result<Self> {
        Ok(Self { begun: Instant::now(), cpu: cpu_time(server.pid())? })
    }

    pub(crate) fn stop(self, server: &RedisServer, count: u64) -> anyhow::Result<Cost> {
        let cpu = cpu_time(server.pid())?.saturating_sub(self.cpu);
        Ok(Cost { count, cpu, took: self.begun.elapsed() })
    }
}

impl Cost {
    /// One line of the report.
    pub(crate) fn show(&self, what: &str) -> String {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / self.count.max(1) as f64;
        let (cpu, took) = (self.cpu.as_secs_f64(), self.took.as_secs_f64());
        let per_second = self.count as f64 / took.max(f64::EPSILON);
        format!(
            "{what:<52} {:>10} {:>9.2} us of Redis' CPU each, {cpu:.2} s; took {took:.2} s, {per_second:.0}/s",
            self.count,
            each(self.cpu)
        )
    }
}

/// What the server's allocator has given out.
pub(crate) fn used_memory(connection: &mut Connection) -> anyhow::Result<u64> {
    let text: String = redis::cmd("INFO").arg("memory").query(connection)?;
    let line = text.lines().find_map(|line| line.strip_prefix("used_memory:")).context("no used_memory")?;
    Ok(line.trim().parse()?)
}
