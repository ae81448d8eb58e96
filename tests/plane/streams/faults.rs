//! What happens to streams when the store, or the gate itself, is not as it should be.

use std::{
    convert::Infallible,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use http::Request;
use http_body_util::Full;
use portcullis::{
    clock::{Clock, ManualClock, Timestamp},
    gate::{Admission, Engine, EngineSettings, Policy},
    marker::{Block, Marker, MarkerKey, MarkerRecord, Reading},
    session::{SessionKey, SessionLimits},
    store::{
        Merged, Store, StoreError, StoreReport,
        embedded::{EmbeddedSettings, EmbeddedStore},
        sessions::{Opening, Sessions, StoredSession},
    },
    token::{
        claims::{IssuerName, SessionId, Subject},
        issuer::{IssuerSettings, KeySource},
    },
    verdict::Reason,
};
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::support::{
    full::now,
    keys::{AUDIENCE, TestIssuer},
};

/// An embedded store whose writes of markers and of activity, and questions about sessions, wait to be let through, and whose reads panic
/// where they are told to.
#[derive(Debug)]
struct Faulty {
    store: Arc<EmbeddedStore>,
    writes: watch::Sender<bool>,
    waiting: AtomicUsize,
    records: watch::Sender<bool>,
    recording: AtomicUsize,
    opens: watch::Sender<bool>,
    panics: AtomicBool,
}

#[async_trait]
impl Store for Faulty {
    async fn read(&self, key: &MarkerKey) -> Result<Reading<MarkerRecord>, StoreError> {
        assert!(!(self.panics.load(Ordering::SeqCst) && key.as_str().contains("cursed")), "a fault of the gate");
        self.store.read(key).await
    }
    async fn merge(
        &self,
        key: &MarkerKey,
        record: &MarkerRecord,
        expires: Option<Timestamp>,
    ) -> Result<Merged, StoreError> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _ = self.writes.subscribe().wait_for(|open| *open).await;
        self.store.merge(key, record, expires).await
    }
    async fn record_activity(&self, batch: &[(Subject, Timestamp)]) -> Result<(), StoreError> {
        self.store.record_activity(batch).await
    }
    async fn forget_activity(&self, batch: &[(Subject, Timestamp)]) -> Result<(), StoreError> {
        self.store.forget_activity(batch).await
    }
    fn sessions(&self) -> &dyn Sessions {
        self
    }
    async fn report(&self) -> Result<StoreReport, StoreError> {
        self.store.report().await
    }
    async fn close(&self) {
        self.store.close().await;
    }
}

#[async_trait]
impl Sessions for Faulty {
    async fn open_session(&self, opening: &Opening) -> Result<StoredSession, StoreError> {
        let _ = self.opens.subscribe().wait_for(|open| *open).await;
        self.store.sessions().open_session(opening).await
    }
    async fn session(&self, key: &SessionKey) -> Result<Option<StoredSession>, StoreError> {
        self.store.sessions().session(key).await
    }
    async fn sessions_of(
        &self,
        subject: &Subject,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<Vec<(SessionId, StoredSession)>, StoreError> {
        self.store.sessions().sessions_of(subject, after, limit).await
    }
    async fn record_session_activity(
        &self,
        batch: &[(SessionKey, Timestamp)],
        clock_skew: Duration,
    ) -> Result<Vec<Option<Timestamp>>, StoreError> {
        self.recording.fetch_add(1, Ordering::SeqCst);
        let _ = self.records.subscribe().wait_for(|open| *open).await;
        self.store.sessions().record_session_activity(batch, clock_skew).await
    }
    async fn forget_idle_sessions(&self, issuer: &IssuerName, before: Timestamp) -> Result<(), StoreError> {
        self.store.sessions().forget_idle_sessions(issuer, before).await
    }
    async fn keep_limits(&self, name: &str, table: &str) -> Result<(), StoreError> {
        self.store.sessions().keep_limits(name, table).await
    }
    async fn limits(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.store.sessions().limits(name).await
    }
}

/// A service of one's own, over such a store.
struct Bench {
    issuer: TestIssuer,
    clock: ManualClock,
    store: Arc<Faulty>,
    engine: Engine,
}

impl Bench {
    async fn start(directory: &Path) -> Self {
        let issuer = TestIssuer::new("https://issuer.example/");
        let keys = directory.join("jwks.json");
        std::fs::write(&keys, issuer.jwks().to_string()).unwrap();
        let clock = ManualClock::new(now());
        let trusted = IssuerSettings {
            keys: KeySource::File(keys),
            algorithms: [jsonwebtoken::Algorithm::ES256].into(),
            ..IssuerSettings::new("acme".try_into().unwrap(), &issuer.identifier, AUDIENCE)
        };
        let mut settings = EngineSettings::new(vec![trusted]);
        settings.tokens.clock = Clock::Manual(clock.clone());
        // Whoever waits has a bound of their own.
        settings.markers.read_timeout = Duration::from_secs(60);
        let mut opened = None;
        let engine = Engine::start(settings, |watcher, clock| {
            let settings = EmbeddedSettings { directory: directory.join("data") };
            let faulty = Arc::new(Faulty {
                store: EmbeddedStore::open(&settings, watcher, clock)?,
                writes: watch::Sender::new(true),
                waiting: AtomicUsize::new(0),
                records: watch::Sender::new(true),
                recording: AtomicUsize::new(0),
                opens: watch::Sender::new(true),
                panics: AtomicBool::new(false),
            });
            opened = Some(Arc::clone(&faulty));
            Ok::<Arc<dyn Store>, Box<dyn std::error::Error>>(faulty)
        });
        let bench = Self { issuer, clock, store: opened.unwrap(), engine: engine.unwrap() };
        eventually("the engine is ready", async || bench.engine.is_ready()).await;
        bench
    }

    /// A request of this subject, and what is known of it if it was admitted.
    fn ask(
        &self,
        subject: &str,
        limits: SessionLimits,
    ) -> impl Future<Output = Result<Admission, Reason>> + Send + use<> {
        let mut claims = self.issuer.claims(self.clock.now().as_secs() - 10);
        claims["sub"] = json!(subject);
        claims["sid"] = json!(format!("session of {subject}"));
        let token = format!("Bearer {}", self.issuer.token(&claims));
        let request = Request::get("/").header("authorization", token).body(()).unwrap();
        let service = service_fn(async |request: Request<()>| {
            let mut response = Response::new(Full::<Bytes>::default());
            response.extensions_mut().insert(request.extensions().get::<Admission>().unwrap().clone());
            Ok::<_, Infallible>(response)
        });
        let policy = Policy { limits, ..Policy::new("service") };
        let gate = self.engine.layer(policy).layer(service);
        async move {
            let Ok(response) = gate.oneshot(request).await;
            let refused = response.extensions().get::<Reason>().copied();
            refused.map_or_else(|| Ok(response.extensions().get::<Admission>().unwrap().clone()), Err)
        }
    }

    /// Resolves with the reason by which a stream of this subject ends.
    async fn stream(&self, subject: &str, limits: SessionLimits) -> JoinHandle<Reason> {
        let admission = self.ask(subject, limits).await.unwrap();
        let (streams, before) = (Arc::clone(&self.engine.judge().parts().streams), self.streams());
        let ends = tokio::spawn(async move { admission.ended().await });
        eventually("it is open", async || streams.len() > before).await;
        ends
    }

    fn streams(&self) -> usize {
        self.engine.judge().parts().streams.len()
    }

    async fn block(&self, subject: &str) {
        let subject = Subject { issuer: "acme".try_into().unwrap(), id: subject.try_into().unwrap() };
        let record = MarkerRecord::new(Marker::Block(Block { blocked: true, at: self.clock.now(), until: None }));
        self.engine.judge().parts().ledger.write(&MarkerKey::block(&subject), &record).await.unwrap();
    }
}

/// Nobody waits for the note of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_an_idle_session_ends_before_that_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path()).await;
    let limits = SessionLimits { idle: Some(Duration::from_secs(1800)), absolute: None };
    let ends = bench.stream(ALICE, limits).await;
    bench.store.writes.send_replace(false);
    bench.clock.advance(Duration::from_secs(1801));
    assert_eq!(timeout(PATIENCE, ends).await.expect("it ends").unwrap(), Reason::IdleTimeout);
    eventually("it is being written", async || bench.store.waiting.load(Ordering::SeqCst) == 1).await;
    // And others are judged meanwhile.
    let other = bench.stream(BOB, SessionLimits::NONE).await;
    bench.clock.advance(Duration::from_secs(3600));
    assert_eq!(timeout(PATIENCE, other).await.expect("it ends").unwrap(), Reason::TokenExpired);
    bench.store.writes.send_replace(true);
    let key =
        MarkerKey::session(&"acme".try_into().unwrap(), &format!("session of {ALICE}").as_str().try_into().unwrap());
    eventually("it is over for good", async || matches!(bench.store.store.read(&key).await, Ok(Reading::Present(_))))
        .await;
}

/// Whether the session is idle, the store does not tell: that is to be known within `max_staleness`, however long it may take to answer
/// others.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_a_session_that_nothing_is_told_of_ends_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path()).await;
    let limits = SessionLimits { idle: Some(Duration::from_secs(1800)), absolute: None };
    let ends = bench.stream(ALICE, limits).await;
    bench.store.opens.send_replace(false);
    bench.clock.advance(Duration::from_secs(1801));
    assert_eq!(timeout(PATIENCE, ends).await.expect("it ends").unwrap(), Reason::Stale);
}

/// Its activity has to be written before it is admitted, which takes its time.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_the_store_is_judged_again_before_it_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path()).await;
    let limits = SessionLimits { idle: Some(Duration::from_secs(1800)), absolute: None };
    for subject in [ALICE, BOB] {
        assert!(bench.ask(subject, limits).await.is_ok());
    }
    eventually("that is written", async || bench.store.recording.load(Ordering::SeqCst) > 0).await;
    // A minute before others might take them for idle.
    bench.clock.advance(Duration::from_secs(1760));
    bench.store.records.send_replace(false);
    let before = bench.store.recording.load(Ordering::SeqCst);
    let [alice, bob] = [ALICE, BOB].map(|subject| tokio::spawn(bench.ask(subject, limits)));
    eventually("both are being written", async || bench.store.recording.load(Ordering::SeqCst) >= before + 2).await;
    bench.block(ALICE).await;
    assert!(!alice.is_finished() && !bob.is_finished());
    bench.store.records.send_replace(true);
    assert_eq!(timeout(PATIENCE, alice).await.unwrap().unwrap().err(), Some(Reason::UserBlocked));
    assert!(timeout(PATIENCE, bob).await.unwrap().unwrap().is_ok());
}

/// What cannot be judged ends, and all others are judged as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_the_stream_it_was_about_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path()).await;
    let cursed = bench.stream("cursed", SessionLimits::NONE).await;
    let (alice, bob) = (bench.stream(ALICE, SessionLimits::NONE).await, bench.stream(BOB, SessionLimits::NONE).await);
    bench.store.panics.store(true, Ordering::SeqCst);
    bench.block("cursed").await;
    assert_eq!(timeout(PATIENCE, cursed).await.expect("it ends").unwrap(), Reason::Stale);
    bench.block(ALICE).await;
    assert_eq!(timeout(PATIENCE, alice).await.expect("it ends").unwrap(), Reason::UserBlocked);
    assert!(!bob.is_finished());
    assert_eq!(bench.streams(), 1);
}
