//! Sources of events, end to end: what their senders send goes in, and the very next request is refused.

mod auth0_event_stream;
mod auth0_events;
mod auth0_log_stream;
mod auth0_logs;
mod auth0_readers;
mod backchannel_logout;
mod killed;
mod lead;
mod replay;
mod shared_signals;
mod token_revocation;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::Value;

use crate::support::{
    client::Reply,
    eventually,
    full::{Gate, World},
};

/// A world with each store.
async fn worlds() -> Vec<World> {
    [Some(World::embedded().await), World::redis().await].into_iter().flatten().collect()
}

/// Sends a delivery to the source of this name.
async fn deliver(gate: &Gate, source: &str, fields: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    let path = format!("/.portcullis/events/{source}");
    let mut request = Request::builder().method(Method::POST).uri(path).header("host", "api.example");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    gate.send(request.body(Full::new(body.into())).unwrap()).await
}

/// How the source of this name is.
async fn report(gate: &Gate, source: &str) -> Value {
    let all = gate.change(Method::GET, "/v1/sources", Value::Null).await;
    let mut all = all["sources"].as_array().unwrap().clone();
    all.retain(|report| report["name"] == source);
    all.pop().expect("there is the source")
}

/// How many records of this source came to what.
async fn outcomes(gate: &Gate, source: &str, outcome: &str) -> f64 {
    gate.metric(&format!("portcullis_source_events_total{{source=\"{source}\",outcome=\"{outcome}\"}}")).await
}

/// So many records of this source come to this.
async fn come_to(gate: &Gate, source: &str, outcome: &str, records: f64) {
    let what = format!("{records} records of {source} are {outcome}");
    eventually(&what, async || (outcomes(gate, source, outcome).await - records).abs() < 0.1).await;
}

/// These members instead of those in `claims`; the text `absent` removes one.
fn with(mut claims: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().into_iter().flatten() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| value != "absent");
    claims
}
