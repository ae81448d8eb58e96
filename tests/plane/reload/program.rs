//! The real program: SIGHUP, the command line, the log.

use std::fs;

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    eventually,
    program::{Gate, program},
};

fn write(gate: &Gate, change: impl Fn(String) -> String) {
    let file = gate.directory().join("gate.toml");
    fs::write(&file, change(fs::read_to_string(&file).unwrap())).unwrap();
}

/// The lines of the log whose message begins so.
fn logged(gate: &Gate, message: &str) -> Vec<Value> {
    let lines = gate.log();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"].as_str().is_some_and(|found| found.starts_with(message))).collect()
}

/// Runs `portcullis reload` against the gate: its exit code, and what it printed.
fn reload(gate: &Gate, more: &[&str]) -> (i32, String) {
    let output =
        program().args(["reload", "--admin", &format!("http://{}", gate.admin_address())]).args(more).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout) + &text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reloads_and_the_log_tells_all() {
    let gate = Gate::setup().and("scopes = [\"openid\"]\n").start().await;
    write(&gate, |text| format!("reload = \"signal\"\n{text}"));
    gate.signal("-HUP");
    eventually("the hangup is heard", async || logged(&gate, "configuration reloaded").len() == 1).await;
    let token = gate.token(json!({}));
    gate.call(&token).await.is(200, None);

    write(&gate, |text| text.replace("openid", "nobody"));
    gate.signal("-HUP");
    eventually("the scopes apply", async || gate.call(&token).await.status == 403).await;
    eventually("the second is told", async || logged(&gate, "configuration reloaded").len() == 2).await;
    let line = &logged(&gate, "configuration reloaded")[1];
    assert_eq!((&line["trigger"], &line["keys"]), (&json!("signal"), &json!("routes[0].scopes")));

    write(&gate, |text| text.replace("nobody", "openid").replace("[store]", "[stores]"));
    gate.signal("-HUP");
    eventually("the mistake is told", async || logged(&gate, "configuration not reloaded").len() == 1).await;
    let told = &logged(&gate, "unknown key")[0];
    assert_eq!(told["level"], "ERROR");
    assert_eq!(told["key"], "stores");
    assert!(told["place"].as_str().unwrap().contains("gate.toml:"), "{told}");
    assert_eq!(told["hint"], "did you mean `store`?");
    gate.call(&token).await.is(403, "insufficient_scope");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_what_came_of_it() {
    let gate = Gate::setup().and("scopes = [\"openid\"]\n").start().await;
    write(&gate, |text| format!("reload = \"signal\"\n{text}"));
    // It may have been noticed already.
    assert_eq!(reload(&gate, &[]).0, 0);
    assert_eq!(reload(&gate, &[]), (0, "the gate runs by this configuration already\n".to_owned()));
    write(&gate, |text| text.replace("openid", "email"));
    assert_eq!(reload(&gate, &[]), (0, "reloaded; changed: routes[0].scopes\n".to_owned()));
    write(&gate, |text| text.replace("embedded:data", "embedded:elsewhere"));
    let (code, printed) = reload(&gate, &[]);
    assert_eq!(code, 3, "{printed}");
    assert!(printed.contains(": store.url: needs a restart"), "{printed}");
    assert!(printed.contains("hint: restart the gate, or take this change back"), "{printed}");
    let (code, printed) = reload(&gate, &["--output", "json"]);
    let report: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((code, &report["outcome"]), (3, &json!("refused")));
    write(&gate, |text| {
        text.replace("embedded:elsewhere", "embedded:data").replace("reload = \"signal\"", "reload = \"off\"")
    });
    assert_eq!(reload(&gate, &[]).0, 0);
    let (code, printed) = reload(&gate, &[]);
    assert_eq!(code, 1);
    assert!(printed.contains("reload = \"off\""), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_logged_changes() {
    let gate = Gate::setup().start().await;
    let token = gate.token(json!({}));
    gate.call(&token).await.is(200, None);
    assert!(logged(&gate, "request").is_empty());
    write(&gate, |text| text.replace("level = \"info\"", "level = \"debug\"\naccess = true"));
    assert_eq!(reload(&gate, &[]).0, 0);
    gate.request(Method::GET, "/hello", &[]).await.is(401, "missing_token");
    eventually("the request is logged", async || logged(&gate, "request").len() == 1).await;
    assert!(gate.log().contains("\"level\":\"DEBUG\""));
    write(&gate, |text| {
        text.replace("access = true", "access = false").replace("level = \"debug\"", "level = \"error\"")
    });
    assert_eq!(reload(&gate, &[]).0, 0);
    let before = gate.log().lines().count();
    gate.request(Method::GET, "/hello", &[]).await.is(401, "missing_token");
    assert_eq!(gate.log().lines().count(), before);
}
