//! Shared Signals: SETs pushed to the gate and polled by it.

mod fixtures;
mod poll;
mod push;
mod stream;

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    full::{Gate, World},
    transmitter::{AUDIENCE, ENDPOINT, Transmitter},
};

/// Runs a test on both stores.
async fn on_both(test: impl AsyncFn(World, Transmitter)) {
    test(World::embedded().await, Transmitter::start().await).await;
    if let Some(world) = World::redis().await {
        test(world, Transmitter::start().await).await;
    }
}

/// A gate that is told by this transmitter, with these lines more of the source's section.
async fn start(world: &World, transmitter: &Transmitter, lines: &str) -> Gate {
    let gate = launch(world, transmitter, lines).await;
    crate::support::eventually("the transmitter's keys are known", async || {
        let state = source(&gate).await["state"].clone();
        state != "connecting" && state != "retrying"
    })
    .await;
    gate
}

async fn launch(world: &World, transmitter: &Transmitter, lines: &str) -> Gate {
    let source = format!(
        "[sources.partner]\ntype = \"shared_signals\"\ntransmitter = \"{}\"\naudiences = [\"{AUDIENCE}\"]\n{lines}",
        transmitter.issuer()
    );
    world.gate().with("ISSUERS_ACME_CLAIMS_EMAIL", "email").route(&source).start().await
}

/// Lines of a source that is managed and pushed to.
fn managed() -> String {
    format!("manage = true\nendpoint_url = \"{ENDPOINT}\"\n")
}

/// How the source is.
async fn source(gate: &Gate) -> Value {
    let ready = gate.admin(Method::GET, "/readyz", Value::Null).await;
    serde_json::from_slice::<Value>(&ready.body).unwrap()["sources"][0].clone()
}

/// How many of the source's records came to this.
async fn count(gate: &Gate, outcome: &str) -> u64 {
    source(gate).await["events"][outcome].as_u64().unwrap_or(0)
}

fn iss_sub(world: &World, sub: &str) -> Value {
    json!({ "format": "iss_sub", "iss": world.issuer.identifier, "sub": sub })
}

fn email(address: &str) -> Value {
    json!({ "format": "email", "email": address })
}

/// Longer than a lease.
const TAKEOVER: Duration = Duration::from_secs(14);
