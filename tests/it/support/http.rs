//! A client that looks at every answer.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON: {error}: {self:?}"))
    }

    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    /// The one value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.get_all(name).iter();
        let value = values.next();
        assert!(values.next().is_none(), "field `{name}` is there twice: {self:?}");
        value.map(|value| value.to_str().unwrap())
    }

    /// The `code` of a problem body; none for anything else.
    pub(crate) fn code(&self) -> Option<String> {
        let problem = self.field("content-type") == Some("application/problem+json");
        problem.then(|| self.json()["code"].as_str().unwrap().to_owned())
    }

    /// Asserts a status and, for a refusal, its code.
    #[track_caller]
    pub(crate) fn is(&self, status: u16, code: impl Into<Option<&'static str>>) -> &Self {
        let found = (self.status.as_u16(), self.code());
        assert_eq!(found, (status, code.into().map(str::to_owned)), "{self:?}");
        self
    }
}

/// Sends one request over a connection of its own.
pub(crate) async fn send(
    address: SocketAddr,
    method: Method,
    target: &str,
    fields: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    try_send(address, method, target, fields, body).await.unwrap()
}

/// The same; an error when nobody answers.
pub(crate) async fn try_send(
    address: SocketAddr,
    method: Method,
    target: &str,
    fields: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Answer, hyper_util::client::legacy::Error> {
    let mut request = Request::builder().method(method).uri(format!("http://{address}{target}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).unwrap();
    let exchange = async {
        let response = Client::builder(TokioExecutor::new()).build_http().request(request).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Ok(Answer { status: parts.status, fields: parts.headers, body })
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .unwrap_or_else(|_| panic!("no answer to {target} within {PATIENCE:?}"))
}
