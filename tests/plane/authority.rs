//! An authority, and what it certifies.

use std::{fs, net::Ipv4Addr, path::Path, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;

/// An authority with a directory for its files.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// A certificate and its key, as PEM.
pub(super) struct Identity {
    certificate: String,
    key: String,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, directory }
    }

    /// A certificate for these names; loopback too.
    pub(super) fn certify(&self, names: &[&str]) -> Identity {
        self.certify_with(names, |_| {})
    }

    /// One that was good for a day of the year 2000.
    pub(super) fn expired(&self, names: &[&str]) -> Identity {
        self.certify_with(names, |params| {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2000, 1, 2);
        })
    }

    /// One for these names alone.
    pub(super) fn certify_only(&self, names: &[&str]) -> Identity {
        self.certify_with(names, |params| params.subject_alt_names.retain(|name| matches!(name, SanType::DnsName(_))))
    }

    fn certify_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    /// An authority of nobody but itself: the certificate that people make for one server.
    pub(super) fn self_signed() -> (Self, Identity) {
        let authority = Self::new("test");
        let mut params = CertificateParams::new([]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        fs::write(authority.directory.path().join("ca.pem"), &certificate).unwrap();
        (authority, Identity { certificate, key: key.serialize_pem() })
    }

    /// The file with its own certificate.
    pub(super) fn file(&self) -> String {
        self.directory.path().join("ca.pem").display().to_string()
    }

    /// Writes an identity to files: of the certificate, and of the key.
    pub(super) fn write(&self, name: &str, identity: &Identity) -> [String; 2] {
        let path = |end: &str| self.directory.path().join(format!("{name}{end}"));
        fs::write(path(".pem"), &identity.certificate).unwrap();
        fs::write(path(".key"), &identity.key).unwrap();
        [path(".pem"), path(".key")].map(|path| path.display().to_string())
    }

    /// Where its files are.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A client that believes this authority, offers these protocols, and shows this certificate.
    pub(super) fn client(&self, alpn: &[&str], identity: Option<&Identity>) -> ClientConfig {
        self.client_of(alpn, identity, rustls::DEFAULT_VERSIONS)
    }

    /// The same for these versions of TLS.
    pub(super) fn client_of(
        &self,
        alpn: &[&str],
        identity: Option<&Identity>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(self.roots());
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_auth_cert(vec![identity.certificate()], identity.key()).unwrap(),
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.issuer.pem().as_bytes()).unwrap()).unwrap();
        roots
    }
}

impl Identity {
    /// A server that is this. With `clients`, whoever connects must have been certified by that authority.
    pub(super) fn server(&self, alpn: &[&str], clients: Option<&Authority>) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots()), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let mut config = builder.with_single_cert(vec![self.certificate()], self.key()).unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}
