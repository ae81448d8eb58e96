//! The lines of the access log.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, Response, StatusCode};
use http_body::Frame;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    proxy::{HTTP1, HTTP2, client, route},
    support::{
        client::{Raw, request},
        eventually,
        gate::TestGate,
        log,
        upstream::{RawUpstream, StreamBody, text},
    },
};

const LOGGED: &str = "[log]\naccess = true\n";

/// The lines about a path, once there are as many: they are written when the client has the response already.
async fn lines(path: &str, count: usize) -> Vec<Value> {
    let about = format!("\"url.path\":\"{path}\"");
    eventually(&format!("{count} lines about {path}"), async || log::lines(&about).len() >= count).await;
    let lines = log::lines(&about);
    assert_eq!(lines.len(), count, "{path}");
    lines
}

/// What never was a request is told as well.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_by_the_parser_is_a_line_and_counted() {
    log::capture();
    let gate = TestGate::start(&format!("{LOGGED}{}", route(HTTP1, "name = \"orders\""))).await;
    let about = "\"malformed\":\"malformed_request\"";
    let before = log::lines(about).len();
    let reply = Raw::exchange(gate.address(), "GET / HTTP/1.1\nHost: a\n\n").await;
    assert!(reply.starts_with("HTTP/1.1 400 ") && reply.contains("malformed_request"), "{reply}");
    eventually("it is a line", async || log::lines(about).len() > before).await;
    let lines = log::lines(about);
    let line: &Value = lines.last().unwrap();
    assert_eq!((&line["http.response.status_code"], &line["network.peer.address"]), (&400.into(), &"127.0.0.1".into()));
    assert_eq!(line["target"], "portcullis::access");
    let metrics = crate::support::client::get(gate.admin(), "/metrics", "").await;
    let counted = "portcullis_malformed_requests_total{reason=\"malformed_request\"} 1\n";
    assert!(metrics.text().contains(counted), "{}", metrics.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_one_line() {
    log::capture();
    let gate = TestGate::start(&format!("{LOGGED}{}", route(HTTP1, "name = \"orders\"\npath = \"/logged\""))).await;
    let token = gate.good_token();
    let mut ids = Vec::new();
    for version in [HTTP1, HTTP2] {
        let sent = request(version, Method::POST, "/logged/a?secret=1", &token)
            .header("user-agent", "needle/1")
            .body(StreamBody::from("12345"))
            .unwrap();
        let reply = client(version, &gate).await.fetch(sent).await;
        ids.push(reply.headers["x-request-id"].to_str().unwrap().to_owned());
    }
    for (line, (id, version)) in lines("/logged/a", 2).await.iter().zip(ids.iter().zip(["1.1", "2"])) {
        assert_eq!(line["target"], "portcullis::access");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["http.request.method"], "POST");
        assert_eq!(line["http.response.status_code"], 200);
        assert_eq!(line["route.name"], "orders");
        assert_eq!(line["network.peer.address"], "127.0.0.1");
        assert_eq!(line["client.address"], "127.0.0.1");
        assert_eq!(line["network.protocol.version"], version);
        assert_eq!(line["request.id"], **id);
        assert_eq!((&line["http.request.body.size"], &line["http.response.body.size"]), (&5.into(), &2.into()));
        let (took, upstream) = (line["took_ms"].as_f64().unwrap(), line["upstream_ms"].as_f64().unwrap());
        assert!(took >= upstream && upstream >= 0.0, "{took} {upstream}");
        for absent in ["verdict", "limit", "broken_off", "subject", "user_agent.original", "trace.id"] {
            assert!(line.get(absent).is_none(), "{absent}: {line}");
        }
    }
    gate.get("/logged/b", "").await;
    let line = &lines("/logged/b", 1).await[0];
    assert_eq!((&line["http.response.status_code"], &line["verdict"]), (&401.into(), &"missing_token".into()));
    assert!(line.get("upstream_ms").is_none(), "nobody asked the upstream: {line}");
    gate.get("/logged-c", &token).await;
    let line = &lines("/logged-c", 1).await[0];
    assert_eq!((&line["http.response.status_code"], line.get("route.name")), (&404.into(), None));
    let grpc = request(HTTP2, Method::POST, "/logged/d", "").header("content-type", "application/grpc");
    client(HTTP2, &gate).await.fetch(grpc.body(StreamBody::from("")).unwrap()).await;
    let line = &lines("/logged/d", 1).await[0];
    assert_eq!((&line["http.response.status_code"], &line["verdict"]), (&200.into(), &"missing_token".into()));

    // A client that does not wait is logged as well.
    gate.upstream.delay(Duration::from_secs(30));
    let mut raw = Raw::connect(gate.address()).await;
    raw.write(format!("GET /logged/e HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n")).await;
    eventually("the request is under way", async || gate.upstream.last().target == "/logged/e").await;
    drop(raw);
    assert_eq!(lines("/logged/e", 1).await[0]["broken_off"], true);

    assert!(log::lines("secret=1").is_empty(), "queries are not logged");
    assert!(log::lines(&token).is_empty(), "tokens are not logged");
    assert!(log::lines("needle/1").is_empty(), "what clients call themselves is not logged unasked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_written_when_the_response_has_ended() {
    log::capture();
    let gate = TestGate::start(LOGGED).await;
    let (started, mut senders) = tokio::sync::mpsc::channel(2);
    gate.upstream.handle(move |_| {
        let started = started.clone();
        async move {
            let (sender, body) = StreamBody::channel();
            started.send(sender).await.unwrap();
            Response::new(body)
        }
    });
    for version in [HTTP1, HTTP2] {
        for (path, ends) in [("/stream/ended", true), ("/stream/broken", false)] {
            let path = format!("{path}/{version:?}");
            let mut client = client(version, &gate).await;
            let sent = request(version, Method::GET, &path, &gate.good_token()).body(StreamBody::from("")).unwrap();
            let response = client.send(sent).await.unwrap();
            let sender = senders.recv().await.unwrap();
            sender.send(Ok(Frame::data(Bytes::from_static(b"12345")))).await.unwrap();
            sender.send(Ok(Frame::data(Bytes::from_static(b"678")))).await.unwrap();
            assert!(log::lines(&path).is_empty(), "it has not ended yet");
            if ends {
                drop(sender);
                assert_eq!(crate::support::client::Reply::read(response).await.unwrap().text(), "12345678");
            } else {
                drop((response, client));
            }
            let line = &lines(&path, 1).await[0];
            assert_eq!(line["http.response.status_code"], 200);
            assert_eq!(line.get("broken_off").is_some(), !ends, "{line}");
            assert!(!ends || line["http.response.body.size"] == 8, "{line}");
        }
    }
}

/// Its line tells of all that passed, when it has ended: by itself, or by the gate.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_one_line_at_its_end() {
    log::capture();
    let upstream = RawUpstream::start(|stream, _| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if message.is_binary() && socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await;
    let settings = "auth = \"none\"\nname = \"ws\"\npath = \"/sockets\"\ntunnel_idle_timeout = \"1500ms\"";
    let gate = TestGate::start(&format!("{LOGGED}{}", upstream.route(settings))).await;
    for (path, end) in [("/sockets/closed", "closed"), ("/sockets/idle", "idle"), ("/sockets/gone", "gone")] {
        let begun = Instant::now();
        let stream = tokio::net::TcpStream::connect(gate.address()).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://a{path}"), stream).await.unwrap();
        for _ in 0..3 {
            socket.send(Message::binary(vec![7; 1000])).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap().len(), 1000);
        }
        assert!(log::lines(path).is_empty(), "it has not ended yet");
        match end {
            "closed" => {
                socket.close(None).await.unwrap();
                while socket.next().await.is_some() {}
            }
            "idle" => while let Some(Ok(_)) = socket.next().await {},
            _ => {
                let _ = socket.get_ref().set_zero_linger();
                drop(socket);
            }
        }
        let line = &lines(path, 1).await[0];
        assert_eq!((&line["http.response.status_code"], &line["route.name"]), (&101.into(), &"ws".into()));
        // Headers of frames count too: 4 bytes down, 8 up.
        let (up, down) = (line["http.request.body.size"].as_u64(), line["http.response.body.size"].as_u64());
        assert!(up.is_some_and(|up| (3024..3060).contains(&up)), "{line}");
        assert!(down.is_some_and(|down| (3012..3060).contains(&down)), "{line}");
        let took = line["took_ms"].as_f64().unwrap();
        assert!(took <= begun.elapsed().as_secs_f64() * 1000.0 && (end != "idle" || took >= 1400.0), "{line}");
        assert_eq!(line.get("broken_off").is_some(), end == "gone", "{line}");
    }
}

/// Responses without a body are complete, though nobody asks for what is not there.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missing_where_there_is_no_body() {
    log::capture();
    let gate = TestGate::start(LOGGED).await;
    gate.upstream.answer(|request| {
        let mut response = text(if request.target.ends_with("200") { "body" } else { "" });
        *response.status_mut() =
            StatusCode::from_bytes(&request.target.as_bytes()[request.target.len() - 3..]).unwrap();
        response
    });
    for version in [HTTP1, HTTP2] {
        let mut client = client(version, &gate).await;
        for (method, status) in [(Method::HEAD, 200), (Method::GET, 204), (Method::GET, 304), (Method::GET, 200)] {
            let path = format!("/bodiless/{version:?}/{method}/{status}");
            let sent = request(version, method, &path, &gate.good_token()).body(StreamBody::from("")).unwrap();
            client.fetch(sent).await;
            let line = &lines(&path, 1).await[0];
            assert_eq!((&line["http.response.status_code"], line.get("broken_off")), (&status.into(), None), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_is_told_where_it_is_asked_for() {
    log::capture();
    let more = "access_subject = true\naccess_user_agent = true\n[listener]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let gate = TestGate::start(&format!("{LOGGED}{more}")).await;
    let sent = request(HTTP1, Method::GET, "/more/a", &gate.good_token())
        .header("user-agent", "evil\u{85}\u{1f600} \t{\"x\":1}")
        .header("x-forwarded-for", "6.6.6.6, 192.0.2.7")
        .header("x-request-id", "from-the-proxy")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
    client(HTTP1, &gate).await.fetch(sent.body(StreamBody::from("")).unwrap()).await;
    let line = &lines("/more/a", 1).await[0];
    let subject = line["subject"].as_str().unwrap();
    assert!(subject.starts_with("main#") && subject.len() == 13 && !subject.contains("alice"), "{subject}");
    let agent = line["user_agent.original"].as_str().unwrap();
    assert_eq!(agent, "evil\\xc2\\x85\\xf0\\x9f\\x98\\x80 \\t{\\\"x\\\":1}");
    assert_eq!((&line["client.address"], &line["network.peer.address"]), (&"192.0.2.7".into(), &"127.0.0.1".into()));
    assert_eq!(line["request.id"], "from-the-proxy");
    assert_eq!(line["trace.id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    // Nobody is told of who was refused: it is not certain who that is.
    gate.get("/more/b", "nonsense").await;
    assert!(lines("/more/b", 1).await[0].get("subject").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_leaves_out_what_went_well_and_nothing_else() {
    log::capture();
    let settings =
        "access_sample = \"0%\"\n[[routes]]\nupstream = \"{upstream}\"\nlimits = { max_body_size = \"5B\" }\n";
    let gate = TestGate::start(&format!("{LOGGED}{settings}")).await;
    gate.upstream.answer(|request| {
        let mut response = text("");
        *response.status_mut() =
            if request.target.ends_with('5') { StatusCode::BAD_GATEWAY } else { StatusCode::NOT_FOUND };
        response
    });
    let token = gate.good_token();
    for _ in 0..20 {
        gate.get("/sample/404", &token).await;
    }
    gate.get("/sample/refused", "").await;
    gate.get("/sample/5", &token).await;
    let sent = request(HTTP1, Method::POST, "/sample/long", &token).body(StreamBody::from("123456")).unwrap();
    client(HTTP1, &gate).await.fetch(sent).await;
    assert_eq!(lines("/sample/refused", 1).await[0]["verdict"], "missing_token");
    assert_eq!(lines("/sample/5", 1).await[0]["http.response.status_code"], 502);
    assert_eq!(lines("/sample/long", 1).await[0]["limit"], "body");
    assert!(log::lines("/sample/404").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_logged_unless_it_is_asked_for() {
    log::capture();
    let gate = TestGate::start("").await;
    gate.get("/unlogged", &gate.good_token()).await;
    assert!(log::lines("/unlogged").is_empty());
}
