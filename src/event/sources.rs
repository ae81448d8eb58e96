//! All sources of a gateway: from their settings to what runs.

use std::{sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    auth0::{
        event_stream::EventStreamSettings, events::EventsSettings, log_stream::LogStreamSettings, logs::LogsSettings,
        record::RecordReader, user_event::UserEventReader,
    },
    backchannel_logout::BackchannelLogoutSettings,
    health::{Activity, Health, SourceMetrics, SourceReport},
    pipeline::{Origin, Pipeline},
    receiver::Receivers,
    shared_signals::SharedSignalsSettings,
    source::{BatchReader, Context, Failure, Running, SourceName},
    token_revocation::TokenRevocationSettings,
};
use crate::{clock::Timestamp, marker::Source, token::verify::CurrentVerifier};

/// A source, as it is configured.
#[derive(Clone, PartialEq, Debug)]
pub struct SourceSettings {
    /// Its name.
    pub name: SourceName,
    /// After how long without a word it is called silent; `None`: never.
    pub expect_every: Option<Duration>,
    /// The most that one delivery may hold, in bytes, packed or not.
    pub max_body: usize,
    /// What it is.
    pub kind: SourceKind,
}

/// What a source is, and its own settings.
#[derive(Clone, PartialEq, Debug)]
pub enum SourceKind {
    /// The stream of an Auth0 tenant's log.
    Auth0LogStream(LogStreamSettings),
    /// The log of an Auth0 tenant, as it is asked for.
    Auth0Logs(LogsSettings),
    /// An Auth0 event stream.
    Auth0EventStream(EventStreamSettings),
    /// The Auth0 Events API.
    Auth0Events(EventsSettings),
    /// OpenID Connect Back-Channel Logout.
    BackchannelLogout(BackchannelLogoutSettings),
    /// Shared Signals (CAEP, RISC).
    SharedSignals(Box<SharedSignalsSettings>),
    /// Global Token Revocation.
    TokenRevocation(TokenRevocationSettings),
}

impl SourceKind {
    /// What its markers are marked with; its name is the source's `type` in the configuration.
    #[must_use]
    pub const fn source(&self) -> Source {
        match self {
            Self::Auth0LogStream(_) => Source::Auth0LogStream,
            Self::Auth0Logs(_) => Source::Auth0Logs,
            Self::Auth0EventStream(_) => Source::Auth0EventStream,
            Self::Auth0Events(_) => Source::Auth0Events,
            Self::BackchannelLogout(_) => Source::BackchannelLogout,
            Self::SharedSignals(_) => Source::SharedSignals,
            Self::TokenRevocation(_) => Source::TokenRevocation,
        }
    }

    /// Asks the one who would be asked, as far as that disturbs nobody, and says what came of it; `None`: nobody would be.
    ///
    /// # Errors
    /// Why it would come to nothing.
    pub async fn probe(&self) -> Option<Result<&'static str, Failure>> {
        match self {
            Self::Auth0Logs(settings) => Some(settings.probe().await),
            Self::Auth0Events(settings) => Some(settings.probe().await),
            Self::Auth0LogStream(_)
            | Self::Auth0EventStream(_)
            | Self::BackchannelLogout(_)
            | Self::SharedSignals(_)
            | Self::TokenRevocation(_) => None,
        }
    }

    /// What reads its records, where they need no signature to be believed: so that exported ones can be taken again.
    #[must_use]
    pub fn reader(&self) -> Option<Arc<dyn BatchReader>> {
        match self {
            Self::Auth0LogStream(LogStreamSettings { issuer, codes, .. })
            | Self::Auth0Logs(LogsSettings { issuer, codes, .. }) => {
                Some(Arc::new(RecordReader::new(issuer.clone(), codes.clone())))
            }
            Self::Auth0EventStream(EventStreamSettings { issuer, .. })
            | Self::Auth0Events(EventsSettings { issuer, .. }) => {
                Some(Arc::new(UserEventReader { issuer: issuer.clone() }))
            }
            Self::BackchannelLogout(_) | Self::SharedSignals(_) | Self::TokenRevocation(_) => None,
        }
    }
}

/// Settings that no source can be made of.
#[derive(Debug, thiserror::Error)]
#[error("source `{name}` cannot be set up")]
pub struct SourceError {
    /// Which one.
    pub name: SourceName,
    /// Why.
    pub source: Failure,
}

/// All sources of a gateway. Dropped, those that ask stop at once.
#[derive(Debug)]
pub struct Sources {
    receivers: Arc<Receivers>,
    contexts: Vec<Context>,
    metrics: SourceMetrics,
    started: Timestamp,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Sources {
    /// Starts them. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn start(
        settings: Vec<SourceSettings>,
        pipeline: &Pipeline,
        verifier: &CurrentVerifier,
        owner: &Arc<str>,
    ) -> Result<Self, SourceError> {
        let metrics = SourceMetrics::default();
        let (mut receivers, mut contexts, mut tasks) =
            (Receivers::new(pipeline.clock().clone()), Vec::new(), JoinSet::new());
        let stop = CancellationToken::new();
        for SourceSettings { name, expect_every, max_body, kind } in settings {
            let label: Arc<str> = name.as_str().into();
            let source = kind.source();
            let health = Health::new(&label, source.as_str(), expect_every, &metrics);
            let context = Context {
                pipeline: pipeline.clone(),
                origin: Arc::new(Origin::new(label, source, health)),
                verifier: verifier.clone(),
                owner: Arc::clone(owner),
                reader: kind.reader(),
            };
            let running = run(kind, context.clone(), stop.clone());
            let running = running.map_err(|source| SourceError { name: name.clone(), source })?;
            let (receiver, task) = match running {
                Running::Receives(receiver) => (Some(receiver), None),
                Running::Asks(task) => (None, Some(task)),
                Running::Both(receiver, task) => (Some(receiver), Some(task)),
            };
            if let Some(receiver) = receiver {
                receivers.add(receiver, Arc::clone(&context.origin), max_body);
            }
            if let Some(task) = task {
                context.origin.health.set(Activity::Connecting);
                tasks.spawn(task);
            }
            contexts.push(context);
        }
        Ok(Self { receivers: Arc::new(receivers), contexts, metrics, started: pipeline.now(), tasks, stop })
    }

    /// Those that are told by calls.
    #[must_use]
    pub const fn receivers(&self) -> &Arc<Receivers> {
        &self.receivers
    }

    /// Registers their metrics.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// How they are, for those who ask while they run.
    #[must_use]
    pub fn watcher(&self) -> SourceWatcher {
        SourceWatcher { contexts: self.contexts.clone().into(), started: self.started }
    }

    /// Stops those that ask, and resolves when they have.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Looks at the sources of a gateway.
#[derive(Clone, Debug)]
pub struct SourceWatcher {
    contexts: Arc<[Context]>,
    started: Timestamp,
}

impl SourceWatcher {
    /// How each of them is.
    #[must_use]
    pub fn reports(&self) -> Vec<SourceReport> {
        let report = |context: &Context| context.origin.health.report(context.pipeline.now(), self.started);
        self.contexts.iter().map(report).collect()
    }

    /// The source of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Context> {
        self.contexts.iter().find(|context| *context.origin.name == *name)
    }
}

fn run(kind: SourceKind, context: Context, stop: CancellationToken) -> Result<Running, Failure> {
    match kind {
        SourceKind::Auth0LogStream(settings) => Ok(settings.start(context)),
        SourceKind::Auth0Logs(settings) => settings.start(context, stop),
        SourceKind::Auth0EventStream(settings) => Ok(settings.start(context)),
        SourceKind::Auth0Events(settings) => settings.start(context, stop),
        SourceKind::BackchannelLogout(settings) => Ok(settings.start(context)),
        SourceKind::SharedSignals(settings) => settings.start(context, stop),
        SourceKind::TokenRevocation(settings) => settings.start(context),
    }
}
