//! The table.

use hdrhistogram::Histogram;

use crate::{measure::Round, mechanism::Mechanism};

/// What fewer gateways cost an idle server is lost in what it does by itself.
const SOME: usize = 64;

/// Prints one line for each number of gateways and mechanism.
#[derive(Default)]
pub(crate) struct Report {
    /// The server that tells nobody, by mechanism.
    alone: [Option<Figures>; 2],
}

/// CPU: the least of the rounds, as others on the machine only add to it. Everything else: the median.
#[derive(Clone, Copy)]
struct Figures {
    cpu: f64,
    idle: f64,
    sent: f64,
    received: f64,
}

impl Report {
    pub(crate) fn begin() {
        println!(
            "| gateways | by | CPU us/write | and gateway | sent, received B/write and gateway | server busy | \
             idle us/s and gateway | B/connection | sent to told ms p50, p99, max | acknowledged to told |"
        );
        println!("| ---: | --- | ---: | ---: | --- | ---: | ---: | ---: | --- | --- |");
    }

    pub(crate) fn add(&mut self, gateways: usize, mechanism: Mechanism, rounds: &[Round]) {
        let least = |field: fn(&Round) -> f64| rounds.iter().map(field).fold(f64::INFINITY, f64::min);
        let middle = |field: fn(&Round) -> f64| median(rounds.iter().map(field).collect());
        let figures = Figures {
            cpu: least(|round| round.cpu),
            idle: least(|round| round.idle),
            sent: middle(|round| round.sent),
            received: middle(|round| round.received),
        };
        if gateways == 0 {
            self.alone[mechanism as usize] = Some(figures);
        }
        let alone = self.alone[mechanism as usize];
        let each = |field: fn(&Figures) -> f64| match alone {
            Some(alone) if gateways > 0 => format!("{:.1}", (field(&figures) - field(&alone)) / gateways as f64),
            _ => "-".to_owned(),
        };
        println!(
            "| {gateways} | {} | {:.1} | {} | {}, {} | {:.0}% | {} | {:.0} | {} | {} |",
            mechanism.name(),
            figures.cpu,
            each(|figures| figures.cpu),
            each(|figures| figures.sent),
            each(|figures| figures.received),
            middle(|round| round.busy) * 100.0,
            if gateways < SOME { "-".to_owned() } else { each(|figures| figures.idle) },
            middle(|round| round.memory),
            quantiles(rounds, |round| &round.since_sent),
            quantiles(rounds, |round| &round.since_acknowledged),
        );
    }
}

fn quantiles(rounds: &[Round], of: fn(&Round) -> &Histogram<u64>) -> String {
    if rounds.iter().any(|round| of(round).is_empty()) {
        return "-".to_owned();
    }
    let at = |quantile| median(rounds.iter().map(|round| of(round).value_at_quantile(quantile) as f64 / 1e6).collect());
    format!("{:.2}, {:.2}, {:.1}", at(0.5), at(0.99), at(1.0))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
