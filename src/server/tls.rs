//! TLS towards clients: certificates, which of them a client gets, and what it shows of itself.
//!
//! 1. TLS 1.2 and 1.3. `h2` and `http/1.1` are offered (RFC 7301); a client that negotiates nothing speaks HTTP/1.1.
//! 2. What is served is what the files held when they were last good. A pair that does not belong together, or that is half written,
//!    changes nothing and is told.
//! 3. New connections get what is new. Open ones stay as they are.
//! 4. Tickets (RFC 5077, RFC 8446 §4.6.1) outlive certificates, so that clients resume across a renewal; not those whom clients are
//!    believed by: a change there makes every client prove itself again.

mod choice;
mod credential;
mod handshake;
mod metrics;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(super) use self::handshake::{client_certificate, speaks_http2};
use self::{
    choice::Choice,
    credential::{Digest, read},
};
pub use self::{credential::Credential, handshake::Failure, metrics::TlsMetrics};
use crate::{clock::Timestamp, file_watch::FileWatch};

/// How often files are looked at although nothing told of a change: not every file system tells.
const POLL: Duration = Duration::from_secs(60);

/// The same while what they hold cannot be used: likely the second half is about to be written.
const POLL_FAULTY: Duration = Duration::from_secs(2);

/// What is served, in order of preference.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// `[listener.tls]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsSettings {
    /// Certificates with their keys. The first one is for clients that name no host, or one that no certificate is for. Never empty.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients show certificates.
    pub clients: Option<ClientCertificates>,
}

/// A certificate and its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateFiles {
    /// The certificate and what leads from it to an authority, PEM, the certificate first.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// Certificates of clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientCertificates {
    /// The authorities that are believed, PEM.
    pub authorities: PathBuf,
    /// Whether a client without one is turned away.
    pub required: bool,
}

/// Why a file cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{} {what}", path.display())]
pub struct TlsFault {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong with it, as the rest of a sentence.
    pub what: String,
}

impl TlsFault {
    pub(crate) fn new(path: &Path, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), what: what.into() }
    }
}

/// What connections are served with, as it changes with the files.
#[derive(Debug)]
pub struct Tls {
    served: ArcSwap<Served>,
    /// Held for a change only.
    state: Mutex<State>,
    changed: Notify,
    metrics: Arc<TlsMetrics>,
}

#[derive(Debug)]
struct State {
    settings: TlsSettings,
    /// Why what the files hold is not what is served.
    problem: Option<String>,
}

/// What the files held.
#[derive(Debug)]
struct Served {
    config: Arc<ServerConfig>,
    credentials: Vec<Credential>,
    tickets: Arc<dyn ProducesTickets>,
    files: Digest,
    authorities: Digest,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsFault`]: one of them cannot be used.
    pub fn new(settings: TlsSettings, metrics: Arc<TlsMetrics>) -> Result<Arc<Self>, TlsFault> {
        let served = Served::read(&settings, None)?;
        metrics.serve(&served.credentials);
        Ok(Arc::new(Self {
            served: ArcSwap::from_pointee(served),
            state: Mutex::new(State { settings, problem: None }),
            changed: Notify::new(),
            metrics,
        }))
    }

    /// From now on serves by these settings. With files that cannot be used, nothing changes.
    ///
    /// # Errors
    /// [`TlsFault`]: one of them cannot be used.
    pub fn replace(&self, settings: TlsSettings) -> Result<(), TlsFault> {
        let mut state = self.state();
        let served = Served::read(&settings, Some(&self.served.load()))?;
        self.serve(served);
        *state = State { settings, problem: None };
        self.changed.notify_one();
        Ok(())
    }

    /// Reads the files again, and serves what they hold if it is another and of use.
    fn reload(&self) {
        let mut state = self.state();
        let problem = match Served::read(&state.settings, Some(&self.served.load())) {
            Ok(served) if served.files == self.served.load().files => None,
            Ok(served) => {
                for credential in &served.credentials {
                    tracing::info!(
                        file = %credential.file.display(),
                        expires = %credential.not_after,
                        "certificate is served from now on"
                    );
                }
                self.serve(served);
                None
            }
            Err(fault) => Some(fault.to_string()),
        };
        if let Some(problem) = problem.as_ref().filter(|problem| state.problem.as_ref() != Some(problem)) {
            tracing::error!(problem, "certificate cannot be changed; the one before stays in use");
        }
        self.metrics.hold_back(problem.is_some());
        state.problem = problem;
    }

    fn serve(&self, served: Served) {
        self.metrics.serve(&served.credentials);
        self.metrics.hold_back(false);
        self.served.store(Arc::new(served));
    }

    /// Follows the files until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let mut watch = FileWatch::new(self.state().settings.files());
            loop {
                let reloading = Arc::clone(&self);
                // It reads files, and makes keys of them. The first time, for what changed before somebody watched.
                let _ = tokio::task::spawn_blocking(move || reloading.reload()).await;
                let poll = if self.state().problem.is_some() { POLL_FAULTY } else { POLL };
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.changed.notified() => break,
                    () = watch.changed(poll) => {}
                }
            }
        }
    }

    /// What should be mended, for people.
    #[must_use]
    pub fn troubles(&self, now: Timestamp) -> Vec<String> {
        let problem = self.state().problem.clone();
        let held_back =
            problem.map(|problem| format!("certificate cannot be changed, the one before is in use: {problem}"));
        let served = self.served.load();
        let expired = served.credentials.iter().filter(|credential| credential.not_after <= now).map(|credential| {
            format!("certificate {} has expired on {}", credential.file.display(), credential.not_after)
        });
        held_back.into_iter().chain(expired).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TlsSettings {
    fn files(&self) -> Vec<PathBuf> {
        let pairs = self.certificates.iter().flat_map(|files| [files.certificate.clone(), files.key.clone()]);
        pairs.chain(self.clients.iter().map(|clients| clients.authorities.clone())).collect()
    }
}

impl Served {
    fn read(settings: &TlsSettings, before: Option<&Self>) -> Result<Self, TlsFault> {
        let credentials: Vec<Credential> =
            settings.certificates.iter().map(Credential::read).collect::<Result<_, _>>()?;
        let mut digests: Vec<Digest> = credentials.iter().map(|credential| credential.digest).collect();
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let fault = |path: &Path, error: &dyn std::error::Error| TlsFault::new(path, error.to_string());
        let file = settings.certificates.first().map_or(Path::new(""), |files| &files.certificate);
        let builder = builder.map_err(|error| fault(file, &error))?;
        let (builder, authorities) = match &settings.clients {
            None => (builder.with_no_client_auth(), Digest::default()),
            Some(clients) => {
                let (roots, digest) = read_authorities(&clients.authorities)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider());
                let verifier = if clients.required { verifier } else { verifier.allow_unauthenticated() };
                let verifier = verifier.build().map_err(|error| fault(&clients.authorities, &error))?;
                (builder.with_client_cert_verifier(verifier), digest.and(&[u8::from(clients.required)]))
            }
        };
        digests.push(authorities);
        let tickets = match before.filter(|before| before.authorities == authorities) {
            Some(before) => Arc::clone(&before.tickets),
            None => aws_lc_rs::Ticketer::new().map_err(|error| fault(file, &error))?,
        };
        let mut config = builder.with_cert_resolver(Arc::new(Choice::new(&credentials)));
        config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
        config.ticketer = Arc::clone(&tickets);
        // Tickets do without, and what is kept for each session is memory that clients fill.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config), credentials, tickets, files: Digest::of_all(&digests), authorities })
    }
}

/// The authorities in a file.
///
/// # Errors
/// [`TlsFault`]
pub fn read_authorities(path: &Path) -> Result<(RootCertStore, Digest), TlsFault> {
    let bytes = read(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in credential::certificates(path, &bytes)? {
        roots
            .add(certificate)
            .map_err(|error| TlsFault::new(path, format!("holds a certificate that is no authority's: {error}")))?;
    }
    Ok((roots, Digest::of(&bytes)))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
