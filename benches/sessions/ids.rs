//! Ids as issuers and platforms make them: of nine subjects in ten one session, of the tenth three.

use std::{sync::Arc, time::Duration};

use portcullis::{
    clock::Timestamp,
    session::SessionKey,
    store::sessions::Opening,
    token::claims::{ClientId, InvalidId, IssuerName, SessionId, Subject},
};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// In each group of sessions, and the subjects that they are of.
const SESSIONS: u64 = 12;
const SUBJECTS: u64 = 10;

/// How long sessions are kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Makes openings of sessions by their numbers.
pub(crate) struct Ids {
    issuer: IssuerName,
    clients: Vec<ClientId>,
    gateways: Vec<Arc<str>>,
    limits: Arc<str>,
    began: Timestamp,
}

impl Ids {
    pub(crate) fn new(now: Timestamp) -> Result<Self, InvalidId> {
        Ok(Self {
            issuer: "bench".try_into()?,
            clients: (0..20).map(|n| ClientId::try_from(&*text(n, 1, 32))).collect::<Result<_, _>>()?,
            gateways: (0..40).map(|n| format!("portcullis-6d5f8c9b7d-{}", text(n, 2, 4)).into()).collect(),
            limits: "3f9ac2d17be0".into(),
            began: now,
        })
    }

    pub(crate) const fn issuer(&self) -> &IssuerName {
        &self.issuer
    }

    /// A subject by its number.
    pub(crate) fn subject(&self, n: u64) -> Result<Subject, InvalidId> {
        let id = format!("auth0|{:016x}{:08x}", mixed(n, 3), mixed(n, 4) >> 32);
        Ok(Subject { issuer: self.issuer.clone(), id: (&*id).try_into()? })
    }

    /// A subject with three sessions.
    pub(crate) fn subject_of_three(&self, n: u64) -> Result<Subject, InvalidId> {
        self.subject(n * SUBJECTS + SUBJECTS - 1)
    }

    pub(crate) fn key(&self, n: u64) -> Result<SessionKey, InvalidId> {
        let subject = n / SESSIONS * SUBJECTS + (n % SESSIONS).min(SUBJECTS - 1);
        Ok(SessionKey { subject: self.subject(subject)?, id: session(n)? })
    }

    /// Sessions begin one after the other, half a second before the first request arrives.
    pub(crate) fn opening(&self, n: u64) -> Result<Opening, InvalidId> {
        let at = self.began.plus(Duration::from_millis(n));
        Ok(Opening {
            key: self.key(n)?,
            started: at.minus(Duration::from_millis(500)),
            told: true,
            at,
            until: at.plus(KEPT),
            limits: Arc::clone(&self.limits),
            client: self.clients.get(usize::try_from(n % 20).unwrap_or_default()).cloned(),
            gateway: Arc::clone(&self.gateways[usize::try_from(n % 40).unwrap_or_default()]),
        })
    }

    /// When the n-th was active, in each round later than in the one before.
    pub(crate) fn active(&self, n: u64, round: u32) -> Timestamp {
        self.began.plus(Duration::from_millis(n) + Duration::from_secs(24 * 60 * 60) * round)
    }
}

/// A session id by its number.
pub(crate) fn session(n: u64) -> Result<SessionId, InvalidId> {
    (&*text(n, 5, 32)).try_into()
}

fn text(n: u64, salt: u64, length: usize) -> String {
    (0..length)
        .map(|at| {
            let word = mixed(n, salt + 16 * (1 + at as u64 / 10));
            char::from(ALPHABET[usize::try_from(word >> (6 * (at % 10)) & 63).unwrap_or_default()])
        })
        .collect()
}

/// SplitMix64.
fn mixed(n: u64, salt: u64) -> u64 {
    let mut word =
        n.wrapping_add(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) << 1 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}
