//! What operators see: metrics, logs, the audit trail.

pub mod audit;
pub mod gauge;
pub mod histogram;
#[cfg(feature = "server")]
pub mod log;
#[cfg(feature = "server")]
pub mod metrics;
#[cfg(feature = "server")]
pub mod process;

/// An error with its causes, for people.
#[cfg(feature = "redis")]
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
