//! The rule book.

use std::time::Duration;

use super::{Case, Knowledge, OutagePolicy, Presented, Reason};
use crate::{
    clock::Timestamp,
    marker::{Known, Logout, MarkerClock, Reading},
    session::Lifetime,
    token::claims::Claims,
};

/// One rule: a name, a question for people, and its answer.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name in explanations.
    pub name: &'static str,
    /// What it asks; the answer yes refuses.
    pub asks: &'static str,
    /// The reason, if it refuses.
    pub judge: fn(&Case<'_>) -> Option<Reason>,
}

/// All rules, in order: the first that refuses decides.
pub const RULES: &[Rule] = &[
    Rule { name: "credentials", asks: "are credentials missing, doubled or malformed?", judge: credentials },
    Rule { name: "verification", asks: "does the token fail verification?", judge: verification },
    Rule { name: "validity", asks: "has the token expired, or is it not valid yet?", judge: validity },
    Rule { name: "lifetime", asks: "does the token live longer than markers are kept?", judge: lifetime },
    Rule { name: "freshness", asks: "has the store been silent for too long?", judge: freshness },
    Rule {
        name: "not_before",
        asks: "were tokens of this issuer or client revoked up to a later time?",
        judge: not_before,
    },
    Rule { name: "block", asks: "is the subject blocked?", judge: block },
    Rule { name: "logout", asks: "did the subject log out, and may the token be from before that?", judge: logout },
    Rule { name: "session", asks: "has the session ended?", judge: session },
    Rule { name: "revocation", asks: "was this token revoked?", judge: revocation },
    Rule { name: "record", asks: "can nobody say how old the session is, and how long it was idle?", judge: record },
    Rule { name: "absolute", asks: "has the session lasted as long as it may?", judge: absolute },
    Rule { name: "idle", asks: "was the session idle for as long as it may be?", judge: idle },
    Rule { name: "scope", asks: "does the token lack a scope that the route requires?", judge: scope },
];

fn credentials(case: &Case<'_>) -> Option<Reason> {
    match case.presented {
        Presented::Nothing => Some(Reason::MissingToken),
        Presented::Malformed => Some(Reason::InvalidRequest),
        Presented::Unverified(_) | Presented::KeysUnavailable | Presented::Verified(_) => None,
    }
}

fn verification(case: &Case<'_>) -> Option<Reason> {
    match case.presented {
        Presented::Unverified(_) => Some(Reason::InvalidToken),
        Presented::KeysUnavailable => Some(Reason::KeysUnavailable),
        Presented::Nothing | Presented::Malformed | Presented::Verified(_) => None,
    }
}

/// `exp` (RFC 7519 §4.1.4), `nbf` (§4.1.5), and an `iat` in the future, which would walk past every marker.
fn validity(case: &Case<'_>) -> Option<Reason> {
    let (claims, now, skew) = (verified(case)?, case.now, case.settings.clock_skew);
    if now >= claims.expires_at.plus(skew) {
        return Some(Reason::TokenExpired);
    }
    let early = claims.not_before.is_some_and(|not_before| now.plus(skew) < not_before);
    let from_the_future = claims.issued_at.earliest() > now.plus(skew);
    (early || from_the_future).then_some(Reason::InvalidToken)
}

/// No token may outlive the markers that would stop it. This is what makes every other promise hold.
fn lifetime(case: &Case<'_>) -> Option<Reason> {
    let claims = verified(case)?;
    let lifetime = claims.expires_at.since(claims.issued_at.earliest());
    (lifetime > case.settings.max_token_lifetime).then_some(Reason::TokenLifetime)
}

fn freshness(case: &Case<'_>) -> Option<Reason> {
    verified(case)?;
    match (case.knowledge, case.settings.outage) {
        (Knowledge::Stale(_), OutagePolicy::Reject) => Some(Reason::Stale),
        (Knowledge::Stale(_), OutagePolicy::Allow) | (Knowledge::Current(_), _) => None,
    }
}

fn not_before(case: &Case<'_>) -> Option<Reason> {
    let (claims, known) = (verified(case)?, known(case));
    let covers = |reading: &Reading<Timestamp>| reading.refuses(|at| claims.issued_at.earliest() <= *at);
    (covers(&known.issuer_not_before) || covers(&known.client_not_before)).then_some(Reason::Revoked)
}

/// Beats everything below, and no claim argues with it.
fn block(case: &Case<'_>) -> Option<Reason> {
    verified(case)?;
    known(case).block.refuses(|block| block.holds(case.now)).then_some(Reason::UserBlocked)
}

fn logout(case: &Case<'_>) -> Option<Reason> {
    let claims = verified(case)?;
    let ended = known(case).logout.refuses(|logout| !comes_after(claims, logout, case.settings.clock_skew));
    ended.then_some(Reason::LoggedOut)
}

/// Whether the token is known to come after the logout, by the strongest evidence it carries.
fn comes_after(claims: &Claims, logout: &Logout, clock_skew: Duration) -> bool {
    // A refresh after a logout mints a token with a newer `iat` and an up-to-date claim: only the session's start tells.
    if claims.session_start.is_some_and(|start| start.latest() <= logout.at) {
        return false;
    }
    // Issued knowing of this logout: no clocks are compared.
    if claims.last_logout.is_some_and(|claim| claim.earliest() >= logout.at) {
        return true;
    }
    let skew = match logout.clock {
        MarkerClock::Issuer => Duration::ZERO,
        MarkerClock::Gateway => clock_skew,
    };
    claims.session_start.unwrap_or(claims.issued_at).earliest() > logout.at.plus(skew)
}

fn session(case: &Case<'_>) -> Option<Reason> {
    verified(case)?;
    known(case).session_end.refuses(|_| true).then_some(Reason::SessionEnded)
}

fn revocation(case: &Case<'_>) -> Option<Reason> {
    verified(case)?;
    known(case).token_revoked.refuses(|_| true).then_some(Reason::Revoked)
}

/// A session that cannot be shown to be over is not taken to be: the outage policy decides.
fn record(case: &Case<'_>) -> Option<Reason> {
    verified(case)?;
    let unknown = matches!(case.lifetime, Lifetime::Unknown { .. });
    (unknown && case.settings.outage == OutagePolicy::Reject).then_some(Reason::Stale)
}

fn absolute(case: &Case<'_>) -> Option<Reason> {
    let claims = verified(case)?;
    let over = case.lifetime.deadlines(claims, case.settings.clock_skew).absolute?;
    if case.now < over {
        return None;
    }
    // What the token itself ended, no earlier login mends, however young.
    let by_limit = case.lifetime.lasts_until(claims).is_some_and(|end| case.now >= end);
    let limit = case.lifetime.limits().and_then(|limits| limits.absolute).filter(|_| by_limit);
    Some(Reason::ReauthenticationRequired { max_age: limit.unwrap_or_default() })
}

fn idle(case: &Case<'_>) -> Option<Reason> {
    let claims = verified(case)?;
    let over = case.lifetime.deadlines(claims, case.settings.clock_skew).idle?;
    (case.now >= over).then_some(Reason::IdleTimeout)
}

fn scope(case: &Case<'_>) -> Option<Reason> {
    let claims = verified(case)?;
    let lacking = case.settings.required_scopes.iter().any(|scope| !claims.scopes.contains(scope));
    lacking.then_some(Reason::InsufficientScope)
}

fn verified<'a>(case: &Case<'a>) -> Option<&'a Claims> {
    match case.presented {
        Presented::Verified(claims) => Some(claims),
        _ => None,
    }
}

fn known<'a>(case: &Case<'a>) -> &'a Known {
    match case.knowledge {
        Knowledge::Current(known) | Knowledge::Stale(known) => known,
    }
}
