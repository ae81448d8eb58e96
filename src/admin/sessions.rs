//! The sessions of a subject: what is kept of each, and whether it is over.

use std::{sync::Arc, time::Duration};

use axum::extract::{RawQuery, State};
use futures_util::future::try_join_all;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{
    Admin, Inner,
    answer::{Answer, Refusal, ok},
    names::Named,
};
use crate::{
    clock::Timestamp,
    marker::{Kind, Known, MarkerKey, Reading},
    session::{SessionKey, SessionLimits},
    store::{StoreError, sessions::StoredSession},
    token::claims::{ClientId, SessionId, Subject, SubjectId},
};

/// How many sessions are told at once, unless asked for fewer or more.
const PAGE: usize = 50;

/// The most that are told at once.
const MAX_PAGE: usize = 200;

/// `?limit=50&after=<session>&all=true`
struct Page {
    limit: usize,
    after: Option<SessionId>,
    /// Those that are over too.
    all: bool,
}

/// The sessions of a subject, a page at a time.
pub(super) async fn list(
    State(Admin(admin)): State<Admin>,
    subject: Named<SubjectId>,
    RawQuery(query): RawQuery,
) -> Answer {
    let page = Page::read(query.as_deref().unwrap_or_default())?;
    let subject = Subject::from(subject);
    let store = Arc::clone(admin.judge.parts().ledger.store());
    let not_read = |error: StoreError| Refusal::not_read(&error);
    let known = admin.known(&subject).await.map_err(not_read)?;
    let kept = store.sessions().sessions_of(&subject, page.after.as_ref(), page.limit + 1);
    let mut kept = kept.await.map_err(not_read)?;
    let more = kept.len() > page.limit;
    kept.truncate(page.limit);
    let next = kept.last().filter(|_| more).map(|(id, _)| id.as_str().to_owned());
    let told = try_join_all(kept.into_iter().map(|(id, stored)| {
        let key = SessionKey { subject: subject.clone(), id };
        admin.tell(key, stored, &known)
    }));
    let mut told = told.await.map_err(not_read)?;
    told.retain(|session| page.all || session["state"] == "live");
    Ok(ok(&json!({
        "issuer": subject.issuer.as_str(),
        "subject": subject.id.as_str(),
        "sessions": told,
        "next": next,
    })))
}

impl Page {
    fn read(query: &str) -> Result<Self, Refusal> {
        let mut page = Self { limit: PAGE, after: None, all: false };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8().ok();
            match (name, value.as_deref()) {
                ("limit", Some(limit)) => {
                    let limit = limit.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit));
                    page.limit = limit.ok_or_else(|| Refusal::invalid(format!("`limit` must be 1 to {MAX_PAGE}")))?;
                }
                ("after", Some(after)) => {
                    let after = SessionId::kept(after);
                    page.after = Some(after.map_err(|error| Refusal::invalid(format!("`after` {error}")))?);
                }
                ("all", Some("true" | "1" | "")) => page.all = true,
                ("all", Some("false" | "0")) => page.all = false,
                _ => {
                    return Err(Refusal::invalid(
                        "parameters are `limit`, `after` (a session) and `all` (true or false)",
                    ));
                }
            }
        }
        Ok(page)
    }
}

impl Inner {
    /// What is known against all sessions of a subject.
    async fn known(&self, subject: &Subject) -> Result<Known, StoreError> {
        let ledger = &self.judge.parts().ledger;
        let (logout, block) = (MarkerKey::logout(subject), MarkerKey::block(subject));
        let (logout, block) = tokio::try_join!(ledger.look_up(&logout), ledger.look_up(&block))?;
        let mut known = Known::NOTHING;
        known.learn(Kind::Logout, logout.into());
        known.learn(Kind::Block, block.into());
        Ok(known)
    }

    async fn tell(&self, key: SessionKey, stored: StoredSession, known: &Known) -> Result<Value, StoreError> {
        let parts = self.judge.parts();
        let issuer = &key.subject.issuer;
        let end = MarkerKey::session(issuer, &key.id);
        let (limits, end) =
            tokio::try_join!(parts.sessions.limits_since(issuer, &stored.limits), parts.ledger.look_up(&end))?;
        let active = parts.sessions.active_here(&key).max(Some(stored.active)).unwrap_or(stored.active);
        let now = parts.clock.now();
        let left = |since: Timestamp, limit: Option<Duration>| {
            limit.map(|limit| since.plus(limit)).map(|deadline| (deadline.since(now).as_secs(), now >= deadline))
        };
        let (idle, absolute) = (left(active, limits.idle), left(stored.started, limits.absolute));
        let state = if known.block.refuses(|block| block.holds(now)) {
            "blocked"
        } else if end != Reading::Absent {
            "ended"
        } else if known.logout.refuses(|logout| stored.started <= logout.at) {
            "logged_out"
        } else if absolute.is_some_and(|(_, over)| over) {
            "expired"
        } else if idle.is_some_and(|(_, over)| over) {
            "idle"
        } else {
            "live"
        };
        let left = |left: Option<(u64, bool)>| left.filter(|_| state == "live").map(|(left, _)| left);
        let SessionLimits { idle: idle_limit, absolute: absolute_limit } = limits;
        let seconds = |limit: Option<Duration>| limit.map(|limit| limit.as_secs());
        Ok(json!({
            "session": key.id.as_str(),
            "state": state,
            "started": stored.started.to_string(),
            "last_activity": active.to_string(),
            "idle_limit": seconds(idle_limit),
            "absolute_limit": seconds(absolute_limit),
            "idle": left(idle),
            "absolute": left(absolute),
            "gateway": &*stored.gateway,
            "client": stored.client.as_ref().map(ClientId::as_str),
        }))
    }
}
