//! Tables.

use std::time::Duration;

use anyhow::ensure;
use hdrhistogram::Histogram;

use crate::{
    cold::{Beginning, Gets, Scan},
    failover::Failover,
    machine::Busy,
    plan::Plan,
    probe::Fate,
};

/// The promise, as gateways have it by default.
const MAX_STALENESS: Duration = Duration::from_secs(2);

/// What came of the markers at one rate.
pub(crate) struct Measurement {
    /// Requests of the background a second.
    pub(crate) served: f64,
    /// How busy the machine was.
    pub(crate) busy: Busy,
    pub(crate) fates: Vec<Fate>,
    /// How long all gateways took to refuse what they had refused before.
    pub(crate) answers: Vec<Duration>,
}

pub(crate) fn begin(name: &str, plan: &Plan) {
    println!("{} markers at each rate, by {:?}\n", plan.markers, plan.by);
    println!(
        "| {name} | machine busy, with this | acknowledged to last refusal ms p50, p99, max | of which a refusal takes p50, p99 | \
         last admitted was sent p99, max |"
    );
    println!("| ---: | --- | --- | --- | --- |");
}

pub(crate) fn add(measurement: &Measurement) -> anyhow::Result<()> {
    let refused = Times::of(measurement.fates.iter().map(|fate| fate.refused))?;
    let answers = Times::of(measurement.answers.iter().copied())?;
    let admitted = Times::of(measurement.fates.iter().map(|fate| fate.admitted))?;
    println!(
        "| {:.0} requests/s | {:.0}%, {:.0}% | {}, {}, {} | {}, {} | {}, {} |",
        measurement.served,
        measurement.busy.all * 100.0,
        measurement.busy.own * 100.0,
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

pub(crate) fn cold([marker, user]: [f64; 2], scans: &[Scan], gets: &[Gets], beginnings: &[Beginning]) {
    println!("A marker takes {marker:.0} bytes of the server's memory, a user's activity {user:.0}.\n");
    println!("| all names by SCAN, COUNT | server CPU s | calls | us per call |\n| ---: | ---: | ---: | ---: |");
    for Scan { count, calls, cost } in scans {
        let cpu = cost.cpu.as_secs_f64();
        println!("| {count} | {cpu:.2} | {calls} | {:.0} |", cpu * 1e6 / f64::from(*calls));
    }
    println!("\n| GETs in a pipeline | server CPU us per GET | for a user's six keys |\n| ---: | ---: | ---: |");
    for gets in gets {
        println!("| {} | {:.2} | {:.1} |", gets.depth, gets.of_user() / 6.0, gets.of_user());
    }
    println!(
        "\n| all gateways | server CPU s | took s | PING meanwhile ms p50, p99, max |\n| --- | ---: | ---: | --- |"
    );
    for Beginning { what, cost, pings } in beginnings {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|at| pings.value_at_quantile(at) as f64 / 1e3);
        let (cpu, took) = (cost.cpu.as_secs_f64(), cost.took.as_secs_f64());
        println!("| {what} | {cpu:.2} | {took:.1} | {p50:.2}, {p99:.2}, {max:.1} |");
    }
    println!();
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
