//! A small HTTP client for the gate's own listeners.

use std::{error::Error as _, time::Duration};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// An answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).context("the answer is not JSON")
    }
}

/// Sends one request, with a body of JSON if there is one.
pub(super) async fn send(
    method: Method,
    url: &Uri,
    token: Option<&str>,
    body: Option<&Value>,
) -> anyhow::Result<Answer> {
    send_bytes(method, url, token, body.map(serde_json::to_vec).transpose()?.unwrap_or_default()).await
}

/// Likewise, with a body that is JSON already; empty: none.
pub(super) async fn send_bytes(
    method: Method,
    url: &Uri,
    token: Option<&str>,
    body: Vec<u8>,
) -> anyhow::Result<Answer> {
    let mut request = Request::builder().method(method).uri(url);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request.body(Full::new(Bytes::from(body)))?;
    let exchange = async {
        let response = Client::builder(TokioExecutor::new()).build_http().request(request).await?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| anyhow!(error))?.to_bytes();
        anyhow::Ok(Answer { status: parts.status, fields: parts.headers, body })
    };
    let exchanged = tokio::time::timeout(TIMEOUT, exchange).await;
    exchanged.map_err(|_| anyhow!("no answer within {} s", TIMEOUT.as_secs()))?.map_err(deepest)
}

/// The client's own words say little; the last cause tells what happened.
fn deepest(error: anyhow::Error) -> anyhow::Error {
    let Some(client) = error.downcast_ref::<hyper_util::client::legacy::Error>() else { return error };
    let mut cause = client.source();
    while let Some(next) = cause.and_then(std::error::Error::source) {
        cause = Some(next);
    }
    cause.map_or_else(|| anyhow!("{client}"), |cause| anyhow!("{cause}"))
}
