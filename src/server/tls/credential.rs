//! A certificate and its key, as they are in files.

use std::{fs::File, io::Read as _, path::PathBuf, sync::Arc};

use aws_lc_rs::digest::{self, SHA256};
use rustls::{
    Error, InconsistentKeys,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use std::path::Path;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::{CertificateFiles, TlsFault, provider};
use crate::clock::Timestamp;

/// More than any chain needs, so that a wrong path does not fill the memory.
const MAX_LENGTH: u64 = 1024 * 1024;

/// A certificate, what leads from it to an authority, and its key.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Where the certificate is from.
    pub file: PathBuf,
    /// The hosts that it is for, in lower case; `*.` stands for one label (RFC 6125 §6.4.3).
    pub names: Box<[Box<str>]>,
    /// From when it is good.
    pub not_before: Timestamp,
    /// Until when it is good.
    pub not_after: Timestamp,
    pub(super) key: Arc<CertifiedKey>,
    pub(super) digest: Digest,
}

impl Credential {
    /// Reads the two files, and has them fit each other.
    ///
    /// # Errors
    /// [`TlsFault`]
    pub fn read(files: &CertificateFiles) -> Result<Self, TlsFault> {
        let (certificate, key) = (read(&files.certificate)?, read(&files.key)?);
        let chain = certificates(&files.certificate, &certificate)?;
        let at_certificate = |what: String| TlsFault::new(&files.certificate, what);
        let at_key = |what: &str| TlsFault::new(&files.key, what);
        let Some(leaf) = chain.first() else { return Err(at_certificate("holds no certificate".to_owned())) };
        let Leaf { names, not_before, not_after } =
            Leaf::read(leaf).ok_or_else(|| at_certificate("holds something that is no certificate".to_owned()))?;
        // What the parser says of a key may repeat parts of it.
        let parsed = PrivateKeyDer::from_pem_slice(&key).map_err(|_| at_key("holds no private key in PEM"))?;
        let parsed = provider().key_provider.load_private_key(parsed);
        let parsed = parsed.map_err(|_| at_key("holds a key of a kind that is not known"))?;
        let digest = Digest::of_all(&[Digest::of(&certificate), Digest::of(&key)]);
        let key = CertifiedKey::new(chain, parsed);
        match key.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                return Err(at_key(&format!(
                    "holds another key than the certificate in {}",
                    files.certificate.display()
                )));
            }
            Err(error) => return Err(at_certificate(format!("cannot be used: {error}"))),
        }
        Ok(Self { file: files.certificate.clone(), names, not_before, not_after, key: Arc::new(key), digest })
    }
}

/// What a certificate says.
struct Leaf {
    names: Box<[Box<str>]>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Leaf {
    fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = parse_x509_certificate(certificate).ok()?;
        let alternatives = parsed.subject_alternative_name().ok()?;
        let names = alternatives.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into()),
            _ => None,
        });
        Some(Self {
            names: names.collect(),
            not_before: Timestamp::from_secs(parsed.validity().not_before.timestamp()),
            not_after: Timestamp::from_secs(parsed.validity().not_after.timestamp()),
        })
    }
}

/// A file, whole.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsFault> {
    let unreadable = |error: &std::io::Error| TlsFault::new(path, format!("cannot be read: {error}"));
    let file = File::open(path).map_err(|error| unreadable(&error))?;
    let mut bytes = Vec::new();
    file.take(MAX_LENGTH + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > MAX_LENGTH { Err(TlsFault::new(path, "is longer than 1MiB")) } else { Ok(bytes) }
}

/// The certificates in a file; at least one.
pub(super) fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(TlsFault::new(path, "holds no certificate in PEM")),
        Ok(certificates) => Ok(certificates),
        Err(_) => Err(TlsFault::new(path, "holds PEM that is broken")),
    }
}

/// Tells contents of files apart, without keeping them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut digest = [0; 32];
        digest.copy_from_slice(digest::digest(&SHA256, bytes).as_ref());
        Self(digest)
    }

    pub(super) fn and(self, bytes: &[u8]) -> Self {
        Self::of(&[&self.0, bytes].concat())
    }

    pub(super) fn of_all(digests: &[Self]) -> Self {
        Self::of(&digests.iter().flat_map(|digest| digest.0).collect::<Vec<_>>())
    }
}
