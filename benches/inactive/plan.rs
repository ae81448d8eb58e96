//! The command line.

use clap::{Parser, ValueEnum};

/// Measures the index of activity: who has been inactive since when.
#[derive(Parser, Debug)]
#[command(
    name = "inactive",
    after_help = "Example:\n  cargo bench --bench inactive -- --part index --store redis --subjects 1000000"
)]
pub(crate) struct Plan {
    /// What to measure; by default everything
    #[arg(long, value_name = "PART")]
    part: Vec<Part>,
    /// On which store; by default on both
    #[arg(long, value_name = "STORE")]
    store: Vec<Kind>,
    /// How many subjects the index has
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(10_000..))]
    pub(crate) subjects: u64,
    /// How many of them are on a page when all are read
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) page: u64,
    /// How many admitted requests a second are recorded
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(100..))]
    pub(crate) rate: u64,
    /// Of how many users they are
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    pub(crate) users: u64,
    /// For how many seconds
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,
    /// How many are blocked at the end of a run
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) block: u64,
    /// Serve a tenant with so many users, for a run
    #[arg(long, hide = true)]
    pub(crate) tenant: Option<u64>,
    /// A line for the server's configuration, such as `zset-max-listpack-entries 0`
    #[arg(long, value_name = "LINE")]
    pub(crate) redis: Vec<String>,
    /// Few subjects: only whether every answer is right
    #[arg(long)]
    smoke: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum Part {
    /// Questions to the index
    Index,
    /// What recording costs
    Recorder,
    /// A run against inactive users of a tenant
    Run,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum Kind {
    Redis,
    Embedded,
}

impl Plan {
    pub(crate) fn read() -> Self {
        let plan = Self::parse();
        if plan.smoke {
            Self { subjects: 20_000, page: 700, rate: 5000, users: 3000, seconds: 1, block: 50, ..plan }
        } else {
            plan
        }
    }

    pub(crate) fn parts(&self) -> Vec<Part> {
        if self.part.is_empty() { vec![Part::Index, Part::Recorder, Part::Run] } else { self.part.clone() }
    }

    pub(crate) fn stores(&self) -> Vec<Kind> {
        if self.store.is_empty() { vec![Kind::Redis, Kind::Embedded] } else { self.store.clone() }
    }
}
