//! A gate in this process, on free ports, with an issuer and an API of its own.

use std::{
    io::Write,
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use portcullis::{config::Config, instance::Instance};
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};

use super::{
    client::{self, Reply},
    eventually,
    keys::{AUDIENCE, TestIssuer},
    upstream::TestUpstream,
};

/// A gate that is ready. Dropped, it stops at once.
pub(crate) struct TestGate {
    instance: Option<Instance>,
    address: SocketAddr,
    admin: SocketAddr,
    pub(crate) issuer: Arc<TestIssuer>,
    pub(crate) upstream: Arc<TestUpstream>,
    _jwks: NamedTempFile,
    _store: TempDir,
}

impl TestGate {
    /// A gate with this configuration, in front of an upstream of its own.
    ///
    /// `{upstream}` stands for the upstream's URL; without `[[routes]]` there is one route to it. Addresses that are not given, keys of the issuer
    /// `main`, and, without `[store]`, an embedded store are filled in.
    pub(crate) async fn start(toml: &str) -> Self {
        let upstream = Arc::new(TestUpstream::start().await);
        Self::start_with(toml, new_issuer(), upstream).await
    }

    /// A gate that trusts this issuer, in front of this upstream.
    pub(crate) async fn start_with(toml: &str, issuer: Arc<TestIssuer>, upstream: Arc<TestUpstream>) -> Self {
        let gate = Self::launch(toml, issuer, upstream).await;
        eventually("the gate is ready", async || gate.instance().is_ready()).await;
        gate
    }

    /// As [`start_with`](Self::start_with), and does not wait until it is ready.
    pub(crate) async fn launch(toml: &str, issuer: Arc<TestIssuer>, upstream: Arc<TestUpstream>) -> Self {
        let (store, mut jwks) = (tempfile::tempdir().unwrap(), NamedTempFile::new().unwrap());
        jwks.write_all(issuer.jwks().to_string().as_bytes()).unwrap();
        let mut text = toml.replace("{upstream}", &upstream.url());
        if !text.contains("[[routes]]") {
            text = format!("{text}\n[[routes]]\nupstream = \"{}\"\n", upstream.url());
        }
        if !text.contains("[issuers.main]") {
            text.push_str("\n[issuers.main]\n");
        }
        let mut variables = vec![
            ("PORTCULLIS_ADMIN_ADDRESS", "127.0.0.1:0".to_owned()),
            ("PORTCULLIS_ISSUERS_MAIN_ISSUER", issuer.identifier.clone()),
            ("PORTCULLIS_ISSUERS_MAIN_AUDIENCES", AUDIENCE.to_owned()),
            ("PORTCULLIS_ISSUERS_MAIN_ALGORITHMS", "ES256".to_owned()),
            ("PORTCULLIS_ISSUERS_MAIN_JWKS_FILE", jwks.path().display().to_string()),
        ];
        if !text.contains("[listener]\naddress") {
            variables.push(("PORTCULLIS_LISTENER_ADDRESS", "127.0.0.1:0".to_owned()));
        }
        if !text.contains("[store]") {
            variables.push(("PORTCULLIS_STORE_URL", format!("embedded:{}", store.path().display())));
        }
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value));
        let config = Config::parse(&text, "gate.toml", variables).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        let instance = Instance::start(config).await.unwrap();
        Self {
            address: instance.address(),
            admin: instance.admin_address(),
            instance: Some(instance),
            issuer,
            upstream,
            _jwks: jwks,
            _store: store,
        }
    }

    /// Where clients connect to.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators connect to.
    pub(crate) const fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub(crate) fn instance(&self) -> &Instance {
        self.instance.as_ref().expect("the gate was not stopped")
    }

    /// Stops it in order; whether all requests ended by themselves.
    pub(crate) async fn stop(&mut self) -> bool {
        self.instance.take().expect("the gate was not stopped").stop().await
    }

    /// Good claims, issued ten seconds ago for an hour.
    pub(crate) fn claims(&self) -> Value {
        self.issuer.claims(now() - 10)
    }

    /// A token of good claims, with these instead; `null` removes one.
    pub(crate) fn token(&self, changes: Value) -> String {
        let mut claims = self.claims();
        for (name, value) in changes.as_object().into_iter().flatten() {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        self.issuer.token(&claims)
    }

    /// A good token.
    pub(crate) fn good_token(&self) -> String {
        self.token(json!({}))
    }

    /// `GET`, over a connection of its own.
    pub(crate) async fn get(&self, path: &str, token: &str) -> Reply {
        client::get(self.address, path, token).await
    }
}

/// An issuer as [`TestGate::start`] makes one.
pub(crate) fn new_issuer() -> Arc<TestIssuer> {
    Arc::new(TestIssuer::new("https://issuer.example/"))
}

/// Seconds since 1970: tokens of a running gate are judged by the real clock.
pub(crate) fn now() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "an issuer asks its own clock")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}
