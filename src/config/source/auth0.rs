//! The sources of Auth0.

use std::time::Duration;

use http::Uri;
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    super::{
        problem::Fault,
        reader::Section,
        secret,
        value::{DAY, HOUR, MILLISECOND, MINUTE, Raw, SECOND, Setting, choose},
        web,
    },
    Basis, issuer,
};
use crate::{
    event::auth0::{
        event_stream::EventStreamSettings,
        events::EventsSettings,
        log_stream::LogStreamSettings,
        logs::LogsSettings,
        record::{Action, Codes},
    },
    management::{pace::RateShare, tenant::TenantSettings},
    token::claims::IssuerName,
};

/// The longest log code, in bytes; those that there are have half as many.
const MAX_CODE_LENGTH: usize = 64;

/// `type = "auth0_log_stream"`
pub(super) fn log_stream(section: &Section<'_>, basis: &Basis<'_>) -> Option<LogStreamSettings> {
    let issuer = issuer(section, basis);
    let authorization = credential(section, "authorization", |byte| (b' '..=b'~').contains(&byte));
    let codes = codes(section);
    Some(LogStreamSettings { issuer: issuer?, authorization: authorization?, codes })
}

/// `type = "auth0_logs"`
pub(super) fn logs(section: &Section<'_>, basis: &Basis<'_>) -> Option<LogsSettings> {
    let issuer = issuer(section, basis);
    let tenant = tenant(section, basis, issuer.as_ref());
    let codes = codes(section);
    let interval = section.get("interval").between(100 * MILLISECOND, HOUR).or(5 * SECOND);
    let overlap = section.get("overlap").between(Duration::ZERO, HOUR).or(MINUTE);
    let start = section.get("start").between(SECOND, 30 * DAY).or(HOUR);
    let lease = lease(section);
    Some(LogsSettings { issuer: issuer?, tenant: tenant?, codes, interval, overlap, start, lease })
}

/// `type = "auth0_event_stream"`
pub(super) fn event_stream(section: &Section<'_>, basis: &Basis<'_>) -> Option<EventStreamSettings> {
    let issuer = issuer(section, basis);
    let token = credential(section, "token", |byte| byte.is_ascii_graphic());
    Some(EventStreamSettings { issuer: issuer?, token: token? })
}

/// `type = "auth0_events"`
pub(super) fn events(section: &Section<'_>, basis: &Basis<'_>) -> Option<EventsSettings> {
    let issuer = issuer(section, basis);
    let tenant = tenant(section, basis, issuer.as_ref());
    let start = section.get("start").between(SECOND, 30 * DAY).or(HOUR);
    let idle_timeout = section.get("idle_timeout").between(SECOND, HOUR).or(MINUTE);
    let lease = lease(section);
    Some(EventsSettings { issuer: issuer?, tenant: tenant?, start, idle_timeout, lease })
}

/// What a sender shows, and nobody else shall know.
fn credential(section: &Section<'_>, key: &str, is_allowed: impl Fn(u8) -> bool) -> Option<SecretString> {
    const SHORT: usize = 16;
    let secret = secret::required_text(section, key)?;
    let (text, at) = (secret.expose_secret(), section.at().under(key));
    if let Some(other) = text.bytes().find(|byte| !is_allowed(*byte)) {
        let what = if other == b' ' { "a space" } else { "a character that is not ASCII" };
        section.reader().report(&at, Fault::new(format!("the secret holds {what}, and could not be sent")));
        return None;
    }
    if text.len() < SHORT {
        let fault = Fault::new(format!("the secret is shorter than {SHORT} characters and can be guessed"));
        section.reader().warn(&at, fault.hint("make one with `openssl rand -hex 32`"));
    }
    Some(secret)
}

/// `codes`: what log codes do, where it is not what they do by default.
pub(super) fn codes(section: &Section<'_>) -> Codes {
    let codes = section.map::<Action>("codes").option().unwrap_or_default();
    let is_code = |code: &str| {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        !code.is_empty() && code.len() <= MAX_CODE_LENGTH && code.bytes().all(allowed)
    };
    for (code, _, at) in codes.iter().filter(|(code, ..)| !is_code(code)) {
        let fault = Fault::new(format!("\"{code}\" cannot be a log code")).hint("such as \"slo\" or \"limit_wc\"");
        section.reader().report(at, fault);
    }
    codes.into_iter().map(|(code, action, _)| (code, action)).collect()
}

impl Setting for Action {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &Self::ALL.map(|action| (action.as_str(), action)))
    }
}

/// The tenant that is asked, and by whom.
fn tenant(section: &Section<'_>, basis: &Basis<'_>, issuer: Option<&IssuerName>) -> Option<TenantSettings> {
    let own = issuer.and_then(|issuer| own_domain(basis, issuer));
    let domain = section.get::<String>("domain").and_then(|domain| base(&domain));
    // Without an issuer there is nothing to conclude it from, and that is told already.
    let domain = if own.is_some() || issuer.is_none() {
        domain
    } else {
        domain.required("the tenant's own domain, such as \"acme.eu.auth0.com\", not a custom one")
    };
    let base = domain.option().or(own);
    let client_id = section.get::<String>("client_id").required("the tenant's machine-to-machine application").option();
    let client_secret = secret::required_text(section, "client_secret");
    let share = section.get::<usize>("rate_share").between(1, 100).or(50);
    let base = base?;
    let audience = format!("{base}api/v2/").into();
    Some(TenantSettings {
        base,
        client_id: client_id?.into(),
        client_secret: client_secret?,
        audience,
        rate_share: RateShare::percent(u8::try_from(share).unwrap_or(100)),
    })
}

/// The domain that the tenant has among the issuer's identifiers.
fn own_domain(basis: &Basis<'_>, issuer: &IssuerName) -> Option<Uri> {
    let issuer = basis.issuers.iter().find(|known| known.settings.name == *issuer)?;
    let domains = issuer.settings.identifiers.iter().filter_map(|identifier| identifier.strip_prefix("https://"));
    let mut domains = domains.map(|domain| domain.trim_end_matches('/'));
    domains.find(|domain| domain.ends_with(".auth0.com") && !domain.contains('/')).and_then(|domain| base(domain).ok())
}

/// The URL of a domain. One that is given as a URL can be on this machine, for those who put something in between.
pub(in crate::config) fn base(domain: &str) -> Result<Uri, Fault> {
    let text = if domain.contains("://") { domain.to_owned() } else { format!("https://{domain}") };
    let such = "such as \"acme.eu.auth0.com\"";
    let url = web::url(&text).map_err(|_| Fault::new("not a domain").hint(such))?;
    let is_here = url.host().and_then(web::address).is_some_and(|address| address.is_loopback());
    if url.scheme_str() == Some("http") && !is_here {
        let fault = Fault::new("is plain http: whoever is on the way could read the secret");
        return Err(fault.hint("use https; http is for this machine only"));
    }
    if url.path() != "/" || url.query().is_some() {
        return Err(Fault::new("is more than a domain").hint(such));
    }
    Ok(url)
}

/// After how long another gateway takes over.
fn lease(section: &Section<'_>) -> Duration {
    section.get("lease").between(SECOND, 5 * MINUTE).or(10 * SECOND)
}
