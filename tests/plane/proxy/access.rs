//! The access log.

use http::Method;

use super::{HTTP1, HTTP2, client, route};
use crate::support::{
    client::{Raw, request},
    eventually,
    gate::TestGate,
    log,
    upstream::StreamBody,
};

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_one_line() {
    log::capture();
    let gate =
        TestGate::start(&format!("[log]\naccess = true\n{}", route(HTTP1, "name = \"orders\"\npath = \"/logged\"")))
            .await;
    let token = gate.good_token();
    for version in [HTTP1, HTTP2] {
        let sent = request(version, Method::POST, "/logged/a?secret=1", &token).body(StreamBody::from("x")).unwrap();
        client(version, &gate).await.fetch(sent).await;
    }
    gate.get("/logged/b", "").await;
    gate.get("/logged-c", &token).await;
    let grpc = request(HTTP2, Method::POST, "/logged/d", "").header("content-type", "application/grpc");
    client(HTTP2, &gate).await.fetch(grpc.body(StreamBody::from("")).unwrap()).await;

    let only = |path: &str| {
        let mut lines = log::lines(&format!("\"url.path\":\"{path}\""));
        let line = lines.pop().unwrap_or_else(|| panic!("{path} is not logged"));
        (line, lines.len() + 1)
    };
    let (line, count) = only("/logged/a");
    assert_eq!(count, 2);
    assert_eq!(line["target"], "portcullis::access");
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["http.request.method"], "POST");
    assert_eq!(line["http.response.status_code"], 200);
    assert_eq!(line["route.name"], "orders");
    assert_eq!(line["network.peer.address"], "127.0.0.1");
    assert!(line["took_ms"].as_f64().unwrap() > 0.0);
    assert!(line.get("verdict").is_none() && line.get("broken_off").is_none());
    let (line, count) = only("/logged/b");
    assert_eq!(
        (count, &line["http.response.status_code"], &line["verdict"]),
        (1, &401.into(), &"missing_token".into())
    );
    let (line, count) = only("/logged-c");
    assert_eq!((count, &line["http.response.status_code"], line.get("route.name")), (1, &404.into(), None));
    let (line, _) = only("/logged/d");
    assert_eq!((&line["http.response.status_code"], &line["verdict"]), (&200.into(), &"missing_token".into()));

    // A client that does not wait is logged as well.
    gate.upstream.delay(std::time::Duration::from_secs(30));
    let mut raw = Raw::connect(gate.address()).await;
    raw.write(format!("GET /logged/e HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n")).await;
    eventually("the request is under way", async || gate.upstream.last().target == "/logged/e").await;
    drop(raw);
    eventually("it is logged", async || !log::lines("/logged/e").is_empty()).await;
    assert_eq!(log::lines("/logged/e")[0]["broken_off"], true);

    assert!(log::lines("secret=1").is_empty(), "queries are not logged");
    assert!(log::lines(&token).is_empty(), "tokens are not logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_logged_unless_it_is_asked_for() {
    log::capture();
    let gate = TestGate::start("").await;
    gate.get("/unlogged", &gate.good_token()).await;
    assert!(log::lines("/unlogged").is_empty());
}
