//! `[issuers.<name>.logout]`, `[issuers.<name>.management]` and `[last_logout]`

use std::time::Duration;

use http::Uri;
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    problem::Fault,
    reader::Section,
    secret,
    source::tenant_base,
    value::{Raw, Setting, choose},
    web,
};
use crate::{
    logout::{LogoutKind, LogoutSettings, return_url::AllowedUrl},
    management::{pace::RateShare, tenant::TenantSettings},
    revocation::{Extent, RevocationSettings},
    server::own::last_logout::LastLogoutSettings,
    token::claims::{IssuerName, MAX_ID_LENGTH},
};

/// What the logout of an issuer rests on.
pub(super) struct Basis<'a> {
    pub(super) name: Option<&'a IssuerName>,
    /// Its `iss`.
    pub(super) identifier: Option<&'a str>,
    pub(super) refresh_interval: Duration,
    pub(super) fetch_timeout: Duration,
}

/// How people are logged out at an issuer, and what is revoked there; neither if there are problems.
#[derive(Debug)]
pub(super) struct AtIssuer {
    pub(super) logout: Option<LogoutSettings>,
    pub(super) revocation: Option<RevocationSettings>,
    /// Its Management API.
    pub(super) tenant: Option<TenantSettings>,
}

/// `logout` and `management` of an issuer.
pub(super) fn read(section: &Section<'_>, management: &Section<'_>, basis: &Basis<'_>) -> AtIssuer {
    let revoke = section.get::<Revoke>("revoke").or(Revoke(None)).0;
    let logout = logout(section, basis);
    let tenant = tenant(management, revoke.is_some(), basis);
    let revocation = revoke.zip(tenant.clone()).zip(basis.name).map(|((extent, tenant), issuer)| RevocationSettings {
        issuer: issuer.clone(),
        extent,
        tenant,
    });
    AtIssuer { logout, revocation, tenant }
}

/// `None`: there is none, or one with problems.
fn logout(section: &Section<'_>, basis: &Basis<'_>) -> Option<LogoutSettings> {
    let kind = section.get::<LogoutKind>("kind");
    let client_id = section.get::<String>("client_id").check(|client_id| {
        if client_id.len() > MAX_ID_LENGTH {
            return Err(Fault::new(format!("is longer than {MAX_ID_LENGTH} bytes")));
        }
        Ok(())
    });
    let return_urls = section.list::<AllowedUrl>("return_urls");
    let default_return_url = section.get::<String>("default_return_url");
    let origins = section.list::<Origin>("origins");
    let federated = section.get::<bool>("federated");
    let endpoint = section.get::<String>("endpoint").and_then(|text| web::trusted_url(&text));
    let cookie_domain = section.get::<CookieDomain>("cookie_domain");
    section.finish();
    let given = [
        kind.is_given(),
        client_id.is_given(),
        return_urls.is_given(),
        default_return_url.is_given(),
        origins.is_given(),
        federated.is_given(),
        endpoint.is_given(),
        cookie_domain.is_given(),
    ];
    if !given.contains(&true) {
        return None;
    }
    let identifier = basis.identifier?;
    let kind = kind.or(usual_kind(identifier));
    let return_urls = return_urls.or(Vec::new());
    let default_return_url = default_return_url.check(|url| {
        if return_urls.iter().any(|(allowed, _)| allowed.matches(url, kind.matching())) {
            return Ok(());
        }
        Err(Fault::new("is not one of `return_urls`").hint("people are sent to what is allowed only"))
    });
    let endpoint = if endpoint.is_given() { Some(endpoint.option()?) } else { None };
    if endpoint.is_none() {
        check_place(section, identifier)?;
    }
    Some(LogoutSettings {
        issuer: basis.name?.clone(),
        identifier: identifier.into(),
        kind,
        endpoint,
        client_id: client_id.option().map(Into::into),
        return_urls: return_urls.into_iter().map(|(url, _)| url).collect(),
        default_return_url: default_return_url.option().map(Into::into),
        origins: origins.or(Vec::new()).into_iter().map(|(origin, _)| origin.0).collect(),
        federated: federated.or(false),
        cookie_domain: cookie_domain.option().map(|domain| domain.0),
        refresh_interval: basis.refresh_interval,
        fetch_timeout: basis.fetch_timeout,
    })
}

/// Who the gate is at the Management API, where that is told or needed.
fn tenant(section: &Section<'_>, is_needed: bool, basis: &Basis<'_>) -> Option<TenantSettings> {
    let domain = section.get::<String>("domain").and_then(|domain| tenant_base(&domain));
    let client_id = section.get::<String>("client_id");
    let has_secret = section.has("client_secret") || section.has("client_secret_file");
    let rate_share = section.get::<usize>("rate_share").between(1, 100).or(50);
    if !(is_needed || domain.is_given() || client_id.is_given() || has_secret) {
        section.finish();
        return None;
    }
    let usual = basis.identifier.and_then(|identifier| identifier.strip_prefix("https://"));
    let usual = usual.map(|host| host.trim_end_matches('/')).filter(|host| host.ends_with(".auth0.com"));
    let base = if domain.is_given() {
        domain.option()
    } else if let Some(usual) = usual {
        tenant_base(usual).ok()
    } else {
        domain.required("the tenant's own domain, such as \"acme.eu.auth0.com\"").option()
    };
    let client_id = client_id.required("the tenant's machine-to-machine application").option();
    let secret = secret::required_text(section, "client_secret");
    section.finish();
    let base = base?;
    Some(TenantSettings {
        audience: format!("{base}api/v2/").into(),
        base,
        client_id: client_id?.into(),
        client_secret: secret?,
        rate_share: RateShare::percent(u8::try_from(rate_share).unwrap_or(100)),
    })
}

/// Auth0's own logout where Auth0 can be told by its name.
fn usual_kind(identifier: &str) -> LogoutKind {
    let host = identifier.parse::<Uri>().ok().and_then(|url| url.host().map(str::to_ascii_lowercase));
    if host.is_some_and(|host| host.ends_with(".auth0.com")) { LogoutKind::Auth0 } else { LogoutKind::Oidc }
}

/// Without an endpoint of its own, the logout is found from the issuer's identifier. `None`: reported.
fn check_place(section: &Section<'_>, identifier: &str) -> Option<()> {
    match web::trusted_url(identifier) {
        Ok(url) if url.query().is_none() => Some(()),
        _ => {
            let fault = Fault::new("the logout cannot be found from the issuer's identifier, which is no https URL");
            section.reader().report(section.at(), fault.hint("set `logout.endpoint`"));
            None
        }
    }
}

/// `[last_logout]`; `None`: it is not served.
pub(super) fn last_logout(section: &Section<'_>, admin: Option<&SecretString>) -> Option<LastLogoutSettings> {
    let has_token = section.has("token") || section.has("token_file");
    let token = secret::read_bearer(section, "token");
    let write_token = secret::read_bearer(section, "write_token");
    section.finish();
    let is = |one: &SecretString, other: &SecretString| one.expose_secret() == other.expose_secret();
    for (secret, at) in token.iter().chain(&write_token) {
        if admin.is_some_and(|admin| is(admin, secret)) {
            let fault = Fault::new("is the token of [admin] too: whoever has it could do everything");
            section.reader().report(at, fault.hint("make one with `openssl rand -hex 32`"));
        }
    }
    if let (Some((token, _)), Some((write_token, at))) = (&token, &write_token)
        && is(token, write_token)
    {
        let fault = Fault::new("is `token` too: whoever asks could log people out");
        section.reader().report(at, fault.hint("make one with `openssl rand -hex 32`"));
    }
    if let (false, Some((_, at))) = (has_token, &write_token) {
        section.reader().report(at, Fault::new("nobody may ask").hint("set `token_file` too"));
    }
    Some(LastLogoutSettings { token: token?.0, write_token: write_token.map(|(secret, _)| secret) })
}

impl Setting for LogoutKind {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("auth0", Self::Auth0), ("oidc", Self::Oidc)])
    }
}

impl Setting for AllowedUrl {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        Self::try_from(raw.text("a URL")?).map_err(|fault| Fault::new(fault.to_string()))
    }
}

/// What is revoked at an issuer, if anything.
pub(super) struct Revoke(pub(super) Option<Extent>);

impl Setting for Revoke {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let choices = [
            ("none", None),
            ("session", Some(Extent::Session)),
            ("refresh_tokens", Some(Extent::RefreshTokens)),
            ("all", Some(Extent::All)),
        ];
        choose(raw, &choices).map(Self)
    }
}

/// An origin (RFC 6454 §6.2) without `*`.
pub(super) struct Origin(pub(super) Box<str>);

impl Setting for Origin {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let text = raw.text("an origin")?;
        let authority = text.split_once("://").map_or("", |(_, authority)| authority);
        if AllowedUrl::try_from(text).is_err() || authority.contains(['/', '?', '*']) {
            return Err(Fault::new("not an origin").hint("scheme, host and port alone: \"https://app.example\""));
        }
        // As browsers write it.
        let origin = text.to_ascii_lowercase();
        let usual_port = if origin.starts_with("https:") { ":443" } else { ":80" };
        Ok(Self(origin.strip_suffix(usual_port).unwrap_or(&origin).into()))
    }
}

/// The `Domain` of a cookie (RFC 6265 §5.2.3).
struct CookieDomain(Box<str>);

impl Setting for CookieDomain {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let text = raw.text("a domain")?;
        let is_label =
            |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !text.strip_prefix('.').unwrap_or(text).split('.').all(is_label) {
            return Err(Fault::new("not a domain").hint("such as \"acme.example\""));
        }
        Ok(Self(text.into()))
    }
}
