//! Getting a JWK Set from where the settings say: discovery, a URL or a file.
//!
//! 1. What a token says never leads to a fetch from elsewhere: addresses come from the settings, or from the discovery
//!    document of the configured issuer (OpenID Connect Discovery 1.0 §4).
//! 2. No redirect is followed, and no body is read beyond [`MAX_DOCUMENT`].
//! 3. `https`, except for loopback hosts and a URL that the settings give as `http`.

use std::{io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use http::{
    Method, Request, StatusCode, Uri,
    header::{ACCEPT, USER_AGENT},
};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;
use tokio::io::AsyncReadExt;

use super::super::key::NotAKeySet;

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

/// The client that all issuers share.
#[derive(Clone, Debug)]
pub(in super::super) struct HttpClient(Client<HttpsConnector<HttpConnector>, Empty<Bytes>>);

impl HttpClient {
    /// A client that trusts the system's certificates. A system without any can still fetch from loopback.
    pub(in super::super) fn new() -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = match HttpsConnectorBuilder::new().with_provider_and_native_roots((*provider).clone()) {
            Ok(builder) => builder,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the system has no certificates to trust, so nothing can be fetched by https");
                let tls = rustls::ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()?
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth();
                HttpsConnectorBuilder::new().with_tls_config(tls)
            }
        };
        let connector = builder.https_or_http().enable_http1().enable_http2().build();
        // Fetches are minutes apart: a connection kept for the next one would be a dead one.
        Ok(Self(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)))
    }

    async fn get(&self, uri: &Uri) -> Result<Bytes, JwksError> {
        let unreachable = |source| JwksError::Unreachable { uri: uri.clone(), source };
        let request = Request::builder()
            .method(Method::GET)
            .uri(uri)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("portcullis/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| unreachable(error.into()))?;
        let response = self.0.request(request).await.map_err(|error| unreachable(error.into()))?;
        if response.status() != StatusCode::OK {
            return Err(JwksError::Status { uri: uri.clone(), status: response.status() });
        }
        let body = Limited::new(response.into_body(), MAX_DOCUMENT)
            .collect()
            .await
            .map_err(|error| if error.is::<LengthLimitError>() { JwksError::TooLarge } else { unreachable(error) })?;
        Ok(body.to_bytes())
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
            Self::Discovery { issuer, http } => http.get(&discover(issuer, http).await?).await,
            Self::Url { uri, http } => http.get(uri).await,
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
    let document = http.get(&uri).await?;
    let Ok(metadata) = serde_json::from_slice::<Metadata>(&document) else {
        return Err(JwksError::Discovery { uri });
    };
    if metadata.issuer != issuer {
        return Err(JwksError::IssuerMismatch { uri, found: metadata.issuer });
    }
    secure(&metadata.jwks_uri)
}

/// The URL, if what comes from there can be trusted to come from there.
fn secure(text: &str) -> Result<Uri, JwksError> {
    let insecure = || JwksError::Insecure { uri: text.to_owned() };
    let uri: Uri = text.parse().map_err(|_| insecure())?;
    let host = uri.host().unwrap_or_default();
    match uri.scheme_str() {
        Some("https") if !host.is_empty() => Ok(uri),
        Some("http") if is_loopback(host) => Ok(uri),
        _ => Err(insecure()),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_text_is_for_loopback_only() {
        for fine in ["https://issuer.example/jwks", "http://127.0.0.1:1/", "http://localhost/", "http://[::1]:80/"] {
            assert!(secure(fine).is_ok(), "{fine}");
        }
        for not in [
            "http://issuer.example/",
            "http://127.0.0.1.issuer.example/",
            "http://10.0.0.1/",
            "file:///etc/passwd",
            "ftp://issuer.example/",
            "//issuer.example/",
            "/jwks",
            "",
        ] {
            assert!(matches!(secure(not), Err(JwksError::Insecure { .. })), "{not}");
        }
    }
}
