//! Recording activity writes nothing at the issuer.

use serde_json::json;

use super::{DAY, managed};
use crate::support::{
    auth0::Auth0,
    client::Client,
    eventually,
    full::{World, now, request},
};

/// Requests of each user.
const ROUNDS: usize = 20;
const USERS: usize = 150;

/// A gate with everything that asks the tenant, under traffic whose activity is written often.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_traffic_makes_the_gate_write_at_the_issuer() {
    let world = World::embedded().await;
    let tenant = Auth0::start().await;
    let mut setup = world.gate().with("ACTIVITY_RESOLUTION", "1s").with("ACTIVITY_FLUSH_INTERVAL", "10ms");
    setup = setup.with("ISSUERS_ACME_LOGOUT_REVOKE", "none").with("SESSION_IDLE_LIMIT", "1h");
    for (name, value) in managed(&tenant) {
        setup = setup.with(&name, &value);
    }
    for (source, kind) in [("LOGS", "auth0_logs"), ("EVENTS", "auth0_events")] {
        setup = setup.route(&format!("[sources.{}]\ntype = \"{kind}\"", source.to_lowercase()));
        for (name, value) in managed(&tenant) {
            let name = name.replace("ISSUERS_ACME_MANAGEMENT", &format!("SOURCES_{source}"));
            setup = setup.with(&name, &value);
        }
    }
    let gate = setup.start().await;
    let tokens: Vec<_> = (0..USERS).map(|user| world.token(&format!("auth0|{user}"), json!({}))).collect();
    let mut client = Client::http1(gate.address).await;
    let begun = now();
    let mut last = begun;
    for round in 0..ROUNDS {
        for token in &tokens {
            let reply = client.fetch(request(http::Method::GET, "/", token)).await;
            assert_eq!(reply.status, 200);
        }
        if round % 5 == 0 {
            tenant.log(json!({ "type": "s", "user_id": "auth0|0", "client_id": "web-app" }));
        }
        // So that the next round is recorded again.
        let this = now();
        eventually("a second passes", async || now().since(this).as_millis() > 300).await;
        last = this;
    }
    assert!(last.since(begun).as_secs() >= 5);
    let recorded = async |user: usize| {
        let known = gate.look_up(&format!("auth0|{user}")).await;
        known["last_activity"].as_str().map(|at| at.parse::<portcullis::clock::Timestamp>().unwrap())
    };
    eventually("all is recorded", async || {
        recorded(0).await > Some(begun) && recorded(USERS - 1).await > Some(begun.minus(DAY))
    })
    .await;
    assert!(gate.metric("portcullis_activity_written_total").await >= 450.0, "it was written again and again");
    let counts = tenant.counts();
    assert!(counts.reads > 0, "the sources ask");
    assert_eq!((counts.writes, counts.jobs), (0, 0));
    assert_eq!(tenant.patched(), (0, 0));
}
