//! The admin listener: markers, look-ups, health, metrics.

use std::net::SocketAddr;

use secrecy::SecretString;

/// The admin listener.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// Where it listens.
    pub address: SocketAddr,
    /// The bearer secret; without one, only on a loopback address.
    pub token: Option<SecretString>,
}
