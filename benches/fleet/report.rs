//! Tables.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::{failover::Failover, probe::Fate, topology::Topology};

/// What came of the markers at one rate.
pub(crate) struct Measurement {
    /// Requests of the background a second: those that were to be sent, and those that were served.
    pub(crate) rate: u32,
    pub(crate) served: f64,
    /// Which share of the machine was in use.
    pub(crate) busy: f64,
    pub(crate) fates: Vec<Fate>,
}

pub(crate) fn begin(topology: Topology) {
    println!(
        "| {} | other requests/s | machine busy | acknowledged to last refusal ms p50, p99, max | last admitted sent after it ms p99, max |",
        topology.name()
    );
    println!("| --- | ---: | ---: | --- | --- |");
}

pub(crate) fn add(measurement: &Measurement) -> anyhow::Result<()> {
    let refused = histogram(measurement.fates.iter().map(|fate| fate.refused))?;
    let admitted = histogram(measurement.fates.iter().map(|fate| fate.admitted))?;
    println!(
        "| {} | {:.0} | {:.0}% | {}, {}, {} | {}, {} |",
        if measurement.rate == 0 { "quiet" } else { "" },
        measurement.served,
        measurement.busy * 100.0,
        millis(&refused, 0.5),
        millis(&refused, 0.99),
        millis(&refused, 1.0),
        millis(&admitted, 0.99),
        millis(&admitted, 1.0),
    );
    Ok(())
}

pub(crate) fn cost([each, of_gateway]: &[f64; 2]) {
    println!("\nA write costs the servers {each:.0} us of CPU time, {of_gateway:.1} us for each gateway.\n");
}

pub(crate) fn failover(_: &Failover) {}

fn histogram(times: impl Iterator<Item = Duration>) -> anyhow::Result<Histogram<u64>> {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    for time in times {
        histogram.record(u64::try_from(time.as_micros())?)?;
    }
    Ok(histogram)
}

fn millis(histogram: &Histogram<u64>, quantile: f64) -> String {
    format!("{:.2}", histogram.value_at_quantile(quantile) as f64 / 1e3)
}
