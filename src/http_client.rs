//! Requests that the gate makes itself: to issuers, and to those that tell it of events.
//!
//! 1. `https`, except to loopback hosts and where the settings say otherwise; see [`secure`].
//! 2. No redirect is followed: an answer comes from where the settings say, or not at all.
//! 3. Answers are bounded in length and in time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    Request, Response, Uri,
    header::{HeaderValue, USER_AGENT},
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

/// How long a connection that is not used is kept. Longer than the pauses between polls; what the other side has closed meanwhile is
/// noticed, and a new one is made.
const KEPT: Duration = Duration::from_secs(20);

const AGENT: HeaderValue = HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION")));

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Not within the time that was given.
    #[error("no answer from {uri} in time")]
    TimedOut {
        /// Who was asked.
        uri: Uri,
    },
    /// No connection, or one that broke.
    #[error("{uri} is unreachable")]
    Unreachable {
        /// Who was asked.
        uri: Uri,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An answer that is longer than it may be.
    #[error("answer of {uri} is longer than {limit} bytes")]
    TooLarge {
        /// Who was asked.
        uri: Uri,
        /// The most that is read.
        limit: usize,
    },
    /// A URL without TLS to a host that is not loopback.
    #[error("{uri} is neither https nor loopback")]
    Insecure {
        /// The URL.
        uri: String,
    },
}

/// The client of a gateway. Clones share its connections.
#[derive(Clone, Debug)]
pub struct HttpClient(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl HttpClient {
    /// A client that trusts the system's certificates. A system without any can still reach loopback.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new() -> Result<Self, rustls::Error> {
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
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_timer(hyper_util::rt::TokioTimer::new()).pool_idle_timeout(KEPT).pool_max_idle_per_host(2);
        Ok(Self(client.build(connector)))
    }

    /// Sends a request and reads the whole answer, `limit` bytes at most, within `patience` in all.
    ///
    /// # Errors
    /// [`HttpError`]. A status of 4xx or 5xx is none.
    ///
    /// # Cancel safety
    /// The request may have been sent or not.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        limit: usize,
        patience: Duration,
    ) -> Result<Response<Bytes>, HttpError> {
        let uri = request.uri().clone();
        let exchange = async {
            let (parts, body) = self.open(request).await?.into_parts();
            let body = Limited::new(body, limit).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    HttpError::TooLarge { uri: uri.clone(), limit }
                } else {
                    HttpError::Unreachable { uri: uri.clone(), source: error }
                }
            })?;
            Ok(Response::from_parts(parts, body.to_bytes()))
        };
        tokio::time::timeout(patience, exchange).await.unwrap_or_else(|_| Err(HttpError::TimedOut { uri: uri.clone() }))
    }

    /// Sends a request and resolves with the header of the answer, whose body the caller reads. Time and length are the caller's to
    /// bound.
    ///
    /// # Errors
    /// [`HttpError::Unreachable`].
    pub async fn open(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, HttpError> {
        let uri = request.uri().clone();
        request.headers_mut().entry(USER_AGENT).or_insert(AGENT);
        self.0.request(request).await.map_err(|error| HttpError::Unreachable { uri, source: error.into() })
    }
}

/// The URL, if what comes from there can be trusted to come from there.
///
/// # Errors
/// [`HttpError::Insecure`] for anything but `https`, and `http` to a loopback host.
pub fn secure(text: &str) -> Result<Uri, HttpError> {
    let insecure = || HttpError::Insecure { uri: text.to_owned() };
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
            assert!(matches!(secure(not), Err(HttpError::Insecure { .. })), "{not}");
        }
    }
}
