//! Tokens of the Management API, by client credentials, and their scopes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Response, header, request::Parts};
use serde_json::{Value, json};

use super::{
    Auth0, CLIENT_ID, CLIENT_SECRET, Shared,
    answer::{Body, empty, error, json_answer, members, value},
};

/// How long after its end a token still passes.
const LEEWAY: Duration = Duration::from_secs(1);

/// What the application may do when nobody says otherwise.
const SCOPES: [&str; 10] = [
    "read:logs",
    "read:logs_users",
    "read:events",
    "read:users",
    "update:users",
    "read:roles",
    "read:connections",
    "read:sessions",
    "delete:sessions",
    "delete:refresh_tokens",
];

pub(crate) struct Tokens {
    scopes: BTreeSet<&'static str>,
    /// Until when each is good.
    good: BTreeMap<String, Instant>,
    lifetime: Duration,
    issued: usize,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { scopes: SCOPES.into(), good: BTreeMap::new(), lifetime: Duration::from_secs(86_400), issued: 0 }
    }
}

impl Tokens {
    pub(crate) fn accept(&self, head: &Parts) -> bool {
        let bearer =
            head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        bearer.is_some_and(|token| self.good.get(token).is_some_and(|until| Instant::now() < *until))
    }

    /// The first of these that the application does not have.
    pub(crate) fn missing(&self, needed: &[&'static str]) -> Option<&'static str> {
        needed.iter().find(|scope| !self.scopes.contains(*scope)).copied()
    }
}

impl Auth0 {
    /// The application has these scopes and no others from now on.
    pub(crate) fn grant(&self, scopes: &[&'static str]) {
        self.state().tokens.scopes = scopes.iter().copied().collect();
    }

    /// Tokens from now on live so long.
    pub(crate) fn set_token_lifetime(&self, lifetime: Duration) {
        self.state().tokens.lifetime = lifetime;
    }

    /// No token that was issued is good any more.
    pub(crate) fn revoke_tokens(&self) {
        self.state().tokens.good.clear();
    }

    /// How many tokens were issued.
    pub(crate) fn tokens_issued(&self) -> usize {
        self.state().tokens.issued
    }
}

impl Shared {
    pub(crate) fn grant_token(&self, head: &Parts, body: &Bytes) -> Response<Body> {
        let refuse = |status: u16, code: &str, why: &str| {
            json_answer(status, &json!({ "error": code, "error_description": why }))
        };
        if head.method != Method::POST {
            return error(404, "not_found", "Not Found");
        }
        let Some(given) = members(head, body) else { return refuse(400, "invalid_request", "Bad Request") };
        if value(&given, "grant_type") != Some("client_credentials") {
            return refuse(403, "unauthorized_client", "Grant type not allowed for the client.");
        }
        let credentials = (value(&given, "client_id"), value(&given, "client_secret"));
        if credentials != (Some(CLIENT_ID), Some(CLIENT_SECRET)) {
            return refuse(401, "access_denied", "Unauthorized");
        }
        if value(&given, "audience") != Some(&format!("{}/api/v2/", self.base)) {
            return refuse(403, "access_denied", "Service not found");
        }
        let mut state = self.state();
        let tokens = &mut state.tokens;
        tokens.issued += 1;
        let token = format!("management-token-{}", tokens.issued);
        tokens.good.retain(|_, until| Instant::now() < *until);
        let until = Instant::now() + tokens.lifetime + LEEWAY;
        tokens.good.insert(token.clone(), until);
        let scopes: Vec<&str> = tokens.scopes.iter().copied().collect();
        let granted = json!({
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": tokens.lifetime.as_secs(),
            "scope": scopes.join(" "),
        });
        json_answer(200, &granted)
    }
}

pub(crate) fn revoke_refresh_token(body: &Bytes) -> Response<Body> {
    let given: Value = serde_json::from_slice(body).unwrap_or_default();
    let oauth_error = |status, code: &str| json_answer(status, &json!({ "error": code, "error_description": "" }));
    if given["client_id"] != CLIENT_ID || given["client_secret"] != CLIENT_SECRET {
        return oauth_error(401, "invalid_client");
    }
    if given["token"].as_str().is_none_or(str::is_empty) { oauth_error(400, "invalid_request") } else { empty(200) }
}
