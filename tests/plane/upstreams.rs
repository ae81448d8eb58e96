//! What is behind the gate: how it is reached, which of several is asked, and what happens when one is not there.

mod api;
mod balance;
mod ejection;
mod health;
mod limits;
mod metrics;
mod names;
mod outage;
mod retries;
mod tls;
mod unix;
mod waiting;

use std::{collections::BTreeMap, net::SocketAddr};

use self::api::Api;
use crate::support::{client, gate::TestGate};

/// A route to these addresses, with further settings.
fn route(addresses: &[SocketAddr], settings: &str) -> String {
    let urls: Vec<_> = addresses.iter().map(|address| format!("\"http://{address}\"")).collect();
    format!("[[routes]]\nname = \"several\"\nauth = \"none\"\nupstreams = [{}]\n{settings}\n", urls.join(", "))
}

/// A gate in front of these, with further settings of its route.
async fn gate(apis: &[&Api], settings: &str) -> TestGate {
    let addresses: Vec<_> = apis.iter().map(|api| api.address()).collect();
    TestGate::start(&route(&addresses, settings)).await
}

/// Asks so many times, one after another; how often each answered, by its name.
async fn ask(gate: &TestGate, times: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..times {
        let reply = gate.get("/", "").await;
        let answer = if reply.status == 200 { reply.text().to_owned() } else { reply.code() };
        *answers.entry(answer).or_default() += 1;
    }
    answers
}

/// The value of a sample of `/metrics`, such as `portcullis_upstream_retries_total{route="a"}`.
async fn metric(gate: &TestGate, sample: &str) -> u64 {
    let reply = client::get(gate.admin(), "/metrics", "").await;
    let line = reply.text().lines().find(|line| line.strip_prefix(sample).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {sample} in\n{}", reply.text()));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}
