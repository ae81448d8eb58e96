//! Requests to speak WebSocket: found while the fields that say so are still there, and made one form of both protocols' ways.

use std::sync::Arc;

use h2::ext::Protocol;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version, header};

use crate::{
    credential::{Credential, CredentialSources},
    http1,
    server::own::cross_origin::TrustedOrigins,
    upstream::{
        fields::{Downstream, FORWARDED_PROTO, Scheme},
        tunnel::{Handshake, Hold, Switching, Traffic},
    },
};

/// The protocol's name, in `Upgrade` and in `:protocol`.
const WEBSOCKET: &[u8] = b"websocket";

/// The version of the protocol (RFC 6455 §4.1).
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// What a request that wants to speak WebSocket turns into: a `GET` (RFC 6455 §4.1) with the wish taken out. Others are left as they are.
pub(super) fn take<B>(request: &mut Request<B>) -> Option<Handshake> {
    let is_extended_connect = *request.method() == Method::CONNECT;
    let asks = if is_extended_connect { connects(request) } else { upgrades(request) };
    if !asks || request.headers().get(header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        return None;
    }
    let switching = request.extensions_mut().remove::<Switching>()?;
    if is_extended_connect {
        *request.method_mut() = Method::GET;
    }
    let traffic = Arc::new(Traffic::default());
    Some(Handshake { switching, hold: Hold::default(), traffic, is_extended_connect })
}

/// An extended `CONNECT` (RFC 8441 §5). What follows is no content, so that no length can be told.
fn connects<B>(request: &Request<B>) -> bool {
    let protocol = request.extensions().get::<Protocol>();
    protocol.is_some_and(|protocol| protocol.as_str().as_bytes().eq_ignore_ascii_case(WEBSOCKET))
        && !request.headers().contains_key(header::CONTENT_LENGTH)
}

/// An upgrade (RFC 6455 §4.1): without a body, and with one key.
fn upgrades<B>(request: &Request<B>) -> bool {
    let fields = request.headers();
    let Some(upgrade) = fields.get(header::UPGRADE) else { return false };
    let mut keys = fields.get_all(header::SEC_WEBSOCKET_KEY).iter();
    *request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && upgrade.as_bytes().eq_ignore_ascii_case(WEBSOCKET)
        && lists(fields, &header::CONNECTION, b"upgrade")
        && keys.next().is_some_and(|key| key.len() == 24)
        && keys.next().is_none()
        && !fields.contains_key(header::TRANSFER_ENCODING)
        && fields.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0")
}

fn lists(fields: &HeaderMap, name: &HeaderName, item: &[u8]) -> bool {
    fields.get_all(name).iter().any(|value| http1::lists(value.as_bytes(), item))
}

/// Whether a page of another site has a browser open a WebSocket with its user's cookie. Browsers send cookies with a handshake whoever
/// asks for it, let every page read what comes, and tell no more than the page's origin (RFC 6455 §10.2).
pub(super) fn is_forged(
    sources: &CredentialSources,
    origins: &TrustedOrigins,
    fields: &HeaderMap,
    downstream: &Downstream,
) -> bool {
    let is_ambient = matches!(sources.find(fields), Credential::Bearer { ambient: true, .. });
    let mut claimed = fields.get_all(header::ORIGIN).iter();
    match (is_ambient, claimed.next(), claimed.next()) {
        // A client that says nothing of an origin is no browser.
        (false, ..) | (true, None, _) => false,
        (true, Some(origin), None) => {
            let is_own = is_own(origin, fields.get(header::HOST), scheme(fields, downstream));
            origins.of(fields).is_none() && !is_own
        }
        (true, Some(_), Some(_)) => true,
    }
}

/// By which scheme the page came that the client has of this host; `None`: it cannot be known, as TLS may end in front of the gate.
fn scheme(fields: &HeaderMap, downstream: &Downstream) -> Option<Scheme> {
    let told = fields.get(&FORWARDED_PROTO).filter(|_| downstream.trusted);
    match told.map(HeaderValue::as_bytes) {
        Some(told) if told.eq_ignore_ascii_case(b"https") => Some(Scheme::Https),
        Some(told) if told.eq_ignore_ascii_case(b"http") => Some(Scheme::Http),
        _ => Some(downstream.scheme).filter(|scheme| *scheme == Scheme::Https),
    }
}

/// Whether an origin (RFC 6454 §6.2) is of this host, and of this scheme if it is known.
fn is_own(origin: &HeaderValue, host: Option<&HeaderValue>, scheme: Option<Scheme>) -> bool {
    let (Ok(origin), Some(Ok(host))) = (origin.to_str(), host.map(HeaderValue::to_str)) else { return false };
    let (authority, port, of) = if let Some(authority) = origin.strip_prefix("https://") {
        (authority, ":443", Scheme::Https)
    } else if let Some(authority) = origin.strip_prefix("http://") {
        (authority, ":80", Scheme::Http)
    } else {
        return false;
    };
    let bare = |authority: &str| authority.strip_suffix(port).unwrap_or(authority).to_ascii_lowercase();
    bare(authority) == bare(host) && scheme.is_none_or(|scheme| scheme == of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_of_its_host() {
        for (origin, host, expected) in [
            ("https://app.example", "app.example", true),
            ("https://app.example", "APP.example:443", true),
            ("https://app.example:443", "app.example", true),
            ("http://app.example", "app.example:80", true),
            ("http://app.example:8080", "app.example:8080", true),
            ("https://app.example:8443", "app.example", false),
            ("https://app.example", "app.example:80", false),
            ("https://evil.example", "app.example", false),
            ("https://app.example.evil.example", "app.example", false),
            ("null", "app.example", false),
            ("file://app.example", "app.example", false),
            ("app.example", "app.example", false),
        ] {
            let origin_of = HeaderValue::from_static(origin);
            let host = HeaderValue::from_static(host);
            let found =
                [None, Some(Scheme::Https), Some(Scheme::Http)].map(|scheme| is_own(&origin_of, Some(&host), scheme));
            let (secure, plain) = (origin.starts_with("https://"), origin.starts_with("http://"));
            assert_eq!(found, [expected, expected && secure, expected && plain], "{origin} {host:?}");
        }
    }

    #[test]
    fn only_whole_handshakes_are_taken() {
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ];
        let request = |changes: &[(&'static str, &'static str)], method| {
            let mut request = Request::builder().method(method).uri("/");
            for (name, value) in good.iter().filter(|(name, _)| !changes.iter().any(|(other, _)| other == name)) {
                request = request.header(*name, *value);
            }
            for (name, value) in changes.iter().filter(|(_, value)| !value.is_empty()) {
                request = request.header(*name, *value);
            }
            request.extension(Switching::new().1).body(()).unwrap()
        };
        assert!(take(&mut request(&[], Method::GET)).is_some());
        for changes in [
            &[("connection", "close")][..],
            &[("connection", "")],
            &[("upgrade", "h2c")],
            &[("upgrade", "websocket, h2c")],
            &[("sec-websocket-key", "short")],
            &[("sec-websocket-key", "")],
            &[("sec-websocket-version", "8")],
            &[("content-length", "1")],
            &[("transfer-encoding", "chunked")],
        ] {
            assert!(take(&mut request(changes, Method::GET)).is_none(), "{changes:?}");
        }
        assert!(take(&mut request(&[], Method::POST)).is_none());
        assert!(take(&mut request(&[], Method::CONNECT)).is_none());
    }
}
