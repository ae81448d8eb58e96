//! The stream of an Auth0 tenant's log, as a webhook receives it (`type: "http"`).
//!
//! 1. The `Authorization` of a delivery is, character for character, what the stream was given. There is no signature; so that,
//!    TLS, and the addresses that Auth0 sends from are all there is to go by.
//! 2. Whatever a delivery holds, it is answered with a success once it is stored: Auth0 sends a delivery again until it is taken,
//!    and pauses a stream that fails for days.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header, request::Parts};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use super::record::{Codes, RecordReader};
use crate::{
    event::{
        health::Taken,
        receiver::{self, Answer, Receiver, Rejection},
        source::{BatchReader as _, Context, Running},
    },
    token::claims::IssuerName,
};

/// Its settings.
#[derive(Clone, Debug)]
pub struct LogStreamSettings {
    /// The issuer whose users it tells about.
    pub issuer: IssuerName,
    /// The `Authorization` of deliveries, as a whole.
    pub authorization: SecretString,
    /// What is done about each code.
    pub codes: Codes,
}

/// Of settings: no comparison with what somebody sent.
impl PartialEq for LogStreamSettings {
    fn eq(&self, other: &Self) -> bool {
        let Self { issuer, authorization, codes } = self;
        (issuer, codes) == (&other.issuer, &other.codes)
            && authorization.expose_secret() == other.authorization.expose_secret()
    }
}

impl LogStreamSettings {
    pub(crate) fn start(self, context: Context) -> Running {
        let Self { issuer, authorization, codes } = self;
        let reader = RecordReader::new(issuer, codes);
        Running::Receives(Arc::new(LogStream { context, authorization, reader }))
    }
}

#[derive(Debug)]
struct LogStream {
    context: Context,
    authorization: SecretString,
    reader: RecordReader,
}

/// What became of a delivery, for whoever tries it out.
#[derive(Serialize)]
struct Summary {
    changed: usize,
    unchanged: usize,
    duplicates: usize,
    active: usize,
    left_out: usize,
}

#[async_trait]
impl Receiver for LogStream {
    fn admit(&self, head: &Parts) -> Result<(), Box<Answer>> {
        let expected = self.authorization.expose_secret().as_bytes();
        if receiver::is_authorized(head, expected) { Ok(()) } else { Err(receiver::unauthorized()) }
    }

    async fn receive(&self, _: Parts, body: Bytes) -> Answer {
        let batch = self.reader.read_all(&body);
        match self.context.pipeline.take(&self.context.origin, &batch).await {
            Ok(taken) => summary(&taken),
            Err(error) => self.reject(Rejection::from(error)),
        }
    }
}

fn summary(taken: &Taken) -> Answer {
    let Taken { changed, unchanged, duplicates, active, gaps: left_out } = *taken;
    let summary = Summary { changed, unchanged, duplicates, active, left_out };
    let mut response = receiver::answer(StatusCode::OK);
    if let Ok(body) = serde_json::to_vec(&summary) {
        *response.body_mut() = Bytes::from(body).into();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    response
}
