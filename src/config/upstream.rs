//! What a route says of its upstream.

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use http::{
    StatusCode,
    uri::{Authority, PathAndQuery},
};
use rustls::pki_types::ServerName;
use toml::de::DeValue;

use super::{
    problem::Fault,
    reader::{At, Reader, Section},
    route::Basis,
    value::{DAY, HOUR, MILLISECOND, MINUTE, Raw, SECOND, Setting, choose},
    web,
};
use crate::{
    server::socket::ListenAddress,
    upstream::{
        Balance, EjectionSettings, HealthSettings, OriginSettings, Protocol, RetrySettings, UpstreamSettings,
        transport::{self, Role, Target, TlsClient, TlsFault, Transport},
    },
};

/// The most upstreams of a route.
const MAX_UPSTREAMS: usize = 64;

/// Where requests of a route go, and how.
pub(super) fn read(section: &Section<'_>, basis: &Basis<'_>) -> Option<UpstreamSettings> {
    let origins = origins(section, basis);
    let protocol = section.get("protocol").or(Protocol::Http1);
    let upgrades: Vec<Upgrade> = match section.list::<Upgrade>("upgrades") {
        list if list.is_given() => list.or(Vec::new()).into_iter().map(|(upgrade, _)| upgrade).collect(),
        _ => vec![Upgrade::WebSocket],
    };
    let tls = Tls::read(&section.section("tls"), &origins, protocol);
    let timeout = |key, default| section.get::<Duration>(key).between(MILLISECOND, DAY).or(default);
    let settings = UpstreamSettings {
        origins: origins.iter().map(|placed| placed.settings(&tls)).collect(),
        protocol,
        balance: section.get("balance").or(Balance::LeastLoaded),
        connect_timeout: timeout("connect_timeout", 2 * SECOND),
        response_timeout: timeout("response_timeout", 30 * SECOND),
        body_idle_timeout: timeout("body_idle_timeout", MINUTE),
        websocket: upgrades.contains(&Upgrade::WebSocket),
        tunnel_idle_timeout: timeout("tunnel_idle_timeout", 10 * MINUTE),
        total_timeout: section.get::<Duration>("total_timeout").between(MILLISECOND, DAY).option(),
        keep_alive: timeout("keep_alive", MINUTE),
        max_idle: section.get("max_idle").between(0, 65_535).or(256),
        preserve_host: section.get("preserve_host").or(true),
        resolve_interval: section.get("resolve_interval").between(SECOND, DAY).or(30 * SECOND),
        retries: retries(&section.section("retries")),
        ejection: ejection(&section.section("ejection")),
        health: health(&section.section("health")),
    };
    (!settings.origins.is_empty()).then_some(settings)
}

/// `upstream`, or `upstreams`. Those with problems are left out.
fn origins(section: &Section<'_>, basis: &Basis<'_>) -> Vec<Placed> {
    let reader = section.reader();
    let (one, several) = (section.get::<String>("upstream"), section.list::<Given>("upstreams"));
    if several.is_given() {
        if one.is_given() {
            reader.report(one.at(), Fault::new("stands beside `upstreams`").hint("write one of them"));
        }
    } else {
        let hint = "where the requests go: \"http://127.0.0.1:3000\"";
        let one = one.required(hint).placed().map(|(url, at)| (Given { url, weight: 1 }, at));
        return one.into_iter().filter_map(|given| Placed::read(given, reader, basis)).collect();
    }
    let several = several.check(|several| match several.len() {
        0 => Err(Fault::new("is empty").hint("write \"http://127.0.0.1:3000\" into it")),
        1..=MAX_UPSTREAMS => Ok(()),
        _ => Err(Fault::new(format!("has more than {MAX_UPSTREAMS} upstreams"))
            .hint("give them a name that stands for all of their addresses")),
    });
    let mut placed: Vec<Placed> = Vec::new();
    for given in several.or(Vec::new()) {
        let Some(one) = Placed::read(given, reader, basis) else { continue };
        if placed.iter().any(|other| other.origin == one.origin) {
            reader.report(&one.at, Fault::new("is there twice").hint("give it a weight: { url = \"…\", weight = 2 }"));
        }
        placed.push(one);
    }
    placed
}

/// `retries` of a route.
fn retries(section: &Section<'_>) -> RetrySettings {
    let default = RetrySettings::default();
    let settings = RetrySettings {
        attempts: count(section, "attempts", 1..=5, default.attempts),
        budget: count(section, "budget", 0..=100, default.budget),
        floor: count(section, "min_per_second", 0..=10_000, default.floor),
    };
    section.finish();
    settings
}

/// `ejection` of a route.
fn ejection(section: &Section<'_>) -> EjectionSettings {
    let default = EjectionSettings::default();
    let failures = count(section, "failures", 0..=1000, default.failures);
    let time = section.get("time").between(100 * MILLISECOND, HOUR).or(default.time);
    let max_time = section.get::<Duration>("max_time").between(100 * MILLISECOND, DAY).check(|max_time| {
        if *max_time < time {
            return Err(Fault::new(format!("is less than `ejection.time`, {}", time.show())));
        }
        Ok(())
    });
    let statuses = section.list::<StatusCode>("statuses").check(|statuses| {
        let other = statuses.iter().find(|(status, _)| !status.is_server_error());
        other.map_or(Ok(()), |(status, _)| {
            Err(Fault::new(format!("{} is no fault of a server", status.as_u16())).hint("statuses from 500 to 599"))
        })
    });
    let statuses = statuses.option().map(|statuses| statuses.into_iter().map(|(status, _)| status).collect());
    let settings = EjectionSettings {
        failures,
        time,
        max_time: max_time.or(default.max_time.max(time)),
        statuses: statuses.unwrap_or(default.statuses),
    };
    section.finish();
    settings
}

/// `health` of a route. Without a path there are no checks.
fn health(section: &Section<'_>) -> Option<HealthSettings> {
    const OTHERS: [&str; 5] = ["interval", "timeout", "healthy", "unhealthy", "statuses"];
    let path = section.get::<String>("path").and_then(|path| {
        let parsed = path.parse::<PathAndQuery>().ok().filter(|_| path.starts_with('/') && !path.contains('#'));
        parsed.ok_or_else(|| Fault::new("not a path").hint("such as \"/health\""))
    });
    if !path.is_given() {
        for key in OTHERS.iter().filter(|key| section.has(key)) {
            let fault = Fault::new("there are no health checks").hint("set `health.path`, such as \"/health\"");
            section.reader().warn(&section.at().under(key), fault);
        }
    }
    let interval = section.get("interval").between(100 * MILLISECOND, HOUR).or(10 * SECOND);
    let statuses = section.list::<StatusCode>("statuses").or(Vec::new());
    let settings = |path| HealthSettings {
        path,
        interval,
        timeout: section.get("timeout").between(MILLISECOND, MINUTE).or(2 * SECOND),
        healthy: count(section, "healthy", 1..=100, 2),
        unhealthy: count(section, "unhealthy", 1..=100, 3),
        statuses: statuses.into_iter().map(|(status, _)| status).collect(),
    };
    let is_given = path.is_given();
    let settings = settings(path.or(PathAndQuery::from_static("/")));
    section.finish();
    is_given.then_some(settings)
}

fn count(section: &Section<'_>, key: &str, range: RangeInclusive<usize>, default: u32) -> u32 {
    let count = section.get::<usize>(key).between(*range.start(), *range.end()).option();
    count.and_then(|count| u32::try_from(count).ok()).unwrap_or(default)
}

/// One of `upstreams`: a URL, or a table with a weight beside it.
struct Given {
    url: String,
    weight: u32,
}

impl Setting for Given {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let Raw::Value(DeValue::Table(table)) = raw else {
            return Ok(Self { url: String::read(raw)?, weight: 1 });
        };
        let form = "write { url = \"http://127.0.0.1:3000\", weight = 2 }";
        for (key, _) in table {
            if !matches!(&**key.get_ref(), "url" | "weight") {
                return Err(Fault::new(format!("has an unknown key `{}`", key.get_ref())).hint(form));
            }
        }
        let value = |key: &str| table.get(key).map(|value| Raw::Value(value.get_ref()));
        let url = value("url").ok_or_else(|| Fault::new("has no `url`").hint(form))?;
        let weight = value("weight").map_or(Ok(1), usize::read)?;
        let weight = u32::try_from(weight).ok().filter(|weight| (1..=1000).contains(weight));
        let weight = weight.ok_or_else(|| Fault::new("its `weight` must be from 1 to 1000"))?;
        Ok(Self { url: String::read(url)?, weight })
    }
}

/// An upstream, and where it stands.
struct Placed {
    origin: Origin,
    weight: u32,
    at: At,
}

impl Placed {
    fn read((given, at): (Given, At), reader: &Reader<'_>, basis: &Basis<'_>) -> Option<Self> {
        let origin = Origin::parse(&given.url, |path| reader.resolve(&at, path));
        let origin = origin.and_then(|origin| check_loop(&origin, basis).map(|()| origin));
        match origin {
            Ok(origin) => Some(Self { origin, weight: given.weight, at }),
            Err(fault) => {
                reader.report(&at, fault);
                None
            }
        }
    }

    fn settings(&self, tls: &Tls) -> OriginSettings {
        let transport = self.origin.transport(tls);
        OriginSettings { authority: self.origin.authority.clone(), transport, weight: self.weight }
    }
}

/// An upstream as written: `http://host:port`, `https://host:port`, `unix:path`.
#[derive(PartialEq, Eq)]
struct Origin {
    authority: Authority,
    target: Target,
    is_tls: bool,
}

impl Origin {
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
    fn read(section: &Section<'_>, origins: &[Placed], protocol: Protocol) -> Self {
        let reader = section.reader();
        let [authorities, certificate, key] =
            ["ca_file", "certificate_file", "key_file"].map(|key| section.get::<String>(key).placed());
        let name = section.get::<String>("server_name").and_then(|name| server_name(&name));
        let name_at = name.at().clone();
        let server_name = name.option();
        section.finish();
        let none = Self { client: None, server_name: None };
        let files = [&authorities, &certificate, &key];
        let Some(first) = origins.iter().find(|placed| placed.origin.is_tls) else {
            let places = files.into_iter().flatten().map(|(_, at)| at).chain(server_name.is_some().then_some(&name_at));
            for at in places.filter(|_| !origins.is_empty()) {
                let fault = Fault::new("the upstream is reached without TLS");
                reader.report(at, fault.hint("write https:// in `upstream`"));
            }
            return none;
        };
        let nameless = |placed: &&Placed| self::server_name(placed.origin.authority.host()).is_err();
        for placed in origins.iter().filter(|placed| placed.origin.is_tls && server_name.is_none()).filter(nameless) {
            let fault = Fault::new("no certificate can be for that host");
            reader.report(&placed.at, fault.hint("say in `tls.server_name` whom it is for"));
        }
        let resolved = |file: &Option<(String, At)>| {
            let (path, at) = file.as_ref()?;
            let path = reader.resolve(at, path);
            reader.note_file(at, &path);
            Some(path)
        };
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
                reader.report(file.map_or(&first.at, |(_, at)| at), fault);
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

/// What a connection may be used for instead of HTTP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Upgrade {
    WebSocket,
}

impl Setting for Upgrade {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("websocket", Self::WebSocket)])
    }
}

impl Setting for Balance {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("least_loaded", Self::LeastLoaded), ("round_robin", Self::RoundRobin)])
    }
}

impl Setting for StatusCode {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let status = u16::try_from(usize::read(raw)?).ok().filter(|status| (200..600).contains(status));
        status.and_then(|status| Self::from_u16(status).ok()).ok_or_else(|| Fault::new("not a status from 200 to 599"))
    }
}

impl Setting for Protocol {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("http1", Self::Http1), ("http2", Self::Http2)])
    }
}
