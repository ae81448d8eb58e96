//! `/.portcullis/last-logout`, which the issuer's login asks.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::support::{
    client::Reply,
    eventually,
    full::{Gate, Setup, World, now},
};

const READ: &str = "the-token-of-those-who-ask";
const WRITE: &str = "the-token-of-those-who-tell";

fn gate(world: &World) -> Setup<'_> {
    world.gate().with("LAST_LOGOUT_TOKEN", READ).with("LAST_LOGOUT_WRITE_TOKEN", WRITE)
}

async fn ask(gate: &Gate, method: Method, query: &str, token: &str) -> Reply {
    let uri = format!("/.portcullis/last-logout{query}");
    let mut request = Request::builder().method(method).uri(uri).header("host", "api.example");
    if !token.is_empty() {
        request = request.header("authorization", token);
    }
    gate.send(request.body(Full::<Bytes>::default()).unwrap()).await
}

/// What is told of a subject.
async fn told(gate: &Gate, sub: &str) -> Value {
    let query = format!("?sub={}", sub.replace('|', "%7C"));
    let reply = ask(gate, Method::GET, &query, &format!("Bearer {READ}")).await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    assert_eq!(reply.headers["cache-control"], "no-store");
    assert_eq!(reply.headers["content-type"], "application/json");
    serde_json::from_slice(&reply.body).unwrap()
}

async fn worlds() -> Vec<World> {
    let mut worlds = vec![World::embedded().await];
    worlds.extend(World::redis().await);
    worlds
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_the_last_logout_and_whether_the_user_is_blocked() {
    for world in worlds().await {
        let gate = gate(&world).start().await;
        assert_eq!(told(&gate, "auth0|alice").await, json!({ "last_logout": null, "blocked": false }));

        let before = now().as_millis();
        gate.log_out(&world.token("auth0|alice", json!({})), "?everywhere").await;
        let known = told(&gate, "auth0|alice").await;
        let at = known["last_logout"].as_i64().unwrap();
        assert!((before..=now().as_millis()).contains(&at), "{known}");
        assert_eq!(known["blocked"], false);
        // The claim that is made of it is what the gate goes by.
        let again = world.token("auth0|alice", json!({ "sid": "again", "iat": at / 1000, "last_logout": at }));
        gate.expect(&again, "admit").await;
        gate.expect(&world.token("auth0|alice", json!({ "sid": "x", "iat": at / 1000 })), "logged_out").await;

        gate.change(Method::PUT, "/v1/subjects/acme/auth0%7Calice/block", json!({})).await;
        assert_eq!(told(&gate, "auth0|alice").await, json!({ "last_logout": at, "blocked": true }));
        gate.change(Method::DELETE, "/v1/subjects/acme/auth0%7Calice/block", json!({})).await;
        assert_eq!(told(&gate, "auth0|alice").await, json!({ "last_logout": at, "blocked": false }));
        assert_eq!(told(&gate, "auth0|bob").await, json!({ "last_logout": null, "blocked": false }));
        gate.instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_tells_of_a_new_password_ends_every_session() {
    for world in worlds().await {
        let gate = gate(&world).start().await;
        let (alice, bob) = (world.token("auth0|alice", json!({})), world.token("auth0|bob", json!({})));
        gate.expect(&alice, "admit").await;
        let before = now().as_millis();
        let reply = ask(&gate, Method::POST, "?sub=auth0%7Calice&issuer=acme", &format!("Bearer {WRITE}")).await;
        assert_eq!((reply.status, reply.body.len()), (StatusCode::NO_CONTENT, 0));
        gate.expect(&alice, "logged_out").await;
        gate.expect(&bob, "admit").await;
        assert!(told(&gate, "auth0|alice").await["last_logout"].as_i64().unwrap() >= before);
        gate.instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_credential_is_good_for_one_thing() {
    let world = World::embedded().await;
    let gate = gate(&world).with("ADMIN_TOKEN", "the-token-of-operators").start().await;
    let alice = world.token("auth0|alice", json!({}));
    let (read, write) = (format!("Bearer {READ}"), format!("Bearer {WRITE}"));
    let wrong = ["", "Bearer", "Bearer ", READ, "Basic dGhlLXRva2VuLW9m", "Bearer the-token-of-operators"];
    let near = [format!("{read}x"), format!("{read} "), format!("Bearer  {READ}"), format!("Bearer {alice}")];
    let of_writers = [(Method::GET, &write), (Method::POST, &read)];
    let all = wrong.into_iter().chain(near.iter().map(String::as_str)).map(|token| (Method::GET, token));
    let all = all.chain(of_writers.iter().map(|(method, token)| (method.clone(), token.as_str())));
    for (method, token) in all.collect::<Vec<_>>() {
        // A field value ends where its last visible character does.
        if token.ends_with(' ') && token.trim_end() == read {
            continue;
        }
        let reply = ask(&gate, method.clone(), "?sub=auth0%7Calice", token).await;
        assert_eq!((reply.status, &*reply.code()), (StatusCode::UNAUTHORIZED, "unauthorized"), "{method} {token}");
        assert!(reply.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
    }
    assert_eq!(ask(&gate, Method::GET, "?sub=auth0%7Calice", &read.replace("Bearer", "bearer")).await.status, 200);
    // And for nothing else.
    for token in [READ, WRITE] {
        gate.expect(token, "invalid_token").await;
        let request = Request::get("/v1/subjects/acme/auth0%7Calice").header("host", "localhost");
        let request =
            request.header("authorization", format!("Bearer {token}")).body(Full::<Bytes>::default()).unwrap();
        let reply = crate::support::client::Client::http1(gate.admin).await.fetch(request).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    }
    gate.expect(&alice, "admit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_told_apart() {
    let world = World::embedded().await;
    let gate = gate(&world).start().await;
    let read = format!("Bearer {READ}");
    let long = format!("?sub={}", "x".repeat(256));
    for (query, status, code) in [
        ("", 400, "invalid_parameters"),
        ("?sub=", 400, "invalid_parameters"),
        ("?sub=a&sub=b", 400, "invalid_parameters"),
        ("?sub=a%00", 400, "invalid_parameters"),
        ("?sub=%ff", 400, "invalid_parameters"),
        (&long, 400, "invalid_parameters"),
        ("?sub=a&issuer=other", 404, "unknown_issuer"),
        ("?sub=a&issuer=", 404, "unknown_issuer"),
    ] {
        let reply = ask(&gate, Method::GET, query, &read).await;
        assert_eq!((reply.status.as_u16(), &*reply.code()), (status, code), "{query}");
    }
    for method in [Method::PUT, Method::HEAD, Method::DELETE, Method::OPTIONS, Method::PATCH] {
        let reply = ask(&gate, method, "?sub=a", &read).await;
        assert_eq!(
            (reply.status, &reply.headers["allow"]),
            (StatusCode::METHOD_NOT_ALLOWED, &"GET, POST".parse().unwrap())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_credential_it_is_not_there() {
    let world = World::embedded().await;
    let gate = world.gate().start().await;
    let reply = ask(&gate, Method::GET, "?sub=a", "Bearer ").await;
    assert_eq!((reply.status, &*reply.code()), (StatusCode::NOT_FOUND, "no_endpoint"));
    gate.instance.stop().await;
    let gate = world.gate().with("LAST_LOGOUT_TOKEN", READ).start().await;
    for token in [READ, WRITE, ""] {
        let reply = ask(&gate, Method::POST, "?sub=a", &format!("Bearer {token}")).await;
        assert_eq!((reply.status, &reply.headers["allow"]), (StatusCode::METHOD_NOT_ALLOWED, &"GET".parse().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_silent_or_behind_gives_no_answer() {
    let Some(mut world) = World::redis().await else { return };
    let gate = Arc::new(gate(&world).with("MARKERS_MAX_STALENESS", "1s").start().await);
    assert_eq!(told(&gate, "auth0|alice").await["blocked"], false);
    world.server_mut().kill();
    let read = format!("Bearer {READ}");
    let silent = async || ask(&gate, Method::GET, "?sub=auth0%7Calice", &read).await;
    for _ in 0..3 {
        let reply = silent().await;
        assert_eq!((reply.status, &*reply.code()), (StatusCode::SERVICE_UNAVAILABLE, "stale"));
        assert_eq!(reply.headers["retry-after"], "1");
    }
    let reply = ask(&gate, Method::POST, "?sub=auth0%7Calice", &format!("Bearer {WRITE}")).await;
    assert_eq!((reply.status, &*reply.code()), (StatusCode::SERVICE_UNAVAILABLE, "not_stored"));
    world.server_mut().restart();
    eventually("it is told again", async || silent().await.status == StatusCode::OK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_refuses_here_too() {
    let Some(world) = World::redis().await else { return };
    let gate = gate(&world).start().await;
    let before = now().as_millis();
    let _: () = world.command(&["SET", "portcullis:m:logout:acme:auth0|alice", "nonsense"]);
    let _: () = world.command(&["SET", "portcullis:m:block:acme:auth0|bob", "nonsense"]);
    assert!(told(&gate, "auth0|alice").await["last_logout"].as_i64().unwrap() >= before);
    assert_eq!(told(&gate, "auth0|bob").await["blocked"], true);
}

/// Another gateway's logout is told as soon as it is acknowledged there: no cache is in between.
#[tokio::test(flavor = "multi_thread")]
async fn answers_come_from_the_store_past_every_cache() {
    let Some(world) = World::redis().await else { return };
    let (one, other) = (gate(&world).start().await, gate(&world).start().await);
    for round in 0..20 {
        let sub = format!("auth0|user-{round}");
        assert_eq!(told(&one, &sub).await["last_logout"], Value::Null);
        let at = other.change(Method::POST, &crate::support::full::subject_path(&sub, "/logout"), json!({})).await;
        let at: portcullis::clock::Timestamp = at["marker"]["at"].as_str().unwrap().parse().unwrap();
        assert_eq!(told(&one, &sub).await["last_logout"], at.as_millis());
    }
}
