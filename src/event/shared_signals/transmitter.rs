//! The transmitter as the gate talks to it: its configuration, and requests with a credential.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;

use crate::http_client::{HttpClient, HttpError, secure};

/// How long an answer may take, polls aside.
const PATIENCE: Duration = Duration::from_secs(15);

/// The longest answer that is read, polls aside.
const MAX_ANSWER: usize = 256 * 1024;

/// How long before its end an access token is replaced.
const EARLY: Duration = Duration::from_secs(30);

/// The longest `Retry-After` that is obeyed.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// Why a transmitter did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransmitterError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("{uri} answers {status}")]
    Status { uri: Uri, status: StatusCode, retry_after: Option<Duration> },
    #[error("answer of {uri} is not {expected}")]
    Malformed { uri: Uri, expected: &'static str },
    #[error("no access token from {uri}")]
    Token { uri: Uri, source: Box<TransmitterError> },
    #[error("configuration of the transmitter has another issuer than `{transmitter}`")]
    OtherIssuer { transmitter: Box<str> },
    #[error("configuration of the transmitter has no {what}")]
    Lacking { what: &'static str },
    #[error("credential cannot be sent")]
    Credential,
}

impl TransmitterError {
    /// How long it asks to be left alone.
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// How the gate shows who it is.
#[derive(Clone, Debug)]
pub enum Credential {
    /// Not at all.
    None,
    /// By this bearer token.
    Token(SecretString),
    /// By access tokens of the client credentials grant (RFC 6749 §4.4).
    Client {
        /// The token endpoint.
        token_url: Uri,
        /// `client_id`
        id: Box<str>,
        /// `client_secret`
        secret: SecretString,
        /// `scope`
        scope: Option<Box<str>>,
    },
}

/// Of settings: no comparison with what somebody sent.
impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Token(one), Self::Token(other)) => one.expose_secret() == other.expose_secret(),
            (
                Self::Client { token_url, id, secret, scope },
                Self::Client { token_url: u, id: i, secret: other, scope: s },
            ) => (token_url, id, scope) == (u, i, s) && secret.expose_secret() == other.expose_secret(),
            (Self::None | Self::Token(_) | Self::Client { .. }, _) => false,
        }
    }
}

/// What the transmitter says of itself (Shared Signals Framework 1.0). Members that are not known are passed over.
#[derive(Clone, Deserialize, Debug)]
pub(super) struct Configuration {
    issuer: String,
    pub(super) jwks_uri: Option<String>,
    #[serde(default)]
    pub(super) delivery_methods_supported: Vec<String>,
    #[serde(rename = "configuration_endpoint")]
    pub(super) streams_endpoint: Option<String>,
    pub(super) status_endpoint: Option<String>,
    pub(super) verification_endpoint: Option<String>,
    #[serde(default)]
    pub(super) critical_subject_members: Vec<String>,
}

/// Asks a transmitter.
#[derive(Debug)]
pub(super) struct Transmitter {
    http: HttpClient,
    issuer: Box<str>,
    credential: Credential,
    /// The access token of the client credentials grant, and when it is replaced.
    cached: Mutex<Option<(SecretString, Instant)>>,
}

impl Transmitter {
    pub(super) fn new(http: HttpClient, issuer: &str, credential: Credential) -> Self {
        Self { http, issuer: issuer.into(), credential, cached: Mutex::default() }
    }

    /// Its configuration, from the place that its issuer gives.
    pub(super) async fn configuration(&self) -> Result<Configuration, TransmitterError> {
        let uri = secure(&well_known(&self.issuer))?;
        let request = Request::get(&uri).header(header::ACCEPT, "application/json").body(Full::default());
        let request = request.map_err(|_| TransmitterError::Credential)?;
        let answer = check(&uri, self.http.send(request, MAX_ANSWER, PATIENCE).await?)?;
        let configuration: Configuration = parse(&uri, &answer, "the configuration of a transmitter")?;
        if *configuration.issuer != *self.issuer {
            return Err(TransmitterError::OtherIssuer { transmitter: self.issuer.clone() });
        }
        Ok(configuration)
    }

    /// Sends a request with the credential; an answer other than 2xx is an error.
    pub(super) async fn call(
        &self,
        method: Method,
        uri: &Uri,
        body: Option<&Value>,
    ) -> Result<Response<Bytes>, TransmitterError> {
        self.call_within(method, uri, body, MAX_ANSWER, PATIENCE).await
    }

    /// The same, within these bounds.
    pub(super) async fn call_within(
        &self,
        method: Method,
        uri: &Uri,
        body: Option<&Value>,
        limit: usize,
        patience: Duration,
    ) -> Result<Response<Bytes>, TransmitterError> {
        let mut request = Request::builder().method(method).uri(uri).header(header::ACCEPT, "application/json");
        if let Some(authorization) = self.authorization().await? {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let body = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                // Of use where an answer or a request has text for people.
                request = request.header(header::CONTENT_LANGUAGE, "en");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(body)).map_err(|_| TransmitterError::Credential)?;
        let answer = check(uri, self.http.send(request, limit, patience).await?);
        if answer.as_ref().is_err_and(|error| error.status() == Some(StatusCode::UNAUTHORIZED)) {
            // It may have been revoked; the next attempt takes a new one.
            *self.cached() = None;
        }
        answer
    }

    async fn authorization(&self) -> Result<Option<HeaderValue>, TransmitterError> {
        let bearer = |token: &SecretString| {
            let value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()));
            let mut value = value.map_err(|_| TransmitterError::Credential)?;
            value.set_sensitive(true);
            Ok(Some(value))
        };
        match &self.credential {
            Credential::None => Ok(None),
            Credential::Token(token) => bearer(token),
            Credential::Client { token_url, id, secret, scope } => {
                let cached = self.cached().clone().filter(|(_, until)| *until > Instant::now());
                if let Some((token, _)) = cached {
                    return bearer(&token);
                }
                let fetched = self.access_token(token_url, id, secret, scope.as_deref()).await;
                let (token, until) = fetched
                    .map_err(|error| TransmitterError::Token { uri: token_url.clone(), source: Box::new(error) })?;
                let value = bearer(&token);
                *self.cached() = Some((token, until));
                value
            }
        }
    }

    /// RFC 6749 §4.4.2, the client authenticated as in §2.3.1.
    async fn access_token(
        &self,
        uri: &Uri,
        id: &str,
        secret: &SecretString,
        scope: Option<&str>,
    ) -> Result<(SecretString, Instant), TransmitterError> {
        #[derive(Deserialize)]
        struct Granted {
            access_token: SecretString,
            expires_in: Option<u64>,
        }

        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let client = STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret.expose_secret())));
        let scope = scope.map(|scope| format!("&scope={}", encoded(scope))).unwrap_or_default();
        let mut authorization =
            HeaderValue::try_from(format!("Basic {client}")).map_err(|_| TransmitterError::Credential)?;
        authorization.set_sensitive(true);
        let request = Request::post(uri)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::AUTHORIZATION, authorization)
            .body(Full::new(format!("grant_type=client_credentials{scope}").into()))
            .map_err(|_| TransmitterError::Credential)?;
        let asked = Instant::now();
        let answer = check(uri, self.http.send(request, MAX_ANSWER, PATIENCE).await?)?;
        let granted: Granted = parse(uri, &answer, "that of a token endpoint")?;
        let lifetime = Duration::from_secs(granted.expires_in.unwrap_or(300).min(86_400));
        Ok((granted.access_token, asked + lifetime.saturating_sub(EARLY)))
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, Option<(SecretString, Instant)>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(uri: &Uri, answer: Response<Bytes>) -> Result<Response<Bytes>, TransmitterError> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    let seconds = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(MAX_WAIT));
    Err(TransmitterError::Status { uri: uri.clone(), status: answer.status(), retry_after })
}

/// Reads an answer.
pub(super) fn parse<T: serde::de::DeserializeOwned>(
    uri: &Uri,
    answer: &Response<Bytes>,
    expected: &'static str,
) -> Result<T, TransmitterError> {
    // Not its own error, which may repeat what it read.
    serde_json::from_slice(answer.body()).map_err(|_| TransmitterError::Malformed { uri: uri.clone(), expected })
}

/// Where the configuration of an issuer is: the well-known part stands between host and path.
pub(super) fn well_known(issuer: &str) -> String {
    let after_scheme = issuer.find("://").map_or(0, |place| place + 3);
    let host_end = issuer[after_scheme..].find('/').map_or(issuer.len(), |place| after_scheme + place);
    let (host, path) = issuer.split_at(host_end);
    format!("{host}/.well-known/ssf-configuration{}", path.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_well_known_part_stands_between_host_and_path() {
        for (issuer, expected) in [
            ("https://tr.example.com", "https://tr.example.com/.well-known/ssf-configuration"),
            ("https://tr.example.com/", "https://tr.example.com/.well-known/ssf-configuration"),
            ("https://tr.example.com/issuer1", "https://tr.example.com/.well-known/ssf-configuration/issuer1"),
            ("https://tr.example.com:8443/a/b/", "https://tr.example.com:8443/.well-known/ssf-configuration/a/b"),
        ] {
            assert_eq!(well_known(issuer), expected);
        }
    }

    #[test]
    fn the_published_configuration_is_read() {
        let published = include_str!("../../../tests/fixtures/ssf/transmitter-configuration.json");
        let configuration: Configuration = serde_json::from_str(published).unwrap();
        assert_eq!(configuration.issuer, "https://tr.example.com");
        assert_eq!(configuration.jwks_uri.as_deref(), Some("https://tr.example.com/jwks.json"));
        assert_eq!(configuration.critical_subject_members, ["tenant", "user"]);
        let least: Configuration = serde_json::from_str(r#"{"issuer":"https://tr.example.com"}"#).unwrap();
        assert!(least.jwks_uri.is_none() && least.critical_subject_members.is_empty());
    }
}
