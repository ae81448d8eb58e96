//! The command line.

use clap::Parser;

/// Measures what sessions take of a Redis server's memory and time.
#[derive(Parser, Debug)]
#[command(name = "sessions", after_help = "Example:\n  cargo bench --bench sessions -- --sessions 2000000")]
pub(crate) struct Plan {
    /// How many sessions are kept; each takes about half a kilobyte of memory
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    pub(crate) sessions: u64,
    /// A line for the server's configuration, such as `hash-max-listpack-value 32`
    #[arg(long, value_name = "LINE")]
    pub(crate) redis: Vec<String>,
    /// Few sessions: only whether every answer is right
    #[arg(long)]
    smoke: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

impl Plan {
    pub(crate) fn read() -> Self {
        let plan = Self::parse();
        if plan.smoke { Self { sessions: 12_000, ..plan } } else { plan }
    }

    /// How many of each operation on sessions that are there.
    pub(crate) fn some(&self) -> u64 {
        (self.sessions / 2).min(200_000)
    }
}
