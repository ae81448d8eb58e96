//! How far long work is: a bar on a terminal, a line now and then elsewhere.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};

use crate::{
    clock::{Clock, Timestamp},
    inactive::progress::{Progress, Step},
    management::{observer::Observer, tenant::TenantError},
};

/// How often a line is written where there is no terminal.
const LINES: Duration = Duration::from_secs(5);

/// How often a bar moves by itself.
const TICK: Duration = Duration::from_millis(200);

/// Waits that are shorter are not told.
const WORTH_TELLING: Duration = Duration::from_secs(2);

/// Tells people how a run against inactive users goes on.
#[derive(Debug)]
pub(super) struct Shown {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bar: ProgressBar,
    step: Option<Step>,
    done: u64,
    total: Option<u64>,
    begun: Instant,
    said: Instant,
    waiting: Option<Timestamp>,
    note: String,
}

impl Shown {
    pub(super) fn new(clock: Clock) -> Self {
        let now = Instant::now();
        let state = State {
            bar: ProgressBar::hidden(),
            step: None,
            done: 0,
            total: None,
            begun: now,
            said: now,
            waiting: None,
            note: String::new(),
        };
        Self { clock, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let now = self.clock.now();
        let mut state = self.state();
        change(&mut state);
        state.show(now);
    }
}

impl State {
    fn show(&mut self, now: Timestamp) {
        let Some(step) = self.step else { return };
        let wait = self.waiting.map(|until| until.since(now)).filter(|wait| *wait >= WORTH_TELLING);
        let wait = wait.map_or_else(String::new, |wait| format!(", waits {} s for the rate limit", wait.as_secs()));
        self.bar.set_position(self.done);
        self.bar.set_message(format!("{}{wait}", self.note));
        if !io::stderr().is_terminal() && self.said.elapsed() >= LINES {
            self.said = Instant::now();
            // Whoever has closed it misses that, and nothing else.
            let _ = writeln!(io::stderr(), "{}: {}{}{wait}", step.as_str(), self.line(), self.note);
        }
    }

    /// How many, how fast, and how long yet.
    fn line(&self) -> String {
        let elapsed = self.begun.elapsed().as_secs_f64().max(0.001);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let rate = self.done as f64 / elapsed;
        match self.total {
            Some(total) if rate > 0.0 => {
                #[expect(clippy::cast_precision_loss, reason = "an estimate")]
                let left = Duration::from_secs_f64((total.saturating_sub(self.done) as f64 / rate).min(1e9));
                format!("{} of {total}, {rate:.0}/s, {} to go", self.done, HumanDuration(left))
            }
            Some(total) => format!("{} of {total}", self.done),
            None if self.done > 0 => format!("{}, {rate:.0}/s", self.done),
            None => "under way".to_owned(),
        }
    }
}

impl Observer for Shown {
    fn waiting(&self, until: Timestamp) {
        self.update(|state| state.waiting = Some(until));
    }

    fn resumed(&self) {
        self.update(|state| state.waiting = None);
    }

    fn exporting(&self, percent: Option<u8>, left: Option<Duration>) {
        self.update(|state| {
            let percent = percent.map_or_else(String::new, |percent| format!(", {percent} %"));
            let left = left.map_or_else(String::new, |left| format!(", {} to go", HumanDuration(left)));
            state.note = format!("{percent}{left}");
        });
    }

    fn downloaded(&self, bytes: u64) {
        self.update(|state| state.note = format!(", {} MiB downloaded", bytes >> 20));
    }

    fn retrying(&self, attempt: u32, error: &TenantError) {
        self.update(|state| state.note = format!(", attempt {attempt} failed: {error}"));
    }
}

impl Progress for Shown {
    fn begin(&self, step: Step, total: Option<u64>) {
        if self.state().step == Some(step) {
            return;
        }
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        let template = match total {
            Some(_) => "{prefix} {bar:30} {pos}/{len}{rate} ETA {eta}{msg}",
            None => "{spinner} {prefix} {count}{msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
                let _ = write!(out, ", {:.0}/s", state.per_sec());
            };
            let count = |state: &ProgressState, out: &mut dyn fmt::Write| {
                if state.pos() > 0 {
                    let _ = write!(out, "{}, {:.0}/s", state.pos(), state.per_sec());
                }
            };
            bar.set_style(style.with_key("rate", rate).with_key("count", count));
        }
        bar.set_prefix(step.as_str());
        bar.enable_steady_tick(TICK);
        let mut state = self.state();
        state.bar.finish_and_clear();
        let now = Instant::now();
        *state = State {
            bar,
            step: Some(step),
            done: 0,
            total,
            begun: now,
            said: now.checked_sub(LINES).unwrap_or(now),
            waiting: state.waiting,
            note: String::new(),
        };
        state.show(self.clock.now());
    }

    fn advance(&self, users: u64) {
        self.update(|state| {
            state.done += users;
            if state.step != Some(Step::Look) {
                state.note.clear();
            }
        });
    }

    fn end(&self) {
        let mut state = self.state();
        state.bar.finish_and_clear();
        state.step = None;
    }
}
