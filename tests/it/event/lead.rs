//! A source that is asked by one gateway of a fleet at a time, when that one hangs or dies: real processes on a real Redis.

use serde_json::json;

use crate::support::{
    auth0::{Auth0, CLIENT_ID, CLIENT_SECRET},
    eventually,
    program::Gate,
    redis::RedisServer,
};

async fn gate(server: &RedisServer, auth0: &Auth0) -> Gate {
    let source = format!(
        "[sources.log]\ntype = \"auth0_logs\"\ndomain = \"{}\"\nclient_id = \"{CLIENT_ID}\"\n\
         client_secret_file = \"client.secret\"\ninterval = \"100ms\"\nlease = \"1s\"\n",
        auth0.base()
    );
    Gate::setup().redis(&server.url()).secret("client.secret", CLIENT_SECRET).and(&source).start().await
}

async fn state(gate: &Gate) -> String {
    gate.admin().get("/v1/sources").await.json()["sources"][0]["state"].as_str().unwrap().to_owned()
}

/// A user logs out at the tenant, and is refused by this gate before long.
async fn is_cut_off(auth0: &Auth0, gate: &Gate, sub: &str) {
    let token = gate.token(json!({ "sub": sub, "sid": sub }));
    gate.call(&token).await.is(200, None);
    auth0.log_out(sub, sub);
    eventually("the logout is enforced", async || gate.call(&token).await.status == 401).await;
    gate.call(&token).await.is(401, "session_ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_hangs_is_replaced_and_wakes_up_to_stand_by() {
    let Some(server) = RedisServer::start() else { return };
    let auth0 = Auth0::start().await;
    let one = gate(&server, &auth0).await;
    eventually("one asks", async || state(&one).await == "connected").await;
    let other = gate(&server, &auth0).await;
    eventually("the other stands by", async || state(&other).await == "standby").await;
    is_cut_off(&auth0, &other, "auth0|before").await;

    one.signal("-STOP");
    is_cut_off(&auth0, &other, "auth0|meanwhile").await;
    assert_eq!(state(&other).await, "connected");
    one.signal("-CONT");
    eventually("the one that hung stands by", async || state(&one).await == "standby").await;
    assert_eq!(state(&other).await, "connected");
    is_cut_off(&auth0, &one, "auth0|after").await;

    drop(other);
    is_cut_off(&auth0, &one, "auth0|alone").await;
    assert_eq!(state(&one).await, "connected");
    let changed = one.admin().get("/v1/sources").await.json()["sources"][0]["events"]["changed"].as_u64();
    assert_eq!(changed, Some(2), "what the other took is not taken again");
}
