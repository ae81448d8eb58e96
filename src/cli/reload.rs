//! `portcullis reload`

use std::path::Path;

use http::{Method, StatusCode};
use serde_json::Value;

use super::{Outcome, Output, admin::Remote, print, runtime};

/// Has a running gate read its configuration again. The answer is no when it goes on by the former one.
pub(super) fn run(config: &Path, remote: &Remote, output: Output) -> anyhow::Result<Outcome> {
    let gate = remote.gate(config)?;
    let (status, answer) = runtime()?.block_on(gate.ask_with_status(Method::POST, "/v1/reload"))?;
    let report = match status {
        StatusCode::OK => &answer,
        // What is not a report says why there is none.
        _ if answer["reload"].is_object() => &answer["reload"],
        _ => anyhow::bail!("the gate does not reload: {}", answer["detail"].as_str().unwrap_or("it gave no reason")),
    };
    match output {
        Output::Json => print::json(report)?,
        Output::Text => print::text(&text(report))?,
    }
    Ok(if status == StatusCode::OK { Outcome::Done } else { Outcome::No })
}

fn text(report: &Value) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (level, member) in [("warning: ", "warnings"), ("", "problems")] {
        lines
            .extend(report[member].as_array().into_iter().flatten().map(|problem| format!("{level}{}", line(problem))));
    }
    let changed: Vec<&str> = report["changed"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    lines.push(match report["outcome"].as_str() {
        Some("applied") => format!("reloaded; changed: {}", changed.join(", ")),
        Some("unchanged") => "the gate runs by this configuration already".to_owned(),
        _ => "not reloaded: the gate goes on by the former configuration".to_owned(),
    });
    lines.join("\n")
}

/// A problem as `check` shows it.
fn line(problem: &Value) -> String {
    let text = |name: &str| problem[name].as_str().unwrap_or_default();
    let mut line = text("place").to_owned();
    if let Some(number) = problem["line"].as_u64() {
        line = format!("{line}:{number}");
    }
    for part in [text("key"), text("message")] {
        if !part.is_empty() {
            line = format!("{line}: {part}");
        }
    }
    match problem["hint"].as_str() {
        Some(hint) => format!("{line}\n  hint: {hint}"),
        None => line,
    }
}
