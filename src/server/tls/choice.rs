//! Which certificate a client gets (RFC 6066 §3).

use std::{collections::HashMap, sync::Arc};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::Credential;

/// Certificates by the hosts that they are for.
#[derive(Debug)]
pub(super) struct Choice {
    /// Where several certificates are for one host, they likely have keys of different kinds.
    by_name: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    first: Vec<Arc<CertifiedKey>>,
}

impl Choice {
    pub(super) fn new(credentials: &[Credential]) -> Self {
        let mut by_name: HashMap<Box<str>, Vec<_>> = HashMap::new();
        for credential in credentials {
            for name in &credential.names {
                by_name.entry(name.clone()).or_default().push(Arc::clone(&credential.key));
            }
        }
        let first = credentials.first().map(|credential| Arc::clone(&credential.key));
        Self { by_name, first: first.into_iter().collect() }
    }

    /// The certificates for a host, in lower case.
    fn find(&self, host: Option<&str>) -> &[Arc<CertifiedKey>] {
        let Some(host) = host else { return &self.first };
        let exact = self.by_name.get(host);
        let wildcard = || self.by_name.get(&*format!("*.{}", host.split_once('.')?.1));
        exact.or_else(wildcard).unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = self.find(client.server_name());
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(client.signature_schemes()).is_some();
        found.iter().find(fits).or_else(|| found.first()).cloned()
    }
}
