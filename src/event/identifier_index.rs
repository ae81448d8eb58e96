//! Which subjects are known by an e-mail address or a phone number.
//!
//! Some senders know users by nothing else. Where an issuer's settings name the claim that holds one (`claims.email`,
//! `claims.phone`), it is noted whenever a token is verified for the first time, so the index knows everyone who was here.
//!
//! 1. Noting never waits: what was seen gathers in memory, each pair once and bounded in number, and is written in the background.
//!    What does not fit, or is lost, is noted with the next token.
//! 2. The store keeps the SHA-256 of a canonical value, and no address. Guessing one is possible.
//! 3. An address that the issuer says is not verified is not noted: whoever claims it would be meant by events of its owner, and take
//!    up the room for them.
//! 4. An address may belong to several subjects; events for it mean all of them.
//!
//! E-mail addresses are compared in lower case as a whole. The part before the `@` may differ in case by RFC 5321 §2.4, and hardly
//! anywhere does; issuers and senders spell it differently though, and a logout that finds nobody would be lost.

use std::{
    collections::HashSet,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Timestamp,
    gate::judge::TokenObserver,
    store::{Notes, StoreError},
    token::{
        claims::{IssuerName, SubjectId},
        verify::VerifiedToken,
    },
};

/// The most pairs that wait to be written.
const WAITING: usize = 20_000;

/// The most pairs that are written in one call of the store.
const BATCH: usize = 1000;

/// How often what has gathered is written.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// The longest e-mail address (RFC 5321 §4.5.3.1: 64 and 255 bytes, and the sign between them).
const MAX_EMAIL_LENGTH: usize = 320;

/// What a subject is known by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IdentifierKind {
    /// An e-mail address.
    Email,
    /// A phone number.
    Phone,
}

impl IdentifierKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Phone => "phone",
        }
    }

    /// The one spelling of it: an address in lower case; a number in E.164, without what people put between digits. `None`: it is
    /// none.
    #[must_use]
    pub fn canonical(self, value: &str) -> Option<String> {
        let value = value.trim();
        match self {
            Self::Email => {
                let (local, domain) = value.rsplit_once('@')?;
                let is_whole = !local.is_empty() && !domain.is_empty() && value.len() <= MAX_EMAIL_LENGTH;
                is_whole.then(|| value.to_lowercase())
            }
            Self::Phone => {
                let digits: String = value
                    .strip_prefix('+')?
                    .chars()
                    .filter(|character| !matches!(character, ' ' | '-' | '.' | '(' | ')' | '\u{a0}'))
                    .take(16)
                    .collect();
                let is_number = (2..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
                is_number.then(|| format!("+{digits}"))
            }
        }
    }
}

/// The name of the set of subjects that are known by a canonical value.
#[must_use]
pub fn set_name(issuer: &IssuerName, kind: IdentifierKind, canonical: &str) -> String {
    use std::fmt::Write as _;

    let mut name = format!("identifier:{issuer}:{}:", kind.as_str());
    for byte in digest(&SHA256, canonical.as_bytes()).as_ref() {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// Notes by what subjects are known.
#[derive(Default, Debug)]
pub struct IdentifierIndex {
    waiting: Mutex<HashSet<(String, SubjectId), ahash::RandomState>>,
}

impl TokenObserver for IdentifierIndex {
    fn verified(&self, token: &VerifiedToken, now: Timestamp) {
        if token.claims.expires_at <= now {
            return;
        }
        let subject = &token.claims.subject;
        for (kind, value) in [(IdentifierKind::Email, &token.email), (IdentifierKind::Phone, &token.phone)] {
            let Some(canonical) = value.as_deref().and_then(|value| kind.canonical(value)) else { continue };
            let pair = (set_name(&subject.issuer, kind, &canonical), subject.id.clone());
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() < WAITING {
                waiting.insert(pair);
            }
        }
    }
}

impl IdentifierIndex {
    /// Writes what gathers until `stop`, and what is left then. Sets are kept for `keep` after they were last added to.
    pub async fn run(self: Arc<Self>, notes: Arc<dyn Notes>, keep: Duration, stop: CancellationToken) {
        let mut ticks = interval(FLUSH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            let stopping = stop.run_until_cancelled(ticks.tick()).await.is_none();
            let flushed = self.flush(&*notes, keep).await;
            if let Err(error) = &flushed
                && !failing
            {
                let error = error as &dyn std::error::Error;
                tracing::warn!(error, "e-mail addresses and phone numbers of subjects could not be noted; they wait");
            }
            failing = flushed.is_err();
            if stopping {
                return;
            }
        }
    }

    async fn flush(&self, notes: &dyn Notes, keep: Duration) -> Result<(), StoreError> {
        let gathered = mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let pairs: Vec<(String, String)> =
            gathered.into_iter().map(|(set, subject)| (set, subject.as_str().to_owned())).collect();
        for (number, batch) in pairs.chunks(BATCH).enumerate() {
            if let Err(error) = notes.add_members(batch, keep).await {
                self.put_back(&pairs[number * BATCH..]);
                return Err(error);
            }
        }
        Ok(())
    }

    fn put_back(&self, pairs: &[(String, String)]) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for (set, subject) in pairs {
            if waiting.len() < WAITING
                && let Ok(subject) = SubjectId::try_from(subject.as_str())
            {
                waiting.insert((set.clone(), subject));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_spelling() {
        let canonical = |value| IdentifierKind::Email.canonical(value);
        assert_eq!(canonical(" Zoë.O'Hara+x@Example.COM "), Some("zoë.o'hara+x@example.com".to_owned()));
        assert_eq!(canonical("\"a@b\"@c.example"), Some("\"a@b\"@c.example".to_owned()));
        for none in ["", "a", "@", "a@", "@b.example", &format!("{}@b.example", "a".repeat(320))] {
            assert_eq!(canonical(none), None, "{none}");
        }
    }

    #[test]
    fn numbers_have_one_spelling() {
        let canonical = |value| IdentifierKind::Phone.canonical(value);
        for same in ["+12065550123", "+1 206 555 0123", "+1 (206) 555-0123", " +1.206.555.0123 "] {
            assert_eq!(canonical(same), Some("+12065550123".to_owned()), "{same}");
        }
        for none in ["", "+", "12065550123", "+1206555012x", "+1234567890123456", "++1206"] {
            assert_eq!(canonical(none), None, "{none}");
        }
    }

    #[test]
    fn names_of_sets_are_short_and_hold_no_address() {
        let issuer = IssuerName::try_from(&*"a".repeat(32)).unwrap();
        let name = set_name(&issuer, IdentifierKind::Email, "alice@b.example");
        assert!(name.len() <= 200 && !name.contains("alice"), "{name}");
        assert_ne!(name, set_name(&issuer, IdentifierKind::Phone, "alice@b.example"));
    }
}
