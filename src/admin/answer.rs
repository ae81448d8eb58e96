//! Answers of the admin endpoints.

use std::borrow::Cow;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::store::StoreError;

/// A refusal as a problem body (RFC 9457).
pub(super) fn problem(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Response {
    let body = json!({
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "code": code,
        "detail": detail.into(),
    });
    let mut response = (status, Json(body)).into_response();
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What the caller must know when the store did not do it.
pub(super) fn store_failed(error: &StoreError) -> Response {
    let mut response = match error {
        StoreError::Unavailable { .. } => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "store_unavailable",
            "the store did not answer; the change may or may not have been made, and repeating it is harmless",
        ),
        StoreError::Refused { message, .. } => {
            problem(StatusCode::SERVICE_UNAVAILABLE, "store_refused", format!("the store refused: {message}"))
        }
    };
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
