//! How a run is shown: to people as a table, to programs as JSON or CSV.

use std::{
    fmt::Write as _,
    io::{self, BufWriter, Write},
};

use serde_json::json;

use crate::{
    cli::Format,
    inactive::report::{Header, Summary, UserLine},
};

/// The columns of a table.
const WIDTHS: [usize; 5] = [34, 26, 12, 11, 18];

/// Prints users as they come.
pub(super) struct Shown {
    out: BufWriter<io::Stdout>,
    format: Format,
    lines: u64,
    /// Whether users are shown, or only what they come to.
    users: bool,
}

impl Shown {
    /// `users`: whether each is shown to people too.
    pub(super) fn new(format: Format, users: bool) -> Self {
        Self { out: BufWriter::new(io::stdout()), format, lines: 0, users: users || format != Format::Text }
    }

    pub(super) fn begin(&mut self, header: &Header) -> io::Result<()> {
        match self.format {
            Format::Text => Ok(()),
            Format::Json => write!(self.out, "{{\"run\":{},\"users\":[", serde_json::to_string(header)?),
            Format::Csv => writeln!(
                self.out,
                "user,outcome,standing,last,evidence,covered_by,recorded,last_login,last_active,created_at,error"
            ),
        }
    }

    pub(super) fn user(&mut self, line: &UserLine) -> io::Result<()> {
        if !self.users {
            return Ok(());
        }
        self.lines += 1;
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        match self.format {
            Format::Text => {
                if self.lines == 1 {
                    self.row(["USER", "LAST ACTIVE", "EVIDENCE", "STANDING", "OUTCOME"])?;
                }
                let (last, evidence) = (or_dash(&line.last), or_dash(&line.evidence));
                self.row([&line.user, &last, &evidence, &line.standing, &line.outcome])
            }
            Format::Json => {
                let comma = if self.lines > 1 { "," } else { "" };
                write!(self.out, "{comma}\n{}", serde_json::to_string(line)?)
            }
            Format::Csv => {
                let absent = String::new();
                let cells = [
                    &line.user,
                    &line.outcome,
                    &line.standing,
                    line.last.as_ref().unwrap_or(&absent),
                    line.evidence.as_ref().unwrap_or(&absent),
                    line.covered_by.as_ref().unwrap_or(&absent),
                    line.recorded.as_ref().unwrap_or(&absent),
                    line.last_login.as_ref().unwrap_or(&absent),
                    line.last_active.as_ref().unwrap_or(&absent),
                    line.created_at.as_ref().unwrap_or(&absent),
                    line.error.as_ref().unwrap_or(&absent),
                ];
                writeln!(self.out, "{}", cells.map(|cell| csv(cell)).join(","))
            }
        }
    }

    pub(super) fn end(&mut self, summary: &Summary, words: &str) -> io::Result<()> {
        match self.format {
            Format::Text => writeln!(self.out, "{words}")?,
            Format::Json => writeln!(self.out, "\n],\"summary\":{}}}", json!(summary))?,
            Format::Csv => {}
        }
        self.out.flush()
    }

    /// Words for people only, before all is over.
    pub(super) fn say(&mut self, words: &str) -> io::Result<()> {
        if self.format == Format::Text {
            writeln!(self.out, "{words}")?;
        }
        self.out.flush()
    }

    fn row(&mut self, cells: [&str; 5]) -> io::Result<()> {
        let mut line = String::new();
        for (cell, width) in cells.into_iter().zip(WIDTHS) {
            let _ = write!(line, "{cell:width$}  ");
        }
        writeln!(self.out, "{}", line.trim_end())
    }
}

/// A cell of RFC 4180.
fn csv(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::csv;

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        assert_eq!([csv("a|b"), csv("a,b"), csv("say \"a\"")], ["a|b", "\"a,b\"", "\"say \"\"a\"\"\""]);
    }
}
