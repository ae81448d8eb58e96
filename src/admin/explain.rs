//! Why a token would be admitted or refused.

use axum::{extract::State, http::StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::{
    Admin, Inner,
    answer::{Answer, Refusal, ok},
    body::{Body, Members},
};
use crate::{
    gate::Policy,
    token::claims::{Claims, ClientId, SessionId},
};

#[derive(Default)]
pub(super) struct Explain {
    token: Option<SecretString>,
    route: Option<String>,
}

impl Members for Explain {
    const NAMES: &'static [&'static str] = &["token", "route"];

    fn set(&mut self, name: &str, value: &Value) -> Result<(), &'static str> {
        let text = value.as_str().ok_or("text")?;
        match name {
            "token" => self.token = Some(text.trim().into()),
            _ => self.route = Some(text.to_owned()),
        }
        Ok(())
    }
}

/// Each step of the verdict, up to the one that refuses. Nothing is recorded.
pub(super) async fn explain(State(Admin(admin)): State<Admin>, Body(asked): Body<Explain>) -> Answer {
    let token = asked.token.ok_or_else(|| Refusal::invalid("`token` is missing: the token to explain"))?;
    let policy = admin.policy(asked.route.as_deref())?;
    let (decision, steps) = admin.judge.explain(policy, token.expose_secret()).await;
    Ok(ok(&json!({
        "route": &*policy.name,
        "verdict": decision.label(),
        "passes": decision.passes,
        "stale": decision.stale,
        "fault": decision.fault.map(|fault| fault.to_string()),
        "token": decision.token.as_ref().map(|known| told(&known.claims)),
        "steps": steps,
    })))
}

impl Inner {
    /// The policy of the route with this name, or of the first one.
    fn policy(&self, name: Option<&str>) -> Result<&Policy, Refusal> {
        let found = match name {
            Some(name) => self.policies.iter().find(|policy| *policy.name == *name),
            None => self.policies.first(),
        };
        found.ok_or_else(|| {
            let names: Vec<&str> = self.policies.iter().map(|policy| &*policy.name).collect();
            let detail = format!("there is no such route; there are: {}", names.join(", "));
            Refusal::new(StatusCode::NOT_FOUND, "no_route", detail)
        })
    }
}

fn told(claims: &Claims) -> Value {
    json!({
        "issuer": claims.subject.issuer.as_str(),
        "subject": claims.subject.id.as_str(),
        "session": claims.session.as_ref().map(SessionId::as_str),
        "client": claims.client.as_ref().map(ClientId::as_str),
        "issued_at": claims.issued_at.earliest().to_string(),
        "expires_at": claims.expires_at.to_string(),
        "session_start": claims.session_start.map(|start| start.earliest().to_string()),
        "last_logout": claims.last_logout.map(|logout| logout.earliest().to_string()),
        "scopes": claims.scopes.iter().collect::<Vec<_>>(),
    })
}
