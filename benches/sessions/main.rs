//! Sessions in Redis, as many as a large fleet has at once: how much memory do they take, and what does each operation cost the server?
//!
//! Everything is written and read by the store that gateways use, against a server of the bench's own. `docs/performance.md` says how to
//! read it.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a report on standard output, progress beside it")]

mod ids;
mod plan;
#[path = "../../tests/support/ports.rs"]
mod ports;
#[path = "../common/process.rs"]
mod process;
#[allow(dead_code, reason = "the push bench uses the rest")]
#[path = "../common/redis_server.rs"]
mod redis_server;
mod run;
#[path = "../common/single_thread.rs"]
mod single_thread;
mod watch;

use self::plan::Plan;

fn main() -> anyhow::Result<()> {
    if std::env::args().len() == 1 {
        println!("nothing to do: say `--bench`; `--help` tells more");
        return Ok(());
    }
    let plan = Plan::read();
    single_thread::run(run::run(&plan))
}
