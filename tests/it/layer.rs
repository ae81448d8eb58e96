//! The tower Layer: around plain services and axum, ready when they are, safe to cancel.

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use axum::{Extension, Router, body::Body, routing::get};
use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use portcullis::{
    activity::{ActivitySettings, Recorder},
    clock::{Clock, ManualClock, Timestamp},
    config::Config,
    gate::{
        Admission, Engine, EngineSettings, GateLayer, Judge, Policy, judge::Parts, tokens::TokenCache,
        verdicts::VerdictMetrics,
    },
    marker::{
        Block, Marker, MarkerKey, MarkerRecord, Reading, Retention,
        cache::{MarkerCache, MarkerSettings},
        ledger::Ledger,
    },
    session::{
        SessionLimits,
        register::{RegisterSettings, SessionRegister},
    },
    store::{
        Merged, Store, StoreError, StoreReport, Watcher,
        embedded::{EmbeddedSettings, EmbeddedStore},
    },
    stream::Streams,
    token::{
        claims::Subject,
        issuer::{IssuerSettings, KeySource},
        verify::{Verifier, VerifierOptions},
    },
    verdict::Reason,
};
use tempfile::NamedTempFile;
use tokio::{sync::watch, time::Instant};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{
    eventually,
    full::now,
    keys::{AUDIENCE, TestIssuer},
};

const READ_TIMEOUT: Duration = Duration::from_millis(300);

/// A store that answers when it is let, and blocks everyone whose id begins with `blocked`.
struct Held {
    open: watch::Sender<bool>,
    reads: AtomicUsize,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

#[async_trait]
impl Store for Held {
    async fn read(&self, key: &MarkerKey) -> Result<Reading<MarkerRecord>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        Ok(if key.as_str().starts_with("block:acme:blocked") {
            Reading::Present(MarkerRecord::new(Marker::Block(Block { blocked: true, at: now(), until: None })))
        } else {
            Reading::Absent
        })
    }

    async fn merge(&self, _: &MarkerKey, record: &MarkerRecord, _: Option<Timestamp>) -> Result<Merged, StoreError> {
        Ok(Merged { record: record.clone(), changed: true })
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

    async fn report(&self) -> Result<StoreReport, StoreError> {
        Ok(StoreReport { description: "held".to_owned(), warnings: Vec::new() })
    }

    async fn close(&self) {}
}

/// A judge over a [`Held`] store.
struct Court {
    issuer: TestIssuer,
    store: Arc<Held>,
    cache: Arc<MarkerCache>,
    judge: Judge,
    keys: NamedTempFile,
}

impl Court {
    async fn sit() -> Self {
        let issuer = TestIssuer::new("https://issuer.example/");
        let mut keys = NamedTempFile::new().unwrap();
        keys.write_all(issuer.jwks().to_string().as_bytes()).unwrap();
        let settings = issuer.settings("acme", KeySource::File(keys.path().to_owned()));
        let options = VerifierOptions { forwarded_claims: ["sub".into()].into(), ..VerifierOptions::default() };
        let verifier = Verifier::new(vec![settings], options).unwrap();
        verifier.load().await;
        let store = Arc::new(Held { open: watch::Sender::new(true), reads: AtomicUsize::new(0) });
        let settings = MarkerSettings {
            max_staleness: Duration::from_secs(600),
            cache_size: 1 << 20,
            read_timeout: READ_TIMEOUT,
            write_timeout: READ_TIMEOUT,
            ..MarkerSettings::default()
        };
        let cache = Arc::new(MarkerCache::new(settings));
        cache.heard(std::time::Instant::now());
        let retention = Retention {
            max_token_lifetime: Duration::from_secs(86_400),
            clock_skew: Duration::from_secs(1),
            session: Duration::from_secs(86_400),
        };
        let activity = ActivitySettings { resolution: Duration::from_secs(60), flush_interval: Duration::from_secs(1) };
        let judge = Judge::new(Parts {
            verifier: Arc::new(verifier),
            tokens: TokenCache::new(1 << 20),
            ledger: Ledger::new(store.clone(), Arc::clone(&cache), retention, READ_TIMEOUT, Clock::System),
            recorder: Arc::new(Recorder::new(activity, Clock::System)),
            sessions: Arc::new(SessionRegister::new(
                RegisterSettings::default(),
                store.clone(),
                Arc::clone(&cache),
                Clock::System,
            )),
            clock: Clock::System,
            streams: Streams::new(settings.max_staleness),
            verdicts: VerdictMetrics::default(),
            observer: None,
        });
        Self { issuer, store, cache, judge, keys }
    }

    fn layer(&self) -> GateLayer {
        GateLayer::new(self.judge.clone(), policy())
    }

    fn hold(&self) {
        self.store.open.send_replace(false);
    }

    fn release(&self) {
        self.store.open.send_replace(true);
    }

    fn reads(&self) -> usize {
        self.store.reads.load(Ordering::SeqCst)
    }

    /// A request with a token of `sub`.
    fn request<B: Default>(&self, sub: &str) -> Request<B> {
        let mut claims = self.issuer.claims(now().as_secs() - 10);
        claims["sub"] = sub.into();
        let token = self.issuer.token(&claims);
        Request::get("/").header("authorization", format!("Bearer {token}")).body(B::default()).unwrap()
    }
}

fn policy() -> Policy {
    Policy {
        identity: [(HeaderName::from_static("x-user"), 0)].into(),
        forward_token: false,
        realm: "layer".into(),
        ..Policy::new("layer")
    }
}

/// Answers with the user that it was told of; panics when it is called without having been asked whether it is ready,
/// and is ready for `permits` requests at a time.
struct Picky {
    permits: Arc<AtomicUsize>,
    holds_permit: bool,
}

impl Picky {
    fn new(permits: usize) -> Self {
        Self { permits: Arc::new(AtomicUsize::new(permits)), holds_permit: false }
    }
}

impl Clone for Picky {
    fn clone(&self) -> Self {
        Self { permits: Arc::clone(&self.permits), holds_permit: false }
    }
}

impl Drop for Picky {
    fn drop(&mut self) {
        if self.holds_permit {
            self.permits.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl<B> Service<Request<B>> for Picky {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if !self.holds_permit {
            let taken = self.permits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |permits| permits.checked_sub(1));
            if taken.is_err() {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.holds_permit = true;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        assert!(self.holds_permit, "called without having been ready");
        self.holds_permit = false;
        self.permits.fetch_add(1, Ordering::SeqCst);
        assert!(request.headers().get("authorization").is_none(), "the token went on");
        let user = request.headers().get("x-user").map(|user| user.as_bytes().to_vec()).unwrap_or_default();
        let admitted = request.extensions().get::<Admission>().expect("an admission");
        assert_eq!(admitted.claims().subject.id.as_str().as_bytes(), user);
        ready(Ok(Response::new(Full::from(user))))
    }
}

async fn text<B: http_body::Body<Error: fmt::Debug>>(response: Response<B>) -> (StatusCode, String) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Waits until the service is ready, and calls it.
async fn call<S, R>(service: &mut S, request: Request<()>) -> Response<R>
where
    S: Service<Request<()>, Response = Response<R>, Error = Infallible>,
{
    let answer = async { service.ready().await.unwrap().call(request).await };
    let Ok(response) = tokio::time::timeout(Duration::from_secs(15), answer).await.expect("an answer in time");
    response
}

#[tokio::test]
async fn a_plain_service_is_told_who_it_is_and_never_sees_the_refused() {
    let court = Court::sit().await;
    let mut service = court.layer().layer(Picky::new(1));
    for round in 0..3 {
        let mut request: Request<()> = court.request("alice");
        request.headers_mut().append("x_user", "mallory".parse().unwrap());
        let (status, body) = text(call(&mut service, request).await).await;
        assert_eq!((status, &*body), (StatusCode::OK, "alice"), "round {round}");
        let request: Request<()> = court.request("blocked-bob");
        let (status, body) = text(call(&mut service, request).await).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert!(body.contains("\"user_blocked\""), "{body}");
        let (status, body) = text(call(&mut service, Request::new(())).await).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert!(body.contains("\"missing_token\""), "{body}");
    }
    assert_eq!(court.reads(), 8, "logout, block and session of two, their client and their issuer: each is read once");
}

#[tokio::test]
async fn axum_handlers_get_the_admission() {
    async fn whoami(Extension(admission): Extension<Admission>) -> String {
        admission.claims().subject.id.as_str().to_owned()
    }
    let court = Court::sit().await;
    let app: Router = Router::new().route("/", get(whoami)).layer(court.layer());
    let (status, body) = text(app.clone().oneshot(court.request::<Body>("alice")).await.unwrap()).await;
    assert_eq!((status, &*body), (StatusCode::OK, "alice"));
    let refused = app.clone().oneshot(court.request::<Body>("blocked-bob")).await.unwrap();
    assert!(refused.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer realm=\"layer\""));
    assert_eq!(text(refused).await.0, StatusCode::UNAUTHORIZED);
}

/// A service is ready for one request at a time: whoever is refused, cancelled or served gives the place back.
#[tokio::test]
async fn no_permit_is_lost() {
    let court = Court::sit().await;
    let picky = Picky::new(1);
    let permits = Arc::clone(&picky.permits);
    let mut service = court.layer().layer(picky);
    let mut refused = service.clone();
    for sub in ["alice", "blocked-bob", "alice", "blocked-bob"] {
        let first: Request<()> = court.request(sub);
        drop(call(&mut service, first).await);
        assert_eq!(permits.load(Ordering::SeqCst), 1, "{sub}");
        drop(call(&mut refused, Request::new(())).await);
        assert_eq!(permits.load(Ordering::SeqCst), 1);
    }
    court.hold();
    let ready = ServiceExt::<Request<()>>::ready(&mut service).await.unwrap();
    let waiting = ready.call(court.request::<()>("carol"));
    assert_eq!(permits.load(Ordering::SeqCst), 0, "the service is kept ready for the request that waits");
    let mut context = Context::from_waker(Waker::noop());
    assert!(Service::<Request<()>>::poll_ready(&mut refused, &mut context).is_pending());
    drop(waiting);
    assert_eq!(permits.load(Ordering::SeqCst), 1);
    court.release();
    let (status, body) = text(call(&mut service, court.request("carol")).await).await;
    assert_eq!((status, &*body), (StatusCode::OK, "carol"));
}

#[tokio::test]
async fn many_who_ask_at_once_share_one_read_even_if_the_first_gives_up() {
    let court = Court::sit().await;
    let service = court.layer().layer(Picky::new(1000));
    court.hold();
    let mut calls: Vec<_> = (0..20).map(|_| Box::pin(service.clone().oneshot(court.request::<()>("alice")))).collect();
    let mut context = Context::from_waker(Waker::noop());
    for call in &mut calls {
        assert!(call.as_mut().poll(&mut context).is_pending());
    }
    let read = court.reads();
    assert_eq!(read, 5, "logout, block, session, client, issuer");
    drop(calls.drain(..10));
    let rest = tokio::spawn(futures_util::future::join_all(calls));
    eventually("another one reads", async || court.reads() == read + 5).await;
    court.release();
    for answer in rest.await.unwrap() {
        assert_eq!(text(answer.unwrap()).await, (StatusCode::OK, "alice".to_owned()));
    }
    assert_eq!(court.reads(), read + 5, "one of the others took it over");
}

/// A request never waits longer than `read_timeout`, whoever began the read that it waits for.
#[tokio::test(start_paused = true)]
async fn those_who_take_over_a_read_wait_no_longer_than_others() {
    let court = Court::sit().await;
    let service = court.layer().layer(Picky::new(1000));
    court.hold();
    let call = || service.clone().oneshot(court.request::<()>("alice"));
    let patient = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let begun = Instant::now();
        let (status, body) = text(call().await.unwrap()).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("\"stale\""), "{body}");
        begun.elapsed()
    };
    let (_, took) = tokio::join!(tokio::time::timeout(Duration::from_millis(250), call()), patient);
    assert!(took <= READ_TIMEOUT + Duration::from_millis(10), "waited {took:?}");
}

/// A marker that changes while its read is under way wins.
#[tokio::test]
async fn a_change_during_a_read_is_not_overlooked() {
    let court = Court::sit().await;
    let service = court.layer().layer(Picky::new(1000));
    court.hold();
    let before = court.reads();
    let request = court.request::<()>("alice");
    let call = tokio::spawn(service.clone().oneshot(request.clone()));
    eventually("the reads are under way", async || court.reads() == before + 5).await;
    court.cache.changed("block:acme:alice");
    court.release();
    assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(court.reads(), before + 6, "what was read before the change is read again");
    assert_eq!(service.oneshot(request).await.unwrap().status(), StatusCode::OK);
    assert_eq!(court.reads(), before + 6, "and then it is known");
}

/// Everything by default, but the issuer's keys, which are in a file.
fn settings(issuer: &TestIssuer, keys: &NamedTempFile) -> EngineSettings {
    let settings = IssuerSettings {
        keys: KeySource::File(keys.path().to_owned()),
        algorithms: [jsonwebtoken::Algorithm::ES256].into(),
        ..IssuerSettings::new("acme".try_into().unwrap(), &issuer.identifier, AUDIENCE)
    };
    EngineSettings::new(vec![settings])
}

fn start(settings: EngineSettings, directory: &Path) -> Engine {
    let store = EmbeddedSettings { directory: directory.to_owned() };
    let engine = Engine::start(settings, |watcher, clock| {
        Ok::<Arc<dyn Store>, Box<dyn std::error::Error>>(EmbeddedStore::open(&store, watcher, clock)?)
    });
    engine.unwrap()
}

#[tokio::test]
async fn an_engine_keeps_what_it_was_told() {
    let directory = tempfile::tempdir().unwrap();
    let court = Court::sit().await;
    let request = || court.request::<()>("alice");
    let service = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())));
    let status = async |engine: &Engine| {
        let gate = engine.layer(Policy::new("layer")).layer(service);
        let Ok(response) = gate.oneshot(request()).await;
        response.status()
    };

    let engine = start(settings(&court.issuer, &court.keys), directory.path());
    eventually("the engine is ready", async || engine.is_ready()).await;
    assert_eq!(status(&engine).await, StatusCode::OK);
    let subject = Subject { issuer: "acme".try_into().unwrap(), id: "alice".try_into().unwrap() };
    let record = MarkerRecord::new(Marker::Block(Block { blocked: true, at: now(), until: None }));
    engine.judge().parts().ledger.write(&MarkerKey::block(&subject), &record).await.unwrap();
    assert_eq!(status(&engine).await, StatusCode::UNAUTHORIZED);
    engine.stop().await;

    let engine = start(settings(&court.issuer, &court.keys), directory.path());
    eventually("the engine is ready", async || engine.is_ready()).await;
    assert_eq!(status(&engine).await, StatusCode::UNAUTHORIZED, "blocked still");
    let seen = engine.judge().parts().ledger.store().last_activity(&subject).await.unwrap();
    assert!(seen.is_some_and(|seen| seen <= now()), "written by the stop");

    // Not stopped, but dropped: it lets go of the store before long.
    drop(engine);
    eventually("the store is free", async || {
        let store = EmbeddedSettings { directory: directory.path().to_owned() };
        EmbeddedStore::open(&store, court.cache.clone(), Clock::System).is_ok()
    })
    .await;
}

#[test]
fn defaults_are_those_of_the_configuration() {
    let text = "[issuers.acme]\nissuer = \"https://acme.test/\"\naudiences = [\"api\"]\n\
                [[routes]]\nname = \"api\"\nupstream = \"http://127.0.0.1:3000\"\n";
    let config = Config::parse(text, "portcullis.toml", []).unwrap();
    let engine = EngineSettings::new(Vec::new());
    assert_eq!(engine.markers, config.markers);
    assert_eq!(engine.retention, config.retention);
    assert_eq!(engine.activity, config.activity);
    assert_eq!(engine.token_cache_size, config.tokens.cache_size);
    assert_eq!(engine.tokens.max_token_length, config.tokens.max_length);
    let issuer = IssuerSettings::new("acme".try_into().unwrap(), "https://acme.test/", "api");
    assert_eq!(format!("{issuer:?}"), format!("{:?}", config.issuers[0]));
    // The gateway tells upstreams who it is by default; a service behind a layer has the `Admission`.
    let policy = Policy { identity: config.routes[0].policy.identity.clone(), ..Policy::new("api") };
    assert_eq!(format!("{policy:?}"), format!("{:?}", config.routes[0].policy));
}

/// By a clock that stands still, so that the edges are met to the millisecond.
#[tokio::test]
async fn a_session_ends_in_the_very_millisecond_of_its_limit() {
    let directory = tempfile::tempdir().unwrap();
    let court = Court::sit().await;
    let clock = ManualClock::new(Timestamp::from_secs(1_763_700_000));
    let settings = || {
        let mut settings = settings(&court.issuer, &court.keys);
        settings.tokens.clock = Clock::Manual(clock.clone());
        settings
    };
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let policy = || Policy {
        limits: SessionLimits { idle: Some(minutes(30)), absolute: Some(minutes(120)) },
        ..Policy::new("layer")
    };
    let ask = async |engine: &Engine, sid: &str| {
        let mut claims = court.issuer.claims(clock.now().as_secs());
        (claims["sid"], claims["auth_time"]) = (sid.into(), 1_763_700_000.into());
        let token = format!("Bearer {}", court.issuer.token(&claims));
        let request = Request::get("/").header("authorization", token).body(()).unwrap();
        let service = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())));
        let Ok(response) = engine.layer(policy()).layer(service).oneshot(request).await;
        let told =
            |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().parse::<u64>().unwrap());
        (
            response.extensions().get::<Reason>().map_or("admit", |reason| reason.code()),
            told("portcullis-session-idle"),
            told("portcullis-session-absolute"),
        )
    };

    let engine = start(settings(), directory.path());
    eventually("the engine is ready", async || engine.is_ready()).await;
    assert_eq!(ask(&engine, "one").await, ("admit", Some(1800), Some(7200)));
    assert_eq!(ask(&engine, "two").await, ("admit", Some(1800), Some(7200)));
    clock.advance(Duration::from_millis(30 * 60_000 - 1));
    assert_eq!(ask(&engine, "one").await, ("admit", Some(1800), Some(5400)));
    clock.advance(Duration::from_millis(1));
    assert_eq!(ask(&engine, "two").await, ("idle_timeout", None, None));
    for _ in 0..3 {
        clock.advance(minutes(29));
        assert_eq!(ask(&engine, "one").await.0, "admit");
    }
    clock.set(Timestamp::from_secs(1_763_700_000 + 7200).minus(Duration::from_millis(1)));
    assert_eq!(ask(&engine, "one").await, ("admit", Some(1800), Some(0)), "each limit is told by itself");
    clock.advance(Duration::from_millis(1));
    assert_eq!(ask(&engine, "one").await, ("reauthentication_required", None, None));
    engine.stop().await;

    let engine = start(settings(), directory.path());
    eventually("the engine is ready", async || engine.is_ready()).await;
    assert_eq!(ask(&engine, "two").await.0, "session_ended");
    engine.stop().await;
}
