//! Shared Signals: security event tokens (RFC 8417) of CAEP 1.0 and RISC 1.0, pushed (RFC 8935) or polled (RFC 8936).
//!
//! - [`set`], `keys`, [`fault`]: whether a token is good, and what is wrong with it. `about`: whom it is about. [`mapping`]: what it comes to.
//! - `intake`: the way of a token, however it came. `push`, `poll`: the two ways in.
//! - `transmitter`, `stream`, `notes`: the stream at the transmitter, where the gate looks after it.
//!
//! Every gateway of a fleet takes what is pushed to it, and knows the transmitter's keys. One of them polls and looks after the stream.

mod about;
pub mod fault;
mod intake;
mod keys;
pub mod mapping;
mod notes;
mod poll;
mod push;
mod retry;
pub mod set;
mod stream;
mod transmitter;

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::Uri;
use jsonwebtoken::Algorithm;
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use self::{
    intake::Intake,
    keys::Keys,
    notes::StreamNotes,
    poll::PollSettings,
    push::PushReceiver,
    retry::{Retry, jittered},
    stream::{Manager, StreamSettings},
    transmitter::{Configuration, Transmitter, TransmitterError},
};
pub use self::{mapping::Actions, transmitter::Credential};
use crate::{
    clock::Clock,
    event::{
        health::Activity,
        lead,
        source::{Context, Failure, Running},
        subject::{Opaque, Resolver},
    },
    http_client::{HttpClient, secure},
    token::claims::IssuerName,
};

/// How often the transmitter's configuration is read again.
const REFRESH: Duration = Duration::from_secs(3600);

/// Its settings.
#[derive(Clone, PartialEq, Debug)]
pub struct SharedSignalsSettings {
    /// The issuer whose users it tells about.
    pub issuer: IssuerName,
    /// What the transmitter calls the issuer where it names users, besides its identifiers.
    pub subject_issuers: Box<[Box<str>]>,
    /// The `iss` of its SETs: a URL, from which its configuration is found.
    pub transmitter: Box<str>,
    /// A SET must be for one of these. Never empty.
    pub audiences: Box<[Box<str>]>,
    /// The algorithms that SETs may be signed with. Never empty, and none with a shared secret.
    pub algorithms: Box<[Algorithm]>,
    /// Where its keys are; `None`: where its configuration says.
    pub keys: Option<Uri>,
    /// What opaque ids are.
    pub opaque: Opaque,
    /// What events do.
    pub actions: Actions,
    /// Members of complex subjects that may be left out of account.
    pub ignored_members: Box<[Box<str>]>,
    /// How SETs come.
    pub delivery: Delivery,
    /// How the gate shows who it is when it asks.
    pub credential: Credential,
    /// How often the stream is tried, if the gate looks after it.
    pub verify_every: Option<Duration>,
}

/// How SETs come.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// The transmitter sends each (RFC 8935).
    Push {
        /// The whole value of `Authorization` that it sends with them.
        authorization: Option<SecretString>,
        /// Where it is to send them. Known where the gate looks after the stream.
        endpoint: Option<Uri>,
    },
    /// The gate asks (RFC 8936).
    Poll {
        /// Where; `None`: where the stream says.
        url: Option<Uri>,
        /// The least time between two questions that find nothing.
        every: Duration,
        /// How long an answer may take.
        timeout: Duration,
        /// The most SETs of one answer.
        max_events: usize,
    },
}

/// Of settings: no comparison with what somebody sent.
impl PartialEq for Delivery {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Push { authorization, endpoint }, Self::Push { authorization: secret, endpoint: place }) => {
                endpoint == place
                    && authorization.as_ref().map(ExposeSecret::expose_secret)
                        == secret.as_ref().map(ExposeSecret::expose_secret)
            }
            (
                Self::Poll { url, every, timeout, max_events },
                Self::Poll { url: u, every: e, timeout: t, max_events: m },
            ) => (url, every, timeout, max_events) == (u, e, t, m),
            (Self::Push { .. } | Self::Poll { .. }, _) => false,
        }
    }
}

impl SharedSignalsSettings {
    pub(crate) fn start(self, context: Context, stop: CancellationToken) -> Result<Running, Failure> {
        let name = Arc::clone(&context.origin.name);
        let clock = Clock::System;
        let keys =
            Keys::new(IssuerName::try_from(&*name)?, &self.transmitter, &self.audiences, &self.algorithms, clock);
        if let Some(uri) = &self.keys {
            keys.fetch_from(uri)?;
        }
        let notes = Arc::clone(context.pipeline.notes());
        let resolver = Resolver::new(context.verifier.clone(), Arc::clone(&notes), self.issuer.clone(), self.opaque)
            .with_aliases(self.subject_issuers.clone());
        let is_asked = self.verify_every.is_some() || matches!(self.delivery, Delivery::Poll { .. });
        let stream = self.verify_every.map(|_| StreamNotes::new(notes, &name));
        let intake = Arc::new(Intake {
            context,
            keys,
            resolver,
            opaque: self.opaque,
            actions: self.actions.clone(),
            ignored_members: self.ignored_members.clone(),
            critical_members: ArcSwap::from_pointee(Box::default()),
            stream: stream.clone(),
            trouble: Mutex::default(),
            usual: if is_asked { Activity::Connected } else { Activity::Listening },
        });
        let transmitter = Transmitter::new(HttpClient::new()?, &self.transmitter, self.credential.clone());
        let receiver = match &self.delivery {
            Delivery::Push { authorization, .. } => {
                Some(PushReceiver { intake: Arc::clone(&intake), authorization: authorization.clone() })
            }
            Delivery::Poll { .. } => None,
        };
        let asking = self.ask(intake, transmitter, stream, stop);
        Ok(match receiver {
            Some(receiver) => Running::Both(Arc::new(receiver), asking),
            None => Running::Asks(asking),
        })
    }

    /// Everything that is asked of the transmitter.
    fn ask(
        self,
        intake: Arc<Intake>,
        transmitter: Transmitter,
        stream: Option<StreamNotes>,
        stop: CancellationToken,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (found, configuration) = watch::channel(None);
        let poll_url = watch::Sender::new(match &self.delivery {
            Delivery::Poll { url, .. } => url.clone(),
            Delivery::Push { .. } => None,
        });
        let polling = match &self.delivery {
            Delivery::Poll { every, timeout, max_events, .. } => Some(PollSettings {
                every: *every,
                timeout: *timeout,
                max_events: *max_events,
                max_answer: max_events.saturating_mul(keys::MAX_LENGTH).min(64 << 20),
            }),
            Delivery::Push { .. } => None,
        };
        let manager = self.verify_every.zip(stream).map(|(verify_every, notes)| Manager {
            settings: self.stream_settings(&intake, verify_every),
            notes,
            poll_url: poll_url.clone(),
        });
        Box::pin(async move {
            let discovering = discover(&intake, &transmitter, self.keys.as_ref(), manager.is_some(), found);
            let asks = manager.is_some() || polling.is_some();
            let leading = async {
                if !asks {
                    return;
                }
                let work = async |_: CancellationToken| {
                    let mut configuration = configuration.clone();
                    let managing = async {
                        match &manager {
                            Some(manager) => manager.run(&intake, &transmitter, &mut configuration).await,
                            None => std::future::pending().await,
                        }
                    };
                    let polling = async {
                        let mut urls = poll_url.subscribe();
                        loop {
                            let url = urls.borrow_and_update().clone();
                            let asking = async {
                                match (&polling, url) {
                                    (Some(settings), Some(url)) => {
                                        poll::poll(&intake, &transmitter, &url, settings).await;
                                    }
                                    _ => std::future::pending().await,
                                }
                            };
                            tokio::select! {
                                () = asking => {}
                                changed = urls.changed() => if changed.is_err() { return },
                            }
                        }
                    };
                    tokio::select! {
                        () = managing => {}
                        () = polling => {}
                    }
                };
                intake.context.lead_while(lead::TERM, &stop, work).await;
            };
            // What leads gives its lease back when it is told to stop.
            let _ = tokio::join!(stop.run_until_cancelled(discovering), leading);
        })
    }

    fn stream_settings(&self, intake: &Intake, verify_every: Duration) -> StreamSettings {
        let (push_to, authorization) = match &self.delivery {
            Delivery::Push { endpoint, authorization } => (endpoint.clone(), authorization.clone()),
            Delivery::Poll { .. } => (None, None),
        };
        StreamSettings {
            push_to,
            authorization,
            verify_every,
            audiences: self.audiences.clone(),
            transmitter: self.transmitter.clone(),
            description: format!("Portcullis: {}", intake.context.origin.name),
        }
    }
}

/// Finds out, again and again, where the transmitter's keys and endpoints are, where that is not in the settings.
async fn discover(
    intake: &Intake,
    transmitter: &Transmitter,
    keys: Option<&Uri>,
    is_managed: bool,
    found: watch::Sender<Option<Configuration>>,
) {
    let health = &intake.context.origin.health;
    let mut retry = Retry::default();
    while keys.is_none() || is_managed {
        match configure(intake, transmitter, keys).await {
            Ok(configuration) => {
                found.send_replace(Some(configuration));
                break_in(intake, is_managed).await;
                sleep(jittered(REFRESH)).await;
                retry = Retry::default();
            }
            Err(error) => {
                health.failed(intake.context.pipeline.now(), &error);
                if !intake.keys.are_known() {
                    health.set(Activity::Retrying);
                }
                sleep(retry.wait(error.retry_after())).await;
            }
        }
    }
    break_in(intake, is_managed).await;
}

/// Waits until there are keys; a source that only listens is in order then.
async fn break_in(intake: &Intake, is_managed: bool) {
    while !intake.keys.are_known() {
        sleep(Duration::from_millis(100)).await;
    }
    if !is_managed && intake.usual == Activity::Listening {
        intake.works();
    }
}

async fn configure(
    intake: &Intake,
    transmitter: &Transmitter,
    keys: Option<&Uri>,
) -> Result<Configuration, TransmitterError> {
    let configuration = transmitter.configuration().await?;
    if keys.is_none() {
        let uri = configuration.jwks_uri.as_deref().ok_or(TransmitterError::Lacking { what: "jwks_uri" })?;
        intake.keys.fetch_from(&secure(uri)?).map_err(|_| TransmitterError::Lacking { what: "usable jwks_uri" })?;
    }
    let critical = configuration.critical_subject_members.iter().map(|name| name.as_str().into()).collect();
    intake.critical_members.store(Arc::new(critical));
    Ok(configuration)
}
