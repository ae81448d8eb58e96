//! The command line.

use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::writer::By;

/// Measures how long after a marker was acknowledged the last gateway of a fleet refuses.
#[derive(Parser, Debug)]
#[command(
    name = "fleet",
    after_help = "Examples:\n  cargo bench --bench fleet\n  cargo bench --bench fleet -- cluster --rates 0 --by gateway\n  cargo bench --bench fleet -- --smoke"
)]
pub(crate) struct Plan {
    /// What is measured; everything but `cold` unless given
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<Scenario>,
    /// How many gateways
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) gateways: usize,
    /// Threads of each gateway that serve requests (`TOKIO_WORKER_THREADS`)
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) workers: usize,
    /// How many markers are written at each rate, one after the other
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub(crate) markers: usize,
    /// Other requests a second, to all gateways together; one measurement each
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [0, 8000, 50_000])]
    pub(crate) rates: Vec<u32>,
    /// Who writes the markers
    #[arg(long, value_enum, default_value_t = By::Program)]
    pub(crate) by: By,
    /// How many markers the server of `cold` has
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub(crate) preload: usize,
    /// How many users' activity it has
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pub(crate) users: usize,
    /// A run of a few seconds: a small fleet, few markers, everything checked but the time
    #[arg(long)]
    pub(crate) smoke: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

impl Plan {
    pub(crate) fn read() -> Self {
        let plan = Self::parse();
        if plan.smoke {
            Self { gateways: 3, markers: 20, rates: vec![200], preload: 20_000, users: 50_000, ..plan }
        } else {
            plan
        }
    }

    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        match self.scenarios.as_slice() {
            [] if self.smoke => Scenario::value_variants().to_vec(),
            [] => vec![Scenario::Standalone, Scenario::Cluster, Scenario::Sentinel],
            named => named.to_vec(),
        }
    }

    /// How long servers are watched for what a write costs them.
    pub(crate) const fn watched(&self) -> Duration {
        Duration::from_secs(if self.smoke { 1 } else { 4 })
    }

    /// How many tokens have to be signed.
    pub(crate) fn tokens(&self) -> usize {
        BACKGROUND_TOKENS + self.markers * self.rates.len().max(1)
    }
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Scenario {
    /// Markers on one server
    Standalone,
    /// Markers on a Cluster of three primaries
    Cluster,
    /// Markers on a primary with two replicas and three sentinels, through a failover
    Sentinel,
    /// Gateways that know nothing, on a server with many markers and users; it takes 1.5 GB and two minutes
    Cold,
}

/// How many tokens the requests of the background have.
pub(crate) const BACKGROUND_TOKENS: usize = 500;
