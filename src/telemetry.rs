//! What operators see: metrics, logs, the audit trail.

#[cfg(feature = "server")]
pub mod audit;
pub mod histogram;
#[cfg(feature = "server")]
pub mod log;
#[cfg(feature = "server")]
pub mod metrics;
