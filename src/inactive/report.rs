//! What a run did, as a file that a person can read and a machine can parse: a JSON object in each line.
//!
//! 1. The first line names the run, then comes one for each user, then a summary. A run that was interrupted has none yet.
//! 2. A line is handed to the system before the store forgets that the user was begun with: after a crash, a user is in the
//!    report, or is known to be unfinished, or both.
//! 3. A report is never overwritten. The run that it is of continues it.

use std::{
    collections::{HashMap, HashSet},
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read as _, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    evidence::{Cover, Kind, Standing, Trust},
    plan::{Counts, Finding},
    run::Outcomes,
};
use crate::{clock::Timestamp, token::claims::SubjectId};

/// The longest line that is read back, in bytes.
const MAX_LINE: u64 = 64 * 1024;

/// A line of a report.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// The first.
    Run(Header),
    /// A user, and what became of them.
    User(UserLine),
    /// The last.
    Summary(Summary),
}

/// What a run was asked for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Header {
    /// Its name.
    pub run: String,
    /// Whose users.
    pub issuer: String,
    /// What it does: `report`, `dry_run`, `block` or `undo`.
    pub mode: String,
    /// When it began.
    pub started: String,
    /// Who asked for it.
    pub by: String,
    /// Since when users have to have been inactive.
    pub since: String,
    /// Since when recording has been complete.
    pub recorded_since: Option<String>,
    /// Whether the issuer was asked, or only what is recorded here.
    pub issuer_asked: bool,
}

/// A user in a report.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UserLine {
    /// The `sub`.
    pub user: String,
    /// What became of them, see [`Outcome`](super::block::Outcome).
    pub outcome: String,
    /// `inactive`, or `uncertain`.
    pub standing: String,
    /// When they were last active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// Where that is known from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// What makes it certain that they were not active since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered_by: Option<String>,
    /// All evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<String>,
    /// Likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_login: Option<String>,
    /// Likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_active: Option<String>,
    /// Likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// When it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Who the marker names, where it is another run than that of the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// When it ended.
    pub ended: String,
    /// All users that were looked at.
    pub known: u64,
    /// Those who were seen since.
    pub active: u64,
    /// Those who were not.
    pub inactive: u64,
    /// Those who were not, but may have been active unseen.
    pub uncertain: u64,
    /// Those who are left out.
    pub excluded: u64,
    /// Those who were blocked before.
    pub blocked_before: u64,
    /// What could not be read.
    pub unreadable: u64,
    /// Of the inactive ones, by where their latest activity is known from.
    pub evidence: std::collections::BTreeMap<String, u64>,
    /// The longest and the shortest inactive.
    pub oldest: Option<String>,
    /// Likewise.
    pub newest: Option<String>,
    /// What became of those who were to be blocked.
    pub outcomes: std::collections::BTreeMap<String, u64>,
}

impl UserLine {
    /// A line about a finding.
    #[must_use]
    pub fn new(finding: &Finding, since: Timestamp, trust: &Trust, outcome: &str) -> Self {
        let latest = finding.evidence.latest();
        let text = |kind| finding.evidence.of(kind).map(|at| at.to_string());
        let (standing, cover) = match finding.evidence.judge(since, trust) {
            Standing::Active => ("active", None),
            Standing::Inactive(cover) => ("inactive", Some(cover)),
            Standing::Uncertain => ("uncertain", None),
        };
        Self {
            user: finding.user.as_str().to_owned(),
            outcome: outcome.to_owned(),
            standing: standing.to_owned(),
            last: latest.map(|latest| latest.at.to_string()),
            evidence: latest.map(|latest| latest.kind.as_str().to_owned()),
            covered_by: cover.map(Cover::as_str).map(str::to_owned),
            recorded: text(Kind::Recorded),
            last_login: text(Kind::LastLogin),
            last_active: text(Kind::LastActive),
            created_at: text(Kind::Created),
            at: None,
            error: None,
            by: None,
        }
    }
}

impl Summary {
    /// A summary of what was found, and of what became of those who were.
    #[must_use]
    pub fn new(counts: &Counts, outcomes: &Outcomes, ended: Timestamp) -> Self {
        let evidence = counts.evidence.iter().map(|(kind, count)| (kind.as_str().to_owned(), *count));
        Self {
            ended: ended.to_string(),
            known: counts.known,
            active: counts.active,
            inactive: counts.inactive,
            uncertain: counts.uncertain,
            excluded: counts.excluded,
            blocked_before: counts.blocked,
            unreadable: counts.unreadable,
            evidence: evidence.collect(),
            oldest: counts.span.map(|(oldest, _)| oldest.to_string()),
            newest: counts.span.map(|(_, newest)| newest.to_string()),
            outcomes: outcomes.iter().map(|(outcome, count)| ((*outcome).to_owned(), *count)).collect(),
        }
    }
}

/// Why a report cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The file.
    #[error("report {} cannot be written or read", .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is something else in its place.
    #[error("{} is there already, and is not a report of run {run}; give another name", .path.display())]
    Taken {
        /// Which file.
        path: PathBuf,
        /// Which run.
        run: String,
    },
    /// Not a report.
    #[error("{}, line {line}: not a line of a report", .path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
    },
}

/// A report that is written.
#[derive(Debug)]
pub struct Report {
    path: PathBuf,
    file: File,
    /// What it told of users last before the run was interrupted, as far as somebody asked.
    told: HashMap<Box<str>, Box<str>>,
}

impl Report {
    /// Begins a report, or goes on with that of the same run. `unfinished`: users about whom it may have told already.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn open(path: &Path, header: &Header, unfinished: &[SubjectId]) -> Result<Self, ReportError> {
        let fault = |source| ReportError::File { path: path.to_owned(), source };
        let taken = || ReportError::Taken { path: path.to_owned(), run: header.run.clone() };
        let opened = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(fault)?;
        let mut report = Self { path: path.to_owned(), file: opened, told: HashMap::new() };
        if report.file.metadata().map_err(fault)?.len() == 0 {
            report.write(&Line::Run(header.clone()))?;
            return Ok(report);
        }
        match Lines::open(path)?.next() {
            Some(Ok(Line::Run(begun))) if begun.run == header.run => {}
            _ => return Err(taken()),
        }
        report.cut_torn_line().map_err(fault)?;
        if !unfinished.is_empty() {
            let wanted: HashSet<&str> = unfinished.iter().map(SubjectId::as_str).collect();
            for line in Lines::open(path)? {
                if let Line::User(line) = line?
                    && wanted.contains(&*line.user)
                {
                    report.told.insert(line.user.into(), line.outcome.into());
                }
            }
        }
        Ok(report)
    }

    /// Adds a line; one that tells of a user what was told before is left out.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn write(&mut self, line: &Line) -> Result<(), ReportError> {
        if let Line::User(line) = line
            && self.told.get(&*line.user).is_some_and(|told| is_same(told, &line.outcome))
        {
            return Ok(());
        }
        let fault = |source| ReportError::File { path: self.path.clone(), source };
        let mut text = serde_json::to_vec(line).map_err(|error| fault(error.into()))?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(fault)
    }

    /// Resolves when it would survive a loss of power.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn sync(&self) -> Result<(), ReportError> {
        self.file.sync_data().map_err(|source| ReportError::File { path: self.path.clone(), source })
    }

    /// A line that a crash left unfinished is taken away.
    fn cut_torn_line(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let from = length.saturating_sub(MAX_LINE);
        self.file.seek(SeekFrom::Start(from))?;
        let mut tail = Vec::new();
        (&self.file).take(MAX_LINE).read_to_end(&mut tail)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole < tail.len() {
            self.file.set_len(from + whole as u64)?;
        }
        Ok(())
    }
}

/// A user who was blocked and told of is repaired when the store had not heard of it.
fn is_same(told: &str, outcome: &str) -> bool {
    told == outcome || (told, outcome) == ("blocked", "repaired")
}

/// The lines of a report. One that a crash left unfinished at its end is none.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    input: BufReader<File>,
    line: u64,
}

impl Lines {
    /// Reads a report.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn open(path: &Path) -> Result<Self, ReportError> {
        let file = File::open(path).map_err(|source| ReportError::File { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), input: BufReader::new(file), line: 0 })
    }

    fn is_at_end(&mut self) -> bool {
        self.input.fill_buf().is_ok_and(<[u8]>::is_empty)
    }
}

impl Iterator for Lines {
    type Item = Result<Line, ReportError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut text = Vec::new();
        self.line += 1;
        match (&mut self.input).take(MAX_LINE).read_until(b'\n', &mut text) {
            Ok(0) => None,
            Ok(_) if !text.ends_with(b"\n") && self.is_at_end() => None,
            Ok(_) => {
                let malformed = |_| ReportError::Malformed { path: self.path.clone(), line: self.line };
                Some(serde_json::from_slice(&text).map_err(malformed))
            }
            Err(source) => Some(Err(ReportError::File { path: self.path.clone(), source })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inactive::evidence::Evidence;

    fn header(run: &str) -> Header {
        Header {
            run: run.to_owned(),
            issuer: "acme".to_owned(),
            mode: "block".to_owned(),
            started: "2026-01-31T12:00:00.000Z".to_owned(),
            by: "cli:ops".to_owned(),
            since: "2025-11-01T12:00:00.000Z".to_owned(),
            recorded_since: None,
            issuer_asked: true,
        }
    }

    fn user(id: &str) -> Line {
        let finding = Finding { user: id.try_into().unwrap(), evidence: Evidence::default() };
        Line::User(UserLine::new(&finding, Timestamp::from_secs(0), &Trust::default(), "blocked"))
    }

    fn read(path: &Path) -> Vec<Line> {
        Lines::open(path).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_run_goes_on_with_its_report_and_tells_nobody_twice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.ndjson");
        let mut report = Report::open(&path, &header("one"), &[]).unwrap();
        report.write(&user("a")).unwrap();
        report.write(&user("b")).unwrap();
        drop(report);
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(b"{\"kind\":\"user\",\"us").unwrap();
        let unfinished = ["b", "c"].map(|id| id.try_into().unwrap());
        let mut report = Report::open(&path, &header("one"), &unfinished).unwrap();
        for id in ["b", "c", "d"] {
            report.write(&user(id)).unwrap();
        }
        let expected = [Line::Run(header("one")), user("a"), user("b"), user("c"), user("d")];
        assert_eq!(read(&path), expected);
    }

    #[test]
    fn what_is_there_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.ndjson");
        for text in ["{\"kind\":\"run\"}\n", "my notes", "\n"] {
            std::fs::write(&path, text).unwrap();
            let error = Report::open(&path, &header("one"), &[]).unwrap_err();
            assert!(matches!(error, ReportError::Taken { .. }), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        std::fs::remove_file(&path).unwrap();
        drop(Report::open(&path, &header("one"), &[]).unwrap());
        assert!(matches!(Report::open(&path, &header("two"), &[]), Err(ReportError::Taken { .. })));
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.ndjson");
        std::fs::write(&path, format!("{}\n{{}}\n", serde_json::to_string(&user("a")).unwrap())).unwrap();
        let error = Lines::open(&path).unwrap().nth(1).unwrap().unwrap_err();
        assert!(error.to_string().ends_with("report.ndjson, line 2: not a line of a report"), "{error}");
    }
}
