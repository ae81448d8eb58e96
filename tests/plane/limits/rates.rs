//! Requests in a time, by subject and by client address.

use serde_json::json;

use super::{call, get, grpc_status, limited, refusal};
use crate::{
    proxy::{HTTP1, HTTP2, client},
    support::{
        client::{Reply, request},
        eventually,
        gate::{TestGate, now},
        upstream::StreamBody,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_spends_only_what_is_its_own_and_was_admitted() {
    for version in [HTTP1, HTTP2] {
        let gate = TestGate::start(&limited("per_subject = \"2/h\"")).await;
        let mut client = client(version, &gate).await;
        let alice = gate.token(json!({ "sub": "auth0|alice" }));
        // What is refused costs nothing, however often.
        let expired = gate.token(json!({ "sub": "auth0|alice", "iat": now() - 7200, "exp": now() - 3600 }));
        for _ in 0..5 {
            assert_eq!(client.fetch(get(version, "/", &expired)).await.status.as_u16(), 401);
        }
        // Another token of the same subject is the same subject.
        assert_eq!(client.fetch(get(version, "/", &alice)).await.status.as_u16(), 200);
        let again = gate.token(json!({ "sub": "auth0|alice", "sid": "another" }));
        assert_eq!(client.fetch(get(version, "/", &again)).await.status.as_u16(), 200);
        let (status, code, after) = refusal(&client.fetch(get(version, "/", &alice)).await);
        assert_eq!((status, &*code), (429, "rate_limited"));
        assert!((1..=1800).contains(&after.unwrap()), "{after:?}");
        assert_eq!(gate.upstream.hits(), 2);
        let bob = gate.token(json!({ "sub": "auth0|bob" }));
        assert_eq!(client.fetch(get(version, "/", &bob)).await.status.as_u16(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_pays_for_refusals_too_and_before_anybody_looks() {
    for version in [HTTP1, HTTP2] {
        let gate = TestGate::start(&limited("per_address = \"3/h\"")).await;
        let mut client = client(version, &gate).await;
        for token in ["", "nonsense", "a.b.c"] {
            assert_eq!(client.fetch(get(version, "/", token)).await.status.as_u16(), 401, "{token}");
        }
        for token in ["nonsense", &gate.good_token()] {
            let (status, code, after) = refusal(&client.fetch(get(version, "/", token)).await);
            assert_eq!((status, &*code), (429, "rate_limited"));
            assert!((1..=1200).contains(&after.unwrap()), "{after:?}");
        }
        assert_eq!(gate.upstream.hits(), 0);
    }
}

async fn from(gate: &TestGate, forwarded_for: &str) -> Reply {
    let builder = request(HTTP1, http::Method::GET, "/", &gate.good_token()).header("x-forwarded-for", forwarded_for);
    client(HTTP1, gate).await.fetch(builder.body(StreamBody::from("")).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_the_one_that_is_believed() {
    let limits = limited("per_address = \"1/h\"");
    let gate =
        TestGate::start(&format!("[listener]\ntrusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]\n{limits}")).await;
    for (forwarded_for, status) in [
        ("192.0.2.1", 200),
        ("192.0.2.1", 429),
        ("192.0.2.2", 200),
        // Whatever a client writes before what a proxy wrote, it stays who it is.
        ("6.6.6.6, 192.0.2.2", 429),
        ("6.6.6.6, 192.0.2.3, 10.1.2.3", 200),
        ("6.6.6.7, 192.0.2.3", 429),
        // One customer has a whole /64.
        ("2001:db8:0:1::1", 200),
        ("2001:db8:0:1:ffff::2", 429),
        ("2001:db8:0:2::1", 200),
    ] {
        assert_eq!(from(&gate, forwarded_for).await.status.as_u16(), status, "{forwarded_for}");
    }
    let stranger = TestGate::start(&limits).await;
    assert_eq!(from(&stranger, "192.0.2.1").await.status.as_u16(), 200);
    assert_eq!(from(&stranger, "192.0.2.2").await.status.as_u16(), 429, "strangers are not believed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_comes_back() {
    let gate = TestGate::start(&limited("per_subject = \"5/s\", per_subject_burst = 1")).await;
    let token = gate.good_token();
    assert_eq!(gate.get("/", &token).await.status.as_u16(), 200);
    eventually("it is spent", async || gate.get("/", &token).await.status.as_u16() == 429).await;
    eventually("it comes back", async || gate.get("/", &token).await.status.as_u16() == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_token_has_no_subject() {
    let toml = limited("per_subject = \"1/h\"") + "auth = \"optional\"\n";
    let gate = TestGate::start(&toml).await;
    for _ in 0..3 {
        assert_eq!(gate.get("/", "").await.status.as_u16(), 200);
    }
    assert_eq!(gate.get("/", &gate.good_token()).await.status.as_u16(), 200);
    assert_eq!(gate.get("/", &gate.good_token()).await.status.as_u16(), 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_calls_are_told_in_their_own_form() {
    for limit in ["per_subject", "per_address"] {
        let gate = TestGate::start(&limited(&format!("{limit} = \"1/h\""))).await;
        let mut client = client(HTTP2, &gate).await;
        let token = gate.good_token();
        client.fetch(call(&token)).await;
        assert_eq!(grpc_status(&client.fetch(call(&token)).await), ("8", "rate_limited"), "{limit}");
        assert_eq!(gate.upstream.hits(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_too_much_is_counted() {
    let gate = TestGate::start(&route_with_all()).await;
    let token = gate.good_token();
    assert_eq!(gate.get("/", &token).await.status.as_u16(), 200);
    assert_eq!(gate.get("/", &token).await.status.as_u16(), 429);
    assert_eq!(gate.get("/", &token).await.status.as_u16(), 429);
    let metrics = crate::support::client::get(gate.admin(), "/metrics", "").await;
    let line = "portcullis_limited_requests_total{route=\"orders\",limit=\"subject\"} 2";
    assert!(metrics.text().lines().any(|found| found == line), "{}", metrics.text());
}

fn route_with_all() -> String {
    limited("per_subject = \"1/h\", per_address = \"9/h\", max_requests = 9, max_body_size = \"1KiB\"")
        + "name = \"orders\"\n"
}
