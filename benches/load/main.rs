//! Load on a gate and, side by side, on other proxies: CPU time per request, latency, memory.
//!
//! Open loop: requests leave on a fixed schedule, whether or not earlier ones have been answered, and a latency counts
//! from the moment a request *should* have left. The proxies have one core, generator and upstream share another. Proxies
//! take turns in short rounds, because a shared machine is never the same twice: only figures of one run compare.
//!
//! `docs/performance.md` says how to run it and how to read it.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a report on standard output, progress beside it")]

#[path = "../common/client.rs"]
mod client;
#[path = "../common/gate.rs"]
mod gate;
mod generator;
mod peers;
mod plan;
#[path = "../../tests/support/ports.rs"]
mod ports;
#[path = "../common/process.rs"]
mod process;
mod proxy;
mod report;
mod run;
mod scenario;
#[path = "../common/single_thread.rs"]
mod single_thread;
#[path = "../common/tokens.rs"]
mod tokens;
#[path = "../common/upstream.rs"]
mod upstream;

use std::process::ExitCode;

use clap::Parser;

use self::{plan::Arguments, scenario::Scenario};

fn main() -> ExitCode {
    if std::env::args().len() == 1 {
        println!("nothing to do: name a scenario, or `--bench` for all of them; `--help` tells more");
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    if arguments.list {
        for scenario in Scenario::ALL {
            println!("{:<14} {}", scenario.name(), scenario.description());
        }
        return ExitCode::SUCCESS;
    }
    match start(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every response was what its scenario expects.
fn start(arguments: &Arguments) -> anyhow::Result<bool> {
    let plan = arguments.plan()?;
    eprintln!("{plan}");
    single_thread::run(run::run(&plan))
}
