//! The way through the gate, over real sockets.

mod attacks;
mod codings;
mod connection;
mod drain;
mod expect;
mod fields;
mod framing;
mod http2;
mod interim;
mod limits;
mod protocols;
mod routes;

use http::Version;

use crate::support::{client::Client, gate::TestGate, upstream::StreamBody};

pub(crate) const HTTP1: Version = Version::HTTP_11;
pub(crate) const HTTP2: Version = Version::HTTP_2;

/// A client of this version, connected to the gate.
pub(crate) async fn client(version: Version, gate: &TestGate) -> Client<StreamBody> {
    Client::connect(version, gate.address()).await
}

/// A route to an upstream of this version.
pub(crate) fn route(version: Version, settings: &str) -> String {
    let protocol = if version == HTTP2 { "http2" } else { "http1" };
    format!("[[routes]]\nupstream = \"{{upstream}}\"\nprotocol = \"{protocol}\"\n{settings}\n")
}

/// Runs a test for each version of the client and of the upstream.
pub(crate) async fn each_pair(test: impl AsyncFn(Version, Version)) {
    for downstream in [HTTP1, HTTP2] {
        for upstream in [HTTP1, HTTP2] {
            println!("{downstream:?} in front of {upstream:?}");
            test(downstream, upstream).await;
        }
    }
}
