//! Getting a JWK Set from where the settings say: discovery, a URL or a file.
//!
//! 1. What a token says never leads to a fetch from elsewhere: addresses come from the settings, or from the discovery
//!    document of the configured issuer (OpenID Connect Discovery 1.0 §4).
//! 2. No redirect is followed, and no body is read beyond [`MAX_DOCUMENT`].
//! 3. `https`, except for loopback hosts and a URL that the settings give as `http`.

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{
    Request, StatusCode, Uri,
    header::{ACCEPT, HeaderValue},
};
use http_body_util::Full;
use serde::Deserialize;
use tokio::io::AsyncReadExt;

use super::super::key::NotAKeySet;
use crate::http_client::{HttpClient, HttpError, secure};

/// The longest document that is read, in bytes.
const MAX_DOCUMENT: usize = 512 * 1024;

/// Why an issuer's key set could not be had.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// No answer within `fetch_timeout`.
    #[error("key set did not come in time")]
    TimedOut,
    /// No connection, or one that broke.
    #[error("key set at {uri} is unreachable")]
    Unreachable {
        /// Where it should be.
        uri: Uri,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An answer other than 200.
    #[error("key set at {uri} answered with status {status}")]
    Status {
        /// Where it should be.
        uri: Uri,
        /// The answer's status.
        status: StatusCode,
    },
    /// A document longer than 512 KiB.
    #[error("key set is longer than {MAX_DOCUMENT} bytes")]
    TooLarge,
    /// A file that cannot be read.
    #[error("key set file `{}` cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// A discovery document without `issuer` or `jwks_uri`.
    #[error("discovery document at {uri} is malformed")]
    Discovery {
        /// Where it is.
        uri: Uri,
    },
    /// A discovery document of another issuer (OpenID Connect Discovery 1.0 §4.3).
    #[error("discovery document at {uri} is that of another issuer, `{found}`")]
    IssuerMismatch {
        /// Where it is.
        uri: Uri,
        /// Whose it says it is.
        found: String,
    },
    /// A URL without TLS to a host that is not loopback.
    #[error("{uri} is neither https nor loopback")]
    Insecure {
        /// The URL.
        uri: String,
    },
    /// A document that is not a JWK Set.
    #[error("key set is malformed")]
    Malformed(#[from] NotAKeySet),
}

/// A document that was asked for.
async fn get(http: &HttpClient, uri: &Uri) -> Result<Bytes, JwksError> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = uri.clone();
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
    // The caller has a deadline of its own.
    let response = http.send(request, MAX_DOCUMENT, Duration::MAX).await?;
    if response.status() != StatusCode::OK {
        return Err(JwksError::Status { uri: uri.clone(), status: response.status() });
    }
    Ok(response.into_body())
}

impl From<HttpError> for JwksError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::TimedOut { .. } => Self::TimedOut,
            HttpError::Unreachable { uri, source } => Self::Unreachable { uri, source },
            HttpError::TooLarge { .. } => Self::TooLarge,
            HttpError::Insecure { uri } => Self::Insecure { uri },
        }
    }
}

/// Where the keys of one issuer are.
pub(in super::super) enum Fetcher {
    Discovery { issuer: Box<str>, http: HttpClient },
    Url { uri: Uri, http: HttpClient },
    File(PathBuf),
}

impl Fetcher {
    /// The document.
    pub(super) async fn fetch(&self) -> Result<Bytes, JwksError> {
        match self {
            Self::Discovery { issuer, http } => get(http, &discover(issuer, http).await?).await,
            Self::Url { uri, http } => get(http, uri).await,
            Self::File(path) => read(path).await,
        }
    }
}

async fn read(path: &PathBuf) -> Result<Bytes, JwksError> {
    let failed = |source| JwksError::File { path: path.clone(), source };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut document = Vec::new();
    file.take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut document).await.map_err(failed)?;
    if document.len() > MAX_DOCUMENT { Err(JwksError::TooLarge) } else { Ok(document.into()) }
}

/// `jwks_uri` of the issuer's own discovery document.
async fn discover(issuer: &str, http: &HttpClient) -> Result<Uri, JwksError> {
    #[derive(Deserialize)]
    struct Metadata {
        issuer: String,
        jwks_uri: String,
    }

    let uri = secure(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')))?;
    let document = get(http, &uri).await?;
    let Ok(metadata) = serde_json::from_slice::<Metadata>(&document) else {
        return Err(JwksError::Discovery { uri });
    };
    if metadata.issuer != issuer {
        return Err(JwksError::IssuerMismatch { uri, found: metadata.issuer });
    }
    Ok(secure(&metadata.jwks_uri)?)
}
