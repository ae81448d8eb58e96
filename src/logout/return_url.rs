//! Which URLs people may be sent back to after a logout.
//!
//! 1. Only URLs that nobody can read in two ways are looked at at all: `http` or `https`, a host in ASCII, no user, no backslash, no
//!    control character, no dot segment in any spelling. A browser, the issuer and the gate see the same in them.
//! 2. What is compared is what the issuer compares, see [`Matching`]. Where its rules leave room, the gate is the stricter one.
//! 3. `*` stands for one label, or a part of one, at the very left of a host that has two more labels at least. So
//!    `https://*.example.com` is `https://a.example.com`, and neither `https://example.com` nor `https://a.b.example.com`.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest URL that is looked at, in bytes.
pub const MAX_LENGTH: usize = 2048;

/// How an issuer compares a URL with those that it allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Matching {
    /// Scheme and host in any case, the path letter by letter; query and fragment do not count. Auth0's `/v2/logout`.
    WithoutQuery,
    /// Letter by letter, the query included (OpenID Connect RP-Initiated Logout 1.0 §3).
    Exact,
}

/// Why a URL is never returned to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UrlFault {
    /// More than [`MAX_LENGTH`] bytes.
    #[error("is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// A character that no URL may hold (RFC 3986 §2), such as a space, a backslash, or one beyond ASCII.
    #[error("holds a character that no URL may hold; names beyond ASCII are written as `xn--…`")]
    Character,
    /// Neither `http://` nor `https://`.
    #[error("is neither http:// nor https://")]
    Scheme,
    /// A user or a password.
    #[error("has a user or a password")]
    User,
    /// No host, or one that can be read in more than one way.
    #[error("has no proper host")]
    Host,
    /// Not a port.
    #[error("has no proper port")]
    Port,
    /// A dot segment, or an encoded dot, slash or backslash.
    #[error("has a path that can be read in more than one way")]
    Path,
    /// A `*` where none may stand.
    #[error("has a `*` that is not the leftmost part of a host with two more labels at least")]
    Wildcard,
    /// A fragment.
    #[error("has a fragment (`#…`)")]
    Fragment,
}

/// A URL, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Parts<'a> {
    secure: bool,
    host: &'a str,
    port: u16,
    path: &'a str,
    fragment: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// Takes it apart; a `*` is a fault but where one is `allowed` in the host.
    fn read(text: &'a str, wildcard: bool) -> Result<Self, UrlFault> {
        if text.len() > MAX_LENGTH {
            return Err(UrlFault::TooLong);
        }
        if !is_uri_text(text) {
            return Err(UrlFault::Character);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlFault::Scheme)?;
        let secure = match () {
            () if scheme.eq_ignore_ascii_case("https") => true,
            () if scheme.eq_ignore_ascii_case("http") => false,
            () => return Err(UrlFault::Scheme),
        };
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (rest, fragment) = rest.split_once('#').map_or((rest, None), |(rest, fragment)| (rest, Some(fragment)));
        let path = rest.split_once('?').map_or(rest, |(path, _)| path);
        if authority.contains('@') {
            return Err(UrlFault::User);
        }
        let (host, port) = split_port(authority)?;
        let port = port.unwrap_or(if secure { 443 } else { 80 });
        check_host(host, wildcard)?;
        check_path(path)?;
        Ok(Self { secure, host, port, path, fragment })
    }
}

/// Unreserved and reserved characters, and `%` with two digits (RFC 3986 §2).
fn is_uri_text(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let fine = match byte {
            b'%' => {
                let mut digit = || bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit());
                digit() && digit()
            }
            _ => byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=".contains(&byte),
        };
        if !fine {
            return false;
        }
    }
    true
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), UrlFault> {
    let (host, port) = match authority.rfind(':') {
        // A colon within brackets is one of the address.
        Some(colon) if !authority[colon..].contains(']') => (&authority[..colon], Some(&authority[colon + 1..])),
        _ => (authority, None),
    };
    let Some(port) = port else { return Ok((host, None)) };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
    match port.parse::<u16>() {
        Ok(port) if digits => Ok((host, Some(port))),
        _ => Err(UrlFault::Port),
    }
}

/// A name of letters, digits and hyphens, or an address in its usual form. What only looks like an address would be one for a
/// browser: `127.1`, `0x7f000001`.
fn check_host(host: &str, wildcard: bool) -> Result<(), UrlFault> {
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').ok_or(UrlFault::Host)?;
        return address.parse::<Ipv6Addr>().map(drop).map_err(|_| UrlFault::Host);
    }
    let labels: Vec<&str> = host.split('.').collect();
    if host.contains('*') {
        let one = host.matches('*').count() == 1 && labels[0].contains('*');
        if !wildcard || !one || labels.len() < 3 {
            return Err(UrlFault::Wildcard);
        }
    }
    let is_label = |label: &&str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*');
        !label.is_empty() && label.len() <= 63 && label.bytes().all(allowed)
    };
    if host.len() > 253 || !labels.iter().all(is_label) {
        return Err(UrlFault::Host);
    }
    let last = labels.last().copied().unwrap_or_default();
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    if numeric && host.parse::<Ipv4Addr>().is_err() { Err(UrlFault::Host) } else { Ok(()) }
}

fn check_path(path: &str) -> Result<(), UrlFault> {
    if path.contains(['[', ']', '*']) {
        return Err(if path.contains('*') { UrlFault::Wildcard } else { UrlFault::Path });
    }
    let lower = path.to_ascii_lowercase();
    let ambiguous = ["%2f", "%5c", "%00"].iter().any(|escape| lower.contains(escape));
    let dots = lower.replace("%2e", ".");
    if ambiguous || dots.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(UrlFault::Path);
    }
    Ok(())
}

/// A URL that people may be sent back to, as the settings write it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AllowedUrl(Box<str>);

impl TryFrom<&str> for AllowedUrl {
    type Error = UrlFault;

    fn try_from(text: &str) -> Result<Self, UrlFault> {
        let parts = Parts::read(text, true)?;
        if parts.fragment.is_some() {
            return Err(UrlFault::Fragment);
        }
        if text.matches('*').count() > parts.host.matches('*').count() {
            return Err(UrlFault::Wildcard);
        }
        Ok(Self(text.into()))
    }
}

impl AllowedUrl {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a URL is this one, or one of those it stands for.
    #[must_use]
    pub fn matches(&self, url: &str, matching: Matching) -> bool {
        let (Ok(allowed), Ok(given)) = (Parts::read(&self.0, true), Parts::read(url, false)) else { return false };
        match matching {
            Matching::Exact => match self.0.split_once('*') {
                None => *url == *self.0,
                Some((before, after)) => {
                    let middle = url.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
                    middle.is_some_and(is_part_of_label)
                }
            },
            Matching::WithoutQuery => {
                allowed.secure == given.secure
                    && is_same_host(allowed.host, given.host)
                    && allowed.port == given.port
                    && or_root(allowed.path) == or_root(given.path)
            }
        }
    }
}

fn is_same_host(allowed: &str, given: &str) -> bool {
    let (allowed, given) = (allowed.to_ascii_lowercase(), given.to_ascii_lowercase());
    match allowed.split_once('*') {
        None => allowed == given,
        Some((before, after)) => {
            let middle = given.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            middle.is_some_and(is_part_of_label)
        }
    }
}

/// What a `*` may stand for.
fn is_part_of_label(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

const fn or_root(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::Url;

    use super::*;

    fn allowed(text: &str) -> AllowedUrl {
        AllowedUrl::try_from(text).unwrap_or_else(|fault| panic!("{text} {fault}"))
    }

    #[test]
    fn urls_that_can_be_read_in_two_ways_are_never_allowed() {
        let cases = [
            ("app.example/out", UrlFault::Scheme),
            ("//app.example/out", UrlFault::Scheme),
            ("/out", UrlFault::Scheme),
            ("javascript://app.example/%0aalert(1)", UrlFault::Scheme),
            ("data:text/html,x", UrlFault::Scheme),
            ("com.example.app://out", UrlFault::Scheme),
            ("https:/app.example", UrlFault::Scheme),
            ("https:app.example", UrlFault::Scheme),
            (" https://app.example", UrlFault::Character),
            ("https://app.example\\@evil.example", UrlFault::Character),
            ("https:\\\\app.example", UrlFault::Character),
            ("https://app.example/\n", UrlFault::Character),
            ("https://app.example/\u{0}", UrlFault::Character),
            ("https://\u{e4}pp.example", UrlFault::Character),
            ("https://app\u{3002}example", UrlFault::Character),
            ("https://app.example/<", UrlFault::Character),
            ("https://app.example/%2", UrlFault::Character),
            ("https://app.example/%zz", UrlFault::Character),
            ("https://user@app.example", UrlFault::User),
            ("https://app.example@evil.example", UrlFault::User),
            ("https://:@app.example", UrlFault::User),
            ("https://", UrlFault::Host),
            ("https:///out", UrlFault::Host),
            ("https://?x", UrlFault::Host),
            ("https://app..example", UrlFault::Host),
            ("https://app.example.", UrlFault::Host),
            ("https://.app.example", UrlFault::Host),
            ("https://app%2eexample", UrlFault::Host),
            ("https://127.1", UrlFault::Host),
            ("https://2130706433", UrlFault::Host),
            ("https://0x7f000001", UrlFault::Host),
            ("https://1.2.3.4.5", UrlFault::Host),
            ("https://[::1", UrlFault::Host),
            ("https://[app.example]", UrlFault::Host),
            ("https://app.example:", UrlFault::Port),
            ("https://app.example:0443", UrlFault::Port),
            ("https://app.example:65536", UrlFault::Port),
            ("https://app.example:+443", UrlFault::Port),
            ("https://app.example:443:443", UrlFault::Host),
            ("https://app.example/a/../b", UrlFault::Path),
            ("https://app.example/a/%2E%2e/b", UrlFault::Path),
            ("https://app.example/.", UrlFault::Path),
            ("https://app.example/a%2Fb", UrlFault::Path),
            ("https://app.example/a%5cb", UrlFault::Path),
            ("https://*", UrlFault::Wildcard),
            ("https://*.com", UrlFault::Wildcard),
            ("https://a.*.example.com", UrlFault::Wildcard),
            ("https://*.*.example.com", UrlFault::Wildcard),
            ("https://app.example/*", UrlFault::Wildcard),
            ("https://app.example/?*", UrlFault::Wildcard),
            ("https://app.example/#x", UrlFault::Fragment),
        ];
        for (text, fault) in cases {
            assert_eq!(AllowedUrl::try_from(text), Err(fault), "{text}");
            for matching in [Matching::Exact, Matching::WithoutQuery] {
                let allowed = allowed("https://app.example").matches(text, matching);
                // Of a URL that is given, query and fragment may hold anything.
                assert!(!allowed || text.contains(['?', '#']), "{text}");
            }
        }
        assert_eq!(AllowedUrl::try_from(&*format!("https://a.b/{}", "x".repeat(2048))), Err(UrlFault::TooLong));
    }

    #[test]
    fn each_matching_has_its_rules() {
        // (allowed, given, without the query, exactly)
        let cases = [
            ("https://app.example/out", "https://app.example/out", true, true),
            ("https://app.example/out", "https://app.example/out?a=1", true, false),
            ("https://app.example/out", "https://app.example/out#a", true, false),
            ("https://app.example/out?a=1", "https://app.example/out", true, false),
            ("https://app.example/out?a=1", "https://app.example/out?a=1", true, true),
            ("https://app.example/out?a=1", "https://app.example/out?a=2", true, false),
            ("https://app.example/out?a=1", "https://app.example/out?b=1", true, false),
            ("https://app.example/out", "HTTPS://APP.example/out", true, false),
            ("https://app.example/out", "https://app.example/Out", false, false),
            ("https://app.example/out", "https://app.example/out/", false, false),
            ("https://app.example/out", "https://app.example/out/x", false, false),
            ("https://app.example/out", "https://app.example/", false, false),
            ("https://app.example", "https://app.example/", true, false),
            ("https://app.example", "https://app.example?next=https://evil.example", true, false),
            ("https://app.example/out", "http://app.example/out", false, false),
            ("https://app.example/out", "https://app.example:443/out", true, false),
            ("https://app.example/out", "https://app.example:80/out", false, false),
            ("http://localhost:3000/", "http://localhost:3000/", true, true),
            ("http://localhost:3000/", "http://localhost:3001/", false, false),
            ("http://localhost:3000/", "http://localhost/", false, false),
            ("http://[::1]:3000/", "http://[::1]:3000/", true, true),
            ("https://app.example/out", "https://app.example.evil.example/out", false, false),
            ("https://app.example/out", "https://evilapp.example/out", false, false),
            ("https://app.example/out", "https://sub.app.example/out", false, false),
            ("https://app.example/out", "https://app.example/%6fut", false, false),
            ("https://*.example.com/out", "https://a.example.com/out", true, true),
            ("https://*.example.com/out", "https://A.example.com/out", true, true),
            ("https://*.example.com/out", "https://a.EXAMPLE.com/out", true, false),
            ("https://*.example.com/out", "https://example.com/out", false, false),
            ("https://*.example.com/out", "https://.example.com/out", false, false),
            ("https://*.example.com/out", "https://a.b.example.com/out", false, false),
            ("https://*.example.com/out", "https://evil.com/.example.com/out", false, false),
            ("https://*.example.com/out", "https://evil.com?.example.com/out", false, false),
            ("https://*.example.com/out", "https://evil.com#.example.com/out", false, false),
            ("https://*.example.com/out", "https://*.example.com/out", false, false),
            ("https://pre-*-post.example.com", "https://pre-7-post.example.com", true, true),
            ("https://pre-*-post.example.com", "https://pre--post.example.com", false, false),
            ("https://pre-*-post.example.com", "https://pre-post.example.com", false, false),
        ];
        for (text, given, without_query, exact) in cases {
            let allowed = allowed(text);
            assert_eq!(
                allowed.matches(given, Matching::WithoutQuery),
                without_query,
                "{text} {given}, without the query"
            );
            assert_eq!(allowed.matches(given, Matching::Exact), exact, "{text} {given}, exactly");
        }
    }

    const ALLOWED: [&str; 5] = [
        "https://app.example/out",
        "https://app.example:8443",
        "http://localhost:3000/a/b",
        "https://*.example.com/out",
        "https://pre-*.example.com:444/",
    ];

    /// Whether a browser would end up at a place that the entry stands for.
    fn leads_to(entry: &str, given: &str) -> bool {
        let entry = Url::parse(&entry.replace('*', "wildcard")).unwrap();
        let Ok(given) = Url::parse(given) else { return false };
        let (pattern, host) = (entry.host_str().unwrap(), given.host_str().unwrap_or_default());
        let host_fits = match pattern.split_once("wildcard") {
            None => pattern == host,
            Some((before, after)) => {
                let middle = host.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
                middle.is_some_and(|middle| !middle.is_empty() && !middle.contains('.'))
            }
        };
        host_fits
            && entry.scheme() == given.scheme()
            && entry.port_or_known_default() == given.port_or_known_default()
            && entry.path() == given.path()
            && given.username().is_empty()
            && given.password().is_none()
    }

    proptest! {
        #[test]
        fn whatever_is_allowed_leads_a_browser_to_an_allowed_place(
            entry in prop::sample::select(&ALLOWED[..]),
            start in prop::sample::select(&["https://", "HTTPS://", "http://", "//", "https:/", "https:\\\\", "javascript:", " https://"][..]),
            user in prop::sample::select(&["", "app.example@", ":@", "app.example:80@"][..]),
            host in prop::sample::select(&["app.example", "APP.EXAMPLE", "app.example.", "app%2eexample", "a.example.com", "a.b.example.com", "localhost", "evil.example", "pre-x.example.com", "\u{ff41}pp.example"][..]),
            port in prop::sample::select(&["", ":", ":443", ":8443", ":3000", ":444", ":08443"][..]),
            path in prop::sample::select(&["", "/", "/out", "/OUT", "/a/b", "/x/../out", "/%2e%2e/out", "\\out", "/out/..", "//evil.example"][..]),
            rest in prop::sample::select(&["", "?x", "#x", "?x=/../..", "\t", "?@evil.example", "\\@evil.example"][..]),
        ) {
            let given = format!("{start}{user}{host}{port}{path}{rest}");
            for matching in [Matching::Exact, Matching::WithoutQuery] {
                if allowed(entry).matches(&given, matching) {
                    prop_assert!(leads_to(entry, &given), "{} {}", entry, given);
                }
            }
        }

        #[test]
        fn any_text_is_judged_without_panic(text in any::<String>(), near in "https?://[a-z.*@:%2e0-9\\\\/\\[\\]-]{0,40}") {
            for given in [&text, &near] {
                for entry in ALLOWED {
                    for matching in [Matching::Exact, Matching::WithoutQuery] {
                        if allowed(entry).matches(given, matching) {
                            prop_assert!(leads_to(entry, given), "{} {}", entry, given);
                        }
                    }
                }
                let _ = AllowedUrl::try_from(given.as_str());
            }
        }

        #[test]
        fn query_and_fragment_count_where_they_should(query in "[a-z=&]{1,20}", fragment in "[a-z]{0,5}") {
            let given = format!("https://app.example/out?{query}#{fragment}");
            prop_assert!(allowed("https://app.example/out").matches(&given, Matching::WithoutQuery));
            prop_assert!(!allowed("https://app.example/out").matches(&given, Matching::Exact));
        }
    }
}
