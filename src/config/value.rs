//! The forms that values take in the file and in variables.

use std::{net::SocketAddr, time::Duration};

use ipnet::IpNet;
use toml::de::DeValue;

use super::problem::{Fault, nearest};

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// A value as written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Raw<'a> {
    /// In the file.
    Value(&'a DeValue<'a>),
    /// In a variable, where everything is text.
    Text(&'a str),
}

impl<'a> Raw<'a> {
    /// The text, where one is `expected` ("a duration").
    pub(super) fn text(self, expected: &str) -> Result<&'a str, Fault> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Value(value) => value.as_str().ok_or_else(|| self.mismatch(&format!("{expected} in quotes"))),
        }
    }

    pub(super) fn mismatch(self, expected: &str) -> Fault {
        let found = match self {
            Self::Text(_) => "something else",
            Self::Value(value) => match value {
                DeValue::String(_) => "a text",
                DeValue::Integer(_) => "an integer",
                DeValue::Float(_) => "a float",
                DeValue::Boolean(_) => "a boolean",
                DeValue::Datetime(_) => "a date",
                DeValue::Array(_) => "a list",
                DeValue::Table(_) => "a table",
            },
        };
        Fault::new(format!("expected {expected}, found {found}"))
    }

    fn integer(self) -> Option<&'a str> {
        match self {
            Self::Value(DeValue::Integer(integer)) if integer.radix() == 10 => Some(integer.as_str()),
            _ => None,
        }
    }
}

/// A type that settings have.
pub(super) trait Setting: Sized {
    /// Reads it as written.
    fn read(raw: Raw<'_>) -> Result<Self, Fault>;

    /// Writes it as people would.
    fn show(&self) -> String {
        String::new()
    }
}

impl Setting for String {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let text = raw.text("a text")?;
        if text.trim().is_empty() {
            return Err(Fault::new("is empty"));
        }
        if text.chars().any(char::is_control) {
            return Err(Fault::new("holds a control character"));
        }
        Ok(text.to_owned())
    }
}

impl Setting for bool {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        match raw {
            Raw::Value(DeValue::Boolean(value)) => Ok(*value),
            Raw::Text("true") => Ok(true),
            Raw::Text("false") => Ok(false),
            _ => Err(raw.mismatch("`true` or `false`")),
        }
    }
}

impl Setting for usize {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let digits = match raw {
            Raw::Text(text) => Some(text),
            Raw::Value(_) => raw.integer(),
        };
        let number = digits.ok_or_else(|| raw.mismatch("a whole number"))?;
        number.parse().map_err(|_| Fault::new("expected a whole number that is not negative"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for Duration {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        if let Some(number) = raw.integer() {
            return Err(raw
                .mismatch("a duration in quotes")
                .hint(format!("durations have a unit: write \"{number}s\"")));
        }
        let text = raw.text("a duration")?;
        // Where "30m" is half an hour, "30M" shall not be 30 months.
        let duration = if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            None
        } else {
            humantime::parse_duration(text.trim()).ok()
        };
        duration.ok_or_else(|| {
            Fault::new("not a duration")
                .hint("a number and a unit: \"500ms\", \"30s\", \"10m\", \"24h\", \"7d\", \"1h 30m\"")
        })
    }

    fn show(&self) -> String {
        let seconds = self.as_secs();
        let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
        match units.iter().find(|(unit, _)| self.subsec_nanos() == 0 && seconds > 0 && seconds.is_multiple_of(*unit)) {
            Some((unit, name)) => format!("{}{name}", seconds / unit),
            None => humantime::format_duration(*self).to_string(),
        }
    }
}

/// A size in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ByteSize(pub(super) u64);

impl ByteSize {
    const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

    pub(super) const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    pub(super) const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// As a size in memory.
    pub(super) fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Setting for ByteSize {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        if let Some(number) = raw.integer() {
            return Err(raw
                .mismatch("a size in quotes")
                .hint(format!("sizes have a unit: write \"{number}B\" or KiB, MiB, GiB")));
        }
        let text = raw.text("a size")?.trim();
        let (number, unit) = text.split_at(text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len()));
        let fault =
            || Fault::new("not a size").hint("a whole number and a unit: \"512B\", \"64KiB\", \"128MiB\", \"1GiB\"");
        let (_, factor) = Self::UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(fault)?;
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor));
        bytes.map(Self).ok_or_else(fault)
    }

    fn show(&self) -> String {
        let unit = Self::UNITS.iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        unit.map_or_else(|| "0B".to_owned(), |(name, factor)| format!("{}{name}", self.0 / factor))
    }
}

impl Setting for SocketAddr {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let text = raw.text("an address")?;
        text.parse().map_err(|_| {
            let fault = Fault::new("not an IP address with a port");
            let host = text.trim_start_matches("http://").trim_end_matches('/');
            match (host.parse::<std::net::IpAddr>(), host.split_once(':')) {
                (Ok(address), _) => fault.hint(format!("write \"{}\"", Self::new(address, 8080))),
                (_, Some(("" | "*" | "localhost", port))) if port.parse::<u16>().is_ok() => {
                    let address = if host.starts_with('l') { "127.0.0.1" } else { "0.0.0.0" };
                    fault.hint(format!("write \"{address}:{port}\""))
                }
                _ => fault.hint("such as \"127.0.0.1:8080\", \"0.0.0.0:8080\" or \"[::]:8080\""),
            }
        })
    }
}

impl Setting for IpNet {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        let text = raw.text("an address range")?;
        if let Ok(address) = text.parse::<std::net::IpAddr>() {
            return Ok(address.into());
        }
        let net: Self = text
            .parse()
            .map_err(|_| Fault::new("not an address range").hint("such as \"10.0.0.0/8\" or \"2001:db8::1\""))?;
        if net.trunc() != net {
            return Err(Fault::new("has bits set beyond its prefix").hint(format!("write \"{}\"", net.trunc())));
        }
        Ok(net)
    }
}

/// One of several words.
pub(super) fn choose<T: Clone>(raw: Raw<'_>, choices: &[(&str, T)]) -> Result<T, Fault> {
    let names = || choices.iter().map(|(name, _)| *name);
    let expected =
        || format!("expected one of {}", names().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", "));
    let Ok(text) = raw.text("") else {
        return Err(Fault::new(expected()));
    };
    choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| choice.clone()).ok_or_else(|| {
        let fault = Fault::new(expected());
        match nearest(text, names()) {
            Some(name) => fault.hint(format!("did you mean \"{name}\"?")),
            None => fault,
        }
    })
}
