//! `portcullis sources`

use std::path::Path;

use comfy_table::{Table, presets::NOTHING};
use http::Method;
use serde_json::Value;

use super::{Outcome, Output, admin::Remote, print, runtime};

/// Shows how the sources of a running gate are. The answer is no when one needs somebody to look at it.
pub(super) fn run(config: &Path, remote: &Remote, output: Output) -> anyhow::Result<Outcome> {
    let gate = remote.gate(config)?;
    let answer = runtime()?.block_on(gate.ask(Method::GET, "/v1/sources", None))?;
    let sources = answer["sources"].as_array().map(Vec::as_slice).unwrap_or_default();
    match output {
        Output::Json => print::json(&answer)?,
        Output::Text if sources.is_empty() => print::text("no sources are configured; see docs/sources.md")?,
        Output::Text => print::text(&table(sources))?,
    }
    let fine =
        |source: &Value| source["silent"] != true && source["state"] != "stopped" && source["state"] != "retrying";
    Ok(if sources.iter().all(fine) { Outcome::Done } else { Outcome::No })
}

fn table(sources: &[Value]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["NAME", "TYPE", "STATE", "RECEIVED", "LATEST EVENT", "LAG", "BACKLOG", "FAILURES", "EVENTS"]);
    for source in sources {
        let text = |name: &str| source[name].as_str().unwrap_or("-").to_owned();
        let number = |name: &str| source[name].as_i64().map_or_else(|| "-".to_owned(), |number| number.to_string());
        let state = if source["silent"] == true { "SILENT".to_owned() } else { text("state") };
        let lag = source["lag_ms"].as_i64().map_or_else(|| "-".to_owned(), |lag| format!("{lag} ms"));
        let events = source["events"].as_object().into_iter().flatten();
        let events: Vec<String> = events.map(|(outcome, count)| format!("{outcome} {count}")).collect();
        table.add_row([
            text("name"),
            text("type"),
            state,
            text("last_received"),
            text("last_event"),
            lag,
            number("backlog"),
            number("failures"),
            events.join(", "),
        ]);
    }
    let mut lines: Vec<String> = table.lines().map(|line| line.trim().to_owned()).collect();
    for (what, member) in [("", "last_error"), ("turned away: ", "last_turned_away")] {
        let told = sources.iter().filter_map(|source| Some((source["name"].as_str()?, source[member].as_str()?)));
        lines.extend(told.map(|(name, text)| format!("{name}: {what}{text}")));
    }
    lines.join("\n")
}
