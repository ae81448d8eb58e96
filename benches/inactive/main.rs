//! Who has been inactive since when, of as many users as a large fleet has: what does the index of activity take of memory, disk and time,
//! on both stores, what does recording cost, and what a run against those
//! who have been inactive for too long?
//!
//! Everything is asked of the stores that gateways use: a redis-server of the bench's own, and a file in a temporary directory.
//! `docs/performance.md` says how to read it.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a report on standard output, progress beside it")]

#[path = "../../tests/support/auth0.rs"]
#[allow(clippy::pedantic, reason = "made for tests")]
mod auth0;
mod cost;
mod ids;
mod index;
mod others;
mod place;
mod plan;
#[path = "../../tests/support/ports.rs"]
mod ports;
#[path = "../common/process.rs"]
mod process;
mod recorder;
#[allow(dead_code, reason = "the push bench uses the rest")]
#[path = "../common/redis_server.rs"]
mod redis_server;
mod run;
#[path = "../common/single_thread.rs"]
mod single_thread;

use self::{
    place::Place,
    plan::{Part, Plan},
};

fn main() -> anyhow::Result<()> {
    if std::env::args().len() == 1 {
        println!("nothing to do: say `--bench`; `--help` tells more");
        return Ok(());
    }
    let plan = Plan::read();
    single_thread::run(run(&plan))
}

async fn run(plan: &Plan) -> anyhow::Result<()> {
    if let Some(users) = plan.tenant {
        return run::serve_tenant(users).await;
    }
    for part in plan.parts() {
        for kind in plan.stores() {
            let place = Place::new(kind, &plan.redis.join("\n"))?;
            println!("\n{part:?}, {kind:?} store");
            match part {
                Part::Index => index::run(plan, place).await?,
                Part::Run => run::run(plan, place).await?,
                Part::Recorder => recorder::run(plan, place).await?,
            }
        }
    }
    Ok(())
}
