//! What each client address may ask of the gate itself.

use http::{Method, Request};
use tempfile::TempDir;

use super::{get, refusal};
use crate::{
    proxy::{HTTP1, HTTP2, client},
    support::{
        client::{Reply, request},
        gate::TestGate,
        upstream::StreamBody,
    },
};

const OPEN: &str = "[[routes]]\nupstream = \"{upstream}\"\nauth = \"none\"\n";

/// A gate whose own endpoints take so much of an address.
async fn gate(limit: &str, more: &str) -> TestGate {
    TestGate::start(&format!("[listener]\nown_per_address = \"{limit}\"\n{more}{OPEN}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_asks_the_gate_itself_as_often_as_it_may() {
    for version in [HTTP1, HTTP2] {
        let gate = gate("4/h", "").await;
        let mut client = client(version, &gate).await;
        for (path, status) in [("session", 401), ("session.js", 200), ("session/continue", 405), ("nothing", 404)] {
            let reply = client.fetch(get(version, &format!("/.portcullis/{path}"), "")).await;
            assert_eq!(reply.status.as_u16(), status, "{path}");
        }
        for path in ["session", "session.js", "logout", "last-logout", "events/log", "nothing", ""] {
            let reply = client.fetch(get(version, &format!("/.portcullis/{path}"), &gate.good_token())).await;
            let (status, code, after) = refusal(&reply);
            assert_eq!((status, &*code), (429, "rate_limited"), "{path}");
            assert!((1..=900).contains(&after.unwrap()), "{after:?}");
        }
        // It is no concern of routes, nor of whoever watches the gate.
        for _ in 0..10 {
            assert_eq!(client.fetch(get(version, "/", "")).await.status.as_u16(), 200);
            for path in ["/livez", "/healthz", "/readyz"] {
                let reply = crate::support::client::get(gate.admin(), path, "").await;
                assert_eq!(reply.status.as_u16(), 200, "{path}");
            }
        }
        let metrics = crate::support::client::get(gate.admin(), "/metrics", "").await;
        let line = "portcullis_limited_requests_total{route=\"-\",limit=\"address\"} 7";
        assert!(metrics.text().lines().any(|found| found == line), "{}", metrics.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_nobody_who_means_well_meets_it() {
    let gate = TestGate::start(OPEN).await;
    let mut client = client(HTTP1, &gate).await;
    for _ in 0..1000 {
        assert_eq!(client.fetch(get(HTTP1, "/.portcullis/session.json", "")).await.status.as_u16(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_a_flood_meets_it_and_off_is_off() {
    for (limit, meets) in [("", true), ("[listener]\nown_per_address = \"off\"\n", false)] {
        let gate = TestGate::start(&format!("{limit}{OPEN}")).await;
        let mut clients = Vec::new();
        for _ in 0..8 {
            let mut client = client(HTTP1, &gate).await;
            clients.push(tokio::spawn(async move {
                let mut statuses = Vec::new();
                for _ in 0..500 {
                    statuses.push(client.fetch(get(HTTP1, "/.portcullis/nothing", "")).await.status.as_u16());
                }
                statuses
            }));
        }
        let mut statuses = Vec::new();
        for client in clients {
            statuses.extend(client.await.unwrap());
        }
        assert!(statuses.iter().all(|status| [404, 429].contains(status)), "{statuses:?}");
        let refused = statuses.iter().filter(|status| **status == 429).count();
        // On a machine that is as slow as the budget comes back there is nothing to be seen.
        assert!(refused == 0 || meets, "{limit}: {refused} were refused");
        let served = statuses.len() - refused;
        assert!(served >= 2000, "{served}: what may come at once is served");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_the_one_that_is_believed() {
    let gate = gate("1/h", "trusted_proxies = [\"127.0.0.1\"]\n").await;
    for (forwarded_for, status) in [
        ("192.0.2.1", 200),
        ("192.0.2.1", 429),
        ("6.6.6.6, 192.0.2.1", 429),
        ("192.0.2.2", 200),
        ("2001:db8:0:1::1", 200),
        ("2001:db8:0:1:ffff::2", 429),
    ] {
        let builder =
            request(HTTP1, Method::GET, "/.portcullis/session.js", "").header("x-forwarded-for", forwarded_for);
        let reply = client(HTTP1, &gate).await.fetch(builder.body(StreamBody::from("")).unwrap()).await;
        assert_eq!(reply.status.as_u16(), status, "{forwarded_for}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_trusted_origin_can_tell() {
    let gate = gate("1/h", "[session]\norigins = [\"https://app.example\"]\n").await;
    let ask = async || {
        let builder = request(HTTP1, Method::GET, "/.portcullis/session", "").header("origin", "https://app.example");
        client(HTTP1, &gate).await.fetch(builder.body(StreamBody::from("")).unwrap()).await
    };
    for status in [401, 429] {
        let reply = ask().await;
        assert_eq!(reply.status.as_u16(), status);
        assert_eq!(reply.headers["access-control-allow-origin"], "https://app.example", "{status}");
    }
}

/// A delivery to the source `log`.
fn delivery(secret: &str) -> Request<StreamBody> {
    let builder = request(HTTP1, Method::POST, "/.portcullis/events/log", "");
    let builder = builder.header("authorization", secret).header("content-type", "application/json");
    builder.body(StreamBody::from("[]")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_of_events_is_not_slowed_down() {
    let directory = TempDir::new().unwrap();
    let secret = directory.path().join("log.secret");
    std::fs::write(&secret, "a-secret-of-the-sender").unwrap();
    let source = format!(
        "[sources.log]\ntype = \"auth0_log_stream\"\nauthorization_file = \"{}\"\nissuer = \"main\"\n",
        secret.display()
    );
    let gate = gate("2/h", &source).await;
    let mut client = client(HTTP1, &gate).await;
    for _ in 0..10 {
        let reply: Reply = client.fetch(delivery("a-secret-of-the-sender")).await;
        assert!(reply.status.is_success(), "{} {}", reply.status, reply.text());
    }
    // Whoever tries secrets is.
    for status in [401, 401, 429] {
        assert_eq!(client.fetch(delivery("another")).await.status.as_u16(), status);
    }
}
