//! Starting, checking, and the demo.

use std::{fs, path::PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::{feed, run};
use crate::support::{
    auth0::{Auth0, CLIENT_ID, CLIENT_SECRET},
    keys::TestIssuer,
    program::{Gate, program},
};

/// A directory with a configuration.
struct Configured {
    directory: TempDir,
    file: PathBuf,
}

impl Configured {
    /// With a section for `[admin]` and one for the issuer's keys.
    fn new(admin: &str, keys: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gate.toml");
        let jwks = TestIssuer::new("https://issuer.example/").jwks().to_string();
        fs::write(directory.path().join("jwks.json"), jwks).unwrap();
        let text = format!(
            "[listener]\naddress = \"127.0.0.1:0\"\n[admin]\n{admin}\n[store]\nurl = \"embedded:data\"\n\
             [issuers.main]\nissuer = \"https://issuer.example/\"\naudiences = [\"x\"]\nalgorithms = [\"ES256\"]\n{keys}\n\
             [[routes]]\nupstream = \"http://127.0.0.1:1\"\n"
        );
        fs::write(&file, text).unwrap();
        Self { directory, file }
    }

    fn good() -> Self {
        Self::new("address = \"127.0.0.1:0\"", "jwks_file = \"jwks.json\"")
    }

    fn path(&self) -> &str {
        self.file.to_str().unwrap()
    }
}

fn levels(findings: &Value) -> Vec<(&str, &str)> {
    findings["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| (finding["level"].as_str().unwrap(), finding["what"].as_str().unwrap()))
        .collect()
}

#[test]
fn the_demo_tells_its_story() {
    let told = run(&["demo", "--once"]);
    told.ends_with(0);
    for words in [
        "a valid token is admitted",
        "401 session_ended",
        "401 logged_out",
        "a login after that is admitted, in the same second too",
        "401 user_blocked",
        "an unblocked user is admitted again",
        "last activity is known",
        "all as it should be",
    ] {
        told.says(words);
    }
    assert_eq!(told.err, "", "nothing went wrong");
}

#[test]
fn the_demo_of_inactive_users_blocks_some_and_takes_it_back() {
    let told = run(&["demo", "--inactive", "--once"]);
    told.ends_with(0);
    for words in [
        "20000 users of demo that the issuer knows",
        "recording is not complete. They are not blocked.",
        "150 would be blocked; nothing was changed, --apply does it",
        "blocked 150; the report is ",
        "unblocked 150",
    ] {
        told.says(words);
    }
    told.complains("blocking: 0 of 150");
}

#[test]
fn what_is_good_is_found_good() {
    let config = Configured::good();
    run(&["check", "--config", config.path()]).ends_with(0).says("ok").says("issuer `main`").says("1 usable key");
    let found = run(&["check", "--config", config.path(), "--output", "json"]).ends_with(0).json();
    assert_eq!(found["ok"], true);
    assert_eq!(levels(&found), [("ok", "configuration"), ("ok", "issuer `main`"), ("ok", "store")]);
}

#[tokio::test]
async fn a_problem_is_found() {
    let config = Configured::new("address = \"127.0.0.1:0\"", "jwks_file = \"nowhere.json\"");
    run(&["check", "--config", config.path()]).ends_with(3).says("PROBLEM  issuer `main`").says("nowhere.json");
    let found = run(&["check", "--config", config.path(), "--output", "json"]).ends_with(3).json();
    assert_eq!(found["ok"], false);
    assert_eq!(levels(&found)[1], ("problem", "issuer `main`"));
    // Without asking anybody, there is none.
    run(&["check", "--offline", "--config", config.path()]).ends_with(0);
    let found = run(&["check", "--offline", "--config", config.path(), "--output", "json"]).ends_with(0).json();
    assert_eq!(levels(&found), [("ok", "configuration")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_that_are_asked_are_asked() {
    let auth0 = Auth0::start().await;
    let config = Configured::good();
    let secret = config.directory.path().join("client.secret");
    fs::write(&secret, CLIENT_SECRET).unwrap();
    let source = |name: &str, kind: &str| {
        let domain = auth0.base();
        format!(
            "[sources.{name}]\ntype = \"{kind}\"\ndomain = \"{domain}\"\nclient_id = \"{CLIENT_ID}\"\n\
             client_secret_file = \"client.secret\"\n"
        )
    };
    let text = fs::read_to_string(&config.file).unwrap();
    let sources = source("log", "auth0_logs") + &source("users", "auth0_events");
    fs::write(&config.file, text + &sources).unwrap();
    let check = || run(&["check", "--config", config.path()]);

    let found = check();
    found
        .ends_with(0)
        .says("1 issuers, 1 routes, 2 sources")
        .says("ok       source `log`: the tenant lets its log be read");
    found.says("ok       source `users`");
    auth0.grant(&["read:events"]);
    let found = check();
    found.ends_with(3).says("PROBLEM  source `log`").says("grant it read:logs").says("ok       source `users`");
    fs::write(&secret, "another").unwrap();
    let found = check();
    found.ends_with(3).says("PROBLEM  source `log`: the tenant refuses the client").says("PROBLEM  source `users`");
    assert!(!found.out.contains("another"));
}

#[test]
fn a_key_set_without_keys_is_a_problem() {
    let config = Configured::good();
    fs::write(config.directory.path().join("jwks.json"), "{\"keys\": []}").unwrap();
    run(&["check", "--config", config.path()]).ends_with(3).says("PROBLEM  issuer `main`");
}

#[tokio::test]
async fn a_running_gate_does_not_trouble_a_check() {
    let gate = Gate::start().await;
    let config = gate.directory().join("gate.toml");
    let found = run(&["check", "--config", config.to_str().unwrap()]);
    found.ends_with(0).says("warning  store").says("a running gate is most likely the one");
}

#[test]
fn a_store_that_is_down_is_a_problem() {
    let config = Configured::good();
    let text = fs::read_to_string(&config.file).unwrap().replace("embedded:data", "redis://127.0.0.1:1/");
    fs::write(&config.file, text).unwrap();
    run(&["check", "--config", config.path()]).ends_with(3).says("PROBLEM  store");
}

#[test]
fn a_wrong_configuration_is_told_with_file_and_line() {
    let config = Configured::good();
    let text = fs::read_to_string(&config.file).unwrap().replace("upstream =", "upstraem =");
    fs::write(&config.file, text).unwrap();
    let place = format!("{}:13:1: routes[0].upstraem", config.path());
    for command in [&["serve"][..], &["check"], &["check", "--offline"], &["status"], &["logout", "alice"]] {
        let ran = run(&[command, &["--config", config.path()]].concat());
        ran.ends_with(2).complains(&place).complains("upstraem").complains("did you mean");
        assert_eq!(ran.out, "");
    }
    run(&["serve", "--config", "/nowhere/gate.toml"]).ends_with(2).complains("/nowhere/gate.toml");
    let mut command = program();
    command.env("PORTCULLIS_CONFIG", "/elsewhere.toml").arg("check");
    feed(command, "").ends_with(2).complains("/elsewhere.toml");
    let mut command = program();
    let config = Configured::good();
    command.env("PORTCULLIS_LISTENER_ADDRESS", "nowhere").args(["check", "--offline", "--config", config.path()]);
    feed(command, "").ends_with(2).complains("PORTCULLIS_LISTENER_ADDRESS");
}

/// The demo says: export this. Every command has to live with it.
#[test]
fn the_variables_of_the_command_line_are_no_settings() {
    let config = Configured::good();
    let mut command = program();
    command.env("PORTCULLIS_ADMIN_URL", "http://127.0.0.1:1").env("PORTCULLIS_CONFIG", config.path());
    command.args(["check", "--offline"]);
    feed(command, "").ends_with(0);
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_no_reason_to_panic() {
    use std::os::unix::ffi::OsStrExt as _;

    let config = Configured::good();
    let mut command = program();
    command.env("NOISE", std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    command.args(["check", "--offline", "--config", config.path()]);
    feed(command, "").ends_with(0);
}

#[test]
fn a_public_admin_address_needs_a_token() {
    for address in ["0.0.0.0:0", "[::]:0", "10.1.2.3:9090"] {
        let config = Configured::new(&format!("address = \"{address}\""), "jwks_file = \"jwks.json\"");
        for command in ["serve", "check"] {
            run(&[command, "--config", config.path()]).ends_with(2).complains("there is no token");
        }
    }
    let config = Configured::new("address = \"0.0.0.0:0\"\ntoken_file = \"token\"", "jwks_file = \"jwks.json\"");
    fs::write(config.directory.path().join("token"), "open-sesame-open-sesame\n").unwrap();
    run(&["check", "--offline", "--config", config.path()]).ends_with(0);
}

#[tokio::test]
async fn what_should_be_looked_at_is_told() {
    let config = Configured::new("address = \"127.0.0.1:0\"\ntoken_file = \"token\"", "jwks_file = \"jwks.json\"");
    fs::write(config.directory.path().join("token"), "short").unwrap();
    let found = run(&["check", "--offline", "--config", config.path()]);
    found.ends_with(0).says("warning  configuration").says("can be guessed").says("openssl rand");
    assert!(!found.out.contains("short\n") && !found.err.contains("short\n"), "the secret was printed");
    let gate = Gate::setup().admin_token("short").start().await;
    assert!(gate.log().contains("can be guessed"), "{}", gate.log());
}

#[tokio::test]
async fn an_address_that_is_taken_is_told() {
    let gate = Gate::start().await;
    let config = Configured::new(&format!("address = \"{}\"", gate.admin_address()), "jwks_file = \"jwks.json\"");
    run(&["serve", "--config", config.path()])
        .ends_with(1)
        .complains(&format!("cannot listen on {}", gate.admin_address()));
}

/// One directory, one gate.
#[tokio::test]
async fn a_data_directory_that_is_taken_is_told() {
    let gate = Gate::start().await;
    let config = gate.directory().join("gate.toml");
    run(&["serve", "--config", config.to_str().unwrap()]).ends_with(1).complains("embedded store does not open");
}
