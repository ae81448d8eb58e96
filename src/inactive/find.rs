//! Finding those who have been inactive: all users of an issuer, and what is recorded of them here.
//!
//! With a Management API, the issuer's users are the list, and those whom its own evidence leaves in doubt are looked up here. Without
//! one, the list is the gate's own index, which holds whoever was ever admitted.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    InactiveError,
    evidence::{Evidence, Registered, Trust},
    exclusion::Exclusions,
    plan::{Finding, Plan},
    progress::{Progress, Step},
    records::{MAX_LOOK_UP, Records},
    run::SLIP,
};
use crate::{
    clock::{Clock, Timestamp},
    management::{
        listing::{Listed, Listing},
        user::User,
        users::Users,
    },
    token::claims::{IssuerName, SubjectId},
};

/// How many users are read from the gate's own index at a time.
const PAGE: usize = 5000;

/// Who is looked for.
#[derive(Clone, Debug)]
pub struct Question {
    /// Whose users.
    pub issuer: IssuerName,
    /// Since when they have to have been inactive.
    pub since: Timestamp,
    /// Since when the operator vouches for complete recording, whatever the gate knows of it.
    pub recorded_since: Option<Timestamp>,
    /// How long a login lasts at most; see [`Trust`].
    pub login_lifetime: Option<Duration>,
    /// How often `last_active` is written at least; see [`Trust`].
    pub last_active_lifetime: Option<Duration>,
    /// Who is left out.
    pub exclusions: Exclusions,
    /// Which users the issuer is asked for, and how.
    pub listing: Listing,
}

/// Keeps the name of the issuer's export, so that a run that was interrupted uses it again.
#[async_trait]
pub(super) trait JobKeeper: Send + Sync {
    async fn keep(&self, job: &str) -> Result<(), InactiveError>;
}

impl Registered {
    fn of(user: &User) -> Self {
        Self {
            created: user.created_at,
            last_login: user.last_login,
            last_active: user.last_active,
            never_logged_in: user.logins.unwrap_or_default() == 0,
            doubtful: user.doubtful,
        }
    }
}

/// Evidence of what the issuer tells and what is recorded here.
pub(super) fn evidence(user: Option<&User>, recorded: Option<Timestamp>) -> Evidence {
    Evidence { recorded, registered: user.map(Registered::of) }
}

/// What the evidence rests on.
pub(super) async fn trust(
    records: &dyn Records,
    question: &Question,
    clock: &Clock,
) -> Result<(Trust, u64), InactiveError> {
    let overview = records.overview(&question.issuer, question.since).await?;
    let here = clock.now();
    let apart = here.since(overview.now).max(overview.now.since(here));
    // The question is asked by the clock here, and the record is by that there.
    if apart > SLIP {
        return Err(InactiveError::Clocks(apart));
    }
    let trust = Trust {
        // However long it was recorded, it is known for as long as it is kept.
        recorded_since: match (overview.recorded_since, question.recorded_since) {
            (Some(known), Some(vouched)) => Some(known.min(vouched.max(overview.kept_since))),
            (known, vouched) => known.or(vouched.map(|vouched| vouched.max(overview.kept_since))),
        },
        delay: overview.delay,
        login_lifetime: question.login_lifetime,
        last_active_lifetime: question.last_active_lifetime,
    };
    Ok((trust, overview.count.known))
}

/// Who has been inactive, sorted.
pub(super) async fn find(
    records: &dyn Records,
    users: Option<&Users>,
    question: &Question,
    progress: &dyn Progress,
    keeper: Option<&dyn JobKeeper>,
    clock: &Clock,
) -> Result<Plan, InactiveError> {
    let (trust, known) = trust(records, question, clock).await?;
    let mut search = Search { records, question, plan: Plan::new(question.since, trust)? };
    match users {
        Some(users) => search.at_issuer(users, progress, keeper).await?,
        None => search.in_index(known, progress).await?,
    }
    progress.begin(Step::Sort, None);
    search.plan.sort().await?;
    progress.end();
    Ok(search.plan)
}

struct Search<'a> {
    records: &'a dyn Records,
    question: &'a Question,
    plan: Plan,
}

impl Search<'_> {
    async fn at_issuer(
        &mut self,
        users: &Users,
        progress: &dyn Progress,
        keeper: Option<&dyn JobKeeper>,
    ) -> Result<(), InactiveError> {
        progress.begin(Step::Export, None);
        let mut everyone = users.everyone(self.question.listing.clone());
        let mut looking = false;
        while let Some(listed) = everyone.next().await {
            match listed? {
                Listed::Job(job) => {
                    if let Some(keeper) = keeper {
                        keeper.keep(&job).await?;
                    }
                }
                Listed::Unreadable(count) => {
                    self.plan.counts.known += count;
                    self.plan.counts.unreadable += count;
                }
                Listed::Users(batch) => {
                    if !looking {
                        looking = true;
                        progress.begin(Step::Look, None);
                    }
                    progress.advance(batch.len() as u64);
                    for batch in batch.chunks(MAX_LOOK_UP) {
                        self.look_at(batch).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Only those are looked up here whom the issuer itself has not seen since.
    async fn look_at(&mut self, users: &[User]) -> Result<(), InactiveError> {
        let counts = &mut self.plan.counts;
        counts.known += users.len() as u64;
        let mut doubted = Vec::new();
        for user in users {
            let seen = evidence(Some(user), None).latest().is_some_and(|latest| latest.at >= self.question.since);
            if self.question.exclusions.has(&user.id) {
                counts.excluded += 1;
            } else if user.blocked {
                counts.blocked += 1;
            } else if seen {
                counts.active += 1;
            } else {
                doubted.push(user);
            }
        }
        let ids: Vec<SubjectId> = doubted.iter().map(|user| user.id.clone()).collect();
        self.add(ids, |at, recorded| evidence(Some(doubted[at]), recorded)).await
    }

    async fn in_index(&mut self, known: u64, progress: &dyn Progress) -> Result<(), InactiveError> {
        let Question { issuer, since, .. } = self.question;
        progress.begin(Step::Look, None);
        let (mut after, mut looked_at) = (None, 0);
        loop {
            let page = self.records.inactive(issuer, *since, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            looked_at += page.len() as u64;
            progress.advance(page.len() as u64);
            let (out, ids): (Vec<_>, Vec<_>) =
                page.into_iter().map(|seen| seen.subject).partition(|user| self.question.exclusions.has(user));
            self.plan.counts.excluded += out.len() as u64;
            for ids in ids.chunks(MAX_LOOK_UP) {
                self.add(ids.to_vec(), |_, recorded| evidence(None, recorded)).await?;
            }
        }
        let counts = &mut self.plan.counts;
        counts.known = known.max(looked_at);
        counts.active += counts.known - looked_at;
        Ok(())
    }

    async fn add(
        &mut self,
        ids: Vec<SubjectId>,
        evidence: impl Fn(usize, Option<Timestamp>) -> Evidence,
    ) -> Result<(), InactiveError> {
        if ids.is_empty() {
            return Ok(());
        }
        let known = self.records.look_up(&self.question.issuer, &ids).await?;
        let mut findings = Vec::new();
        for (at, (user, known)) in ids.into_iter().zip(known).enumerate() {
            if known.blocked.is_some() {
                self.plan.counts.blocked += 1;
            } else {
                findings.push(Finding { user, evidence: evidence(at, known.last_activity) });
            }
        }
        Ok(self.plan.add(findings).await?)
    }
}
