//! Alive, started, ready, and draining.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{eventually, jwks_server::JwksServer, keys::TestIssuer, program::Gate, redis::RedisServer};

#[tokio::test]
async fn ready_once_keys_and_store_have_answered() {
    let gate = Gate::start().await;
    for path in ["/livez", "/healthz"] {
        assert_eq!(gate.admin().get(path).await.is(200, None).json(), json!({ "status": "ok" }));
    }
    assert_eq!(gate.admin().get("/startupz").await.is(200, None).json(), json!({ "status": "started" }));
    let ready = gate.admin().get("/readyz").await.is(200, None).json();
    assert_eq!((&ready["status"], &ready["draining"]), (&json!("ready"), &json!(false)));
    assert_eq!(ready["issuers"]["main"]["keys"], 1);
    assert_eq!(ready["store"]["current"], true);
}

#[tokio::test]
async fn not_ready_before_the_keys_have_answered() {
    let keys = JwksServer::start().await;
    keys.hold();
    let gate = Gate::setup().jwks_url(&keys.url("/jwks.json")).start_unready().await;
    assert_eq!(gate.admin().get("/livez").await.status, 200);
    let ready = gate.admin().get("/readyz").await.is(503, None).json();
    assert_eq!((&ready["status"], &ready["issuers"]["main"]["keys"]), (&json!("not_ready"), &json!(0)));
    assert_eq!(gate.admin().get("/startupz").await.is(503, None).json(), json!({ "status": "starting" }));
    gate.call(&gate.token(json!({}))).await.is(503, "keys_unavailable");

    keys.put("/jwks.json", TestIssuer::new("https://issuer.example/").jwks().to_string());
    keys.release();
    gate.wait_until_ready().await;
    assert_eq!(gate.admin().get("/startupz").await.status, 200);
}

#[tokio::test]
async fn not_ready_before_the_store_has_answered_nor_once_it_is_silent() {
    let Some(mut redis) = RedisServer::start() else { return };
    redis.kill();
    let gate = Gate::setup().redis(&redis.url()).max_staleness("1s").start_unready().await;
    eventually("the keys are there", async || gate.admin().get("/readyz").await.json()["issuers"]["main"]["keys"] == 1)
        .await;
    let ready = gate.admin().get("/readyz").await.is(503, None).json();
    assert_eq!((&ready["store"]["current"], &ready["store"]["heard_ms_ago"]), (&json!(false), &json!(null)));
    let error = ready["store"]["error"].as_str().unwrap();
    assert!(error.starts_with("store `127.0.0.1:") && error.contains("is unavailable: "), "{error}");
    let shows = async |line: &str| gate.admin().get("/metrics").await.text().lines().any(|each| each == line);
    assert!(shows("portcullis_store_troubles 1").await && shows("portcullis_marker_names -1.0").await);
    gate.admin().get("/startupz").await.is(503, None);

    redis.restart();
    gate.wait_until_ready().await;
    eventually("the store tells how it is", async || {
        gate.admin().get("/readyz").await.json()["store"]["error"].is_null()
    })
    .await;
    eventually("names are counted", async || shows("portcullis_marker_names 0.0").await).await;
    redis.kill();
    eventually("a silent store is told", async || gate.admin().get("/readyz").await.status == 503).await;
    let ready = gate.admin().get("/readyz").await.json();
    assert_eq!((&ready["store"]["current"], &ready["draining"]), (&json!(false), &json!(false)));
    assert!(ready["store"]["heard_ms_ago"].as_u64().unwrap() >= 1000, "{ready}");
    assert_eq!(gate.admin().get("/startupz").await.status, 200, "once started, started");
    assert_eq!(gate.admin().get("/livez").await.status, 200, "a restart would not help");
}

#[tokio::test]
async fn a_store_that_may_forget_is_called_out() {
    let Some(redis) = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb"]) else {
        return;
    };
    let gate = Gate::setup().redis(&redis.url()).start().await;
    eventually("the warning is told", async || {
        gate.admin().get("/readyz").await.json()["warnings"].to_string().contains("noeviction")
    })
    .await;
    assert!(gate.log().contains("noeviction"), "{}", gate.log());
}

#[tokio::test]
async fn not_ready_while_draining_and_still_serving() {
    let gate = Gate::setup().drain_delay("1h").start().await;
    gate.terminate();
    eventually("it drains", async || gate.admin().get("/readyz").await.status == 503).await;
    let ready = gate.admin().get("/readyz").await.json();
    assert_eq!((&ready["status"], &ready["draining"]), (&json!("not_ready"), &json!(true)));
    assert_eq!(ready["store"]["current"], true, "only the drain keeps it from being ready");
    gate.call(&gate.token(json!({}))).await.is(200, None);
    gate.admin().put("/v1/subjects/main/auth0%7Calice/block", json!({})).await.is(200, None);
    gate.call(&gate.token(json!({}))).await.is(401, "user_blocked");
    assert_eq!(gate.admin().get("/startupz").await.status, 200);
}

#[tokio::test]
async fn a_stop_is_prompt_and_writes_what_waits() {
    let mut gate = Gate::start().await;
    gate.call(&gate.token(json!({}))).await.is(200, None);
    gate.terminate();
    assert!(gate.wait_for_end().success());
    assert!(!gate.listens().await);
    gate.kill_and_restart().await;
    assert!(gate.admin().get("/v1/subjects/main/auth0%7Calice").await.json()["last_activity"].is_string());
}

/// A client that does not go on, on either side of its request.
#[tokio::test]
async fn an_admin_request_that_never_ends_does_not_keep_the_gate_from_stopping() {
    let mut gate = Gate::start().await;
    let mut half = TcpStream::connect(gate.admin_address()).unwrap();
    half.write_all(b"POST /v1/explain HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{").unwrap();
    let mut header = TcpStream::connect(gate.admin_address()).unwrap();
    header.write_all(b"GET /livez HTTP/1.1\r\nhost: loc").unwrap();
    let mut kept = TcpStream::connect(gate.admin_address()).unwrap();
    kept.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert!(kept.read(&mut [0; 1024]).unwrap() > 0);
    let start = Instant::now();
    gate.terminate();
    assert!(gate.wait_for_end().success());
    assert!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
}
