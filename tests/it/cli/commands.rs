//! Commands that ask a running gate.

use std::{
    fs,
    io::Read as _,
    net::TcpListener,
    process::{Command, Stdio},
};

use serde_json::json;

use super::{ask, feed, run, towards};
use crate::support::{eventually, program::Gate};

const USER: &str = "auth0|alice";

#[tokio::test]
async fn a_user_is_logged_out_blocked_and_unblocked() {
    let gate = Gate::start().await;
    let token = gate.token(json!({}));
    gate.call(&token).await.is(200, None);
    let block = ask(&gate, &["block", USER, "--reason", "fraud", "--until", "2036-12-31T00:00:00Z"]);
    block.ends_with(0).says("block:main:auth0|alice").says("fraud").says("2036-12-31T00:00:00.000Z");
    gate.call(&token).await.is(401, "user_blocked");
    ask(&gate, &["status", USER]).ends_with(0).says("block.blocked").says("cli:ops");

    let unblock = ask(&gate, &["unblock", USER, "--output", "json"]);
    let unblock = unblock.ends_with(0).json();
    assert_eq!((&unblock["changed"], &unblock["marker"]["blocked"]), (&json!(true), &json!(false)));
    gate.call(&token).await.is(200, None);

    ask(&gate, &["logout", USER, "--issuer", "main", "--reason", "lost laptop"]).ends_with(0).says("lost laptop");
    gate.call(&token).await.is(401, "logged_out");
    let status = ask(&gate, &["--output", "json", "status", USER]).ends_with(0).json();
    assert_eq!((&status["subject"], &status["logout"]["by"]), (&json!(USER), &json!("cli:ops")));
    eventually("three changes are in the audit trail", async || gate.audit().len() == 3).await;
}

#[tokio::test]
async fn the_health_of_the_gate_is_shown() {
    let gate = Gate::start().await;
    ask(&gate, &["status"]).ends_with(0).says("status").says("ready").says("issuers.main.keys");
    assert_eq!(ask(&gate, &["status", "--output", "json"]).ends_with(0).json()["status"], "ready");

    let draining = Gate::setup().drain_delay("1h").start().await;
    draining.terminate();
    eventually("it drains", async || draining.admin().get("/readyz").await.status == 503).await;
    ask(&draining, &["status"]).ends_with(3).says("not_ready");
}

#[tokio::test]
async fn a_verdict_is_explained_without_its_token() {
    let gate = Gate::start().await;
    let token = gate.token(json!({ "sid": "s1" }));
    let admitted = ask(&gate, &["explain", &token]);
    admitted.ends_with(0).says("route api").says("verdict: admit");
    let piped = feed(explain(&gate, &["-", "--output", "json"]), &format!("  Bearer {token}\n"));
    assert_eq!(piped.ends_with(0).json()["verdict"], "admit");

    ask(&gate, &["block", USER]).ends_with(0);
    let refused = ask(&gate, &["explain", "--route", "api", &token]);
    refused.ends_with(3).says("YES: user_blocked").says("verdict: user_blocked");
    assert_eq!(ask(&gate, &["explain", &token, "--output", "json"]).ends_with(3).json()["passes"], false);
    let forged = ask(&gate, &["explain", &format!("{token}x")]);
    forged.ends_with(3).says("because:").says("verdict: invalid_token");
    let unknown = ask(&gate, &["explain", &token, "--route", "nowhere"]);
    unknown.ends_with(1).complains("there is no such route; there are: api");
    feed(explain(&gate, &["-"]), "\n").ends_with(1).complains("there is no token");

    let far = run(&["explain", &token, "--admin", "http://127.0.0.1:1"]);
    far.ends_with(1);
    for ran in [admitted, piped, refused, forged, unknown, far] {
        assert!(!ran.out.contains(&token[..40]) && !ran.err.contains(&token[..40]), "a token was printed");
    }
    assert!(!gate.log().contains(&token[..40]), "a token was logged");
}

fn explain(gate: &Gate, arguments: &[&str]) -> Command {
    let mut command = towards(gate);
    command.arg("explain").args(arguments);
    command
}

#[tokio::test]
async fn several_issuers_have_to_be_told_apart() {
    let gate = Gate::setup()
        .and("[issuers.partner]\nissuer = \"https://partner.example/\"\naudiences = [\"x\"]\njwks_file = \"jwks.json\"\n")
        .and("algorithms = [\"ES256\"]\n")
        .start()
        .await;
    ask(&gate, &["logout", USER]).ends_with(1).complains("give --issuer NAME; one of: main, partner");
    ask(&gate, &["logout", USER, "--issuer", "partner"]).ends_with(0).says("logout:partner:auth0|alice");
    ask(&gate, &["block", USER, "--issuer", "other"]).ends_with(1).complains("configured are: main, partner");
    ask(&gate, &["block", USER, "--issuer", "main", "--until", "soon"]).ends_with(1).complains("`until` must be");
}

#[tokio::test]
async fn the_admin_token_comes_from_a_file_a_variable_or_the_configuration() {
    let gate = Gate::setup().admin_token("open-sesame-open-sesame").start().await;
    let wrong = ask(&gate, &["status", USER]);
    wrong.ends_with(1).complains("the admin token is missing or wrong");
    wrong.complains("PORTCULLIS_ADMIN_TOKEN or --token-file");
    let file = gate.directory().join("admin.token");
    ask(&gate, &["status", USER, "--token-file", file.to_str().unwrap()]).ends_with(0);
    let mut command = towards(&gate);
    command.env("PORTCULLIS_ADMIN_TOKEN", "open-sesame-open-sesame").args(["status", USER]);
    feed(command, "").ends_with(0);
    let mut command = towards(&gate);
    command.env("PORTCULLIS_ADMIN_TOKEN", "open-sesame-open-sesamf").args(["status", USER]);
    let wrong = feed(command, "");
    wrong.ends_with(1).complains("the gate answered 401");
    assert!(!wrong.err.contains("sesam"), "the secret was printed");
    ask(&gate, &["status", USER, "--token-file", "/nowhere"]).ends_with(1).complains("cannot be read from `/nowhere`");

    // With the address of the gate in the file, nothing else is needed.
    let text = fs::read_to_string(gate.directory().join("gate.toml")).unwrap();
    let text = text.replacen(
        "[admin]\naddress = \"127.0.0.1:0\"",
        &format!("[admin]\naddress = \"{}\"", gate.admin_address()),
        1,
    );
    let config = gate.directory().join("client.toml");
    fs::write(&config, text).unwrap();
    run(&["status", USER, "--config", config.to_str().unwrap()]).ends_with(0).says(USER);
}

#[test]
fn a_gate_that_does_not_run_is_told() {
    // Bound and not listening: nobody answers there, and nobody else takes it.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    drop(taken);
    let admin = format!("http://{address}");
    for command in [&["logout", USER][..], &["block", USER], &["unblock", USER], &["status"], &["explain", "x"]] {
        let ran = run(&[command, &["--admin", &admin]].concat());
        ran.ends_with(1).complains(&format!("no gate answers at {admin}")).complains("is it running?");
    }
}

#[test]
fn an_address_that_is_no_url_is_told() {
    for url in ["127.0.0.1:9090", "https://127.0.0.1:9090", "gate"] {
        run(&["status", "--admin", url]).ends_with(1).complains("is not the URL of an admin listener");
    }
}

/// `portcullis status | head -0`
#[tokio::test]
async fn a_closed_pipe_is_no_error() {
    let gate = Gate::start().await;
    for arguments in [&["status"][..], &["completions", "bash"], &["--help"], &["status", "--output", "json"]] {
        let mut child = towards(&gate).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut complaint = String::new();
        child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success() && complaint.is_empty(), "{arguments:?}: {status} {complaint}");
    }
}
