//! The stream at the transmitter: found or made, held to the settings, and tried now and then (Shared Signals Framework 1.0).
//!
//! 1. A stream that is pushed to this source, or polled with its audience or description, is taken; only where there is none is one
//!    made. What is not asked for as it should be is changed (`PATCH`).
//! 2. `iss` must be the transmitter and `aud` name this gate, or no SET of it would be taken. That is for somebody to mend, and the
//!    source says so.
//! 3. A verification event is asked for at the start and every `verify_every`, with a random `state` that must come back; not more often
//!    than the transmitter allows. One that does not come back is a failure.
//! 4. The status is asked for more often than the stream may be left alone (`inactivity_timeout`). While it is not `enabled` the gate is
//!    blind, and the source says so.

use std::{collections::BTreeSet, time::Duration};

use http::{Method, StatusCode, Uri};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    intake::{Intake, shown},
    notes::StreamNotes,
    retry::Retry,
    transmitter::{Configuration, Transmitter, TransmitterError, parse},
};
use crate::{
    event::health::Activity,
    http_client::{HttpError, secure},
    store::StoreError,
};

const PUSH: &str = "urn:ietf:rfc:8935";
const POLL: &str = "urn:ietf:rfc:8936";

/// How long a verification event may take.
const VERIFICATION: Duration = Duration::from_secs(60);

/// How often it is looked whether it came, and whether another gateway was told of the stream's status.
const LOOK: Duration = Duration::from_secs(1);

/// How often the status is asked for at least.
const STATUS: Duration = Duration::from_secs(300);

/// What the stream is to be.
#[derive(Clone, Debug)]
pub(super) struct StreamSettings {
    /// Where SETs are to be pushed; `None`: they are polled.
    pub(super) push_to: Option<Uri>,
    /// What the transmitter is to send as `Authorization` with them.
    pub(super) authorization: Option<SecretString>,
    /// How often the stream is tried.
    pub(super) verify_every: Duration,
    pub(super) audiences: Box<[Box<str>]>,
    pub(super) transmitter: Box<str>,
    /// For people at the transmitter.
    pub(super) description: String,
}

/// Why the stream is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Transmitter(#[from] TransmitterError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the transmitter has no {what}, so the stream cannot be managed here")]
    Lacking { what: &'static str },
    #[error("the transmitter does not deliver by {method}")]
    Method { method: &'static str },
    #[error("stream is for `{aud}`: name that in `audiences`")]
    Audience { aud: String },
    #[error("stream has the issuer `{iss}`, and its events would be refused: name that as `transmitter`")]
    Issuer { iss: String },
    #[error("stream has no URL to poll")]
    NoUrl,
    #[error("verification event did not come within {} s", VERIFICATION.as_secs())]
    Unverified,
    #[error("no randomness")]
    Random,
}

impl StreamError {
    /// Whether trying again is of no use before somebody changes something.
    const fn is_for_people(&self) -> bool {
        matches!(
            self,
            Self::Lacking { .. } | Self::Method { .. } | Self::Audience { .. } | Self::Issuer { .. } | Self::NoUrl
        )
    }
}

impl From<HttpError> for StreamError {
    fn from(error: HttpError) -> Self {
        Self::Transmitter(error.into())
    }
}

/// A stream as the transmitter tells it.
#[derive(Clone, Deserialize, Debug)]
struct Stream {
    #[serde(rename = "stream_id")]
    id: String,
    #[serde(default)]
    iss: String,
    #[serde(default)]
    aud: Audience,
    #[serde(default)]
    delivery: Delivery,
    description: Option<String>,
    #[serde(default)]
    events_requested: BTreeSet<String>,
    events_delivered: Option<BTreeSet<String>>,
    min_verification_interval: Option<u64>,
    inactivity_timeout: Option<u64>,
}

#[derive(Clone, Default, Deserialize, Debug)]
struct Delivery {
    #[serde(default)]
    method: String,
    endpoint_url: Option<String>,
    /// Some transmitters keep it to themselves.
    authorization_header: Option<SecretString>,
}

#[derive(Clone, Deserialize, Debug)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Audience {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(several) => several,
        }
    }
}

/// One stream, or all there are: transmitters answer either.
#[derive(Deserialize)]
#[serde(untagged)]
enum Found {
    Several(Vec<Stream>),
    One(Box<Stream>),
}

#[derive(Deserialize)]
struct Status {
    status: String,
    reason: Option<String>,
}

/// Looks after the stream of a source.
#[derive(Debug)]
pub(super) struct Manager {
    pub(super) settings: StreamSettings,
    pub(super) notes: StreamNotes,
    /// Where to poll.
    pub(super) poll_url: watch::Sender<Option<Uri>>,
}

impl Manager {
    /// Looks after it until it is dropped.
    pub(super) async fn run(
        &self,
        intake: &Intake,
        transmitter: &Transmitter,
        configuration: &mut watch::Receiver<Option<Configuration>>,
    ) {
        let health = &intake.context.origin.health;
        let mut retry = Retry::default();
        loop {
            let Ok(known) = configuration.wait_for(Option::is_some).await.map(|known| known.clone()) else { return };
            let Some(known) = known else { continue };
            let Err(error) = self.manage(intake, transmitter, &known).await;
            health.failed(intake.context.pipeline.now(), &error);
            let asked = match &error {
                StreamError::Transmitter(error) => error.retry_after(),
                _ => None,
            };
            health.set(if error.is_for_people() { Activity::Stopped(error.to_string()) } else { Activity::Retrying });
            sleep(retry.wait(asked)).await;
        }
    }

    async fn manage(
        &self,
        intake: &Intake,
        transmitter: &Transmitter,
        configuration: &Configuration,
    ) -> Result<std::convert::Infallible, StreamError> {
        let endpoint = configuration.streams_endpoint.as_deref();
        let endpoint = secure(endpoint.ok_or(StreamError::Lacking { what: "configuration_endpoint" })?)?;
        let method = self.method();
        let methods = &configuration.delivery_methods_supported;
        if !methods.is_empty() && !methods.iter().any(|each| each == method) {
            return Err(StreamError::Method { method });
        }
        let stream = self.find_or_make(intake, transmitter, &endpoint).await?;
        if self.settings.push_to.is_none() {
            let url = secure(stream.delivery.endpoint_url.as_deref().ok_or(StreamError::NoUrl)?)?;
            self.poll_url.send_if_modified(|known| {
                let is_new = known.as_ref() != Some(&url);
                *known = Some(url);
                is_new
            });
        }
        intake.works();
        tracing::info!(source.name = %intake.context.origin.name, stream.id = shown(&stream.id), "stream is set up");
        self.watch(intake, transmitter, configuration, &stream).await
    }

    fn method(&self) -> &'static str {
        if self.settings.push_to.is_some() { PUSH } else { POLL }
    }

    async fn find_or_make(
        &self,
        intake: &Intake,
        transmitter: &Transmitter,
        endpoint: &Uri,
    ) -> Result<Stream, StreamError> {
        let wanted: BTreeSet<String> = intake.actions.wanted().map(str::to_owned).collect();
        let existing = match transmitter.call(Method::GET, endpoint, None).await {
            Ok(answer) if answer.body().is_empty() => Vec::new(),
            Ok(answer) => match parse(endpoint, &answer, "a list of streams")? {
                Found::Several(streams) => streams,
                Found::One(stream) => vec![*stream],
            },
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let stream = match existing.into_iter().find(|stream| self.is_ours(stream)) {
            None => {
                let body = self.request(&wanted);
                let answer = transmitter.call(Method::POST, endpoint, Some(&body)).await?;
                parse(endpoint, &answer, "a stream")?
            }
            Some(stream) if wanted.is_subset(&stream.events_requested) && self.is_authorized(&stream) => stream,
            Some(stream) => {
                let mut body = self.request(&wanted);
                body["stream_id"] = json!(stream.id);
                if self.settings.push_to.is_none() {
                    // Where to poll is the transmitter's to say.
                    body.as_object_mut().map(|body| body.remove("delivery"));
                }
                let answer = transmitter.call(Method::PATCH, endpoint, Some(&body)).await?;
                if answer.status() == StatusCode::ACCEPTED { stream } else { parse(endpoint, &answer, "a stream")? }
            }
        };
        self.check(&stream)?;
        if let Some(delivered) = &stream.events_delivered {
            let missing: Vec<_> = wanted.iter().filter(|uri| !delivered.contains(*uri)).map(String::as_str).collect();
            if !missing.is_empty() {
                let missing = missing.join(" ");
                tracing::warn!(source.name = %intake.context.origin.name, missing, "stream does not deliver all events that were asked for");
            }
        }
        Ok(stream)
    }

    /// Whether it is the one of this source, if only by what it was made with: its audience may be another than the settings say.
    fn is_ours(&self, stream: &Stream) -> bool {
        if stream.delivery.method != self.method() {
            return false;
        }
        match &self.settings.push_to {
            Some(ours) => {
                let theirs = stream.delivery.endpoint_url.as_deref().and_then(|url| url.parse::<Uri>().ok());
                theirs.is_some_and(|theirs| theirs == *ours)
            }
            None => self.is_for_us(stream) || stream.description.as_ref() == Some(&self.settings.description),
        }
    }

    /// Whether SETs come with what the settings say, as far as the transmitter tells.
    fn is_authorized(&self, stream: &Stream) -> bool {
        let theirs = stream.delivery.authorization_header.as_ref().map(SecretString::expose_secret);
        let ours = self.settings.authorization.as_ref().map(SecretString::expose_secret);
        ours.is_none() || ours == theirs
    }

    fn is_for_us(&self, stream: &Stream) -> bool {
        stream.aud.all().iter().any(|aud| self.settings.audiences.iter().any(|ours| **ours == **aud))
    }

    /// What a stream is asked for with.
    fn request(&self, wanted: &BTreeSet<String>) -> Value {
        let mut delivery = json!({ "method": self.method() });
        if let Some(url) = &self.settings.push_to {
            delivery["endpoint_url"] = json!(url.to_string());
            if let Some(authorization) = &self.settings.authorization {
                delivery["authorization_header"] = json!(authorization.expose_secret());
            }
        }
        json!({ "delivery": delivery, "events_requested": wanted, "description": self.settings.description })
    }

    fn check(&self, stream: &Stream) -> Result<(), StreamError> {
        if *stream.iss != *self.settings.transmitter {
            return Err(StreamError::Issuer { iss: shown(&stream.iss) });
        }
        if self.is_for_us(stream) {
            return Ok(());
        }
        Err(StreamError::Audience { aud: shown(&stream.aud.all().join("`, `")) })
    }

    /// Asks for verification events and the status, again and again.
    async fn watch(
        &self,
        intake: &Intake,
        transmitter: &Transmitter,
        configuration: &Configuration,
        stream: &Stream,
    ) -> Result<std::convert::Infallible, StreamError> {
        let endpoint = |url: Option<&String>| url.map(|url| secure(url)).transpose();
        let verification = endpoint(configuration.verification_endpoint.as_ref())?;
        let status = endpoint(configuration.status_endpoint.as_ref())?;
        let alone = stream.inactivity_timeout.map_or(STATUS, |seconds| Duration::from_secs(seconds) / 2);
        let status_every = alone.clamp(Duration::from_secs(1), STATUS);
        let least = Duration::from_secs(stream.min_verification_interval.unwrap_or(0));
        let verify_every = self.settings.verify_every.max(least);
        let (mut next_status, mut next_verification) = (Instant::now(), Instant::now());
        let mut told = None;
        loop {
            if Instant::now() >= next_status {
                next_status += status_every;
                match &status {
                    Some(endpoint) => self.ask_status(intake, transmitter, endpoint, stream).await?,
                    // Whatever is asked shows that somebody is there.
                    None => drop(transmitter.call(Method::GET, &with_stream(configuration, stream)?, None).await?),
                }
                intake.context.origin.health.received(intake.context.pipeline.now());
            }
            if let Some(endpoint) = &verification
                && Instant::now() >= next_verification
            {
                next_verification = Instant::now() + verify_every;
                match self.verify(intake, transmitter, endpoint, stream).await {
                    Err(StreamError::Transmitter(error)) if error.status() == Some(StatusCode::TOO_MANY_REQUESTS) => {
                        let wait = error.retry_after().unwrap_or_default().max(least).max(LOOK);
                        next_verification = Instant::now() + wait;
                    }
                    Err(error @ StreamError::Unverified) => {
                        intake.context.origin.health.failed(intake.context.pipeline.now(), &error);
                        next_verification = Instant::now() + verify_every.min(least.max(VERIFICATION));
                    }
                    verified => verified?,
                }
            }
            // What another gateway was told by push.
            let heard = self.notes.status().await?;
            if heard != told {
                if let Some((status, reason)) = &heard {
                    intake.has_status(status, reason.as_deref());
                }
                told = heard;
            }
            sleep_until((Instant::now() + LOOK).min(next_status)).await;
        }
    }

    async fn ask_status(
        &self,
        intake: &Intake,
        transmitter: &Transmitter,
        endpoint: &Uri,
        stream: &Stream,
    ) -> Result<(), StreamError> {
        let uri = with_query(endpoint, &stream.id)?;
        let answer = transmitter.call(Method::GET, &uri, None).await?;
        let status: Status = parse(&uri, &answer, "the status of a stream")?;
        intake.has_status(&status.status, status.reason.as_deref());
        Ok(())
    }

    /// Asks for a verification event, and waits for it.
    async fn verify(
        &self,
        intake: &Intake,
        transmitter: &Transmitter,
        endpoint: &Uri,
        stream: &Stream,
    ) -> Result<(), StreamError> {
        let state = random_state()?;
        // Before it is asked for: the event may be here sooner than the answer.
        self.notes.expect(&state).await?;
        let body = json!({ "stream_id": stream.id, "state": state });
        transmitter.call(Method::POST, endpoint, Some(&body)).await?;
        let until = Instant::now() + VERIFICATION;
        while Instant::now() < until {
            if self.notes.is_verified(&state).await? {
                tracing::debug!(source.name = %intake.context.origin.name, "stream is verified");
                return Ok(());
            }
            sleep(LOOK / 4).await;
        }
        Err(StreamError::Unverified)
    }
}

fn with_stream(configuration: &Configuration, stream: &Stream) -> Result<Uri, StreamError> {
    let endpoint = configuration.streams_endpoint.as_deref();
    with_query(&secure(endpoint.ok_or(StreamError::Lacking { what: "configuration_endpoint" })?)?, &stream.id)
}

fn with_query(endpoint: &Uri, stream: &str) -> Result<Uri, StreamError> {
    let id = percent_encoding::utf8_percent_encode(stream, percent_encoding::NON_ALPHANUMERIC);
    let separator = if endpoint.query().is_some() { '&' } else { '?' };
    Ok(secure(&format!("{endpoint}{separator}stream_id={id}"))?)
}

fn random_state() -> Result<String, StreamError> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| StreamError::Random)?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_streams_are_read() {
        let stream: Stream =
            serde_json::from_str(include_str!("../../../tests/fixtures/ssf/stream-created.json")).unwrap();
        assert_eq!((&*stream.id, &*stream.iss), ("f67e39a0a4d34d56b3aa1bc4cff0069f", "https://tr.example.com"));
        assert_eq!(stream.aud.all(), ["https://receiver.example.com/web", "https://receiver.example.com/mobile"]);
        assert_eq!(stream.delivery.method, PUSH);
        let status: Status =
            serde_json::from_str(include_str!("../../../tests/fixtures/ssf/stream-status.json")).unwrap();
        assert_eq!((&*status.status, status.reason.as_deref()), ("paused", Some("SYSTEM_DOWN_FOR_MAINTENANCE")));
    }

    #[test]
    fn ids_of_streams_are_encoded() {
        let endpoint = "https://tr.example/stream".parse().unwrap();
        assert_eq!(with_query(&endpoint, "a&b=c").unwrap(), "https://tr.example/stream?stream_id=a%26b%3Dc");
    }
}
