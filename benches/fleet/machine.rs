//! How busy the machine is, and with what.

use std::{
    fs, process, thread,
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::{process::cpu_time, run::Fleet};

/// What its cores have done so far.
pub(crate) struct Machine {
    at: Instant,
    /// Of anyone, in hundredths of a second.
    idle: u64,
    total: u64,
    /// Of the fleet, its servers and this process.
    own: Duration,
}

/// Shares of all cores.
pub(crate) struct Busy {
    pub(crate) all: f64,
    pub(crate) own: f64,
}

impl Machine {
    pub(crate) fn now(fleet: &Fleet) -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("no cpu in /proc/stat")?;
        let fields = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        // user nice system idle iowait irq softirq steal; what guests use is in user already.
        let (idle, total) = (fields.iter().skip(3).take(2).sum(), fields.iter().take(8).sum());
        let gateways: Duration =
            fleet.gateways.iter().map(|gateway| cpu_time(gateway.pid())).sum::<anyhow::Result<_>>()?;
        let own = gateways + fleet.store.cpu_time()? + cpu_time(process::id())?;
        Ok(Self { at: Instant::now(), idle, total, own })
    }

    pub(crate) fn busy_since(&self, earlier: &Self) -> anyhow::Result<Busy> {
        let (idle, total) = (self.idle - earlier.idle, self.total - earlier.total);
        let cores = thread::available_parallelism()?.get() as f64;
        let own = self.own.saturating_sub(earlier.own).as_secs_f64();
        let time = self.at.saturating_duration_since(earlier.at).as_secs_f64() * cores;
        Ok(Busy { all: 1.0 - idle as f64 / total.max(1) as f64, own: own / time })
    }
}
