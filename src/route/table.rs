//! The routes.

use std::{borrow::Cow, fmt, net::Ipv6Addr};

use ahash::AHashMap;
use memchr::{memchr, memrchr};

use super::path::{self, CanonicalPath};

/// The longest host name (RFC 1035 §2.3.4), and more than any IPv6 literal.
const MAX_HOST_LENGTH: usize = 253;

/// A host name, or `*.` and a suffix of at least one label. Lower-case, without port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostPattern(Box<str>);

/// Why a text is not a host pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HostFault {
    /// Empty, or with an empty label.
    #[error("has an empty label")]
    Empty,
    /// Longer than a host name can be.
    #[error("is longer than {MAX_HOST_LENGTH} characters")]
    TooLong,
    /// With a port.
    #[error("names a port; hosts match whatever the port")]
    Port,
    /// With `*` anywhere but as the whole first label.
    #[error("has `*` elsewhere than as its whole first label")]
    Wildcard,
    /// With a scheme or a path.
    #[error("is a URL, not a host")]
    Url,
    /// With a character that no host name has.
    #[error("holds a character that no host name has; write international names in their `xn--` form")]
    Character,
}

impl HostPattern {
    /// Reads `api.example.com`, `*.example.com`, `192.0.2.1` or `[2001:db8::1]`. Case and a trailing dot do not matter.
    ///
    /// # Errors
    /// [`HostFault`].
    pub fn parse(text: &str) -> Result<Self, HostFault> {
        if text.contains("://") || text.contains('/') {
            return Err(HostFault::Url);
        }
        if text.starts_with('[') {
            return Self::parse_ipv6(text);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.len() > MAX_HOST_LENGTH {
            return Err(HostFault::TooLong);
        }
        if name.contains(':') {
            return Err(HostFault::Port);
        }
        let labels = name.strip_prefix("*.").unwrap_or(name);
        for label in labels.split('.') {
            if label.is_empty() {
                return Err(HostFault::Empty);
            }
            if label.contains('*') {
                return Err(HostFault::Wildcard);
            }
            // Underscores are in no host name, but in names of containers.
            if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                return Err(HostFault::Character);
            }
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }

    fn parse_ipv6(text: &str) -> Result<Self, HostFault> {
        let (literal, port) = text[1..].split_once(']').ok_or(HostFault::Character)?;
        if !port.is_empty() {
            return Err(HostFault::Port);
        }
        let address: Ipv6Addr = literal.parse().map_err(|_| HostFault::Character)?;
        Ok(Self(format!("[{address}]").into()))
    }

    /// The pattern.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows `*.`, for a wildcard.
    fn suffix(&self) -> Option<&str> {
        self.0.strip_prefix("*.")
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Finds what belongs to a host and a path.
///
/// 1. An exact host comes before a wildcard, a wildcard with a longer suffix before a shorter one, and those before
///    routes for every host. A host whose routes do not have the path leaves it to the next.
/// 2. Within a host the longest prefix wins. A prefix matches whole segments: `/a` and `/a/` match `/a/b`, not `/ab`;
///    `/a/` does not match `/a`.
/// 3. A path with parameters (`;`), or with dots or spaces at the end of a segment, must lead to the same route with and
///    without them, as some servers cut them off and some do not. Otherwise it has no route.
/// 4. Likewise it must lead to the same route for those who do not tell upper case from lower.
#[derive(Clone, Debug)]
pub struct RouteTable<T> {
    exact: AHashMap<Box<str>, Prefixes>,
    wildcard: AHashMap<Box<str>, Prefixes>,
    every: Prefixes,
    routes: Box<[T]>,
    /// The prefix of each route, without case.
    folded: Box<[Box<[u8]>]>,
    /// Whether a prefix is anything but its own folded form.
    tells_case: bool,
}

/// Decoded prefixes, the longest first, and the places of their routes.
#[derive(Clone, Default, Debug)]
struct Prefixes {
    exact: Vec<(Box<[u8]>, usize)>,
    /// The same without case.
    folded: Vec<(Box<[u8]>, usize)>,
}

impl<T> RouteTable<T> {
    /// A table of routes: the hosts each is for (none: every host), its prefix, and what belongs to it.
    /// Of two routes for the same host and prefix, the first counts.
    pub fn new(routes: impl IntoIterator<Item = (Vec<HostPattern>, CanonicalPath, T)>) -> Self {
        let mut table = Self {
            exact: AHashMap::new(),
            wildcard: AHashMap::new(),
            every: Prefixes::default(),
            routes: [].into(),
            folded: [].into(),
            tells_case: false,
        };
        let (mut values, mut folded) = (Vec::new(), Vec::new());
        for (hosts, path, value) in routes {
            let place = values.len();
            values.push(value);
            let decoded = path.decoded();
            folded.push(Box::from(fold(&decoded)));
            table.tells_case |= has_case(&decoded);
            for host in &hosts {
                let prefixes = match host.suffix() {
                    Some(suffix) => table.wildcard.entry(suffix.into()),
                    None => table.exact.entry(host.as_str().into()),
                };
                prefixes.or_default().add(&path, place);
            }
            if hosts.is_empty() {
                table.every.add(&path, place);
            }
        }
        table.routes = values.into();
        table.folded = folded.into();
        table
    }

    /// The route of a request: `host` as in `Host` or `:authority`, port or not, any case; `path` canonical.
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<&T> {
        let host = normalise_host(host);
        let path = path::decode(path);
        let place = self.place(&host, |prefixes| find(&prefixes.exact, &path))?;
        let has_ends = memchr(b';', &path).is_some() || has_loose_end(&path);
        let is_the_same = self.is_the_same_without_case(place, &host, &path)
            && (!has_ends
                || READINGS.iter().all(|reading| self.is_the_same(place, &host, &without_ends(&path, *reading))));
        if is_the_same { self.routes.get(place) } else { None }
    }

    /// Whether a server that reads the path so serves it by this route.
    fn is_the_same(&self, place: usize, host: &str, path: &[u8]) -> bool {
        self.place(host, |prefixes| find(&prefixes.exact, path)) == Some(place)
            && self.is_the_same_without_case(place, host, path)
    }

    /// Whether those who do not tell case apart find this route too, or one of the same prefix.
    fn is_the_same_without_case(&self, place: usize, host: &str, path: &[u8]) -> bool {
        if !self.tells_case && !has_case(path) {
            return true;
        }
        let path = fold(path);
        let found = self.place(host, |prefixes| find(&prefixes.folded, &path));
        found.is_some_and(|found| self.folded.get(found) == self.folded.get(place))
    }

    /// Every route, in the order of configuration.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.routes.iter()
    }

    fn place(&self, host: &str, find: impl Fn(&Prefixes) -> Option<usize>) -> Option<usize> {
        let exact = || self.exact.get(host).and_then(&find);
        let wildcard = || {
            // A host that is too long to be one is spared the walk over its labels.
            let labels = if self.wildcard.is_empty() || host.len() > MAX_HOST_LENGTH { "" } else { host };
            let suffixes = labels.match_indices('.').map(|(dot, _)| &labels[dot + 1..]);
            suffixes.filter_map(|suffix| self.wildcard.get(suffix)).find_map(&find)
        };
        exact().or_else(wildcard).or_else(|| find(&self.every))
    }
}

impl Prefixes {
    fn add(&mut self, path: &CanonicalPath, place: usize) {
        let decoded = path.decoded();
        self.folded.push((fold(&decoded).into(), place));
        self.exact.push((decoded.into(), place));
        for prefixes in [&mut self.exact, &mut self.folded] {
            prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        }
    }
}

fn find(prefixes: &[(Box<[u8]>, usize)], path: &[u8]) -> Option<usize> {
    prefixes.iter().find(|(prefix, _)| is_under(path, prefix)).map(|&(_, place)| place)
}

/// Whether case may matter.
fn has_case(path: &[u8]) -> bool {
    path.iter().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii())
}

/// Without case: `K` (kelvin) is `k` to some. Decoded paths are UTF-8.
fn fold(path: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(path).to_uppercase().to_lowercase().into_bytes()
}

fn is_under(path: &[u8], prefix: &[u8]) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| prefix.ends_with(b"/") || rest.is_empty() || rest.starts_with(b"/"))
}

/// Without port and trailing dot, in lower case, IPv6 literals in their one form.
fn normalise_host(host: &str) -> Cow<'_, str> {
    if host.starts_with('[') {
        let literal = host.split_once(']').map_or(host, |(literal, _)| literal);
        return match literal[1..].parse::<Ipv6Addr>() {
            Ok(address) => Cow::Owned(format!("[{address}]")),
            Err(_) => Cow::Borrowed(host),
        };
    }
    let name = match memrchr(b':', host.as_bytes()).map(|colon| host.split_at(colon)) {
        Some((name, port)) if port.bytes().skip(1).all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// What servers make of a path: whether they cut `;…` off every segment, and dots and spaces at its end.
const READINGS: [(bool, bool); 3] = [(true, false), (false, true), (true, true)];

/// Whether a segment ends with a dot or a space: names of files under Windows do not.
fn has_loose_end(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').any(|segment| matches!(segment.last(), Some(b'.' | b' ')))
}

/// The path as a server sees it that cuts these ends off every segment and then drops empty ones.
fn without_ends(path: &[u8], (parameters, loose): (bool, bool)) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    for segment in path.split(|&byte| byte == b'/') {
        let mut name = segment;
        if parameters {
            name = segment.split(|&byte| byte == b';').next().unwrap_or_default();
        }
        while loose && let Some((b'.' | b' ', rest)) = name.split_last() {
            name = rest;
        }
        if !name.is_empty() {
            plain.push(b'/');
            plain.extend_from_slice(name);
        }
    }
    if plain.is_empty() || path.ends_with(b"/") {
        plain.push(b'/');
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::path::canonicalise, *};

    type Route<'a> = (&'a [&'a str], &'a str, &'a str);

    fn table<'a>(routes: &[Route<'a>]) -> RouteTable<&'a str> {
        let route = |&(hosts, path, name): &Route<'a>| {
            let hosts = hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect();
            (hosts, CanonicalPath::parse(path).unwrap(), name)
        };
        RouteTable::new(routes.iter().map(route))
    }

    #[test]
    fn hosts_are_read() {
        let cases = [
            ("API.Example.com", Ok("api.example.com")),
            ("api.example.com.", Ok("api.example.com")),
            ("*.Example.com", Ok("*.example.com")),
            ("my_service", Ok("my_service")),
            ("192.0.2.1", Ok("192.0.2.1")),
            ("[2001:DB8:0::1]", Ok("[2001:db8::1]")),
            ("", Err(HostFault::Empty)),
            (".", Err(HostFault::Empty)),
            ("a..b", Err(HostFault::Empty)),
            ("*.", Err(HostFault::Wildcard)),
            ("*", Err(HostFault::Wildcard)),
            ("a.*.b", Err(HostFault::Wildcard)),
            ("*a.b", Err(HostFault::Wildcard)),
            ("a.b:80", Err(HostFault::Port)),
            ("[::1]:80", Err(HostFault::Port)),
            ("[::1", Err(HostFault::Character)),
            ("[x]", Err(HostFault::Character)),
            ("http://a.b", Err(HostFault::Url)),
            ("a.b/c", Err(HostFault::Url)),
            ("bücher.example", Err(HostFault::Character)),
            ("a b", Err(HostFault::Character)),
        ];
        for (text, read) in cases {
            let pattern = HostPattern::parse(text);
            assert_eq!(pattern.as_ref().map(HostPattern::as_str).map_err(|fault| *fault), read, "{text}");
        }
        assert_eq!(HostPattern::parse(&"a".repeat(254)), Err(HostFault::TooLong));
    }

    #[test]
    fn the_nearest_host_and_the_longest_prefix_win() {
        let table = table(&[
            (&[], "/", "every"),
            (&[], "/health", "every health"),
            (&["*.example.com"], "/", "wildcard"),
            (&["*.eu.example.com"], "/v1", "long wildcard"),
            (&["api.example.com"], "/v1", "exact v1"),
            (&["api.example.com"], "/v1/users", "exact users"),
            (&["api.example.com"], "/v1/users/", "below users"),
            (&["only.test", "[2001:db8::1]"], "/", "several"),
        ]);
        let cases = [
            ("api.example.com", "/v1", "exact v1"),
            ("api.example.com", "/v1/", "exact v1"),
            ("api.example.com", "/v1/users", "exact users"),
            ("api.example.com", "/v1/users/7", "below users"),
            ("api.example.com", "/v1/users2", "exact v1"),
            ("API.Example.COM:8080", "/v1/x", "exact v1"),
            ("api.example.com.", "/v1/x", "exact v1"),
            ("api.example.com.:80", "/v1/x", "exact v1"),
            // the exact host does not have it: the wildcard does
            ("api.example.com", "/v2", "wildcard"),
            ("api.example.com", "/v11", "wildcard"),
            ("a.eu.example.com", "/v1/x", "long wildcard"),
            ("a.b.eu.example.com", "/v1/x", "long wildcard"),
            ("a.eu.example.com", "/v2", "wildcard"),
            ("example.com", "/v1", "every"),
            ("badexample.com", "/v1", "every"),
            ("", "/health/x", "every health"),
            ("only.test", "/health", "several"),
            ("[2001:db8:0:0::1]:443", "/", "several"),
            ("[2001:db8::2]", "/", "every"),
            ("2001:db8::1", "/", "every"),
        ];
        for (host, path, name) in cases {
            assert_eq!(table.find(host, path), Some(&name), "{host} {path}");
        }
    }

    #[test]
    fn a_path_without_route_has_none() {
        let table = table(&[(&["api.example.com"], "/v1", "v1")]);
        for (host, path) in [("api.example.com", "/"), ("api.example.com", "/v"), ("other.example.com", "/v1")] {
            assert_eq!(table.find(host, path), None, "{host} {path}");
        }
        let long = "a.".repeat(10_000);
        assert_eq!(table.find(&long, "/v1"), None);
    }

    #[test]
    fn an_encoded_character_is_the_character() {
        let table = table(&[(&[], "/", "root"), (&[], "/a:b", "colon"), (&[], "/caf%C3%A9", "accent")]);
        for (raw, name) in [("/a:b/x", "colon"), ("/a%3ab/x", "colon"), ("/café", "accent"), ("/a%253Ab", "root")] {
            assert_eq!(table.find("", &canonicalise(raw).unwrap()), Some(&name), "{raw}");
        }
    }

    #[test]
    fn parameters_do_not_choose_the_route() {
        let table = table(&[(&[], "/", "root"), (&[], "/admin", "admin"), (&[], "/v;1", "odd")]);
        for (raw, name) in [
            ("/x;a=b/c", Some("root")),
            ("/admin/x;a=b", Some("admin")),
            ("/admin;a=b", None),
            ("/admin;a=b/x", None),
            ("/admin%3ba/x", None),
            ("/;/admin", None),
            ("/v;1/x", None),
        ] {
            assert_eq!(table.find("", &canonicalise(raw).unwrap()).copied(), name, "{raw}");
        }
    }

    #[test]
    fn of_two_equal_routes_the_first_counts() {
        assert_eq!(table(&[(&[], "/a", "first"), (&[], "/a", "second")]).find("", "/a"), Some(&"first"));
    }

    /// All routes that match, then the best of them by what the rules say.
    fn model(routes: &[(Vec<String>, String)], host: &str, path: &str) -> Option<usize> {
        let host_rank = |hosts: &[String]| {
            if hosts.is_empty() {
                return Some(0);
            }
            let rank = |pattern: &String| match pattern.strip_prefix('*') {
                Some(suffix) => host.ends_with(suffix).then_some(suffix.len()),
                None => (host == pattern).then_some(usize::MAX),
            };
            hosts.iter().filter_map(rank).max()
        };
        let segments = |text: &str| text.split('/').skip(1).map(str::to_owned).collect::<Vec<_>>();
        let path_rank = |prefix: &str| {
            let (mut prefix_segments, path) = (segments(prefix), segments(path));
            if prefix.ends_with('/') {
                prefix_segments.pop();
                if path.len() <= prefix_segments.len() {
                    return None;
                }
            }
            path.starts_with(&prefix_segments).then_some(prefix.len())
        };
        let ranked = routes.iter().enumerate().filter_map(|(place, (hosts, prefix))| {
            Some((host_rank(hosts)?, path_rank(prefix)?, std::cmp::Reverse(place)))
        });
        ranked.max().map(|(_, _, place)| place.0)
    }

    fn host() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(&["a", "b", "com"][..]), 1..4).prop_map(|labels| labels.join("."))
    }

    fn path() -> impl Strategy<Value = String> {
        let segments = prop::collection::vec(prop::sample::select(&["a", "b", "ab"][..]), 0..4);
        (segments, any::<bool>()).prop_map(|(segments, slash)| {
            let path = format!("/{}", segments.join("/"));
            if slash && path.len() > 1 { path + "/" } else { path }
        })
    }

    fn pattern() -> impl Strategy<Value = String> {
        prop_oneof![host(), host().prop_map(|host| format!("*.{host}"))]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn the_table_finds_what_the_plain_model_finds(
            routes in prop::collection::vec((prop::collection::vec(pattern(), 0..3), path()), 0..8),
            host in host(),
            path in path(),
        ) {
            let read = |(hosts, path): &(Vec<String>, String)| {
                let hosts = hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect::<Vec<_>>();
                (hosts, CanonicalPath::parse(path).unwrap())
            };
            let table = RouteTable::new(
                routes.iter().enumerate().map(|(place, route)| { let (hosts, path) = read(route); (hosts, path, place) }),
            );
            prop_assert_eq!(table.find(&host, &path).copied(), model(&routes, &host, &path));
            prop_assert_eq!(table.find(&format!("{}.:443", host.to_uppercase()), &path), table.find(&host, &path));
        }

        /// Whatever a client writes: if a server that decodes (once or twice), resolves, and cuts parameters off would serve it from
        /// `/admin`, it is refused, has no route, or has the route of `/admin`.
        #[test]
        fn no_spelling_escapes_a_rule(
            pieces in prop::collection::vec(prop::sample::select(&[
                "/", "/", "admin", "%61dmin", "a%64min", "x", ".", "..", "%2e", "%2E%2e", "%2f", "%5c", ";", "%3b", "%25",
                "%2561", "%253b", "%252e", "%252f", "\\", "%00", "//", "ADMIN", "aDmin", "%41dmin", "%20", "adm\u{131}n",
            ][..]), 0..10),
        ) {
            let raw = format!("/{}", pieces.concat());
            let table = table(&[(&[], "/", "root"), (&[], "/admin", "admin")]);
            let Ok(path) = canonicalise(&raw) else { return Ok(()) };
            let reading = |text: &str, decodings: usize, cut: bool, loose: bool| {
                let mut text = text.to_owned();
                for _ in 0..decodings {
                    text = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
                }
                let mut walked: Vec<&str> = Vec::new();
                for segment in text.split(['/', '\\']) {
                    match if cut { segment.split(';').next().unwrap_or_default() } else { segment } {
                        "" | "." => {}
                        ".." => { walked.pop(); }
                        segment if loose && segment.trim_end_matches(['.', ' ']).is_empty() => {}
                        segment => walked.push(if loose { segment.trim_end_matches(['.', ' ']) } else { segment }),
                    }
                }
                let first = walked.first().map(|first| if loose { first.to_lowercase() } else { (*first).to_owned() });
                if first.as_deref() == Some("admin") { "admin" } else { "root" }
            };
            let found = table.find("", &path).copied();
            // Servers get the canonical form, so what the raw one is to them matters only in its plain reading.
            let mut readings = vec![reading(&raw, 1, false, false)];
            for (decodings, cut) in [(1, false), (1, true), (2, false), (2, true)] {
                readings.push(reading(&path, decodings, cut, false));
                readings.push(reading(&path, decodings, cut, true));
            }
            for served in readings {
                prop_assert!(found.is_none_or(|found| found == served), "{} -> {} -> {:?}", raw, path, found);
            }
        }
    }
}
