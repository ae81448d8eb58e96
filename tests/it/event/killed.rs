//! A gate that is killed between being told and having told the store.

use std::time::Duration;

use http::Method;
use serde_json::json;

use crate::support::{
    http::try_send,
    program::{Gate, Setup, now},
    redis::RedisServer,
};

const URL: &str = "/.portcullis/events/log";
const SECRET: &str = "the sender of the log";
const SOURCE: &str = "[sources.log]\ntype = \"auth0_log_stream\"\nauthorization_file = \"log.secret\"\n";

/// It is killed ever nearer to the moment in which it answers, some times before and some after it.
const MOST_ROUNDS: u32 = 40;

/// How many users one delivery logs out.
const USERS: usize = 60;

/// What it acknowledged is enforced; what it did not is sent again, and is then there as if it had come once.
async fn is_killed_again_and_again(setup: Setup) {
    let mut gate = setup.secret("log.secret", SECRET).and(SOURCE).start().await;
    let (mut acknowledged, mut lost, mut wait) = (0, 0, Duration::from_millis(4));
    for round in 0..MOST_ROUNDS {
        if acknowledged > 1 && lost > 3 {
            return;
        }
        let users: Vec<String> = (0..USERS).map(|n| format!("auth0|{round}-{n}")).collect();
        let tokens: Vec<String> = users.iter().map(|user| gate.token(json!({ "sub": user }))).collect();
        let bystander = gate.token(json!({ "sub": "auth0|bystander" }));
        let at = now();
        let record = |(n, user): (usize, &String)| {
            let id = format!("{round}-{n}");
            let data = json!({ "type": "scp", "date": at.to_string(), "user_id": user, "log_id": id });
            json!({ "log_id": id, "data": data }).to_string()
        };
        let body = users.iter().enumerate().map(record).collect::<Vec<_>>().join("\n");
        let address = gate.address();
        let delivery = {
            let body = body.clone();
            tokio::spawn(async move { try_send(address, Method::POST, URL, &[("authorization", SECRET)], body).await })
        };
        // Not for anything to happen: the moment of the kill is tried out, sooner and later in the delivery.
        tokio::time::sleep(wait).await;
        gate.kill_and_restart().await;
        if delivery.await.unwrap().is_ok_and(|answer| answer.status.is_success()) {
            acknowledged += 1;
            wait = wait.mul_f32(0.6);
        } else {
            lost += 1;
            wait = wait.mul_f32(1.4);
            let again = try_send(gate.address(), Method::POST, URL, &[("authorization", SECRET)], body.clone()).await;
            assert!(again.unwrap().status.is_success());
        }
        for (user, token) in users.iter().zip(&tokens) {
            gate.call(token).await.is(401, "logged_out");
            let known = gate.admin().get(&format!("/v1/subjects/main/{}", user.replace('|', "%7C"))).await.json();
            assert_eq!(known["logout"]["at"], at.to_string(), "round {round}");
        }
        gate.call(&bystander).await.is(200, None);
    }
    panic!("{acknowledged} were acknowledged, {lost} were not: the moments are badly chosen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_embedded_store() {
    is_killed_again_and_again(Gate::setup()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_redis() {
    let Some(server) = RedisServer::start() else { return };
    is_killed_again_and_again(Gate::setup().redis(&server.url())).await;
}
