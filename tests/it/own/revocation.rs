//! Who logs out at the gate is logged out at the issuer by itself.

use std::fs;

use http::StatusCode;
use serde_json::json;

use crate::support::{
    auth0::{Auth0, CLIENT_ID, CLIENT_SECRET, Fault},
    eventually,
    full::{Gate, Setup, World, now},
    keys::{AUDIENCE, TestIssuer},
    program,
    redis::RedisServer,
};

fn gate<'w>(world: &'w World, tenant: &Auth0, revoke: &str) -> Setup<'w> {
    revoking(world.gate(), "ACME", tenant, revoke)
}

/// What is logged out at the gate is revoked at this issuer.
fn revoking<'w>(setup: Setup<'w>, issuer: &str, tenant: &Auth0, revoke: &str) -> Setup<'w> {
    let domain = tenant.base();
    let settings = [
        ("LOGOUT_REVOKE", revoke),
        ("MANAGEMENT_DOMAIN", domain),
        ("MANAGEMENT_CLIENT_ID", CLIENT_ID),
        ("MANAGEMENT_CLIENT_SECRET", CLIENT_SECRET),
        ("MANAGEMENT_RATE_SHARE", "100"),
    ];
    settings.iter().fold(setup, |setup, (name, value)| setup.with(&format!("ISSUERS_{issuer}_{name}"), value))
}

/// What the tenant was asked to do, and how it answered.
fn asked(tenant: &Auth0) -> Vec<String> {
    let calls = tenant.calls("/api/v2/");
    calls.iter().map(|call| format!("{} {} {}", call.method, call.target, call.status.as_u16())).collect()
}

async fn counted(gate: &Gate, outcome: &str) -> usize {
    let sample = format!("portcullis_issuer_revocations_total{{issuer=\"acme\",outcome=\"{outcome}\"}}");
    gate.metric(&sample).await.to_string().parse().unwrap()
}

async fn worlds() -> Vec<World> {
    let mut worlds = vec![World::embedded().await];
    worlds.extend(World::redis().await);
    worlds
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_here_ends_there_as_the_settings_say() {
    for (world, extents) in worlds().await.into_iter().zip([["session", "all"], ["refresh_tokens", "none"]]) {
        for revoke in extents {
            let tenant = Auth0::start().await;
            let gate = gate(&world, &tenant, revoke).start().await;
            let (one, other) = (format!("auth0|one/{revoke}"), format!("auth0|other/{revoke}"));
            let token = world.token(&one, json!({ "sid": format!("s:{revoke}") }));
            assert_eq!(gate.log_out(&token, "").await.status, StatusCode::NO_CONTENT);
            let token = world.token(&other, json!({}));
            assert_eq!(gate.log_out(&token, "?everywhere").await.status, StatusCode::NO_CONTENT);
            let expected: Vec<String> = match revoke {
                "session" => vec![
                    "DELETE /api/v2/sessions/s%3Asession 202".to_owned(),
                    "DELETE /api/v2/users/auth0%7Cother%2Fsession/sessions 202".to_owned(),
                ],
                "refresh_tokens" => vec![
                    "POST /api/v2/sessions/s%3Arefresh%5Ftokens/revoke 202".to_owned(),
                    "DELETE /api/v2/users/auth0%7Cother%2Frefresh%5Ftokens/refresh-tokens 202".to_owned(),
                ],
                "all" => vec![
                    "POST /api/v2/sessions/s%3Aall/revoke 202".to_owned(),
                    "POST /api/v2/users/auth0%7Cother%2Fall/revoke-access 202".to_owned(),
                ],
                _ => vec![],
            };
            eventually("it is revoked", async || asked(&tenant).len() >= expected.len()).await;
            let mut found = asked(&tenant);
            found.sort_unstable();
            let mut expected = expected;
            expected.sort_unstable();
            assert_eq!(found, expected, "{revoke}");
            let done = expected.len();
            eventually("it is counted", async || counted(&gate, "revoked").await >= done).await;
            // What is over already is not revoked again.
            gate.log_out(&token, "?everywhere").await;
            gate.instance.stop().await;
            assert_eq!(asked(&tenant).len(), expected.len(), "{revoke}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_tried_again_and_what_is_gone_is_done() {
    let world = World::embedded().await;
    let tenant = Auth0::start().await;
    let gate = gate(&world, &tenant, "all").start().await;
    tenant.fail("/api/v2/sessions/", Fault::Status(503));
    tenant.fail("/api/v2/sessions/", Fault::CutBody);
    let token = world.token("auth0|alice", json!({ "sid": "s1" }));
    // Nobody waits for the issuer.
    assert_eq!(gate.log_out(&token, "").await.status, StatusCode::NO_CONTENT);
    gate.expect(&token, "session_ended").await;
    eventually("it is revoked in the end", async || counted(&gate, "revoked").await >= 1).await;
    assert!(counted(&gate, "failed").await >= 1);
    let waiting = async || gate.metric("portcullis_issuer_revocations_waiting{issuer=\"acme\"}").await.to_string();
    eventually("nothing waits", async || waiting().await == "0").await;

    tenant.fail("/api/v2/sessions/", Fault::Status(404));
    gate.log_out(&world.token("auth0|alice", json!({ "sid": "s2" })), "").await;
    eventually("it is gone", async || counted(&gate, "gone").await == 1).await;
    tenant.fail("/api/v2/sessions/", Fault::Status(400));
    gate.log_out(&world.token("auth0|alice", json!({ "sid": "s3" })), "").await;
    eventually("it is given up", async || counted(&gate, "given_up").await == 1).await;

    // A missing scope will be granted before long.
    tenant.grant(&["delete:sessions"]);
    gate.log_out(&world.token("auth0|alice", json!({ "sid": "s4" })), "").await;
    eventually("it is refused", async || asked(&tenant).iter().any(|call| call.ends_with("s4/revoke 403"))).await;
    tenant.grant(&["delete:sessions", "delete:refresh_tokens"]);
    eventually("it is revoked", async || asked(&tenant).iter().any(|call| call.ends_with("s4/revoke 202"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gateway_of_a_fleet_does_it_and_another_when_it_stops() {
    let Some(world) = World::redis().await else { return };
    let tenant = Auth0::start().await;
    let one = gate(&world, &tenant, "all").start().await;
    let log_out = async |gate: &Gate, session: String| {
        let token = world.token("auth0|alice", json!({ "sid": session }));
        eventually("it is taken", async || gate.log_out(&token, "").await.status == StatusCode::NO_CONTENT).await;
    };
    log_out(&one, "before".to_owned()).await;
    eventually("the first does it", async || counted(&one, "revoked").await == 1).await;
    let other = gate(&world, &tenant, "all").start().await;
    for round in 0..10 {
        log_out(if round % 2 == 0 { &one } else { &other }, format!("s{round}")).await;
    }
    eventually("all are done", async || counted(&one, "revoked").await == 11).await;
    assert_eq!(asked(&tenant).len(), 11, "each once: {:?}", asked(&tenant));
    assert_eq!(counted(&other, "revoked").await, 0);
    one.instance.stop().await;
    log_out(&other, "after".to_owned()).await;
    eventually("the other does it", async || counted(&other, "revoked").await == 1).await;
    assert_eq!(asked(&tenant).len(), 12);
}

/// An issuer that does not answer holds up no other, nor does a gateway that does not know it.
#[tokio::test(flavor = "multi_thread")]
async fn each_issuer_is_told_by_a_gateway_that_knows_it() {
    let Some(world) = World::redis().await else { return };
    let (tenant, other_tenant) = (Auth0::start().await, Auth0::start().await);
    let other = TestIssuer::new("https://other.example/");
    world.keys.put("/other", other.jwks().to_string());
    let settings = format!(
        "[issuers.other]\nissuer = {:?}\naudiences = [{AUDIENCE:?}]\nalgorithms = [\"ES256\"]\njwks_url = {:?}\n",
        other.identifier,
        world.keys.url("/other")
    );
    let log_out_there = async |gate: &Gate, sub: &str| {
        let mut claims = other.claims(now().as_secs() - 30);
        claims["sub"] = json!(sub);
        assert_eq!(gate.log_out(&other.token(&claims), "?everywhere").await.status, StatusCode::NO_CONTENT);
        let path = format!("/api/v2/users/{sub}/revoke-access");
        eventually("the other issuer is told", async || other_tenant.calls(&path).len() == 1).await;
    };
    let one = gate(&world, &tenant, "all").start().await;
    one.log_out(&world.token("alice", json!({})), "").await;
    eventually("the one is at work", async || counted(&one, "revoked").await == 1).await;
    let two = revoking(world.gate().route(&settings), "OTHER", &other_tenant, "all").start().await;
    log_out_there(&two, "bob").await;

    two.instance.stop().await;
    one.instance.stop().await;
    let both = revoking(gate(&world, &tenant, "all").route(&settings), "OTHER", &other_tenant, "all").start().await;
    tenant.fail("/api/v2/sessions/", Fault::Hang);
    both.log_out(&world.token("alice", json!({ "sid": "s1" })), "").await;
    eventually("the first issuer is asked", async || tenant.faults_left() == 0).await;
    log_out_there(&both, "carol").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_that_cannot_be_passed_on_is_not_acknowledged() {
    let Some(mut world) = World::redis().await else { return };
    let tenant = Auth0::start().await;
    let gate = gate(&world, &tenant, "all").with("MARKERS_MAX_STALENESS", "30s").start().await;
    let token = world.token("auth0|alice", json!({}));
    gate.expect(&token, "admit").await;
    // The store takes markers, but no jobs: then not even the marker is written.
    let jobs = "portcullis:n:jobs:issuer-revocations:acme";
    let _: () = world.command(&["SET", jobs, "no queue"]);
    let reply = gate.log_out(&token, "").await;
    assert_eq!((reply.status, &*reply.code()), (StatusCode::SERVICE_UNAVAILABLE, "not_stored"));
    gate.expect(&token, "admit").await;
    let _: () = world.command(&["DEL", jobs]);

    world.server_mut().kill();
    let reply = gate.log_out(&token, "").await;
    assert_eq!((reply.status, &*reply.code()), (StatusCode::SERVICE_UNAVAILABLE, "not_stored"));
    world.server_mut().restart();
    eventually("it is taken", async || gate.log_out(&token, "").await.status == StatusCode::NO_CONTENT).await;
    eventually("it is passed on", async || counted(&gate, "revoked").await >= 1).await;
}

/// What was acknowledged is done, whatever becomes of the gate that did.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gate_loses_no_revocation() {
    let redis = RedisServer::start();
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), CLIENT_SECRET).unwrap();
    for store in [None, redis.as_ref()] {
        let tenant = Auth0::start().await;
        let settings = format!(
            "[issuers.main.logout]\nrevoke = \"all\"\n[issuers.main.management]\ndomain = {:?}\nclient_id = {CLIENT_ID:?}\n\
             client_secret_file = {:?}\nrate_share = 100\n",
            tenant.base(),
            secret.path()
        );
        let setup = program::Gate::setup().and(&settings);
        let setup = if let Some(redis) = store { setup.redis(&redis.url()) } else { setup };
        let mut gate = setup.start().await;
        // The tenant takes the first call, and never answers.
        tenant.fail("/api/v2/sessions/", Fault::Hang);
        for session in ["one", "two", "three"] {
            gate.log_out(&gate.token(json!({ "sid": session })), "").await.is(204, None);
        }
        eventually("the tenant is asked", async || tenant.faults_left() == 0).await;
        gate.kill_and_restart().await;
        for session in ["one", "two", "three"] {
            let path = format!("/api/v2/sessions/{session}/revoke");
            let done = || tenant.calls(&path).iter().any(|call| call.status == StatusCode::ACCEPTED);
            // The lease of the gate that died has to run out first.
            eventually(&format!("session {session} is revoked"), async || done()).await;
            gate.call(&gate.token(json!({ "sid": session }))).await.is(401, "session_ended");
        }
        let audited = |outcome: &str| gate.audit().iter().filter(|line| line["outcome"] == outcome).count();
        eventually("each is in the audit trail", async || audited("revoked") >= 1).await;
    }
}
