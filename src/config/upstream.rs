//! What a route says of its upstream.

use std::{net::SocketAddr, time::Duration};

use http::{Uri, uri::Authority};

use super::{
    problem::Fault,
    reader::Section,
    route::Basis,
    value::{DAY, MILLISECOND, MINUTE, Raw, SECOND, Setting, choose},
    web,
};
use crate::upstream::{Protocol, UpstreamSettings};

/// Where requests of a route go, and how.
pub(super) fn read(section: &Section<'_>, basis: &Basis<'_>) -> Option<UpstreamSettings> {
    let authority = section
        .get::<String>("upstream")
        .required("where the requests go: \"http://127.0.0.1:3000\"")
        .and_then(|text| web::url(&text))
        .and_then(|url| authority(&url))
        .check(|authority| check_loop(authority, basis))
        .option();

    let timeout = |key, default| section.get::<Duration>(key).between(MILLISECOND, DAY).or(default);
    let settings = |authority| UpstreamSettings {
        authority,
        protocol: section.get("protocol").or(Protocol::Http1),
        connect_timeout: timeout("connect_timeout", 2 * SECOND),
        response_timeout: timeout("response_timeout", 30 * SECOND),
        body_idle_timeout: timeout("body_idle_timeout", MINUTE),
        keep_alive: timeout("keep_alive", MINUTE),
        max_idle: section.get("max_idle").between(0, 65_535).or(256),
        preserve_host: section.get("preserve_host").or(true),
    };
    // Its other settings are read, and their problems told, with or without an authority.
    let found = authority.is_some();
    let settings = settings(authority.unwrap_or_else(|| Authority::from_static("invalid:80")));
    found.then_some(settings)
}

fn authority(url: &Uri) -> Result<Authority, Fault> {
    let authority = url.authority().ok_or_else(|| Fault::new("has no host"))?;
    if url.scheme_str() == Some("https") {
        let fault = Fault::new("TLS to upstreams is not supported yet");
        return Err(
            fault.hint("use http:// on a network that you trust, or put a TLS client such as stunnel in between")
        );
    }
    if url.query().is_some() || url.path() != "/" {
        let fault = Fault::new("has a path or a query; requests keep the path they came with");
        return Err(fault.hint(format!("write \"http://{authority}\"")));
    }
    match authority.port() {
        Some(_) => Ok(authority.clone()),
        None => format!("{authority}:80").parse().map_err(|_| Fault::new("not an http URL")),
    }
}

/// A request must not come back to the gate, nor reach the admin listener by it.
fn check_loop(authority: &Authority, basis: &Basis<'_>) -> Result<(), Fault> {
    let (Some(address), Some(port)) = (web::address(authority.host()), authority.port_u16()) else { return Ok(()) };
    let target = SocketAddr::new(address, port);
    let reaches = |own: SocketAddr| {
        let here = own.ip() == address || (own.ip().is_unspecified() || address.is_unspecified()) && is_local(address);
        own.port() == target.port() && own.port() != 0 && here
    };
    if reaches(basis.listener) {
        return Err(Fault::new("is the address of [listener]: requests would go round in a circle"));
    }
    if reaches(basis.admin) {
        return Err(Fault::new("is the address of [admin]: every client could reach it"));
    }
    Ok(())
}

fn is_local(address: std::net::IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

impl Setting for Protocol {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("http1", Self::Http1), ("http2", Self::Http2)])
    }
}
