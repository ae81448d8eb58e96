//! Metrics of TLS towards clients.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Credential, handshake::Outcome};

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

/// Named by its file: its hosts may change when it is renewed.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct FileLabel {
    file: String,
}

/// Metrics of TLS towards clients.
#[derive(Default, Debug)]
pub struct TlsMetrics {
    handshakes: Family<OutcomeLabel, Counter>,
    expiry: Family<FileLabel, Gauge>,
    held_back: Gauge,
}

impl TlsMetrics {
    /// Metrics that have counted nothing.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("tls_handshakes", "TLS handshakes of clients by how they ended", self.handshakes.clone());
        registry.register(
            "tls_certificate_expiry_timestamp_seconds",
            "When the certificate in use expires, by its file",
            self.expiry.clone(),
        );
        registry.register(
            "tls_certificate_held_back",
            "1 while the files hold what cannot be used, so that what they held before is served",
            self.held_back.clone(),
        );
    }

    pub(super) fn count(&self, outcome: Outcome) {
        self.handshakes.get_or_create_owned(&OutcomeLabel { outcome }).inc();
    }

    pub(super) fn serve(&self, credentials: &[Credential]) {
        self.expiry.clear();
        for credential in credentials {
            let label = FileLabel { file: credential.file.display().to_string() };
            self.expiry.get_or_create_owned(&label).set(credential.not_after.as_secs());
        }
    }

    pub(super) fn hold_back(&self, held_back: bool) {
        self.held_back.set(i64::from(held_back));
    }
}
