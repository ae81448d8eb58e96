//! Changes: markers that operators write.

use std::time::Duration;

use axum::extract::State;
use serde_json::{Value, json};

use super::{
    Admin, Inner, Peer,
    answer::{Answer, Refusal, ok},
    body::{self, Body, Members},
    look_up::spelled_out,
    names::{Named, NamedIssuer},
};
use crate::{
    clock::Timestamp,
    marker::{Block, Logout, Marker, MarkerClock, MarkerKey, MarkerRecord, Reading, Source},
    telemetry::audit::{self, Actor},
    token::claims::{ClientId, SessionId, Subject, SubjectId, TokenId},
};

/// How far ahead of the gate's clock a change may be dated.
const MAX_AHEAD: Duration = Duration::from_secs(60);

/// What may be said about a change.
#[derive(Default)]
pub(super) struct Change {
    /// When it takes effect from; now unless given.
    at: Option<Timestamp>,
    /// Why.
    reason: Option<String>,
    /// Who asks for it.
    by: Option<String>,
}

impl Members for Change {
    const NAMES: &'static [&'static str] = &["at", "reason", "by"];

    fn set(&mut self, name: &str, value: &Value) -> Result<(), &'static str> {
        match name {
            "at" => self.at = Some(body::time(value)?),
            "reason" => self.reason = Some(body::words(value)?),
            _ => self.by = Some(body::words(value)?),
        }
        Ok(())
    }
}

/// What may be said about a block.
#[derive(Default)]
pub(super) struct BlockChange {
    change: Change,
    /// When it ends by itself.
    until: Option<Timestamp>,
}

impl Members for BlockChange {
    const NAMES: &'static [&'static str] = &["at", "until", "reason", "by"];

    fn set(&mut self, name: &str, value: &Value) -> Result<(), &'static str> {
        match name {
            "until" => self.until = Some(body::time(value)?),
            _ => self.change.set(name, value)?,
        }
        Ok(())
    }
}

pub(super) async fn log_out(
    State(Admin(admin)): State<Admin>,
    peer: Peer,
    subject: Named<SubjectId>,
    Body(change): Body<Change>,
) -> Answer {
    let at = admin.moment(&change)?;
    let marker = Marker::Logout(Logout { at, clock: MarkerClock::Gateway });
    admin.write(peer, "logout", MarkerKey::logout(&subject.into()), marker, change).await
}

pub(super) async fn block(
    State(Admin(admin)): State<Admin>,
    peer: Peer,
    subject: Named<SubjectId>,
    Body(BlockChange { change, until }): Body<BlockChange>,
) -> Answer {
    let key = MarkerKey::block(&Subject::from(subject));
    let at = admin.moment_after(&key, &change).await?;
    if until.is_some_and(|until| until <= at.max(admin.now())) {
        return Err(Refusal::invalid("`until` must lie ahead, and come after `at`"));
    }
    let marker = Marker::Block(Block { blocked: true, at, until });
    admin.write(peer, "block", key, marker, change).await
}

pub(super) async fn unblock(
    State(Admin(admin)): State<Admin>,
    peer: Peer,
    subject: Named<SubjectId>,
    Body(change): Body<Change>,
) -> Answer {
    let key = MarkerKey::block(&subject.into());
    let at = admin.moment_after(&key, &change).await?;
    let marker = Marker::Block(Block { blocked: false, at, until: None });
    admin.write(peer, "unblock", key, marker, change).await
}

pub(super) async fn end_session(
    State(Admin(admin)): State<Admin>,
    peer: Peer,
    session: Named<SessionId>,
    Body(change): Body<Change>,
) -> Answer {
    let at = admin.moment(&change)?;
    let key = MarkerKey::session(&session.issuer, &session.id);
    admin.write(peer, "session_end", key, Marker::SessionEnd(at), change).await
}

pub(super) async fn revoke_token(
    State(Admin(admin)): State<Admin>,
    peer: Peer,
    token: Named<TokenId>,
    Body(change): Body<Change>,
) -> Answer {
    let at = admin.moment(&change)?;
    let key = MarkerKey::token(&token.issuer, &token.id);
    admin.write(peer, "token_revocation", key, Marker::TokenRevoked(at), change).await
}

pub(super) async fn client_not_before(
    State(Admin(admin)): State<Admin>,
    peer: Peer,
    client: Named<ClientId>,
    Body(change): Body<Change>,
) -> Answer {
    let at = admin.moment(&change)?;
    let key = MarkerKey::client(&client.issuer, &client.id);
    admin.write(peer, "client_not_before", key, Marker::NotBefore(at), change).await
}

pub(super) async fn issuer_not_before(
    State(Admin(admin)): State<Admin>,
    peer: Peer,
    NamedIssuer(issuer): NamedIssuer,
    Body(change): Body<Change>,
) -> Answer {
    let at = admin.moment(&change)?;
    admin.write(peer, "issuer_not_before", MarkerKey::issuer(&issuer), Marker::NotBefore(at), change).await
}

impl Inner {
    fn now(&self) -> Timestamp {
        self.judge.parts().clock.now()
    }

    /// When the change takes effect from. A time ahead would cover tokens that do not exist yet.
    fn moment(&self, change: &Change) -> Result<Timestamp, Refusal> {
        let now = self.now();
        match change.at {
            Some(at) if at > now.plus(MAX_AHEAD) => Err(Refusal::invalid("`at` lies in the future")),
            at => Ok(at.unwrap_or(now)),
        }
    }

    /// Likewise, for what takes back what is stored: now is after that, even within the same millisecond, and even if it was
    /// written by a gateway whose clock is ahead.
    async fn moment_after(&self, key: &MarkerKey, change: &Change) -> Result<Timestamp, Refusal> {
        let at = self.moment(change)?;
        if change.at.is_some() {
            return Ok(at);
        }
        // A store that does not answer fails the write too, which says so.
        let stored = self.judge.parts().ledger.look_up(key).await.ok().and_then(Reading::present);
        Ok(stored.map_or(at, |stored| at.max(stored.marker.at().plus(Duration::from_millis(1)))))
    }

    /// Writes a marker, leaves its audit line, and answers once it is durable.
    async fn write(&self, peer: Peer, what: &'static str, key: MarkerKey, marker: Marker, change: Change) -> Answer {
        let Change { reason, by, .. } = change;
        let actor =
            Actor { who: by.clone().unwrap_or_else(|| "admin".to_owned()), from: Some(peer.0.ip()), event: None };
        let record = MarkerRecord { by, reason, ..MarkerRecord::new(marker) }.written_by(Source::Admin);
        let result = self.judge.parts().ledger.write(&key, &record).await;
        audit::record(&actor, what, &key, &marker, &result);
        let merged = result.map_err(|error| Refusal::not_written(&error))?;
        let stored = spelled_out(&merged.record);
        Ok(ok(&json!({ "key": key.as_str(), "changed": merged.changed, "marker": stored })))
    }
}
