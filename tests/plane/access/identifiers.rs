//! `X-Request-Id` and `traceparent`.

use std::collections::HashSet;

use http::Method;

use crate::{
    proxy::{HTTP1, HTTP2, client, each_pair, route},
    support::{
        client::{Raw, Reply, request},
        gate::TestGate,
        log,
        upstream::{StreamBody, text},
    },
};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn send(gate: &TestGate, version: http::Version, path: &str, fields: &[(&str, &str)]) -> Reply {
    let mut builder = request(version, Method::GET, path, &gate.good_token());
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    client(version, gate).await.fetch(builder.body(StreamBody::from("")).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_an_id_of_its_own() {
    each_pair(async |downstream, upstream| {
        let gate = TestGate::start(&route(upstream, "")).await;
        // What the upstream calls it does not count.
        gate.upstream.answer(|_| {
            let mut response = text("ok");
            response.headers_mut().append("x-request-id", "theirs".parse().unwrap());
            response.headers_mut().append("x-request-id", "again".parse().unwrap());
            response
        });
        let mut ids = HashSet::new();
        for _ in 0..5 {
            let reply = send(&gate, downstream, "/", &[("x-request-id", "stranger")]).await;
            let told: Vec<_> = reply.headers.get_all("x-request-id").iter().collect();
            let [id] = &told[..] else { panic!("{told:?}") };
            assert_eq!(gate.upstream.last().values("x-request-id"), [id.to_str().unwrap()]);
            assert_eq!(id.len(), 36);
            assert!(ids.insert(id.to_str().unwrap().to_owned()));
        }
        // What goes no further has one too.
        for path in ["/.portcullis/session", "/.portcullis/nowhere"] {
            assert!(gate.get(path, "").await.headers.contains_key("x-request-id"), "{path}");
        }
        let refused = gate.get("/", "nonsense").await;
        assert_eq!((refused.status.as_u16(), refused.headers["x-request-id"].len()), (401, 36));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_the_id_away() {
    let gate = TestGate::start("").await;
    let head = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x-request-id\r\nX-Request-Id: a\r\nAuthorization: Bearer {}\r\n\r\n",
        gate.good_token()
    );
    assert!(Raw::exchange(gate.address(), head).await.starts_with("HTTP/1.1 200"));
    assert_eq!(gate.upstream.last().values("x-request-id")[0].len(), 36);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_kept_as_it_is_configured() {
    let proxies = "trusted_proxies = [\"127.0.0.1\"]\n";
    for (settings, id, kept) in [
        (proxies, "abc-1", true),
        (proxies, "abc 1", false),
        ("request_id = \"keep\"\n", "abc-1", true),
        ("request_id = \"keep\"\n", "abc\u{e9}", false),
        ("request_id = \"make\"\n", "abc-1", false),
    ] {
        let gate = TestGate::start(&format!("[listener]\n{settings}")).await;
        let reply = send(&gate, HTTP1, "/", &[("x-request-id", id)]).await;
        let seen = gate.upstream.last().headers["x-request-id"].clone();
        assert_eq!(reply.headers["x-request-id"], seen);
        assert_eq!(seen.as_bytes() == id.as_bytes(), kept, "{settings} {id}");
    }
    let gate = TestGate::start("[listener]\nrequest_id = \"off\"\n").await;
    let reply = send(&gate, HTTP1, "/", &[("x-request-id", "whatever it is")]).await;
    assert_eq!(gate.upstream.last().values("x-request-id"), ["whatever it is"]);
    assert!(!reply.headers.contains_key("x-request-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_contexts_pass_as_they_are() {
    for settings in ["", "[listener]\ntraceparent = \"make\"\n"] {
        let gate = TestGate::start(&format!("{settings}{}", route(HTTP1, ""))).await;
        for version in [HTTP1, HTTP2] {
            let fields = [("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")];
            send(&gate, version, "/", &fields).await;
            let got = gate.upstream.last();
            assert_eq!(got.values("traceparent"), [PARENT]);
            assert_eq!(got.values("tracestate"), ["a=1", "b=2"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_begun_where_that_is_asked_for() {
    log::capture();
    let gate = TestGate::start("[listener]\ntraceparent = \"make\"\n[log]\naccess = true\n").await;
    let mut seen = HashSet::new();
    for fields in [&[][..], &[("traceparent", "nonsense"), ("tracestate", "a=1")]] {
        send(&gate, HTTP1, "/begun", fields).await;
        let got = gate.upstream.last();
        let [parent] = got.values("traceparent")[..] else { panic!("{got:?}") };
        assert!(parent.starts_with("00-") && parent.ends_with("-01") && parent.len() == 55, "{parent}");
        assert!(seen.insert(parent.to_owned()));
        assert!(got.values("tracestate").is_empty());
        crate::support::eventually("it is logged", async || {
            log::lines("/begun").iter().any(|line| line["trace.id"] == parent[3..35])
        })
        .await;
    }
    let quiet = TestGate::start("").await;
    send(&quiet, HTTP1, "/", &[]).await;
    assert!(quiet.upstream.last().values("traceparent").is_empty());
}
