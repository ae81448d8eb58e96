//! Runs that a gateway begins by itself: one of a fleet, in turns that a restart does not repeat.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::time::sleep;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

use super::{
    InactiveError, Tools,
    progress::{Progress, Step},
    records::Records,
    report::{Line, Report, Summary, UserLine},
    run::{Outcomes, Run, new_name},
    settings::{InactiveSettings, Schedule},
};
use crate::{
    clock::{Clock, Timestamp},
    event::lead::{Lead, TERM},
    http_client::HttpClient,
    management::{observer::Observer, tenant::Tenant, tenant::TenantError, users::Users},
    store::{Notes, StoreError},
    token::claims::IssuerName,
};

/// How often it is looked whether a run is due.
const LOOK: Duration = Duration::from_secs(5);

/// The shortest and the longest pause after a run that failed.
const SOON: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(3600);

/// What is run by itself, and how it went. Clones share it.
#[derive(Clone, Debug)]
pub struct Scheduled {
    settings: Arc<InactiveSettings>,
    records: Arc<dyn Records>,
    notes: Arc<dyn Notes>,
    http: HttpClient,
    clock: Clock,
    metrics: ScheduleMetrics,
}

/// How runs went. Clones share them.
#[derive(Clone, Default, Debug)]
struct ScheduleMetrics {
    found: Family<StandingLabels, Gauge>,
    outcomes: Family<OutcomeLabels, Counter>,
    runs: Family<RunLabels, Counter>,
    ended: Family<IssuerLabels, Gauge>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct IssuerLabels {
    issuer: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct StandingLabels {
    issuer: String,
    standing: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OutcomeLabels {
    issuer: String,
    outcome: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RunLabels {
    issuer: String,
    result: &'static str,
}

/// What runs by itself. Dropped, it stops at once.
#[derive(Debug)]
pub struct Running {
    tasks: Vec<AbortOnDropHandle<()>>,
    stop: DropGuard,
}

impl Running {
    /// Stops, and resolves when it has. A run that is under way goes on where another gateway, or this one, begins again.
    pub async fn stop(self) {
        self.stop.disarm().cancel();
        for task in self.tasks {
            // One that panicked has nothing left to wait for.
            let _ = task.await;
        }
    }
}

/// Writes to the log, now and then.
#[derive(Debug)]
struct Logged {
    issuer: IssuerName,
    state: std::sync::Mutex<(Step, u64, tokio::time::Instant)>,
}

/// How often a run that goes on is logged.
const LINES: Duration = Duration::from_secs(30);

impl Logged {
    fn new(issuer: &IssuerName) -> Self {
        let state = std::sync::Mutex::new((Step::Look, 0, tokio::time::Instant::now()));
        Self { issuer: issuer.clone(), state }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, (Step, u64, tokio::time::Instant)> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Observer for Logged {
    fn waiting(&self, until: Timestamp) {
        tracing::debug!(issuer = %self.issuer, %until, "the issuer's rate limit is waited for");
    }

    fn retrying(&self, attempt: u32, error: &TenantError) {
        tracing::debug!(issuer = %self.issuer, attempt, error = error as &dyn std::error::Error, "the issuer is asked again");
    }
}

impl Progress for Logged {
    fn begin(&self, step: Step, total: Option<u64>) {
        *self.state() = (step, 0, tokio::time::Instant::now());
        tracing::info!(issuer = %self.issuer, total, "inactive users: {}", step.as_str());
    }

    fn advance(&self, users: u64) {
        let mut state = self.state();
        state.1 += users;
        if state.2.elapsed() >= LINES {
            state.2 = tokio::time::Instant::now();
            tracing::info!(issuer = %self.issuer, users = state.1, "inactive users: {}", state.0.as_str());
        }
    }
}

impl Scheduled {
    /// Runs that the settings ask for, if any.
    #[must_use]
    pub fn new(
        settings: InactiveSettings,
        records: Arc<dyn Records>,
        notes: Arc<dyn Notes>,
        http: &HttpClient,
        clock: &Clock,
    ) -> Self {
        let (settings, metrics) = (Arc::new(settings), ScheduleMetrics::default());
        Self { settings, records, notes, http: http.clone(), clock: clock.clone(), metrics }
    }

    /// Registers their metrics.
    pub fn register(&self, registry: &mut Registry) {
        if self.settings.schedule.is_none() {
            return;
        }
        let metrics = &self.metrics;
        registry.register("inactive_users", "Users by standing, as the last run found them", metrics.found.clone());
        registry.register(
            "inactive_outcomes",
            "What became of users that runs were to block",
            metrics.outcomes.clone(),
        );
        registry.register("inactive_runs", "Runs against inactive users, by result", metrics.runs.clone());
        registry.register(
            "inactive_last_run_timestamp_seconds",
            "When the last run ended that came to its end; 0: none of this gateway has",
            metrics.ended.clone(),
        );
        for issuer in self.settings.schedule.iter().flat_map(|schedule| &schedule.issuers) {
            for result in ["done", "failed", "braked", "busy"] {
                self.metrics.runs.get_or_create_owned(&RunLabels { issuer: issuer.to_string(), result });
            }
            self.metrics.ended.get_or_create_owned(&IssuerLabels { issuer: issuer.to_string() });
        }
    }

    /// Begins. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(&self, owner: &Arc<str>) -> Running {
        let stop = CancellationToken::new();
        let issuers = self.settings.schedule.iter().flat_map(|schedule| schedule.issuers.clone());
        let tasks = issuers.map(|issuer| {
            let (this, owner, stopped) = (self.clone(), Arc::clone(owner), stop.clone());
            AbortOnDropHandle::new(tokio::spawn(async move { this.lead(issuer, owner, stopped).await }))
        });
        Running { tasks: tasks.collect(), stop: stop.drop_guard() }
    }

    async fn lead(self, issuer: IssuerName, owner: Arc<str>, stop: CancellationToken) {
        let name = format!("inactive-schedule:{issuer}").into();
        let lead = Lead { name, owner: Arc::clone(&owner), term: TERM };
        let notes = Arc::clone(&self.notes);
        lead.run(&*notes, &stop, || {}, |lost| self.work(&issuer, &owner, lost)).await;
    }

    async fn work(&self, issuer: &IssuerName, owner: &str, lost: CancellationToken) {
        let Some(schedule) = &self.settings.schedule else { return };
        let late = random_up_to(schedule.jitter);
        let mut not_before = None;
        while !lost.is_cancelled() {
            let now = self.clock.now();
            if not_before.is_none_or(|not_before| now >= not_before) {
                match self.due(issuer, schedule, late).await {
                    Ok(due) if now >= due => {
                        let run = lost.run_until_cancelled(self.run(issuer, schedule, owner));
                        not_before = match run.await {
                            Some(Err(())) => Some(self.clock.now().plus((schedule.every / 4).clamp(SOON, AGAIN))),
                            Some(Ok(())) | None => None,
                        };
                    }
                    Ok(_) => {}
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(%issuer, error, "when inactive users were last looked for is not known");
                    }
                }
            }
            tokio::select! {
                () = lost.cancelled() => {}
                () = sleep(LOOK.min(schedule.every)) => {}
            }
        }
    }

    /// When the next run is due. The first is soon, and so is one that was interrupted.
    async fn due(&self, issuer: &IssuerName, schedule: &Schedule, late: Duration) -> Result<Timestamp, StoreError> {
        let last = self.notes.note(&last_note(issuer)).await?;
        let last = last.and_then(|text| text.parse().ok()).map(Timestamp::from_millis);
        let now = self.clock.now();
        Ok(match last {
            // A time that lies far ahead is a slip of some clock.
            Some(last) if last.since(now) <= schedule.every => last.plus(schedule.every).plus(late),
            _ => Timestamp::MIN,
        })
    }

    /// One run, told in log and metrics. `Err`: it is tried again before the next is due.
    async fn run(&self, issuer: &IssuerName, schedule: &Schedule, owner: &str) -> Result<(), ()> {
        let result = self.attempt(issuer, schedule, owner).await;
        let label = match &result {
            Ok(()) => "done",
            Err(InactiveError::Braked(_)) => "braked",
            Err(InactiveError::Busy { .. }) => "busy",
            Err(_) => "failed",
        };
        self.metrics.runs.get_or_create_owned(&RunLabels { issuer: issuer.to_string(), result: label }).inc();
        match &result {
            Ok(()) => {}
            Err(InactiveError::Busy { owner }) => {
                tracing::info!(%issuer, owner, "inactive users are looked for by another");
            }
            Err(error) => {
                let error = error as &dyn std::error::Error;
                tracing::error!(%issuer, error, "the run against inactive users did not come to its end");
            }
        }
        // Braked, the next would be as well: it waits for its turn.
        if matches!(result, Ok(()) | Err(InactiveError::Braked(_))) {
            let ended = self.clock.now();
            self.metrics.ended.get_or_create_owned(&IssuerLabels { issuer: issuer.to_string() }).set(ended.as_secs());
            let name = last_note(issuer);
            let noted = async {
                let before = self.notes.note(&name).await?;
                self.notes.swap_note(&name, before.as_deref(), Some(&ended.as_millis().to_string())).await
            };
            if let Err(error) = noted.await {
                tracing::warn!(%issuer, error = &error as &dyn std::error::Error, "that a run ended could not be noted");
            }
            return Ok(());
        }
        Err(())
    }

    async fn attempt(&self, issuer: &IssuerName, schedule: &Schedule, owner: &str) -> Result<(), InactiveError> {
        let settings = &self.settings;
        let Some(inactive_for) = settings.inactive_for else { return Ok(()) };
        let progress: Arc<dyn Progress> = Arc::new(Logged::new(issuer));
        let users = settings.tenants.get(issuer).map(|tenant| {
            let tenant = Tenant::new(tenant.clone(), self.http.clone(), self.clock.clone());
            Users::new(tenant, Arc::clone(&progress) as Arc<dyn Observer>)
        });
        let tools = Tools { records: Arc::clone(&self.records), users, progress, clock: self.clock.clone() };
        let mut question = settings.question(issuer.clone(), inactive_for, self.clock.now());
        if tools.users.is_none() && (settings.connection.is_some() || settings.revoke.is_some()) {
            return Err(InactiveError::NoManagement);
        }
        tools.exclude_roles(&mut question, &settings.exclude_roles).await?;
        let path = |run: &str| schedule.reports.join(format!("inactive-{issuer}-{run}.ndjson"));
        if !schedule.block {
            let started = self.clock.now();
            let header = tools.header(&question, &new_name(started), started, "report", "schedule").await?;
            let mut report = Report::open(&path(&header.run), &header, &[])?;
            let plan = tools.find(&question).await?;
            self.note_counts(issuer, &plan.counts);
            tools.report(&plan, None, false, &mut |line| Ok(report.write(&Line::User(line.clone()))?)).await?;
            report.write(&Line::Summary(Summary::new(&plan.counts, &Outcomes::new(), self.clock.now())))?;
            return Ok(report.sync()?);
        }
        let mut run = Run::begin(tools.clone(), question, &settings.asked(inactive_for), owner).await?;
        let header = run.header("schedule").await?;
        let mut report = Report::open(&path(run.name()), &header, &run.unfinished())?;
        let result = self.block(issuer, &mut run, &mut report).await;
        // Braked or done, there is nothing to go on with.
        let done = matches!(result, Ok(()) | Err(InactiveError::Braked(_)));
        let ended = run.end(done).await;
        result.and(ended)
    }

    async fn block(&self, issuer: &IssuerName, run: &mut Run, report: &mut Report) -> Result<(), InactiveError> {
        let InactiveSettings { revoke, brakes, limit, .. } = &*self.settings;
        let mut sink = |line: &UserLine| Ok(report.write(&Line::User(line.clone()))?);
        let mut outcomes = Outcomes::new();
        let done = async {
            run.repair(&mut outcomes, &mut sink).await?;
            let plan = run.find().await?;
            self.note_counts(issuer, &plan.counts);
            let braked = run.check(&plan, *limit, brakes);
            if braked.is_ok() {
                run.block(&plan, *limit, *revoke, &mut outcomes, &mut sink).await?;
            }
            Ok::<_, InactiveError>((plan, braked))
        };
        let done = done.await;
        for (outcome, count) in &outcomes {
            let labels = OutcomeLabels { issuer: issuer.to_string(), outcome };
            self.metrics.outcomes.get_or_create_owned(&labels).inc_by(*count);
        }
        let (plan, braked) = done?;
        report.write(&Line::Summary(Summary::new(&plan.counts, &outcomes, self.clock.now())))?;
        report.sync()?;
        let blocked = outcomes.get("blocked").copied().unwrap_or_default();
        tracing::info!(%issuer, run = run.name(), blocked, found = plan.counts.inactive, "the run against inactive users is over");
        Ok(braked?)
    }

    fn note_counts(&self, issuer: &IssuerName, counts: &super::plan::Counts) {
        let standings = [
            ("active", counts.active),
            ("inactive", counts.inactive),
            ("uncertain", counts.uncertain),
            ("excluded", counts.excluded),
            ("blocked", counts.blocked),
            ("unreadable", counts.unreadable),
        ];
        for (standing, count) in standings {
            let gauge =
                self.metrics.found.get_or_create_owned(&StandingLabels { issuer: issuer.to_string(), standing });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

/// The note of when the last run ended, in milliseconds.
fn last_note(issuer: &IssuerName) -> String {
    format!("inactive-last:{issuer}")
}

fn random_up_to(most: Duration) -> Duration {
    let mut random = [0; 4];
    // Without randomness it is not late.
    let _ = aws_lc_rs::rand::fill(&mut random);
    most.mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
}
