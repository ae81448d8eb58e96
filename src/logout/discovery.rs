//! `end_session_endpoint` of an issuer's discovery document (OpenID Connect RP-Initiated Logout 1.0 §2.1).
//!
//! The document is trusted as it is for keys: over `https` or from this machine, without redirects, of the very issuer, and bounded.
//! What was found stays until the document says otherwise.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{
    Request, StatusCode, Uri,
    header::{ACCEPT, HeaderValue},
};
use http_body_util::Full;
use serde::Deserialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::LogoutSettings;
use crate::http_client::{HttpClient, HttpError, secure};

/// The longest document that is read, in bytes.
const MAX_DOCUMENT: usize = 512 * 1024;

/// The wait before the second attempt after a failed fetch; it doubles up to the refresh interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Why the endpoint is not known.
#[derive(Debug, thiserror::Error)]
enum DiscoveryError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("{uri} answered with status {status}")]
    Status { uri: Uri, status: StatusCode },
    #[error("discovery document at {uri} is malformed")]
    Malformed { uri: Uri },
    #[error("discovery document at {uri} is that of another issuer")]
    IssuerMismatch { uri: Uri },
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    end_session_endpoint: Option<String>,
}

/// Fetches the document now and then, until `stop`.
pub(super) async fn keep_fresh(
    settings: LogoutSettings,
    http: HttpClient,
    found: Arc<ArcSwapOption<Uri>>,
    stop: CancellationToken,
) {
    let mut retry = FIRST_RETRY;
    loop {
        let wait = match discover(&settings, &http).await {
            Ok(endpoint) => {
                publish(&settings, &found, endpoint);
                retry = FIRST_RETRY;
                settings.refresh_interval
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(issuer.name = %settings.issuer, error, "the issuer's logout could not be looked up");
                let wait = retry;
                retry = retry.saturating_mul(2).min(settings.refresh_interval.max(FIRST_RETRY));
                wait
            }
        };
        if stop.run_until_cancelled(sleep(wait)).await.is_none() {
            return;
        }
    }
}

fn publish(settings: &LogoutSettings, found: &ArcSwapOption<Uri>, endpoint: Option<Uri>) {
    if found.load().as_deref() == endpoint.as_ref() && endpoint.is_some() {
        return;
    }
    if endpoint.is_none() {
        tracing::warn!(issuer.name = %settings.issuer, "the issuer's discovery document names no logout");
    }
    found.store(endpoint.map(Arc::new));
}

async fn discover(settings: &LogoutSettings, http: &HttpClient) -> Result<Option<Uri>, DiscoveryError> {
    let uri = secure(&format!("{}/.well-known/openid-configuration", settings.identifier.trim_end_matches('/')))?;
    let mut request = Request::new(Full::<Bytes>::default());
    *request.uri_mut() = uri.clone();
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
    let response = http.send(request, MAX_DOCUMENT, settings.fetch_timeout).await?;
    if response.status() != StatusCode::OK {
        return Err(DiscoveryError::Status { uri, status: response.status() });
    }
    let Ok(metadata) = serde_json::from_slice::<Metadata>(response.body()) else {
        return Err(DiscoveryError::Malformed { uri });
    };
    if metadata.issuer != *settings.identifier {
        return Err(DiscoveryError::IssuerMismatch { uri });
    }
    Ok(metadata.end_session_endpoint.as_deref().map(secure).transpose()?)
}
