//! A whole installation in this process: an issuer with a key server, an API, a store, and gates in front of it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use portcullis::{
    clock::{Clock, Timestamp},
    config::Config,
    instance::Instance,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    client::{Client, Reply},
    eventually,
    jwks_server::JwksServer,
    keys::{AUDIENCE, TestIssuer},
    redis::RedisServer,
    upstream::TestUpstream,
};

/// Where its key set is on the key server.
pub(crate) const KEYS: &str = "/jwks";

/// How much longer than its bound anything may take on a busy machine.
pub(crate) const MARGIN: Duration = Duration::from_millis(1500);

/// What gates share.
pub(crate) struct World {
    pub(crate) issuer: TestIssuer,
    pub(crate) keys: JwksServer,
    pub(crate) upstream: TestUpstream,
    pub(crate) store: Backing,
}

/// The store of a [`World`].
pub(crate) enum Backing {
    Embedded(TempDir),
    Redis(RedisServer),
    /// Whatever is at this URL.
    Url(String),
}

impl World {
    /// One with an embedded store, for one gate.
    pub(crate) async fn embedded() -> Self {
        Self::new(Backing::Embedded(tempfile::tempdir().unwrap())).await
    }

    /// One with a Redis, for any number of gates. `None`: to be skipped.
    pub(crate) async fn redis() -> Option<Self> {
        Some(Self::new(Backing::Redis(RedisServer::start()?)).await)
    }

    /// One with what is at this URL, for any number of gates.
    pub(crate) async fn at(url: String) -> Self {
        Self::new(Backing::Url(url)).await
    }

    /// One with this Redis.
    pub(crate) async fn with(server: RedisServer) -> Self {
        Self::new(Backing::Redis(server)).await
    }

    async fn new(store: Backing) -> Self {
        let issuer = TestIssuer::new("https://issuer.example/");
        let keys = JwksServer::start().await;
        keys.put(KEYS, issuer.jwks().to_string());
        Self { issuer, keys, upstream: TestUpstream::start().await, store }
    }

    /// The Redis of this world.
    pub(crate) fn server(&self) -> &RedisServer {
        match &self.store {
            Backing::Redis(server) => server,
            Backing::Embedded(_) | Backing::Url(_) => panic!("this world has no Redis of its own"),
        }
    }

    pub(crate) fn server_mut(&mut self) -> &mut RedisServer {
        match &mut self.store {
            Backing::Redis(server) => server,
            Backing::Embedded(_) | Backing::Url(_) => panic!("this world has no Redis of its own"),
        }
    }

    /// Runs a command past all gates.
    #[track_caller]
    pub(crate) fn command<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        redis::cmd(command[0]).arg(&command[1..]).query(&mut self.server().client()).unwrap()
    }

    /// A gate that is to be started.
    pub(crate) fn gate(&self) -> Setup<'_> {
        Setup { world: self, variables: Vec::new(), route: String::new() }
    }

    /// A token of `sub`, issued 30 s ago for an hour, with a session of its own, and with these claims instead; `null`
    /// removes one.
    pub(crate) fn token(&self, sub: &str, changes: Value) -> String {
        let mut claims = self.issuer.claims(now().as_secs() - 30);
        claims["sub"] = json!(sub);
        claims["sid"] = json!(format!("session of {sub}"));
        for (name, value) in changes.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        self.issuer.token(&claims)
    }

    /// The configuration that gates start from, and the variables over it.
    pub(crate) fn configuration(&self, route: &str) -> (String, Vec<(String, String)>) {
        let text = format!(
            "[issuers.acme]\nissuer = \"{}\"\naudiences = [\"{AUDIENCE}\"]\nalgorithms = [\"ES256\"]\njwks_url = \"{}\"\n\
             [[routes]]\nname = \"api\"\nupstream = \"{}\"\n{route}\n",
            self.issuer.identifier,
            self.keys.url(KEYS),
            self.upstream.url(),
        );
        let url = match &self.store {
            Backing::Embedded(directory) => format!("embedded:{}", directory.path().display()),
            Backing::Redis(server) => server.url(),
            Backing::Url(url) => url.clone(),
        };
        let variables =
            [("LISTENER_ADDRESS", "127.0.0.1:0"), ("ADMIN_ADDRESS", "127.0.0.1:0"), ("STORE_URL", url.as_str())];
        (text, variables.into_iter().map(|(name, value)| variable(name, value)).collect())
    }
}

fn variable(name: &str, value: &str) -> (String, String) {
    (format!("PORTCULLIS_{name}"), value.to_owned())
}

/// A gate that is to be started.
pub(crate) struct Setup<'w> {
    world: &'w World,
    variables: Vec<(String, String)>,
    route: String,
}

impl Setup<'_> {
    /// Sets what the variable `PORTCULLIS_<name>` sets.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push(variable(name, value));
        self
    }

    /// Adds lines to the route; `[[routes]]` begins another.
    pub(crate) fn route(mut self, lines: &str) -> Self {
        self.route.push_str(lines);
        self.route.push('\n');
        self
    }

    /// Starts it, and waits until it is ready.
    pub(crate) async fn start(self) -> Gate {
        let gate = self.launch().await;
        eventually("the gate is ready", async || gate.instance.is_ready()).await;
        gate
    }

    /// Starts it, and does not wait.
    pub(crate) async fn launch(self) -> Gate {
        let (text, mut variables) = self.world.configuration(&self.route);
        variables.extend(self.variables);
        let config = Config::parse(&text, "gate.toml", variables).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        let instance = Instance::start(config).await.unwrap();
        Gate { address: instance.address(), admin: instance.admin_address(), instance }
    }
}

/// A gate in this process.
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) instance: Instance,
}

impl Gate {
    /// `GET /` with this token.
    pub(crate) async fn get(&self, token: &str) -> Reply {
        self.send(request(Method::GET, "/", token)).await
    }

    /// Sends a request over HTTP/1.1 and a connection of its own.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        Client::http1(self.address).await.fetch(request).await
    }

    /// `admit`, or the code of the refusal.
    pub(crate) async fn verdict(&self, token: &str) -> String {
        verdict(&self.get(token).await)
    }

    /// The very next request comes to this.
    #[track_caller]
    pub(crate) fn expect<'a>(&'a self, token: &'a str, verdict: &'a str) -> impl Future<Output = ()> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let found = self.verdict(token).await;
            assert!(found == verdict, "expected {verdict}, not {found}, at {place}");
        }
    }

    /// Requests come to this before long; how long it took.
    pub(crate) async fn becomes(&self, token: &str, verdict: &str) -> Duration {
        let begun = Instant::now();
        eventually(&format!("requests come to {verdict}"), async || self.verdict(token).await == verdict).await;
        begun.elapsed()
    }

    /// `POST /.portcullis/logout`
    pub(crate) async fn log_out(&self, token: &str, query: &str) -> Reply {
        self.send(request(Method::POST, &format!("/.portcullis/logout{query}"), token)).await
    }

    /// Asks the admin listener. `null`: without a body.
    pub(crate) async fn admin(&self, method: Method, path: &str, body: Value) -> Reply {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        Client::http1(self.admin).await.fetch(request.body(Full::new(body)).unwrap()).await
    }

    /// Asks the admin listener for a change, and has it acknowledged.
    #[track_caller]
    pub(crate) fn change<'a>(
        &'a self,
        method: Method,
        path: &'a str,
        body: Value,
    ) -> impl Future<Output = Value> + use<'a> {
        let place = std::panic::Location::caller();
        async move {
            let reply = self.admin(method, path, body).await;
            assert_eq!(reply.status, StatusCode::OK, "{} at {place}", reply.text());
            serde_json::from_slice(&reply.body).unwrap()
        }
    }

    /// What the admin look-up says of a subject.
    pub(crate) async fn look_up(&self, sub: &str) -> Value {
        self.change(Method::GET, &subject_path(sub, ""), Value::Null).await
    }

    /// A sample, by its name and labels as `/metrics` writes them; 0: there is none.
    pub(crate) async fn metric(&self, sample: &str) -> f64 {
        let text = self.admin(Method::GET, "/metrics", Value::Null).await;
        let samples: HashMap<&str, &str> = text.text().lines().filter_map(|line| line.rsplit_once(' ')).collect();
        samples.get(sample).map_or(0.0, |value| value.parse().unwrap())
    }

    /// How often the route `api` came to this verdict.
    pub(crate) async fn verdicts(&self, verdict: &str) -> f64 {
        self.metric(&format!("portcullis_verdicts_total{{route=\"api\",verdict=\"{verdict}\"}}")).await
    }

    /// The status of `/readyz`.
    pub(crate) async fn readiness(&self) -> StatusCode {
        self.admin(Method::GET, "/readyz", Value::Null).await.status
    }
}

/// `admit`, or the code of the refusal.
pub(crate) fn verdict(reply: &Reply) -> String {
    if reply.status == StatusCode::OK { "admit".to_owned() } else { reply.code() }
}

/// A request with this token; empty: without.
pub(crate) fn request(method: Method, path: &str, token: &str) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", "api.example");
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(Full::default()).unwrap()
}

/// The path of a subject on the admin listener.
pub(crate) fn subject_path(sub: &str, action: &str) -> String {
    format!("/v1/subjects/acme/{}{action}", utf8_percent_encode(sub, NON_ALPHANUMERIC))
}

pub(crate) fn now() -> Timestamp {
    Clock::System.now()
}
