//! The task that reloads.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{Apply, NoReload, Outcome, ReloadMode, Reloads, Reply, Report, State, Trigger, WAITING, file::ConfigFile};
use crate::{
    clock::Clock,
    config::{Config, Files, Place, Problem, Reading, Written, fingerprint},
    file_watch::FileWatch,
};

/// How often files are looked at although nobody told of a change: not every file system does.
const POLL: Duration = Duration::from_secs(10);

/// The most keys that are named in a line of the log.
const NAMED: usize = 20;

/// Reloads a configuration when it is asked to.
#[derive(Debug)]
pub struct Reloader {
    file: ConfigFile,
    clock: Clock,
    mode: ReloadMode,
    /// What runs.
    written: Written,
    files: Files,
    /// What stood in the files when they were last read; `None`: they are to be read again.
    seen: Option<[u8; 32]>,
    watch: Option<FileWatch>,
    /// What is watched.
    watched: Files,
    requests: mpsc::Receiver<(Trigger, Reply)>,
    state: Arc<State>,
}

impl Reloader {
    /// One for a gate that runs by `config`, which came from `file`; and those who ask it.
    #[must_use]
    pub fn new(file: ConfigFile, config: &Config, clock: Clock) -> (Self, Reloads) {
        let (sender, requests) = mpsc::channel(WAITING);
        let state = Arc::new(State::new(clock.now()));
        let reloads = Reloads { requests: Some(sender), state: Arc::clone(&state) };
        let files = Files::from([file.path().to_owned()]);
        let reloader = Self {
            file,
            clock,
            mode: config.reload,
            written: config.written.clone(),
            files,
            seen: None,
            watch: None,
            watched: Files::new(),
            requests,
            state,
        };
        (reloader, reloads)
    }

    /// Does so until `stop`. What changed since the configuration was read is found at once.
    pub async fn run(mut self, mut apply: Box<dyn Apply>, stop: CancellationToken) {
        self.begin().await;
        loop {
            // What changed before it was watched is told by nobody.
            if self.watch() {
                self.look(&mut *apply).await;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                request = self.requests.recv() => {
                    let Some((trigger, reply)) = request else { return };
                    let report = match self.mode {
                        ReloadMode::Off => Err(NoReload::Off),
                        ReloadMode::Auto | ReloadMode::Signal => Ok(self.reload(&mut *apply, trigger).await),
                    };
                    // Whoever asked may have gone.
                    let _ = reply.send(report);
                }
                () = changed(&mut self.watch) => self.look(&mut *apply).await,
            }
        }
    }

    /// Finds out which files there are.
    async fn begin(&mut self) {
        if self.mode == ReloadMode::Auto
            && let Some((Reading { files, result }, seen)) = self.read().await
        {
            self.files = files;
            // Another one, or none: it is to be read again.
            self.seen = result.is_ok_and(|config| config.written == self.written).then_some(seen);
        }
    }

    /// Reloads if anything has changed since it was last read.
    async fn look(&mut self, apply: &mut dyn Apply) {
        if self.mode != ReloadMode::Auto {
            return;
        }
        let files = self.files.clone();
        let found = spawn_blocking(move || fingerprint(&files)).await.ok();
        if found != self.seen || found.is_none() {
            self.reload(apply, Trigger::Change).await;
        }
    }

    async fn reload(&mut self, apply: &mut dyn Apply, trigger: Trigger) -> Report {
        let report = self.try_reload(apply, trigger).await;
        let known = self.state.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let again = trigger == Trigger::Change
            && known.is_some_and(|known| (known.outcome, &known.problems) == (report.outcome, &report.problems));
        log(&report, again);
        self.state.take(report.clone());
        report
    }

    async fn try_reload(&mut self, apply: &mut dyn Apply, trigger: Trigger) -> Report {
        let report = |outcome, changed, problems, warnings| Report {
            at: self.clock.now(),
            trigger,
            outcome,
            changed,
            problems,
            warnings,
        };
        let Some((Reading { result, files }, seen)) = self.read().await else {
            let place = Place::File(self.file.path().display().to_string());
            let message = "reading it failed; this is a fault of the gate".to_owned();
            let problem = Problem { place, key: String::new(), message, hint: None };
            return report(Outcome::Invalid, Vec::new(), vec![problem], Vec::new());
        };
        self.files = files;
        self.seen = Some(seen);
        let config = match result {
            Ok(config) => config,
            Err(errors) => return report(Outcome::Invalid, Vec::new(), errors.problems().to_vec(), Vec::new()),
        };
        let (written, warnings, mode) = (config.written.clone(), config.warnings.clone(), config.reload);
        let changed: Vec<String> = written.changed_since(&self.written).into_iter().map(str::to_owned).collect();
        let unmoved = written.needs_restart(&self.written);
        if !unmoved.is_empty() {
            return report(Outcome::Refused, changed, unmoved, warnings);
        }
        // Files that no key tells of may have changed, which `apply` knows how to look at.
        if let Err(problems) = apply.apply(config, &changed).await {
            // What is not right with others may be right soon.
            self.seen = None;
            return Report { at: self.clock.now(), ..report(Outcome::Refused, changed, problems, warnings) };
        }
        let outcome = if changed.is_empty() { Outcome::Unchanged } else { Outcome::Applied };
        let report = report(outcome, changed, Vec::new(), warnings);
        (self.written, self.mode) = (written, mode);
        report
    }

    /// What the file says, and what stood in all files before it was read. `None`: that failed.
    async fn read(&self) -> Option<(Reading, [u8; 32])> {
        let (file, files) = (self.file.clone(), self.files.clone());
        let read = spawn_blocking(move || {
            let before = fingerprint(&files);
            let reading = file.read();
            // With other files than before there is another fingerprint, and nothing to compare it with.
            let seen = if reading.files == files { before } else { fingerprint(&reading.files) };
            (reading, seen)
        });
        read.await.ok()
    }

    /// Watches what is to be watched now: the files, and where links to them lead. Whether that is anything new.
    fn watch(&mut self) -> bool {
        if self.mode != ReloadMode::Auto {
            self.watch = None;
            return false;
        }
        let led = self.files.iter().filter_map(|file| file.canonicalize().ok());
        let files: Files = self.files.iter().cloned().chain(led).collect();
        let is_new = self.watch.is_none() || self.watched != files;
        if is_new {
            self.watch = Some(FileWatch::new(files.clone()));
            self.watched = files;
        }
        is_new
    }
}

/// Resolves when what is watched may have changed.
async fn changed(watch: &mut Option<FileWatch>) {
    match watch {
        Some(watch) => watch.changed(POLL).await,
        None => std::future::pending().await,
    }
}

/// `again`: it was told before.
fn log(report: &Report, again: bool) {
    let trigger = report.trigger.as_str();
    if report.outcome.is_success() {
        for warning in report.warnings.iter().filter(|_| report.outcome == Outcome::Applied) {
            tracing::warn!("{warning}");
        }
        let named = report.changed.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let changed = report.changed.len();
        if report.outcome == Outcome::Applied {
            tracing::info!(trigger, changed, keys = named, "configuration reloaded");
        } else {
            tracing::info!(trigger, "configuration looked at: it is what runs");
        }
    } else if again {
        tracing::debug!(trigger, outcome = report.outcome.as_str(), "configuration not reloaded, as before");
    } else {
        for problem in &report.problems {
            let place = problem.place.to_string();
            tracing::error!(place, key = problem.key, hint = problem.hint, "{}", problem.message);
        }
        let (outcome, problems) = (report.outcome.as_str(), report.problems.len());
        tracing::error!(trigger, outcome, problems, "configuration not reloaded: the gate goes on by the former one");
    }
}
