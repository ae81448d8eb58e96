//! `portcullis sessions`

use std::{path::Path, time::Duration};

use anyhow::bail;
use clap::Args;
use comfy_table::{Table, presets::NOTHING};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{
    Outcome, Output,
    admin::{Gate, Remote, by, subject_path},
    print, runtime,
};

/// `portcullis sessions`
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  portcullis sessions 'auth0|6553da60a54af58e29493993'\n  portcullis sessions alice --all --output json\n  portcullis sessions alice --end 7f3a --reason 'lost laptop'\n\nSessions are recorded where they have limits, or everywhere with `session.record = true`."
)]
pub(super) struct Sessions {
    /// The user: the `sub` claim
    #[arg(value_name = "USER")]
    user: String,
    /// The issuer's short name; needed when there are several
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Those that are over too
    #[arg(long, conflicts_with = "end")]
    all: bool,
    /// End this session of the user
    #[arg(long, value_name = "SESSION", allow_hyphen_values = true)]
    end: Option<String>,
    /// Why it is ended, for the audit trail
    #[arg(long, value_name = "TEXT", requires = "end")]
    reason: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

impl Sessions {
    pub(super) fn run(self, config: &Path, output: Output) -> anyhow::Result<Outcome> {
        let gate = self.remote.gate(config)?;
        runtime()?.block_on(async {
            let issuer = gate.issuer(self.issuer.as_deref()).await?;
            let sessions = self.list(&gate, &issuer).await?;
            let Some(end) = &self.end else {
                return show(&issuer, &self.user, &sessions, output);
            };
            // Another user's session of that name is not what is meant; one that seems over may go on elsewhere.
            if !sessions.iter().any(|session| session["session"] == **end) {
                bail!("`{}` has no session `{end}`; `portcullis sessions --all` lists them", self.user);
            }
            let mut body = json!({ "by": by() });
            if let Some(reason) = &self.reason {
                body["reason"] = json!(reason);
            }
            let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
            let path = format!("/v1/sessions/{}/{}/end", encode(&issuer), encode(end));
            let answer = gate.ask(Method::POST, &path, Some(&body)).await?;
            match output {
                Output::Json => print::json(&answer)?,
                Output::Text => print::text(&print::table(&answer))?,
            }
            Ok(Outcome::Done)
        })
    }

    async fn list(&self, gate: &Gate, issuer: &str) -> anyhow::Result<Vec<Value>> {
        let path =
            format!("{}/sessions?limit=200&all={}", subject_path(issuer, &self.user), self.all || self.end.is_some());
        let (mut sessions, mut after) = (Vec::new(), String::new());
        loop {
            let mut page = gate.ask(Method::GET, &format!("{path}{after}"), None).await?;
            if let Some(more) = page["sessions"].as_array_mut() {
                sessions.append(more);
            }
            match page["next"].as_str() {
                Some(next) => after = format!("&after={}", utf8_percent_encode(next, NON_ALPHANUMERIC)),
                None => return Ok(sessions),
            }
        }
    }
}

fn show(issuer: &str, user: &str, sessions: &[Value], output: Output) -> anyhow::Result<Outcome> {
    match output {
        Output::Json => print::json(&json!({ "issuer": issuer, "subject": user, "sessions": sessions }))?,
        Output::Text if sessions.is_empty() => print::text("no sessions")?,
        Output::Text => print::text(&table(sessions))?,
    }
    Ok(Outcome::Done)
}

fn table(sessions: &[Value]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["SESSION", "STATE", "STARTED", "LAST ACTIVE", "UNTIL IDLE", "UNTIL OVER", "GATEWAY", "CLIENT"]);
    for session in sessions {
        let text = |name: &str| session[name].as_str().unwrap_or("-").to_owned();
        let duration = |name: &str| {
            let seconds = session[name].as_u64().map(Duration::from_secs);
            seconds.map_or_else(|| "-".to_owned(), |left| humantime::format_duration(left).to_string())
        };
        let left = |name: &str| match session[format!("{name}_limit")] {
            Value::Null => "-".to_owned(),
            _ => format!("{} of {}", duration(name), duration(&format!("{name}_limit"))),
        };
        table.add_row([
            text("session"),
            text("state"),
            text("started"),
            text("last_activity"),
            left("idle"),
            left("absolute"),
            text("gateway"),
            text("client"),
        ]);
    }
    table.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n")
}
