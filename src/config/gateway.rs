//! The sections about the gateway itself.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tracing_subscriber::EnvFilter;

use super::{
    TokenSettings,
    inactive::Percent,
    problem::{Fault, nearest},
    reader::{At, Section},
    secret,
    value::{ByteSize, DAY, HOUR, MILLISECOND, MINUTE, Raw, SECOND, Setting, choose},
};
use crate::{
    activity::{ActivitySettings, UpkeepSettings},
    admin::AdminSettings,
    marker::{Retention, cache::MarkerSettings},
    reload::ReloadMode,
    server::socket::ListenAddress,
    telemetry::log::{AccessSettings, LogFormat, LogOutput, LogSettings},
    verdict::OutagePolicy,
};

/// `[admin]`. It must not share the address of the listener.
pub(super) fn admin(section: &Section<'_>, listener: &[ListenAddress]) -> AdminSettings {
    let address = section.get::<SocketAddr>("address");
    let at = address.at().clone();
    let address = address.or(SocketAddr::from(([127, 0, 0, 1], 9090)));
    for listener in listener {
        if matches!(listener, ListenAddress::Tcp(listener) if overlap(address, *listener)) {
            let message = format!("{address} is taken by [listener], {listener}");
            section.reader().report(&at, Fault::new(message).hint("give [admin] a port of its own"));
        }
    }
    let has_token = section.has("token") || section.has("token_file");
    let token = secret::read_bearer(section, "token");
    if !has_token && !address.ip().is_loopback() {
        let fault = Fault::new("others than this machine reach it, and there is no token");
        let hint = "set `token_file` or PORTCULLIS_ADMIN_TOKEN, or listen on 127.0.0.1";
        section.reader().report(&at, fault.hint(hint));
    }
    section.finish();
    AdminSettings { address, token: token.map(|(token, _)| token) }
}

/// Whether two sockets would get in each other's way. Port 0 gets a port of its own.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let same_host = |a: IpAddr, b: IpAddr| a == b || a.is_unspecified() || b.is_unspecified();
    one.port() != 0 && one.port() == other.port() && same_host(one.ip(), other.ip())
}

/// `[markers]`, but what a store needs to know: settings, and where `max_staleness` stands.
pub(super) struct Markers {
    pub(super) settings: MarkerSettings,
    pub(super) retention: Retention,
    pub(super) outage: OutagePolicy,
    pub(super) max_staleness: At,
}

/// `[markers]`
pub(super) fn markers(section: &Section<'_>) -> Markers {
    let max_staleness = section.get::<Duration>("max_staleness").between(MILLISECOND, HOUR);
    let at = max_staleness.at().clone();
    let markers = Markers {
        settings: MarkerSettings {
            max_staleness: max_staleness.or(2 * SECOND),
            cache_size: section
                .get("cache_size")
                .between(ByteSize::mib(1), ByteSize::mib(1 << 20))
                .or(ByteSize::mib(64))
                .0,
            read_timeout: section.get("read_timeout").between(MILLISECOND, MINUTE).or(SECOND),
            max_waiting: section.get("max_waiting").between(1, 1_000_000).or(10_000),
            write_timeout: section.get("write_timeout").between(MILLISECOND, MINUTE).or(5 * SECOND),
        },
        retention: Retention {
            max_token_lifetime: section.get("max_token_lifetime").between(MINUTE, 30 * DAY).or(DAY),
            clock_skew: section.get("clock_skew").between(Duration::ZERO, 5 * MINUTE).or(SECOND),
            session: section.get("session_retention").between(HOUR, 400 * DAY).or(30 * DAY),
        },
        outage: section.get("outage").or(OutagePolicy::Reject),
        max_staleness: at,
    };
    section.finish();
    markers
}

/// `[tokens]`. No token can be longer than the header that brings it.
pub(super) fn tokens(section: &Section<'_>, max_header_size: usize) -> TokenSettings {
    let max_length =
        section.get::<ByteSize>("max_length").between(ByteSize(256), ByteSize::mib(1)).check(|max_length| {
            if max_length.as_usize() > max_header_size {
                let header = ByteSize(max_header_size as u64).show();
                return Err(Fault::new(format!(
                    "tokens that long never arrive: `listener.max_header_size` is {header}"
                )));
            }
            Ok(())
        });
    let settings = TokenSettings {
        cache_size: section
            .get("cache_size")
            .between(ByteSize::mib(1), ByteSize::mib(1 << 20))
            .or(ByteSize::mib(128))
            .0,
        max_length: max_length.or(ByteSize::kib(16)).as_usize().min(max_header_size),
    };
    section.finish();
    settings
}

/// `[activity]`
pub(super) fn activity(section: &Section<'_>) -> (ActivitySettings, UpkeepSettings) {
    let settings = ActivitySettings {
        resolution: section.get("resolution").between(SECOND, DAY).or(MINUTE),
        flush_interval: section.get("flush_interval").between(10 * MILLISECOND, MINUTE).or(SECOND),
    };
    let upkeep = UpkeepSettings {
        retention: section.get("retention").between(DAY, 3650 * DAY).or(400 * DAY),
        max_gap: section.get("max_gap").between(MINUTE, 30 * DAY).or(DAY),
    };
    section.finish();
    (settings, upkeep)
}

/// `[log]`
pub(super) fn log(section: &Section<'_>) -> LogSettings {
    let settings = LogSettings {
        level: section.get::<String>("level").check(|level| check_filter(level)).or("info".to_owned()),
        format: section.get("format").or(LogFormat::Text),
        access: access(section),
    };
    section.finish();
    settings
}

fn access(section: &Section<'_>) -> Option<AccessSettings> {
    let is_wanted = section.get("access").or(false);
    let settings = AccessSettings {
        sample: section.get::<Percent>("access_sample").option().map_or(1.0, |Percent(percent)| percent / 100.0),
        subject: section.get("access_subject").or(false),
        user_agent: section.get("access_user_agent").or(false),
        output: section.get("access_output").or(LogOutput::Stderr),
    };
    is_wanted.then_some(settings)
}

/// A misspelt level would be taken for the name of a module.
fn check_filter(filter: &str) -> Result<(), Fault> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    // The parser of the filter panics over some other characters.
    if !filter.is_ascii() {
        return Err(Fault::new("names levels and modules: letters without accents, digits and signs"));
    }
    for directive in filter.split(',').map(str::trim).filter(|directive| !directive.contains(['[', ']'])) {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            let fault = Fault::new(format!("\"{level}\" is not a level"));
            return Err(match nearest(level, LEVELS) {
                Some(level) => fault.hint(format!("did you mean \"{level}\"?")),
                None => fault
                    .hint("error, warn, info, debug, trace or off; for a part only: \"info,portcullis::store=debug\""),
            });
        }
    }
    EnvFilter::try_new(filter).map(drop).map_err(|_| Fault::new("not a filter for log messages"))
}

impl Setting for ReloadMode {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("auto", Self::Auto), ("signal", Self::Signal), ("off", Self::Off)])
    }
}

impl Setting for LogFormat {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("text", Self::Text), ("json", Self::Json)])
    }
}

impl Setting for LogOutput {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("stderr", Self::Stderr), ("stdout", Self::Stdout)])
    }
}

impl Setting for OutagePolicy {
    fn read(raw: Raw<'_>) -> Result<Self, Fault> {
        choose(raw, &[("reject", Self::Reject), ("allow", Self::Allow)])
    }
}
