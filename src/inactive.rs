//! Who has been inactive for too long, and blocking them: at the issuer and here.
//!
//! The way of a run:
//! - [`find`]: all users, by the issuer's export and what is recorded here; [`evidence`] judges each (pure), [`exclusion`] leaves some out;
//! - [`plan`]: those who were found, in order, on disk;
//! - [`brakes`]: whether they are too many to be meant;
//! - [`run`], [`block`]: one after the other, at the issuer and here, so that a crash loses nobody;
//! - [`report`]: what became of each; [`undo`]: taking it back by that.
//!
//! [`records`] is what they need of the gate's store, [`progress`] what they tell meanwhile.

pub mod block;
pub mod brakes;
pub mod evidence;
pub mod exclusion;
pub mod find;
pub mod plan;
pub mod progress;
pub mod records;
pub mod report;
pub mod run;
pub mod schedule;
pub mod settings;
pub mod undo;

use std::{sync::Arc, time::Duration};

use self::{
    brakes::Braked,
    find::Question,
    plan::{Plan, PlanError},
    progress::Progress,
    records::{Records, RecordsError},
    report::{Header, ReportError, UserLine},
    run::Sink,
};
use crate::{
    clock::{Clock, Timestamp},
    management::{tenant::TenantError, users::Users},
};

/// How many users are read from a plan at a time.
const PAGE: u64 = 1000;

/// What finding and blocking works with. Clones share it.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The gate's store.
    pub records: Arc<dyn Records>,
    /// The users at the issuer; `None`: only what is recorded here is known, and only here is blocked.
    pub users: Option<Users>,
    /// Is told how it goes on.
    pub progress: Arc<dyn Progress>,
    /// What time it is.
    pub clock: Clock,
}

/// Why a run does not go on.
#[derive(Debug, thiserror::Error)]
pub enum InactiveError {
    /// The gate's store, or the gateway in front of it.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The issuer.
    #[error(transparent)]
    Tenant(#[from] TenantError),
    /// The temporary directory.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Where users are told of.
    #[error("the output cannot be written")]
    Output(#[source] std::io::Error),
    /// There are too many.
    #[error(transparent)]
    Braked(#[from] Braked),
    /// Another run is under way.
    #[error("a run is under way for this issuer (by {owner}); wait for it to end, or for {} s after it died", records::TERM.as_secs())]
    Busy {
        /// Who runs it.
        owner: String,
    },
    /// Only the issuer knows roles, connections, refresh tokens.
    #[error(
        "roles, connections and revocation need the issuer's Management API; set `management.client_id` and its secret there"
    )]
    NoManagement,
    /// What time it is, is not agreed upon.
    #[error("this machine's clock and the gate's are {} s apart, so how long users have been inactive is not known; set them right", .0.as_secs())]
    Clocks(Duration),
    /// This run was taken for dead.
    #[error(
        "the store was not heard of for too long, or another run has begun; start again, and it goes on where it was"
    )]
    Lost,
    /// It failed with too many.
    #[error(
        "it failed with {open} users, so nobody else is begun with; the report tells why; start again when issuer and store answer"
    )]
    TooManyOpen {
        /// How many.
        open: usize,
    },
}

impl Tools {
    /// Leaves the members of roles out.
    ///
    /// # Errors
    /// [`InactiveError`].
    pub async fn exclude_roles(&self, question: &mut Question, roles: &[Box<str>]) -> Result<(), InactiveError> {
        let Some(users) = &self.users else {
            return if roles.is_empty() { Ok(()) } else { Err(InactiveError::NoManagement) };
        };
        for role in roles {
            let members = users.members_of(role).await?;
            for member in &members {
                question.exclusions.add_user(member);
            }
        }
        Ok(())
    }

    /// The head of a report: it tells what the answer rests on, before anybody is looked at.
    ///
    /// # Errors
    /// [`InactiveError`].
    pub async fn header(
        &self,
        question: &Question,
        run: &str,
        started: Timestamp,
        mode: &str,
        by: &str,
    ) -> Result<Header, InactiveError> {
        let (trust, _) = find::trust(&*self.records, question, &self.clock).await?;
        Ok(Header {
            run: run.to_owned(),
            issuer: question.issuer.to_string(),
            mode: mode.to_owned(),
            started: started.to_string(),
            by: by.to_owned(),
            since: question.since.to_string(),
            recorded_since: trust.recorded_since.map(|since| since.to_string()),
            issuer_asked: self.users.is_some(),
        })
    }

    /// Tells of those who were found, `limit` at most: those who are certainly inactive, then, with
    /// `uncertain`, those of whom it is not certain.
    ///
    /// # Errors
    /// [`InactiveError`].
    pub async fn report(
        &self,
        plan: &Plan,
        limit: Option<u64>,
        uncertain: bool,
        sink: Sink<'_>,
    ) -> Result<(), InactiveError> {
        let mut left = limit.unwrap_or(u64::MAX);
        for (certain, outcome) in [(true, "found"), (false, "left")] {
            if !certain && !uncertain {
                break;
            }
            let mut after = None;
            while left > 0 {
                let page = plan.page(certain, after.as_ref(), left.min(PAGE)).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.clone());
                left -= page.len() as u64;
                for finding in &page {
                    sink(&UserLine::new(finding, plan.since, &plan.trust, outcome))?;
                }
            }
        }
        Ok(())
    }

    /// Who has been inactive, without changing anything.
    ///
    /// # Errors
    /// [`InactiveError`].
    pub async fn find(&self, question: &Question) -> Result<Plan, InactiveError> {
        find::find(&*self.records, self.users.as_ref(), question, &*self.progress, None, &self.clock).await
    }
}
