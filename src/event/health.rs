//! How sources are: when each was last heard, how far behind it is, what failed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use serde::Serialize;

use super::session_event::{Batch, GapReason};
use crate::{clock::Timestamp, telemetry::with_causes};

/// From what a source that is asked does within a second, to a log that is read a day late; in seconds.
const LAGS: [f64; 12] = [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 86_400.0];

/// How often one kind of trouble of one source is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// "Never", where a time is kept in an atomic.
const NEVER: i64 = i64::MIN;

/// What became of a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Taken {
    /// Markers that changed.
    pub changed: usize,
    /// Markers that were as they should be.
    pub unchanged: usize,
    /// Events that were taken before.
    pub duplicates: usize,
    /// Subjects whose activity was recorded.
    pub active: usize,
    /// Records of which nothing comes.
    pub gaps: usize,
}

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It changed a marker.
    Changed,
    /// Its marker was there already.
    Unchanged,
    /// It was taken before.
    Duplicate,
    /// It shows that a subject was active.
    Active,
    /// Whatever it would stop is over by itself.
    Outlived,
    /// It was not let in: a wrong credential, a bad signature, too long. Anyone may have sent it.
    TurnedAway,
    /// Nothing comes of it.
    Gap(GapReason),
}

impl Outcome {
    const PLAIN: [Self; 6] =
        [Self::Changed, Self::Unchanged, Self::Duplicate, Self::Active, Self::Outlived, Self::TurnedAway];

    fn all() -> impl Iterator<Item = Self> {
        Self::PLAIN.into_iter().chain(GapReason::ALL.into_iter().map(Self::Gap))
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Duplicate => "duplicate",
            Self::Active => "active",
            Self::Outlived => "outlived",
            Self::TurnedAway => "turned_away",
            Self::Gap(reason) => reason.as_str(),
        }
    }

    fn index(self) -> usize {
        Self::all().position(|other| other == self).unwrap_or_default()
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct SourceLabel {
    source: Arc<str>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OutcomeLabels {
    source: Arc<str>,
    outcome: &'static str,
}

/// Metrics of all sources.
#[derive(Clone, Debug)]
pub struct SourceMetrics {
    events: Family<OutcomeLabels, Counter>,
    failures: Family<SourceLabel, Counter>,
    lag: Family<SourceLabel, Histogram>,
    last_received: Family<SourceLabel, Gauge<f64, AtomicU64>>,
    last_event: Family<SourceLabel, Gauge<f64, AtomicU64>>,
    backlog: Family<SourceLabel, Gauge>,
}

impl Default for SourceMetrics {
    fn default() -> Self {
        Self {
            events: Family::default(),
            failures: Family::default(),
            lag: Family::new_with_constructor(|| Histogram::new(LAGS)),
            last_received: Family::default(),
            last_event: Family::default(),
            backlog: Family::default(),
        }
    }
}

impl SourceMetrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("source_events", "Records of sources by what became of them", self.events.clone());
        registry.register(
            "source_failures",
            "Deliveries that could not be stored, and attempts to reach a source that failed",
            self.failures.clone(),
        );
        registry.register(
            "source_lag_seconds",
            "Time from when something happened to when its marker was durable",
            self.lag.clone(),
        );
        registry.register(
            "source_last_received_timestamp_seconds",
            "When a source last told anything, if only that there is nothing new; 0: not yet",
            self.last_received.clone(),
        );
        registry.register(
            "source_last_event_timestamp_seconds",
            "The time of the latest event of a source; 0: none yet",
            self.last_event.clone(),
        );
        registry.register(
            "source_backlog",
            "What a source is known to hold back: records or jobs; -1: it does not tell",
            self.backlog.clone(),
        );
    }
}

/// What a source does at present.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Activity {
    /// It waits to be told.
    #[default]
    Listening,
    /// Another gateway of the fleet asks.
    Standby,
    /// It connects, or has not asked yet.
    Connecting,
    /// It is connected, or asks regularly.
    Connected,
    /// The last attempt failed, and it will try again.
    Retrying,
    /// It will not try again before somebody mends something.
    Stopped(String),
}

impl Activity {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::Standby => "standby",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Retrying => "retrying",
            Self::Stopped(_) => "stopped",
        }
    }
}

/// How a source is.
#[derive(Debug)]
pub struct Health {
    name: Arc<str>,
    kind: &'static str,
    /// After how long without a word something is wrong.
    silence: Option<Duration>,
    received_at: AtomicI64,
    event_at: AtomicI64,
    outcomes: Vec<Counter>,
    failures: Counter,
    lag: Histogram,
    last_lag: AtomicI64,
    received_gauge: Gauge<f64, AtomicU64>,
    event_gauge: Gauge<f64, AtomicU64>,
    backlog: Gauge,
    state: Mutex<State>,
}

#[derive(Default, Debug)]
struct State {
    activity: Activity,
    last_error: Option<(Timestamp, String)>,
    last_turned_away: Option<(Timestamp, String)>,
    /// What was logged when, and how often it happened since.
    logged: BTreeMap<&'static str, (Timestamp, u64)>,
}

/// How a source is, for people and programs.
#[derive(Clone, Serialize, Debug)]
pub struct SourceReport {
    /// Its name in the settings.
    pub name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What it does.
    pub state: &'static str,
    /// Whether it has been silent for longer than it should.
    pub silent: bool,
    /// When it last told anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_received: Option<String>,
    /// The time of its latest event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_event: Option<String>,
    /// How long its latest change took from when it happened to when it was durable, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_ms: Option<i64>,
    /// What it is known to hold back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<i64>,
    /// How many of its records came to what; those that came to nothing are left out.
    pub events: BTreeMap<&'static str, u64>,
    /// How often it failed.
    pub failures: u64,
    /// When and why it last failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When and why somebody was last turned away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_turned_away: Option<String>,
}

impl Health {
    /// A source that has not said anything yet; one that says nothing for longer than `silence` is called silent.
    #[must_use]
    pub fn new(name: &Arc<str>, kind: &'static str, silence: Option<Duration>, metrics: &SourceMetrics) -> Self {
        let label = || SourceLabel { source: Arc::clone(name) };
        let counter = |outcome: Outcome| {
            metrics.events.get_or_create_owned(&OutcomeLabels { source: Arc::clone(name), outcome: outcome.as_str() })
        };
        let backlog = metrics.backlog.get_or_create_owned(&label());
        backlog.set(-1);
        Self {
            name: Arc::clone(name),
            kind,
            silence,
            received_at: AtomicI64::new(NEVER),
            event_at: AtomicI64::new(NEVER),
            outcomes: Outcome::all().map(counter).collect(),
            failures: metrics.failures.get_or_create_owned(&label()),
            lag: metrics.lag.get_or_create_owned(&label()),
            last_lag: AtomicI64::new(NEVER),
            received_gauge: metrics.last_received.get_or_create_owned(&label()),
            event_gauge: metrics.last_event.get_or_create_owned(&label()),
            backlog,
            state: Mutex::default(),
        }
    }

    /// It told something, if only that there is nothing new.
    pub fn received(&self, now: Timestamp) {
        self.received_at.fetch_max(now.as_millis(), Ordering::Relaxed);
        self.received_gauge.set(seconds(now));
    }

    /// A delivery was taken.
    pub(super) fn took(&self, now: Timestamp, batch: &Batch, taken: &Taken) {
        self.received(now);
        self.count(Outcome::Changed, taken.changed);
        self.count(Outcome::Unchanged, taken.unchanged);
        self.count(Outcome::Duplicate, taken.duplicates);
        self.count(Outcome::Active, taken.active);
        for gap in &batch.gaps {
            self.count(Outcome::Gap(gap.reason), 1);
            if gap.reason.is_suspect() {
                let since = self.since_logged(gap.reason.as_str(), now);
                if let Some(others) = since {
                    tracing::warn!(
                        source.name = %self.name,
                        reason = gap.reason.as_str(),
                        event.kind = %gap.kind,
                        event.id = gap.id.as_ref().map(super::EventId::as_str),
                        others,
                        "nothing comes of an event"
                    );
                }
            } else {
                tracing::debug!(source.name = %self.name, reason = gap.reason.as_str(), event.kind = %gap.kind, "event left out");
            }
        }
        if let Some(latest) = batch.events.iter().map(|event| event.at).max() {
            let latest = latest.min(now).as_millis();
            let before = self.event_at.fetch_max(latest, Ordering::Relaxed);
            self.event_gauge.set(seconds(Timestamp::from_millis(latest.max(before))));
        }
    }

    /// Counts what became of records.
    pub fn count(&self, outcome: Outcome, records: usize) {
        if records > 0 {
            self.outcomes[outcome.index()].inc_by(records as u64);
        }
    }

    /// A change took this long from when it happened to when it was durable.
    pub(super) fn observe_lag(&self, lag: Duration) {
        self.lag.observe(lag.as_secs_f64());
        self.last_lag.store(i64::try_from(lag.as_millis()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Something failed. It is logged, but not again and again.
    pub fn failed(&self, now: Timestamp, error: &(dyn std::error::Error + 'static)) {
        self.failures.inc();
        let text = with_causes(error);
        if let Some(others) = self.since_logged("failure", now) {
            tracing::warn!(source.name = %self.name, error = text, others, "source failed");
        }
        self.state().last_error = Some((now, text));
    }

    /// A delivery was turned away. That is no sign of life: anyone may have sent it.
    pub fn turned_away(&self, now: Timestamp, why: &(dyn std::error::Error + 'static)) {
        self.count(Outcome::TurnedAway, 1);
        let text = with_causes(why);
        if let Some(others) = self.since_logged("turned away", now) {
            tracing::warn!(source.name = %self.name, error = text, others, "delivery turned away");
        }
        self.state().last_turned_away = Some((now, text));
    }

    /// From now on it does this.
    pub fn set(&self, activity: Activity) {
        let mut state = self.state();
        if state.activity != activity {
            if let Activity::Stopped(why) = &activity {
                tracing::error!(source.name = %self.name, why, "source stopped");
            } else {
                tracing::info!(source.name = %self.name, state = activity.as_str(), "source");
            }
            state.activity = activity;
        }
    }

    /// It is known to hold back so much.
    pub fn set_backlog(&self, backlog: usize) {
        self.backlog.set(i64::try_from(backlog).unwrap_or(i64::MAX));
    }

    /// Whether it has said nothing for longer than it should.
    #[must_use]
    pub fn is_silent(&self, now: Timestamp, started: Timestamp) -> bool {
        let last = self.received_at.load(Ordering::Relaxed);
        let since = if last == NEVER { started } else { Timestamp::from_millis(last) };
        let elsewhere = self.state().activity == Activity::Standby;
        !elsewhere && self.silence.is_some_and(|silence| now.since(since) > silence)
    }

    /// How it is. `started`: since when this gateway has been running.
    #[must_use]
    pub fn report(&self, now: Timestamp, started: Timestamp) -> SourceReport {
        let time = |cell: &AtomicI64| Some(cell.load(Ordering::Relaxed)).filter(|millis| *millis != NEVER);
        let spelled = |cell: &AtomicI64| time(cell).map(|millis| Timestamp::from_millis(millis).to_string());
        let silent = self.is_silent(now, started);
        let state = self.state();
        let dated = |(at, text): &(Timestamp, String)| format!("{at} {text}");
        let last_error = match &state.activity {
            Activity::Stopped(why) => Some(why.clone()),
            _ => state.last_error.as_ref().map(dated),
        };
        SourceReport {
            name: self.name.to_string(),
            kind: self.kind,
            state: state.activity.as_str(),
            silent,
            last_received: spelled(&self.received_at),
            last_event: spelled(&self.event_at),
            lag_ms: time(&self.last_lag),
            backlog: Some(self.backlog.get()).filter(|backlog| *backlog >= 0),
            events: Outcome::all()
                .zip(&self.outcomes)
                .map(|(outcome, counter)| (outcome.as_str(), counter.get()))
                .filter(|(_, count)| *count > 0)
                .collect(),
            failures: self.failures.get(),
            last_error,
            last_turned_away: state.last_turned_away.as_ref().map(dated),
        }
    }

    /// How many others there were since this was last logged, if it is to be logged now.
    fn since_logged(&self, what: &'static str, now: Timestamp) -> Option<u64> {
        let mut state = self.state();
        let (at, others) = state.logged.entry(what).or_insert((Timestamp::MIN, 0));
        if now.since(*at) < LOG_INTERVAL && now >= *at {
            *others += 1;
            return None;
        }
        *at = now;
        Some(std::mem::take(others))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn seconds(time: Timestamp) -> f64 {
    time.as_millis() as f64 / 1000.0
}
