//! Blocking one user, at the issuer and here.
//!
//! The order: the store knows that it begins → the issuer is asked once more → blocked at the issuer → blocked here → refresh tokens
//! and sessions revoked → the report tells → the store forgets that it began. See `docs/adr/0003-order-of-blocking.md`.
//!
//! At the issuer first: a user who is blocked only there sees so when they log in, as does whoever looks there; the issuer's own event
//! brings the marker, if a source is configured; and what the issuer refuses leaves nothing behind here. Who has been inactive has no
//! token that a marker would have to stop.

use super::{
    InactiveError,
    evidence::{Standing, Trust},
    find::evidence,
    plan::Finding,
    records::{Known, Records},
};
use crate::{
    clock::Timestamp,
    management::{access::Extent, tenant::TenantError, user::User, users::Users},
    token::claims::{IssuerName, Subject},
};

/// What became of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Blocked, at the issuer if there is one to ask, and here.
    Blocked,
    /// The same, begun by a run that was interrupted.
    Repaired,
    /// Seen since the plan was made, or not certainly inactive any more. Not blocked.
    Active,
    /// Blocked by somebody else meanwhile.
    BlockedMeanwhile,
    /// Unblocked by somebody else after an interrupted run had blocked them; left so.
    UnblockedMeanwhile,
    /// The issuer knows them no more.
    Gone,
    /// Not blocked, nowhere.
    Failed(String),
    /// Perhaps blocked in one place only. The next run ends it.
    Unfinished(String),
}

impl Outcome {
    /// Its name in reports.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Repaired => "repaired",
            Self::Active => "active",
            Self::BlockedMeanwhile => "blocked_meanwhile",
            Self::UnblockedMeanwhile => "unblocked_meanwhile",
            Self::Gone => "gone",
            Self::Failed(_) => "failed",
            Self::Unfinished(_) => "unfinished",
        }
    }

    /// What went wrong.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Failed(error) | Self::Unfinished(error) => Some(error),
            _ => None,
        }
    }
}

/// What blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocker<'a> {
    pub(super) records: &'a dyn Records,
    pub(super) users: Option<&'a Users>,
    pub(super) issuer: &'a IssuerName,
    pub(super) since: Timestamp,
    pub(super) trust: &'a Trust,
    pub(super) revoke: Option<Extent>,
    /// Who asks for it, as markers say.
    pub(super) by: &'a str,
}

/// What became of a user, and whether the run must stop: what failed would fail with everybody.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) outcome: Outcome,
    pub(super) stop: Option<InactiveError>,
}

impl From<Outcome> for Done {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, stop: None }
    }
}

impl Blocker<'_> {
    /// Blocks a user. `resumed`: an earlier run had begun with it.
    pub(super) async fn block(&self, finding: &Finding, resumed: bool) -> Done {
        let done = if resumed { Outcome::Repaired } else { Outcome::Blocked };
        let known = match self.look_up(finding).await {
            Ok(known) => known,
            Err(error) => return Self::unsure(resumed, error.to_string()),
        };
        let Some(users) = self.users else {
            return self.block_here(finding, &known, done, resumed).await;
        };
        let user = match users.get(&finding.user).await {
            Ok(Some(user)) => user,
            Ok(None) => return self.gone(finding).await,
            Err(error) if error.is_lasting() => {
                let outcome = Self::unsure(resumed, error.to_string()).outcome;
                return Done { outcome, stop: Some(error.into()) };
            }
            Err(error) => return Self::unsure(resumed, error.to_string()),
        };
        if user.blocked {
            if !resumed {
                return Outcome::BlockedMeanwhile.into();
            }
        } else {
            match &known.blocked {
                // Here comes last, so it was blocked there.
                Some(block) if resumed && block.by.as_deref() == Some(self.by) => {
                    return self.unblocked_meanwhile(finding).await;
                }
                Some(_) => return Outcome::BlockedMeanwhile.into(),
                None => {}
            }
            if !self.is_inactive(Some(&user), &known) {
                return Outcome::Active.into();
            }
            match users.set_blocked(&finding.user, true).await {
                Ok(Some(_)) => {}
                Ok(None) => return self.gone(finding).await,
                Err(error) => return Self::refused(error),
            }
        }
        if known.blocked.is_none()
            && let Err(error) = self.mark(finding, true).await
        {
            return Outcome::Unfinished(format!("blocked at the issuer, not here: {error}")).into();
        }
        match self.revoke {
            Some(extent) => match users.revoke(&finding.user, extent).await {
                // Nobody there has nothing there.
                Ok(_) => done.into(),
                Err(error) => {
                    let outcome =
                        Outcome::Unfinished(format!("blocked, but refresh tokens or sessions live on: {error}"));
                    Done { outcome, stop: error.is_lasting().then(|| error.into()) }
                }
            },
            None => done.into(),
        }
    }

    /// Without an issuer to ask.
    async fn block_here(&self, finding: &Finding, known: &Known, done: Outcome, resumed: bool) -> Done {
        if known.blocked.is_some() {
            return if resumed { done } else { Outcome::BlockedMeanwhile }.into();
        }
        if !self.is_inactive(None, known) {
            return Outcome::Active.into();
        }
        match self.mark(finding, true).await {
            Ok(()) => done.into(),
            Err(error) => Outcome::Unfinished(error.to_string()).into(),
        }
    }

    async fn look_up(&self, finding: &Finding) -> Result<Known, InactiveError> {
        let known = self.records.look_up(self.issuer, std::slice::from_ref(&finding.user)).await?;
        Ok(known.into_iter().next().unwrap_or_default())
    }

    fn is_inactive(&self, user: Option<&User>, known: &Known) -> bool {
        matches!(evidence(user, known.last_activity).judge(self.since, self.trust), Standing::Inactive(_))
    }

    async fn mark(&self, finding: &Finding, blocked: bool) -> Result<(), InactiveError> {
        let reason = match finding.evidence.latest() {
            Some(latest) if blocked => format!("not active since {}", latest.at),
            _ => "unblocked at the issuer".to_owned(),
        };
        Ok(self.records.block(&self.subject(finding), blocked, self.by, &reason).await?)
    }

    /// It is not blocked there, and whoever did that did not mean it to be here.
    async fn unblocked_meanwhile(&self, finding: &Finding) -> Done {
        match self.mark(finding, false).await {
            Ok(()) => Outcome::UnblockedMeanwhile.into(),
            Err(error) => Outcome::Unfinished(format!("unblocked at the issuer, not here: {error}")).into(),
        }
    }

    async fn gone(&self, finding: &Finding) -> Done {
        match self.records.forget(&self.subject(finding)).await {
            Ok(()) => Outcome::Gone.into(),
            Err(error) => {
                Outcome::Failed(format!("the issuer knows them no more, the index still does: {error}")).into()
            }
        }
    }

    fn subject(&self, finding: &Finding) -> Subject {
        Subject { issuer: self.issuer.clone(), id: finding.user.clone() }
    }

    /// Nothing was done by this run, but perhaps by the one before.
    fn unsure(resumed: bool, error: String) -> Done {
        if resumed { Outcome::Unfinished(error) } else { Outcome::Failed(error) }.into()
    }

    /// The issuer did not block. Whether it did all the same is known only where it said no.
    fn refused(error: TenantError) -> Done {
        let certain = error.is_final() || error.is_lasting() || matches!(error, TenantError::RateLimited { .. });
        let text = error.to_string();
        let outcome = if certain { Outcome::Failed(text) } else { Outcome::Unfinished(text) };
        Done { outcome, stop: error.is_lasting().then(|| error.into()) }
    }
}
