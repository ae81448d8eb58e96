//! The command line.

use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Measures what log records cost a gateway that proxies meanwhile.
#[derive(Parser, Debug)]
#[command(
    name = "events",
    after_help = "Examples:\n  cargo bench --bench events\n  cargo bench --bench events -- redis --records 10000 --requests 0"
)]
pub(crate) struct Plan {
    /// Where the gateway keeps markers and activity; one after the other unless given
    #[arg(value_name = "STORE")]
    stores: Vec<Store>,
    /// Records a second
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub(crate) records: u32,
    /// Records in a delivery
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) batch: usize,
    /// Proxied requests a second
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub(crate) requests: u32,
    /// How long records are sent
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    seconds: u64,
    /// Threads of the gateway that serve requests (`TOKIO_WORKER_THREADS`)
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) workers: usize,
    /// A run of a few seconds: few records, everything checked but the time
    #[arg(long)]
    smoke: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// A store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Store {
    /// SQLite in the gateway
    Embedded,
    /// A redis-server beside it
    Redis,
}

impl Plan {
    pub(crate) fn read() -> Self {
        let plan = Self::parse();
        if plan.smoke { Self { records: 1000, requests: 100, seconds: 2, ..plan } } else { plan }
    }

    pub(crate) fn stores(&self) -> &[Store] {
        if self.stores.is_empty() { Store::value_variants() } else { &self.stores }
    }

    pub(crate) const fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// One logout in ten deliveries is followed to its refusal.
    pub(crate) fn probes(&self) -> usize {
        self.deliveries() / 10 + 1
    }

    pub(crate) fn deliveries(&self) -> usize {
        self.records as usize * usize::try_from(self.seconds).unwrap_or(1) / self.batch.max(1)
    }
}
