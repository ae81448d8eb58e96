//! What a route says of scripts of other origins.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Uri};

use super::{
    problem::Fault,
    reader::{At, Section},
    value::{DAY, MINUTE, Raw, Setting},
};
use crate::cors::{CorsSettings, OriginPattern, Origins};

/// `[routes.cors]`
pub(super) fn read(section: &Section<'_>) -> Option<CorsSettings> {
    let origins = section.list::<Origin>("origins").check(|origins| {
        if origins.is_empty() { Err(Fault::new("names no origin").hint("leave `cors` out")) } else { Ok(()) }
    });
    let origins_at = origins.at().clone();
    let given = origins.is_given();
    let origins = origins.or(Vec::new());
    let methods = names::<MethodName>(section, "methods", "GET, HEAD, POST");
    let headers = names::<FieldName>(section, "headers", "Authorization, Content-Type");
    let own = "Portcullis-Session-Absolute, Portcullis-Session-Idle, Retry-After, WWW-Authenticate, X-Request-Id";
    let expose = names::<FieldName>(section, "expose", own);
    let credentials = section.get::<bool>("credentials");
    let credentials_at = credentials.at().clone();
    let credentials = credentials.or(false);
    let max_age = section.get::<Duration>("max_age").between(Duration::ZERO, DAY).or(10 * MINUTE);
    let every = every(section, &origins);
    if every && credentials {
        let fault = Fault::new("every origin could act for whoever is logged in");
        section.reader().report(&credentials_at, fault.hint("name the origins, or leave `credentials` out"));
    }
    let known = section.at().is_given();
    section.finish();
    if !known {
        return None;
    }
    if !given {
        section
            .reader()
            .report(&origins_at, Fault::new("is missing").hint("whose scripts may: [\"https://app.example\"]"));
    }
    let patterns = origins.iter().map(|(Origin(origin), _)| OriginPattern::new(origin)).collect();
    Some(CorsSettings {
        origins: if every { Origins::Every } else { Origins::Some(patterns) },
        methods: methods.unwrap_or_else(|| HeaderValue::from_static("GET")),
        headers,
        expose,
        credentials,
        max_age: max_age.as_secs(),
    })
}

/// Whether every origin is meant, which is then all that is said.
fn every(section: &Section<'_>, origins: &[(Origin, At)]) -> bool {
    let every = origins.iter().find(|(Origin(origin), _)| origin == "*");
    if let (Some((_, at)), true) = (every, origins.len() > 1) {
        section.reader().report(at, Fault::new("is every origin, and others are named besides"));
    }
    every.is_some()
}

/// A list as a field holds it; `None`: it is empty.
fn names<T: Setting + Into<String>>(section: &Section<'_>, key: &str, default: &'static str) -> Option<HeaderValue> {
    let names = section.list::<T>(key);
    if !names.is_given() {
        return Some(HeaderValue::from_static(default));
    }
    let names: Vec<String> = names.or(Vec::new()).into_iter().map(|(name, _)| name.into()).collect();
    HeaderValue::try_from(names.join(", ")).ok().filter(|names| !names.is_empty())
}

/// `https://app.example`, `https://*.example`, or `*`.
struct Origin(String);

impl Setting for Origin {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let text = raw.text("an origin")?;
        if text == "*" {
            return Ok(Self(text.to_owned()));
        }
        if text == "null" {
            return Err(Fault::new("`null` is no origin: frames and files from anywhere call themselves that"));
        }
        let fault = || {
            Fault::new("not an origin").hint("scheme, host and, if it is not the usual one, port: \"https://app.example\", \"https://*.app.example\"")
        };
        let (scheme, host) = text.split_once("://").ok_or_else(fault)?;
        let labels = host.strip_prefix("*.").unwrap_or(host);
        let uri: Uri = format!("{scheme}://{labels}").parse().map_err(|_| fault())?;
        let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        if !matches!(scheme, "http" | "https") || authority != labels || !labels.bytes().all(plain) {
            return Err(fault());
        }
        // As browsers write it.
        let origin = text.to_ascii_lowercase();
        let usual_port = if scheme == "https" { ":443" } else { ":80" };
        Ok(Self(origin.strip_suffix(usual_port).unwrap_or(&origin).to_owned()))
    }
}

/// A method, in capitals: methods are compared letter by letter.
struct MethodName(Method);

impl Setting for MethodName {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let text = raw.text("a method")?;
        let usual = text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        match Method::from_bytes(text.as_bytes()) {
            Ok(method) if usual => Ok(Self(method)),
            _ => Err(Fault::new(format!("\"{text}\" is not a method")).hint("in capitals: \"GET\", \"PATCH\"")),
        }
    }
}

impl From<MethodName> for String {
    fn from(method: MethodName) -> Self {
        method.0.as_str().to_owned()
    }
}

/// A header field, in the letters that it was written in.
struct FieldName(String);

impl Setting for FieldName {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let text = raw.text("the name of a header field")?;
        match HeaderName::try_from(text) {
            Ok(_) if text != "*" => Ok(Self(text.to_owned())),
            _ => Err(Fault::new(format!("\"{text}\" is not the name of a header field"))),
        }
    }
}

impl From<FieldName> for String {
    fn from(name: FieldName) -> Self {
        name.0
    }
}
