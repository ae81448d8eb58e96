//! `[store]`

use std::{path::Path, time::Duration};

use redis::IntoConnectionInfo as _;
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    StoreSettings,
    gateway::Markers,
    problem::Fault,
    reader::{At, Section},
    secret,
    value::{MILLISECOND, MINUTE, SECOND, Setting as _},
};
use crate::store::{
    embedded::{self, EmbeddedSettings},
    redis::RedisSettings,
};

const DEFAULT_URL: &str = "embedded:./data";
const FORMS: &str =
    "\"embedded:./data\", \"redis://host:6379/0\", \"rediss://host:6380/0\" or \"redis+unix:///run/redis.sock\"";

/// `[store]`. Redis is given twice its heartbeat before it counts as silent.
pub(super) fn read(section: &Section<'_>, markers: &Markers) -> StoreSettings {
    let url = section.get::<String>("url");
    let url_at = url.at().clone();
    let url = url.or(DEFAULT_URL.to_owned());
    let username = section.get::<String>("username").placed();
    let password = secret::read_text(section, "password");
    let prefix = section.get::<String>("prefix").check(|prefix| check_prefix(prefix)).or("portcullis:".to_owned());
    let connect_timeout = section.get("connect_timeout").between(MILLISECOND, MINUTE).or(SECOND);
    let response_timeout = section.get("response_timeout").between(MILLISECOND, MINUTE).or(500 * MILLISECOND);
    let heartbeat = section.get("heartbeat").between(10 * MILLISECOND, MINUTE);
    let heartbeat_at = heartbeat.at().clone();
    let heartbeat = heartbeat.or(500 * MILLISECOND);
    section.finish();

    let check_staleness = |heartbeat: Duration, what: &str, heartbeat_at: &At| {
        let max_staleness = markers.settings.max_staleness;
        if max_staleness < 2 * heartbeat {
            let message = format!(
                "{} is less than twice {what}, {}: one late answer would make the gateway stale",
                max_staleness.show(),
                heartbeat.show()
            );
            let at = if markers.max_staleness.is_given() { &markers.max_staleness } else { heartbeat_at };
            section.reader().report(at, Fault::new(message));
        }
    };
    if let Some(directory) = url.strip_prefix("embedded:") {
        check_staleness(embedded::HEARTBEAT, "the heartbeat of the embedded store", &url_at);
        for at in [username.map(|(_, at)| at), password.map(|(_, at)| at)].into_iter().flatten() {
            section.reader().report(&at, Fault::new("the embedded store has no users"));
        }
        if directory.is_empty() {
            section.reader().report(&url_at, Fault::new("names no directory").hint(format!("write \"{DEFAULT_URL}\"")));
        }
        let directory = section.reader().resolve(&url_at, directory);
        // `./data` next to the file reads as `data`.
        let directory = directory.components().filter(|part| part.as_os_str() != ".").collect();
        return StoreSettings::Embedded(EmbeddedSettings { directory });
    }
    check_staleness(heartbeat, "`store.heartbeat`", &heartbeat_at);
    let secret_allowed = url_at.is_variable();
    let url = match redis_url(&url, username.as_ref(), password.as_ref(), secret_allowed) {
        Ok(url) => url,
        Err(fault) => {
            section.reader().report(&url_at, fault);
            SecretString::default()
        }
    };
    StoreSettings::Redis(RedisSettings { url, prefix, connect_timeout, response_timeout, heartbeat })
}

/// The URL with credentials in it. What is wrong with it is told without repeating it.
fn redis_url(
    text: &str,
    username: Option<&(String, At)>,
    password: Option<&(SecretString, At)>,
    secret_allowed: bool,
) -> Result<SecretString, Fault> {
    if Path::new(text).is_absolute() || text.starts_with('.') {
        return Err(Fault::new("is a path, not a URL").hint("write \"embedded:\" before it"));
    }
    let mut url = redis::parse_redis_url(text)
        .ok_or_else(|| Fault::new("not the URL of a store").hint(format!("it is one of {FORMS}")))?;
    if !["redis", "rediss", "redis+unix"].contains(&url.scheme()) {
        return Err(Fault::new("not the URL of a store").hint(format!("it is one of {FORMS}")));
    }
    let is_unix = url.scheme() == "redis+unix";
    let inline_secret = url.password().is_some()
        || url.query_pairs().any(|(name, _)| ["pass", "password"].contains(&&*name.to_ascii_lowercase()));
    if inline_secret && !secret_allowed {
        let hint =
            "take it out and write `password_file = \"…\"`, or set PORTCULLIS_STORE_PASSWORD or PORTCULLIS_STORE_URL";
        return Err(Fault::new("a password may not stand in this file").hint(hint));
    }
    if inline_secret && password.is_some() {
        return Err(Fault::new("has a password, and `store.password` or `store.password_file` gives another"));
    }
    if url.fragment().is_some() {
        return Err(Fault::new("has a fragment (`#…`); certificates are always verified"));
    }
    let allowed: &[&str] = if is_unix { &["db", "user", "pass"] } else { &[] };
    if let Some((name, _)) = url.query_pairs().find(|(name, _)| !allowed.contains(&&**name)) {
        return Err(Fault::new(format!("has a parameter `{name}` that means nothing here")));
    }
    if is_unix {
        let user = username.map(|(name, _)| ("user", name.as_str()));
        let pass = password.map(|(secret, _)| ("pass", secret.expose_secret()));
        for (name, value) in [user, pass].into_iter().flatten() {
            url.query_pairs_mut().append_pair(name, value);
        }
    } else {
        let named = username.is_none_or(|(name, _)| url.set_username(name).is_ok());
        let set = password.is_none_or(|(secret, _)| url.set_password(Some(secret.expose_secret())).is_ok());
        if !named || !set {
            return Err(Fault::new("has no host"));
        }
    }
    // Its errors have two parts; the second may repeat a part of the URL.
    let text = url.to_string();
    url.into_connection_info().map_err(|_| {
        Fault::new("not the URL of a Redis server")
            .hint("\"redis://host:6379/0\": a host, a port, the number of a database")
    })?;
    Ok(text.into())
}

fn check_prefix(prefix: &str) -> Result<(), Fault> {
    if prefix.len() > 64 || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Fault::new("must be 64 visible ASCII characters at most"));
    }
    Ok(())
}
