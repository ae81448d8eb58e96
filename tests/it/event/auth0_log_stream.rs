//! Auth0's log stream, against a gate that runs: real records, dated today, and the requests that come right after them.

use std::{fs, io::Write as _, path::Path, time::Duration};

use flate2::{Compression, write::GzEncoder};
use http::Method;
use portcullis::clock::Timestamp;
use serde_json::{Value, json};

use crate::support::{
    eventually,
    http::{Answer, send},
    program::{Gate, Setup, now},
    redis::RedisServer,
};

const URL: &str = "/.portcullis/events/log";
const SECRET: &str = "the sender of the log";
const SOURCE: &str = "[sources.log]\ntype = \"auth0_log_stream\"\nauthorization_file = \"log.secret\"\n";

/// Whom the composed records are about, their session, and who did it.
const USER: &str = "auth0|65f0a1b2c3d4e5f6a7b8c9d0";
const SESSION: &str = "Zx3kq0N9b5T2uV7yW1aB4cD6eF8gH0iJ";
const ACTOR: &str = "google-oauth2|100000000000000000001";

fn setup() -> Setup {
    Gate::setup().secret("log.secret", SECRET).and(SOURCE)
}

/// Runs a test with an embedded store, then with Redis.
async fn on_both_stores(test: impl AsyncFn(Gate)) {
    test(setup().start().await).await;
    let Some(server) = RedisServer::start() else { return };
    test(setup().redis(&server.url()).start().await).await;
}

fn fixture(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path);
    serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap()
}

/// A composed record under an id of its own.
fn composed(name: &str, id: &str, at: Timestamp) -> Value {
    dated(fixture(&format!("composed/auth0-logs/{name}.json")), id, at)
}

fn dated(mut element: Value, id: &str, at: Timestamp) -> Value {
    element["log_id"] = json!(id);
    element["data"]["log_id"] = json!(id);
    element["data"]["date"] = json!(at.to_string());
    element
}

/// The same for another user and session.
fn of(element: &Value, user: &str, session: &str) -> Value {
    let (_, bare) = USER.split_once('|').unwrap();
    let text = element.to_string().replace(bare, user).replace(SESSION, session);
    serde_json::from_str(&text).unwrap()
}

fn lines(elements: &[Value]) -> String {
    elements.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

async fn deliver(gate: &Gate, body: impl Into<bytes::Bytes>) -> Answer {
    send(gate.address(), Method::POST, URL, &[("authorization", SECRET)], body).await
}

async fn taken(gate: &Gate, body: impl Into<bytes::Bytes>) -> Value {
    deliver(gate, body).await.is(200, None).json()
}

fn summary(changed: usize, unchanged: usize, duplicates: usize, active: usize, left_out: usize) -> Value {
    json!({ "changed": changed, "unchanged": unchanged, "duplicates": duplicates, "active": active, "left_out": left_out })
}

async fn outcomes(gate: &Gate) -> Value {
    let ready = gate.admin().get("/readyz").await.json();
    ready["sources"][0]["events"].clone()
}

/// `admit`, or the code of the refusal.
async fn verdict(gate: &Gate, token: &str) -> String {
    let answer = gate.call(token).await;
    if answer.status == 200 { "admit".to_owned() } else { answer.code().unwrap() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_very_next_request_is_judged_by_what_a_record_says() {
    on_both_stores(async |gate| {
        let actor = gate.token(json!({ "sub": ACTOR, "sid": "of the actor" }));
        let bystander = gate.token(json!({ "sub": "auth0|bystander", "sid": "of the bystander" }));
        for (number, (name, of_the_session, of_the_user)) in [
            ("slo-current-schema", "session_ended", "admit"),
            ("srrt", "session_ended", "admit"),
            ("scp", "logged_out", "logged_out"),
            ("sce", "logged_out", "logged_out"),
            ("ferrt", "logged_out", "logged_out"),
            ("sapi-sessions-deleted", "logged_out", "logged_out"),
            ("sdu", "user_blocked", "user_blocked"),
            ("sapi-user-deleted", "user_blocked", "user_blocked"),
            ("sapi-user-blocked-dashboard", "user_blocked", "user_blocked"),
            ("sapi-user-blocked-m2m", "user_blocked", "user_blocked"),
            ("sapi-user-unblocked-dashboard", "admit", "admit"),
            ("sapi-user-updated-not-a-block", "admit", "admit"),
            ("f-user-is-blocked", "admit", "admit"),
            ("ublkdu", "admit", "admit"),
            ("limit_wc-current-schema", "admit", "admit"),
            ("oidc_backchannel_logout_succeeded", "admit", "admit"),
            ("fertft-session-not-found", "admit", "admit"),
            ("fsa-login-required", "admit", "admit"),
            ("sscim-deactivate", "admit", "admit"),
            ("slo-no-user", "admit", "admit"),
            ("ssa", "admit", "admit"),
            ("sertft", "admit", "admit"),
        ]
        .into_iter()
        .enumerate()
        {
            let (user, session) = (format!("user{number}"), format!("session{number}"));
            let sub = format!("auth0|{user}");
            let tokens = [session.as_str(), "another"].map(|sid| gate.token(json!({ "sub": sub, "sid": sid })));
            for token in &tokens {
                assert_eq!(verdict(&gate, token).await, "admit", "{name}");
            }
            let record = of(&composed(name, &number.to_string(), now()), &user, &session);
            taken(&gate, record.to_string()).await;
            assert_eq!(verdict(&gate, &tokens[0]).await, of_the_session, "{name}");
            assert_eq!(verdict(&gate, &tokens[1]).await, of_the_user, "{name}");
            for token in [&actor, &bystander] {
                assert_eq!(verdict(&gate, token).await, "admit", "{name}");
            }
        }
    })
    .await;
}

/// Three people log in, get tokens and log out, as a tenant once told it, out of order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_log_is_taken_in_each_form_packed_or_not() {
    on_both_stores(async |gate| {
        let elements = fixture("auth0/log-stream/batch-array.json");
        let real: Vec<Value> = elements.as_array().unwrap().clone();
        let first: Timestamp = real[0]["data"]["date"].as_str().unwrap().parse().unwrap();
        for (round, (form, packed)) in
            [("lines", false), ("array", false), ("object", false), ("lines", true), ("array", true), ("object", true)]
                .into_iter()
                .enumerate()
        {
            // Each round has people, sessions and ids of its own, and happened just now.
            let begun = now().minus(Duration::from_secs(4 * 3600));
            let elements: Vec<Value> = real
                .iter()
                .map(|element| {
                    let date: Timestamp = element["data"]["date"].as_str().unwrap().parse().unwrap();
                    let id = format!("{round}-{}", element["log_id"].as_str().unwrap());
                    let text = dated(element.clone(), &id, begun.plus(date.since(first))).to_string();
                    serde_json::from_str(&text.replace("auth0|618", &format!("auth0|{round}"))).unwrap()
                })
                .collect();
            let sessions: Vec<(String, String)> = elements
                .iter()
                .filter(|element| element["data"]["type"] == "slo")
                .map(|element| {
                    let data = &element["data"];
                    let session = data["details"]["session_id"].as_str().unwrap();
                    (data["user_id"].as_str().unwrap().to_owned(), session.to_owned())
                })
                .collect();
            assert_eq!(sessions.len(), 3);
            let own = |session: &str| format!("{round}{session}");
            let mut body = match form {
                "lines" => lines(&elements),
                "array" => json!(elements).to_string(),
                _ => json!({ "logs": elements }).to_string(),
            };
            for (_, session) in &sessions {
                body = body.replace(session, &own(session));
            }
            let tokens: Vec<String> = sessions
                .iter()
                .map(|(user, session)| gate.token(json!({ "sub": user, "sid": own(session) })))
                .collect();
            let others: Vec<String> =
                sessions.iter().map(|(user, _)| gate.token(json!({ "sub": user, "sid": "another" }))).collect();
            let answer = if packed {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(body.as_bytes()).unwrap();
                let fields = [("authorization", SECRET), ("content-encoding", "gzip")];
                send(gate.address(), Method::POST, URL, &fields, encoder.finish().unwrap()).await
            } else {
                deliver(&gate, body).await
            };
            assert_eq!(answer.is(200, None).json(), summary(3, 0, 0, 3, 0), "{form}, packed: {packed}");
            for (token, other) in tokens.iter().zip(&others) {
                gate.call(token).await.is(401, "session_ended");
                gate.call(other).await.is(200, None);
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_and_refreshes_show_that_a_user_was_active_and_failures_do_not() {
    on_both_stores(async |gate| {
        let at = now().minus(Duration::from_secs(3600));
        let active = async |user: &str| {
            let known = gate.admin().get(&format!("/v1/subjects/main/auth0%7C{user}")).await.json();
            known["last_activity"].as_str().map(str::to_owned)
        };
        for name in ["ssa", "sertft"] {
            let record = of(&composed(name, name, at), name, "s");
            assert_eq!(taken(&gate, record.to_string()).await, summary(0, 0, 0, 1, 0));
            assert_eq!(active(name).await, Some(at.to_string()), "{name}");
            let older = of(&composed(name, "older", at.minus(Duration::from_secs(60))), name, "s");
            taken(&gate, older.to_string()).await;
            assert_eq!(active(name).await, Some(at.to_string()), "time does not go back");
        }
        for name in ["f-user-is-blocked", "fertft-session-not-found", "ublkdu"] {
            let record = of(&composed(name, name, at), name, "s");
            assert_eq!(taken(&gate, record.to_string()).await, summary(0, 0, 0, 0, 1));
            assert_eq!(active(name).await, None, "{name}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_knows_the_secret_is_heard() {
    let gate = setup().start().await;
    let token = gate.token(json!({ "sub": USER, "sid": SESSION }));
    let body = || composed("scp", "1", now()).to_string();
    let wrong =
        ["", "the sender of the lo", "the sender of the log!", "The sender of the log", "Bearer the sender of the log"];
    for value in wrong {
        let answer = send(gate.address(), Method::POST, URL, &[("authorization", value)], body()).await;
        assert_eq!(answer.is(401, "unauthorized").field("cache-control").unwrap_or("no-store"), "no-store");
    }
    send(gate.address(), Method::POST, URL, &[], body()).await.is(401, "unauthorized");
    let twice = [("authorization", SECRET), ("authorization", SECRET)];
    send(gate.address(), Method::POST, URL, &twice, body()).await.is(401, "unauthorized");
    send(gate.address(), Method::GET, URL, &[("authorization", SECRET)], "").await.is(405, "method");
    let elsewhere = "/.portcullis/events/lug";
    send(gate.address(), Method::POST, elsewhere, &[("authorization", SECRET)], body()).await.is(404, "no_endpoint");
    gate.call(&token).await.is(200, None);
    assert!(!gate.log().contains(SECRET));
    deliver(&gate, body()).await.is(200, None);
    gate.call(&token).await.is(401, "logged_out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_else_a_delivery_holds_what_is_good_of_it_is_taken() {
    on_both_stores(async |gate| {
        let users = ["one", "huge", "strange", "two"];
        // Before anything happens: a second later they would be of new logins.
        let tokens: Vec<String> = ["one", "huge", "strange", "two", "cut", "masked"]
            .iter()
            .map(|user| gate.token(json!({ "sub": format!("auth0|{user}"), "sid": "s" })))
            .collect();
        let good = |id: &str| of(&composed("scp", id, now()), id, "s").to_string();
        let masked = of(&composed("sapi-user-blocked-m2m", "masked", now()), "masked", "s");
        let masked = masked.to_string().replace("\"blocked\":true", "\"blocked\":\"*****\"");
        let mut huge = of(&composed("scp", "huge", now()), "huge", "s");
        huge["data"]["details"]["padding"] = json!("x".repeat(1 << 20));
        let unknown = composed("scp", "unknown", now()).to_string().replace("\"scp\"", "\"szz\"");
        let odd = [b"{\"type\":\"scp\",\"user_id\":\"auth0|\xff\"}".as_slice(), b"{\"\xfe\":"].concat();
        let strange = good("strange").replace("Chrome", "\u{1}").into_bytes();
        let strange: Vec<u8> = strange.into_iter().map(|byte| if byte == 1 { 0xff } else { byte }).collect();
        let cut = good("cut");
        let cut = &cut[..cut.len() - 20];
        let all: Vec<Vec<u8>> = vec![
            good("one").into(),
            b"oops".to_vec(),
            masked.into(),
            huge.to_string().into(),
            unknown.into(),
            strange,
            fixture("auth0/logs/limit_wc.json").to_string().into(),
            good("two").into(),
        ];
        let lines = [&all.join(&b'\n')[..], b"\n", &odd, b"\n", cut.as_bytes()].concat();
        let answer = taken(&gate, lines).await;
        assert_eq!(answer, summary(4, 0, 0, 0, 6), "lines");
        let array = [b"[".as_slice(), &all.join(&b','), b",", cut.as_bytes()].concat();
        let answer = taken(&gate, array).await;
        assert_eq!(answer, summary(0, 0, 4, 0, 5), "array");
        for (number, token) in tokens.iter().enumerate() {
            let answer = gate.call(token).await;
            answer.is(if number < users.len() { 401 } else { 200 }, (number < users.len()).then_some("logged_out"));
        }
        let told = outcomes(&gate).await;
        assert_eq!((&told["malformed"], &told["unknown_kind"], &told["ignored"]), (&json!(7), &json!(2), &json!(2)));
        for nothing in ["", "\n", "[]", "{}", "null", "rubbish", "{\"logs\":[]}"] {
            deliver(&gate, nothing).await.is(200, None);
        }
        let far_too_large = vec![b' '; (4 << 20) + 1];
        deliver(&gate, far_too_large).await.is(413, "too_large");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_and_shuffled_records_count_by_their_own_time() {
    on_both_stores(async |gate| {
        let minutes = |minutes: u64| now().minus(Duration::from_secs(60 * minutes));
        let (blocked, cleared) = ("sapi-user-blocked-dashboard", "sapi-user-unblocked-dashboard");
        let token = gate.token(json!({ "sub": USER, "sid": SESSION }));
        for (name, id, at, verdict_then) in [
            (blocked, "1", minutes(10), "user_blocked"),
            (cleared, "2", minutes(8), "admit"),
            (blocked, "3", minutes(9), "admit"),
            (blocked, "1", minutes(10), "admit"),
            (blocked, "4", minutes(7), "user_blocked"),
            (cleared, "5", minutes(12), "user_blocked"),
        ] {
            taken(&gate, composed(name, id, at).to_string()).await;
            assert_eq!(verdict(&gate, &token).await, verdict_then, "{name} {id}");
        }
        let older = gate.token(json!({ "sub": "auth0|late", "iat": minutes(6).as_secs() }));
        let newer = gate.token(json!({ "sub": "auth0|late", "iat": minutes(4).as_secs() }));
        taken(&gate, of(&composed("scp", "6", minutes(5)), "late", "s").to_string()).await;
        gate.call(&older).await.is(401, "logged_out");
        gate.call(&newer).await.is(200, None);
        let long_ago = of(&composed("scp", "7", minutes(60 * 24 * 60)), "late", "s");
        assert_eq!(taken(&gate, long_ago.to_string()).await, summary(0, 0, 0, 0, 0), "no token is as old");
        assert_eq!(outcomes(&gate).await["outlived"], 1);
    })
    .await;
}

fn some_records() -> String {
    let record = |n: usize| {
        let name = ["scp", "slo-current-schema", "sapi-user-blocked-m2m"][n % 3];
        of(&composed(name, &format!("id{n}"), now()), &format!("user{n}"), &format!("session{n}"))
    };
    lines(&(0..9).map(record).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_comes_again_changes_nothing_after_a_restart_either() {
    let mut gate = setup().start().await;
    let body = some_records();
    assert_eq!(taken(&gate, body.clone()).await, summary(9, 0, 0, 0, 0));
    assert_eq!(taken(&gate, body.clone()).await, summary(0, 0, 9, 0, 0));
    assert_eq!(taken(&gate, format!("{body}\n{body}")).await, summary(0, 0, 18, 0, 0));
    gate.kill_and_restart().await;
    assert_eq!(taken(&gate, body).await, summary(0, 0, 9, 0, 0));
    gate.call(&gate.token(json!({ "sub": "auth0|user2" }))).await.is(401, "user_blocked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_gate_knows_what_was_taken_too() {
    let Some(server) = RedisServer::start() else { return };
    let one = setup().redis(&server.url()).start().await;
    let body = some_records();
    assert_eq!(taken(&one, body.clone()).await, summary(9, 0, 0, 0, 0));
    let other = setup().redis(&server.url()).start().await;
    assert_eq!(taken(&other, body).await, summary(0, 0, 9, 0, 0));
    other.call(&other.token(json!({ "sub": "auth0|user2" }))).await.is(401, "user_blocked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_store_is_down_the_sender_is_asked_to_come_again() {
    let Some(mut server) = RedisServer::start() else { return };
    let gate = setup().redis(&server.url()).max_staleness("60s").start().await;
    for name in ["silent", "dead"] {
        let token = gate.token(json!({ "sub": format!("auth0|{name}"), "sid": "s" }));
        gate.call(&token).await.is(200, None);
        let at = now();
        let body = of(&composed("scp", name, at), name, "s").to_string();
        if name == "dead" {
            server.kill();
        } else {
            server.stop();
        }
        let answer = deliver(&gate, body.clone()).await;
        assert_eq!(answer.is(503, "not_stored").field("retry-after"), Some("1"), "{name}");
        if name == "dead" {
            server.restart();
        } else {
            server.cont();
        }
        eventually("the record is taken", async || deliver(&gate, body.clone()).await.status == 200).await;
        eventually("it is enforced", async || verdict(&gate, &token).await == "logged_out").await;
        assert_eq!(taken(&gate, body).await["duplicates"], 1, "{name}");
        let known = gate.admin().get(&format!("/v1/subjects/main/auth0%7C{name}")).await.json();
        assert_eq!(known["logout"]["at"], at.to_string(), "{name}");
        // An attempt that failed is there too, and may have taken effect unseen.
        let is_change = |line: &Value| {
            let line = line.to_string();
            line.contains(&format!("scp {name}")) && line.contains("\"outcome\":\"changed\"")
        };
        let changes = gate.audit().iter().filter(|line| is_change(line)).count();
        assert!(changes <= 1, "{name}: {changes} changes");
    }
}
