//! What a route says of its upstream.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use http::uri::Authority;
use rustls::pki_types::ServerName;

use super::{
    problem::Fault,
    reader::{At, Section},
    route::Basis,
    value::{DAY, MILLISECOND, MINUTE, Raw, SECOND, Setting, choose},
    web,
};
use crate::{
    server::socket::ListenAddress,
    upstream::{
        Protocol, UpstreamSettings,
        transport::{self, Role, Target, TlsClient, TlsFault, Transport},
    },
};

/// Where requests of a route go, and how.
pub(super) fn read(section: &Section<'_>, basis: &Basis<'_>) -> Option<UpstreamSettings> {
    let reader = section.reader();
    let slot = section.get::<String>("upstream").required("where the requests go: \"http://127.0.0.1:3000\"");
    let at = slot.at().clone();
    let origin = slot
        .and_then(|text| Origin::parse(&text, |path| reader.resolve(&at, path)))
        .check(|origin| check_loop(origin, basis))
        .option();
    let protocol = section.get("protocol").or(Protocol::Http1);
    let tls = Tls::read(&section.section("tls"), origin.as_ref(), &at, protocol);

    let timeout = |key, default| section.get::<Duration>(key).between(MILLISECOND, DAY).or(default);
    let settings = |authority, transport| UpstreamSettings {
        authority,
        transport,
        protocol,
        connect_timeout: timeout("connect_timeout", 2 * SECOND),
        response_timeout: timeout("response_timeout", 30 * SECOND),
        body_idle_timeout: timeout("body_idle_timeout", MINUTE),
        keep_alive: timeout("keep_alive", MINUTE),
        max_idle: section.get("max_idle").between(0, 65_535).or(256),
        preserve_host: section.get("preserve_host").or(true),
    };
    // Its other settings are read, and their problems told, with or without an origin.
    let found = origin.is_some();
    let origin = origin.unwrap_or_else(Origin::nowhere);
    let transport = origin.transport(&tls);
    let settings = settings(origin.authority, transport);
    found.then_some(settings)
}

/// An upstream as written: `http://host:port`, `https://host:port`, `unix:path`.
struct Origin {
    authority: Authority,
    target: Target,
    is_tls: bool,
}

impl Origin {
    fn nowhere() -> Self {
        Self {
            authority: Authority::from_static("invalid:80"),
            target: Target::Name("invalid".into(), 80),
            is_tls: false,
        }
    }

    fn parse(text: &str, resolve: impl FnOnce(&str) -> PathBuf) -> Result<Self, Fault> {
        if let Some(path) = text.strip_prefix("unix:") {
            let form = "write \"unix:/run/app.sock\"";
            if path.is_empty() {
                return Err(Fault::new("names no socket").hint(form));
            }
            if path.starts_with("//") {
                return Err(Fault::new("is a path, not a URL").hint(form));
            }
            let target = Target::Unix(resolve(path).into());
            return Ok(Self { authority: Authority::from_static("localhost"), target, is_tls: false });
        }
        let url = web::url(text)?;
        let authority = url.authority().ok_or_else(|| Fault::new("has no host"))?;
        let is_tls = url.scheme_str() == Some("https");
        if url.query().is_some() || url.path() != "/" {
            let fault = Fault::new("has a path or a query; requests keep the path they came with");
            let scheme = if is_tls { "https" } else { "http" };
            return Err(fault.hint(format!("write \"{scheme}://{authority}\"")));
        }
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let host = authority.host();
        let full = format!("{host}:{port}").parse().map_err(|_| Fault::new("not an http URL"))?;
        let target = match host.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(address) => Target::Tcp(SocketAddr::new(address, port)),
            Err(_) => Target::Name(host.into(), port),
        };
        Ok(Self { authority: full, target, is_tls })
    }

    fn transport(&self, tls: &Tls) -> Transport {
        let client = tls.client.clone().filter(|_| self.is_tls);
        let name = tls.server_name.clone().or_else(|| server_name(self.authority.host()).ok());
        let tls = client.zip(name).map(|(client, name)| transport::Tls { client, name }.into());
        Transport { target: self.target.clone(), tls }
    }
}

/// `tls` of a route: whom to believe at the other end, and who to be there.
struct Tls {
    client: Option<TlsClient>,
    server_name: Option<ServerName<'static>>,
}

impl Tls {
    /// The files are read here already, so that what is wrong with them is told at their keys.
    fn read(section: &Section<'_>, origin: Option<&Origin>, origin_at: &At, protocol: Protocol) -> Self {
        let reader = section.reader();
        let [authorities, certificate, key] =
            ["ca_file", "certificate_file", "key_file"].map(|key| section.get::<String>(key).placed());
        let name = section.get::<String>("server_name").and_then(|name| server_name(&name));
        let name_at = name.at().clone();
        let server_name = name.option();
        section.finish();
        let none = Self { client: None, server_name: None };
        let Some(origin) = origin else { return none };
        let files = [&authorities, &certificate, &key];
        if !origin.is_tls {
            let places = files.into_iter().flatten().map(|(_, at)| at).chain(server_name.is_some().then_some(&name_at));
            for at in places {
                let fault = Fault::new("the upstream is reached without TLS");
                reader.report(at, fault.hint("write https:// in `upstream`"));
            }
            return none;
        }
        if server_name.is_none() && self::server_name(origin.authority.host()).is_err() {
            let fault = Fault::new("no certificate can be for that host");
            reader.report(origin_at, fault.hint("say in `tls.server_name` whom it is for"));
        }
        let resolved = |file: &Option<(String, At)>| file.as_ref().map(|(path, at)| reader.resolve(at, path));
        let [authorities_path, certificate_path, key_path] = files.map(resolved);
        let identity = match (&certificate, &key) {
            (Some((_, at)), None) => {
                reader.report(at, Fault::new("a certificate needs its key").hint("set `tls.key_file`"));
                None
            }
            (None, Some((_, at))) => {
                reader.report(at, Fault::new("a key needs its certificate").hint("set `tls.certificate_file`"));
                None
            }
            _ => certificate_path.as_deref().zip(key_path.as_deref()),
        };
        match TlsClient::new(authorities_path.as_deref(), identity, protocol) {
            Ok(client) => Self { client: Some(client), server_name },
            Err(error) => {
                let (file, fault) = match &error {
                    TlsFault::File { role, .. } => {
                        let file = match role {
                            Role::Authorities => &authorities,
                            Role::Certificate => &certificate,
                            Role::Key => &key,
                        };
                        (file.as_ref(), Fault::new(error.to_string()))
                    }
                    TlsFault::NoSystemAuthorities => {
                        let hint =
                            "install those of your system (`ca-certificates`), or name your own in `tls.ca_file`";
                        (None, Fault::new(error.to_string()).hint(hint))
                    }
                    TlsFault::Setup(source) => (None, Fault::new(format!("{error}: {source}"))),
                };
                reader.report(file.map_or(origin_at, |(_, at)| at), fault);
                none
            }
        }
    }
}

/// What a certificate can be for: a name or an address.
fn server_name(host: &str) -> Result<ServerName<'static>, Fault> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned())
        .map_err(|_| Fault::new("not a name or address that a certificate can be for").hint("such as \"api.internal\""))
}

/// A request must not come back to the gate, nor reach the admin listener by it.
fn check_loop(origin: &Origin, basis: &Basis<'_>) -> Result<(), Fault> {
    let circle = || Fault::new("is the address of [listener]: requests would go round in a circle");
    if let Target::Unix(path) = &origin.target {
        let is_own = |own: &ListenAddress| matches!(own, ListenAddress::Unix(own) if **own == **path);
        return if basis.listener.iter().any(is_own) { Err(circle()) } else { Ok(()) };
    }
    let authority = &origin.authority;
    let (Some(address), Some(port)) = (web::address(authority.host()), authority.port_u16()) else { return Ok(()) };
    let target = SocketAddr::new(address, port);
    let reaches = |own: SocketAddr| {
        let here = own.ip() == address || (own.ip().is_unspecified() || address.is_unspecified()) && is_local(address);
        own.port() == target.port() && own.port() != 0 && here
    };
    if basis.listener.iter().any(|own| matches!(own, ListenAddress::Tcp(own) if reaches(*own))) {
        return Err(circle());
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
