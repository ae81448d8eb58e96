//! Taking back what a run did, by its report.
//!
//! The issuer first, then here, as when blocking; repeated, it does what is left. Whom somebody else has blocked since is left alone, and
//! where the run did not ask the issuer, neither does this.
//! Refresh tokens and sessions that were revoked stay so: people log in again.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{StreamExt as _, stream};

use super::{
    InactiveError, Tools,
    block::ECHO,
    progress::Step,
    records::BlockedBy,
    report::{Header, ReportError, UserLine},
    run::{Outcomes, Sink},
};
use crate::{
    clock::Timestamp,
    management::tenant::TenantError,
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

/// A block that is taken back.
#[derive(Clone, Copy, Debug)]
struct Ours<'a> {
    /// Who the marker names.
    by: &'a str,
    /// When it was done.
    at: Option<Timestamp>,
    /// Whether it was done in both places, as far as the run knew.
    whole: bool,
}

impl Ours<'_> {
    /// Whether that is it: or the issuer's own event about it, which may have come after.
    fn is(&self, block: &BlockedBy) -> bool {
        let operators = [Source::Admin, Source::Inactive].map(Source::as_str);
        let is_event = block.source.as_deref().is_some_and(|source| !operators.contains(&source));
        block.by.as_deref() == Some(self.by) || is_event && self.at.is_some_and(|at| block.at <= at.plus(ECHO))
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
        let run = &super::run::by(&report.run);
        let reason = &format!("run {} undone", report.run);
        let stopping = &AtomicBool::new(false);
        let one = |line: Result<UserLine, ReportError>| async move {
            if stopping.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let line = line?;
            let at = line.at.as_deref().and_then(|at| at.parse().ok());
            let ours = Ours { by: line.by.as_deref().unwrap_or(run), at, whole: line.outcome != "unfinished" };
            let undone = self.take_back(issuer, &line.user, Some(ours), by, reason).await?;
            Ok::<_, InactiveError>(Some((line, undone)))
        };
        let mut under_way = stream::iter(lines).map(one).buffer_unordered(AT_ONCE);
        let (mut outcomes, mut failed) = (Outcomes::new(), None);
        // With whom it has begun, it ends.
        while let Some(done) = under_way.next().await {
            match done {
                Ok(Some((line, undone))) => {
                    *outcomes.entry(undone.as_str()).or_default() += 1;
                    let error = if let Undone::Failed(error) = &undone { Some(error.clone()) } else { None };
                    let at = Some(self.clock.now().to_string());
                    sink(&UserLine { outcome: undone.as_str().to_owned(), at, error, ..line })?;
                    self.progress.advance(1);
                }
                Ok(None) => {}
                Err(error) => {
                    stopping.store(true, Ordering::Relaxed);
                    failed.get_or_insert(error);
                }
            }
        }
        self.progress.end();
        failed.map_or(Ok(outcomes), Err)
    }

    /// Unblocks a user, at the issuer and here, whoever has blocked them.
    ///
    /// # Errors
    /// [`InactiveError`]: what would fail with everybody.
    pub async fn unblock(
        &self,
        issuer: &IssuerName,
        user: &str,
        by: &str,
        reason: &str,
    ) -> Result<Undone, InactiveError> {
        self.take_back(issuer, user, None, by, reason).await
    }

    /// With `ours`, only that block.
    async fn take_back(
        &self,
        issuer: &IssuerName,
        user: &str,
        ours: Option<Ours<'_>>,
        by: &str,
        reason: &str,
    ) -> Result<Undone, InactiveError> {
        let Ok(id) = SubjectId::try_from(user) else { return Ok(Undone::Failed("not a user id".to_owned())) };
        let subject = Subject { issuer: issuer.clone(), id };
        let known = match self.records.look_up(issuer, std::slice::from_ref(&subject.id)).await {
            Ok(known) => known.into_iter().next().unwrap_or_default(),
            Err(error) => return Ok(Undone::Failed(error.to_string())),
        };
        if let (Some(ours), Some(block)) = (ours, &known.blocked)
            && !ours.is(block)
        {
            return Ok(Undone::BlockedByAnother);
        }
        let mut unblocked = false;
        if let Some(users) = &self.users {
            // Whoever took the block away here, and not there, or blocked again there, is not overruled.
            let is_anothers = known.blocked.is_none() && ours.is_some_and(|ours| ours.whole);
            let there = async {
                match users.get(&subject.id).await? {
                    None => Ok(Some(Undone::Gone)),
                    Some(user) if !user.blocked => Ok(None),
                    Some(_) if is_anothers => Ok(Some(Undone::BlockedByAnother)),
                    Some(_) => {
                        unblocked = true;
                        Ok(users.set_blocked(&subject.id, false).await?.map_or(Some(Undone::Gone), |_| None))
                    }
                }
            };
            match there.await {
                Ok(None) => {}
                Ok(Some(undone)) => return Ok(undone),
                Err(error) if TenantError::is_lasting(&error) => return Err(error.into()),
                Err(error) => return Ok(Undone::Failed(error.to_string())),
            }
        }
        let here = async {
            // First, so that whoever repeats this finds something to do.
            self.records.renew(&subject).await?;
            if known.blocked.is_some() {
                self.records.block(&subject, false, by, reason).await?;
                unblocked = true;
            }
            Ok::<_, super::records::RecordsError>(())
        };
        match here.await {
            Ok(()) if unblocked => Ok(Undone::Unblocked),
            Ok(()) => Ok(Undone::NotBlocked),
            Err(error) => Ok(Undone::Failed(format!("perhaps unblocked at the issuer only: {error}"))),
        }
    }
}
