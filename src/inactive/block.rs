//! Blocking one user, at the issuer and here.
//!
//! The order: the store knows that it begins → the issuer is asked once more → blocked at the issuer → both are asked whether somebody
//! was active in between → blocked here → refresh tokens and sessions revoked → the report tells → the store forgets that it began.
//! See `docs/adr/0003-order-of-blocking.md`.
//!
//! At the issuer first: a user who is blocked only there sees so when they log in, as does whoever looks there; the issuer's own event
//! brings the marker, if a source is configured; and what the issuer refuses leaves nothing behind here. Who has been inactive has no
//! token that a marker would have to stop.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    InactiveError,
    evidence::{Standing, Trust},
    find::evidence,
    plan::Finding,
    records::{BlockedBy, Known, Records},
};
use crate::{
    clock::Timestamp,
    management::{access::Extent, tenant::TenantError, user::User, users::Users},
    token::claims::{IssuerName, Subject},
};

/// How much later than a block at the issuer its own event may bring the marker.
pub(super) const ECHO: Duration = Duration::from_secs(600);

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
    /// Cancelled when another run may have begun.
    pub(super) lost: &'a CancellationToken,
}

/// What became of a user; `None`: nothing was done.
pub(super) struct Done {
    pub(super) outcome: Option<Outcome>,
    /// What would fail with everybody.
    pub(super) stop: Option<InactiveError>,
}

impl From<Outcome> for Done {
    fn from(outcome: Outcome) -> Self {
        Self { outcome: Some(outcome), stop: None }
    }
}

impl Done {
    fn stopping_at(outcome: Outcome, error: TenantError) -> Self {
        Self { outcome: Some(outcome), stop: error.is_lasting().then(|| error.into()) }
    }
}

impl Blocker<'_> {
    /// Blocks a user with whom nobody has begun yet.
    pub(super) async fn block(&self, finding: &Finding) -> Done {
        let known = match self.look_up(finding).await {
            Ok(known) => known,
            Err(error) => return Outcome::Failed(error.to_string()).into(),
        };
        if known.blocked.is_some() {
            return Outcome::BlockedMeanwhile.into();
        }
        let Some(users) = self.users else {
            return if self.is_inactive(None, &known) {
                self.mark(finding, Outcome::Blocked).await.into()
            } else {
                Outcome::Active.into()
            };
        };
        let user = match users.get(&finding.user).await {
            Ok(Some(user)) => user,
            Ok(None) => return self.gone(finding).await.into(),
            Err(error) => return Done::stopping_at(Outcome::Failed(error.to_string()), error),
        };
        if user.blocked {
            return Outcome::BlockedMeanwhile.into();
        }
        if !self.is_inactive(Some(&user), &known) {
            return Outcome::Active.into();
        }
        if self.lost.is_cancelled() {
            return Done { outcome: None, stop: Some(InactiveError::Lost) };
        }
        match users.set_blocked(&finding.user, true).await {
            Ok(Some(user)) => self.blocked_there(finding, &user, users, Outcome::Blocked).await,
            Ok(None) => self.gone(finding).await.into(),
            Err(error) => self.refused(finding, users, error).await,
        }
    }

    /// Ends with a user with whom an earlier run had begun. Whom it had not blocked yet is not blocked now: they are found again, if
    /// they are to be.
    pub(super) async fn end(&self, finding: &Finding) -> Done {
        let known = match self.look_up(finding).await {
            Ok(known) => known,
            Err(error) => return Outcome::Unfinished(error.to_string()).into(),
        };
        let is_ours = |block: &BlockedBy| block.by.as_deref() == Some(self.by);
        let here = known.blocked.as_ref().is_some_and(is_ours);
        let nothing = Done { outcome: None, stop: None };
        let Some(users) = self.users else {
            return if here { Outcome::Repaired.into() } else { nothing };
        };
        match users.get(&finding.user).await {
            Ok(Some(user)) if user.blocked => self.blocked_there(finding, &user, users, Outcome::Repaired).await,
            // Here comes last, so it was blocked there.
            Ok(Some(_)) if here => match self.write(finding, false).await {
                Ok(()) => Outcome::UnblockedMeanwhile.into(),
                Err(error) => Outcome::Unfinished(format!("unblocked at the issuer, not here: {error}")).into(),
            },
            Ok(Some(_)) => nothing,
            Ok(None) => self.gone(finding).await.into(),
            Err(error) => Done::stopping_at(Outcome::Unfinished(error.to_string()), error),
        }
    }

    /// Blocks here as well who is blocked at the issuer by now, unless they were active before they were.
    async fn blocked_there(&self, finding: &Finding, user: &User, users: &Users, done: Outcome) -> Done {
        let known = match self.look_up(finding).await {
            Ok(known) => known,
            Err(error) => return Outcome::Unfinished(format!("blocked at the issuer, not here: {error}")).into(),
        };
        // An attempt to log in moves `last_login` of whoever is blocked, so that it tells something only right after the block.
        let user = if done == Outcome::Blocked { Some(user) } else { None };
        let seen = evidence(user, known.last_activity).judge(self.since, self.trust) == Standing::Active;
        if seen && known.blocked.is_none() {
            return match users.set_blocked(&finding.user, false).await {
                Ok(_) => Outcome::Active.into(),
                Err(error) => {
                    let text = format!("active meanwhile, and not unblocked at the issuer again: {error}");
                    Done::stopping_at(Outcome::Unfinished(text), error)
                }
            };
        }
        if known.blocked.is_none()
            && let Outcome::Unfinished(error) = self.mark(finding, Outcome::Blocked).await
        {
            return Outcome::Unfinished(format!("blocked at the issuer, not here: {error}")).into();
        }
        let Some(extent) = self.revoke else { return done.into() };
        match users.revoke(&finding.user, extent).await {
            // Nobody there has nothing there.
            Ok(_) => done.into(),
            Err(error) => {
                let text = format!("blocked, but refresh tokens or sessions live on: {error}");
                Done::stopping_at(Outcome::Unfinished(text), error)
            }
        }
    }

    /// The issuer did not block, or an attempt before the last one did: it is asked.
    async fn refused(&self, finding: &Finding, users: &Users, error: TenantError) -> Done {
        match users.get(&finding.user).await {
            Ok(Some(user)) if user.blocked => self.blocked_there(finding, &user, users, Outcome::Blocked).await,
            Ok(Some(_)) => Done::stopping_at(Outcome::Failed(error.to_string()), error),
            Ok(None) => self.gone(finding).await.into(),
            Err(_) => Done::stopping_at(Outcome::Unfinished(error.to_string()), error),
        }
    }

    async fn look_up(&self, finding: &Finding) -> Result<Known, InactiveError> {
        let known = self.records.look_up(self.issuer, std::slice::from_ref(&finding.user)).await?;
        Ok(known.into_iter().next().unwrap_or_default())
    }

    fn is_inactive(&self, user: Option<&User>, known: &Known) -> bool {
        matches!(evidence(user, known.last_activity).judge(self.since, self.trust), Standing::Inactive(_))
    }

    async fn mark(&self, finding: &Finding, done: Outcome) -> Outcome {
        match self.write(finding, true).await {
            Ok(()) => done,
            Err(error) => Outcome::Unfinished(error.to_string()),
        }
    }

    async fn write(&self, finding: &Finding, blocked: bool) -> Result<(), InactiveError> {
        let reason = match finding.evidence.latest() {
            Some(latest) if blocked => format!("not active since {}", latest.at),
            _ => "unblocked at the issuer".to_owned(),
        };
        Ok(self.records.block(&self.subject(finding), blocked, self.by, &reason).await?)
    }

    async fn gone(&self, finding: &Finding) -> Outcome {
        match self.records.forget(&self.subject(finding)).await {
            Ok(()) => Outcome::Gone,
            Err(error) => Outcome::Failed(format!("the issuer knows them no more, the index still does: {error}")),
        }
    }

    fn subject(&self, finding: &Finding) -> Subject {
        Subject { issuer: self.issuer.clone(), id: finding.user.clone() }
    }
}
