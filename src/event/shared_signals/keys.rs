//! The transmitter's keys.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::Uri;
use jsonwebtoken::Algorithm;

use super::{
    fault::Refused,
    set::{MEDIA_TYPE, SecurityEventToken},
};
use crate::{
    clock::{Clock, Timestamp},
    token::{
        claims::IssuerName,
        issuer::{IssuerSettings, KeySource},
        verify::{Refreshing, Unverified, Verifier, VerifierError, VerifierOptions},
    },
};

/// The longest SET that is looked at, in bytes.
pub(super) const MAX_LENGTH: usize = 64 * 1024;

/// The least time between two fetches that unknown keys cause.
const REFETCH_INTERVAL: std::time::Duration = std::time::Duration::from_secs(10);

/// Verifies the SETs of one transmitter, once it is known where its keys are.
#[derive(Debug)]
pub(super) struct Keys {
    name: IssuerName,
    transmitter: Box<str>,
    audiences: Box<[Box<str>]>,
    algorithms: Box<[Algorithm]>,
    clock: Clock,
    current: ArcSwapOption<Current>,
}

/// Its keys are kept fresh as long as it lives.
#[derive(Debug)]
struct Current {
    uri: Uri,
    verifier: Verifier,
    _refreshing: Refreshing,
}

impl Keys {
    /// No keys yet.
    pub(super) fn new(
        name: IssuerName,
        transmitter: &str,
        audiences: &[Box<str>],
        algorithms: &[Algorithm],
        clock: Clock,
    ) -> Self {
        Self {
            name,
            transmitter: transmitter.into(),
            audiences: audiences.into(),
            algorithms: algorithms.into(),
            clock,
            current: ArcSwapOption::empty(),
        }
    }

    /// From now on its keys are at this URL. Must be called within a tokio runtime.
    pub(super) fn fetch_from(&self, uri: &Uri) -> Result<(), VerifierError> {
        if self.current.load().as_ref().is_some_and(|current| current.uri == *uri) {
            return Ok(());
        }
        let settings = IssuerSettings {
            audiences: self.audiences.clone(),
            algorithms: self.algorithms.clone(),
            keys: KeySource::Url(uri.clone()),
            refetch_interval: REFETCH_INTERVAL,
            ..IssuerSettings::new(self.name.clone(), &self.transmitter, "")
        };
        let options =
            VerifierOptions { max_token_length: MAX_LENGTH, clock: self.clock.clone(), ..VerifierOptions::default() };
        let verifier = Verifier::new(vec![settings], options)?;
        let refreshing = verifier.start();
        self.current.store(Some(Arc::new(Current { uri: uri.clone(), verifier, _refreshing: refreshing })));
        Ok(())
    }

    /// Whether there are keys.
    pub(super) fn are_known(&self) -> bool {
        self.current.load().as_ref().is_some_and(|current| current.verifier.is_ready())
    }

    /// Verifies a SET; where the keys at hand do not suffice, asks for newer ones.
    ///
    /// A key counts as unknown only when the transmitter was asked just now: to refuse a SET that is signed with a key that could not
    /// be fetched would lose it.
    pub(super) async fn verify(&self, token: &str) -> Result<SecurityEventToken, Refused> {
        let begun = self.clock.now();
        let current = self.current.load_full().ok_or(Refused::NotReady)?;
        let read = match current.read(token) {
            Err(Unverified::UnknownKey { .. } | Unverified::KeysUnavailable) => {
                current.verifier.refetch_for(&self.name).await;
                current.read(token)
            }
            read => read,
        };
        match read {
            Ok(set) => Ok(set?),
            Err(Unverified::UnknownKey { .. }) if !current.was_fetched_since(begun) => Err(Refused::NotReady),
            Err(unverified) => Err(unverified.into()),
        }
    }
}

impl Current {
    fn read(&self, token: &str) -> Result<Result<SecurityEventToken, super::fault::SetFault>, Unverified> {
        let is_set = |header: &crate::token::compact::Header<'_>| header.is_typ(MEDIA_TYPE);
        self.verifier.verify_signed(token, is_set, |settings, payload| {
            Ok(SecurityEventToken::read(payload, &settings.audiences))
        })
    }

    fn was_fetched_since(&self, time: Timestamp) -> bool {
        let fetched_at = |(_, status): (IssuerName, crate::token::jwks::KeySetStatus)| {
            status.fetched_at.filter(|_| status.last_error.is_none())
        };
        self.verifier.status().into_iter().filter_map(fetched_at).any(|at| at >= time)
    }
}
