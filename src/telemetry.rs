//! What operators see: metrics, logs, the audit trail.

pub mod audit;
pub mod histogram;
pub mod log;
pub mod metrics;
