//! Markers and look-ups.

use std::borrow::Cow;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    Admin, Inner, Peer,
    answer::{problem, store_failed},
};
use crate::{
    clock::Timestamp,
    marker::{Block, Logout, Marker, MarkerClock, MarkerKey, MarkerRecord, Reading},
    telemetry::audit::{self, Actor},
    token::claims::{ClientId, InvalidId, IssuerName, SessionId, Subject, SubjectId, TokenId},
};

/// How far ahead of the gate's clock a change may be dated.
const MAX_AHEAD: std::time::Duration = std::time::Duration::from_mins(1);

/// What may be said about a change. All of it is optional, and so is the body.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Change {
    /// When: RFC 3339 or milliseconds; now unless given.
    at: Option<Time>,
    /// When a block ends by itself.
    until: Option<Time>,
    /// Why.
    reason: Option<String>,
    /// Who asks for it.
    by: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Millis(i64),
    Text(String),
}

impl Time {
    fn read(&self) -> Result<Timestamp, Response> {
        let time = match self {
            Self::Millis(millis) => Some(Timestamp::from_millis(*millis)),
            Self::Text(text) => text.parse().ok(),
        };
        let credible = |time: &Timestamp| time.as_millis() >= 1_000_000_000_000;
        time.filter(credible).ok_or_else(|| {
            invalid("times are RFC 3339 such as \"2026-01-31T12:00:00Z\", or milliseconds since 1970 (not seconds)")
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Explain {
    token: String,
    route: Option<String>,
}

/// A change that is about to be made.
struct Intent {
    what: &'static str,
    key: MarkerKey,
    change: Change,
    at: Timestamp,
}

pub(super) async fn log_out(
    State(Admin(admin)): State<Admin>,
    peer: Peer,
    Path((issuer, subject)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    answer(async {
        let subject = admin.subject(&issuer, &subject)?;
        let intent = admin.intent("logout", MarkerKey::logout(&subject), &body)?;
        let marker = Marker::Logout(Logout { at: intent.at, clock: MarkerClock::Gateway });
        admin.write(&intent, marker, peer).await
    })
    .await
}

pub(super) async fn block(
    State(Admin(admin)): State<Admin>,
    peer: Peer,
    Path((issuer, subject)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    answer(async {
        let subject = admin.subject(&issuer, &subject)?;
        let intent = admin.intent("block", MarkerKey::block(&subject), &body)?;
        let until = intent.change.until.as_ref().map(Time::read).transpose()?;
        if until.is_some_and(|until| until <= intent.at) {
            return Err(invalid("`until` must come after the block itself"));
        }
        let marker = Marker::Block(Block { blocked: true, at: intent.at, until });
        admin.write(&intent, marker, peer).await
    })
    .await
}

pub(super) async fn unblock(
    State(Admin(admin)): State<Admin>,
    peer: Peer,
    Path((issuer, subject)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    answer(async {
        let subject = admin.subject(&issuer, &subject)?;
        let intent = admin.intent("unblock", MarkerKey::block(&subject), &body)?;
        let marker = Marker::Block(Block { blocked: false, at: intent.at, until: None });
        admin.write(&intent, marker, peer).await
    })
    .await
}

pub(super) async fn end_session(
    State(Admin(admin)): State<Admin>,
    peer: Peer,
    Path((issuer, session)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    answer(async {
        let session = SessionId::try_from(&*session).map_err(|error| invalid_id("session id", error))?;
        let key = MarkerKey::session(&admin.issuer(&issuer)?, &session);
        let intent = admin.intent("session_end", key, &body)?;
        admin.write(&intent, Marker::SessionEnd(intent.at), peer).await
    })
    .await
}

pub(super) async fn revoke_token(
    State(Admin(admin)): State<Admin>,
    peer: Peer,
    Path((issuer, token)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    answer(async {
        let token = TokenId::try_from(&*token).map_err(|error| invalid_id("token id", error))?;
        let key = MarkerKey::token(&admin.issuer(&issuer)?, &token);
        let intent = admin.intent("token_revocation", key, &body)?;
        admin.write(&intent, Marker::TokenRevoked(intent.at), peer).await
    })
    .await
}

pub(super) async fn client_not_before(
    State(Admin(admin)): State<Admin>,
    peer: Peer,
    Path((issuer, client)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    answer(async {
        let client = ClientId::try_from(&*client).map_err(|error| invalid_id("client id", error))?;
        let key = MarkerKey::client(&admin.issuer(&issuer)?, &client);
        let intent = admin.intent("client_not_before", key, &body)?;
        admin.write(&intent, Marker::NotBefore(intent.at), peer).await
    })
    .await
}

pub(super) async fn issuer_not_before(
    State(Admin(admin)): State<Admin>,
    peer: Peer,
    Path(issuer): Path<String>,
    body: Bytes,
) -> Response {
    answer(async {
        let key = MarkerKey::issuer(&admin.issuer(&issuer)?);
        let intent = admin.intent("issuer_not_before", key, &body)?;
        admin.write(&intent, Marker::NotBefore(intent.at), peer).await
    })
    .await
}

/// What is known of a subject: its markers, and when it was last active.
pub(super) async fn look_up(
    State(Admin(admin)): State<Admin>,
    Path((issuer, subject)): Path<(String, String)>,
) -> Response {
    answer(async {
        let subject = admin.subject(&issuer, &subject)?;
        let parts = admin.judge.parts();
        let (logout_key, block_key) = (MarkerKey::logout(&subject), MarkerKey::block(&subject));
        let (logout, block, written) = tokio::try_join!(
            parts.ledger.look_up(&logout_key),
            parts.ledger.look_up(&block_key),
            parts.ledger.store().last_activity(&subject),
        )
        .map_err(|error| store_failed(&error))?;
        let last_activity = written.max(parts.recorder.pending(&subject));
        Ok(Json(json!({
            "issuer": subject.issuer.as_str(),
            "subject": subject.id.as_str(),
            "logout": reading(&logout),
            "block": reading(&block),
            "last_activity": last_activity.map(|time| time.to_string()),
        }))
        .into_response())
    })
    .await
}

/// Why a token would be admitted or refused: each step of the verdict.
pub(super) async fn explain(State(Admin(admin)): State<Admin>, body: Bytes) -> Response {
    answer(async {
        let Explain { token, route } = parse(&body)?;
        let policy = match &route {
            Some(name) => admin.policies.iter().find(|policy| *policy.name == **name).ok_or_else(|| {
                let names: Vec<&str> = admin.policies.iter().map(|policy| &*policy.name).collect();
                problem(
                    StatusCode::NOT_FOUND,
                    "no_route",
                    format!("there is no such route; there are: {}", names.join(", ")),
                )
            })?,
            None => admin
                .policies
                .first()
                .ok_or_else(|| problem(StatusCode::NOT_FOUND, "no_route", "there are no routes"))?,
        };
        let (decision, steps) = admin.judge.explain(policy, token.trim()).await;
        let claims = decision.token.as_ref().map(|known| &known.token.claims);
        Ok(Json(json!({
            "route": &*policy.name,
            "verdict": decision.label(),
            "passes": decision.passes,
            "stale": decision.stale,
            "fault": decision.fault.map(|fault| fault.to_string()),
            "token": claims.map(|claims| json!({
                "issuer": claims.subject.issuer.as_str(),
                "subject": claims.subject.id.as_str(),
                "session": claims.session.as_ref().map(SessionId::as_str),
                "client": claims.client.as_ref().map(ClientId::as_str),
                "issued_at": claims.issued_at.earliest().to_string(),
                "expires_at": claims.expires_at.to_string(),
                "session_start": claims.session_start.map(|start| start.earliest().to_string()),
                "last_logout": claims.last_logout.map(|logout| logout.earliest().to_string()),
                "scopes": claims.scopes.iter().collect::<Vec<_>>(),
            })),
            "steps": steps,
        }))
        .into_response())
    })
    .await
}

impl Inner {
    fn issuer(&self, name: &str) -> Result<IssuerName, Response> {
        self.issuers.iter().find(|issuer| issuer.as_str() == name).cloned().ok_or_else(|| {
            let names: Vec<&str> = self.issuers.iter().map(IssuerName::as_str).collect();
            let detail = format!("there is no such issuer; configured are: {}", names.join(", "));
            problem(StatusCode::NOT_FOUND, "no_issuer", detail)
        })
    }

    fn subject(&self, issuer: &str, subject: &str) -> Result<Subject, Response> {
        let id = SubjectId::try_from(subject).map_err(|error| invalid_id("subject", error))?;
        Ok(Subject { issuer: self.issuer(issuer)?, id })
    }

    fn intent(&self, what: &'static str, key: MarkerKey, body: &[u8]) -> Result<Intent, Response> {
        let change: Change = if body.trim_ascii().is_empty() { Change::default() } else { parse(body)? };
        let now = self.judge.parts().clock.now();
        let at = change.at.as_ref().map(Time::read).transpose()?.unwrap_or(now);
        if at > now.plus(MAX_AHEAD) {
            return Err(invalid("`at` lies in the future"));
        }
        let too_long = |text: &Option<String>| text.as_ref().is_some_and(|text| text.len() > 255);
        if too_long(&change.reason) || too_long(&change.by) {
            return Err(invalid("`reason` and `by` may have 255 bytes each"));
        }
        Ok(Intent { what, key, change, at })
    }

    async fn write(&self, intent: &Intent, marker: Marker, peer: Peer) -> Result<Response, Response> {
        let by = intent.change.by.clone();
        let record = MarkerRecord { marker, by: by.clone(), reason: intent.change.reason.clone() };
        let result = self.judge.parts().ledger.write(&intent.key, &record).await;
        let actor = Actor { who: by.unwrap_or_else(|| "admin".to_owned()), from: Some(peer.0.ip()) };
        audit::record(&actor, intent.what, &intent.key, &marker, &result);
        let merged = result.map_err(|error| store_failed(&error))?;
        Ok(Json(json!({
            "key": intent.key.as_str(),
            "changed": merged.changed,
            "marker": written(&merged.record),
        }))
        .into_response())
    }
}

async fn answer(work: impl Future<Output = Result<Response, Response>>) -> Response {
    work.await.unwrap_or_else(|refusal| refusal)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Response> {
    serde_json::from_slice(body).map_err(|error| invalid(format!("the body is not as it should be: {error}")))
}

fn invalid(detail: impl Into<Cow<'static, str>>) -> Response {
    problem(StatusCode::BAD_REQUEST, "invalid_request", detail)
}

fn invalid_id(what: &str, error: InvalidId) -> Response {
    invalid(format!("the {what} {error}"))
}

fn reading(reading: &Reading<MarkerRecord>) -> Value {
    match reading {
        Reading::Absent => Value::Null,
        Reading::Present(record) => written(record),
        Reading::Unreadable => json!({ "unreadable": true }),
    }
}

/// A marker as people read it: the stored form, with times spelled out.
fn written(record: &MarkerRecord) -> Value {
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
    for (name, text) in [("by", &record.by), ("reason", &record.reason)] {
        if let Some(text) = text {
            value[name] = json!(text);
        }
    }
    value
}
