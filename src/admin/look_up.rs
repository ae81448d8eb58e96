//! Look-ups: what the store itself holds, past every cache.

use axum::extract::State;
use serde_json::{Value, json};

use super::{
    Admin, Inner,
    answer::{Answer, Refusal, ok},
    names::{Named, NamedIssuer},
};
use crate::{
    marker::{Block, Logout, Marker, MarkerKey, MarkerRecord, Reading},
    token::claims::{ClientId, SessionId, Subject, SubjectId, TokenId},
};

/// A subject: its markers, and when it was last active.
pub(super) async fn subject(State(Admin(admin)): State<Admin>, subject: Named<SubjectId>) -> Answer {
    let subject = Subject::from(subject);
    let parts = admin.judge.parts();
    let (logout, block) = (MarkerKey::logout(&subject), MarkerKey::block(&subject));
    let activity = async {
        let written = parts.ledger.store().last_activity(&subject).await;
        written.map_err(|error| Refusal::not_read(&error))
    };
    let (logout, block, written) = tokio::try_join!(admin.read(&logout), admin.read(&block), activity)?;
    let last_activity = written.max(parts.recorder.pending(&subject));
    Ok(ok(&json!({
        "issuer": subject.issuer.as_str(),
        "subject": subject.id.as_str(),
        "logout": logout,
        "block": block,
        "last_activity": last_activity.map(|time| time.to_string()),
    })))
}

pub(super) async fn session(State(Admin(admin)): State<Admin>, session: Named<SessionId>) -> Answer {
    let end = admin.read(&MarkerKey::session(&session.issuer, &session.id)).await?;
    Ok(ok(&json!({ "issuer": session.issuer.as_str(), "session": session.id.as_str(), "end": end })))
}

pub(super) async fn token(State(Admin(admin)): State<Admin>, token: Named<TokenId>) -> Answer {
    let revocation = admin.read(&MarkerKey::token(&token.issuer, &token.id)).await?;
    Ok(ok(&json!({ "issuer": token.issuer.as_str(), "token": token.id.as_str(), "revocation": revocation })))
}

pub(super) async fn client(State(Admin(admin)): State<Admin>, client: Named<ClientId>) -> Answer {
    let not_before = admin.read(&MarkerKey::client(&client.issuer, &client.id)).await?;
    Ok(ok(&json!({ "issuer": client.issuer.as_str(), "client": client.id.as_str(), "not_before": not_before })))
}

pub(super) async fn issuer(State(Admin(admin)): State<Admin>, NamedIssuer(issuer): NamedIssuer) -> Answer {
    let not_before = admin.read(&MarkerKey::issuer(&issuer)).await?;
    Ok(ok(&json!({ "issuer": issuer.as_str(), "not_before": not_before })))
}

impl Inner {
    async fn read(&self, key: &MarkerKey) -> Result<Value, Refusal> {
        let reading = self.judge.parts().ledger.look_up(key).await.map_err(|error| Refusal::not_read(&error))?;
        Ok(match reading {
            Reading::Absent => Value::Null,
            Reading::Present(record) => spelled_out(&record),
            Reading::Unreadable => json!({ "unreadable": true }),
        })
    }
}

/// A marker as people read it: the stored form, with times spelled out.
pub(super) fn spelled_out(record: &MarkerRecord) -> Value {
    let mut value = json!({ "at": record.marker.at().to_string() });
    match record.marker {
        Marker::Logout(Logout { clock, .. }) => value["clock"] = json!(clock),
        Marker::Block(Block { blocked, until, .. }) => {
            value["blocked"] = json!(blocked);
            if let Some(until) = until {
                value["until"] = json!(until.to_string());
            }
        }
        Marker::SessionEnd(_) | Marker::TokenRevoked(_) | Marker::NotBefore(_) => {}
    }
    if let Some(written) = record.written {
        value["written"] = json!(written.to_string());
    }
    for (name, text) in [("by", &record.by), ("reason", &record.reason), ("source", &record.source)] {
        if let Some(text) = text {
            value[name] = json!(text);
        }
    }
    value
}
