//! A listener with TLS and clients that believe it, beside the same in the clear.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::authority::Authority;

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection, whatever is below it.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A gate's identity for `api.example`, and who vouches for it.
pub(crate) struct Secure {
    authority: Authority,
    files: [String; 2],
}

impl Secure {
    pub(crate) fn new() -> Self {
        let authority = Authority::new("test");
        let files = authority.write("api", &authority.certify(&["api.example"]));
        Self { authority, files }
    }

    /// The listener's settings.
    pub(crate) fn listener(&self) -> String {
        let [certificate, key] = &self.files;
        format!("[listener.tls]\ncertificate_file = {certificate:?}\nkey_file = {key:?}\n")
    }

    /// The same as variables.
    pub(crate) fn variables(&self) -> [(&'static str, &str); 2] {
        [("LISTENER_TLS_CERTIFICATE_FILE", &self.files[0]), ("LISTENER_TLS_KEY_FILE", &self.files[1])]
    }

    /// The file with the authority.
    pub(crate) fn authority_file(&self) -> String {
        self.authority.file()
    }

    /// A connection with TLS on which this protocol was agreed.
    pub(crate) async fn connect(&self, address: SocketAddr, protocol: &str) -> Box<dyn Wire> {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let connector = TlsConnector::from(Arc::new(self.authority.client(&[protocol], None)));
        let name = "api.example".try_into().unwrap();
        let stream = timeout(PATIENCE, connector.connect(name, stream)).await.expect("a handshake in time").unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        Box::new(stream)
    }
}

/// A connection, with TLS or in the clear.
pub(crate) async fn connect(secure: Option<&Secure>, address: SocketAddr, protocol: &str) -> Box<dyn Wire> {
    if let Some(secure) = secure {
        return secure.connect(address, protocol).await;
    }
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    Box::new(stream)
}
