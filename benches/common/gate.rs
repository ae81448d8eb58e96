//! A gate's configuration, and questions to its listeners.

use std::{net::SocketAddr, path::Path};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::tokens::{AUDIENCE, ISSUER};

/// The gate that was built with the bench.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");

/// What gates differ in.
pub(crate) struct Settings<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// The store's URL.
    pub(crate) store: &'a str,
    /// The file with the issuer's keys.
    pub(crate) jwks: &'a Path,
    pub(crate) upstream: SocketAddr,
    /// What else its listener is told.
    pub(crate) listener: &'a str,
    /// What is configured besides.
    pub(crate) more: &'a str,
}

/// One issuer, one route that wants its tokens, one that wants none; all else as by default.
pub(crate) fn configuration(settings: &Settings<'_>) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let Settings { address, admin, upstream, listener, more, .. } = settings;
    let (store, jwks) = (quoted(settings.store), quoted(&settings.jwks.display().to_string()));
    format!(
        r#"
[listener]
address = "{address}"
{listener}

[admin]
address = "{admin}"

[store]
url = {store}

[log]
level = "warn"

[issuers.bench]
issuer = "{ISSUER}"
audiences = ["{AUDIENCE}"]
algorithms = ["RS256", "ES256"]
jwks_file = {jwks}

[[routes]]
name = "open"
path = "/open"
auth = "none"
upstream = "http://{upstream}"

[[routes]]
name = "api"
path = "/api"
upstream = "http://{upstream}"
identity = {{ "X-Forwarded-User" = "sub" }}
{more}"#
    )
}

/// The status that a request without a body is answered with.
pub(crate) async fn ask(address: SocketAddr, method: Method, path: &str) -> anyhow::Result<StatusCode> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?.status())
}
