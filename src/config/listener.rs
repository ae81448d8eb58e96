//! `[listener]`

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use toml::de::DeValue;

use super::{
    limits,
    problem::Fault,
    reader::{At, Section},
    secret,
    value::{ByteSize, DAY, HOUR, MILLISECOND, MINUTE, Raw, SECOND, Setting, choose},
};
use crate::{
    clock::{Clock, Timestamp},
    server::{
        ListenerSettings,
        request_id::RequestIds,
        socket::{ListenAddress, SocketOptions},
        tls::{CertificateFiles, ClientCertificates, Credential, TlsFault, TlsSettings, read_authorities},
    },
};

/// The system takes 107 bytes, and a socket has a longer name until it takes its place.
const MAX_PATH: usize = 90;

/// `[listener]`
pub(super) fn read(section: &Section<'_>) -> ListenerSettings {
    let (trusted_proxies, trusts_unix) = trusted_proxies(section);
    let addresses = addresses(section);
    let settings = ListenerSettings {
        sockets: SocketOptions {
            shared: section.get("reuse_port").or(false),
            unix_mode: section.get("unix_mode").or(Mode(0o660)).0,
        },
        tls: tls(&section.section("tls"), &addresses),
        addresses,
        header_timeout: section.get("header_timeout").between(MILLISECOND, HOUR).or(10 * SECOND),
        idle_timeout: section.get("idle_timeout").between(MILLISECOND, DAY).or(MINUTE),
        busy_poll: section.get("busy_poll").between(Duration::ZERO, 10 * MILLISECOND).or(Duration::ZERO),
        max_header_size: section
            .get("max_header_size")
            .between(ByteSize::kib(8), ByteSize::mib(1))
            .or(ByteSize::kib(32))
            .as_usize(),
        max_headers: section.get("max_headers").between(16, 1000).or(100),
        max_connections: section.get("max_connections").between(1, 1_000_000).or(10_000),
        max_connections_per_address: section.get("max_connections_per_address").between(1, 1_000_000).option(),
        own_per_address: limits::own(section),
        drain_delay: section.get("drain_delay").between(Duration::ZERO, HOUR).or(Duration::ZERO),
        drain_timeout: section.get("drain_timeout").between(Duration::ZERO, DAY).or(30 * SECOND),
        trusted_proxies,
        trusts_unix,
        believes_client_cert: section.get("trusted_client_cert").or(false),
        request_ids: section.get("request_id").or(RequestIds::Make),
        begins_traces: section.get("traceparent").or(TraceParents::Pass) == TraceParents::Make,
    };
    section.finish();
    settings
}

fn addresses(section: &Section<'_>) -> Vec<ListenAddress> {
    let default = || vec![ListenAddress::Tcp(([127, 0, 0, 1], 8080).into())];
    let Some((Addresses(mut addresses), at)) = section.get::<Addresses>("address").placed() else { return default() };
    let mut seen = HashSet::new();
    for address in &mut addresses {
        if let ListenAddress::Unix(path) = address {
            *path = section.reader().resolve(&at, &path.to_string_lossy());
            if path.as_os_str().len() > MAX_PATH {
                let fault = Fault::new(format!("{} is longer than {MAX_PATH} bytes", path.display()));
                section
                    .reader()
                    .report(&at, fault.hint("the system takes short paths only, such as \"/run/portcullis.sock\""));
            }
        }
        let is_free = matches!(address, ListenAddress::Tcp(address) if address.port() == 0);
        if !seen.insert(address.to_string()) && !is_free {
            section.reader().report(&at, Fault::new(format!("{address} is there twice")));
        }
    }
    addresses
}

fn trusted_proxies(section: &Section<'_>) -> (Vec<IpNet>, bool) {
    let proxies = section.list::<Proxy>("trusted_proxies").or(Vec::new());
    for (proxy, at) in &proxies {
        if matches!(proxy, Proxy::Network(network) if network.prefix_len() == 0) {
            let fault = Fault::new("every client can say who it is: the whole internet is trusted as a proxy");
            section.reader().warn(at, fault.hint("name the addresses of the proxies in front of this gateway"));
        }
    }
    let trusts_unix = proxies.iter().any(|(proxy, _)| matches!(proxy, Proxy::Unix));
    let network = |(proxy, _)| match proxy {
        Proxy::Network(network) => Some(network),
        Proxy::Unix => None,
    };
    (proxies.into_iter().filter_map(network).collect(), trusts_unix)
}

/// `[listener.tls]`
fn tls(section: &Section<'_>, addresses: &[ListenAddress]) -> Option<TlsSettings> {
    let first = pair(section, true);
    let more = section.numbered_sections("certificates");
    let more: Vec<_> = more
        .iter()
        .map(|section| {
            let files = pair(section, false);
            if let Pair::None = files {
                section.reader().report(&section.at().under("certificate_file"), Fault::new("is missing"));
            }
            section.finish();
            files
        })
        .collect();
    let (says_of_clients, clients) = clients(section);
    section.finish();
    let is_given = !matches!(first, Pair::None) || !more.is_empty() || says_of_clients;
    if !is_given {
        return None;
    }
    if let Pair::None = first {
        let fault = Fault::new("is missing")
            .hint("the certificate for clients that name no host: `certificate_file` and `key_file`");
        section.reader().report(&section.at().under("certificate_file"), fault);
    }
    if addresses.iter().all(|address| matches!(address, ListenAddress::Unix(_))) {
        let fault = Fault::new("is for addresses by TCP, and [listener] has none");
        section
            .reader()
            .report(section.at(), fault.hint("leave it out: what comes by a Unix socket stays on this machine"));
    }
    let files = |pair| match pair {
        Pair::Some(files) => Some(files),
        Pair::None | Pair::Faulty => None,
    };
    // With a faulty one, nothing starts.
    let certificates: Vec<_> = [first].into_iter().chain(more).filter_map(files).collect();
    Some(TlsSettings { certificates, clients })
}

enum Pair {
    None,
    Faulty,
    Some(CertificateFiles),
}

/// A certificate and its key, which fit each other.
fn pair(section: &Section<'_>, is_first: bool) -> Pair {
    let reader = section.reader();
    let path = |key: &str| {
        let slot = section.get::<String>(key);
        let at = slot.at().clone();
        let is_given = slot.is_given();
        (slot.option().map(|path| reader.resolve(&at, &path)), at, is_given)
    };
    let (certificate, certificate_at, has_certificate) = path("certificate_file");
    let (key, key_at, has_key) = path("key_file");
    for (is_given, other_is_given, at) in
        [(has_certificate, has_key, &certificate_at), (has_key, has_certificate, &key_at)]
    {
        if !is_given && other_is_given {
            reader.report(at, Fault::new("is missing").hint("a certificate is of use with its key only"));
        }
    }
    let (certificate, key) = match (certificate, key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) if !has_certificate && !has_key => return Pair::None,
        _ => return Pair::Faulty,
    };
    let files = CertificateFiles { certificate, key };
    let credential = match Credential::read(&files) {
        Ok(credential) => credential,
        Err(fault) => {
            reader.report(if fault.path == files.key { &key_at } else { &certificate_at }, told(&fault));
            return Pair::Faulty;
        }
    };
    secret::warn_if_world_readable(reader, &key_at, &files.key);
    warn_of(section, &certificate_at, &credential, Clock::System.now(), is_first);
    Pair::Some(files)
}

fn told(fault: &TlsFault) -> Fault {
    Fault::new(fault.to_string())
}

fn warn_of(section: &Section<'_>, at: &At, credential: &Credential, now: Timestamp, is_first: bool) {
    let file = credential.file.display();
    let warn = |what: String, hint: &str| section.reader().warn(at, Fault::new(what).hint(hint));
    if credential.not_after <= now {
        warn(
            format!("{file} has expired on {}", credential.not_after),
            "clients will refuse it: renew it; it is read again when it changes",
        );
    } else if credential.not_before > now {
        warn(format!("{file} is good from {} on", credential.not_before), "clients will refuse it until then");
    }
    if !is_first && credential.names.is_empty() {
        warn(
            format!("{file} is for no host, so that no client gets it"),
            "a certificate names its hosts as DNS names (subjectAltName)",
        );
    }
}

/// Whether anything is said about certificates of clients, and what, unless it is wrong.
fn clients(section: &Section<'_>) -> (bool, Option<ClientCertificates>) {
    let reader = section.reader();
    let file = section.get::<String>("client_ca_file");
    let (at, is_given) = (file.at().clone(), file.is_given());
    let required = section.get::<Requirement>("client_certificates");
    if !is_given && required.is_given() {
        reader
            .report(&at, Fault::new("is missing").hint("the authorities whose certificates clients may show, in PEM"));
        return (true, None);
    }
    let required = matches!(required.or(Requirement::Required), Requirement::Required);
    let authorities: Option<PathBuf> = file.option().map(|path| reader.resolve(&at, &path));
    let authorities = authorities.filter(|path: &PathBuf| is_readable(section, &at, path));
    (is_given, authorities.map(|authorities| ClientCertificates { authorities, required }))
}

fn is_readable(section: &Section<'_>, at: &At, path: &Path) -> bool {
    match read_authorities(path) {
        Ok(_) => true,
        Err(fault) => {
            section.reader().report(at, told(&fault));
            false
        }
    }
}

/// One address, or several.
#[derive(Debug)]
struct Addresses(Vec<ListenAddress>);

impl Setting for Addresses {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let addresses = match raw {
            Raw::Text(text) => text.split(',').map(|address| ListenAddress::read(Raw::Text(address.trim()))).collect(),
            Raw::Value(DeValue::Array(addresses)) => {
                addresses.iter().map(|address| ListenAddress::read(Raw::Value(address.get_ref()))).collect()
            }
            one @ Raw::Value(_) => ListenAddress::read(one).map(|address| vec![address]),
        };
        match addresses {
            Ok(addresses) if addresses.is_empty() => Err(Fault::new("names no address")),
            Ok(addresses) => Ok(Self(addresses)),
            Err(fault) => Err(fault),
        }
    }
}

impl Setting for ListenAddress {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let text = raw.text("an address")?;
        let unnamed =
            |what: &str, form: &str| Err(Fault::new(format!("names no {what}")).hint(format!("write \"{form}\"")));
        match text.split_once(':') {
            Some(("unix", "")) => unnamed("socket", "unix:/run/portcullis.sock"),
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            Some(("systemd", "")) => unnamed("socket", "systemd:portcullis"),
            Some(("systemd", name)) => Ok(Self::Systemd(Some(name.into()))),
            _ if text == "systemd" => Ok(Self::Systemd(None)),
            _ => Setting::read(raw).map(Self::Tcp),
        }
    }
}

/// Whose word is believed.
#[derive(Clone, Copy, Debug)]
enum Proxy {
    Network(IpNet),
    Unix,
}

impl Setting for Proxy {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        match raw.text("an address range")? {
            "unix" => Ok(Self::Unix),
            _ => Setting::read(raw).map(Self::Network),
        }
    }
}

impl Setting for RequestIds {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("make", Self::Make), ("keep", Self::Keep), ("off", Self::Off)])
    }
}

/// What becomes of requests without a `traceparent`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TraceParents {
    Pass,
    Make,
}

impl Setting for TraceParents {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("pass", Self::Pass), ("make", Self::Make)])
    }
}

/// The mode of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mode(u32);

impl Setting for Mode {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let text = raw.text("the mode of a file")?;
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && mode & 0o200 != 0);
        let fault = || {
            Fault::new("not the mode of a socket")
                .hint("three octal digits: \"660\" for owner and group, \"666\" for everybody")
        };
        mode.map(Self).ok_or_else(fault)
    }
}

/// Whether clients need a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Requirement {
    Required,
    Optional,
}

impl Setting for Requirement {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("required", Self::Required), ("optional", Self::Optional)])
    }
}
