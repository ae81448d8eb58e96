//! The lifetime of sessions against a plain model: random activity, logins, limits that change, clocks that differ, gateways that write
//! late, restart or cannot reach the store.
//!
//! The model's rules are those of the identity provider that the gate mirrors: a session ends when it was idle for as long as its idle
//! limit (R1), or is as old as its absolute limit whatever happens (R2); activity moves the former, never the latter (R3, R4); a login
//! restarts both (R5); the smaller of the limits at its start and of now applies (R6, R7); what ended stays ended (R12).

use std::{
    collections::HashSet,
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use http::HeaderMap;
use portcullis::{
    activity::{ActivitySettings, Recorder},
    clock::{Clock, ManualClock, Timestamp},
    gate::{Judge, Judgement, Policy, judge::Parts, tokens::TokenCache, verdicts::VerdictMetrics},
    marker::{
        Marker, MarkerKey, MarkerRecord, Reading, Retention,
        cache::{MarkerCache, MarkerSettings},
        ledger::Ledger,
    },
    session::{
        SessionKey, SessionLimits,
        register::{RegisterSettings, SessionRegister, SessionSettings},
    },
    store::{
        Merged, Sessions, Store, StoreError, StoreReport, Watcher,
        embedded::{EmbeddedSettings, EmbeddedStore},
        sessions::{Opening, StoredSession},
    },
    stream::Streams,
    token::{
        claims::{IssuerName, SessionId, Subject},
        issuer::KeySource,
        verify::{Verifier, VerifierOptions},
    },
    verdict::OutagePolicy,
};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::keys::TestIssuer;

const START: i64 = 1_763_700_000_000;
const RESOLUTION: i64 = 5000;
const FLUSH: i64 = 1000;
const SKEW: i64 = 1000;
/// How far time goes at once: gateways write in between.
const STEP: i64 = 500;
const GATEWAYS: usize = 3;
const SESSIONS: usize = 3;
const ROUTES: [&str; 2] = ["api", "slow"];

/// A store of several gateways, which each of them may lose sight of.
#[derive(Debug)]
struct Link {
    store: Arc<EmbeddedStore>,
    down: AtomicBool,
}

impl Link {
    fn check(&self) -> Result<(), StoreError> {
        if self.down.load(Ordering::SeqCst) { Err(StoreError::timed_out(&"link".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl Store for Link {
    async fn read(&self, key: &MarkerKey) -> Result<Reading<MarkerRecord>, StoreError> {
        self.check()?;
        self.store.read(key).await
    }
    async fn merge(
        &self,
        key: &MarkerKey,
        record: &MarkerRecord,
        expires: Option<Timestamp>,
    ) -> Result<Merged, StoreError> {
        self.check()?;
        self.store.merge(key, record, expires).await
    }
    async fn record_activity(&self, _: &[(Subject, Timestamp)]) -> Result<(), StoreError> {
        Ok(())
    }
    async fn last_activity(&self, _: &Subject) -> Result<Option<Timestamp>, StoreError> {
        Ok(None)
    }
    async fn forget_activity(&self, _: &[(Subject, Timestamp)]) -> Result<(), StoreError> {
        Ok(())
    }
    fn sessions(&self) -> &dyn Sessions {
        self
    }
    async fn report(&self) -> Result<StoreReport, StoreError> {
        self.store.report().await
    }
    async fn close(&self) {}
}

#[async_trait]
impl Sessions for Link {
    async fn open_session(&self, opening: &Opening) -> Result<StoredSession, StoreError> {
        self.check()?;
        self.store.sessions().open_session(opening).await
    }
    async fn session(&self, key: &SessionKey) -> Result<Option<StoredSession>, StoreError> {
        self.check()?;
        self.store.sessions().session(key).await
    }
    async fn sessions_of(
        &self,
        subject: &Subject,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<(SessionId, StoredSession)>, StoreError> {
        self.check()?;
        self.store.sessions().sessions_of(subject, after, limit).await
    }
    async fn record_session_activity(
        &self,
        batch: &[(SessionKey, Timestamp)],
        clock_skew: Duration,
    ) -> Result<Vec<Option<Timestamp>>, StoreError> {
        self.check()?;
        self.store.sessions().record_session_activity(batch, clock_skew).await
    }
    async fn forget_idle_sessions(&self, issuer: &IssuerName, before: Timestamp) -> Result<(), StoreError> {
        self.check()?;
        self.store.sessions().forget_idle_sessions(issuer, before).await
    }
    async fn keep_limits(&self, name: &str, table: &str) -> Result<(), StoreError> {
        self.check()?;
        self.store.sessions().keep_limits(name, table).await
    }
    async fn limits(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.check()?;
        self.store.sessions().limits(name).await
    }
}

/// Tells all gateways of the one store's changes.
#[derive(Default, Debug)]
struct Everyone(Mutex<Vec<Arc<MarkerCache>>>);

impl Everyone {
    fn each(&self, tell: impl Fn(&MarkerCache)) {
        self.0.lock().unwrap().iter().for_each(|cache| tell(cache));
    }
}

impl Watcher for Everyone {
    fn changed(&self, key: &str) {
        self.each(|cache| cache.changed(key));
    }
    fn reset(&self) {
        self.each(MarkerCache::reset);
    }
    fn heard(&self, at: Instant) {
        self.each(|cache| cache.heard(at));
    }
}

/// Limits of the issuer, and of the route that has limits of its own.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Limits {
    issuer: (i64, i64),
    slow: i64,
}

impl Limits {
    /// Idle and absolute limit on a route.
    fn on(self, route: usize) -> (i64, i64) {
        if route == 1 { (self.slow, self.issuer.1) } else { self.issuer }
    }
}

/// What sessions may be like: drawn, then played.
#[derive(Clone, Debug)]
enum Act {
    Wait(i64),
    /// Up to the moment in which a session would be idle for too long on a route, or a little less or more.
    WaitForEdge {
        session: usize,
        route: usize,
        off: i64,
    },
    Request {
        gateway: usize,
        session: usize,
        route: usize,
        background: bool,
    },
    /// On one gateway and then on another, as clocks that differ may not tell.
    Together {
        gateways: [usize; 2],
        session: usize,
        apart: i64,
    },
    Login {
        session: usize,
    },
    Limits(Limits),
    /// The gateway ends and begins anew: with everything written, or with nothing.
    Restart {
        gateway: usize,
        gracefully: bool,
    },
    Link {
        gateway: usize,
        down: bool,
    },
    LogOut {
        gateway: usize,
        session: usize,
    },
    /// Another session in its place.
    Begin {
        session: usize,
    },
}

fn limits() -> impl Strategy<Value = Limits> {
    let idle = || (13..45_i64).prop_map(|seconds| seconds * 1000);
    let absolute = prop_oneof![60..240_i64].prop_map(|seconds| seconds * 1000);
    (idle(), absolute, idle()).prop_map(|(idle, absolute, slow)| Limits { issuer: (idle, absolute), slow })
}

fn acts() -> impl Strategy<Value = (Limits, [i64; GATEWAYS], Vec<Act>)> {
    let gateway = || 0..GATEWAYS;
    let session = || 0..SESSIONS;
    let act = prop_oneof![
        6 => (0..12_000_i64).prop_map(Act::Wait),
        1 => (12_000..60_000_i64).prop_map(Act::Wait),
        4 => (session(), 0..2_usize, prop_oneof![-1..=1_i64, -1500..1500_i64])
            .prop_map(|(session, route, off)| Act::WaitForEdge { session, route, off }),
        12 => (gateway(), session(), 0..2_usize, prop::bool::weighted(0.2))
            .prop_map(|(gateway, session, route, background)| Act::Request { gateway, session, route, background }),
        2 => ([gateway(), gateway()], session(), 0..=SKEW)
            .prop_map(|(gateways, session, apart)| Act::Together { gateways, session, apart }),
        1 => session().prop_map(|session| Act::Login { session }),
        1 => limits().prop_map(Act::Limits),
        1 => (gateway(), any::<bool>()).prop_map(|(gateway, gracefully)| Act::Restart { gateway, gracefully }),
        1 => (gateway(), any::<bool>()).prop_map(|(gateway, down)| Act::Link { gateway, down }),
        1 => (gateway(), session()).prop_map(|(gateway, session)| Act::LogOut { gateway, session }),
        2 => session().prop_map(|session| Act::Begin { session }),
    ];
    let offset = || -SKEW / 2..=SKEW / 2;
    (limits(), [offset(), offset(), offset()], prop::collection::vec(act, 10..80))
}

/// One session as the model has it.
#[derive(Clone, Debug)]
struct Session {
    name: String,
    /// `auth_time`, in whole seconds.
    login: i64,
    /// When it was first seen since that login, and under which limits.
    seen: Option<Limits>,
    active: i64,
    ended: bool,
    /// When it was active, since a gateway came upon it.
    activities: Vec<i64>,
    /// By how much its latest activity may be taken for an earlier one, since a gateway was lost with it.
    lost: i64,
    /// Which gateways may hold activity that is not written yet.
    held: HashSet<usize>,
    /// Which gateway saw its latest activity, and when another one had to do with it.
    by: usize,
    elsewhere: i64,
}

impl Session {
    /// A gateway comes upon it, which is its first activity.
    fn see(&mut self, gateway: usize, now: i64, limits: Limits) {
        if self.seen.is_none() {
            self.seen = Some(limits);
            self.active = self.active.max(now);
            self.activities.push(self.active);
            (self.by, self.elsewhere) = (gateway, now);
        }
    }
}

/// A gateway: as real as one can be without a listener.
struct Gateway {
    clock: ManualClock,
    offset: i64,
    link: Arc<Link>,
    judge: Judge,
    policies: [Arc<Policy>; 2],
    flushed: i64,
    /// Whether it may hold activity for longer than it should.
    troubled: bool,
}

struct World {
    runtime: Runtime,
    issuer: TestIssuer,
    directory: TempDir,
    /// Of the store.
    clock: ManualClock,
    everyone: Arc<Everyone>,
    store: Arc<EmbeddedStore>,
    names: usize,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let issuer = TestIssuer::new("https://issuer.example/");
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("jwks.json"), issuer.jwks().to_string()).unwrap();
        let (clock, everyone) = (ManualClock::new(Timestamp::from_millis(START)), Arc::new(Everyone::default()));
        let settings = EmbeddedSettings { directory: directory.path().join("store") };
        let watcher = Arc::clone(&everyone) as Arc<dyn Watcher>;
        let store = EmbeddedStore::open(&settings, watcher, Clock::Manual(clock.clone())).unwrap();
        Self { runtime, issuer, directory, clock, everyone, store, names: 0 }
    }

    fn gateway(&mut self, offset: i64, limits: Limits, now: i64) -> Gateway {
        self.names += 1;
        let clock = ManualClock::new(Timestamp::from_millis(now + offset));
        let millis = |millis: i64| Duration::from_millis(millis.unsigned_abs());
        let own = Clock::Manual(clock.clone());
        let keys = KeySource::File(self.directory.path().join("jwks.json"));
        let settings = self.issuer.settings("acme", keys);
        let options = VerifierOptions { clock: own.clone(), ..VerifierOptions::default() };
        let verifier = Verifier::new(vec![settings.clone()], options).unwrap();
        self.runtime.block_on(verifier.load());
        let markers = MarkerSettings { max_staleness: Duration::from_secs(3600), ..MarkerSettings::default() };
        let cache = Arc::new(MarkerCache::with_clock(markers, own.clone()));
        cache.heard(Instant::now());
        self.everyone.0.lock().unwrap().push(Arc::clone(&cache));
        let link = Arc::new(Link { store: Arc::clone(&self.store), down: AtomicBool::new(false) });
        let store = Arc::clone(&link) as Arc<dyn Store>;
        let activity = ActivitySettings { resolution: millis(RESOLUTION), flush_interval: millis(FLUSH) };
        let (idle, absolute) = limits.issuer;
        let of_issuer = SessionLimits { idle: Some(millis(idle)), absolute: Some(millis(absolute)) };
        let register = RegisterSettings {
            sessions: SessionSettings { gateway: format!("gateway-{}", self.names).into(), record_all: false },
            issuers: vec![(settings.name, of_issuer)],
            activity,
            ..RegisterSettings::default()
        };
        let sessions = SessionRegister::new(register, Arc::clone(&store), Arc::clone(&cache), own.clone());
        let retention = Retention::default();
        let judge = Judge::new(Parts {
            verifier: Arc::new(verifier),
            tokens: TokenCache::new(1 << 20),
            ledger: Ledger::new(Arc::clone(&store), cache, retention, markers.write_timeout, own.clone()),
            recorder: Arc::new(Recorder::new(activity, own.clone())),
            sessions: Arc::new(sessions),
            clock: own,
            streams: Streams::new(markers.max_staleness),
            verdicts: VerdictMetrics::default(),
            observer: None,
        });
        let policies = [0, 1].map(|route| {
            let limits = if route == 1 {
                SessionLimits { idle: Some(millis(limits.slow)), absolute: None }
            } else {
                SessionLimits::NONE
            };
            let mut policy = Policy { limits, ..Policy::new(ROUTES[route]) };
            policy.settings.clock_skew = millis(SKEW);
            policy.settings.outage = OutagePolicy::Reject;
            judge.parts().sessions.add_route(&policy.name, policy.limits);
            Arc::new(policy)
        });
        Gateway { clock, offset, link, judge, policies, flushed: now, troubled: false }
    }

    fn session(&mut self, now: i64) -> Session {
        self.names += 1;
        Session {
            name: format!("session-{}", self.names),
            login: now.div_euclid(1000),
            seen: None,
            active: now,
            ended: false,
            activities: Vec::new(),
            lost: 0,
            held: HashSet::new(),
            by: usize::MAX,
            elsewhere: now,
        }
    }

    /// A token of the session, minted now.
    fn token(&self, session: &Session, now: i64) -> String {
        let mut claims = self.issuer.claims(now.div_euclid(1000) - 1);
        claims["sid"] = json!(session.name);
        claims["auth_time"] = json!(session.login);
        self.issuer.token(&claims)
    }

    fn ask(&self, gateway: &Gateway, route: usize, token: &str, background: bool) -> String {
        let mut fields = HeaderMap::new();
        fields.insert("authorization", format!("Bearer {token}").parse().unwrap());
        if background {
            fields.insert("portcullis-activity", "background".parse().unwrap());
        }
        let _runtime = self.runtime.enter();
        let decision = match gateway.judge.judge(&gateway.policies[route], &fields) {
            Judgement::Decided(decision) => decision,
            Judgement::Pending(decision) => self.runtime.block_on(decision),
        };
        decision.label().to_owned()
    }
}

/// Plays it on real gateways and in the model at once.
struct Play {
    world: World,
    now: i64,
    limits: Limits,
    gateways: Vec<Gateway>,
    sessions: Vec<Session>,
}

impl Play {
    fn new(limits: Limits, offsets: [i64; GATEWAYS]) -> Self {
        let mut world = World::new();
        let gateways = offsets.map(|offset| world.gateway(offset, limits, START)).into();
        let sessions = (0..SESSIONS).map(|_| world.session(START)).collect();
        Self { world, now: START, limits, gateways, sessions }
    }

    fn act(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match *act {
            Act::Wait(millis) => self.wait(millis),
            Act::WaitForEdge { session, route, off } => {
                let session = &self.sessions[session];
                self.wait((session.active + self.limits.on(route).0 + off - self.now).max(0));
            }
            Act::Request { gateway, session, route, background } => {
                return self.request(gateway, session, route, background);
            }
            Act::Together { gateways: [first, last], session, apart } => {
                self.request(first, session, 0, false)?;
                self.wait(apart);
                return self.request(last, session, 0, false);
            }
            Act::Login { session } => {
                // To the next second, so that the login is a later one.
                self.wait(1000);
                let session = &mut self.sessions[session];
                session.login = self.now.div_euclid(1000);
                session.seen = None;
            }
            Act::Limits(limits) => {
                self.limits = limits;
                for gateway in 0..GATEWAYS {
                    self.restart(gateway, true);
                }
            }
            Act::Restart { gateway, gracefully } => self.restart(gateway, gracefully),
            Act::Link { gateway, down } => {
                self.gateways[gateway].troubled |= down;
                self.gateways[gateway].link.down.store(down, Ordering::SeqCst);
            }
            Act::LogOut { gateway, session } => return self.log_out(gateway, session),
            Act::Begin { session } => self.sessions[session] = self.world.session(self.now),
        }
        Ok(())
    }

    /// Time passes, and every gateway writes what is due often enough.
    fn wait(&mut self, millis: i64) {
        let end = self.now + millis;
        while self.now < end {
            self.now = end.min(self.now + STEP);
            self.world.clock.set(Timestamp::from_millis(self.now));
            for index in 0..GATEWAYS {
                let gateway = &mut self.gateways[index];
                gateway.clock.set(Timestamp::from_millis(self.now + gateway.offset));
                if self.now - gateway.flushed >= FLUSH - STEP {
                    self.flush(index, false);
                }
            }
        }
    }

    fn flush(&mut self, index: usize, all: bool) {
        let gateway = &mut self.gateways[index];
        gateway.flushed = self.now;
        let flushed = self.world.runtime.block_on(gateway.judge.parts().sessions.flush(all));
        let up = !gateway.link.down.load(Ordering::SeqCst);
        assert!(flushed.is_ok() || !up, "{flushed:?}");
        if up {
            gateway.troubled = false;
            for session in self.sessions.iter_mut().filter(|session| all || self.now - session.active >= RESOLUTION) {
                session.held.remove(&index);
            }
        }
    }

    fn restart(&mut self, index: usize, gracefully: bool) {
        if gracefully {
            self.flush(index, true);
        }
        let offset = self.gateways[index].offset;
        // What was active before that is written, and of what came after it nothing may be left.
        let written = self.now - (RESOLUTION + FLUSH + STEP);
        for session in &mut self.sessions {
            if session.held.remove(&index) {
                let left = session.activities.iter().rev().find(|active| **active <= written);
                let left = left.or(session.activities.first()).copied().unwrap_or(session.active);
                session.lost = if self.gateways[index].troubled { i64::MAX } else { session.active - left };
            }
            if session.by == index {
                (session.by, session.elsewhere) = (usize::MAX, self.now);
            }
        }
        self.gateways[index] = self.world.gateway(offset, self.limits, self.now);
    }

    fn log_out(&mut self, index: usize, which: usize) -> Result<(), TestCaseError> {
        let session = &mut self.sessions[which];
        let issuer = IssuerName::try_from("acme").unwrap();
        let key = MarkerKey::session(&issuer, &SessionId::try_from(&*session.name).unwrap());
        let end = Marker::SessionEnd(Timestamp::from_millis(self.now));
        let ledger = &self.gateways[index].judge.parts().ledger;
        let written = self.world.runtime.block_on(ledger.write(&key, &MarkerRecord::new(end)));
        prop_assert!(written.is_ok() || self.gateways[index].troubled);
        session.ended |= written.is_ok();
        Ok(())
    }

    fn request(&mut self, index: usize, which: usize, route: usize, background: bool) -> Result<(), TestCaseError> {
        let now = self.now;
        let session = &self.sessions[which];
        let token = self.world.token(session, now);
        let gateway = &self.gateways[index];
        let said = self.world.ask(gateway, route, &token, background);
        let down = gateway.link.down.load(Ordering::SeqCst);
        let (idle, absolute) = {
            let (now, then) = (self.limits.on(route), session.seen.unwrap_or(self.limits).on(route));
            (now.0.min(then.0), now.1.min(then.1))
        };
        let over = now + gateway.offset >= session.login * 1000 + absolute;
        let silent = now - if session.seen.is_some() { session.active } else { now };
        let troubled = session.held.iter().any(|holder| self.gateways[*holder].troubled);
        // Within one gateway no clocks are compared.
        let exact = session.by == index && session.active - session.elsewhere >= 2 * SKEW;
        let situation = format!("{said}: idle for {silent} of {idle} ms, {over}, {session:?}, {index}");
        let session = &mut self.sessions[which];
        match &*said {
            // Whoever cannot ask says that nobody knows, and never that it is over.
            "stale" => prop_assert!(down, "{}", situation),
            "session_ended" => prop_assert!(session.ended, "{}", situation),
            "reauthentication_required" => {
                prop_assert!(over && !session.ended, "{}", situation);
                session.see(index, now, self.limits);
            }
            "idle_timeout" => {
                prop_assert!(!down && !over && !session.ended, "{}", situation);
                let lost = if troubled { i64::MAX } else { session.lost };
                prop_assert!(
                    silent >= idle.saturating_sub(lost),
                    "an active session was taken for an idle one; {}",
                    situation
                );
                session.ended = true;
            }
            "admit" => {
                prop_assert!(!over && !session.ended, "{}", situation);
                // Clocks differ by the skew at most, and what another gateway recorded is given as much.
                let most = if exact { idle } else { idle + 2 * SKEW };
                prop_assert!(silent < most, "an idle session was not seen to be one; {}", situation);
                session.see(index, now, self.limits);
                if !background {
                    if session.by != index {
                        session.elsewhere = session.active;
                    }
                    (session.active, session.by, session.lost) = (now, index, 0);
                    session.activities.push(now);
                    session.held.insert(index);
                }
            }
            other => prop_assert!(false, "{} {}", other, situation),
        }
        Ok(())
    }
}

/// Plays it from the beginning.
fn play(limits: Limits, offsets: [i64; GATEWAYS], acts: &[Act]) -> Result<(), TestCaseError> {
    let mut play = Play::new(limits, offsets);
    acts.iter().try_for_each(|act| play.act(act))
}

const LIMITS: Limits = Limits { issuer: (20_000, 240_000), slow: 40_000 };

/// A gateway records 1500, and another one, whose clock is a second behind, records the same a second later. The first asks before the
/// session was idle for as long as it may be, and must not take the time for its own.
#[test]
fn two_gateways_that_record_the_very_same_time_end_nothing_early() {
    let request = |gateway| Act::Request { gateway, session: 0, route: 0, background: false };
    for [first, last] in [[0, 1], [1, 0]] {
        let mut offsets = [0; GATEWAYS];
        (offsets[first], offsets[last]) = (SKEW / 2, -SKEW / 2);
        let edge = Act::WaitForEdge { session: 0, route: 0, off: -1 };
        // Both know the session, and both have written.
        let begin = [request(last), request(first), Act::Wait(RESOLUTION + 2 * FLUSH)];
        let acts = [&begin[..], &[request(first), Act::Wait(SKEW), request(last), edge, request(first)]].concat();
        play(LIMITS, offsets, &acts).unwrap();
    }
}

/// Nor do two whose clocks tell the wrong one for the last, whoever writes first.
#[test]
fn two_gateways_that_record_times_in_the_wrong_order_end_nothing_early() {
    let request = |gateway| Act::Request { gateway, session: 0, route: 0, background: false };
    let together = |gateways, apart| Act::Together { gateways, session: 0, apart };
    for apart in [1, SKEW / 2, SKEW - 1, SKEW] {
        for [first, last] in [[0, 1], [1, 0]] {
            for before in [vec![], vec![request(first)], vec![request(last)], vec![request(first), request(last)]] {
                let mut offsets = [0; GATEWAYS];
                (offsets[first], offsets[last]) = (SKEW / 2, -SKEW / 2);
                let edge = Act::WaitForEdge { session: 0, route: 0, off: -1 };
                let end = [Act::Wait(2 * FLUSH), together([first, last], apart), edge, request(first)];
                let acts = [before, end.into()].concat();
                play(LIMITS, offsets, &acts).unwrap_or_else(|fault| panic!("{fault}; {acts:?}"));
            }
        }
    }
}

/// One gateway only opens it.
#[test]
fn a_session_that_one_gateway_only_came_upon_ends_no_earlier() {
    let request = |gateway, background| Act::Request { gateway, session: 0, route: 0, background };
    for apart in [1, SKEW - 1, SKEW] {
        let edge = Act::WaitForEdge { session: 0, route: 0, off: -1 };
        let acts = [request(0, true), Act::Wait(apart), request(1, false), edge, request(0, false)];
        play(LIMITS, [SKEW / 2, -SKEW / 2, 0], &acts).unwrap_or_else(|fault| panic!("{fault}; {apart}"));
    }
}

#[test]
fn sessions_live_as_long_as_the_model_says() {
    let config = ProptestConfig { max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new(config);
    runner.run(&acts(), |(limits, offsets, acts)| play(limits, offsets, &acts)).unwrap();
}
