//! The way to an endpoint: TCP, TLS over TCP, or a Unix socket.
//!
//! 1. Peers are always verified: by the system's authorities, or by those of a file instead. There is no way around it, since a file
//!    does for certificates of one's own, and a switch would be left on.
//! 2. The handshake is part of connecting, and within its time.
//! 3. What HTTP is spoken is settled by ALPN (RFC 7301) before a request goes out.

mod stream;
mod tls;

use std::{fmt, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{
    net::{TcpStream, UnixStream, lookup_host},
    time::{error::Elapsed, timeout},
};
use tokio_rustls::TlsConnector;

pub use self::{
    stream::Stream,
    tls::{Role, TlsClient, TlsFault},
};

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// Its name could not be resolved.
    #[error("name of upstream `{upstream}` cannot be resolved")]
    Resolve {
        /// Which one.
        upstream: String,
        /// What happened.
        source: Arc<io::Error>,
    },
    /// It was refused or reset.
    #[error("cannot connect to upstream `{upstream}`")]
    Io {
        /// Which one.
        upstream: String,
        /// What happened.
        source: Arc<io::Error>,
    },
    /// It took too long.
    #[error("connecting to upstream `{upstream}` took too long")]
    TimedOut {
        /// Which one.
        upstream: String,
        /// What happened.
        source: Arc<Elapsed>,
    },
    /// The TLS handshake failed.
    #[error("TLS with upstream `{upstream}` failed: {what}")]
    Tls {
        /// Which one.
        upstream: String,
        /// What it means, for who can mend it.
        what: &'static str,
        /// What happened.
        source: Arc<io::Error>,
    },
    /// It does not speak HTTP/2 over TLS.
    #[error("upstream `{upstream}` does not offer HTTP/2 by ALPN, and `protocol` is \"http2\"")]
    Alpn {
        /// Which one.
        upstream: String,
    },
    /// The HTTP handshake failed.
    #[error("upstream `{upstream}` does not speak HTTP as configured")]
    Handshake {
        /// Which one.
        upstream: String,
        /// What happened.
        source: Arc<h2::Error>,
    },
}

/// Where an endpoint is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// A name, resolved at each connection.
    Name(Arc<str>, u16),
    /// An address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(Arc<Path>),
}

/// How to reach an endpoint: where it is, and TLS if that is spoken there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transport {
    /// Where.
    pub target: Target,
    /// TLS, if it is spoken there.
    pub tls: Option<Arc<Tls>>,
}

/// TLS with one service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// The client's side.
    pub client: TlsClient,
    /// Whom to ask for, and whom the certificate must be for.
    pub name: ServerName<'static>,
}

impl Transport {
    /// The same service at one of the addresses of its name.
    #[must_use]
    pub fn at(&self, address: SocketAddr) -> Self {
        Self { target: Target::Tcp(address), tls: self.tls.clone() }
    }

    /// Whether TLS is spoken.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Connects, handshake included, within `limit`.
    ///
    /// # Errors
    /// [`ConnectError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn connect(&self, limit: Duration) -> Result<Stream, ConnectError> {
        timeout(limit, self.open()).await.unwrap_or_else(|source| {
            Err(ConnectError::TimedOut { upstream: self.to_string(), source: Arc::new(source) })
        })
    }

    async fn open(&self) -> Result<Stream, ConnectError> {
        let fault = |source| ConnectError::Io { upstream: self.to_string(), source: Arc::new(source) };
        let stream = match &self.target {
            Target::Unix(path) => return UnixStream::connect(path).await.map(Stream::Unix).map_err(fault),
            Target::Tcp(address) => TcpStream::connect(address).await.map_err(fault)?,
            Target::Name(host, port) => {
                let resolved = lookup_host((bare(host), *port)).await;
                let addresses: Vec<_> = resolved
                    .map_err(|source| ConnectError::Resolve { upstream: self.to_string(), source: Arc::new(source) })?
                    .collect();
                TcpStream::connect(&*addresses).await.map_err(fault)?
            }
        };
        stream.set_nodelay(true).map_err(fault)?;
        let Some(tls) = &self.tls else { return Ok(Stream::Tcp(stream)) };
        let connecting = TlsConnector::from(Arc::clone(tls.client.config())).connect(tls.name.clone(), stream);
        let stream = connecting.await.map_err(|source| ConnectError::Tls {
            upstream: self.to_string(),
            what: self::tls::explain(&source),
            source: Arc::new(source),
        })?;
        if tls.client.wants_http2() && stream.get_ref().1.alpn_protocol() != Some(self::tls::HTTP2) {
            return Err(ConnectError::Alpn { upstream: self.to_string() });
        }
        Ok(Stream::Tls(Box::new(stream)))
    }
}

/// An IPv6 address without its brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// As in the settings: `http://…`, `https://…`, `unix:…`.
impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls() { "https" } else { "http" };
        match &self.target {
            Target::Name(host, port) => write!(f, "{scheme}://{host}:{port}"),
            Target::Tcp(address) => write!(f, "{scheme}://{address}"),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
