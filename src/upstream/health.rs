//! Asking endpoints whether they are well, apart from requests and over connections of its own.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Protocol,
    endpoint::Endpoint,
    endpoints::{Endpoints, fraction, jittered},
    transport::ConnectError,
};

const AGENT: HeaderValue = HeaderValue::from_static(concat!("portcullis-health/", env!("CARGO_PKG_VERSION")));

/// The first check comes within this time.
const FIRST: Duration = Duration::from_secs(1);

/// How endpoints are asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthSettings {
    /// What is asked for.
    pub path: PathAndQuery,
    /// How often.
    pub interval: Duration,
    /// How long one check may take, connecting included.
    pub timeout: Duration,
    /// After how many good checks in a row an endpoint is well again.
    pub healthy: u32,
    /// After how many bad checks in a row it is not well.
    pub unhealthy: u32,
    /// The statuses of one that is well; empty: any from 200 to 299.
    pub statuses: Box<[StatusCode]>,
}

/// Why an endpoint is not well.
#[derive(Debug, thiserror::Error)]
enum HealthFault {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no answer in time")]
    TimedOut,
    #[error("no answer")]
    Exchange(#[from] hyper::Error),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("cannot be asked")]
    Request(#[from] http::Error),
}

/// Checks an endpoint until it or all of them are gone. Until it is known better, it is well.
pub(super) fn watch(
    endpoints: &Arc<Endpoints>,
    endpoint: &Arc<Endpoint>,
    settings: &HealthSettings,
) -> AbortOnDropHandle<()> {
    let (endpoints, endpoint, settings) = (Arc::downgrade(endpoints), Arc::downgrade(endpoint), settings.clone());
    AbortOnDropHandle::new(tokio::spawn(async move {
        sleep(fraction(settings.interval.min(FIRST))).await;
        let mut contrary = 0;
        while check_once(&endpoints, &endpoint, &settings, &mut contrary).await {
            sleep(jittered(settings.interval)).await;
        }
    }))
}

/// `contrary`: how many checks in a row said the contrary of what is believed. Returns whether there is anything left to check.
async fn check_once(
    endpoints: &Weak<Endpoints>,
    endpoint: &Weak<Endpoint>,
    settings: &HealthSettings,
    contrary: &mut u32,
) -> bool {
    let (Some(endpoints), Some(endpoint)) = (endpoints.upgrade(), endpoint.upgrade()) else { return false };
    let checking = ask(&endpoint, endpoints.settings().protocol, settings);
    let result = timeout(settings.timeout, checking).await.unwrap_or(Err(HealthFault::TimedOut));
    if result.is_ok() == endpoint.is_well() {
        *contrary = 0;
        return true;
    }
    *contrary += 1;
    let enough = if result.is_ok() { settings.healthy } else { settings.unhealthy };
    if *contrary >= enough {
        *contrary = 0;
        let why = result.as_ref().err().map(|fault| fault as &dyn std::error::Error);
        endpoints.checked(&endpoint, result.is_ok(), why);
    }
    true
}

async fn ask(endpoint: &Endpoint, protocol: Protocol, settings: &HealthSettings) -> Result<(), HealthFault> {
    let io = TokioIo::new(endpoint.transport.connect(settings.timeout).await?);
    let request = Request::get(settings.path.as_str()).header(header::USER_AGENT, AGENT);
    let response = match protocol {
        Protocol::Http1 => {
            let request = request.header(header::HOST, endpoint.authority.as_str()).body(Empty::<Bytes>::new())?;
            let (mut sender, connection) = http1::handshake(io).await?;
            let connection = AbortOnDropHandle::new(tokio::spawn(connection));
            let response = sender.send_request(request).await?;
            drop(connection);
            response
        }
        Protocol::Http2 => {
            let scheme = if endpoint.transport.is_tls() { "https" } else { "http" };
            let uri = Uri::builder().scheme(scheme).authority(endpoint.authority.clone());
            let request = request.uri(uri.path_and_query(settings.path.clone()).build()?).body(Empty::<Bytes>::new())?;
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            let connection = AbortOnDropHandle::new(tokio::spawn(connection));
            let response = sender.send_request(request).await?;
            drop(connection);
            response
        }
    };
    let status = response.status();
    let is_expected =
        if settings.statuses.is_empty() { status.is_success() } else { settings.statuses.contains(&status) };
    if is_expected { Ok(()) } else { Err(HealthFault::Status(status)) }
}
