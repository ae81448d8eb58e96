//! Refusals as responses: status, challenge (RFC 6750 §3, RFC 9470 §3) and problem body (RFC 9457).
//!
//! Everything but the choice among them is prepared once per policy.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::{grpc, policy::Policy};
use crate::verdict::Reason;

/// How long a client should wait before it tries again when the gate itself is at a loss.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// The refusals of one policy.
#[derive(Debug)]
pub struct Refusals {
    prepared: Vec<Prepared>,
    /// Of challenges that tell how old a login may be.
    realm: Box<str>,
    describe: bool,
}

#[derive(Debug)]
struct Prepared {
    status: StatusCode,
    fields: HeaderMap,
    body: Bytes,
    grpc: HeaderMap,
}

impl Refusals {
    /// Prepares them.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        Self {
            prepared: Reason::ALL.iter().map(|reason| Prepared::new(*reason, policy)).collect(),
            realm: policy.realm.clone(),
            describe: policy.describe,
        }
    }

    /// The response that refuses a request with this header, for this reason, which is an extension of it.
    #[must_use]
    pub fn answer<B: From<Bytes>>(&self, reason: Reason, request: &HeaderMap) -> Response<B> {
        self.refuse(reason, grpc::is_call(request))
    }

    /// Likewise, to a gRPC call or not.
    pub(super) fn refuse<B: From<Bytes>>(&self, reason: Reason, is_grpc: bool) -> Response<B> {
        let prepared = self.prepared(reason);
        if is_grpc {
            let mut response = Response::new(Bytes::new().into());
            response.headers_mut().clone_from(&prepared.grpc);
            response.extensions_mut().insert(reason);
            return response;
        }
        let mut response = Response::new(prepared.body.clone().into());
        *response.status_mut() = prepared.status;
        response.headers_mut().clone_from(&prepared.fields);
        if let Reason::ReauthenticationRequired { .. } = reason
            && let Some(challenge) = challenge(reason, &self.realm, self.describe, &[])
        {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(reason);
        response
    }

    /// The trailers that end a gRPC call for this reason.
    pub(super) fn trailers(&self, reason: Reason) -> HeaderMap {
        let mut trailers = self.prepared(reason).grpc.clone();
        trailers.remove(header::CONTENT_TYPE);
        trailers
    }

    fn prepared(&self, reason: Reason) -> &Prepared {
        let index = Reason::ALL.iter().position(|each| each.code() == reason.code()).unwrap_or_default();
        &self.prepared[index]
    }
}

impl Prepared {
    fn new(reason: Reason, policy: &Policy) -> Self {
        let status = reason.status();
        let mut fields = HeaderMap::new();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let scopes = &policy.settings.required_scopes;
        if let Some(challenge) = challenge(reason, &policy.realm, policy.describe, scopes) {
            fields.insert(header::WWW_AUTHENTICATE, challenge);
        }
        let mut grpc = grpc::fields(status, reason.code());
        if status == StatusCode::SERVICE_UNAVAILABLE {
            fields.insert(header::RETRY_AFTER, RETRY_AFTER);
            grpc.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        let mut body = serde_json::json!({
            "title": reason.title(),
            "status": status.as_u16(),
            "code": reason.code(),
        });
        if policy.describe {
            body["detail"] = reason.detail().into();
        }
        Self { status, fields, body: body.to_string().into(), grpc }
    }
}

impl Reason {
    /// The status that answers it. For nginx `auth_request` and the like, other surfaces map it further.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::MissingToken
            | Self::InvalidToken
            | Self::TokenExpired
            | Self::TokenLifetime
            | Self::Revoked
            | Self::UserBlocked
            | Self::LoggedOut
            | Self::SessionEnded
            | Self::ReauthenticationRequired { .. }
            | Self::IdleTimeout => StatusCode::UNAUTHORIZED,
            Self::InsufficientScope => StatusCode::FORBIDDEN,
            Self::Stale | Self::KeysUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The error code of the challenge (RFC 6750 §3.1, RFC 9470 §3).
    const fn error(self) -> Option<&'static str> {
        match self {
            Self::MissingToken | Self::Stale | Self::KeysUnavailable => None,
            Self::InvalidRequest => Some("invalid_request"),
            Self::InvalidToken
            | Self::TokenExpired
            | Self::TokenLifetime
            | Self::Revoked
            | Self::UserBlocked
            | Self::LoggedOut
            | Self::SessionEnded
            | Self::IdleTimeout => Some("invalid_token"),
            Self::ReauthenticationRequired { .. } => Some("insufficient_user_authentication"),
            Self::InsufficientScope => Some("insufficient_scope"),
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::InvalidRequest => "Malformed credentials",
            Self::InsufficientScope => "Insufficient scope",
            Self::Stale | Self::KeysUnavailable => "Temporarily unable to judge",
            _ => "Authentication required",
        }
    }

    /// A sentence for people: nothing in it comes from the token.
    const fn detail(self) -> &'static str {
        match self {
            Self::MissingToken => "The request carries no access token.",
            Self::InvalidRequest => "The request carries a malformed access token, or more than one.",
            Self::InvalidToken => "The access token is not valid here.",
            Self::TokenExpired => "The access token expired.",
            Self::TokenLifetime => "The access token is valid for longer than is accepted here.",
            Self::KeysUnavailable => "The keys of the token's issuer cannot be had at the moment.",
            Self::Stale => "The state of sessions cannot be had at the moment.",
            Self::Revoked => "The access token was revoked.",
            Self::UserBlocked => "The user is blocked.",
            Self::LoggedOut => "The user logged out.",
            Self::SessionEnded => "The session ended.",
            Self::ReauthenticationRequired { .. } => "The session lasted as long as it may; a new login is needed.",
            Self::IdleTimeout => "The session was idle for too long.",
            Self::InsufficientScope => "The access token lacks a scope that is required here.",
        }
    }
}

fn challenge(reason: Reason, realm: &str, describe: bool, scopes: &[Box<str>]) -> Option<HeaderValue> {
    if reason.status() == StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let mut parameters = vec![format!("realm={}", quoted(realm))];
    if let Some(error) = reason.error() {
        parameters.push(format!("error=\"{error}\""));
        if describe {
            parameters.push(format!("error_description=\"{}\"", reason.detail().trim_end_matches('.')));
        }
    }
    match reason {
        Reason::InsufficientScope => {
            parameters.push(format!("scope={}", quoted(&scopes.join(" "))));
        }
        Reason::ReauthenticationRequired { max_age } => parameters.push(format!("max_age=\"{}\"", max_age.as_secs())),
        _ => {}
    }
    HeaderValue::try_from(format!("Bearer {}", parameters.join(", "))).ok()
}

/// A quoted string (RFC 9110 §5.6.4); what no field value can hold becomes `?`.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            _ => quoted.push('?'),
        }
    }
    quoted.push('"');
    quoted
}
