//! Log lines: text for people, JSON for machines, on standard error.
//!
//! The audit trail is written whatever the level, unless the filter names its target.

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
};

use tracing_subscriber::{EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

use super::audit;

/// The target of the access log's lines.
pub const ACCESS_TARGET: &str = "portcullis::access";

/// What is logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSettings {
    /// A level, or directives as `tracing-subscriber` reads them.
    pub level: String,
    /// The form of each line.
    pub format: LogFormat,
    /// Whether each request is logged.
    pub access: bool,
}

/// The form of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What is logged now, once logging has begun.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging. A second call changes nothing.
///
/// # Errors
/// The filter's, when it cannot be read.
pub fn start(settings: &LogSettings) -> Result<(), tracing_subscriber::filter::ParseError> {
    let (filter, handle) = reload::Layer::new(filter(settings)?);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    // A second subscriber is refused, which leaves the first.
    let begun = match settings.format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    if begun.is_ok() {
        let _ = FILTER.set(handle);
    }
    Ok(())
}

/// From now on logs what these settings say, in the form of the start. Changes nothing where somebody else logs.
///
/// # Errors
/// The filter's, when it cannot be read.
pub fn adjust(settings: &LogSettings) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = filter(settings)?;
    if let Some(handle) = FILTER.get() {
        // It fails only when the subscriber is gone.
        let _ = handle.reload(filter);
    }
    Ok(())
}

fn filter(settings: &LogSettings) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    let mut filter = EnvFilter::builder().parse(&settings.level)?;
    // Audit and, where it is wanted, access log do not hang on the level of the rest.
    let wanted = [Some(audit::TARGET), settings.access.then_some(ACCESS_TARGET)];
    for target in wanted.into_iter().flatten().filter(|target| !settings.level.contains(target)) {
        filter = filter.add_directive(format!("{target}=info").parse()?);
    }
    Ok(filter)
}
