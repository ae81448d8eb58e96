//! Answers of the admin endpoints.

use std::borrow::Cow;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::store::StoreError;

/// What a handler comes to: both are responses.
pub(super) type Answer = Result<Response, Refusal>;

/// A refusal as a problem body (RFC 9457).
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    /// A member of its own (RFC 9457 §3.2).
    extension: Option<(&'static str, Value)>,
}

impl Refusal {
    /// `code` is public and stable; `detail` repeats nothing that may be a secret.
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, detail: detail.into(), extension: None }
    }

    /// The same, with a member of this name.
    pub(super) fn with(self, name: &'static str, value: Value) -> Self {
        Self { extension: Some((name, value)), ..self }
    }

    /// The request is not as it should be.
    pub(super) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    /// A change that the store did not acknowledge.
    pub(super) fn not_written(error: &StoreError) -> Self {
        Self::store(error, "; the change may or may not have been made, and repeating it is harmless")
    }

    /// A look-up that the store did not answer.
    pub(super) fn not_read(error: &StoreError) -> Self {
        Self::store(error, "")
    }

    fn store(error: &StoreError, consequence: &str) -> Self {
        let (code, detail) = match error {
            StoreError::Unavailable { .. } => {
                ("store_unavailable", format!("the store did not answer in time{consequence}"))
            }
            StoreError::Refused { message, .. } => ("store_refused", format!("the store refused: {message}")),
            StoreError::NotReplicated { wanted, reached, .. } => (
                "not_replicated",
                format!(
                    "the change is made and takes effect, but {reached} of {wanted} replicas have it, so a failover may lose it; \
                     repeating it is harmless"
                ),
            ),
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { status, code, detail, extension } = self;
        let title = status.canonical_reason().unwrap_or("Error");
        let mut body = json!({ "title": title, "status": status.as_u16(), "code": code, "detail": detail });
        if let Some((name, value)) = extension {
            body[name] = value;
        }
        let mut response = say(status, &body);
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let challenge = HeaderValue::from_static("Bearer realm=\"portcullis admin\"");
        match status {
            StatusCode::UNAUTHORIZED => fields.insert(header::WWW_AUTHENTICATE, challenge),
            StatusCode::SERVICE_UNAVAILABLE => fields.insert(header::RETRY_AFTER, HeaderValue::from_static("1")),
            _ => None,
        };
        response
    }
}

/// An answer that nobody may keep: it is out of date at once.
pub(super) fn say(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(body)).into_response()
}

/// An answer to what was asked.
pub(super) fn ok(body: &Value) -> Response {
    say(StatusCode::OK, body)
}
