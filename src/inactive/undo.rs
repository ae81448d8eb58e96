//! Taking back what a run did, by its report.
//!
//! The issuer first, then here, as when blocking; repeated, it does what is left. Whom somebody else has blocked since is left alone.
//! Refresh tokens and sessions that were revoked stay so: people log in again.

use futures_util::{StreamExt as _, stream};

use super::{
    InactiveError, Tools,
    progress::Step,
    records::BlockedBy,
    report::{Header, ReportError, UserLine},
    run::{Outcomes, Sink},
};
use crate::{
    marker::Source,
    token::claims::{IssuerName, Subject, SubjectId},
};

/// How many users are under way at once.
const AT_ONCE: usize = 4;

/// The outcomes of a run that are taken back.
pub const TAKEN_BACK: [&str; 3] = ["blocked", "repaired", "unfinished"];

/// What became of taking it back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Undone {
    /// Unblocked.
    Unblocked,
    /// They were not blocked any more.
    NotBlocked,
    /// Somebody else has blocked them since.
    BlockedByAnother,
    /// The issuer knows them no more.
    Gone,
    /// Perhaps unblocked in one place only.
    Failed(String),
}

impl Undone {
    /// Its name in reports.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unblocked => "unblocked",
            Self::NotBlocked => "not_blocked",
            Self::BlockedByAnother => "blocked_by_another",
            Self::Gone => "gone",
            Self::Failed(_) => "failed",
        }
    }
}

impl Tools {
    /// Unblocks users that a run has blocked.
    ///
    /// # Errors
    /// [`InactiveError`]: what would fail with everybody.
    pub async fn undo(
        &self,
        issuer: &IssuerName,
        report: &Header,
        lines: impl Iterator<Item = Result<UserLine, ReportError>> + Send,
        by: &str,
        sink: Sink<'_>,
    ) -> Result<Outcomes, InactiveError> {
        self.progress.begin(Step::Undo, None);
        let blocked_by = super::run::by(&report.run);
        let reason = format!("run {} undone", report.run);
        let mut outcomes = Outcomes::new();
        let (blocked_by, reason) = (&blocked_by, &reason);
        let one = |line: Result<UserLine, ReportError>| async move {
            let line = line?;
            let undone = self.unblock(issuer, &line.user, Some(blocked_by), by, reason).await?;
            Ok::<_, InactiveError>((line, undone))
        };
        let mut under_way = stream::iter(lines).map(one).buffer_unordered(AT_ONCE);
        while let Some(done) = under_way.next().await {
            let (line, undone) = done?;
            *outcomes.entry(undone.as_str()).or_default() += 1;
            let error = if let Undone::Failed(error) = &undone { Some(error.clone()) } else { None };
            let at = Some(self.clock.now().to_string());
            sink(&UserLine { outcome: undone.as_str().to_owned(), at, error, ..line })?;
            self.progress.advance(1);
        }
        self.progress.end();
        Ok(outcomes)
    }

    /// Unblocks a user, at the issuer and here, unless somebody else than `blocked_by` has blocked them.
    ///
    /// # Errors
    /// [`InactiveError`]: what would fail with everybody.
    pub async fn unblock(
        &self,
        issuer: &IssuerName,
        user: &str,
        blocked_by: Option<&str>,
        by: &str,
        reason: &str,
    ) -> Result<Undone, InactiveError> {
        let Ok(id) = SubjectId::try_from(user) else { return Ok(Undone::Failed("not a user id".to_owned())) };
        let subject = Subject { issuer: issuer.clone(), id };
        let known = match self.records.look_up(issuer, std::slice::from_ref(&subject.id)).await {
            Ok(known) => known.into_iter().next().unwrap_or_default(),
            Err(error) => return Ok(Undone::Failed(error.to_string())),
        };
        let is_of_another = |block: &BlockedBy| {
            let operators = [Source::Admin, Source::Inactive].map(Source::as_str);
            blocked_by.is_some_and(|blocked_by| block.by.as_deref() != Some(blocked_by))
                && block.source.as_deref().is_none_or(|source| operators.contains(&source))
        };
        if known.blocked.as_ref().is_some_and(is_of_another) {
            return Ok(Undone::BlockedByAnother);
        }
        let mut unblocked = false;
        if let Some(users) = &self.users {
            let there = async {
                match users.get(&subject.id).await? {
                    None => Ok(None),
                    Some(user) if user.blocked => Ok(users.set_blocked(&subject.id, false).await?.map(|_| true)),
                    Some(_) => Ok(Some(false)),
                }
            };
            match there.await {
                Ok(Some(changed)) => unblocked = changed,
                Ok(None) => return Ok(Undone::Gone),
                Err(error) if crate::management::tenant::TenantError::is_lasting(&error) => return Err(error.into()),
                Err(error) => return Ok(Undone::Failed(error.to_string())),
            }
        }
        let here = async {
            if known.blocked.is_some() {
                self.records.block(&subject, false, by, reason).await?;
                unblocked = true;
            }
            if unblocked { self.records.renew(&subject).await } else { Ok(()) }
        };
        match here.await {
            Ok(()) if unblocked => Ok(Undone::Unblocked),
            Ok(()) => Ok(Undone::NotBlocked),
            Err(error) => Ok(Undone::Failed(format!("unblocked at the issuer, perhaps not here: {error}"))),
        }
    }
}
