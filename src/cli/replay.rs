//! `portcullis replay`: takes exported records of a source again, through the same way as if it had sent them.

mod elements;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal as _, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use flate2::read::MultiGzDecoder;
use http::Method;
use indicatif::{ProgressBar, ProgressStyle};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use self::elements::Elements;
use super::{Outcome, Output, admin::Remote, load, print, runtime};
use crate::{clock::Timestamp, config::Config, event::source::BatchReader};

/// The most records, and the most bytes of them, that are taken at once.
const RECORDS: usize = 500;
const BYTES: usize = 1 << 20;

/// How often a line of progress is written where there is no terminal.
const LINES: Duration = Duration::from_secs(5);

/// `portcullis replay`
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  portcullis replay auth0-logs.json --source auth0-logs          says what would come of it\n  portcullis replay auth0-logs.json.gz --source auth0-logs --apply\n\nThe file holds records one per line, in an array, or in an object with `logs`; gzip is recognised. What was taken before is left out,\nso a replay that was interrupted can be started again."
)]
pub(super) struct Replay {
    /// The file with the exported records, or `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The source that they are of, as the configuration names it
    #[arg(long, value_name = "NAME")]
    source: String,
    /// Do it; without it, nothing is changed, and no gate is needed
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    remote: Remote,
}

/// What records come to.
#[derive(Default)]
struct Summary {
    records: usize,
    /// By what the source calls them, and by what they come to.
    kinds: BTreeMap<(String, &'static str), usize>,
    gaps: BTreeMap<(String, &'static str), usize>,
    times: Option<(Timestamp, Timestamp)>,
}

/// What a gate made of records.
#[derive(Default)]
struct Applied(BTreeMap<&'static str, u64>);

impl Replay {
    pub(super) fn run(&self, path: &Path, output: Output) -> anyhow::Result<Outcome> {
        let config = load(path)?;
        let reader = self.reader(&config)?;
        let (input, progress) = self.open()?;
        let mut summary = Summary::default();
        let mut applied = self.apply.then(Applied::default);
        let runtime = runtime()?;
        let gate = if self.apply { Some(self.remote.gate(path)?) } else { None };
        let url = format!("/v1/sources/{}/events", utf8_percent_encode(&self.source, NON_ALPHANUMERIC));
        for batch in Batches(Elements::new(input)) {
            let batch = batch.with_context(|| format!("`{}` cannot be read", self.file.display()))?;
            summary.add(&*reader, &batch);
            if let (Some(gate), Some(applied)) = (&gate, &mut applied) {
                let answer = runtime.block_on(gate.send(Method::POST, &url, batch)).with_context(|| {
                    format!("{} records were taken; start again, they are left out then", applied.records())
                })?;
                applied.add(&answer);
            }
            progress.show(summary.records);
        }
        progress.end();
        match output {
            Output::Json => {
                let applied = applied.map(|applied| applied.0);
                print::json(&json!({ "records": summary.json(), "applied": applied }))?;
            }
            Output::Text => print::text(&summary.text(applied.as_ref()))?,
        }
        Ok(Outcome::Done)
    }

    fn reader(&self, config: &Config) -> anyhow::Result<Arc<dyn BatchReader>> {
        let source = config.sources.iter().find(|source| source.name.as_str() == self.source);
        let Some(source) = source else {
            let names: Vec<_> = config.sources.iter().map(|source| source.name.as_str()).collect();
            match names[..] {
                [] => bail!("no source is configured; see config/sources.toml"),
                _ => bail!("there is no source `{}`; configured are: {}", self.source, names.join(", ")),
            }
        };
        source.kind.reader().ok_or_else(|| {
            let kind = source.kind.source().as_str();
            anyhow!(
                "source `{}` is of type {kind}, whose records are signed for one delivery and cannot be taken again",
                self.source
            )
        })
    }

    /// The records, unpacked if they are packed, and how far they are read.
    fn open(&self) -> anyhow::Result<(Box<dyn BufRead>, Progress)> {
        let (source, length): (Box<dyn Read>, Option<u64>) = if self.file == Path::new("-") {
            (Box::new(io::stdin()), None)
        } else {
            let opened = || -> io::Result<(File, u64)> {
                let file = File::open(&self.file)?;
                let length = file.metadata()?.len();
                Ok((file, length))
            };
            let (file, length) = opened().with_context(|| format!("`{}` cannot be opened", self.file.display()))?;
            (Box::new(file), Some(length))
        };
        let read = Arc::new(AtomicU64::new(0));
        let mut counted = BufReader::new(Counted { inner: source, read: Arc::clone(&read) });
        let packed = counted.fill_buf().context("the file cannot be read")?.starts_with(&[0x1f, 0x8b]);
        let input: Box<dyn BufRead> =
            if packed { Box::new(BufReader::new(MultiGzDecoder::new(counted))) } else { Box::new(counted) };
        Ok((input, Progress::new(length, read)))
    }
}

impl Summary {
    fn add(&mut self, reader: &dyn BatchReader, body: &[u8]) {
        let batch = reader.read_all(body);
        self.records += batch.len();
        for event in &batch.events {
            let (from, to) = self.times.unwrap_or((event.at, event.at));
            self.times = Some((from.min(event.at), to.max(event.at)));
            for happening in &event.happenings {
                *self.kinds.entry((event.kind.to_string(), happening.as_str())).or_default() += 1;
            }
        }
        for gap in &batch.gaps {
            *self.gaps.entry((gap.kind.to_string(), gap.reason.as_str())).or_default() += 1;
        }
    }

    fn text(&self, applied: Option<&Applied>) -> String {
        let mut lines = vec![match self.times {
            Some((from, to)) => format!("{} records, from {from} to {to}", self.records),
            None => format!("{} records", self.records),
        }];
        let row = |(kind, what): &(String, &'static str), count: &usize| format!("  {count:>9}  {kind:24} {what}");
        lines.extend(self.kinds.iter().map(|(name, count)| row(name, count)));
        if !self.gaps.is_empty() {
            lines.push("nothing comes of".to_owned());
            lines.extend(self.gaps.iter().map(|(name, count)| row(name, count)));
        }
        lines.push(match applied {
            None => "nothing was changed; --apply does it".to_owned(),
            Some(Applied(counts)) => {
                let counts: Vec<_> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
                format!("applied: {}", counts.join(", "))
            }
        });
        lines.join("\n")
    }

    fn json(&self) -> Value {
        let rows = |rows: &BTreeMap<(String, &'static str), usize>, name: &str| -> Value {
            rows.iter().map(|((kind, what), count)| json!({ "kind": kind, name: what, "count": count })).collect()
        };
        json!({
            "count": self.records,
            "from": self.times.map(|(from, _)| from.to_string()),
            "to": self.times.map(|(_, to)| to.to_string()),
            "events": rows(&self.kinds, "what"),
            "gaps": rows(&self.gaps, "reason"),
        })
    }
}

impl Applied {
    fn add(&mut self, answer: &Value) {
        for what in ["records", "changed", "unchanged", "duplicates", "active"] {
            *self.0.entry(what).or_default() += answer[what].as_u64().unwrap_or_default();
        }
    }

    fn records(&self) -> u64 {
        self.0.get("records").copied().unwrap_or_default()
    }
}

/// Records put together as arrays.
struct Batches<R>(Elements<R>);

impl<R: BufRead> Iterator for Batches<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut body, mut records) = (vec![b'['], 0);
        while records < RECORDS && body.len() < BYTES {
            match self.0.next() {
                None => break,
                Some(Err(error)) => return Some(Err(error)),
                Some(Ok(element)) => {
                    if records > 0 {
                        body.push(b',');
                    }
                    body.extend_from_slice(&element);
                    records += 1;
                }
            }
        }
        body.push(b']');
        (records > 0).then_some(Ok(body))
    }
}

/// Counts what is read.
struct Counted {
    inner: Box<dyn Read>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// How far it is: a bar on a terminal, a line now and then elsewhere.
struct Progress {
    bar: ProgressBar,
    read: Arc<AtomicU64>,
    length: Option<u64>,
    said: std::cell::Cell<Instant>,
}

impl Progress {
    fn new(length: Option<u64>, read: Arc<AtomicU64>) -> Self {
        let bar = match length {
            Some(length) => ProgressBar::new(length),
            None => ProgressBar::no_length(),
        };
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent}% {msg} {bytes}/{total_bytes} ETA {eta}") {
            bar.set_style(style);
        }
        Self { bar, read, length, said: Instant::now().into() }
    }

    #[expect(clippy::print_stderr, reason = "progress is for people, not part of the output")]
    fn show(&self, records: usize) {
        let read = self.read.load(Ordering::Relaxed);
        self.bar.set_position(read);
        self.bar.set_message(format!("{records} records"));
        if !io::stderr().is_terminal() && self.said.get().elapsed() >= LINES {
            self.said.set(Instant::now());
            match self.length {
                Some(length) => eprintln!("{records} records, {}%", read.saturating_mul(100) / length.max(1)),
                None => eprintln!("{records} records"),
            }
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}
