//! What something costs: time, CPU time of this process, and of Redis.

use std::time::Duration;

use tokio::time::Instant;

use crate::process::cpu_time;

/// From a moment on.
pub(crate) struct Watch {
    begun: Instant,
    server: Option<u32>,
    own: Duration,
    theirs: Duration,
}

/// What so many of something took.
pub(crate) struct Cost {
    pub(crate) count: u64,
    pub(crate) took: Duration,
    pub(crate) own: Duration,
    /// That of a server, if there is one.
    pub(crate) theirs: Option<Duration>,
}

impl Watch {
    /// `server`: its process, if there is one.
    pub(crate) fn start(server: Option<u32>) -> anyhow::Result<Self> {
        let theirs = server.map_or(Ok(Duration::ZERO), cpu_time)?;
        Ok(Self { begun: Instant::now(), server, own: cpu_time(std::process::id())?, theirs })
    }

    pub(crate) fn stop(self, count: u64) -> anyhow::Result<Cost> {
        let took = self.begun.elapsed();
        let own = cpu_time(std::process::id())?.saturating_sub(self.own);
        let theirs = match self.server {
            Some(server) => Some(cpu_time(server)?.saturating_sub(self.theirs)),
            None => None,
        };
        Ok(Cost { count, took, own, theirs })
    }
}

impl Cost {
    /// One line of the report, for each of `count`.
    pub(crate) fn show(&self, what: &str) -> String {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / self.count.max(1) as f64;
        let theirs = self.theirs.map_or_else(String::new, |theirs| format!(", Redis {:.2} us", each(theirs)));
        format!(
            "{what:<44} {:>10} times, each: took {:.2} us, CPU here {:.2} us{theirs}; {:.2} s in all",
            self.count,
            each(self.took),
            each(self.own),
            self.took.as_secs_f64()
        )
    }
}
