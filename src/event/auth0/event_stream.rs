//! An Auth0 event stream, as a webhook receives it.
//!
//! 1. Deliveries carry the stream's token as a `Bearer` credential.
//! 2. Whatever a delivery holds, it is answered with a success once it is stored: Auth0 takes a 4xx as final, tries again only
//!    within seconds, and turns a stream off that fails too often.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{StatusCode, request::Parts};
use secrecy::{ExposeSecret as _, SecretString};

use super::user_event::UserEventReader;
use crate::{
    event::{
        receiver::{self, Answer, Receiver, Rejection},
        source::{BatchReader as _, Context, Running},
    },
    token::claims::IssuerName,
};

/// Its settings.
#[derive(Clone, Debug)]
pub struct EventStreamSettings {
    /// The issuer whose users it tells about.
    pub issuer: IssuerName,
    /// The token of deliveries.
    pub token: SecretString,
}

/// Of settings: no comparison with what somebody sent.
impl PartialEq for EventStreamSettings {
    fn eq(&self, other: &Self) -> bool {
        let Self { issuer, token } = self;
        *issuer == other.issuer && token.expose_secret() == other.token.expose_secret()
    }
}

impl EventStreamSettings {
    pub(crate) fn start(self, context: Context) -> Running {
        let authorization = format!("Bearer {}", self.token.expose_secret()).into();
        let reader = UserEventReader { issuer: self.issuer };
        Running::Receives(Arc::new(EventStream { context, authorization, reader }))
    }
}

#[derive(Debug)]
struct EventStream {
    context: Context,
    authorization: SecretString,
    reader: UserEventReader,
}

#[async_trait]
impl Receiver for EventStream {
    fn admit(&self, head: &Parts) -> Result<(), Box<Answer>> {
        let expected = self.authorization.expose_secret().as_bytes();
        if receiver::is_authorized(head, expected) { Ok(()) } else { Err(receiver::unauthorized()) }
    }

    async fn receive(&self, _: Parts, body: Bytes) -> Answer {
        let batch = self.reader.read_all(&body);
        match self.context.pipeline.take(&self.context.origin, &batch).await {
            Ok(_) => receiver::answer(StatusCode::NO_CONTENT),
            Err(error) => self.reject(Rejection::from(error)),
        }
    }
}
