//! A run that blocks.
//!
//! 1. One run at a time for an issuer, of whichever gateway or operator: whoever holds the lease in the store.
//! 2. It begins by ending with those with whom an earlier run was interrupted.
//! 3. A run that was interrupted goes on when the same is asked for again within a day: with the same time, the same name, and the
//!    same export of the issuer's users. Whom it has blocked is blocked, and so not found again.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    InactiveError, Tools,
    block::{Blocker, Done, Outcome},
    brakes::{Braked, Brakes},
    evidence::{Evidence, Registered, Trust},
    find::{self, JobKeeper, Question},
    plan::{Finding, Plan},
    progress::Step,
    records::{RunChange, TERM},
    report::{Header, UserLine},
};
use crate::{
    clock::Timestamp,
    management::access::Extent,
    token::claims::{IssuerName, SubjectId},
};

/// With how many users a run begins at a time.
const WINDOW: u64 = 32;

/// How many users are under way at once.
const AT_ONCE: usize = 4;

/// After how many users with whom it could not end a run stops: something is wrong that others would meet too.
const MAX_OPEN: usize = 100;

/// After how many failures in a row it stops, for the same reason.
const MAX_IN_A_ROW: usize = 20;

/// The pause between two looks at whether another run is over.
const PAUSE: Duration = Duration::from_secs(1);

/// How far clocks may be apart.
pub(super) const SLIP: Duration = Duration::from_secs(60);

/// How old a run may be that is gone on with: the issuer keeps its export for so long.
const FRESH: Duration = Duration::from_secs(23 * 3600);

/// Is told of each user as they are done. What it says goes before the store forgets that the user was begun with.
pub type Sink<'a> = &'a mut (dyn FnMut(&UserLine) -> Result<(), InactiveError> + Send);

/// How many users came to what.
pub type Outcomes = BTreeMap<&'static str, u64>;

/// What a run keeps of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Kept {
    run: String,
    started: i64,
    since: i64,
    /// Stands for what was asked for.
    asked: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    #[serde(default)]
    blocked: u64,
    /// The name of whom `blocked` counted last: the store may not have forgotten yet that it began with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    counted: Option<String>,
}

impl Kept {
    fn count(&mut self, name: &str) {
        self.blocked += 1;
        self.counted = Some(name.to_owned());
    }
}

/// A user with whom a run has begun, as the store keeps it.
#[derive(Serialize, Deserialize)]
struct Begun {
    user: String,
    by: String,
    since: i64,
    /// Whether the issuer is asked, or the user is blocked here only.
    issuer_asked: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoke: Option<Extent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recorded: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registered: Option<BegunRegistered>,
}

#[derive(Serialize, Deserialize)]
struct BegunRegistered {
    created: Option<i64>,
    last_login: Option<i64>,
    last_active: Option<i64>,
    never_logged_in: bool,
    doubtful: bool,
}

impl Begun {
    fn new(finding: &Finding, blocker: &Blocker<'_>) -> Self {
        let millis = |at: Option<Timestamp>| at.map(Timestamp::as_millis);
        let Evidence { recorded, registered } = finding.evidence;
        Self {
            user: finding.user.as_str().to_owned(),
            by: blocker.by.to_owned(),
            since: blocker.since.as_millis(),
            issuer_asked: blocker.users.is_some(),
            revoke: blocker.revoke,
            recorded: millis(recorded),
            registered: registered.map(|registered| BegunRegistered {
                created: millis(registered.created),
                last_login: millis(registered.last_login),
                last_active: millis(registered.last_active),
                never_logged_in: registered.never_logged_in,
                doubtful: registered.doubtful,
            }),
        }
    }

    fn finding(&self) -> Option<Finding> {
        let time = |at: Option<i64>| at.map(Timestamp::from_millis);
        let registered = self.registered.as_ref().map(|registered| Registered {
            created: time(registered.created),
            last_login: time(registered.last_login),
            last_active: time(registered.last_active),
            never_logged_in: registered.never_logged_in,
            doubtful: registered.doubtful,
        });
        let evidence = Evidence { recorded: time(self.recorded), registered };
        Some(Finding { user: (&*self.user).try_into().ok()?, evidence })
    }
}

/// The name under which the store keeps that a user was begun with: ids may be longer than names.
fn name_of(user: &SubjectId) -> String {
    let digest = digest(&SHA256, user.as_str().as_bytes());
    digest.as_ref()[..16].iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// A run that blocks, or is about to. Dropped, another may begin when its term is over; [`end`](Self::end) lets it begin at once.
#[derive(Debug)]
pub struct Run {
    tools: Tools,
    question: Question,
    owner: String,
    kept: Kept,
    /// Whether it was interrupted before.
    pub resumed: bool,
    begun: BTreeMap<String, String>,
    /// With whom it could not end so far, by name.
    open: HashSet<String>,
    lost: CancellationToken,
    _renewing: AbortOnDropHandle<()>,
}

impl Run {
    /// Begins a run, or goes on with one that was interrupted. `asked` stands for all that was asked for: another is another run.
    /// While another run is under way, it waits for as long as one that died would keep it waiting.
    ///
    /// # Errors
    /// [`InactiveError::Busy`] while another run is under way; the store's.
    pub async fn begin(tools: Tools, mut question: Question, asked: &str, owner: &str) -> Result<Self, InactiveError> {
        take(&tools, &question.issuer, owner).await?;
        // What the one before kept is read once nobody else writes it.
        let state = tools.records.run(&question.issuer).await?;
        let now = tools.clock.now();
        let asked = short_digest(&format!("{asked} {}", tools.users.is_some()));
        let kept = state.progress.as_deref().and_then(|text| serde_json::from_str::<Kept>(text).ok());
        let kept = kept.filter(|kept| {
            let started = Timestamp::from_millis(kept.started);
            // What began in the future was begun by a clock that is wrong, and its `since` is as well.
            kept.asked == asked && now.since(started) < FRESH && started.since(now) < SLIP
        });
        let resumed = kept.is_some();
        let kept = kept.unwrap_or_else(|| Kept {
            run: new_name(now),
            started: now.as_millis(),
            since: question.since.as_millis(),
            asked,
            job: None,
            blocked: 0,
            counted: None,
        });
        question.since = Timestamp::from_millis(kept.since);
        question.listing.job = kept.job.as_deref().map(Into::into);
        let lost = CancellationToken::new();
        let renewing = tokio::spawn(renew(tools.clone(), question.clone(), owner.to_owned(), lost.clone()));
        let mut begun = state.unfinished;
        // That run had ended with them; nobody is counted twice.
        let end = kept.counted.iter().filter(|name| begun.remove(*name).is_some()).cloned().collect();
        let run = Self {
            tools,
            question,
            owner: owner.to_owned(),
            kept,
            resumed,
            begun,
            open: HashSet::new(),
            lost,
            _renewing: AbortOnDropHandle::new(renewing),
        };
        run.keep(RunChange { progress: Some(Some(run.progress())), end, ..RunChange::default() }).await?;
        Ok(run)
    }

    /// The head of its report.
    ///
    /// # Errors
    /// [`InactiveError`].
    pub async fn header(&self, by: &str) -> Result<Header, InactiveError> {
        self.tools.header(&self.question, &self.kept.run, self.started(), "block", by).await
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.kept.run
    }

    /// Who it is in markers and in the audit trail.
    #[must_use]
    pub fn by(&self) -> String {
        by(&self.kept.run)
    }

    /// When it began.
    #[must_use]
    pub const fn started(&self) -> Timestamp {
        Timestamp::from_millis(self.kept.started)
    }

    /// How many it had blocked before it was interrupted.
    #[must_use]
    pub const fn blocked_before(&self) -> u64 {
        self.kept.blocked
    }

    /// How many of a plan it blocks where it may block `limit` in all, those before it was interrupted included.
    #[must_use]
    pub fn planned(&self, plan: &Plan, limit: Option<u64>) -> u64 {
        limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.kept.blocked)).min(plan.counts.inactive)
    }

    /// Refuses a plan that, with those before it was interrupted, is more than anybody meant.
    ///
    /// # Errors
    /// [`Braked`].
    pub fn check(&self, plan: &Plan, limit: Option<u64>, brakes: &Brakes) -> Result<(), Braked> {
        brakes.check(self.planned(plan, limit) + self.kept.blocked, plan.counts.known)
    }

    /// With whom an earlier run did not end.
    #[must_use]
    pub fn unfinished(&self) -> Vec<SubjectId> {
        let users = self.begun.values().filter_map(|text| serde_json::from_str::<Begun>(text).ok()?.finding());
        users.map(|finding| finding.user).collect()
    }

    /// Ends with those with whom an earlier run did not: whom it had blocked in one place is blocked in both, as that run would have. Whom
    /// it had not blocked yet is not blocked now.
    ///
    /// # Errors
    /// [`InactiveError`]: what is left is left to the next run.
    pub async fn repair(&mut self, outcomes: &mut Outcomes, sink: Sink<'_>) -> Result<(), InactiveError> {
        if self.begun.is_empty() {
            return Ok(());
        }
        self.tools.progress.begin(Step::Repair, Some(self.begun.len() as u64));
        let (trust, _) = find::trust(&*self.tools.records, &self.question, &self.tools.clock).await?;
        for (name, text) in std::mem::take(&mut self.begun) {
            let begun = serde_json::from_str::<Begun>(&text).ok();
            let Some((begun, finding)) = begun.and_then(|begun| begun.finding().map(|finding| (begun, finding))) else {
                // Nothing that this program wrote.
                self.keep(RunChange { end: vec![name], ..RunChange::default() }).await?;
                continue;
            };
            if begun.issuer_asked && self.tools.users.is_none() {
                // Whoever asks the issuer ends with them.
                self.open.insert(name);
                continue;
            }
            let since = Timestamp::from_millis(begun.since);
            let mut blocker = self.blocker(&begun.by, since, &trust, begun.revoke);
            blocker.users = blocker.users.filter(|_| begun.issuer_asked);
            let Done { outcome, stop } = blocker.end(&finding).await;
            let mut end = Vec::new();
            if let Some(outcome) = &outcome {
                self.tell(&finding, since, &trust, outcome, Some(&begun.by), outcomes, sink)?;
                if *outcome == Outcome::Repaired && begun.by == self.by() {
                    self.kept.count(&name);
                }
            }
            if matches!(outcome, Some(Outcome::Unfinished(_))) {
                self.open.insert(name);
            } else {
                end.push(name);
            }
            self.keep(RunChange { progress: Some(Some(self.progress())), end, ..RunChange::default() }).await?;
            if let Some(error) = stop {
                return Err(error);
            }
            if self.open.len() >= MAX_IN_A_ROW && self.tools.users.is_some() {
                return Err(InactiveError::TooManyOpen { open: self.open.len() });
            }
        }
        self.tools.progress.end();
        Ok(())
    }

    /// Who is to be blocked.
    ///
    /// # Errors
    /// [`InactiveError`].
    pub async fn find(&mut self) -> Result<Plan, InactiveError> {
        let Tools { records, users, progress, clock } = self.tools.clone();
        let keeper = Keeper { run: self, kept: Mutex::new(self.kept.clone()) };
        let plan = find::find(&*records, users.as_ref(), &self.question, &*progress, Some(&keeper), &clock).await;
        self.kept = keeper.kept.into_inner().unwrap_or_else(PoisonError::into_inner);
        plan
    }

    /// Blocks those of the plan who are certainly inactive, the longest inactive first, as many as are [`planned`](Self::planned). A failure
    /// with one user is told and does not stop it. `outcomes` are counted as they come.
    ///
    /// # Errors
    /// [`InactiveError`]: what would fail with everybody. The same asked for again goes on.
    pub async fn block(
        &mut self,
        plan: &Plan,
        limit: Option<u64>,
        revoke: Option<Extent>,
        outcomes: &mut Outcomes,
        sink: Sink<'_>,
    ) -> Result<(), InactiveError> {
        let mut left = self.planned(plan, limit);
        self.tools.progress.begin(Step::Block, Some(left));
        let by = self.by();
        let (mut after, mut in_a_row) = (None, 0);
        while left > 0 {
            let mut page = plan.page(true, after.as_ref(), left.min(WINDOW)).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            left -= page.len() as u64;
            // What is known of those whom an earlier run left open is not overwritten.
            page.retain(|finding| !self.open.contains(&name_of(&finding.user)));
            let begin = {
                let blocker = self.blocker(&by, plan.since, &plan.trust, revoke);
                page.iter().map(|finding| (name_of(&finding.user), encode(&Begun::new(finding, &blocker)))).collect()
            };
            self.keep(RunChange { begin, ..RunChange::default() }).await?;
            if let Some(error) = self.block_window(page, plan, revoke, outcomes, &mut in_a_row, sink).await? {
                return Err(error);
            }
            if self.open.len() >= MAX_OPEN || in_a_row >= MAX_IN_A_ROW {
                return Err(InactiveError::TooManyOpen { open: self.open.len().max(in_a_row) });
            }
        }
        self.tools.progress.end();
        Ok(())
    }

    /// Blocks users with whom it has begun. What is answered would fail with everybody; with whom nothing was done then, nothing is.
    async fn block_window(
        &mut self,
        page: Vec<Finding>,
        plan: &Plan,
        revoke: Option<Extent>,
        outcomes: &mut Outcomes,
        in_a_row: &mut usize,
        sink: Sink<'_>,
    ) -> Result<Option<InactiveError>, InactiveError> {
        let (by, mut kept) = (self.by(), self.kept.clone());
        let (mut stop, mut open) = (None, Vec::new());
        {
            let blocker = self.blocker(&by, plan.since, &plan.trust, revoke);
            let stopping = &AtomicBool::new(false);
            let one = |finding: Finding| async move {
                if stopping.load(Ordering::Relaxed) {
                    return (finding, Done { outcome: None, stop: None });
                }
                let done = blocker.block(&finding).await;
                stopping.fetch_or(done.stop.is_some(), Ordering::Relaxed);
                (finding, done)
            };
            let mut under_way = stream::iter(page).map(one).buffer_unordered(AT_ONCE);
            while let Some((finding, Done { outcome, stop: error })) = under_way.next().await {
                let name = name_of(&finding.user);
                stop = stop.or(error);
                let mut change = RunChange::default();
                if let Some(outcome) = outcome {
                    self.tell(&finding, plan.since, &plan.trust, &outcome, None, outcomes, sink)?;
                    *in_a_row = if outcome.error().is_some() { *in_a_row + 1 } else { 0 };
                    if matches!(outcome, Outcome::Unfinished(_)) {
                        open.push(name);
                        continue;
                    }
                    if outcome == Outcome::Blocked {
                        kept.count(&name);
                    }
                    change.progress = Some(Some(encode(&kept)));
                }
                change.end.push(name);
                self.keep(change).await?;
            }
        }
        self.kept = kept;
        self.open.extend(open);
        Ok(stop)
    }

    /// The run is over, whether it blocked anybody or not. With `done`, there is nothing to go on with.
    ///
    /// # Errors
    /// [`InactiveError`].
    pub async fn end(self, done: bool) -> Result<(), InactiveError> {
        if done {
            self.keep(RunChange { progress: Some(None), ..RunChange::default() }).await?;
        }
        Ok(self.tools.records.let_go(&self.question.issuer, &self.owner).await?)
    }

    #[expect(clippy::too_many_arguments, reason = "what a line is made of")]
    fn tell(
        &self,
        finding: &Finding,
        since: Timestamp,
        trust: &Trust,
        outcome: &Outcome,
        by: Option<&str>,
        outcomes: &mut Outcomes,
        sink: Sink<'_>,
    ) -> Result<(), InactiveError> {
        *outcomes.entry(outcome.as_str()).or_default() += 1;
        let mut line = UserLine::new(finding, since, trust, outcome.as_str());
        line.at = Some(self.tools.clock.now().to_string());
        line.error = outcome.error().map(str::to_owned);
        line.by = by.filter(|by| *by != self.by()).map(str::to_owned);
        sink(&line)?;
        self.tools.progress.advance(1);
        Ok(())
    }

    fn blocker<'a>(&'a self, by: &'a str, since: Timestamp, trust: &'a Trust, revoke: Option<Extent>) -> Blocker<'a> {
        let Tools { records, users, .. } = &self.tools;
        let issuer = &self.question.issuer;
        let lost = &self.lost;
        Blocker { records: &**records, users: users.as_ref(), issuer, since, trust, revoke, by, lost }
    }

    fn progress(&self) -> String {
        encode(&self.kept)
    }

    async fn keep(&self, change: RunChange) -> Result<(), InactiveError> {
        if self.lost.is_cancelled() || !self.tools.records.hold(&self.question.issuer, &self.owner, &change).await? {
            return Err(InactiveError::Lost);
        }
        Ok(())
    }
}

/// Notes the export of a run while it looks at it.
struct Keeper<'a> {
    run: &'a Run,
    kept: Mutex<Kept>,
}

#[async_trait]
impl JobKeeper for Keeper<'_> {
    async fn keep(&self, job: &str) -> Result<(), InactiveError> {
        let text = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.job = Some(job.to_owned());
            encode(&*kept)
        };
        self.run.keep(RunChange { progress: Some(Some(text)), ..RunChange::default() }).await
    }
}

/// Keeps others from running, once none does.
async fn take(tools: &Tools, issuer: &IssuerName, owner: &str) -> Result<(), InactiveError> {
    let begun = Instant::now();
    loop {
        if tools.records.hold(issuer, owner, &RunChange::default()).await? {
            return Ok(());
        }
        if begun.elapsed() > TERM + PAUSE {
            let other = tools.records.run(issuer).await?.owner;
            return Err(InactiveError::Busy { owner: other.unwrap_or_else(|| "another gateway".to_owned()) });
        }
        tools.progress.begin(Step::Wait, None);
        sleep(PAUSE).await;
    }
}

/// Says again and again that the run goes on. Whether it does is doubted before another can begin.
async fn renew(tools: Tools, question: Question, owner: String, lost: CancellationToken) {
    let mut held = Instant::now();
    loop {
        sleep(TERM / 6).await;
        let asked = Instant::now();
        let change = RunChange::default();
        match timeout(TERM / 4, tools.records.hold(&question.issuer, &owner, &change)).await {
            Ok(Ok(true)) => held = asked,
            Ok(Ok(false)) => break,
            Ok(Err(_)) | Err(_) if held.elapsed() > TERM / 2 => break,
            Ok(Err(_)) | Err(_) => {}
        }
    }
    lost.cancel();
}

/// What a run is called in markers and in the audit trail.
#[must_use]
pub fn by(run: &str) -> String {
    format!("inactive:{run}")
}

/// A name that no other run has, and that tells when it began.
#[must_use]
pub fn new_name(now: Timestamp) -> String {
    let mut random = [0; 3];
    // Without randomness the second tells them apart.
    let _ = aws_lc_rs::rand::fill(&mut random);
    let random = random.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let time: String = now.to_string().chars().filter(char::is_ascii_alphanumeric).take(15).collect();
    format!("{time}Z-{random}")
}

fn short_digest(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref()[..8].iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn encode(value: &impl Serialize) -> String {
    // Structs of strings and numbers always serialise.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
