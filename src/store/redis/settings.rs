//! Where Redis is, how to log in, and how long to wait.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use percent_encoding::percent_decode_str;
use secrecy::SecretString;

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Where Redis is, who to be there, and how long to wait for it.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Where it is.
    pub location: Location,
    /// Which database of it. Cluster has only 0.
    pub database: u32,
    /// The user.
    pub login: Login,
    /// The user of the sentinels.
    pub sentinel_login: Login,
    /// TLS to all servers; `None`: in the clear.
    pub tls: Option<RedisTls>,
    /// What all keys begin with. 1 to 64 printable ASCII characters, no spaces; no braces in a Cluster.
    pub prefix: String,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long any answer may take.
    pub response_timeout: Duration,
    /// How often the connections are tried.
    pub heartbeat: Duration,
    /// How many replicas must have a marker before its write is acknowledged.
    pub replicas: u32,
    /// How long to wait for them.
    pub replica_timeout: Duration,
    /// The most names of markers that are kept in memory, so that absence is known without asking; 0: none.
    pub index_limit: usize,
}

/// Where Redis is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    /// One server.
    Standalone(Address),
    /// The primary that these sentinels name.
    Sentinel {
        /// All of them: what counts is what most of them say.
        sentinels: Vec<Address>,
        /// What they call the primary.
        service: String,
    },
    /// A Cluster, some of whose nodes are these.
    Cluster(Vec<Address>),
}

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Address {
    /// Host, without brackets, and port.
    Tcp(Arc<str>, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A user and a password, where there are any.
#[derive(Clone, Default, Debug)]
pub struct Login {
    /// The user; Redis's `default` otherwise.
    pub username: Option<String>,
    /// The password.
    pub password: Option<SecretString>,
}

/// Whom to believe, and who to be.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RedisTls {
    /// A PEM file of the authorities to believe; `None`: those of the operating system.
    pub authorities: Option<PathBuf>,
    /// PEM files of a client's certificate chain and of its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Settings that no Redis could be reached with. Never shows the URL: it may hold a password.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidRedisSettings {
    /// The URL cannot be used.
    #[error("redis url {0}")]
    Url(&'static str),
    /// The prefix is empty, too long, or holds other characters.
    #[error("redis key prefix must be 1 to 64 printable ASCII characters without spaces, in a Cluster without braces")]
    Prefix,
    /// A duration is zero.
    #[error("redis timeouts and heartbeat must be longer than zero")]
    Zero,
    /// A file of certificates or keys cannot be used.
    #[error("tls file {} {what}", .path.display())]
    Tls {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

const FORM: &str = "is of no known form";
const PARAMETER: &str = "has a parameter that means nothing here";

impl RedisSettings {
    /// The settings for a URL, all others as in [`Self::at`]. It is one of
    /// `redis://[user[:password]@]host[:port][/database]`, `redis+unix:///path[?db=database]`,
    /// `redis+sentinel://host[:port],…/service[/database]`, `redis+cluster://host[:port],…`; or begins with `rediss` for TLS.
    ///
    /// # Errors
    /// [`InvalidRedisSettings::Url`].
    pub fn from_url(url: &str) -> Result<Self, InvalidRedisSettings> {
        let Parts { location, database, login, tls } = Parts::of(url).map_err(InvalidRedisSettings::Url)?;
        Ok(Self { database, login, tls: tls.then(RedisTls::default), ..Self::at(location) })
    }

    /// The settings for a place, all others at their defaults: prefix `portcullis:`, one second to connect, 500 ms to
    /// answer, a heartbeat every 250 ms, no replicas, 5 million names.
    #[must_use]
    pub fn at(location: Location) -> Self {
        Self {
            location,
            database: 0,
            login: Login::default(),
            sentinel_login: Login::default(),
            tls: None,
            prefix: "portcullis:".to_owned(),
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_millis(500),
            heartbeat: Duration::from_millis(250),
            replicas: 0,
            replica_timeout: Duration::from_millis(500),
            index_limit: 5_000_000,
        }
    }
}

/// What a URL says.
struct Parts {
    location: Location,
    database: u32,
    login: Login,
    tls: bool,
}

impl Parts {
    fn of(url: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = url.split_once("://").ok_or(FORM)?;
        if rest.contains('#') {
            return Err("has a fragment (`#…`); certificates are always verified");
        }
        let (tls, kind) = match scheme.strip_prefix("rediss") {
            Some(kind) => (true, kind),
            None => (false, scheme.strip_prefix("redis").unwrap_or(scheme)),
        };
        if matches!(kind, "+unix" | "unix") && !tls {
            return Self::unix(rest);
        }
        if !matches!(kind, "" | "+sentinel" | "+cluster") {
            return Err(FORM);
        }
        let Authority { login, hosts, path } = Authority::of(rest)?;
        let (location, path) = match kind {
            "+sentinel" => {
                let (service, path) = path.split_once('/').unwrap_or((path, ""));
                if service.is_empty() {
                    return Err("does not say after the sentinels what they call the primary (`…/service`)");
                }
                let sentinels = addresses(hosts, SENTINEL_PORT)?;
                (Location::Sentinel { sentinels, service: decoded(service)? }, path)
            }
            "+cluster" => (Location::Cluster(addresses(hosts, REDIS_PORT)?), path),
            _ if hosts.contains(',') => {
                return Err("names several servers; write redis+sentinel:// or redis+cluster:// for what they are");
            }
            _ => (Location::Standalone(Address::tcp(hosts, REDIS_PORT)?), path),
        };
        let database = database(path)?;
        if database != 0 && matches!(location, Location::Cluster(_)) {
            return Err("names a database, and a Cluster has only one");
        }
        Ok(Self { location, database, login, tls })
    }

    /// `/path?db=1&user=name&pass=secret`
    fn unix(rest: &str) -> Result<Self, &'static str> {
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = decoded(path)?;
        if !path.starts_with('/') {
            return Err(FORM);
        }
        let location = Location::Standalone(Address::Unix(path.into()));
        let mut parts = Self { location, database: 0, login: Login::default(), tls: false };
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = decoded(&value.replace('+', " "))?;
            match name {
                "db" => parts.database = database(&value)?,
                "user" => parts.login.username = Some(value),
                "pass" => parts.login.password = Some(value.into()),
                _ => return Err(PARAMETER),
            }
        }
        Ok(parts)
    }
}

struct Authority<'a> {
    login: Login,
    hosts: &'a str,
    /// What follows the first slash.
    path: &'a str,
}

impl<'a> Authority<'a> {
    fn of(rest: &'a str) -> Result<Self, &'static str> {
        if rest.contains('?') {
            return Err(PARAMETER);
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (userinfo, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (username, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        let filled = |text| decoded(text).map(|text| Some(text).filter(|text| !text.is_empty()));
        let login = Login { username: filled(username)?, password: filled(password)?.map(Into::into) };
        Ok(Self { login, hosts, path })
    }
}

fn addresses(hosts: &str, port: u16) -> Result<Vec<Address>, &'static str> {
    hosts.split(',').map(|host| Address::tcp(host, port)).collect()
}

fn database(path: &str) -> Result<u32, &'static str> {
    let path = path.trim_end_matches('/');
    if path.is_empty() { Ok(0) } else { path.parse().map_err(|_| "has a database that is no number") }
}

fn decoded(text: &str) -> Result<String, &'static str> {
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| "is not UTF-8")
}

impl Address {
    /// `host`, `host:port`, `[v6]` or `[v6]:port`.
    fn tcp(text: &str, default_port: u16) -> Result<Self, &'static str> {
        const FAULT: &str = "has a host or a port that cannot be";
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or(FAULT)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| FAULT)?;
            (host, port)
        } else {
            text.split_at(text.find(':').unwrap_or(text.len()))
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| FAULT)?,
            None if port.is_empty() => default_port,
            None => return Err(FAULT),
        };
        let usable = !host.is_empty() && host.bytes().all(is_host) && port != 0;
        if usable { Ok(Self::Tcp(host.into(), port)) } else { Err(FAULT) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A place without credentials, for people.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |addresses: &[Address]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        match self {
            Self::Standalone(address) => write!(f, "{address}"),
            Self::Sentinel { service, .. } => write!(f, "sentinel/{service}"),
            Self::Cluster(seeds) => write!(f, "cluster/{}", list(seeds)),
        }
    }
}

impl FromStr for Address {
    type Err = InvalidRedisSettings;

    /// Host and port, as servers name each other.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Servers write IPv6 addresses without brackets.
        let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port): (&str, u16) = parts.ok_or(InvalidRedisSettings::Url("names no port"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Ok(Self::Tcp(host.into(), port))
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp(host.into(), port)
    }

    #[test]
    fn urls_say_where() {
        let cases = [
            ("redis://h", Location::Standalone(tcp("h", 6379)), 0, false),
            ("redis://h:1/2", Location::Standalone(tcp("h", 1)), 2, false),
            ("rediss://[::1]:1/", Location::Standalone(tcp("::1", 1)), 0, true),
            ("redis+unix:///run/r.sock?db=3", Location::Standalone(Address::Unix("/run/r.sock".into())), 3, false),
            ("unix:///r", Location::Standalone(Address::Unix("/r".into())), 0, false),
            (
                "redis+sentinel://a,b:2,[::3]:3/main/4",
                Location::Sentinel {
                    sentinels: vec![tcp("a", 26379), tcp("b", 2), tcp("::3", 3)],
                    service: "main".to_owned(),
                },
                4,
                false,
            ),
            ("rediss+cluster://a,b:2", Location::Cluster(vec![tcp("a", 6379), tcp("b", 2)]), 0, true),
        ];
        for (url, location, database, tls) in cases {
            let settings = RedisSettings::from_url(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(
                (settings.location, settings.database, settings.tls.is_some()),
                (location, database, tls),
                "{url}"
            );
        }
    }

    #[test]
    fn urls_may_hold_credentials() {
        for url in [
            "redis://us%20er:p%40%2F:x@h",
            "unix:///r?user=us+er&pass=p%40%2F:x",
            "redis+cluster://us%20er:p%40%2F:x@h,i",
        ] {
            let login = RedisSettings::from_url(url).unwrap().login;
            let password = login.password.as_ref().map(SecretString::expose_secret);
            assert_eq!((login.username.as_deref(), password), (Some("us er"), Some("p@/:x")), "{url}");
            assert!(!format!("{login:?}").contains("p@"));
        }
    }

    #[test]
    fn other_urls_are_refused() {
        let urls = [
            "",
            "h:1",
            "http://h",
            "redis://",
            "redis://:p@/",
            "redis://h:port",
            "redis://h:0",
            "redis://h/db",
            "redis://h/-1",
            "redis://a,b",
            "redis://h?db=1",
            "redis://h/#insecure",
            "redis+sentinel://h",
            "redis+sentinel://h/",
            "redis+sentinel:///x",
            "redis+cluster://h/1",
            "redis+cluster://a,,b",
            "rediss+unix:///r",
            "unix://r",
            "unix:///r?x=1",
            "redis://[h]",
            "redis://a b",
        ];
        for url in urls {
            assert!(RedisSettings::from_url(url).is_err(), "{url}");
        }
    }
}
