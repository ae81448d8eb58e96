//! What clients are told: status, challenge, problem body, gRPC status; and nothing from their token.

use std::{fmt::Write, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use portcullis::{
    gate::{Policy, refusal::Refusals},
    verdict::Reason,
};
use serde_json::{Value, json};

use super::on_both_stores;
use crate::support::{
    client::{Client, Reply},
    full::{Backing, Gate, World, now, request, subject_path},
    redis::RedisServer,
};

const ALICE: &str = "auth0|alice";

/// As clients see it: what changes from run to run left out.
fn shown(status: StatusCode, fields: &HeaderMap, body: &str) -> String {
    let mut text = format!("{}\n", status.as_u16());
    let mut lines: Vec<String> = fields
        .iter()
        .filter(|(name, _)| !["date", "content-length"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    for line in lines {
        writeln!(text, "{line}").unwrap();
    }
    if !body.is_empty() {
        writeln!(text, "{body}").unwrap();
    }
    text
}

fn policy(world: &World, route: &str) -> Policy {
    let (text, variables) = world.configuration(route);
    let config = portcullis::config::Config::parse(&text, "gate.toml", variables).unwrap();
    config.routes[0].policy.clone()
}

fn table(policy: &Policy, request: &HeaderMap) -> String {
    let refusals = Refusals::new(policy);
    let mut table = String::new();
    for reason in Reason::ALL {
        let response: Response<Bytes> = refusals.answer(with_limit(reason), request);
        let body = str::from_utf8(response.body()).unwrap();
        writeln!(table, "# {}\n{}", reason.code(), shown(response.status(), response.headers(), body)).unwrap();
    }
    table
}

/// The session may last for 12 hours.
fn with_limit(reason: Reason) -> Reason {
    match reason {
        Reason::ReauthenticationRequired { .. } => {
            Reason::ReauthenticationRequired { max_age: std::time::Duration::from_secs(12 * 3600) }
        }
        other => other,
    }
}

fn grpc_call() -> HeaderMap {
    HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"))])
}

#[tokio::test]
async fn every_refusal_is_as_published() {
    let world = World::embedded().await;
    let route = "scopes = [\"read:orders\", \"write:orders\"]";
    insta::assert_snapshot!("refusals", table(&policy(&world, route), &HeaderMap::new()));
}

#[tokio::test]
async fn every_refusal_of_a_grpc_call_is_as_published() {
    let world = World::embedded().await;
    let policy = policy(&world, "");
    insta::assert_snapshot!("refusals_grpc", table(&policy, &grpc_call()));
    for reason in Reason::ALL {
        let response: Response<Bytes> = Refusals::new(&policy).answer(reason, &grpc_call());
        let details = STANDARD_NO_PAD.decode(&response.headers()["grpc-status-details-bin"]).unwrap();
        assert!(String::from_utf8_lossy(&details).contains(reason.code()));
    }
}

#[tokio::test]
async fn a_route_may_keep_reasons_to_itself() {
    let world = World::embedded().await;
    let route = "realm = \"my api\"\ndescribe = false\nscopes = [\"read\"]";
    insta::assert_snapshot!("refusals_undescribed", table(&policy(&world, route), &HeaderMap::new()));
}

/// A policy that was not read from a file may hold anything.
#[tokio::test]
async fn a_challenge_is_well_formed_whatever_the_policy_holds() {
    let world = World::embedded().await;
    let mut policy = policy(&world, "");
    policy.realm = "a\"b\\c\r\nx: y é".into();
    policy.settings.required_scopes = ["read\"".into(), "a\\b".into(), "ü\n".into()].into();
    let response: Response<Bytes> = Refusals::new(&policy).answer(Reason::InsufficientScope, &HeaderMap::new());
    let challenge = response.headers()["www-authenticate"].to_str().unwrap();
    let mut quoted = false;
    let mut characters = challenge.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => quoted = !quoted,
            '\\' if quoted => drop(characters.next()),
            _ => {}
        }
    }
    assert!(!quoted, "{challenge}");
    assert!(challenge.starts_with("Bearer realm=\"a\\\"b\\\\c"), "{challenge}");
}

/// Brings about every refusal that can be, by way of requests.
async fn provoke(world: &World, gate: &Gate) -> Vec<(Reason, String)> {
    let second =
        |id: &str| world.token(&format!("auth0|{id}"), json!({"sid": format!("sid-{id}"), "jti": format!("jti-{id}")}));
    let (blocked, out, ended, revoked) = (second("blocked"), second("out"), second("ended"), second("revoked"));
    gate.change(Method::PUT, &subject_path("auth0|blocked", "/block"), Value::Null).await;
    gate.change(Method::POST, &subject_path("auth0|out", "/logout"), Value::Null).await;
    gate.change(Method::POST, "/v1/sessions/acme/sid-ended/end", Value::Null).await;
    gate.change(Method::POST, "/v1/tokens/acme/jti-revoked/revoke", Value::Null).await;
    let now = now().as_secs();
    vec![
        (Reason::MissingToken, String::new()),
        (Reason::InvalidRequest, "a b".to_owned()),
        (Reason::InvalidToken, world.token(ALICE, json!({"aud": "https://secret.example"}))),
        (Reason::InvalidToken, world.token(ALICE, json!({"iss": "https://secret.example"}))),
        (Reason::TokenExpired, world.token(ALICE, json!({"exp": now - 10}))),
        (Reason::TokenLifetime, world.token(ALICE, json!({"exp": now + 100_000}))),
        (Reason::UserBlocked, blocked),
        (Reason::LoggedOut, out),
        (Reason::SessionEnded, ended),
        (Reason::Revoked, revoked),
        (
            Reason::InsufficientScope,
            world.token(ALICE, json!({"scope": "secret-scope", "email": "alice@secret.example"})),
        ),
    ]
}

const SCOPED: &str = "scopes = [\"read:orders\"]";

on_both_stores!(the_wire_carries_what_is_published_and_nothing_of_the_token);

async fn the_wire_carries_what_is_published_and_nothing_of_the_token(world: World) {
    let gate = world.gate().route(SCOPED).start().await;
    let refusals = Refusals::new(&policy(&world, SCOPED));
    let hits = world.upstream.hits();
    for (reason, token) in provoke(&world, &gate).await {
        let reply = gate.get(&token).await;
        check(&refusals, reason, &HeaderMap::new(), &reply);
        assert_discreet(&reply, &token);

        let mut call = request(Method::POST, "/package.Service/Method", &token);
        call.headers_mut().extend(grpc_call());
        let mut client = Client::http2(gate.address).await;
        *call.uri_mut() = format!("http://{}/package.Service/Method", gate.address).parse().unwrap();
        call.headers_mut().remove("host");
        let reply = client.fetch(call).await;
        assert_eq!(reply.status, StatusCode::OK, "a gRPC call is refused by its status");
        check(&refusals, reason, &grpc_call(), &reply);
        assert_discreet(&reply, &token);
    }
    assert_eq!(world.upstream.hits(), hits, "nothing that was refused went on");
}

#[track_caller]
fn check(refusals: &Refusals, reason: Reason, request: &HeaderMap, reply: &Reply) {
    let published: Response<Full<Bytes>> = refusals.answer(reason, request);
    let body: Response<Bytes> = refusals.answer(reason, request);
    let body = str::from_utf8(body.body()).unwrap();
    let expected = shown(published.status(), published.headers(), body);
    let mut fields = reply.headers.clone();
    // The gateway's own, whatever the answer.
    assert!(fields.remove("x-request-id").is_some(), "{}", reason.code());
    assert_eq!(shown(reply.status, &fields, reply.text()), expected, "{}", reason.code());
}

/// No part of the token, and nothing that it says, is in the response.
#[track_caller]
fn assert_discreet(reply: &Reply, token: &str) {
    let mut told = format!("{:?} {:?} ", reply.headers, reply.trailers);
    told.push_str(reply.text());
    let ids = ["auth0|", "sid-", "jti-", "secret", "web-app", "issuer.example", "@"];
    for secret in ids.into_iter().chain(token.split(['.', ' ']).filter(|part| part.len() > 1)) {
        assert!(!told.contains(secret), "`{secret}` is told: {told}");
    }
}

/// Refusals that need a store which is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_refusal_of_a_gate_at_a_loss_tells_nothing_either() {
    let Some(server) = RedisServer::start() else { return };
    let mut world = World::embedded().await;
    world.store = Backing::Redis(server);
    let setup = world.gate().route(SCOPED).with("MARKERS_MAX_STALENESS", "1s").with("STORE_INDEX_LIMIT", "0");
    let gate = setup.start().await;
    world.server_mut().kill();
    let token = world.token(ALICE, json!({"email": "alice@secret.example"}));
    let reply = tokio::time::timeout(Duration::from_secs(5), gate.get(&token)).await.unwrap();
    check(&Refusals::new(&policy(&world, SCOPED)), Reason::Stale, &HeaderMap::new(), &reply);
    assert_discreet(&reply, &token);
}
