//! What keeps the index of activity true and bounded while a gate runs.
//!
//! 1. Since when activity is recorded is noted, for each issuer of which it is: whoever was not seen since then, was not there; of the time
//!    before, nothing is known. Every gateway moves the note on; when none has for longer than `max_gap`, recording begins anew, because
//!    requests may have gone around the gate meanwhile.
//! 2. Subjects that were not seen for `retention` are forgotten.

use std::{error::Error, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::{Clock, Timestamp},
    store::{Notes, Store, StoreError},
    token::claims::IssuerName,
};

/// How often the note is moved on, and how often subjects are forgotten.
const NOTE_EVERY: Duration = Duration::from_secs(60);
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// When what failed is tried again. A store that is still being connected to has answered by then.
const SOON: Duration = Duration::from_secs(1);

/// How many times others may come first. They have moved the note on as well.
const ATTEMPTS: usize = 4;

/// How long activity is kept, and when recording begins anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UpkeepSettings {
    /// A subject that is not seen for so long is forgotten.
    pub retention: Duration,
    /// The longest time for which no gateway may record.
    pub max_gap: Duration,
}

/// 400 days, one day.
impl Default for UpkeepSettings {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { retention: 400 * DAY, max_gap: DAY }
    }
}

/// Since when the activity of an issuer's subjects is recorded without a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recording {
    /// When it began.
    pub since: Timestamp,
    /// When it last went on. Not before it began.
    pub last: Timestamp,
}

/// A format of the gateways' own, see `docs/markers.md`: milliseconds since 1970.
#[derive(Serialize, Deserialize)]
struct Note {
    since: i64,
    last: i64,
}

impl Recording {
    /// What a note says; `None`: nothing that can be read.
    #[must_use]
    pub fn decode(note: &str) -> Option<Self> {
        let Note { since, last } = serde_json::from_str(note).ok()?;
        let [since, last] = [since, last].map(Timestamp::from_millis);
        (since <= last).then_some(Self { since, last })
    }

    /// The note that says it.
    #[must_use]
    pub fn encode(self) -> String {
        let Self { since, last } = self;
        format!("{{\"since\":{},\"last\":{}}}", since.as_millis(), last.as_millis())
    }

    /// What it is when somebody records at `now`, after what is `known`. A clock that is behind changes nothing; one that is further behind
    /// than a gap may be long, or a note that is as far ahead, begins anew, since nobody can tell what was recorded in between.
    #[must_use]
    pub fn go_on(known: Option<Self>, now: Timestamp, max_gap: Duration) -> Self {
        match known {
            Some(Self { since, last }) if now.since(last) <= max_gap && last.since(now) <= max_gap => {
                Self { since, last: last.max(now) }
            }
            _ => Self { since: now, last: now },
        }
    }
}

fn note_name(issuer: &IssuerName) -> String {
    format!("recording:{issuer}")
}

/// Since when the activity of an issuer's subjects is recorded. `None`: it is not, or the note cannot be read.
///
/// # Errors
/// [`StoreError`].
pub async fn recording(notes: &dyn Notes, issuer: &IssuerName) -> Result<Option<Recording>, StoreError> {
    Ok(notes.note(&note_name(issuer)).await?.as_deref().and_then(Recording::decode))
}

/// Whose activity there is, as it is at present. Clones share it.
#[derive(Clone, Debug)]
pub struct Whose(Arc<ArcSwap<Issuers>>);

#[derive(Debug)]
struct Issuers {
    all: Vec<IssuerName>,
    recorded: Vec<IssuerName>,
}

impl Whose {
    /// The activity of all their subjects is kept, and of those of `recorded` it is recorded here.
    #[must_use]
    pub fn new(all: Vec<IssuerName>, recorded: Vec<IssuerName>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Issuers { all, recorded })))
    }

    /// From now on it is that of these.
    pub fn exchange(&self, all: Vec<IssuerName>, recorded: Vec<IssuerName>) {
        self.0.store(Arc::new(Issuers { all, recorded }));
    }
}

/// Keeps the index of activity.
#[derive(Debug)]
pub struct Upkeep {
    settings: UpkeepSettings,
    whose: Whose,
    store: Arc<dyn Store>,
    notes: Arc<dyn Notes>,
    clock: Clock,
}

impl Upkeep {
    /// That of these issuers' subjects.
    #[must_use]
    pub fn new(
        settings: UpkeepSettings,
        whose: Whose,
        store: Arc<dyn Store>,
        notes: Arc<dyn Notes>,
        clock: Clock,
    ) -> Self {
        Self { settings, whose, store, notes, clock }
    }

    /// Notes that activity is recorded now.
    ///
    /// # Errors
    /// [`StoreError`]: of some issuers it may be noted.
    pub async fn note(&self) -> Result<(), StoreError> {
        for issuer in &self.whose.0.load_full().recorded {
            self.note_of(issuer).await?;
        }
        Ok(())
    }

    async fn note_of(&self, issuer: &IssuerName) -> Result<(), StoreError> {
        let name = note_name(issuer);
        for _ in 0..ATTEMPTS {
            let held = self.notes.note(&name).await?;
            let known = held.as_deref().and_then(Recording::decode);
            let next = Recording::go_on(known, self.clock.now(), self.settings.max_gap);
            if known == Some(next) {
                return Ok(());
            }
            if self.notes.swap_note(&name, held.as_deref(), Some(&next.encode())).await? {
                tell(issuer, held.is_some(), known, next);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Forgets those who were not seen for long.
    ///
    /// # Errors
    /// [`StoreError`]: any part of it may have been done.
    pub async fn forget(&self) -> Result<(), StoreError> {
        let before = self.clock.now().minus(self.settings.retention);
        for issuer in &self.whose.0.load_full().all {
            self.store.forget_inactive(issuer, before).await?;
        }
        Ok(())
    }

    /// Does both from time to time until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let noting = repeat(NOTE_EVERY, "since when activity is recorded cannot be noted", || self.note());
        let forgetting = repeat(FORGET_EVERY, "those who were not seen for long cannot be forgotten", || self.forget());
        tokio::select! {
            () = stop.cancelled() => {}
            () = noting => {}
            () = forgetting => {}
        }
    }
}

/// Tells once when `work` begins to fail; never ends by itself.
async fn repeat<F: Future<Output = Result<(), StoreError>>>(every: Duration, failure: &str, work: impl Fn() -> F) {
    let mut failing = false;
    sleep(SOON).await;
    loop {
        let result = work().await;
        if let Err(error) = &result
            && !failing
        {
            tracing::warn!(error = error as &dyn Error, "{failure}; it is tried again");
        }
        failing = result.is_err();
        sleep(if failing { SOON } else { every }).await;
    }
}

/// When recording begins, and when it begins anew.
fn tell(issuer: &IssuerName, held: bool, known: Option<Recording>, next: Recording) {
    let since = next.since;
    match known {
        Some(known) if known.since == since => {}
        Some(known) => {
            let last = known.last;
            tracing::info!(issuer.name = %issuer, %since, %last, "recording of activity begins anew: nobody recorded for too long");
        }
        None if held => {
            tracing::info!(issuer.name = %issuer, %since, "recording of activity begins anew: its note could not be read");
        }
        None => tracing::info!(issuer.name = %issuer, %since, "recording of activity begins"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GAP: Duration = Duration::from_secs(3600);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_secs(1_763_700_000 + seconds)
    }

    fn recording(since: i64, last: i64) -> Recording {
        Recording { since: at(since), last: at(last) }
    }

    #[test]
    fn recording_goes_on_or_begins_anew() {
        for (name, known, now, next) in [
            ("nothing is known", None, 5, recording(5, 5)),
            ("a minute later", Some(recording(0, 60)), 120, recording(0, 120)),
            ("at the same time", Some(recording(0, 60)), 60, recording(0, 60)),
            ("the longest gap", Some(recording(0, 60)), 3660, recording(0, 3660)),
            ("a longer gap", Some(recording(0, 60)), 3661, recording(3661, 3661)),
            ("a clock that is behind", Some(recording(0, 60)), 59, recording(0, 60)),
            ("a clock before the beginning", Some(recording(0, 60)), -3540, recording(0, 60)),
            ("a clock that is too far behind", Some(recording(0, 60)), -3541, recording(-3541, -3541)),
        ] {
            assert_eq!(Recording::go_on(known, at(now), GAP), next, "{name}");
        }
    }

    #[test]
    fn notes_are_what_the_page_says() {
        let note = recording(0, 60).encode();
        assert_eq!(note, r#"{"since":1763700000000,"last":1763700060000}"#);
        assert_eq!(Recording::decode(&note), Some(recording(0, 60)));
        for unreadable in ["", "1", "{}", r#"{"since":1}"#, r#"{"since":2,"last":1}"#, r#"{"since":1.5,"last":"2"}"#] {
            assert_eq!(Recording::decode(unreadable), None, "{unreadable}");
        }
    }

    proptest! {
        /// Of gateways whose clocks differ, and that come and go: no gap that is too long lies behind `since`, and it moves for nothing else.
        #[test]
        fn no_long_gap_is_passed_over(steps in prop::collection::vec((0..5000_u64, -600..600_i64), 1..60)) {
            let gap = GAP + Duration::from_secs(1200);
            let (mut known, mut true_time, mut recorded) = (None, at(0), Vec::new());
            for (pause, wrong) in steps {
                true_time = true_time.plus(Duration::from_secs(pause));
                let now = Timestamp::from_millis(true_time.as_millis() + wrong * 1000);
                let next = Recording::go_on(known, now, GAP);
                prop_assert!(next.since <= next.last);
                if let Some(before) = known.filter(|before: &Recording| before.since == next.since) {
                    prop_assert!(next.last >= before.last, "it went back");
                } else if let Some(before) = known {
                    prop_assert!(now.since(before.last) > GAP, "it began anew for nothing");
                    recorded.clear();
                }
                prop_assert!(recorded.last().is_none_or(|last| true_time.since(*last) <= gap), "a gap was passed over");
                recorded.push(true_time);
                known = Some(next);
            }
        }

        #[test]
        fn any_times_survive_their_note(since in any::<i64>(), last in any::<i64>(), now in any::<i64>(), gap in any::<u64>()) {
            let [since, last, now] = [since.min(last), since.max(last), now].map(Timestamp::from_millis);
            let known = Recording { since, last };
            prop_assert_eq!(Recording::decode(&known.encode()), Some(known));
            let next = Recording::go_on(Some(known), now, Duration::from_millis(gap));
            prop_assert!(next.since <= next.last && next.last >= now.min(last));
        }
    }
}
