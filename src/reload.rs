//! Reload: another configuration takes over while the gate runs.
//!
//! 1. It is read as `check` reads it. Whatever is wrong with it, it changes nothing, and everything that is wrong is told: in the log, in
//!    metrics, and to who asked for it.
//! 2. It takes effect as a whole, or not at all. Settings that are taken when a gate starts are not changed; a configuration that changes
//!    one is refused, so that what runs is always what one file says.
//! 3. Reloads come one after another. Of several that are asked for at once, each is done and answered.
//!
//! - [`file`](mod@file): where it comes from.
//! - [`reloader`]: the task that does it.

pub mod file;
pub mod reloader;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    clock::Timestamp,
    config::{Config, Problem},
};

/// How many may wait for a reload.
const WAITING: usize = 16;

/// What makes a running gate read its configuration again.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ReloadMode {
    /// A signal, a request, and a change of the file.
    #[default]
    Auto,
    /// A signal, and a request.
    Signal,
    /// Nothing.
    Off,
}

/// What asked for a reload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// `SIGHUP`.
    Signal,
    /// The admin API.
    Request,
    /// A change of a file.
    Change,
}

impl Trigger {
    /// What it is called.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Request => "request",
            Self::Change => "change",
        }
    }
}

/// What a reload came to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
pub enum Outcome {
    /// Another configuration has taken over.
    Applied,
    /// It says what runs already.
    Unchanged,
    /// It has mistakes.
    Invalid,
    /// It is right, and cannot take over: because of settings that are taken at the start, or of keys that cannot be had.
    Refused,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Applied, Self::Unchanged, Self::Invalid, Self::Refused];

    /// What it is called.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Invalid => "invalid",
            Self::Refused => "refused",
        }
    }

    /// Whether what runs is what the file says.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Applied | Self::Unchanged)
    }
}

/// What a reload came to, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// When it ended.
    pub at: Timestamp,
    /// What asked for it.
    pub trigger: Trigger,
    /// What it came to.
    pub outcome: Outcome,
    /// The keys that say something else than before. Empty where they could not be read.
    pub changed: Vec<String>,
    /// What kept it from taking over.
    pub problems: Vec<Problem>,
    /// What works, and should be looked at.
    pub warnings: Vec<Problem>,
}

/// Why nothing is reloaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoReload {
    /// `reload = "off"`
    #[error("the configuration says that it is not reloaded (`reload = \"off\"`)")]
    Off,
    /// The gate was not started from a file.
    #[error("the gate has no configuration file")]
    NoFile,
    /// The gate stops.
    #[error("the gate stops")]
    Stopping,
}

/// Takes over another configuration.
#[async_trait]
pub trait Apply: Send {
    /// Goes on by this configuration; or as before, and says why. `changed`: the keys that say something else.
    async fn apply(&mut self, config: Config, changed: &[String]) -> Result<(), Vec<Problem>>;
}

type Reply = oneshot::Sender<Result<Report, NoReload>>;

/// Asks for reloads, and knows how they went. Clones share it.
#[derive(Clone, Debug)]
pub struct Reloads {
    requests: Option<mpsc::Sender<(Trigger, Reply)>>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// When the configuration that runs took over.
    since: Mutex<Timestamp>,
    last: Mutex<Option<Arc<Report>>>,
    outcomes: Family<Labels, Counter>,
    successful: Gauge,
    succeeded_at: Gauge,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

impl State {
    fn new(now: Timestamp) -> Self {
        let state = Self {
            since: Mutex::new(now),
            last: Mutex::default(),
            outcomes: Family::default(),
            successful: Gauge::default(),
            succeeded_at: Gauge::default(),
        };
        for outcome in Outcome::ALL {
            drop(state.outcomes.get_or_create(&Labels { outcome: outcome.as_str() }));
        }
        state.succeeded(now);
        state
    }

    fn succeeded(&self, at: Timestamp) {
        self.successful.set(1);
        self.succeeded_at.set(at.as_secs());
    }

    fn take(&self, report: Report) {
        self.outcomes.get_or_create(&Labels { outcome: report.outcome.as_str() }).inc();
        if report.outcome.is_success() {
            self.succeeded(report.at);
        } else {
            self.successful.set(0);
        }
        if report.outcome == Outcome::Applied {
            *self.since.lock().unwrap_or_else(PoisonError::into_inner) = report.at;
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(report));
    }
}

impl Reloads {
    /// Of a gate that has no file.
    #[must_use]
    pub fn none(now: Timestamp) -> Self {
        Self { requests: None, state: Arc::new(State::new(now)) }
    }

    /// Reads the configuration again, and resolves with what came of it.
    ///
    /// # Errors
    /// [`NoReload`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the reload to be done or not.
    pub async fn reload(&self, trigger: Trigger) -> Result<Report, NoReload> {
        let requests = self.requests.as_ref().ok_or(NoReload::NoFile)?;
        let (reply, answer) = oneshot::channel();
        requests.send((trigger, reply)).await.map_err(|_| NoReload::Stopping)?;
        answer.await.unwrap_or(Err(NoReload::Stopping))
    }

    /// When the configuration that runs took over.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        *self.state.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last reload, if there was one.
    #[must_use]
    pub fn last(&self) -> Option<Arc<Report>> {
        self.state.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Registers its metrics.
    pub fn register(&self, registry: &mut Registry) {
        let State { outcomes, successful, succeeded_at, .. } = &*self.state;
        registry.register("config_reloads", "Reloads of the configuration by what they came to", outcomes.clone());
        registry.register(
            "config_last_reload_successful",
            "Whether what runs is what the configuration said when it was last read",
            successful.clone(),
        );
        registry.register(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration was last read and found right",
            succeeded_at.clone(),
        );
    }
}
