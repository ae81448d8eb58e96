//! `[[routes]]`

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use http::HeaderName;

use super::{
    cors,
    gateway::Markers,
    issuer::Issuer,
    limits,
    problem::{Fault, nearest},
    reader::{At, Reader, Section},
    session::{self, Session},
    upstream,
    value::{Raw, Setting, choose},
    web::{self, CookieName, FieldName},
};
use crate::{
    credential::{CredentialSources, Source},
    gate::policy::{ActivityRule, Authentication, Mode, Policy},
    route::{RouteSettings, path::CanonicalPath, table::HostPattern},
    server::socket::ListenAddress,
    session::SessionLimits,
    token::claims::IssuerName,
    verdict::Settings,
};

/// Where the gate's own endpoints are.
const RESERVED: &str = "/.portcullis";

/// The most routes with session limits of their own: sessions keep all of them by one name, which stands for a value that stores take.
const MAX_LIMITED: usize = 500;

/// The field that carries `sub` where a route does not say otherwise.
const USER_FIELD: HeaderName = HeaderName::from_static("x-forwarded-user");

/// What routes rest on.
pub(super) struct Basis<'a> {
    pub(super) mode: Mode,
    pub(super) listener: &'a [ListenAddress],
    pub(super) admin: SocketAddr,
    pub(super) markers: &'a Markers,
    pub(super) limits: session::Basis<'a>,
    pub(super) session: &'a Session,
    pub(super) issuers: &'a [Issuer],
    /// The names of all issuers, those with problems included.
    pub(super) issuer_names: &'a [String],
}

/// What routes have in common.
#[derive(Default)]
pub(super) struct Routes {
    pub(super) settings: Vec<RouteSettings>,
    /// The claims that they make fields of.
    pub(super) claims: Vec<Box<str>>,
    /// The fields that they make.
    pub(super) fields: Vec<HeaderName>,
    names: HashMap<Arc<str>, String>,
    places: HashMap<(Option<HostPattern>, Vec<u8>), String>,
}

/// What becomes of preflights.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Preflights {
    Refuse,
    Pass,
}

impl Setting for Preflights {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("refuse", Self::Refuse), ("pass", Self::Pass)])
    }
}

/// All routes.
pub(super) fn read_all(root: &Section<'_>, basis: &Basis<'_>) -> Routes {
    let mut routes = Routes::default();
    let sections = root.numbered_sections("routes");
    if sections.is_empty() && !root.has("routes") {
        let hint = "write `[[routes]]` and below it `upstream = \"http://127.0.0.1:3000\"`";
        root.reader().report(root.at(), Fault::new("there is no route").hint(hint));
    }
    for section in sections {
        let route = read(&section, basis, &mut routes);
        section.finish();
        routes.settings.extend(route);
    }
    let limited = routes.settings.iter().filter(|route| route.policy.limits != SessionLimits::NONE).count();
    if limited > MAX_LIMITED {
        let message = format!("{limited} routes have session limits of their own; {MAX_LIMITED} may");
        root.reader().report(root.at(), Fault::new(message).hint("give the issuer the limits that most of them have"));
    }
    routes
}

fn read(section: &Section<'_>, basis: &Basis<'_>, routes: &mut Routes) -> Option<RouteSettings> {
    let hosts = section.list::<HostPattern>("hosts").check(|hosts| {
        if hosts.is_empty() {
            return Err(Fault::new("is empty").hint("leave it out for a route that takes every host"));
        }
        Ok(())
    });
    let hosts: Vec<_> = hosts.or(Vec::new());
    let path = section.get::<String>("path").and_then(|path| read_path(&path));
    let path_at = path.at().clone();
    let path = if path.is_given() { path.option() } else { CanonicalPath::parse("/").ok() };
    if let Some(path) = &path {
        routes.claim_place(section.reader(), &hosts, path, &path_at);
    }
    let name = routes.name(section, &hosts, path.as_ref());
    let upstream = upstream::read(section, basis);
    let policy = policy(section, basis, routes, name);
    let limits = limits::read(&section.section("limits"), policy.authentication);
    let cors = cors::read(&section.section("cors"));
    Some(RouteSettings {
        hosts: hosts.into_iter().map(|(host, _)| host).collect(),
        path: path?,
        policy,
        limits,
        cors,
        upstream: upstream?,
    })
}

fn read_path(text: &str) -> Result<CanonicalPath, Fault> {
    let path = CanonicalPath::parse(text).map_err(|fault| Fault::new(fault.to_string()).hint("see docs/paths.md"))?;
    if path.as_str() != text {
        return Err(Fault::new("is not in canonical form").hint(format!("write \"{path}\"")));
    }
    if path.decoded().split(|&byte| byte == b'/').nth(1) == Some(&RESERVED.as_bytes()[1..]) {
        return Err(Fault::new(format!("paths under `{RESERVED}` are the gate's own")));
    }
    if path.decoded().contains(&b';') {
        return Err(Fault::new("has parameters (`;`), and parameters do not choose a route").hint("see docs/paths.md"));
    }
    Ok(path)
}

impl Routes {
    /// Two routes for the same host and path: one of them would never be used.
    fn claim_place(&mut self, reader: &Reader<'_>, hosts: &[(HostPattern, At)], path: &CanonicalPath, path_at: &At) {
        let every = [(None, path_at)];
        let named: Vec<_> = hosts.iter().map(|(host, at)| (Some(host.clone()), at)).collect();
        for (host, at) in if named.is_empty() { &every[..] } else { &named } {
            let place = (host.clone(), path.decoded().into_owned());
            let route = at.key.split('.').next().unwrap_or_default().to_owned();
            if let Some(other) = self.places.insert(place, route) {
                let host = host.as_ref().map_or("every host", HostPattern::as_str);
                reader.report(at, Fault::new(format!("{host} with path \"{path}\" is already that of {other}")));
            }
        }
    }

    /// The name, by default host and path.
    fn name(&mut self, section: &Section<'_>, hosts: &[(HostPattern, At)], path: Option<&CanonicalPath>) -> Arc<str> {
        let name = section.get::<String>("name").check(|name| {
            if name.len() > 64 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Fault::new("must be 64 visible ASCII characters at most, without spaces"));
            }
            Ok(())
        });
        let at = name.at().clone();
        let default = || {
            let host = hosts.first().map_or("*", |(host, _)| host.as_str());
            format!("{host}{}", path.map_or("/", CanonicalPath::as_str))
        };
        let is_given = name.is_given();
        let name: Arc<str> = name.option().unwrap_or_else(default).into();
        let other = self.names.insert(Arc::clone(&name), section.at().key.clone());
        if let (true, Some(other)) = (is_given, other) {
            section.reader().report(&at, Fault::new(format!("is already the name of {other}")));
        }
        name
    }

    /// The place of a claim among all that routes make fields of.
    fn claim(&mut self, name: &str) -> usize {
        self.claims.iter().position(|claim| &**claim == name).unwrap_or_else(|| {
            self.claims.push(name.into());
            self.claims.len() - 1
        })
    }
}

fn policy(section: &Section<'_>, basis: &Basis<'_>, routes: &mut Routes, name: Arc<str>) -> Policy {
    let reader = section.reader();
    let authentication = section.get("auth").or(Authentication::Required);
    let names = issuers(section, basis, authentication);
    let accepted: Vec<&Issuer> = match &names {
        Some(names) => basis.issuers.iter().filter(|issuer| names.contains(&issuer.settings.name)).collect(),
        None if authentication == Authentication::None => Vec::new(),
        None => basis.issuers.iter().collect(),
    };
    let scopes = section.list::<String>("scopes").check(|scopes| {
        let spaced = scopes.iter().find(|(scope, _)| scope.contains([' ', '"', '\\']));
        spaced.map_or(Ok(()), |(scope, _)| {
            Err(Fault::new(format!("\"{scope}\" is not one scope"))
                .hint("scopes are items of the list: [\"read\", \"write\"]"))
        })
    });
    let cookie = section.get::<CookieName>("cookie");
    let header = section.get::<FieldName>("header");
    if authentication == Authentication::None {
        let given =
            [(scopes.is_given(), scopes.at()), (cookie.is_given(), cookie.at()), (header.is_given(), header.at())];
        for (_, at) in given.iter().filter(|(is_given, _)| *is_given) {
            reader.report(at, Fault::new("means nothing here: with `auth = \"none\"` tokens are not looked at"));
        }
    }
    let own = section.section("session");
    let limits = session::limits(&own, &basis.limits, &basis.session.caps);
    for wider in accepted.iter().map(|issuer| &issuer.limits).chain(names.is_none().then_some(&basis.session.limits)) {
        if limits.idle.is_some() || limits.absolute.is_some() {
            session::check(&own, &limits.or(wider));
        }
    }
    Policy {
        name,
        authentication,
        mode: section.get("mode").or(basis.mode),
        issuers: names,
        sources: sources(reader, &accepted, cookie.placed(), header.placed()),
        settings: Settings {
            clock_skew: basis.markers.retention.clock_skew,
            max_token_lifetime: basis.markers.retention.max_token_lifetime,
            outage: section.get("outage").or(basis.markers.outage),
            required_scopes: scopes.or(Vec::new()).into_iter().map(|(scope, _)| scope.into()).collect(),
        },
        limits: limits.settings(),
        activity: if section.get("activity").or(true) { ActivityRule::Counts } else { ActivityRule::Never },
        preflights: preflights(section),
        identity: identity(section, routes),
        forward_token: section.get("forward_token").or(true),
        realm: section.get::<String>("realm").check(|realm| check_realm(realm)).or("portcullis".to_owned()).into(),
        describe: section.get("describe").or(true),
    }
}

/// Whether preflights go on to the upstream.
fn preflights(section: &Section<'_>) -> bool {
    let preflights = section.get("preflights");
    if preflights.is_given() && section.has("cors") {
        section.reader().report(preflights.at(), Fault::new("means nothing here: with `cors` the gate answers them"));
    }
    preflights.or(Preflights::Refuse) == Preflights::Pass
}

/// The issuers that the route names; `None`: all.
fn issuers(section: &Section<'_>, basis: &Basis<'_>, authentication: Authentication) -> Option<Box<[IssuerName]>> {
    let reader = section.reader();
    let names = section.list::<String>("issuers").check(|names| {
        if names.is_empty() {
            return Err(Fault::new("names no issuer").hint("leave it out to take tokens of every issuer"));
        }
        Ok(())
    });
    if authentication == Authentication::None {
        if names.is_given() {
            reader
                .report(names.at(), Fault::new("means nothing here: with `auth = \"none\"` tokens are not looked at"));
        }
        return None;
    }
    if basis.issuer_names.is_empty() {
        let hint = "write `[issuers.<name>]` with `issuer` and `audiences`, or `auth = \"none\"`";
        reader.report(section.at(), Fault::new("asks for tokens, and no issuer is configured").hint(hint));
    }
    let is_given = names.is_given();
    let mut known = Vec::new();
    for (name, at) in names.or(Vec::new()) {
        if !basis.issuer_names.contains(&name) {
            let fault = Fault::new(format!("there is no issuer \"{name}\""));
            reader.report(
                &at,
                match nearest(&name, basis.issuer_names.iter().map(String::as_str)) {
                    Some(nearest) => fault.hint(format!("did you mean \"{nearest}\"?")),
                    None => fault.hint(format!("there are: {}", basis.issuer_names.join(", "))),
                },
            );
        }
        known.extend(IssuerName::try_from(name.as_str()));
    }
    is_given.then(|| known.into())
}

/// Where tokens of the route may come from. A place that is read twice would make every token in it a doubled one.
fn sources(
    reader: &Reader<'_>,
    accepted: &[&Issuer],
    cookie: Option<(CookieName, At)>,
    header: Option<(FieldName, At)>,
) -> CredentialSources {
    let of_issuers = |issuer: &&Issuer| Some(issuer.settings.name.clone());
    let cookies = accepted.iter().filter_map(|issuer| Some((of_issuers(issuer), issuer.cookie.clone()?)));
    let headers = accepted.iter().filter_map(|issuer| Some((of_issuers(issuer), issuer.header.clone()?)));
    let mut sources = (Vec::<Source<Box<str>>>::new(), Vec::<Source<HeaderName>>::new());
    for (issuer, (CookieName(name), at)) in cookies.chain(cookie.map(|cookie| (None, cookie))) {
        if sources.0.iter().any(|source| source.name == name) {
            reader.report(
                &at,
                Fault::new(format!("cookie `{name}` is a place for tokens already; each place is named once")),
            );
        }
        sources.0.push(Source { name, issuer });
    }
    for (issuer, (FieldName(name), at)) in headers.chain(header.map(|header| (None, header))) {
        if sources.1.iter().any(|source| source.name == name) {
            reader.report(
                &at,
                Fault::new(format!("header `{name}` is a place for tokens already; each place is named once")),
            );
        }
        sources.1.push(Source { name, issuer });
    }
    CredentialSources { cookies: sources.0.into(), headers: sources.1.into() }
}

/// Claims that become fields. Two spellings that servers fold together would be one field there.
fn identity(section: &Section<'_>, routes: &mut Routes) -> Box<[(HeaderName, usize)]> {
    let map = section.map::<String>("identity");
    let is_given = map.is_given();
    let mut seen: Vec<String> = Vec::new();
    let mut identity = Vec::new();
    for (field, claim, at) in map.or(Vec::new()) {
        let name = match web::field_name(&field) {
            Ok(name) => name,
            Err(fault) => {
                section.reader().report(&at, fault);
                continue;
            }
        };
        let folded = web::fold(&name);
        if seen.contains(&folded) {
            let message = format!("`{field}` is there twice: servers fold case, `_` and `-` together");
            section.reader().report(&at, Fault::new(message));
        }
        seen.push(folded);
        identity.push((name, routes.claim(&claim)));
    }
    if !is_given {
        identity.push((USER_FIELD, routes.claim("sub")));
    }
    for (name, _) in &identity {
        if !routes.fields.contains(name) {
            routes.fields.push(name.clone());
        }
    }
    identity.into()
}

/// Realms stand in quotes (RFC 9110 §11.5).
fn check_realm(realm: &str) -> Result<(), Fault> {
    let allowed = |byte: u8| (byte.is_ascii_graphic() || byte == b' ') && !matches!(byte, b'"' | b'\\');
    if realm.len() > 128 || !realm.bytes().all(allowed) {
        return Err(Fault::new("must be 128 ASCII characters at most, without quotes and backslashes"));
    }
    Ok(())
}

impl Setting for HostPattern {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let text = raw.text("a host")?;
        Self::parse(text).map_err(|fault| {
            let fault = Fault::new(format!("\"{text}\" {fault}"));
            if text == "*" { fault.hint("leave `hosts` out for a route that takes every host") } else { fault }
        })
    }
}

impl Setting for Authentication {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("required", Self::Required), ("optional", Self::Optional), ("none", Self::None)])
    }
}

impl Setting for Mode {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("enforce", Self::Enforce), ("observe", Self::Observe)])
    }
}
