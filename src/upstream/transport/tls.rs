//! Whom the gate believes at the other end, and who it says it is.

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use secrecy::{ExposeSecret as _, SecretSlice};

use crate::upstream::Protocol;

/// How ALPN calls HTTP/2 and HTTP/1.1 (RFC 9113 §3.1, RFC 7301 §6).
pub(super) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// More than any bundle of authorities needs, so that a wrong path does not fill the memory.
const MAX_FILE: u64 = 16 << 20;

/// What is wrong with the files that TLS needs.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    /// A file cannot be read, or is not what it should be.
    #[error("{} {what}", path.display())]
    File {
        /// What it is for.
        role: Role,
        /// Which one.
        path: PathBuf,
        /// What is wrong. Never what stands in it.
        what: String,
    },
    /// The system has no authorities.
    #[error("the system has no certificates of authorities to trust")]
    NoSystemAuthorities,
    /// TLS cannot be set up with them.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// What a file is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Whom to believe.
    Authorities,
    /// Who to be.
    Certificate,
    /// The key of that.
    Key,
}

/// The client's side of TLS: whom it trusts, its own certificate, the protocol it asks for. Two are equal when made of equal files.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    /// Tells it apart from one of other files, without keeping the key.
    fingerprint: [u8; SHA256_OUTPUT_LEN],
}

impl TlsClient {
    /// Reads the files. Without `authorities` those of the system are trusted, with it only they; `identity` is a certificate, with
    /// those that lead from it to its authority, and its key. All are PEM files.
    ///
    /// # Errors
    /// [`TlsFault`].
    pub fn new(
        authorities: Option<&Path>,
        identity: Option<(&Path, &Path)>,
        protocol: Protocol,
    ) -> Result<Self, TlsFault> {
        let mut fingerprint = Context::new(&SHA256);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let roots = match authorities {
            None => system_authorities()?,
            Some(path) => Arc::new(read_authorities(path, &mut fingerprint)?),
        };
        let builder = builder.with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate_path, key_path)) => {
                let certificates = read_certificates(Role::Certificate, certificate_path, &mut fingerprint)?;
                let key = SecretSlice::from(read(Role::Key, key_path, &mut fingerprint)?);
                let key = PrivateKeyDer::from_pem_slice(key.expose_secret())
                    .map_err(|_| fault(Role::Key, key_path, "holds no private key in PEM form"))?;
                // Files of one do not fit each other, most likely.
                builder.with_client_auth_cert(certificates, key).map_err(|error| {
                    fault(Role::Key, key_path, format!("is not the key of the certificate: {error}"))
                })?
            }
        };
        let alpn = if protocol == Protocol::Http2 { HTTP2 } else { HTTP1 };
        config.alpn_protocols = vec![alpn.to_vec()];
        fingerprint.update(alpn);
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(fingerprint.finish().as_ref());
        Ok(Self { config: Arc::new(config), fingerprint: bytes })
    }

    pub(super) const fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// Whether HTTP/2 is asked for, and nothing else will do.
    pub(super) fn wants_http2(&self) -> bool {
        self.config.alpn_protocols.iter().any(|protocol| protocol == HTTP2)
    }
}

impl PartialEq for TlsClient {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for TlsClient {}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsClient")
    }
}

/// What a failed handshake means, for who can mend it.
pub(super) fn explain(error: &io::Error) -> &'static str {
    let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) else {
        return "it ended in the middle of the handshake";
    };
    match error {
        rustls::Error::InvalidCertificate(fault) => match fault {
            CertificateError::UnknownIssuer => "its certificate is signed by nobody who is trusted; see `tls.ca_file`",
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for another name; see `tls.server_name`"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet"
            }
            CertificateError::Revoked => "its certificate was revoked",
            _ => "its certificate is not valid",
        },
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it wants a certificate; see `tls.certificate_file`"
        }
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        | rustls::Error::NoApplicationProtocol => "it does not speak the `protocol` of the route",
        rustls::Error::AlertReceived(_) => "it refused",
        rustls::Error::InvalidMessage(_) => "it does not speak TLS there",
        rustls::Error::PeerIncompatible(_) => "it speaks no version or cipher suite that is safe",
        _ => "the handshake broke off",
    }
}

/// The system's authorities, read once.
fn system_authorities() -> Result<Arc<RootCertStore>, TlsFault> {
    static AUTHORITIES: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(known) = AUTHORITIES.get() {
        return Ok(Arc::clone(known));
    }
    let mut roots = RootCertStore::empty();
    // What cannot be read of it is left out, as everybody does: there is usually something.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TlsFault::NoSystemAuthorities);
    }
    Ok(Arc::clone(AUTHORITIES.get_or_init(|| Arc::new(roots))))
}

fn read_authorities(path: &Path, fingerprint: &mut Context) -> Result<RootCertStore, TlsFault> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(Role::Authorities, path, fingerprint)? {
        roots.add(certificate).map_err(|error| {
            fault(Role::Authorities, path, format!("holds a certificate that is no authority's: {error}"))
        })?;
    }
    Ok(roots)
}

fn read_certificates(
    role: Role,
    path: &Path,
    fingerprint: &mut Context,
) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let bytes = read(role, path, fingerprint)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let certificates = certificates.map_err(|error| fault(role, path, format!("is not in PEM form: {error}")))?;
    if certificates.is_empty() {
        return Err(fault(role, path, "holds no certificate in PEM form"));
    }
    Ok(certificates)
}

fn read(role: Role, path: &Path, fingerprint: &mut Context) -> Result<Vec<u8>, TlsFault> {
    let unreadable = |error: io::Error| fault(role, path, format!("cannot be read: {error}"));
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(fault(role, path, "is longer than 16MiB"));
    }
    fingerprint.update(&bytes.len().to_be_bytes());
    fingerprint.update(&bytes);
    Ok(bytes)
}

fn fault(role: Role, path: &Path, what: impl Into<String>) -> TlsFault {
    TlsFault::File { role, path: path.to_owned(), what: what.into() }
}
