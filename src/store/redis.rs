//! Redis, 7.0 and newer: one store for a fleet.

use std::time::Duration;

use secrecy::SecretString;

/// A Redis server.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// `redis://`, `rediss://` or `redis+unix://`, with credentials.
    pub url: SecretString,
    /// What every key begins with.
    pub prefix: Box<str>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long one command may take.
    pub response_timeout: Duration,
    /// How often the channel that carries pushes is tried.
    pub heartbeat: Duration,
}
