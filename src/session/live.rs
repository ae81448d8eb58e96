//! A session as this gateway knows it. All of its tokens here share it.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures_util::future::{BoxFuture, Shared};

use super::{Lifetime, SessionKey, SessionLimits, SessionRecord, tables::Table};
use crate::{
    clock::Timestamp,
    store::{
        StoreError,
        sessions::{StoredSession, is_beside, recorded},
    },
    token::claims::{Claims, ClientId},
};

/// Not yet.
const NEVER: i64 = i64::MIN;

/// A question to the store, shared by all who wait for its answer.
pub(super) type Asking = Shared<BoxFuture<'static, Result<(), StoreError>>>;

/// What belongs to a verified token of its session.
#[derive(Default, Debug)]
pub struct TokenSession {
    /// The limits of its issuer.
    pub(super) limits: SessionLimits,
    pub(super) live: OnceLock<Arc<LiveSession>>,
}

#[derive(Debug)]
pub(super) struct LiveSession {
    pub(super) key: SessionKey,
    /// Who its first token here was issued to.
    pub(super) client: Option<ClientId>,
    /// When it began, as its first token here told.
    pub(super) told: Option<Timestamp>,
    /// Whether it outlives a token: without a session id and a time of login each token is a session of its own.
    pub(super) outlives_tokens: bool,
    /// What the store keeps of it; none until it has told.
    opened: ArcSwapOption<Opened>,
    /// When it was first active here.
    first: AtomicI64,
    here: AtomicI64,
    elsewhere: AtomicI64,
    /// What the store has as the latest activity here, as far as it said so, and what it is known to have at least.
    own: AtomicI64,
    recorded: AtomicI64,
    /// Whether it waits to be written.
    queued: AtomicBool,
    asking: Mutex<Option<Asking>>,
}

/// What does not change unless there is another login.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) started: Timestamp,
    /// The limits under which it began.
    pub(super) table: Arc<Table>,
    pub(super) lag: Lag,
}

/// For how long what is recorded may be out of date: then some gateway may soon take the session for idle.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Lag {
    /// Under which of the current tables it was reckoned.
    pub(super) edition: u64,
    /// `None`: for ever.
    pub(super) limit: Option<Duration>,
}

impl LiveSession {
    pub(super) fn new(key: SessionKey, claims: &Claims) -> Self {
        Self {
            key,
            client: claims.client.clone(),
            told: claims.session_began(),
            outlives_tokens: claims.session.is_some() || claims.session_start.is_some(),
            opened: ArcSwapOption::empty(),
            first: AtomicI64::new(NEVER),
            here: AtomicI64::new(NEVER),
            elsewhere: AtomicI64::new(NEVER),
            own: AtomicI64::new(NEVER),
            recorded: AtomicI64::new(NEVER),
            queued: AtomicBool::new(false),
            asking: Mutex::default(),
        }
    }

    pub(super) fn opened(&self) -> Option<Arc<Opened>> {
        self.opened.load_full()
    }

    pub(super) fn active_here(&self) -> Option<Timestamp> {
        time(&self.here)
    }

    /// What is known of its time; `None`: the store has not told yet, or not of the login that a token tells of.
    pub(super) fn lifetime(
        &self,
        told: Option<Timestamp>,
        limits: impl FnOnce(&Opened) -> SessionLimits,
    ) -> Option<Lifetime> {
        let opened = self.opened.load();
        let opened = opened.as_ref().filter(|opened| told.is_none_or(|told| told <= opened.started))?;
        let record = SessionRecord {
            started: opened.started,
            active_here: self.active_here(),
            active_elsewhere: time(&self.elsewhere),
        };
        Some(Lifetime::Limited { limits: limits(opened), record })
    }

    /// When it was first active here, if it was.
    pub(super) fn first(&self) -> Option<Timestamp> {
        time(&self.first)
    }

    /// It begins `now`, and nothing is kept of it.
    pub(super) fn begin(&self, now: Timestamp, table: Arc<Table>) {
        self.here.fetch_max(now.as_millis(), Ordering::AcqRel);
        let opened = Opened { started: self.told.unwrap_or(now), table, lag: Lag::default() };
        self.opened.store(Some(Arc::new(opened)));
    }

    /// Takes in what the store keeps. What this gateway alone recorded is by its own clock: had another one been active at about that time,
    /// the store would have something else (see [`recorded`]), or had something else when this one wrote (see [`took`](Self::took)).
    pub(super) fn settle(&self, stored: &StoredSession, table: Arc<Table>, lag: Lag, opened_here: bool) {
        let active = stored.active.as_millis();
        let is_own = active == self.own.load(Ordering::Acquire) || (opened_here && stored.active == stored.opened);
        let clock = if is_own { &self.here } else { &self.elsewhere };
        clock.fetch_max(active, Ordering::AcqRel);
        self.recorded.fetch_max(active, Ordering::AcqRel);
        self.opened.store(Some(Arc::new(Opened { started: stored.started, table, lag })));
    }

    /// Whether what the store has is so old that activity at `now` has to be written before anybody relies on it.
    /// `reckon` says how old it may be, where it was last reckoned before this edition of the limits.
    pub(super) fn lags(&self, now: Timestamp, edition: u64, reckon: impl FnOnce(&Table) -> Option<Duration>) -> bool {
        let opened = self.opened.load();
        let may_lag = opened
            .as_ref()
            .and_then(|opened| if opened.lag.edition == edition { opened.lag.limit } else { reckon(&opened.table) });
        may_lag.is_some_and(|may_lag| time(&self.recorded).is_none_or(|recorded| now >= recorded.plus(may_lag)))
    }

    /// It was active; whether it has to be queued now to be written. In one order with [`written`](Self::written): either that one sees the
    /// activity, or this one that nothing is queued.
    pub(super) fn touch(&self, now: Timestamp) -> bool {
        if self.here.fetch_max(now.as_millis(), Ordering::SeqCst) == NEVER {
            self.first.store(now.as_millis(), Ordering::Release);
        }
        !self.queued.load(Ordering::SeqCst) && !self.queued.swap(true, Ordering::SeqCst)
    }

    /// The latest activity that the store took, if it took any.
    pub(super) fn own(&self) -> Option<Timestamp> {
        time(&self.own)
    }

    /// The latest activity that is known, here or elsewhere.
    pub(super) fn active(&self) -> Option<Timestamp> {
        self.active_here().max(time(&self.elsewhere))
    }

    /// What is to be written: no later than `now`, but later than what is known of another gateway that may have been earlier.
    pub(super) fn send(&self, now: Timestamp, clock_skew: Duration) -> Timestamp {
        let active = Timestamp::from_millis(self.here.load(Ordering::Acquire)).min(now);
        match time(&self.elsewhere) {
            Some(elsewhere) if is_beside(active, elsewhere, clock_skew) => {
                recorded(active, Some(elsewhere), clock_skew)
            }
            _ => active,
        }
    }

    /// Whether the store took that already.
    pub(super) fn has_sent(&self, sent: Timestamp) -> bool {
        self.own() == Some(sent)
    }

    /// The store took what was sent, and had that `before`. What it had of another gateway may have been later in truth.
    pub(super) fn took(&self, sent: Timestamp, before: Option<Timestamp>, clock_skew: Duration) {
        if let Some(before) = before.filter(|before| Some(*before) != self.own()) {
            self.elsewhere.fetch_max(before.as_millis(), Ordering::AcqRel);
        }
        let kept = recorded(sent, before, clock_skew);
        let own = if Some(kept) == before { sent } else { kept };
        self.own.fetch_max(own.as_millis(), Ordering::AcqRel);
        self.record(kept);
    }

    /// It was written up to `sent`; whether it was active since, and has to be queued again.
    pub(super) fn written(&self, sent: Timestamp) -> bool {
        self.queued.store(false, Ordering::SeqCst);
        self.here.load(Ordering::SeqCst) > sent.as_millis() && !self.queued.swap(true, Ordering::SeqCst)
    }

    /// The store has that, or is not to be told of it sooner than by the next flush.
    pub(super) fn record(&self, sent: Timestamp) {
        self.recorded.fetch_max(sent.as_millis(), Ordering::AcqRel);
    }

    /// Lets go of a question that was answered.
    pub(super) fn forget_answer(&self) {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if asking.as_ref().is_some_and(|asked| asked.peek().is_some()) {
            *asking = None;
        }
    }

    pub(super) fn is_queued(&self) -> bool {
        self.queued.load(Ordering::Acquire)
    }

    /// Joins the question that is under way, or asks it.
    pub(super) fn ask(&self, ask: impl FnOnce() -> Asking) -> Asking {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        match &*asking {
            Some(asked) if asked.peek().is_none() => asked.clone(),
            _ => asking.insert(ask()).clone(),
        }
    }
}

fn time(time: &AtomicI64) -> Option<Timestamp> {
    Some(time.load(Ordering::Acquire)).filter(|time| *time != NEVER).map(Timestamp::from_millis)
}
