//! The command line.

use std::time::Duration;

use clap::Parser;

/// Measures how a Redis server tells gateways of changed markers: by client tracking, and by a stream that they follow.
#[derive(Parser, Debug)]
#[command(name = "push", after_help = "Example:\n  cargo bench --bench push -- --gateways 64,1000 --rate 100")]
pub(crate) struct Plan {
    /// How many simulated gateways, one measurement each
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [0, 1, 8, 64, 256])]
    pub(crate) gateways: Vec<usize>,
    /// Writes a second
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) rate: u32,
    /// How long is written
    #[arg(long, value_name = "N", default_value_t = 3)]
    seconds: u32,
    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) rounds: usize,
    /// A run of a few seconds that only checks that everyone is told of everything
    #[arg(long)]
    smoke: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

impl Plan {
    pub(crate) fn read() -> Self {
        let plan = Self::parse();
        if plan.smoke { Self { gateways: vec![0, 8], rate: 200, seconds: 1, rounds: 1, ..plan } } else { plan }
    }

    pub(crate) fn writes(&self) -> usize {
        self.rate as usize * self.seconds as usize
    }

    /// How long the server is watched without writes.
    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(self.seconds.div_ceil(2).into())
    }
}
