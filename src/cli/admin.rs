//! Commands that ask a running gate through its admin listener.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use http::{Method, StatusCode, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::{Outcome, Output, client, load, print, runtime};

/// Which gate to ask.
#[derive(Args, Debug)]
pub(super) struct Remote {
    /// The gate's admin listener; from the configuration unless given
    #[arg(long, env = "PORTCULLIS_ADMIN_URL", value_name = "URL")]
    admin: Option<Uri>,
    /// A file with the admin token; from `PORTCULLIS_ADMIN_TOKEN` or the configuration unless given
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Whom a change is about.
#[derive(Args, Debug)]
pub(super) struct Target {
    /// The user: the `sub` claim
    #[arg(value_name = "USER")]
    user: String,
    /// The issuer's short name; needed when there are several
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Why, for the audit trail
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// `portcullis explain`
#[derive(Args, Debug)]
pub(super) struct Explain {
    /// The token, or `-` to read it from standard input, where no list of processes shows it
    token: SecretString,
    /// The route whose policy applies; the first one unless given
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// A gate to ask.
#[derive(Debug)]
pub(super) struct Gate {
    base: Uri,
    token: Option<SecretString>,
}

pub(super) fn log_out(config: &Path, target: &Target, remote: &Remote, output: Output) -> anyhow::Result<Outcome> {
    change(config, target, remote, output, Method::POST, "logout", json!({}))
}

pub(super) fn block(
    config: &Path,
    target: &Target,
    until: Option<String>,
    remote: &Remote,
    output: Output,
) -> anyhow::Result<Outcome> {
    let body = until.map_or_else(|| json!({}), |until| json!({ "until": until }));
    change(config, target, remote, output, Method::PUT, "block", body)
}

pub(super) fn unblock(
    path: &Path,
    target: &Target,
    issuer_too: bool,
    remote: &Remote,
    output: Output,
) -> anyhow::Result<Outcome> {
    if issuer_too {
        let config = load(path)?;
        let (gate, issuer) = (remote.gate(path)?, target.issuer.as_deref());
        let unblock = super::inactive::unblock(&config, gate, issuer, &target.user, target.reason.as_deref());
        let outcome = runtime()?.block_on(unblock)?;
        show(&json!({ "subject": target.user, "outcome": outcome }), output)?;
        return Ok(Outcome::Done);
    }
    change(path, target, remote, output, Method::DELETE, "block", json!({}))
}

pub(super) fn status(
    config: &Path,
    user: Option<&str>,
    issuer: Option<&str>,
    remote: &Remote,
    output: Output,
) -> anyhow::Result<Outcome> {
    let gate = remote.gate(config)?;
    let answer = runtime()?.block_on(async {
        match user {
            None => gate.ask_any(Method::GET, "/readyz").await,
            Some(user) => {
                let issuer = gate.issuer(issuer).await?;
                gate.ask(Method::GET, &subject_path(&issuer, user), None).await
            }
        }
    })?;
    show(&answer, output)?;
    Ok(if user.is_none() && answer["status"] != "ready" { Outcome::No } else { Outcome::Done })
}

impl Explain {
    pub(super) fn run(self, config: &Path, output: Output) -> anyhow::Result<Outcome> {
        let token = match self.token.expose_secret() {
            "-" => {
                let mut token = String::new();
                io::stdin().take(64 * 1024).read_to_string(&mut token).context("standard input cannot be read")?;
                token
            }
            token => token.to_owned(),
        };
        let token = token.trim();
        if token.is_empty() {
            bail!("there is no token to explain");
        }
        let body = json!({ "token": token.strip_prefix("Bearer ").unwrap_or(token), "route": self.route });
        let gate = self.remote.gate(config)?;
        let answer = runtime()?.block_on(gate.ask(Method::POST, "/v1/explain", Some(&body)))?;
        match output {
            Output::Json => print::json(&answer)?,
            Output::Text => print::text(&explanation(&answer))?,
        }
        Ok(if answer["verdict"] == "admit" { Outcome::Done } else { Outcome::No })
    }
}

fn change(
    config: &Path,
    target: &Target,
    remote: &Remote,
    output: Output,
    method: Method,
    action: &str,
    mut body: Value,
) -> anyhow::Result<Outcome> {
    body["by"] = json!(by());
    if let Some(reason) = &target.reason {
        body["reason"] = json!(reason);
    }
    let gate = remote.gate(config)?;
    let answer = runtime()?.block_on(async {
        let issuer = gate.issuer(target.issuer.as_deref()).await?;
        let path = format!("{}/{action}", subject_path(&issuer, &target.user));
        gate.ask(method, &path, Some(&body)).await
    })?;
    show(&answer, output)?;
    Ok(Outcome::Done)
}

/// Who asks, for the audit trail.
pub(super) fn by() -> String {
    std::env::var("USER").map_or_else(|_| "cli".to_owned(), |user| format!("cli:{user}"))
}

impl Remote {
    /// The gate that the command line, the environment or the configuration name, in this order.
    pub(super) fn gate(&self, config: &Path) -> anyhow::Result<Gate> {
        let configured = if self.admin.is_some() { None } else { Some(load(config)?.admin) };
        let base = match (&self.admin, &configured) {
            (Some(url), _) => url.clone(),
            (None, Some(admin)) => reachable(admin.address).parse().context("admin address is no URL")?,
            (None, None) => bail!("no admin listener is known: give --admin URL"),
        };
        if base.scheme_str() != Some("http") {
            bail!("`{base}` is not the URL of an admin listener, such as http://127.0.0.1:9090");
        }
        let token = match &self.token_file {
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("admin token cannot be read from `{}`", file.display()))?;
                Some(SecretString::from(text.trim().to_owned()))
            }
            None => match std::env::var("PORTCULLIS_ADMIN_TOKEN") {
                Ok(token) => Some(SecretString::from(token)),
                Err(_) => configured.and_then(|admin| admin.token),
            },
        };
        Ok(Gate { base, token })
    }
}

/// A wildcard address is reached on loopback.
fn reachable(mut address: std::net::SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    format!("http://{address}")
}

/// What came of asking once.
pub(super) enum Asked {
    Done(Value),
    /// Somebody else was first.
    Conflict,
    Failed {
        error: anyhow::Error,
        /// Whether asking again can help.
        again: bool,
    },
}

impl Gate {
    /// One that is known to be there.
    pub(super) fn new(base: Uri, token: Option<SecretString>) -> Self {
        Self { base, token }
    }

    /// Asks once.
    pub(super) async fn ask_once(&self, method: Method, path: &str, body: Option<&Value>) -> Asked {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let answer = match self.exchange(method, path, body).await {
            Ok(answer) => answer,
            Err(error) => return Asked::Failed { error, again: true },
        };
        match answer.status {
            StatusCode::CONFLICT => Asked::Conflict,
            status => match Self::success(&answer) {
                Ok(value) => Asked::Done(value),
                Err(error) => Asked::Failed { error, again: status.is_server_error() },
            },
        }
    }

    /// Asks, and takes anything but success for an error.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        self.send(method, path, body).await
    }

    /// Likewise, with a body that is JSON already.
    pub(super) async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Value> {
        Self::success(&self.exchange(method, path, body).await?)
    }

    /// What an answer says that is a success.
    fn success(answer: &client::Answer) -> anyhow::Result<Value> {
        if answer.status.is_success() {
            return answer.json();
        }
        let problem = answer.json().unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or("the gate gave no reason");
        let hint = if answer.status == StatusCode::UNAUTHORIZED {
            "; give it by PORTCULLIS_ADMIN_TOKEN or --token-file"
        } else {
            ""
        };
        bail!("the gate answered {}: {detail}{hint}", answer.status.as_u16());
    }

    /// Asks, and takes the answers of those who are let in, with their status.
    pub(super) async fn ask_with_status(&self, method: Method, path: &str) -> anyhow::Result<(StatusCode, Value)> {
        let answer = self.exchange(method, path, Vec::new()).await?;
        match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Self::success(&answer).map(|value| (answer.status, value))
            }
            status => Ok((status, answer.json()?)),
        }
    }

    /// Asks, and takes every answer.
    async fn ask_any(&self, method: Method, path: &str) -> anyhow::Result<Value> {
        self.exchange(method, path, Vec::new()).await?.json()
    }

    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<client::Answer> {
        let base = self.base.to_string();
        let url: Uri = format!("{}{path}", base.trim_end_matches('/')).parse().context("admin URL is not valid")?;
        let token = self.token.as_ref().map(ExposeSecret::expose_secret);
        client::send_bytes(method, &url, token, body)
            .await
            .with_context(|| format!("no gate answers at {base} (is it running? `portcullis serve` starts it)"))
    }

    /// The issuer that is meant: the given one, or the only one.
    pub(super) async fn issuer(&self, given: Option<&str>) -> anyhow::Result<String> {
        if let Some(given) = given {
            return Ok(given.to_owned());
        }
        let health = self.ask_any(Method::GET, "/readyz").await?;
        let names: Vec<&String> = health["issuers"].as_object().map(|all| all.keys().collect()).unwrap_or_default();
        match names[..] {
            [only] => Ok(only.clone()),
            [] => Err(anyhow!("the gate names no issuers")),
            _ => Err(anyhow!("there are several issuers, so give --issuer NAME; one of: {}", join(&names))),
        }
    }
}

fn join(names: &[&String]) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}

pub(super) fn subject_path(issuer: &str, user: &str) -> String {
    let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    format!("/v1/subjects/{}/{}", encode(issuer), encode(user))
}

fn show(answer: &Value, output: Output) -> io::Result<()> {
    match output {
        Output::Json => print::json(answer),
        Output::Text => print::text(&print::table(answer)),
    }
}

fn explanation(answer: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = vec![format!("route {}", text(&answer["route"]))];
    for step in answer["steps"].as_array().into_iter().flatten() {
        let said = step["refuses"].as_str().map_or_else(|| "no".to_owned(), |code| format!("YES: {code}"));
        lines.push(format!("  {:13} {} {said}", text(&step["rule"]), text(&step["asks"])));
    }
    if let Some(fault) = answer["fault"].as_str() {
        lines.push(format!("  because: {fault}"));
    }
    lines.push(format!("verdict: {}", text(&answer["verdict"])));
    lines.join("\n")
}
