//! One connection: the socket, TLS, the handshake.

use std::{io, path::Path, sync::Arc, time::Duration};

use ::redis::{
    AsyncConnectionConfig, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisResult, aio::MultiplexedConnection,
};
use hyper_rustls::ConfigBuilderExt as _;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use secrecy::ExposeSecret as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::settings::{Address, InvalidRedisSettings, Login, RedisTls};

/// How many commands may wait to be sent; more wait in their callers, up to the response timeout.
const QUEUE: usize = 1024;

/// How connections are made.
#[derive(Clone)]
pub(super) struct Connector {
    tls: Option<TlsConnector>,
    login: RedisConnectionInfo,
    connect_timeout: Duration,
    /// How long any answer may take.
    pub(super) response_timeout: Duration,
}

/// A connection, and the task that drives it. When this is dropped, whoever waits for an answer is told at once.
pub(super) struct Connection {
    pub(super) handle: MultiplexedConnection,
    _driver: AbortOnDropHandle<()>,
}

/// Anything that bytes can go through.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Connector {
    pub(super) fn new(
        login: &Login,
        database: u32,
        tls: Option<&RedisTls>,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> Result<Self, InvalidRedisSettings> {
        Ok(Self {
            tls: tls.map(tls_connector).transpose()?,
            login: login_info(login, database),
            connect_timeout,
            response_timeout,
        })
    }

    /// The same with more time for answers.
    pub(super) fn patient(&self, longer: Duration) -> Self {
        Self { response_timeout: self.response_timeout + longer, ..self.clone() }
    }

    /// Connects. `pushed` is called with what the server pushes, within the connection's own task and in the order of the wire.
    pub(super) async fn connect(
        &self,
        address: &Address,
        pushed: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<Connection> {
        let connecting = async {
            let stream = self.open(address).await?;
            let config = AsyncConnectionConfig::new()
                .set_response_timeout(Some(self.response_timeout))
                .set_pipeline_buffer_size(QUEUE)
                .set_push_sender(move |push: PushInfo| -> Result<(), std::convert::Infallible> {
                    pushed(push);
                    Ok(())
                });
            let (handle, driver) = MultiplexedConnection::new_with_config(&self.login, stream, config).await?;
            Ok(Connection { handle, _driver: AbortOnDropHandle::new(tokio::spawn(driver)) })
        };
        timeout(self.connect_timeout, connecting)
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
    }

    async fn open(&self, address: &Address) -> RedisResult<Box<dyn Stream>> {
        let (host, port) = match address {
            Address::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Address::Tcp(host, port) => (&**host, *port),
        };
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Box::new(tls.connect(name, stream).await?))
    }
}

impl RedisTls {
    /// Reads the files, to tell early what is wrong with them.
    ///
    /// # Errors
    /// [`InvalidRedisSettings::Tls`].
    pub fn check(&self) -> Result<(), InvalidRedisSettings> {
        tls_connector(self).map(drop)
    }
}

fn login_info(login: &Login, database: u32) -> RedisConnectionInfo {
    let mut info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3).set_db(i64::from(database));
    if let Some(username) = &login.username {
        info = info.set_username(username);
    }
    if let Some(password) = &login.password {
        info = info.set_password(password.expose_secret());
    }
    info
}

fn tls_connector(settings: &RedisTls) -> Result<TlsConnector, InvalidRedisSettings> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let fault = |path: &Path, what: &dyn std::fmt::Display| InvalidRedisSettings::Tls {
        path: path.to_owned(),
        what: what.to_string(),
    };
    let system = Path::new("of the operating system's authorities");
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| fault(system, &error))?;
    let builder = match &settings.authorities {
        None => builder.with_native_roots().map_err(|error| fault(system, &error))?,
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| fault(path, &error))?;
            }
            builder.with_root_certificates(roots)
        }
    };
    let config = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key_path)) => {
            let key = PrivateKeyDer::from_pem_file(key_path).map_err(|error| fault(key_path, &error))?;
            builder.with_client_auth_cert(certificates(chain)?, key).map_err(|error| fault(key_path, &error))?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, InvalidRedisSettings> {
    let fault = |what: String| InvalidRedisSettings::Tls { path: path.to_owned(), what };
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(fault("holds no certificate".to_owned())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(fault(error.to_string())),
    }
}
