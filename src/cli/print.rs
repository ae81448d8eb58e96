//! Printing to standard output. A closed pipe is no error.

use std::io::{self, Write};

use serde_json::Value;

/// Prints lines of text.
pub(super) fn text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Prints JSON for programs.
pub(super) fn json(value: &Value) -> io::Result<()> {
    text(&serde_json::to_string_pretty(value)?)
}

/// A JSON object as `name  value` lines, nested names joined by dots; absent values are left out.
pub(super) fn table(value: &Value) -> String {
    let mut rows = Vec::new();
    collect(value, String::new(), &mut rows);
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let rows: Vec<_> = rows.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect();
    rows.join("\n")
}

fn collect(value: &Value, name: String, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(members) => {
            for (member, value) in members {
                let name = if name.is_empty() { member.clone() } else { format!("{name}.{member}") };
                collect(value, name, rows);
            }
        }
        Value::Array(items) => {
            for item in items {
                collect(item, name.clone(), rows);
            }
        }
        Value::String(text) => rows.push((name, text.clone())),
        other => rows.push((name, other.to_string())),
    }
}
