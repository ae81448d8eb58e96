//! Configuration: one TOML file, environment variables over it, and every mistake told at once.
//!
//! 1. Keys that do not exist are errors, in the file and among the variables, with the nearest that does.
//! 2. All problems are reported, each with its line or its variable, and with what would be right.
//! 3. What cannot work together is refused here, with the reason, and not at the first request.
//! 4. Secrets stand in files of their own or in variables. No message repeats one.
//! 5. Relative paths start at the directory of the file; those in variables at the current one.
//!
//! `config/portcullis.toml` is the manual: every key with default, unit, range and reason.

mod cors;
mod gateway;
pub(crate) mod inactive;
mod issuer;
mod limits;
mod listener;
mod logout;
mod problem;
mod reader;
mod route;
mod secret;
mod session;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod upstream;
mod value;
mod web;
mod written;

use std::path::Path;

use http::HeaderName;
use toml::de::DeTable;

use self::reader::{Reader, Section};
pub use self::{
    problem::{ConfigErrors, Place, Problem},
    written::{Files, Written, fingerprint, is_taken_at_start},
};
use crate::{
    activity::{ActivitySettings, UpkeepSettings},
    admin::AdminSettings,
    event::SourceSettings,
    gate::policy::Mode,
    inactive::settings::InactiveSettings,
    logout::LogoutSettings,
    marker::{Retention, cache::MarkerSettings},
    reload::ReloadMode,
    revocation::RevocationSettings,
    route::RouteSettings,
    server::{ListenerSettings, own::last_logout::LastLogoutSettings},
    session::register::SessionSettings,
    store::{embedded::EmbeddedSettings, redis::RedisSettings},
    telemetry::log::LogSettings,
    token::issuer::IssuerSettings,
};

/// Everything that the gateway needs to know, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The public listener.
    pub listener: ListenerSettings,
    /// The admin listener.
    pub admin: AdminSettings,
    /// Where markers and activity live.
    pub store: StoreSettings,
    /// How markers are cached.
    pub markers: MarkerSettings,
    /// How long markers are kept.
    pub retention: Retention,
    /// How verified tokens are cached.
    pub tokens: TokenSettings,
    /// How activity is recorded.
    pub activity: ActivitySettings,
    /// How long it is kept, and when recording begins anew.
    pub upkeep: UpkeepSettings,
    /// How sessions are recorded.
    pub sessions: SessionSettings,
    /// Pages elsewhere whose scripts may ask the gate's own endpoints about their session, as origins (RFC 6454 §6.2).
    pub origins: Box<[Box<str>]>,
    /// Whom to trust. Empty only where no route asks for a token.
    pub issuers: Vec<IssuerSettings>,
    /// The routes. Never empty.
    pub routes: Vec<RouteSettings>,
    /// The claims that any route makes a field of; `Policy::identity` points into it.
    pub forwarded_claims: Box<[Box<str>]>,
    /// The fields that any route makes of claims. Clients must not send them on any route: two routes may lead to one upstream.
    pub identity_fields: Box<[HeaderName]>,
    /// Where events come from.
    pub sources: Vec<SourceSettings>,
    /// How people are logged out at issuers.
    pub logouts: Vec<LogoutSettings>,
    /// What is revoked at issuers.
    pub revocations: Vec<RevocationSettings>,
    /// What is done about inactive users.
    pub inactive: InactiveSettings,
    /// Who may ask for last logouts; `None`: nobody.
    pub last_logout: Option<LastLogoutSettings>,
    /// What is logged.
    pub log: LogSettings,
    /// What makes a running gate read its configuration again.
    pub reload: ReloadMode,
    /// What works, and should be looked at.
    pub warnings: Vec<Problem>,
    /// What it is made of, to be compared with another.
    pub written: Written,
}

/// A configuration that was read, or what is wrong with it; and what it was read from.
#[derive(Debug)]
pub struct Reading {
    /// The configuration.
    pub result: Result<Config, ConfigErrors>,
    /// The file, and those that it names: a change of one may make another configuration.
    pub files: Files,
}

/// Which store.
#[derive(Clone, Debug)]
pub enum StoreSettings {
    /// In this process.
    Embedded(EmbeddedSettings),
    /// Shared by a fleet.
    Redis(Box<RedisSettings>),
}

/// How verified tokens are cached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenSettings {
    /// The most memory for verified tokens, in bytes.
    pub cache_size: u64,
    /// The longest token that is looked at, in bytes.
    pub max_length: usize,
}

impl Config {
    /// Reads a file, and the variables over it: [`environment`] outside of tests.
    ///
    /// # Errors
    /// [`ConfigErrors`]: everything that is wrong, or that the file cannot be read.
    pub fn load(path: &Path, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigErrors> {
        Self::read(path, variables).result
    }

    /// Reads a file, and the variables over it, and tells which files that involves.
    #[must_use]
    pub fn read(path: &Path, variables: impl IntoIterator<Item = (String, String)>) -> Reading {
        let name = path.to_string_lossy();
        let reading = match std::fs::read_to_string(path) {
            Ok(text) => {
                let reader = Reader::new(&name, &text, variables);
                let result = read(&reader, &text);
                Reading { result, files: reader.files() }
            }
            Err(error) => {
                let message = format!("cannot be read: {error}");
                let place = Place::File(name.to_string());
                let problem = Problem { place, key: String::new(), message, hint: None };
                Reading { result: Err(ConfigErrors(vec![problem])), files: Files::new() }
            }
        };
        let files = reading.files.into_iter().chain([path.to_owned()]).collect();
        Reading { files, ..reading }
    }

    /// Reads the text of a file. `name` is shown in errors, and relative paths start at its directory.
    ///
    /// # Errors
    /// [`ConfigErrors`]: everything that is wrong.
    pub fn parse(
        text: &str,
        name: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        read(&Reader::new(name, text, variables), text)
    }
}

/// The variables of this process that are meant for the gateway.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PORTCULLIS_"));
    ours.map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())).collect()
}

fn read(reader: &Reader<'_>, text: &str) -> Result<Config, ConfigErrors> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        // Not its `Display`, which repeats the line, secrets and all.
        reader.report_syntax(error.span().map(|span| span.start), error.message());
    }
    if !errors.is_empty() {
        reader.finish()?;
    }
    let config = read_sections(&reader.root(table.get_ref()));
    let warnings = reader.finish()?;
    Ok(Config { warnings, written: reader.written(table.get_ref()), ..config })
}

fn read_sections(root: &Section<'_>) -> Config {
    const SECTIONS: [&str; 15] = [
        "LISTENER",
        "ADMIN",
        "STORE",
        "MARKERS",
        "TOKENS",
        "ACTIVITY",
        "SESSION",
        "LAST_LOGOUT",
        "INACTIVE",
        "LOG",
        "ISSUERS",
        "SOURCES",
        "ROUTES",
        "MODE",
        "RELOAD",
    ];
    let mode = root.get("mode").or(Mode::Enforce);
    let reload = root.get("reload").or(ReloadMode::Auto);
    let listener = listener::read(&root.section("listener"));
    let admin = gateway::admin(&root.section("admin"), &listener.addresses);
    let markers = gateway::markers(&root.section("markers"));
    let store = store::read(&root.section("store"), &markers);
    let tokens = gateway::tokens(&root.section("tokens"), listener.max_header_size);
    let (activity, upkeep) = gateway::activity(&root.section("activity"));
    let limits = session::Basis { activity: &activity, retention: &markers.retention };
    let session = session::read(&root.section("session"), &limits);
    let last_logout = logout::last_logout(&root.section("last_logout"), admin.token.as_ref());
    let log = gateway::log(&root.section("log"));
    let basis = issuer::Basis { limits, session: &session };
    let issuers = issuer::read_all(root, &basis);
    let issuer_names = root.keys("issuers");
    let basis = route::Basis {
        mode,
        listener: &listener.addresses,
        admin: admin.address,
        markers: &markers,
        limits,
        session: &session,
        issuers: &issuers,
        issuer_names: &issuer_names,
    };
    let routes = route::read_all(root, &basis);
    let basis = source::Basis { issuer_names: &issuer_names, issuers: &issuers };
    let sources = source::read_all(root, &basis);
    let basis = inactive::Basis { issuers: &issuers, issuer_names: &issuer_names, upkeep: &upkeep };
    let inactive = inactive::read(&root.section("inactive"), &basis);
    root.finish();
    root.reader().report_unknown_variables(&SECTIONS);
    Config {
        listener,
        admin,
        store,
        markers: markers.settings,
        retention: markers.retention,
        tokens,
        activity,
        upkeep,
        sessions: session.settings,
        origins: session.origins,
        logouts: issuers.iter().filter_map(|issuer| issuer.ends.logout.clone()).collect(),
        revocations: issuers.iter().filter_map(|issuer| issuer.ends.revocation.clone()).collect(),
        inactive,
        last_logout,
        issuers: issuers.into_iter().map(|issuer| issuer.settings).collect(),
        routes: routes.settings,
        forwarded_claims: routes.claims.into(),
        identity_fields: routes.fields.into(),
        sources,
        log,
        reload,
        warnings: Vec::new(),
        written: Written::default(),
    }
}
