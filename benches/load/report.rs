//! What came of it: a table for people, JSON for machines.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{
    generator::Tally,
    plan::Plan,
    proxy::{Kind, Proxy},
    scenario::Scenario,
};

/// One proxy in one scenario.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) proxy: Proxy,
    pub(crate) rounds: Vec<Round>,
    /// CPU time in a second without requests.
    pub(crate) idle: Duration,
    /// In bytes, at the end.
    pub(crate) memory: u64,
    /// What an idle connection adds to that, in bytes.
    pub(crate) connection: u64,
}

/// One turn of one proxy.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) count: usize,
    /// Per request, without what it uses idle.
    pub(crate) cpu: Duration,
    pub(crate) tally: Tally,
}

/// Figures of one proxy in one scenario, over all rounds.
struct Figures {
    requests: usize,
    rate: f64,
    /// In milliseconds, the median of the rounds: p50, p99, p99.9.
    latency: [f64; 3],
    errors: u64,
    /// Microseconds per request, the least of the rounds: others on the machine only ever add to it.
    cpu: f64,
    memory: f64,
}

pub(crate) struct Report<'a> {
    plan: &'a Plan,
    token_length: usize,
    results: Vec<Value>,
    errors: u64,
}

impl Row {
    pub(crate) const fn new(proxy: Proxy) -> Self {
        Self { proxy, rounds: Vec::new(), idle: Duration::ZERO, memory: 0, connection: 0 }
    }

    pub(crate) const fn kind(&self) -> Kind {
        self.proxy.kind
    }

    fn figures(&self) -> Figures {
        let requests = self.rounds.iter().map(|round| round.count).sum();
        let took: f64 = self.rounds.iter().map(|round| round.tally.took.as_secs_f64()).sum();
        let quantile = |at| median(self.rounds.iter().map(|round| millis(&round.tally.latency, at)).collect());
        Figures {
            requests,
            rate: requests as f64 / took,
            latency: [0.5, 0.99, 0.999].map(quantile),
            errors: self.rounds.iter().map(|round| round.tally.errors).sum(),
            cpu: self.rounds.iter().map(|round| micros(round.cpu)).fold(f64::INFINITY, f64::min),
            memory: self.memory as f64 / f64::from(1 << 20),
        }
    }
}

impl<'a> Report<'a> {
    pub(crate) const fn new(plan: &'a Plan, token_length: usize) -> Self {
        Self { plan, token_length, results: Vec::new(), errors: 0 }
    }

    pub(crate) fn begin(&self) {
        if self.plan.json {
            return;
        }
        let versions: Vec<_> = self.plan.proxies().into_iter().filter_map(Kind::version).collect();
        println!("{}; tokens of {} bytes", versions.join(", "), self.token_length);
        println!(
            "{:<14} {:<12} {:>9} {:>7} {:>8} {:>8} {:>9} {:>7} {:>10} {:>8} {:>9} {:>8}",
            "scenario",
            "proxy",
            "requests",
            "rate/s",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "errors",
            "cpu us/rq",
            "RSS MiB",
            "KiB/conn",
            "x nginx"
        );
    }

    pub(crate) fn add(&mut self, scenario: Scenario, rows: &[Row]) {
        let figures: Vec<_> = rows.iter().map(|row| (row, row.figures())).collect();
        let nginx = figures.iter().find(|(row, _)| row.kind() == Kind::Nginx).map(|(_, figures)| figures.cpu);
        for (row, figures) in &figures {
            let ratio = nginx.map(|nginx| figures.cpu / nginx);
            self.errors += figures.errors;
            for error in row.rounds.iter().filter_map(|round| round.tally.first_error.as_ref()) {
                eprintln!("{} in {}: {error}", row.kind().name(), scenario.name());
            }
            if !self.plan.json {
                print_row(scenario, row, figures, ratio);
            }
            self.results.push(self.result(scenario, row, figures, ratio));
        }
    }

    /// Whether every answer was as expected.
    pub(crate) fn end(self) -> anyhow::Result<bool> {
        if self.plan.json {
            let versions: Vec<_> = self.plan.proxies().into_iter().filter_map(Kind::version).collect();
            let report = json!({
                "versions": versions,
                "token_bytes": self.token_length,
                "workers": self.plan.workers,
                "pinned": self.plan.pinned,
                "results": self.results,
            });
            println!("{}", serde_json::to_string_pretty(&report)?);
        }
        if self.errors > 0 {
            eprintln!("{} answers were not what the scenarios expect", self.errors);
        }
        Ok(self.errors == 0)
    }

    fn result(&self, scenario: Scenario, row: &Row, figures: &Figures, ratio: Option<f64>) -> Value {
        let round = |round: &Round| {
            let latency = &round.tally.latency;
            json!({
                "cpu_us_per_request": micros(round.cpu),
                "seconds": round.tally.took.as_secs_f64(),
                "errors": round.tally.errors,
                "p50_ms": millis(latency, 0.5),
                "p99_ms": millis(latency, 0.99),
                "p999_ms": millis(latency, 0.999),
                "max_ms": millis(latency, 1.0),
            })
        };
        json!({
            "scenario": scenario.name(),
            "proxy": row.kind().name(),
            "requests": figures.requests,
            "offered_rate": self.plan.rate(scenario),
            "achieved_rate": figures.rate,
            "p50_ms": figures.latency[0],
            "p99_ms": figures.latency[1],
            "p999_ms": figures.latency[2],
            "errors": figures.errors,
            "cpu_us_per_request": figures.cpu,
            "cpu_us_idle_per_second": micros(row.idle),
            "rss_mib": figures.memory,
            "bytes_per_idle_connection": row.connection,
            "cpu_ratio_to_nginx": ratio,
            "rounds": row.rounds.iter().map(round).collect::<Vec<_>>(),
        })
    }
}

fn print_row(scenario: Scenario, row: &Row, figures: &Figures, ratio: Option<f64>) {
    let [p50, p99, p999] = figures.latency;
    println!(
        "{:<14} {:<12} {:>9} {:>7.0} {p50:>8.2} {p99:>8.2} {p999:>9.2} {:>7} {:>10.1} {:>8.0} {:>9.1} {:>8}",
        scenario.name(),
        row.kind().name(),
        figures.requests,
        figures.rate,
        figures.errors,
        figures.cpu,
        figures.memory,
        row.connection as f64 / 1024.0,
        ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
    );
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn millis(latency: &Histogram<u64>, quantile: f64) -> f64 {
    latency.value_at_quantile(quantile) as f64 / 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
