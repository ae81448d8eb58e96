//! How a Redis server can tell gateways of changes, and what it costs the server: client tracking in broadcast mode,
//! beside a stream that gateways follow. Raw connections stand for the gateways; the server's CPU time is what counts.
//!
//! `docs/adr/0001-pushes-by-client-tracking.md` has the figures and what follows from them.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a report on standard output, progress beside it")]

mod frame;
mod measure;
mod mechanism;
mod observe;
mod plan;
#[path = "../../tests/support/ports.rs"]
mod ports;
#[path = "../common/process.rs"]
mod process;
mod reader;
#[path = "../common/redis_server.rs"]
mod redis_server;
mod report;
mod writer;

use self::{mechanism::Mechanism, plan::Plan, report::Report};

fn main() -> anyhow::Result<()> {
    if std::env::args().len() == 1 {
        println!("nothing to do: `--bench` measures; `--help` tells more");
        return Ok(());
    }
    let plan = Plan::read();
    println!("{} writes/s\n", plan.rate);
    Report::begin();
    let mut report = Report::default();
    for &gateways in &plan.gateways {
        let mut rounds = [Vec::new(), Vec::new()];
        for number in 0..plan.rounds {
            for mechanism in Mechanism::ALL {
                eprintln!("{gateways} gateways, round {} of {}: {}", number + 1, plan.rounds, mechanism.name());
                rounds[mechanism as usize].push(measure::measure(mechanism, gateways, &plan)?);
            }
        }
        for mechanism in Mechanism::ALL {
            report.add(gateways, mechanism, &rounds[mechanism as usize]);
        }
    }
    println!();
    observe::observe()
}
