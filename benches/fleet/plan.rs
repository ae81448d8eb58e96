//! The command line.

use std::time::Duration;

use clap::Parser;

use crate::{topology::Topology, writer::By};

/// Measures how long after a marker was acknowledged the last gateway of a fleet refuses.
#[derive(Parser, Debug)]
#[command(
    name = "fleet",
    after_help = "Examples:\n  cargo bench --bench fleet\n  cargo bench --bench fleet -- cluster --rates 0 --by gateway\n  cargo bench --bench fleet -- --smoke"
)]
pub(crate) struct Plan {
    /// The stores; all of them unless given
    #[arg(value_name = "STORE")]
    topologies: Vec<Topology>,
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
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [0, 3000, 50_000])]
    pub(crate) rates: Vec<u32>,
    /// Who writes the markers
    #[arg(long, value_enum, default_value_t = By::Program)]
    pub(crate) by: By,
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
        if plan.smoke { Self { gateways: 3, markers: 20, rates: vec![200], ..plan } } else { plan }
    }

    pub(crate) fn topologies(&self) -> Vec<Topology> {
        if self.topologies.is_empty() { Topology::ALL.to_vec() } else { self.topologies.clone() }
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

/// How many tokens the requests of the background have.
pub(crate) const BACKGROUND_TOKENS: usize = 500;
