//! What runs found and did, for people.

use std::{fmt::Write as _, path::Path};

use crate::{
    inactive::{
        plan::{Counts, Plan},
        run::Outcomes,
    },
    token::claims::IssuerName,
};

/// What became of users, for people.
pub(super) fn told(outcomes: &Outcomes, report: Option<&Path>, nobody: &str) -> String {
    let mut words = if outcomes.is_empty() {
        nobody.to_owned()
    } else {
        let counts: Vec<_> =
            outcomes.iter().map(|(outcome, count)| format!("{} {count}", outcome.replace('_', " "))).collect();
        counts.join(", ")
    };
    if let Some(path) = report {
        let _ = write!(words, "; the report is {}", path.display());
    }
    if outcomes.contains_key("unfinished") {
        words.push_str("\nunfinished: perhaps blocked in one place only; the next run ends it");
    }
    words
}

/// What was found, for people.
pub(super) fn found(plan: &Plan, issuer: &IssuerName, asked: bool) -> String {
    let Counts { known, active, inactive, uncertain, excluded, blocked, unreadable, evidence, span, .. } = &plan.counts;
    let whence = if asked { "that the issuer knows" } else { "that were admitted here" };
    let mut words = format!("{known} users of {issuer} {whence}, looked at for activity since {}", plan.since);
    let _ = write!(words, "\n  inactive   {inactive}");
    if let Some((oldest, newest)) = span {
        let _ = write!(words, ", last active from {oldest} to {newest}");
        let kinds: Vec<_> = evidence.iter().map(|(kind, count)| format!("{} {count}", kind.as_str())).collect();
        let _ = write!(words, "\n             by evidence: {}", kinds.join(", "));
    }
    if *uncertain > 0 {
        let since = match plan.trust.recorded_since {
            Some(since) => format!("recording is complete since {since} only"),
            None => "recording is not complete".to_owned(),
        };
        let _ = write!(
            words,
            "\n  uncertain  {uncertain}, not seen since, but perhaps active unseen: {since}. They are not blocked.\
             \n             --login-lifetime says how long a login lasts, and so makes `last_login` count; see docs/inactive-users.md"
        );
    }
    for (name, count) in [("active", active), ("excluded", excluded), ("blocked", blocked), ("unreadable", unreadable)]
    {
        if *count > 0 {
            let _ = write!(words, "\n  {name:10} {count}");
        }
    }
    words
}
