//! A fleet of gateways on one Redis: how long after a marker was acknowledged does the last of them refuse?
//!
//! Every gateway has admitted the marker's token and knows of nothing against it. From the moment of the acknowledgement on
//! each is asked until it refuses. Meanwhile others send requests at a set rate. `docs/performance.md` says how to read it.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a report on standard output, progress beside it")]

#[path = "../common/background.rs"]
mod background;
#[path = "../common/client.rs"]
mod client;
mod cold;
mod failover;
#[path = "../common/gate.rs"]
mod gate;
#[path = "../common/gateway.rs"]
mod gateway;
mod machine;
mod plan;
#[path = "../../tests/support/ports.rs"]
mod ports;
#[path = "../common/probe.rs"]
mod probe;
#[path = "../common/process.rs"]
mod process;
#[path = "../common/redis_server.rs"]
mod redis_server;
mod report;
mod run;
#[path = "../common/single_thread.rs"]
mod single_thread;
#[allow(dead_code, reason = "the load bench uses the rest")]
#[path = "../common/tokens.rs"]
mod tokens;
mod topology;
#[path = "../common/upstream.rs"]
mod upstream;
mod writer;

use self::plan::Plan;

fn main() -> anyhow::Result<()> {
    if std::env::args().len() == 1 {
        println!("nothing to do: name a scenario, or `--bench` for all of them; `--help` tells more");
        return Ok(());
    }
    let plan = Plan::read();
    single_thread::run(run::run(&plan))
}
