//! Reloads under load: no request fails, and each is served by one configuration from its beginning to its end.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use http::{Method, StatusCode, Version};
use serde_json::json;
use tokio::task::JoinSet;

use super::{FIXED, HEAD, ISSUER, Live};
use crate::support::{
    client::{Client, request},
    upstream::{StreamBody, TestUpstream, text},
};

const RELOADS: usize = 50;

/// By each of two configurations a request goes to another upstream, under another name.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_and_none_is_served_by_two() {
    let upstreams = [TestUpstream::start().await, TestUpstream::start().await];
    for (upstream, name) in upstreams.iter().zip(["a", "b"]) {
        upstream.answer(move |recorded| {
            let other = if name == "a" { "b" } else { "a" };
            let own = recorded.values(&format!("x-user-{name}")) == ["auth0|alice"];
            let foreign = recorded.headers.contains_key(format!("x-user-{other}"));
            text(if own && !foreign { name } else { "mixed" })
        });
    }
    let configuration = |number: usize| {
        let (name, upstream) = [("a", &upstreams[0]), ("b", &upstreams[1])][number % 2];
        // Audiences change too, so that tokens are verified anew.
        let issuer = ISSUER.replace("audiences = [", &format!("audiences = [\"{name}\", "));
        format!(
            "{HEAD}max_headers = {}\n{FIXED}{issuer}[[routes]]\nname = \"api\"\nupstream = {:?}\n\
             identity = {{ \"X-User-{name}\" = \"sub\" }}\n",
            50 + number,
            upstream.url()
        )
    };
    let live = Arc::new(Live::start(&configuration(0)).await);
    let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for (number, version) in
        [Version::HTTP_11, Version::HTTP_11, Version::HTTP_2, Version::HTTP_2].into_iter().enumerate()
    {
        let (live, over, served) = (Arc::clone(&live), Arc::clone(&over), Arc::clone(&served));
        clients.spawn(async move {
            let token = live.token(json!({ "jti": number.to_string() }));
            let mut client = Client::connect(version, live.address()).await;
            let mut seen = [0; 2];
            while !over.load(Ordering::Relaxed) {
                let sent = request(version, Method::GET, "/", &token).body(StreamBody::from("")).unwrap();
                let reply = client.fetch(sent).await;
                assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
                seen[["a", "b"].iter().position(|name| *name == reply.text()).expect("one of both")] += 1;
                served.fetch_add(1, Ordering::Relaxed);
            }
            seen
        });
    }
    for number in 1..=RELOADS {
        live.reload(&configuration(number)).await;
        let before = served.load(Ordering::Relaxed);
        crate::support::eventually("requests go on", async || served.load(Ordering::Relaxed) > before + 8).await;
    }
    over.store(true, Ordering::Relaxed);
    while let Some(seen) = clients.join_next().await {
        let seen = seen.expect("no request failed");
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    }
}

/// What former configurations had is let go.
#[tokio::test(flavor = "multi_thread")]
async fn former_upstreams_are_let_go() {
    let upstream = TestUpstream::start().await;
    let live = Live::start(&super::plain("auth = \"none\"")).await;
    let open = async || live.metric("portcullis_requests_in_flight").await;
    let (gone, body) = StreamBody::channel();
    let body = std::sync::Mutex::new(Some(body));
    live.upstream.handle(move |_| {
        let body = body.lock().unwrap().take();
        async move { http::Response::new(body.unwrap_or_else(|| StreamBody::from("ok"))) }
    });
    let mut client = Client::http1(live.address()).await;
    let get = request(Version::HTTP_11, Method::GET, "/", "").body(StreamBody::from("")).unwrap();
    let response = client.send(get).await.unwrap();
    let elsewhere = format!("{HEAD}{FIXED}{ISSUER}[[routes]]\nauth = \"none\"\nupstream = {:?}\n", upstream.url());
    live.reload(&elsewhere).await;
    assert!((open().await - 1.0).abs() < f64::EPSILON);
    drop(response);
    drop(client);
    crate::support::eventually("the former upstream is let go", async || gone.is_closed()).await;
}
