//! `portcullis replay` and `portcullis sources`, against a gate that runs.

use std::{fs, io::Write as _};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use crate::{
    cli::run,
    support::program::{Gate, now},
};

const SOURCES: &str = "[sources.log]\ntype = \"auth0_log_stream\"\nauthorization_file = \"log.secret\"\n\
                       [sources.back]\ntype = \"backchannel_logout\"\naudiences = [\"app\"]\n";

async fn gate() -> Gate {
    Gate::setup().secret("log.secret", "the sender of the log").and(SOURCES).start().await
}

fn records(count: usize) -> Vec<Value> {
    let record = |n: usize| {
        let (kind, user) =
            if n.is_multiple_of(10) { ("scp", format!("auth0|{n}")) } else { ("s", format!("auth0|{}", n % 7)) };
        json!({ "type": kind, "date": now().to_string(), "user_id": user, "log_id": format!("log-{n}") })
    };
    (0..count).map(record).collect()
}

/// Runs the program with the gate's own configuration.
fn portcullis(gate: &Gate, arguments: &[&str]) -> crate::cli::Ran {
    let config = gate.directory().join("gate.toml").display().to_string();
    let admin = format!("http://{}", gate.admin_address());
    let mut all = vec!["--config", &config];
    all.extend(arguments);
    if !arguments.contains(&"replay") || arguments.contains(&"--apply") {
        all.extend(["--admin", &admin]);
    }
    run(&all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_it_says_what_would_come_of_it_then_does_it_and_again_does_nothing() {
    let gate = gate().await;
    let logged_out = gate.token(json!({ "sub": "auth0|30", "sid": "s" }));
    let file = gate.directory().join("export.json");
    fs::write(&file, json!(records(1200)).to_string()).unwrap();
    let file = file.display().to_string();

    let dry = portcullis(&gate, &["replay", &file, "--source", "log"]);
    dry.ends_with(0)
        .says("1200 records, from ")
        .says("120  scp")
        .says("logout")
        .says("1080  s ")
        .says("nothing was changed");
    gate.call(&logged_out).await.is(200, None);

    let applied = portcullis(&gate, &["replay", &file, "--source", "log", "--apply"]);
    applied.ends_with(0).says("applied: ").says("changed 120").says("duplicates 0").says("records 1200");
    gate.call(&logged_out).await.is(401, "logged_out");
    gate.call(&gate.token(json!({ "sub": "auth0|1", "sid": "t" }))).await.is(200, None);

    portcullis(&gate, &["replay", &file, "--source", "log", "--apply"])
        .ends_with(0)
        .says("changed 0")
        .says("duplicates 1200");
    let json = portcullis(&gate, &["replay", &file, "--source", "log", "--apply", "--output", "json"]);
    let json: Value = serde_json::from_str(&json.ends_with(0).out).unwrap();
    assert_eq!((&json["records"]["count"], &json["applied"]["duplicates"]), (&json!(1200), &json!(1200)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_are_taken_in_every_form() {
    let gate = gate().await;
    let records = records(30);
    let lines = records.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(lines.as_bytes()).unwrap();
    let wrapped: Vec<Value> =
        records.iter().map(|record| json!({ "log_id": record["log_id"], "data": record })).collect();
    for (name, bytes) in [
        ("lines.json", lines.clone().into_bytes()),
        ("lines.json.gz", packed.finish().unwrap()),
        ("array.json", format!("{:#}", json!(records)).into_bytes()),
        ("object.json", json!({ "logs": wrapped }).to_string().into_bytes()),
        ("truncated.json", json!(records).to_string().into_bytes()[..2500].to_vec()),
    ] {
        let file = gate.directory().join(name);
        fs::write(&file, bytes).unwrap();
        let ran = portcullis(&gate, &["replay", &file.display().to_string(), "--source", "log"]);
        let ran = ran.ends_with(0);
        if name == "truncated.json" {
            ran.says("malformed");
        } else {
            ran.says("30 records").says("3  scp");
            assert!(!ran.out.contains("malformed"), "{name}: {}", ran.out);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_replayed_is_told() {
    let gate = gate().await;
    let file = gate.directory().join("export.json");
    fs::write(&file, json!(records(1)).to_string()).unwrap();
    let file = file.display().to_string();
    portcullis(&gate, &["replay", &file, "--source", "lug"]).ends_with(1).complains("configured are: log, back");
    portcullis(&gate, &["replay", &file, "--source", "back"]).ends_with(1).complains("signed for one delivery");
    portcullis(&gate, &["replay", "/nowhere", "--source", "log"]).ends_with(1).complains("cannot be opened");
    gate.admin().send(http::Method::POST, "/v1/sources/back/events", "[]").await.is(409, "not_replayable");
    gate.admin().send(http::Method::POST, "/v1/sources/lug/events", "[]").await.is(404, "no_source");
    let large = vec![b' '; 4 * 1024 * 1024 + 1];
    gate.admin().send(http::Method::POST, "/v1/sources/log/events", large).await.is(413, "too_large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_are_shown_with_what_became_of_their_records() {
    let gate = gate().await;
    let shown = portcullis(&gate, &["sources"]);
    shown.ends_with(0).says("NAME").says("log").says("auth0_log_stream").says("back").says("listening");
    let answer = gate.admin().send(http::Method::POST, "/v1/sources/log/events", json!(records(20)).to_string()).await;
    assert_eq!(answer.is(200, None).json()["changed"], 2);
    portcullis(&gate, &["sources"]).ends_with(0).says("changed 2").says("active 7");
    let url = "/.portcullis/events/log";
    gate.request(http::Method::POST, url, &[("authorization", "another")]).await.is(401, "unauthorized");
    portcullis(&gate, &["sources"]).ends_with(0).says("turned_away 1").says("log: turned away: ").says("credential");
    let ready = gate.admin().get("/readyz").await.json();
    assert_eq!(ready["sources"][0]["events"]["changed"], 2, "{ready}");
    let metrics = gate.admin().get("/metrics").await;
    let expected = "portcullis_source_events_total{source=\"log\",outcome=\"changed\"} 2";
    assert!(metrics.text().contains(expected), "{}", metrics.text());
}
