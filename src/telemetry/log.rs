//! Log lines: text for people, JSON for machines, on standard error.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    config::{LogFormat, LogSettings},
    server::access,
};

/// Starts logging. A second call changes nothing.
///
/// # Errors
/// The filter's, when it cannot be read.
pub fn start(settings: &LogSettings) -> Result<(), tracing_subscriber::filter::ParseError> {
    let mut filter = EnvFilter::builder().parse(&settings.level)?;
    // Whoever asks for the access log gets it, whatever the level of the rest.
    if settings.access && !settings.level.contains(access::TARGET) {
        filter = filter.add_directive(format!("{}=info", access::TARGET).parse()?);
    }
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    // A second subscriber is refused, which leaves the first.
    let _ = match settings.format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    Ok(())
}
