//! Reload: another configuration takes over while the gate runs, as a whole or not at all.

mod files;
mod issuers;
mod load;
mod program;
mod refused;
mod settings;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use http::{Method, StatusCode};
use portcullis::{config::Config, instance::Instance, reload::file::ConfigFile};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    client::{self, Reply},
    eventually,
    gate::{new_issuer, now},
    http::Answer,
    keys::{AUDIENCE, TestIssuer},
    openapi::AdminClient,
    upstream::TestUpstream,
};

/// A gate that runs by a file.
struct Live {
    instance: Instance,
    issuer: TestIssuer,
    upstream: TestUpstream,
    directory: TempDir,
    file: PathBuf,
    admin_token: Option<String>,
}

/// What every configuration here begins with: no events, only who asks.
const HEAD: &str = "reload = \"signal\"\n[listener]\naddress = \"127.0.0.1:0\"\n";

/// What follows the sections, if a test says nothing else of it.
const ISSUER: &str = "[issuers.main]\nissuer = \"https://issuer.example/\"\naudiences = [\"https://api.example\"]\n\
                      algorithms = [\"ES256\"]\njwks_file = \"jwks.json\"\n";

const FIXED: &str = "[admin]\naddress = \"127.0.0.1:0\"\n[store]\nurl = \"embedded:data\"\n";

/// A configuration: what stands in `[listener]` and after it, before issuers and routes; and those. `{upstream}` stands for the upstream.
fn text(sections: &str, issuers: &str, routes: &str) -> String {
    format!("{HEAD}{sections}\n{FIXED}{issuers}\n{routes}\n")
}

/// One route to the upstream, with more settings.
fn route(settings: &str) -> String {
    format!("[[routes]]\nname = \"api\"\nupstream = \"{{upstream}}\"\n{settings}\n")
}

/// A configuration with one route.
fn plain(settings: &str) -> String {
    text("", ISSUER, &route(settings))
}

impl Live {
    async fn start(text: &str) -> Self {
        Self::start_at(text, |directory| directory.join("gate.toml")).await
    }

    /// `place` prepares where the file is to be, relative to a directory of its own.
    async fn start_at(text: &str, place: impl FnOnce(&Path) -> PathBuf) -> Self {
        let (directory, upstream) = (tempfile::tempdir().unwrap(), TestUpstream::start().await);
        let issuer = TestIssuer::new(&new_issuer().identifier);
        fs::write(directory.path().join("jwks.json"), issuer.jwks().to_string()).unwrap();
        let file = place(directory.path());
        fs::write(&file, text.replace("{upstream}", &upstream.url())).unwrap();
        let source = ConfigFile::new(&file, Vec::new());
        let config = Config::load(&file, Vec::new()).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        let instance = Instance::start_from(source, config).await.unwrap();
        eventually("the gate is ready", async || instance.is_ready()).await;
        Self { instance, issuer, upstream, directory, file, admin_token: None }
    }

    fn address(&self) -> SocketAddr {
        self.instance.address()
    }

    fn admin(&self) -> AdminClient {
        AdminClient::new(self.instance.admin_address(), self.admin_token.as_deref())
    }

    /// Writes the file, and leaves it to others to take notice.
    fn write(&self, text: &str) {
        fs::write(&self.file, text.replace("{upstream}", &self.upstream.url())).unwrap();
    }

    /// Writes the file and has it taken over.
    #[track_caller]
    fn reload<'a>(&'a self, text: &'a str) -> impl Future<Output = Value> + use<'a> {
        let place = std::panic::Location::caller();
        async move {
            self.write(text);
            let answer = self.admin().send(Method::POST, "/v1/reload", "").await;
            assert_eq!(answer.status, StatusCode::OK, "{} at {place}", answer.text());
            assert_eq!(answer.json()["outcome"], "applied", "{} at {place}", answer.text());
            answer.json()
        }
    }

    /// Writes the file, and has it refused.
    #[track_caller]
    fn fail<'a>(&'a self, text: &'a str) -> impl Future<Output = Value> + use<'a> {
        let place = std::panic::Location::caller();
        async move {
            self.write(text);
            let answer = self.ask().await;
            assert_eq!(answer.code().as_deref(), Some("not_reloaded"), "{} at {place}", answer.text());
            answer.json()["reload"].clone()
        }
    }

    async fn ask(&self) -> Answer {
        self.admin().send(Method::POST, "/v1/reload", "").await
    }

    #[expect(clippy::needless_pass_by_value, reason = "written in place")]
    fn token(&self, changes: Value) -> String {
        let mut claims = self.issuer.claims(now() - 10);
        for (name, value) in changes.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        self.issuer.token(&claims)
    }

    async fn get(&self, path: &str, token: &str) -> Reply {
        client::get(self.address(), path, token).await
    }

    /// `200`, or the code of the refusal, of a request with a good token.
    async fn outcome(&self) -> String {
        outcome(&self.get("/", &self.token(json!({}))).await)
    }

    /// A sample, by its name and labels as `/metrics` writes them.
    async fn metric(&self, sample: &str) -> f64 {
        let text = self.admin().get("/metrics").await;
        let found = text.text().lines().filter_map(|line| line.rsplit_once(' ')).find(|(name, _)| *name == sample);
        found.map_or(0.0, |(_, value)| value.parse().unwrap())
    }

    async fn reloads(&self, outcome: &str) -> f64 {
        self.metric(&format!("portcullis_config_reloads_total{{outcome=\"{outcome}\"}}")).await
    }
}

fn outcome(reply: &Reply) -> String {
    if reply.status == StatusCode::OK { "200".to_owned() } else { reply.code() }
}

/// `[issuers.<name>]` with keys in a file.
fn issuer(name: &str, identifier: &str, keys: &str) -> String {
    format!(
        "[issuers.{name}]\nissuer = {identifier:?}\naudiences = [{AUDIENCE:?}]\nalgorithms = [\"ES256\"]\njwks_file = {keys:?}\n"
    )
}
