//! The Actions of `deploy/auth0`, run under Node as Auth0 documents it, against a real gate.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpListener, process::Command, time::timeout};

use crate::support::{
    full::{Gate, Setup, World, now, subject_path},
    keys::AUDIENCE,
};

const READ: &str = "the-token-of-those-who-ask";
const WRITE: &str = "the-token-of-those-who-tell";
const NAMESPACE: &str = "https://acme.example/";

/// A gate that knows the names of the claims.
fn gate(world: &World) -> Setup<'_> {
    world
        .gate()
        .with("LAST_LOGOUT_TOKEN", READ)
        .with("LAST_LOGOUT_WRITE_TOKEN", WRITE)
        .with("ISSUERS_ACME_CLAIMS_SESSION", &format!("{NAMESPACE}sid"))
        .with("ISSUERS_ACME_CLAIMS_SESSION_START", &format!("{NAMESPACE}auth_time"))
}

/// Whether the tests are to do without Node; `tests/run` says so, and why.
fn is_skipped() -> bool {
    let skipped = std::env::var_os("PORTCULLIS_SKIP_NODE").is_some();
    if skipped {
        println!("SKIPPED: Node is not installed");
    }
    skipped
}

/// What an Action did.
#[derive(Debug)]
struct Done(Value);

/// Runs an Action. Nothing it may do breaks a documented limit.
async fn run(action: &str, handler: &str, plan: &str, event: &Value) -> Done {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let input = json!({
        "file": root.join("deploy/auth0").join(action),
        "handler": handler,
        "plan": plan,
        "event": event,
    });
    let mut node = Command::new("node")
        .arg(root.join("tests/node/action.mjs"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("Node 18 or newer is installed; tests/run does that");
    let mut stdin = node.stdin.take().unwrap();
    stdin.write_all(input.to_string().as_bytes()).await.unwrap();
    drop(stdin);
    let output = timeout(Duration::from_secs(60), node.wait_with_output()).await.unwrap().unwrap();
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (what, expected) in [("violations", json!([])), ("dropped", json!([])), ("error", Value::Null)] {
        assert_eq!(done[what], expected, "{done}");
    }
    let logs = done["logs"].to_string();
    assert!(!logs.contains(READ) && !logs.contains(WRITE) && !logs.contains("alice"), "{logs}");
    Done(done)
}

impl Done {
    fn denied(&self) -> Option<&str> {
        self.0["denied"].as_str()
    }

    #[track_caller]
    fn is_denied(&self, why: &str) {
        assert!(self.denied().is_some_and(|reason| reason.contains(why)), "{self:?}");
    }

    /// The access token that Auth0 would issue now.
    #[track_caller]
    fn token(&self, world: &World, sub: &str) -> String {
        assert_eq!(self.denied(), None, "{self:?}");
        let mut claims = json!({ "sid": null, "iat": now().as_secs(), "exp": now().as_secs() + 3600 });
        for (name, value) in self.0["claims"].as_object().unwrap() {
            claims[name] = value.clone();
        }
        world.token(sub, claims)
    }
}

/// A user of Auth0, and what is kept with the refresh token.
struct Login<'w> {
    world: &'w World,
    sub: &'w str,
    plan: &'w str,
    secrets: Value,
}

impl<'w> Login<'w> {
    fn of(world: &'w World, gate: &Gate, sub: &'w str) -> Self {
        let secrets = json!({
            "GATEWAY_URL": format!("http://{}", gate.address),
            "GATEWAY_TOKEN": READ,
            "CLAIM_NAMESPACE": NAMESPACE,
        });
        Self { world, sub, plan: "enterprise", secrets }
    }

    fn secret(mut self, name: &str, value: &str) -> Self {
        self.secrets[name] = json!(value);
        self
    }

    fn on(self, plan: &'w str) -> Self {
        Self { plan, ..self }
    }

    fn event(&self) -> Value {
        json!({
            "secrets": self.secrets,
            "client": { "client_id": "web-app", "metadata": {}, "name": "Web app" },
            "connection": { "id": "con_1", "name": "Username-Password-Authentication", "strategy": "auth0" },
            "request": { "body": {}, "geoip": {}, "ip": "203.0.113.7", "method": "GET", "query": {} },
            "resource_server": { "identifier": AUDIENCE },
            "stats": { "logins_count": 7 },
            "tenant": { "id": "acme" },
            "user": { "user_id": self.sub, "email": "alice@acme.example", "user_metadata": {}, "app_metadata": {} },
        })
    }

    /// A login, or a later token of its session: who proved who they are then, in milliseconds.
    async fn interactive(&self, session: &str, at: i64) -> Done {
        let time = portcullis::clock::Timestamp::from_millis(at).to_string();
        let mut event = self.event();
        event["transaction"] = json!({ "protocol": "oidc-basic-profile", "requested_scopes": [], "ui_locales": [] });
        event["authentication"] = json!({ "methods": [{ "name": "pwd", "timestamp": time }] });
        event["session"] = json!({ "id": session });
        if self.plan == "enterprise" {
            event["session"]["authenticated_at"] = json!(time);
        }
        run("post-login.js", "onExecutePostLogin", self.plan, &event).await
    }

    /// A refresh, with what a login kept.
    async fn refresh(&self, login: Option<&Done>) -> Done {
        let mut event = self.event();
        event["transaction"] = json!({ "protocol": "oauth2-refresh-token", "requested_scopes": [], "ui_locales": [] });
        event["request"] = json!({ "body": { "grant_type": "refresh_token" }, "geoip": {}, "ip": "203.0.113.7", "method": "POST", "query": {} });
        if let Some(login) = login {
            event["refresh_token"] = json!({ "id": "rt_1", "client_id": "web-app", "metadata": login.0["metadata"] });
        }
        run("post-login.js", "onExecutePostLogin", self.plan, &event).await
    }

    fn token(&self, done: &Done) -> String {
        done.token(self.world, self.sub)
    }
}

async fn log_out_everywhere(gate: &Gate, sub: &str) -> i64 {
    let done = gate.change(http::Method::POST, &subject_path(sub, "/logout"), json!({})).await;
    let at: portcullis::clock::Timestamp = done["marker"]["at"].as_str().unwrap().parse().unwrap();
    at.as_millis()
}

async fn worlds() -> Vec<World> {
    let mut worlds = vec![World::embedded().await];
    worlds.extend(World::redis().await);
    worlds
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_say_which_session_they_are_of_and_since_when() {
    if is_skipped() {
        return;
    }
    for world in worlds().await {
        let gate = gate(&world).start().await;
        let login = Login::of(&world, &gate, "auth0|alice");
        let at = now().as_millis() - 60_000;
        for plan in ["enterprise", "free"] {
            let login = Login::of(&world, &gate, "auth0|alice").on(plan);
            let done = login.interactive("s1", at).await;
            let claims = json!({ "https://acme.example/sid": "s1", "https://acme.example/auth_time": at / 1000 });
            assert_eq!(done.0["claims"], claims);
            let metadata = json!({ "portcullis_sid": "s1", "portcullis_auth_time": (at / 1000).to_string() });
            assert_eq!(done.0["metadata"], metadata);
            gate.expect(&login.token(&done), "admit").await;
        }
        let first = login.interactive("s1", at).await;
        let refreshed = login.refresh(Some(&first)).await;
        assert_eq!((&refreshed.0["claims"], &refreshed.0["metadata"]), (&first.0["claims"], &json!({})));
        // The end of the session is the end of what is refreshed in it, and of nothing else.
        let other = login.interactive("s2", at).await;
        gate.log_out(&login.token(&first), "").await;
        gate.expect(&login.token(&login.refresh(Some(&first)).await), "session_ended").await;
        gate.expect(&login.token(&login.refresh(Some(&other)).await), "admit").await;
        gate.instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_logout_everywhere_only_a_new_login_helps() {
    if is_skipped() {
        return;
    }
    for world in worlds().await {
        let gate = gate(&world).start().await;
        let login = Login::of(&world, &gate, "auth0|alice");
        let old = login.interactive("s1", now().as_millis() - 60_000).await;
        gate.expect(&login.token(&old), "admit").await;
        let at = log_out_everywhere(&gate, "auth0|alice").await;
        gate.expect(&login.token(&old), "logged_out").await;

        // Neither a refresh nor a silent login brings it back; and where the plan allows it, both end at Auth0 as well.
        let refreshed = login.refresh(Some(&old)).await;
        refreshed.is_denied("Log in again");
        assert_eq!(refreshed.0["revoked"], json!(["refresh token: The session has ended."]));
        let silent = login.interactive("s1", now().as_millis() - 60_000).await;
        silent.is_denied("Log in again");
        assert_eq!(silent.0["revoked"], json!(["session: The session has ended."]));
        Login::of(&world, &gate, "auth0|alice").on("free").refresh(Some(&old)).await.is_denied("Log in again");

        // A login in the very second of the logout does.
        let again = login.interactive("s2", at).await;
        assert_eq!(again.0["claims"]["last_logout"], at);
        let token = login.token(&again);
        gate.expect(&token, "admit").await;
        gate.expect(&login.token(&login.refresh(Some(&again)).await), "admit").await;
        // And the claim is what it is for: without it, the same token is refused.
        let mut without = again.0.clone();
        without["claims"].as_object_mut().unwrap().remove("last_logout");
        gate.expect(&login.token(&Done(without)), "logged_out").await;
        gate.expect(&world.token("auth0|bob", json!({ "sid": null })), "admit").await;
        gate.instance.stop().await;
    }
}

/// On plans where a refresh says nothing of its login, a logout is in doubt.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_of_an_unknown_login_is_denied_after_a_logout_unless_it_is_allowed() {
    if is_skipped() {
        return;
    }
    let world = World::embedded().await;
    let gate = gate(&world).start().await;
    let login = Login::of(&world, &gate, "auth0|alice").on("free");
    gate.expect(&login.token(&login.refresh(None).await), "admit").await;
    log_out_everywhere(&gate, "auth0|alice").await;
    let denied = login.refresh(None).await;
    denied.is_denied("Log in again");
    assert_eq!(denied.0["revoked"], json!([]));
    let allowing = Login::of(&world, &gate, "auth0|alice").on("free").secret("WITHOUT_LOGIN_TIME", "allow");
    gate.expect(&allowing.token(&allowing.refresh(None).await), "admit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_users_get_no_token() {
    if is_skipped() {
        return;
    }
    let world = World::embedded().await;
    let gate = gate(&world).start().await;
    let login = Login::of(&world, &gate, "auth0|alice").secret("GATEWAY_ISSUER", "acme");
    let before = login.interactive("s1", now().as_millis()).await;
    gate.change(http::Method::PUT, &subject_path("auth0|alice", "/block"), json!({})).await;
    login.interactive("s2", now().as_millis()).await.is_denied("blocked");
    login.refresh(Some(&before)).await.is_denied("blocked");
    gate.change(http::Method::DELETE, &subject_path("auth0|alice", "/block"), json!({})).await;
    assert_eq!(login.interactive("s3", now().as_millis()).await.denied(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_gate_tokens_are_issued_or_not_as_the_secret_says() {
    if is_skipped() {
        return;
    }
    let world = World::embedded().await;
    let gate = gate(&world).start().await;
    // Takes connections, and says nothing.
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hanging = format!("http://{}", hanging.local_addr().unwrap());
    // Answers, but with something else.
    let other = world.keys.url("");
    world.keys.put("/.portcullis/last-logout", r#"{"last_logout":"yesterday","blocked":0}"#);
    let cases = [
        ("GATEWAY_URL", "http://127.0.0.1:1"),
        ("GATEWAY_URL", &*hanging),
        ("GATEWAY_URL", &*other),
        ("GATEWAY_URL", "not a URL"),
        ("GATEWAY_TOKEN", "wrong"),
        ("GATEWAY_ISSUER", "unknown"),
    ];
    let at = now().as_millis();
    for (secret, value) in cases {
        let login = || Login::of(&world, &gate, "auth0|alice").secret(secret, value);
        let begun = Instant::now();
        let open = login().interactive("s1", at).await;
        assert!(open.0["took"].as_i64().unwrap() < 3000 && begun.elapsed() < Duration::from_secs(30), "{open:?}");
        // Session and login time are there all the same: the gate itself judges by them.
        assert_eq!(
            open.0["claims"],
            json!({ "https://acme.example/sid": "s1", "https://acme.example/auth_time": at / 1000 })
        );
        assert_eq!(open.0["logs"].as_array().unwrap().len(), 1, "{open:?}");
        gate.expect(&login().token(&open), "admit").await;
        let closed = login().secret("WHEN_UNREACHABLE", "closed").interactive("s1", at).await;
        closed.is_denied("cannot be had");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_changes_the_password_is_logged_out_everywhere() {
    if is_skipped() {
        return;
    }
    for world in worlds().await {
        let gate = gate(&world).start().await;
        let login = Login::of(&world, &gate, "auth0|alice");
        let old = login.token(&login.interactive("s1", now().as_millis() - 60_000).await);
        let bob = world.token("auth0|bob", json!({ "sid": null }));
        gate.expect(&old, "admit").await;
        let event = |url: &str| {
            json!({
                "secrets": { "GATEWAY_URL": url, "GATEWAY_WRITE_TOKEN": WRITE },
                "connection": { "id": "con_1", "name": "Username-Password-Authentication", "strategy": "auth0" },
                "request": { "geoip": {}, "ip": "203.0.113.7", "method": "POST" },
                "tenant": { "id": "acme" },
                "user": { "user_id": "auth0|alice", "email": "alice@acme.example", "last_password_reset": "2026-11-26T09:00:00.000Z" },
            })
        };
        let handler = "onExecutePostChangePassword";
        let done = run("post-change-password.js", handler, "free", &event(&format!("http://{}", gate.address))).await;
        assert_eq!(done.0["logs"], json!([]));
        gate.expect(&old, "logged_out").await;
        gate.expect(&bob, "admit").await;
        let again = login.interactive("s2", now().as_millis()).await;
        gate.expect(&login.token(&again), "admit").await;

        let failed = run("post-change-password.js", handler, "free", &event("http://127.0.0.1:1")).await;
        assert_eq!(failed.0["logs"].as_array().unwrap().len(), 3, "{failed:?}");
        gate.instance.stop().await;
    }
}
