//! Log records of a tenant, streamed to a gateway in batches while it proxies: what does each cost, does the gateway keep up, and
//! how long does it take from sending a logout to the first refusal?
//!
//! The sender and the proxied requests have threads of their own; the gateway is a process of its own. `docs/performance.md` says
//! how to read it.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a report on standard output, progress beside it")]

#[path = "../common/background.rs"]
mod background;
#[path = "../common/client.rs"]
mod client;
#[path = "../common/gate.rs"]
mod gate;
#[path = "../common/gateway.rs"]
mod gateway;
mod plan;
#[allow(dead_code, reason = "the fleet bench uses the rest")]
#[path = "../../tests/support/ports.rs"]
mod ports;
#[path = "../common/probe.rs"]
mod probe;
#[path = "../common/process.rs"]
mod process;
mod records;
#[allow(dead_code, reason = "the push bench uses the rest")]
#[path = "../common/redis_server.rs"]
mod redis_server;
mod run;
mod sender;
#[path = "../common/single_thread.rs"]
mod single_thread;
#[allow(dead_code, reason = "the load bench uses the rest")]
#[path = "../common/tokens.rs"]
mod tokens;
#[path = "../common/upstream.rs"]
mod upstream;

use self::plan::Plan;

fn main() -> anyhow::Result<()> {
    if std::env::args().len() == 1 {
        println!("nothing to do: name a store, or `--bench` for both; `--help` tells more");
        return Ok(());
    }
    let plan = Plan::read();
    single_thread::run(run::run(&plan))
}
