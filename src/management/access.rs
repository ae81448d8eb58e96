//! What ends at a tenant: sessions and refresh tokens, of a session or of all that a user has.

use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tenant::{Answer, Tenant, TenantError};
use crate::token::claims::{SessionId, SubjectId};

/// What is revoked at an issuer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// The session, or all of the user's. Refresh tokens live on.
    Session,
    /// All refresh tokens of the user. Those of one session cannot be revoked without it: then the session too.
    RefreshTokens,
    /// Both.
    All,
}

/// What is asked of the Management API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Revocation {
    pub(crate) what: &'static str,
    pub(crate) method: Method,
    pub(crate) path: String,
    /// Whether it has a body: an empty object.
    has_body: bool,
}

impl Revocation {
    /// All that a user has.
    pub(crate) fn of_user(user: &SubjectId, extent: Extent) -> Self {
        let user = user_path(user);
        let (what, method, path, has_body) = match extent {
            Extent::Session => ("sessions_delete", Method::DELETE, format!("{user}/sessions"), false),
            Extent::RefreshTokens => ("refresh_tokens_delete", Method::DELETE, format!("{user}/refresh-tokens"), false),
            Extent::All => ("access_revoke", Method::POST, format!("{user}/revoke-access"), true),
        };
        Self { what, method, path, has_body }
    }

    /// A session, and what hangs on it.
    pub(crate) fn of_session(session: &SessionId, extent: Extent) -> Self {
        let session = format!("/api/v2/sessions/{}", utf8_percent_encode(session.as_str(), NON_ALPHANUMERIC));
        let (what, method, path) = match extent {
            Extent::Session => ("session_delete", Method::DELETE, session),
            Extent::RefreshTokens | Extent::All => ("session_revoke", Method::POST, format!("{session}/revoke")),
        };
        Self { what, method, path, has_body: false }
    }

    /// Asks for it.
    pub(crate) async fn call(&self, tenant: &Tenant) -> Result<Answer, TenantError> {
        let body = self.has_body.then(|| Value::Object(serde_json::Map::new()));
        tenant.call(self.method.clone(), &self.path, body.as_ref()).await
    }
}

/// The path of a user.
pub(super) fn user_path(user: &SubjectId) -> String {
    format!("/api/v2/users/{}", utf8_percent_encode(user.as_str(), NON_ALPHANUMERIC))
}
