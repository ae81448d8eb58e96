//! The command line, and what it comes to.

use std::{fmt, fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context, bail};
use clap::Parser;

use crate::{gate, proxy::Kind, scenario::Scenario};

/// Tokens that connections are warmed up with, apart from those that are measured.
pub(crate) const SPARE_TOKENS: usize = 256;

/// How long proxies are watched without requests.
pub(crate) const IDLE_SECONDS: u32 = 4;

/// More would take minutes to sign, and a gigabyte.
const MAX_TOKENS: usize = 250_000;

/// Measures CPU time per request, latency and memory of the gate, beside other proxies.
#[derive(Parser, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "flags of the command line")]
#[command(
    name = "load",
    after_help = "Examples:\n  cargo bench --bench load\n  cargo bench --bench load -- repeated_1k all_new --seconds 10\n  cargo bench --bench load -- --smoke"
)]
pub(crate) struct Arguments {
    /// The scenarios; all of them unless given
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// List the scenarios
    #[arg(long)]
    pub(crate) list: bool,
    /// How long a round takes
    #[arg(long, value_name = "N", default_value_t = 5)]
    seconds: u32,
    /// How often each proxy has its turn
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Requests a second; by default 4000, and 1500 where all tokens are new
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Kept-alive connections
    #[arg(long, value_name = "N", default_value_t = 64)]
    connections: usize,
    /// Other proxies to measure beside the gate, `none` for none; those of nginx, haproxy and envoy that are installed unless given; `relay` passes bytes on and `direct` goes to the upstream without any, to compare latencies
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    peers: Option<Vec<String>>,
    /// Builds of the gate to measure beside each other; the one that cargo built unless given
    #[arg(long, value_name = "PROGRAMS", value_delimiter = ',', default_value = gate::PROGRAM, hide_default_value = true)]
    gates: Vec<PathBuf>,
    /// Have the last of these builds wait awake for so long (`listener.busy_poll`)
    #[arg(long, value_name = "DURATION")]
    busy_poll: Option<String>,
    /// Threads of the gate that serve requests (`TOKIO_WORKER_THREADS`)
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: usize,
    /// Give every process all cores, instead of one to the proxies and one to generator and upstream
    #[arg(long)]
    unpinned: bool,
    /// Print JSON, with every round, instead of a table
    #[arg(long)]
    json: bool,
    /// A short run that only checks the answers: low rates, one round, no other proxies
    #[arg(long)]
    smoke: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is going to be done.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) peers: Vec<Kind>,
    pub(crate) gates: Vec<PathBuf>,
    pub(crate) seconds: u32,
    pub(crate) rounds: usize,
    pub(crate) connections: usize,
    pub(crate) workers: usize,
    pub(crate) pinned: bool,
    pub(crate) json: bool,
    pub(crate) smoke: bool,
    pub(crate) busy_poll: Option<String>,
    rate: Option<u32>,
}

impl Arguments {
    pub(crate) fn plan(&self) -> anyhow::Result<Plan> {
        let named = |name: &String| {
            Scenario::named(name).with_context(|| format!("there is no scenario `{name}`; `--list` shows them"))
        };
        let mut scenarios = self.scenarios.iter().map(named).collect::<anyhow::Result<Vec<_>>>()?;
        if scenarios.is_empty() {
            scenarios = Scenario::ALL.to_vec();
        }
        if self.seconds == 0 || self.rounds == 0 || self.rate == Some(0) || self.connections == 0 || self.workers == 0 {
            bail!("seconds, rounds, rate, connections and workers must be at least 1");
        }
        if self.gates.len() > 3 {
            bail!("three builds of the gate at most are measured beside each other");
        }
        let gate =
            |path: &PathBuf| fs::canonicalize(path).with_context(|| format!("there is no gate at {}", path.display()));
        let plan = Plan {
            scenarios,
            gates: self.gates.iter().map(gate).collect::<anyhow::Result<_>>()?,
            peers: if self.smoke && self.peers.is_none() { Vec::new() } else { self.peers()? },
            seconds: if self.smoke { 1 } else { self.seconds },
            rounds: if self.smoke { 1 } else { self.rounds },
            connections: self.connections,
            workers: self.workers,
            pinned: !self.unpinned && !self.smoke && thread::available_parallelism()?.get() > 1,
            json: self.json,
            smoke: self.smoke,
            busy_poll: self.busy_poll.clone(),
            rate: self.rate.or_else(|| self.smoke.then_some(200)),
        };
        if plan.tokens() > MAX_TOKENS {
            bail!("{} tokens would have to be signed; a lower rate or shorter rounds need fewer", plan.tokens());
        }
        Ok(plan)
    }

    fn peers(&self) -> anyhow::Result<Vec<Kind>> {
        let Some(names) = &self.peers else {
            return Ok([Kind::Nginx, Kind::Haproxy, Kind::Envoy]
                .into_iter()
                .filter(|kind| kind.version().is_some())
                .collect());
        };
        let mut peers = Vec::new();
        for name in names.iter().filter(|name| *name != "none") {
            let kind = match name.as_str() {
                "nginx" => Kind::Nginx,
                "haproxy" => Kind::Haproxy,
                "envoy" => Kind::Envoy,
                "relay" => Kind::Relay,
                "direct" => Kind::Direct,
                _ => bail!("`{name}` is not among the peers that are known here: nginx, haproxy, envoy, relay, direct"),
            };
            kind.version().with_context(|| format!("{name} is not installed"))?;
            peers.push(kind);
        }
        Ok(peers)
    }
}

impl Plan {
    pub(crate) fn rate(&self, scenario: Scenario) -> u32 {
        self.rate.unwrap_or(scenario.default_rate())
    }

    /// Requests of one round.
    pub(crate) fn requests(&self, scenario: Scenario) -> usize {
        self.rate(scenario) as usize * self.seconds as usize
    }

    /// How many tokens a scenario takes.
    pub(crate) fn tokens_of(&self, scenario: Scenario) -> usize {
        match scenario {
            Scenario::Pass | Scenario::NoToken => 1,
            Scenario::Repeated1k
            | Scenario::Revoked
            | Scenario::BadSignature
            | Scenario::Large
            | Scenario::Upload
            | Scenario::NewConnection
            | Scenario::Tls
            | Scenario::Http2 => {
                if self.smoke {
                    100
                } else {
                    1000
                }
            }
            Scenario::Repeated50k => {
                if self.smoke {
                    500
                } else {
                    50_000
                }
            }
            Scenario::AllNew | Scenario::Es256New => self.requests(scenario) * self.rounds,
        }
    }

    /// How many tokens have to be signed: scenarios share them, as each starts with new proxies.
    pub(crate) fn tokens(&self) -> usize {
        SPARE_TOKENS + self.scenarios.iter().map(|scenario| self.tokens_of(*scenario)).max().unwrap_or(0)
    }

    /// The proxies in the order of their turns.
    pub(crate) fn proxies(&self) -> Vec<Kind> {
        self.peers.iter().copied().chain((0..self.gates.len()).map(Kind::Gate)).collect()
    }

    /// About how long it takes.
    fn expected_time(&self) -> Duration {
        let signing = Duration::from_micros(700) * u32::try_from(self.tokens()).unwrap_or(u32::MAX) / 2;
        let proxies = u32::try_from(self.proxies().len() * self.rounds).unwrap_or(u32::MAX);
        let idle = if self.smoke { 0 } else { IDLE_SECONDS };
        let of_scenario = |scenario: &Scenario| {
            let warming = if *scenario == Scenario::Repeated50k && !self.smoke { 15 } else { 1 };
            Duration::from_secs((proxies * self.seconds + warming + idle).into())
        };
        signing + self.scenarios.iter().map(of_scenario).sum::<Duration>()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.scenarios.iter().map(|scenario| scenario.name()).collect();
        let proxies: Vec<_> = self.proxies().into_iter().map(Kind::name).collect();
        let place = if self.pinned { "proxies on core 0, the rest on core 1" } else { "on any core" };
        writeln!(f, "scenarios: {}", names.join(", "))?;
        writeln!(f, "proxies:   {}; {} x {} s each in turn; {place}", proxies.join(", "), self.rounds, self.seconds)?;
        writeln!(f, "tokens:    {} to sign", self.tokens())?;
        write!(f, "expected:  {} s in all", self.expected_time().as_secs())
    }
}
