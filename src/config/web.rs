//! What HTTP allows: URLs, header fields, cookies.

use std::net::IpAddr;

use http::{HeaderName, Uri};

use super::{
    problem::Fault,
    value::{Raw, Setting},
};

/// An absolute `http` or `https` URL without user and fragment. Faults never repeat it: people put secrets into URLs.
pub(super) fn url(text: &str) -> Result<Uri, Fault> {
    let fault = || Fault::new("not an http or https URL");
    if text.contains('#') {
        return Err(Fault::new("has a fragment (`#…`)"));
    }
    let url: Uri = text.parse().map_err(|_| fault())?;
    let (Some("http" | "https"), Some(authority)) = (url.scheme_str(), url.authority()) else {
        return Err(fault());
    };
    if authority.as_str().contains('@') {
        return Err(Fault::new("has a user or a password"));
    }
    if authority.host().is_empty() || authority.port().is_some() && authority.port_u16().is_none_or(|port| port == 0) {
        return Err(fault());
    }
    Ok(url)
}

/// The URL of something that is trusted: `https`, or `http` on this machine.
pub(super) fn trusted_url(text: &str) -> Result<Uri, Fault> {
    let url = url(text)?;
    if url.scheme_str() == Some("http") && !url.host().is_some_and(is_loopback) {
        let fault = Fault::new("is plain http: whoever is on the way could hand out keys of their own");
        return Err(fault.hint("use https; http is for this machine only"));
    }
    Ok(url)
}

/// The address that a host is by itself, as far as its name tells.
pub(super) fn address(host: &str) -> Option<IpAddr> {
    if host.eq_ignore_ascii_case("localhost") {
        return Some(IpAddr::from([127, 0, 0, 1]));
    }
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn is_loopback(host: &str) -> bool {
    address(host).is_some_and(|address| address.is_loopback())
}

/// A header field that the configuration may name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FieldName(pub(super) HeaderName);

impl Setting for FieldName {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        field_name(raw.text("the name of a header field")?).map(Self)
    }
}

/// A header field that may carry an identity or a token: none that HTTP or the gate gives a meaning.
pub(super) fn field_name(text: &str) -> Result<HeaderName, Fault> {
    const HOP_BY_HOP: [&str; 10] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    const TAKEN: [&str; 16] = [
        "authorization",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "date",
        "expect",
        "forwarded",
        "host",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-real-ip",
        "x-request-id",
    ];
    let name =
        HeaderName::try_from(text).map_err(|_| Fault::new(format!("\"{text}\" is not the name of a header field")))?;
    // Servers fold `_` and `-` together.
    let folded = fold(&name);
    if HOP_BY_HOP.contains(&folded.as_str()) {
        return Err(Fault::new(format!("`{text}` is between two hops and never goes on")));
    }
    if TAKEN.contains(&folded.as_str()) {
        return Err(Fault::new(format!("`{text}` has a meaning of its own")));
    }
    if folded.starts_with("portcullis-") {
        return Err(Fault::new(format!("`{text}` is one of the gate's own")));
    }
    Ok(name)
}

/// The name as a server may see it that folds `_` and `-` together.
pub(super) fn fold(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}

/// The name of a cookie (RFC 6265 §4.1.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CookieName(pub(super) Box<str>);

impl Setting for CookieName {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let text = raw.text("the name of a cookie")?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if text.is_empty() || !text.bytes().all(allowed) {
            return Err(Fault::new("not the name of a cookie").hint("letters, digits and !#$%&'*+-.^_`|~"));
        }
        Ok(Self(text.into()))
    }
}
