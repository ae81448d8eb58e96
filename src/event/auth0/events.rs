//! The Auth0 Events API: the events of an event stream over server-sent events, asked for by the gate.
//!
//! 1. One gateway of a fleet is connected at a time. The offset is a note in the store, and moves only when what came before it is
//!    durable; whoever connects next goes on from there.
//! 2. The tenant closes the stream every few minutes: that is no failure, and the gate connects again at once; after a stream that
//!    was shorter than the tenant's `retry`, when that is over.
//! 3. A stream that says nothing whole for `idle_timeout`, not even a heartbeat, is given up.
//! 4. An offset that the tenant does not keep any more is replaced by a time, well before the last that was heard.
//! 5. An event that cannot be read is counted, and passed over: it would come again for ever.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    bookmark::Bookmark,
    sse::{self, Item, Parser},
    user_event::UserEventReader,
};
use crate::{
    clock::{Clock, Timestamp},
    event::{
        Batch, Gap, GapReason,
        health::{Activity, Health},
        source::{Context, Failure, Running},
    },
    http_client::HttpClient,
    management::{
        pace::backoff,
        tenant::{Tenant, TenantError, TenantSettings},
    },
    store::StoreError,
    token::{claims::IssuerName, jwks::jittered},
};

/// What is asked for: nothing else ends a session.
const TARGET: &str = "/api/v2/events?event_type=user.updated&event_type=user.deleted";

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The longest event: a user with all metadata, before and after, has room in it.
const MAX_EVENT: usize = 2 * 1024 * 1024;

/// The longest offset; Auth0's own limit.
const MAX_OFFSET: usize = 1024;

/// How far before the last event to go back when its offset is no longer kept. What comes twice is known.
const MARGIN: Duration = Duration::from_secs(3600);

/// How often it is written down that there is nothing new, in milliseconds.
const WRITTEN_EVERY: i64 = 600_000;

/// How far apart streams begin at least, unless the tenant says otherwise.
const RETRY: Duration = Duration::from_secs(2);

/// How long to wait when it takes somebody to mend something.
const SLOWLY: Duration = Duration::from_secs(60);

/// Its settings.
#[derive(Clone, PartialEq, Debug)]
pub struct EventsSettings {
    /// The issuer whose users it tells about.
    pub issuer: IssuerName,
    /// Whose events they are.
    pub tenant: TenantSettings,
    /// How far back to begin.
    pub start: Duration,
    /// How long a stream may say nothing.
    pub idle_timeout: Duration,
    /// After how long another gateway takes over from one that died.
    pub lease: Duration,
}

impl EventsSettings {
    /// Whether the tenant takes the credentials, for a check of the settings. The stream itself is not opened: a plan may allow no other
    /// beside that of a running gateway.
    pub(crate) async fn probe(&self) -> Result<&'static str, Failure> {
        Tenant::new(self.tenant.clone(), HttpClient::new()?, Clock::System).log_in().await?;
        Ok("the tenant takes the credentials; whether the events may be read shows when the stream is opened")
    }

    pub(crate) fn start(self, context: Context, stop: CancellationToken) -> Result<Running, Failure> {
        let term = self.lease;
        let listener = Listener {
            tenant: Tenant::new(self.tenant, HttpClient::new()?, Clock::System),
            reader: UserEventReader { issuer: self.issuer },
            start: self.start,
            idle_timeout: self.idle_timeout,
            note: format!("offset:{}", context.origin.name).into(),
            context,
        };
        Ok(Running::Asks(Box::pin(async move {
            listener.context.lead_while(term, &stop, |_| listener.run()).await;
        })))
    }
}

/// Why a stream ended, or did not begin.
#[derive(Debug, thiserror::Error)]
enum EventsError {
    #[error("the events cannot be read")]
    Tenant(#[from] TenantError),
    #[error("the tenant does not keep the offset any more; events are read again from {since} on")]
    OffsetLost { since: Timestamp, source: TenantError },
    #[error("the offset in the store is not readable; events are read from {since} on")]
    BadNote { since: Timestamp },
    #[error("the tenant answers with something else than an event stream")]
    NotAStream,
    #[error("the stream broke")]
    Broken(#[source] hyper::Error),
    #[error("the stream said nothing for {} s", after.as_secs_f32())]
    Silent { after: Duration },
    #[error("the tenant ended the stream with an error")]
    Ended,
    #[error("the offset cannot be kept")]
    Store(#[from] StoreError),
    /// The pipeline has told of it.
    #[error("what was read cannot be stored")]
    NotTaken(#[source] StoreError),
}

/// Listens.
#[derive(Debug)]
struct Listener {
    context: Context,
    tenant: Tenant,
    reader: UserEventReader,
    start: Duration,
    idle_timeout: Duration,
    note: Arc<str>,
}

/// What is kept in the store.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
struct Kept {
    /// Up to where the stream was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offset: Option<String>,
    /// Up to when it was read, in milliseconds; where there is no offset, from when on it is to be.
    at: i64,
}

/// Where a gateway is that listens.
struct Reading {
    bookmark: Bookmark<Kept>,
    /// Whether this stream brought anything on.
    went_on: bool,
    /// No two streams begin within it.
    retry: Duration,
}

/// How a stream ended.
enum End {
    /// In order.
    Closed,
    /// Another gateway went on in the meantime.
    Overtaken,
}

impl Listener {
    fn health(&self) -> &Health {
        &self.context.origin.health
    }

    async fn run(&self) {
        let mut failures = 0;
        loop {
            self.health().set(Activity::Connecting);
            let begun = Instant::now();
            let (end, reading) = match self.load().await {
                Ok(mut reading) => (self.listen(&mut reading).await, Some(reading)),
                Err(error) => (Err(error), None),
            };
            let went_on = reading.as_ref().is_some_and(|reading| reading.went_on);
            if went_on {
                failures = 0;
            }
            let pause = match end {
                Ok(End::Overtaken) => return,
                Ok(End::Closed) => reading.map_or(RETRY, |reading| reading.retry).saturating_sub(begun.elapsed()),
                Err(error) => self.failed(&error, failures),
            };
            failures = failures.saturating_add(1);
            sleep(pause).await;
        }
    }

    /// Tells of it; how long to wait.
    fn failed(&self, error: &EventsError, failures: u32) -> Duration {
        let now = self.context.pipeline.now();
        if !matches!(error, EventsError::NotTaken(_)) {
            self.health().failed(now, error);
        }
        self.health().set(Activity::Retrying);
        match error {
            // Another may have the one stream that the tenant allows: that does not end when the limit is filled up.
            EventsError::Tenant(TenantError::RateLimited { until }) => {
                until.since(now).min(SLOWLY).max(backoff(failures))
            }
            EventsError::Tenant(error) if error.is_lasting() || error.is_final() => jittered(SLOWLY),
            _ => backoff(failures),
        }
    }

    async fn load(&self) -> Result<Reading, EventsError> {
        let since = self.beginning();
        let fresh = Kept { offset: None, at: since.as_millis() };
        let bookmark = Bookmark::load(self.context.pipeline.notes(), &self.note, fresh).await?;
        let bookmark = bookmark.ok_or(EventsError::BadNote { since })?;
        Ok(Reading { bookmark, went_on: false, retry: RETRY })
    }

    fn beginning(&self) -> Timestamp {
        self.context.pipeline.now().minus(self.start)
    }

    /// Listens to one stream.
    async fn listen(&self, reading: &mut Reading) -> Result<End, EventsError> {
        let response = match self.connect(&reading.bookmark.kept).await {
            Ok(response) => response,
            Err(error) if is_lost(&error) => return self.begin_anew(reading, error).await,
            Err(error) => return Err(error.into()),
        };
        if !is_event_stream(&response) {
            return Err(EventsError::NotAStream);
        }
        self.health().received(self.context.pipeline.now());
        self.health().set(Activity::Connected);
        let mut body = response.into_body();
        let mut parser = Parser::new(MAX_EVENT);
        let mut heard = Instant::now();
        loop {
            // Bytes alone are no sign of life: a line that never ends brings nothing on.
            let frame = match timeout_at(heard + self.idle_timeout, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Err(EventsError::Broken(error)),
                Ok(None) => return Ok(End::Closed),
                Err(_) => return Err(EventsError::Silent { after: self.idle_timeout }),
            };
            let Ok(data) = frame.into_data() else { continue };
            let items = parser.push(&data);
            if items.is_empty() {
                continue;
            }
            if !self.take(items, reading).await? {
                return Ok(End::Overtaken);
            }
            heard = Instant::now();
            self.health().received(self.context.pipeline.now());
        }
    }

    async fn connect(&self, kept: &Kept) -> Result<Response<Incoming>, TenantError> {
        let accept = (header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        let offset = kept.offset.as_deref().and_then(|offset| HeaderValue::from_str(offset).ok());
        if let Some(offset) = offset {
            return self.tenant.open(TARGET, &[accept, (LAST_EVENT_ID, offset)]).await;
        }
        let since = Timestamp::from_millis(kept.at).to_string();
        let since = utf8_percent_encode(&since, NON_ALPHANUMERIC);
        self.tenant.open(&format!("{TARGET}&from_timestamp={since}"), &[accept]).await
    }

    async fn begin_anew(&self, reading: &mut Reading, error: TenantError) -> Result<End, EventsError> {
        let heard = Timestamp::from_millis(reading.bookmark.kept.at);
        let since = match reading.bookmark.kept.offset {
            Some(_) => heard.minus(MARGIN),
            // Older than what is kept, however much that is.
            None if heard < self.beginning() => self.beginning(),
            None => return Err(error.into()),
        };
        let kept = Kept { offset: None, at: since.as_millis() };
        if !reading.bookmark.replace(kept).await? {
            return Ok(End::Overtaken);
        }
        Err(EventsError::OffsetLost { since, source: error })
    }

    /// Takes what came together; whether nobody else went on.
    async fn take(&self, items: Vec<Item>, reading: &mut Reading) -> Result<bool, EventsError> {
        let now = self.context.pipeline.now();
        let mut batch = Batch::default();
        let mut kept = reading.bookmark.kept.clone();
        let mut is_over = false;
        for item in items {
            let offset = match item {
                Item::Comment => continue,
                Item::Retry(retry) => {
                    reading.retry = retry.clamp(Duration::from_millis(100), SLOWLY);
                    continue;
                }
                Item::TooLong(id) => {
                    batch.push(Err(Gap::new(GapReason::Malformed, "too_long")));
                    id
                }
                Item::Event(event) if &*event.kind == "error" => {
                    is_over = true;
                    break;
                }
                Item::Event(event) if &*event.kind == "offset-only" => {
                    kept.heard(now);
                    event.id.clone().or_else(|| Message::read(&event).offset)
                }
                Item::Event(event) => {
                    let message = Message::read(&event);
                    if let Some(at) = message.time() {
                        kept.heard(at.min(now));
                    }
                    batch.push(self.reader.read(&message.event()));
                    event.id.or(message.offset)
                }
            };
            reading.went_on = true;
            // An offset that cannot be sent back is none.
            kept.offset = offset.map(String::from).filter(|offset| is_offset(offset)).or(kept.offset);
        }
        if !batch.is_empty() {
            self.context.pipeline.take(&self.context.origin, &batch).await.map_err(EventsError::NotTaken)?;
        }
        let is_later = kept.at.saturating_sub(reading.bookmark.kept.at) >= WRITTEN_EVERY;
        if (kept.offset != reading.bookmark.kept.offset || is_later) && !reading.bookmark.replace(kept).await? {
            return Ok(false);
        }
        if is_over { Err(EventsError::Ended) } else { Ok(true) }
    }
}

impl Kept {
    fn heard(&mut self, at: Timestamp) {
        self.at = self.at.max(at.as_millis());
    }
}

/// Whether the tenant says that it does not know the offset, or not any more.
fn is_lost(error: &TenantError) -> bool {
    let is_bad = |status: &StatusCode| *status == StatusCode::BAD_REQUEST;
    matches!(error, TenantError::Gone) || matches!(error, TenantError::Status { status, .. } if is_bad(status))
}

fn is_event_stream(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.and_then(|kind| kind.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

fn is_offset(offset: &str) -> bool {
    offset.len() <= MAX_OFFSET && offset.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The data of an event.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Message {
    offset: Option<Box<str>>,
    event: Value,
}

impl Message {
    fn read(event: &sse::Event) -> Self {
        serde_json::from_str(&event.data).unwrap_or_default()
    }

    fn time(&self) -> Option<Timestamp> {
        self.event.get("time")?.as_str()?.parse().ok()
    }

    fn event(&self) -> Vec<u8> {
        self.event.to_string().into_bytes()
    }
}
