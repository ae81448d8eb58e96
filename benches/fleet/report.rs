//! Tables.

use std::time::Duration;

use anyhow::ensure;
use hdrhistogram::Histogram;

use crate::{failover::Failover, probe::Fate, topology::Topology};

/// The promise, as gateways have it by default.
const MAX_STALENESS: Duration = Duration::from_secs(2);

/// What came of the markers at one rate.
pub(crate) struct Measurement {
    /// Requests of the background a second.
    pub(crate) served: f64,
    /// Which share of the machine was in use.
    pub(crate) busy: f64,
    pub(crate) fates: Vec<Fate>,
    /// How long all gateways took to refuse what they had refused before.
    pub(crate) answers: Vec<Duration>,
}

pub(crate) fn begin(topology: Topology) {
    println!(
        "| {} | machine busy | acknowledged to last refusal ms p50, p99, max | of which a refusal takes p50, p99 | \
         last admitted was sent p99, max |",
        topology.name()
    );
    println!("| ---: | ---: | --- | --- | --- |");
}

pub(crate) fn add(measurement: &Measurement) -> anyhow::Result<()> {
    let refused = Times::of(measurement.fates.iter().map(|fate| fate.refused))?;
    let answers = Times::of(measurement.answers.iter().copied())?;
    let admitted = Times::of(measurement.fates.iter().map(|fate| fate.admitted))?;
    println!(
        "| {:.0} requests/s | {:.0}% | {}, {}, {} | {}, {} | {}, {} |",
        measurement.served,
        measurement.busy * 100.0,
        refused.at(0.5),
        refused.at(0.99),
        refused.at(1.0),
        answers.at(0.5),
        answers.at(0.99),
        admitted.at(0.99),
        admitted.at(1.0),
    );
    measurement.fates.iter().try_for_each(check)
}

pub(crate) fn cost([each, of_gateway]: &[f64; 2]) {
    println!("\nA write costs the servers {each:.0} us of CPU time, {of_gateway:.1} us for each gateway.\n");
}

pub(crate) fn failover(failover: &Failover) -> anyhow::Result<()> {
    println!(
        "| sentinel: {} markers | acknowledged to last refusal ms | last admitted was sent | probes answered 503 |",
        failover.markers
    );
    println!("| --- | ---: | ---: | ---: |");
    for (which, fate) in [("before the primary died", &failover.before), ("by the next primary", &failover.after)] {
        println!("| {which} | {} | {} | {} |", fate.refused.as_millis(), fate.admitted.as_millis(), fate.stale);
    }
    let (admitted, other) = failover.background;
    let pause = failover.without_primary.as_millis();
    println!(
        "\nNo marker could be written for {pause} ms. Of other requests {admitted} were admitted and {other} were not.\n"
    );
    [failover.before, failover.after].iter().try_for_each(check)
}

fn check(fate: &Fate) -> anyhow::Result<()> {
    let late = fate.admitted;
    ensure!(late <= MAX_STALENESS, "a token was admitted {} ms after its marker was acknowledged", late.as_millis());
    Ok(())
}

struct Times(Histogram<u64>);

impl Times {
    fn of(times: impl Iterator<Item = Duration>) -> anyhow::Result<Self> {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 3)?;
        for time in times {
            histogram.record(u64::try_from(time.as_micros())?)?;
        }
        Ok(Self(histogram))
    }

    /// In milliseconds.
    fn at(&self, quantile: f64) -> String {
        format!("{:.2}", self.0.value_at_quantile(quantile) as f64 / 1e3)
    }
}
