//! Token verification: published vectors, attacks, claims, and key sets over real sockets.

mod attacks;
mod claims;
mod key_sets;
mod properties;
mod vectors;

use std::io::Write;

use portcullis::token::{
    TokenFault,
    issuer::{IssuerSettings, KeySource},
    verify::{Unverified, VerifiedToken, Verifier, VerifierOptions},
};
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::support::keys::TestIssuer;

/// When the tokens of these tests are issued. Nothing here asks what time it is.
const NOW: i64 = 1_763_700_000;

/// A verifier that has the keys of one issuer, read from a file.
struct Trusting {
    verifier: Verifier,
    _file: NamedTempFile,
}

impl Trusting {
    async fn in_keys(jwks: &Value, settings: impl FnOnce(KeySource) -> IssuerSettings) -> Self {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(jwks.to_string().as_bytes()).unwrap();
        let settings = settings(KeySource::File(file.path().to_owned()));
        let verifier = Verifier::new(vec![settings], VerifierOptions::default()).unwrap();
        for (issuer, loaded) in verifier.load().await {
            loaded.unwrap_or_else(|error| panic!("keys of {issuer}: {error}"));
        }
        Self { verifier, _file: file }
    }

    async fn issuer(issuer: &TestIssuer) -> Self {
        Self::in_keys(&issuer.jwks(), |keys| issuer.settings("main", keys)).await
    }

    fn verify(&self, token: &str) -> Result<VerifiedToken, Unverified> {
        self.verifier.verify(token)
    }

    #[track_caller]
    fn assert_fault(&self, token: &str, fault: TokenFault) {
        match self.verify(token) {
            Err(Unverified::Fault(found)) => assert_eq!(found, fault),
            other => panic!("expected {fault:?}, not {other:?}"),
        }
    }
}
