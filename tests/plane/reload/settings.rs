//! Each class of settings that can change while the gate runs.

use http::{Method, Version};
use serde_json::json;

use super::{HEAD, ISSUER, Live, outcome, plain, route, text};
use crate::support::{
    client::{Client, Raw, Reply, request},
    eventually,
    upstream::{StreamBody, TestUpstream, text as body},
};

const OPEN: &str = "auth = \"none\"";

#[tokio::test(flavor = "multi_thread")]
async fn routes_come_change_and_go() {
    let live = Live::start(&plain(OPEN)).await;
    let other = TestUpstream::start().await;
    other.answer(|_| body("other"));
    assert_eq!(live.get("/a/x", "").await.text(), "ok");

    let two = format!("{}[[routes]]\npath = \"/a\"\nauth = \"none\"\nupstream = {:?}\n", plain(OPEN), other.url());
    let report = live.reload(&two).await;
    assert_eq!(report["changed"], json!(["routes[1].auth", "routes[1].path", "routes[1].upstream"]));
    assert_eq!(live.get("/a/x", "").await.text(), "other");
    assert_eq!(live.get("/x", "").await.text(), "ok");

    live.reload(&text("", ISSUER, &route("auth = \"none\"\npath = \"/b\""))).await;
    assert_eq!(live.get("/a/x", "").await.code(), "no_route");
    assert_eq!(live.get("/b", "").await.text(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_applies_to_a_route_changes() {
    let live = Live::start(&plain("")).await;
    let token = live.token(json!({}));
    assert_eq!(live.outcome().await, "200");
    for (settings, expected) in [
        ("scopes = [\"write:orders\"]", "insufficient_scope"),
        ("scopes = [\"read:orders\"]", "200"),
        ("mode = \"observe\"\nscopes = [\"write:orders\"]", "200"),
    ] {
        live.reload(&plain(settings)).await;
        assert_eq!(outcome(&live.get("/", &token).await), expected, "{settings}");
    }
    assert_eq!(live.get("/", "").await.code(), "missing_token");
    live.reload(&plain("auth = \"optional\"")).await;
    assert_eq!(outcome(&live.get("/", "").await), "200");
    // The admin endpoints go by the same policies.
    live.reload(&plain("scopes = [\"write:orders\"]")).await;
    let explained = live.admin().post("/v1/explain", json!({ "token": token })).await;
    assert_eq!(explained.json()["verdict"], "insufficient_scope", "{}", explained.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_become_other_fields_even_of_tokens_that_were_seen() {
    let live = Live::start(&plain("identity = { \"X-User\" = \"sub\" }")).await;
    let token = live.token(json!({ "email": "alice@example.com" }));
    live.get("/", &token).await;
    assert_eq!(live.upstream.last().values("x-user"), ["auth0|alice"]);

    live.reload(&plain("identity = { \"X-Mail\" = \"email\", \"X-User\" = \"azp\" }")).await;
    live.get("/", &token).await;
    let seen = live.upstream.last();
    assert_eq!((seen.values("x-mail"), seen.values("x-user")), (vec!["alice@example.com"], vec!["web-app"]));

    live.reload(&plain("")).await;
    live.get("/", &token).await;
    assert!(live.upstream.last().values("x-user").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn session_limits_change() {
    let live = Live::start(&plain("")).await;
    let token = live.token(json!({ "sid": "one", "auth_time": crate::support::gate::now() - 7200 }));
    assert_eq!(outcome(&live.get("/", &token).await), "200");
    live.reload(&text("", &format!("{ISSUER}session.absolute_limit = \"1h\"\n"), &route(""))).await;
    assert_eq!(live.get("/", &token).await.code(), "reauthentication_required");
    live.reload(&text("", ISSUER, &route("session.absolute_limit = \"1h\""))).await;
    assert_eq!(live.get("/", &token).await.code(), "reauthentication_required");
    live.reload(&text("", ISSUER, &route("session.absolute_limit = \"3h\""))).await;
    let other = live.token(json!({ "sid": "two", "auth_time": crate::support::gate::now() - 7200 }));
    assert_eq!(outcome(&live.get("/", &other).await), "200", "it begins under the limits of now");
}

/// On the very connection on which it was another.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_a_trusted_proxy_changes_with_the_next_request() {
    let trusting = text("trusted_proxies = [\"127.0.0.1\"]", ISSUER, &route(OPEN));
    let live = Live::start(&plain(OPEN)).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut client = Client::connect(version, live.address()).await;
        let mut forwarded = async || {
            let sent = request(version, Method::GET, "/", "").header("x-forwarded-for", "203.0.113.7");
            client.fetch(sent.body(StreamBody::from("")).unwrap()).await;
            live.upstream.last().values("x-forwarded-for").join(", ")
        };
        assert_eq!(forwarded().await, "127.0.0.1");
        live.reload(&trusting).await;
        assert_eq!(forwarded().await, "203.0.113.7, 127.0.0.1");
        live.reload(&plain(OPEN)).await;
        assert_eq!(forwarded().await, "127.0.0.1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_the_listener_change_for_new_connections() {
    let live = Live::start(&plain(OPEN)).await;
    let mut old = Raw::connect(live.address()).await;
    old.write("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    old.read_until("ok").await;
    live.reload(&text("header_timeout = \"200ms\"", ISSUER, &route(OPEN))).await;
    let half = "GET /2 HTTP/1.1\r\nHost: a\r\n";
    let mut new = Raw::connect(live.address()).await;
    new.write(half).await;
    old.write(half).await;
    new.read_to_end().await;
    old.write("\r\n").await;
    old.read_until("ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_change() {
    let live = Live::start(&plain("")).await;
    let shares = async || {
        let request = http::Request::get("/.portcullis/session")
            .header("host", "api.example")
            .header("origin", "https://app.example");
        let reply = Client::http1(live.address()).await.fetch(request.body(StreamBody::from("")).unwrap()).await;
        reply.headers.contains_key("access-control-allow-origin")
    };
    assert!(!shares().await);
    live.reload(&text("[session]\norigins = [\"https://app.example\"]", ISSUER, &route(""))).await;
    assert!(shares().await);
    live.reload(&plain("")).await;
    assert!(!shares().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_a_file_of_its_own_is_read_again() {
    let mut live = Live::start(&plain("")).await;
    let token_file = live.directory.path().join("admin.token");
    std::fs::write(&token_file, "the-first-secret-of-all\n").unwrap();
    let guarded = plain("").replace("[store]", "token_file = \"admin.token\"\n[store]");
    live.reload(&guarded).await;
    live.ask().await.is(401, "unauthorized");
    live.admin_token = Some("the-first-secret-of-all".to_owned());
    live.ask().await.is(200, None);

    std::fs::write(&token_file, "another-secret-than-that\n").unwrap();
    let answer = live.ask().await;
    assert_eq!(answer.json()["changed"], json!(["admin.token_file"]));
    live.ask().await.is(401, "unauthorized");
    live.admin_token = Some("another-secret-than-that".to_owned());
    assert_eq!(live.ask().await.json()["outcome"], "unchanged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_under_way_ends_as_it_began() {
    let live = Live::start(&plain(OPEN)).await;
    let other = TestUpstream::start().await;
    other.answer(|_| body("other"));
    let (frames, long) = StreamBody::channel();
    let long = std::sync::Mutex::new(Some(long));
    live.upstream.handle(move |_| {
        let long = long.lock().unwrap().take();
        async move { http::Response::new(long.expect("one request")) }
    });
    let mut client = Client::http1(live.address()).await;
    let get = || request(Version::HTTP_11, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
    let response = client.send(get()).await.unwrap();
    let frame = |text: &'static str| Ok(http_body::Frame::data(text.into()));
    frames.send(frame("begun, ")).await.unwrap();
    for number in 0..3 {
        let elsewhere = format!("{HEAD}max_headers = {}\n{}", 50 + number, super::FIXED);
        live.reload(&format!("{elsewhere}{ISSUER}[[routes]]\nauth = \"none\"\nupstream = {:?}\n", other.url())).await;
        assert_eq!(live.get("/", "").await.text(), "other");
    }
    frames.send(frame("and ended")).await.unwrap();
    drop(frames);
    assert_eq!(Reply::read(response).await.unwrap().text(), "begun, and ended");
    assert_eq!(client.fetch(get()).await.text(), "other", "on the same connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_an_upstream_that_stays_are_kept() {
    let live = Live::start(&plain(OPEN)).await;
    live.get("/", "").await;
    assert_eq!(live.upstream.connections(), 1);
    live.reload(&text(
        "",
        ISSUER,
        &format!("{}[[routes]]\npath = \"/b\"\nupstream = \"http://127.0.0.1:1\"\n", route(OPEN)),
    ))
    .await;
    live.reload(&plain("auth = \"none\"\nhosts = [\"api.example\"]")).await;
    live.get("/", "").await;
    assert_eq!(live.upstream.connections(), 1, "the same upstream of the same route");
    live.reload(&plain("auth = \"none\"\nkeep_alive = \"7s\"")).await;
    live.get("/", "").await;
    assert_eq!(live.upstream.connections(), 2, "another way to talk to it");
}

/// Counters of a route go on where they were.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_go_on() {
    let live = Live::start(&plain(OPEN)).await;
    live.get("/", "").await;
    live.reload(&plain("")).await;
    assert_eq!(live.outcome().await, "200");
    let requests = "portcullis_requests_total{route=\"api\",code=\"200\"}";
    assert!((live.metric(requests).await - 2.0).abs() < f64::EPSILON, "{}", live.metric(requests).await);
}

/// Who is watched is not forgotten: what was opened before a reload ends by what comes after it, whatever it changed.
#[tokio::test(flavor = "multi_thread")]
async fn streams_from_before_a_reload_end_by_markers_that_come_after_it() {
    let sections = |limit: &str| format!("[session]\nabsolute_limit = \"{limit}\"\n");
    let live = Live::start(&text(&sections("8h"), ISSUER, &route(""))).await;
    let feeds = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = std::sync::Arc::clone(&feeds);
    live.upstream.handle(move |_| {
        let (sender, body) = StreamBody::channel();
        kept.lock().unwrap().push(sender);
        async { http::Response::new(body) }
    });
    let begin = async |subject: &str| {
        let token = live.token(json!({ "sub": subject, "auth_time": crate::support::gate::now() - 10 }));
        let mut client = Client::connect(Version::HTTP_11, live.address()).await;
        let sent = request(Version::HTTP_11, Method::GET, "/", &token).body(StreamBody::from("")).unwrap();
        let response = client.send(sent).await.unwrap();
        (client, response)
    };
    let open = "portcullis_streams{route=\"api\",kind=\"response\"}";
    let ends = async |mut stream: (Client<StreamBody>, http::Response<hyper::body::Incoming>)| {
        let frame = http_body_util::BodyExt::frame(stream.1.body_mut());
        let frame = tokio::time::timeout(std::time::Duration::from_secs(15), frame).await.expect("it ends");
        assert!(frame.is_none_or(|frame| frame.is_err()), "it ends, and nothing comes before");
    };
    let (young, old) = (begin("young").await, begin("old").await);
    eventually("both are streams", async || (live.metric(open).await - 2.0).abs() < 0.5).await;
    // Other limits, other keys of the issuer's, another judge.
    let other = ISSUER.replace("\"https://api.example\"", "\"https://api.example\", \"https://more.example\"");
    live.reload(&text(&sections("7h"), &other, &route(""))).await;
    live.admin().put("/v1/subjects/main/old/block", json!({})).await.is(200, None);
    ends(old).await;
    // Another route, another gate: still the same streams.
    live.reload(&text(&sections("6h"), ISSUER, &route("scopes = [\"openid\"]"))).await;
    live.admin().put("/v1/subjects/main/young/block", json!({})).await.is(200, None);
    ends(young).await;
    eventually("none is left", async || live.metric(open).await < 0.5).await;
}
