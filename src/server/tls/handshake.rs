//! The beginning of a connection (RFC 8446 §2), and how it fails.

use std::{io, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use prometheus_client::encoding::EncodeLabelValue;
use rustls::{AlertDescription, Error, HandshakeKind, pki_types::CertificateDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_parser::parse_x509_certificate;

use super::Tls;

/// How long a client that is turned away may take to read why.
const LINGER: Duration = Duration::from_millis(500);

/// How a handshake ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "they are values of a label")]
pub(super) enum Outcome {
    full,
    resumed,
    not_tls,
    protocol,
    parameters,
    client_certificate,
    refused_by_client,
    closed,
    timeout,
    other,
}

/// Why a client was not served.
#[derive(Debug, thiserror::Error)]
#[error("TLS handshake failed ({outcome:?})")]
pub struct Failure {
    outcome: Outcome,
    source: Option<io::Error>,
}

impl Tls {
    /// Takes a connection.
    ///
    /// # Errors
    /// [`Failure`]: it is over. The client was told what the protocol has to say.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn accept(&self, stream: TcpStream, limit: Duration) -> Result<Box<TlsStream<TcpStream>>, Failure> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.served.load().config));
        let accepted = timeout(limit, acceptor.accept(stream).into_fallible()).await;
        let failure = match accepted {
            Ok(Ok(stream)) => {
                let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                // What was shown at first comes with the ticket, and nobody looks at it again.
                if resumed && has_expired(&stream) {
                    self.metrics.count(Outcome::client_certificate);
                    return Err(Failure { outcome: Outcome::client_certificate, source: None });
                }
                self.metrics.count(if resumed { Outcome::resumed } else { Outcome::full });
                return Ok(Box::new(stream));
            }
            Ok(Err((error, stream))) => {
                self.metrics.count(outcome(&error));
                let failure = Failure { outcome: outcome(&error), source: Some(error) };
                take_leave(stream).await;
                return Err(failure);
            }
            Err(_) => Failure { outcome: Outcome::timeout, source: None },
        };
        self.metrics.count(failure.outcome);
        Err(failure)
    }
}

/// Lets the client read the alert: the system would throw it away together with what was not read here.
async fn take_leave(mut stream: TcpStream) {
    let _ = stream.shutdown().await;
    let mut rest = [0; 1024];
    let _ = timeout(LINGER, async { while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {} }).await;
}

fn outcome(error: &io::Error) -> Outcome {
    let Some(fault) = error.get_ref().and_then(|error| error.downcast_ref::<Error>()) else { return Outcome::closed };
    match fault {
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => Outcome::not_tls,
        Error::NoApplicationProtocol => Outcome::protocol,
        Error::PeerIncompatible(_) => Outcome::parameters,
        Error::NoCertificatesPresented | Error::InvalidCertificate(_) => Outcome::client_certificate,
        Error::AlertReceived(AlertDescription::CloseNotify) => Outcome::closed,
        Error::AlertReceived(_) => Outcome::refused_by_client,
        _ => Outcome::other,
    }
}

/// Whether HTTP/2 was agreed on.
pub(crate) fn speaks_http2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}

/// Whether the certificate that the client showed is not valid any more.
fn has_expired(stream: &TlsStream<TcpStream>) -> bool {
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[CertificateDer<'_>]>::first);
    certificate.is_some_and(|certificate| {
        parse_x509_certificate(certificate).is_ok_and(|(_, parsed)| !parsed.validity().is_valid())
    })
}

/// The certificate that the client showed, as the field `Client-Cert` tells it (RFC 9440 §2.1).
pub(crate) fn client_certificate(stream: &TlsStream<TcpStream>) -> Option<HeaderValue> {
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[CertificateDer<'_>]>::first)?;
    HeaderValue::try_from(format!(":{}:", STANDARD.encode(certificate))).ok()
}
