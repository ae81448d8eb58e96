//! The real program, run as people run it: `portcullis serve` on ports of its own.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use http::Method;
use portcullis::clock::{Clock, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    eventually, eventually_within,
    http::{Answer, send, try_send},
    jwks_server::JwksServer,
    keys::TestIssuer,
    openapi::AdminClient,
};

/// The program.
pub(crate) const PORTCULLIS: &str = env!("CARGO_BIN_EXE_portcullis");

/// How long the program may take to come up or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program with a clean environment.
pub(crate) fn program() -> Command {
    let mut command = Command::new(PORTCULLIS);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PORTCULLIS_")) {
        command.env_remove(name);
    }
    // Help is as wide as a terminal; here it has none.
    command.env_remove("COLUMNS");
    command
}

/// What time it is, here and for the gate.
pub(crate) fn now() -> Timestamp {
    Clock::System.now()
}

/// A gate that is to be started.
#[derive(Default)]
pub(crate) struct Setup {
    listener: String,
    admin_token: Option<String>,
    store: Option<String>,
    markers: String,
    level: Option<String>,
    issuer: String,
    keys: Option<String>,
    more: String,
    secrets: Vec<(String, String)>,
}

impl Setup {
    pub(crate) fn admin_token(mut self, token: &str) -> Self {
        self.admin_token = Some(token.to_owned());
        self
    }

    /// Redis instead of the embedded store; markers are believed for long.
    pub(crate) fn redis(mut self, url: &str) -> Self {
        self.store = Some(format!("url = {url:?}\n"));
        self
    }

    pub(crate) fn max_staleness(mut self, duration: &str) -> Self {
        self.markers = format!("[markers]\nmax_staleness = {duration:?}\nwrite_timeout = \"2s\"\n");
        self
    }

    pub(crate) fn drain_delay(mut self, duration: &str) -> Self {
        self.listener = format!("drain_delay = {duration:?}\n");
        self
    }

    pub(crate) fn log_level(mut self, level: &str) -> Self {
        self.level = Some(level.to_owned());
        self
    }

    /// Tokens in a cookie of this name are taken too.
    pub(crate) fn cookie(mut self, name: &str) -> Self {
        self.issuer = format!("cookie = {name:?}\n");
        self
    }

    /// Keys from a URL instead of a file.
    pub(crate) fn jwks_url(mut self, url: &str) -> Self {
        self.keys = Some(format!("jwks_url = {url:?}\n"));
        self
    }

    /// More of the configuration file.
    pub(crate) fn and(mut self, text: &str) -> Self {
        self.more.push_str(text);
        self
    }

    /// A file beside the configuration.
    pub(crate) fn secret(mut self, file: &str, text: &str) -> Self {
        self.secrets.push((file.to_owned(), text.to_owned()));
        self
    }

    /// Starts it, and waits until it is ready.
    pub(crate) async fn start(self) -> Gate {
        let gate = self.start_unready().await;
        gate.wait_until_ready().await;
        gate
    }

    /// Starts it, and waits until it listens.
    pub(crate) async fn start_unready(self) -> Gate {
        let issuer = TestIssuer::new("https://issuer.example/");
        let upstream = JwksServer::start().await;
        upstream.put("/hello", "hello");
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("jwks.json"), issuer.jwks().to_string()).unwrap();
        for (file, text) in &self.secrets {
            fs::write(directory.path().join(file), text).unwrap();
        }
        if let Some(token) = &self.admin_token {
            fs::write(directory.path().join("admin.token"), token).unwrap();
        }
        fs::write(directory.path().join("gate.toml"), self.configuration(&upstream.url(""))).unwrap();
        let running = Running::start(directory.path());
        Gate { running, issuer, admin_token: self.admin_token, _upstream: upstream, directory }
    }

    fn configuration(&self, upstream: &str) -> String {
        let mut text = format!("[listener]\naddress = \"127.0.0.1:0\"\n{}", self.listener);
        text.push_str("[admin]\naddress = \"127.0.0.1:0\"\n");
        if self.admin_token.is_some() {
            text.push_str("token_file = \"admin.token\"\n");
        }
        write!(text, "[store]\n{}", self.store.as_deref().unwrap_or("url = \"embedded:data\"\n")).unwrap();
        text.push_str(&self.markers);
        text.push_str("[activity]\nresolution = \"1s\"\nflush_interval = \"50ms\"\n");
        write!(text, "[log]\nformat = \"json\"\nlevel = {:?}\n", self.level.as_deref().unwrap_or("info")).unwrap();
        text.push_str("[issuers.main]\nissuer = \"https://issuer.example/\"\naudiences = [\"https://api.example\"]\n");
        text.push_str("algorithms = [\"ES256\"]\n");
        text.push_str(self.keys.as_deref().unwrap_or("jwks_file = \"jwks.json\"\n"));
        write!(text, "{}[[routes]]\nname = \"api\"\nupstream = {upstream:?}\n{}", self.issuer, self.more).unwrap();
        text
    }
}

/// A gate that runs. Dropped, it is killed.
pub(crate) struct Gate {
    running: Running,
    pub(crate) issuer: TestIssuer,
    admin_token: Option<String>,
    _upstream: JwksServer,
    directory: TempDir,
}

impl Gate {
    pub(crate) async fn start() -> Self {
        Setup::default().start().await
    }

    pub(crate) fn setup() -> Setup {
        Setup::default()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.address
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.running.admin
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Asks the admin endpoints, with the token if there is one.
    pub(crate) fn admin(&self) -> AdminClient {
        AdminClient::new(self.running.admin, self.admin_token.as_deref())
    }

    /// A token issued now, with further claims or others.
    pub(crate) fn token(&self, claims: Value) -> String {
        let mut all = self.issuer.claims(now().as_secs());
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        self.issuer.token(&all)
    }

    /// A request with this token to the upstream.
    pub(crate) async fn call(&self, token: &str) -> Answer {
        self.request(Method::GET, "/hello", &[("authorization", &format!("Bearer {token}"))]).await
    }

    pub(crate) async fn log_out(&self, token: &str, query: &str) -> Answer {
        let target = format!("/.portcullis/logout{query}");
        self.request(Method::POST, &target, &[("authorization", &format!("Bearer {token}"))]).await
    }

    pub(crate) async fn request(&self, method: Method, target: &str, fields: &[(&str, &str)]) -> Answer {
        send(self.running.address, method, target, fields, "").await
    }

    pub(crate) async fn wait_until_ready(&self) {
        eventually("the gate is ready", async || self.admin().get("/readyz").await.status == 200).await;
    }

    /// Whether anybody answers at the public listener.
    pub(crate) async fn listens(&self) -> bool {
        try_send(self.running.address, Method::GET, "/.portcullis/", &[], "").await.is_ok()
    }

    /// SIGKILL, and a new start on the same directory.
    pub(crate) async fn kill_and_restart(&mut self) {
        self.running.kill();
        self.running = Running::start(self.directory.path());
        self.wait_until_ready().await;
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends it a signal, such as `-STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.running.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// How it ended, once it has.
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.running.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the gate does not end within {PATIENCE:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything that it wrote to standard error so far.
    pub(crate) fn log(&self) -> String {
        self.running.log()
    }

    /// The audit trail so far, line by line.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let lines = self.running.lines.lock().unwrap();
        let parsed = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap_or(json!({})));
        parsed.filter(|line| line["target"] == "portcullis::audit").collect()
    }
}

/// A process of the program. Dropped, it is killed.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Running {
    fn start(directory: &Path) -> Self {
        Self::start_as(program(), &directory.join("gate.toml"), &[])
    }

    /// Starts it by this command, with these variables, and waits until it listens. Its log must be JSON, at `info` or more.
    pub(crate) fn start_as(mut program: Command, config: &Path, variables: &[(String, String)]) -> Self {
        program.envs(variables.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        Self::start_with_stdin(program, config)
    }

    /// The same; what the command's standard input is stays as it is.
    pub(crate) fn start_with_stdin(mut program: Command, config: &Path) -> Self {
        let mut child = program
            .args(["serve", "--config"])
            .arg(config)
            .env_remove("RUST_LOG")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (stderr, sink) = (child.stderr.take().unwrap(), Arc::clone(&lines));
        // Ends with the child, which holds the other end.
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        let mut running = Self { child, address: ([0, 0, 0, 0], 0).into(), admin: ([0, 0, 0, 0], 0).into(), lines };
        running.wait_until_up();
        running
    }

    fn wait_until_up(&mut self) {
        let start = Instant::now();
        loop {
            let up = self.lines.lock().unwrap().iter().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                // It may listen elsewhere, too, or elsewhere only.
                let listener = line["listener"].as_str()?.split(", ").find_map(|address| address.parse().ok());
                Some((listener.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0))), line["admin"].as_str()?.parse().ok()?))
            });
            if let Some(addresses) = up {
                (self.address, self.admin) = addresses;
                return;
            }
            let ended = self.child.try_wait().unwrap();
            let log = self.lines.lock().unwrap().join("\n");
            assert!(ended.is_none() && start.elapsed() < PATIENCE, "the gate does not come up: {ended:?}\n{log}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The id of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it wrote to standard error so far.
    pub(crate) fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Sends it a signal, such as `-TERM`.
    pub(crate) fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.id().to_string()]).status().unwrap().success());
    }

    /// How it ended, once it has.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        let mut status = None;
        eventually_within(PATIENCE, "the gate ends", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
