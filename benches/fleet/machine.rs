//! How busy the machine is.

use std::fs;

use anyhow::Context;

/// What its cores have done so far, in hundredths of a second.
pub(crate) struct Machine {
    busy: u64,
    idle: u64,
}

impl Machine {
    pub(crate) fn now() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("no cpu in /proc/stat")?;
        let fields = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        // user nice system idle iowait irq softirq steal; what guests use is in user already.
        let idle = fields.iter().skip(3).take(2).sum();
        Ok(Self { busy: fields.iter().take(8).sum::<u64>() - idle, idle })
    }

    /// The share of the time in which cores were busy, with whatever.
    pub(crate) fn busy_since(&self, earlier: &Self) -> f64 {
        let (busy, idle) = (self.busy - earlier.busy, self.idle - earlier.idle);
        busy as f64 / (busy + idle).max(1) as f64
    }
}
