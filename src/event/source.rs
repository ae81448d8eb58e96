//! What a source is made of, and what it works with.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::{
    health::Activity,
    lead::Lead,
    pipeline::{Origin, Pipeline},
    receiver::Receiver,
    session_event::Batch,
};
use crate::token::verify::CurrentVerifier;

/// The name that the configuration gives a source: a part of its URL, of metrics and of keys in the store.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceName(Arc<str>);

/// Not usable as the name of a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("may hold only a-z, 0-9, `-` and `_`, 32 at most")]
pub struct InvalidSourceName;

impl SourceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for SourceName {
    type Error = InvalidSourceName;

    fn try_from(text: &str) -> Result<Self, InvalidSourceName> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if text.is_empty() || text.len() > 32 || !text.bytes().all(allowed) {
            return Err(InvalidSourceName);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What a source does while the gate runs.
#[expect(missing_debug_implementations, reason = "a future")]
pub enum Running {
    /// It waits for calls.
    Receives(Arc<dyn Receiver>),
    /// It asks.
    Asks(BoxFuture<'static, ()>),
    /// Both.
    Both(Arc<dyn Receiver>, BoxFuture<'static, ()>),
}

/// Why a source cannot be started.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a source works with.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where its events go.
    pub pipeline: Pipeline,
    /// Who it is.
    pub origin: Arc<Origin>,
    /// Whose keys verify what issuers sign.
    pub verifier: CurrentVerifier,
    /// Who this gateway is in the fleet.
    pub owner: Arc<str>,
    /// What reads exported records.
    pub reader: Option<Arc<dyn BatchReader>>,
}

impl Context {
    /// Does `work` while this gateway is the one that asks the source; another takes over when it was not heard of for `term`.
    pub async fn lead_while<F: Future<Output = ()>>(
        &self,
        term: Duration,
        stop: &CancellationToken,
        work: impl Fn(CancellationToken) -> F,
    ) {
        let lead = Lead { name: format!("source:{}", self.origin.name).into(), owner: Arc::clone(&self.owner), term };
        let standby = || self.origin.health.set(Activity::Standby);
        lead.run(&**self.pipeline.notes(), stop, standby, work).await;
    }
}

/// Reads what a source is sent, or what was exported of it.
pub trait BatchReader: Send + Sync + fmt::Debug {
    /// All records of a body: those that cannot be read too.
    fn read_all(&self, body: &[u8]) -> Batch;
}
