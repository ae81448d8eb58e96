//! `[store]`

use std::{path::Path, time::Duration};

use secrecy::SecretString;

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
    redis::{InvalidRedisSettings, Location, Login, RedisSettings},
};

const DEFAULT_URL: &str = "embedded:./data";
const FORMS: &str = "\"embedded:./data\", \"redis://host:6379/0\", \"redis+unix:///run/redis.sock\", \
                     \"redis+sentinel://host1:26379,host2:26379,host3:26379/service/0\" or \"redis+cluster://host1:6379,host2:6379\"; \
                     \"rediss…\" with TLS";

/// `[store]`. Redis is given twice its heartbeat before it counts as silent.
pub(super) fn read(section: &Section<'_>, markers: &Markers) -> StoreSettings {
    let url = section.get::<String>("url");
    let url_at = url.at().clone();
    let url = url.or(DEFAULT_URL.to_owned());
    let logins = ["", "sentinel_"].map(|prefix| GivenLogin::read(section, prefix));
    let files = ["ca_file", "certificate_file", "key_file"].map(|key| section.get::<String>(key).placed());
    let prefix = section.get::<String>("prefix").check(|prefix| check_prefix(prefix)).or("portcullis:".to_owned());
    let connect_timeout = section.get("connect_timeout").between(MILLISECOND, MINUTE).or(SECOND);
    let response_timeout = section.get("response_timeout").between(MILLISECOND, MINUTE).or(500 * MILLISECOND);
    let heartbeat = section.get("heartbeat").between(10 * MILLISECOND, MINUTE);
    let heartbeat_at = heartbeat.at().clone();
    let heartbeat = heartbeat.or(500 * MILLISECOND);
    let replicas = section.get::<usize>("replicas").between(0, 100).or(0);
    let replica_timeout = section.get("replica_timeout").between(MILLISECOND, MINUTE);
    let replica_timeout_at = replica_timeout.at().clone();
    let replica_timeout = replica_timeout.or(500 * MILLISECOND);
    let index_limit = section.get::<usize>("index_limit").between(0, 1_000_000_000).or(5_000_000);
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
        for at in logins.iter().flat_map(GivenLogin::places) {
            section.reader().report(at, Fault::new("the embedded store has no users"));
        }
        for (_, at) in files.iter().flatten() {
            section.reader().report(at, Fault::new("the embedded store has no connections"));
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
    if replicas > 0 && replica_timeout >= markers.settings.write_timeout {
        let message = format!(
            "{} is not less than `markers.write_timeout`, {}: nobody would be told that replicas are missing",
            replica_timeout.show(),
            markers.settings.write_timeout.show()
        );
        section.reader().report(&replica_timeout_at, Fault::new(message));
    }
    let mut settings = match redis_settings(&url, url_at.is_variable()) {
        Ok(settings) => settings,
        Err(fault) => {
            section.reader().report(&url_at, fault);
            RedisSettings::at(Location::Cluster(Vec::new()))
        }
    };
    let [login, sentinel_login] = logins;
    login.fill(section, &url_at, &mut settings.login);
    sentinel_login.fill(section, &url_at, &mut settings.sentinel_login);
    fill_tls(section, files, &mut settings);
    StoreSettings::Redis(Box::new(RedisSettings {
        prefix,
        connect_timeout,
        response_timeout,
        heartbeat,
        replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
        replica_timeout,
        index_limit,
        ..settings
    }))
}

/// User and password, and where they are given.
struct GivenLogin {
    username: Option<(String, At)>,
    password: Option<(SecretString, At)>,
}

impl GivenLogin {
    fn read(section: &Section<'_>, prefix: &str) -> Self {
        let username = section.get::<String>(&format!("{prefix}username")).placed();
        Self { username, password: secret::read_text(section, &format!("{prefix}password")) }
    }

    fn places(&self) -> impl Iterator<Item = &At> {
        let username = self.username.as_ref().map(|(_, at)| at);
        username.into_iter().chain(self.password.as_ref().map(|(_, at)| at))
    }

    fn fill(self, section: &Section<'_>, url_at: &At, login: &mut Login) {
        if let Some((username, _)) = self.username {
            login.username = Some(username);
        }
        if let Some((password, _)) = self.password
            && login.password.replace(password).is_some()
        {
            let fault = Fault::new("has a password, and `store.password` or `store.password_file` gives another");
            section.reader().report(url_at, fault);
        }
    }
}

/// The files of certificates and keys are read here already, so that what is wrong with them is told at their keys.
fn fill_tls(section: &Section<'_>, files: [Option<(String, At)>; 3], settings: &mut RedisSettings) {
    let reader = section.reader();
    let [ca, certificate, key] = files;
    let Some(tls) = &mut settings.tls else {
        for (_, at) in [ca, certificate, key].iter().flatten() {
            reader.report(
                at,
                Fault::new("the url is of a connection without TLS").hint("write rediss:// in `store.url`"),
            );
        }
        return;
    };
    tls.authorities = ca.as_ref().map(|(path, at)| reader.resolve(at, path));
    match (&certificate, &key) {
        (Some((certificate, certificate_at)), Some((key, key_at))) => {
            tls.identity = Some((reader.resolve(certificate_at, certificate), reader.resolve(key_at, key)));
        }
        (Some((_, at)), None) => {
            reader.report(at, Fault::new("a certificate needs its key").hint("set `store.key_file`"));
        }
        (None, Some((_, at))) => {
            reader.report(at, Fault::new("a key needs its certificate").hint("set `store.certificate_file`"));
        }
        (None, None) => {}
    }
    if let Err(error) = tls.check() {
        let InvalidRedisSettings::Tls { path, .. } = &error else { return };
        let names = |(name, at): &&(String, At)| reader.resolve(at, name) == *path;
        let given = [&ca, &certificate, &key];
        let at = given.into_iter().flatten().find(names).or(ca.as_ref()).or(certificate.as_ref()).map(|(_, at)| at);
        reader.report(at.unwrap_or(section.at()), Fault::new(error.to_string()));
    }
}

/// What the URL says. What is wrong with it is told without repeating it.
fn redis_settings(text: &str, secret_allowed: bool) -> Result<RedisSettings, Fault> {
    if Path::new(text).is_absolute() || text.starts_with('.') {
        return Err(Fault::new("is a path, not a URL").hint("write \"embedded:\" before it"));
    }
    let settings = RedisSettings::from_url(text).map_err(|error| {
        let InvalidRedisSettings::Url(fault) = error else { return Fault::new(error.to_string()) };
        Fault::new(fault).hint(format!("it is one of {FORMS}"))
    })?;
    if settings.login.password.is_some() && !secret_allowed {
        let hint =
            "take it out and write `password_file = \"…\"`, or set PORTCULLIS_STORE_PASSWORD or PORTCULLIS_STORE_URL";
        return Err(Fault::new("a password may not stand in this file").hint(hint));
    }
    Ok(settings)
}

fn check_prefix(prefix: &str) -> Result<(), Fault> {
    if prefix.len() > 64 || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Fault::new("must be 64 visible ASCII characters at most"));
    }
    Ok(())
}
