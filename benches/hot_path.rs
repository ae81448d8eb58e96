//! What a request costs inside the gate, step by step: verification, caches, verdict, the whole layer.
//!
//! `cargo bench --bench hot_path [-- FILTER]`. Figures of different runs compare only on a quiet machine.

use std::{
    convert::Infallible,
    error::Error,
    fs,
    future::{Ready, ready},
    hint::black_box,
    path::Path,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use criterion::{BatchSize, Bencher, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::{FutureExt, future::join_all};
use http::{HeaderValue, Request, Response, StatusCode, header};
use portcullis::{
    activity::Recorder,
    clock::Clock,
    config::{Config, StoreSettings},
    event::auth0::{
        framing::records,
        record::{Codes, RecordReader},
    },
    gate::{
        GateLayer, Judge, Policy,
        judge::Parts,
        tokens::{KnownToken, TokenCache, TokenDigest},
        verdicts::VerdictMetrics,
    },
    marker::{
        Known, Logout, Marker, MarkerClock, MarkerKey, MarkerRecord, Reading,
        cache::{MarkerCache, Marks},
        ledger::Ledger,
    },
    route::{
        path::{CanonicalPath, canonicalise},
        table::{HostPattern, RouteTable},
    },
    server::http1::read_in_pieces,
    session::{
        Lifetime, SessionLimits,
        register::{Place, RegisterSettings, SessionRegister, TokenSession},
    },
    store::{Store, Watcher, embedded::EmbeddedStore},
    stream::Streams,
    token::{
        claims::{Claims, Subject, SubjectId},
        verify::{VerifiedToken, Verifier, VerifierOptions},
    },
    verdict::{Case, Knowledge, Presented, Reason, Verdict, decide},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::{Layer, Service};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ISSUER: &str = "https://tenant.example/";
const AUDIENCE: &str = "https://api.example";
const LIMITS: SessionLimits =
    SessionLimits { idle: Some(Duration::from_secs(1800)), absolute: Some(Duration::from_secs(12 * 3600)) };
const ALGORITHMS: [&str; 4] = ["RS256", "PS256", "ES256", "EdDSA"];

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .nresamples(10_000);
    targets = verify, token_cache, marker_cache, verdict, session, layer, route, framing, events
}
criterion_main!(benches);

fn verify(criterion: &mut Criterion) {
    let bench = bench();
    let mut group = criterion.benchmark_group("verify");
    for key in &bench.keys {
        let token = key.token(0);
        assert!(bench.verifier.verify(&token).is_ok(), "a token with {} does not verify", key.algorithm);
        group.bench_function(key.algorithm, |bencher| bencher.iter(|| bench.verifier.verify(black_box(&token))));
    }
    let token = with_bad_signature(&bench.keys[0].token(0));
    assert!(bench.verifier.verify(&token).is_err());
    group.bench_function("bad_signature", |bencher| bencher.iter(|| bench.verifier.verify(black_box(&token))));
}

fn token_cache(criterion: &mut Criterion) {
    let bench = bench();
    let mut group = criterion.benchmark_group("token_cache");
    // What signed them does not matter here, and Ed25519 signs fast.
    let tokens: Vec<String> = (0..50_000).map(|n| bench.keys[3].token(n)).collect();
    let known: Vec<_> = tokens.iter().map(|token| bench.known(token)).collect();
    for (name, count) in [("hit/1k", 1000), ("hit/50k", 50_000)] {
        let cache = TokenCache::new(256 << 20);
        known[..count].iter().for_each(|known| cache.insert(known));
        cache.maintain();
        let mut next = tokens[..count].iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let found = next.next().and_then(|token| cache.get(black_box(token.as_bytes())));
                assert!(found.is_some());
                found
            });
        });
    }
}

fn marker_cache(criterion: &mut Criterion) {
    let bench = bench();
    let mut group = criterion.benchmark_group("marker_cache");
    let (cache, store) = (bench.ledger.cache(), &**bench.ledger.store());
    let claims = bench.verified(0).claims;
    let marks = cache.marks(&claims);
    assert!(bench.runtime.block_on(cache.learn(&marks, &claims, store)).is_ok());
    group.bench_function("recall", |bencher| {
        bencher.iter(|| {
            let known = cache.recall(black_box(&marks));
            assert!(known.is_some());
            known
        });
    });

    let mut number = 0;
    let mut unknown = || {
        number += 1;
        let claims = of_subject(&claims, number);
        (cache.marks(&claims), claims)
    };
    // The store knows of no marker for these, as for nearly everybody.
    group.bench_function("learn/absent", |bencher| {
        bencher.iter_batched(
            &mut unknown,
            |(marks, claims): (Marks, Claims)| {
                let known = bench.runtime.block_on(cache.learn(&marks, &claims, store));
                assert!(known.is_ok_and(|known| known == Known::NOTHING));
            },
            BatchSize::SmallInput,
        );
    });

    assert!(bench.log_out(&claims.subject).is_ok());
    for (name, callers) in [("learn/stored", 1), ("learn/stored_16_at_once", 16)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                // Everything that is cached is forgotten, so that the store is read.
                cache.reset();
                let known = bench.runtime.block_on(join_all((0..callers).map(|_| cache.learn(&marks, &claims, store))));
                assert!(known.iter().all(|known| known.as_ref().is_ok_and(|known| known.logout.present().is_some())));
            });
        });
    }
}

fn verdict(criterion: &mut Criterion) {
    let bench = bench();
    let mut group = criterion.benchmark_group("verdict");
    let claims = bench.verified(0).claims;
    let now = Clock::System.now();
    let logged_out =
        Known { logout: Reading::Present(Logout { at: now, clock: MarkerClock::Gateway }), ..Known::NOTHING };
    for (name, known, expected) in
        [("admit", Known::NOTHING, Verdict::Admit), ("logged_out", logged_out, Verdict::Refuse(Reason::LoggedOut))]
    {
        let case = Case {
            presented: Presented::Verified(&claims),
            knowledge: Knowledge::Current(&known),
            lifetime: Lifetime::Unlimited,
            settings: &bench.policy.settings,
            now,
        };
        assert_eq!(decide(&case), expected);
        group.bench_function(name, |bencher| bencher.iter(|| decide(black_box(&case))));
    }
}

/// A session that is plainly alive: what its limits cost a request.
fn session(criterion: &mut Criterion) {
    let bench = bench();
    let mut group = criterion.benchmark_group("session");
    let judge = bench.judge();
    let sessions = &judge.parts().sessions;
    let claims = bench.verified(0).claims;
    let place = Place { route: &bench.policy.name, limits: LIMITS, clock_skew: Duration::from_secs(1) };
    let session = sessions.enter(&claims);
    let learned = bench.runtime.block_on(sessions.learn(&session, &claims, &place));
    assert!(matches!(learned, Lifetime::Limited { .. }));
    let now = Clock::System.now();
    sessions.touch(&session, &claims, now);
    group.bench_function("recall", |bencher| {
        bencher.iter(|| {
            let lifetime = sessions.recall(black_box(&session), &claims, &place, now);
            assert!(lifetime.is_some() && !sessions.lags(&session, now));
            lifetime
        });
    });
    group.bench_function("touch", |bencher| {
        bencher.iter(|| sessions.touch(black_box(&session), &claims, now));
    });
    for (name, lifetime) in [("decide_limited", learned), ("decide_unlimited", Lifetime::Unlimited)] {
        let case = Case {
            presented: Presented::Verified(&claims),
            knowledge: Knowledge::Current(&Known::NOTHING),
            lifetime,
            settings: &bench.policy.settings,
            now,
        };
        assert_eq!(decide(&case), Verdict::Admit);
        group.bench_function(name, |bencher| bencher.iter(|| decide(black_box(&case))));
    }
}

fn layer(criterion: &mut Criterion) {
    let bench = bench();
    let mut group = criterion.benchmark_group("layer");
    let (admitted, refused) = (bench.keys[0].token(0), bench.keys[0].token(1));
    assert!(bench.log_out(&bench.known(&refused).claims.subject).is_ok());
    let gate = GateLayer::new(bench.judge(), bench.policy.clone()).layer(NoOp);
    for (name, token, expected) in
        [("admit_cached", &admitted, StatusCode::OK), ("refuse_logged_out", &refused, StatusCode::UNAUTHORIZED)]
    {
        // The first request verifies the token and asks the store.
        let first = bench.runtime.block_on(gate.clone().call(request(token)));
        assert!(first.is_ok_and(|response| response.status() == expected), "{name}");
        group.bench_function(name, |bencher| exchange(bencher, &gate, token));
    }
    let limited = Policy { limits: LIMITS, ..bench.policy.clone() };
    let gate = GateLayer::new(bench.judge(), limited).layer(NoOp);
    let first = bench.runtime.block_on(gate.clone().call(request(&admitted)));
    assert!(first.is_ok_and(|response| response.headers().contains_key("portcullis-session-idle")));
    group.bench_function("admit_limited", |bencher| exchange(bencher, &gate, &admitted));
    group.bench_function("bare", |bencher| exchange(bencher, &NoOp, &admitted));
}

fn route(criterion: &mut Criterion) {
    let host = |name: String| HostPattern::parse(&name).ok();
    let path = |path: String| CanonicalPath::parse(&path).ok();
    let routes = (0..8).flat_map(|h| (0..8).map(move |p| (h, p))).filter_map(|(h, p)| {
        Some((vec![host(format!("api-{h}.example.com"))?], path(format!("/v1/service-{p}"))?, (h, p)))
    });
    let table = RouteTable::new(routes);
    assert_eq!(table.find("api-5.example.com", "/v1/service-6/orders/4711"), Some(&(5, 6)));
    criterion.bench_function("route/find", |bencher| {
        bencher.iter(|| table.find(black_box("api-5.example.com"), black_box("/v1/service-6/orders/4711")));
    });
    criterion.bench_function("path/canonicalise_clean", |bencher| {
        bencher.iter(|| canonicalise(black_box("/v1/service-6/orders/4711")));
    });
}

/// Where a request ends, as it is looked at in front of the parser.
fn framing(criterion: &mut Criterion) {
    let token = "x".repeat(900);
    let head = format!(
        "GET /v1/orders/42?expand=lines HTTP/1.1\r\nHost: api.example\r\nAuthorization: Bearer {token}\r\nAccept: */*\r\n\
         Accept-Encoding: gzip\r\nUser-Agent: load/1\r\nConnection: keep-alive\r\n\r\n"
    );
    criterion.bench_function("framing/header_of_1_kib", |bencher| {
        bencher.iter(|| assert_eq!(read_in_pieces([black_box(head.as_bytes())]).map(|read| read.len()), Some(1)));
    });
}

/// Log records, from a body to events. The package comes without the records.
fn events(criterion: &mut Criterion) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/auth0/log-stream/batch.jsonl");
    let (Ok(body), Ok(issuer)) = (fs::read(path), "bench".try_into()) else { return };
    let reader = RecordReader::new(issuer, Codes::default());
    let count = records(&body).filter_map(|record| reader.read(record).ok()).count();
    assert_eq!(count, 11, "records are not understood");
    let mut group = criterion.benchmark_group("events");
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function("records_found", |bencher| bencher.iter(|| records(black_box(&body)).count()));
    group.bench_function("records_read", |bencher| {
        bencher.iter(|| records(black_box(&body)).filter_map(|record| reader.read(record).ok()).count());
    });
    group.finish();
}

/// One request through a service whose answer is there at once. Making and dropping it does not count.
fn exchange<S>(bencher: &mut Bencher<'_>, service: &S, token: &str)
where
    S: Service<Request<()>, Response = Response<Bytes>, Error = Infallible> + Clone,
{
    let mut service = service.clone();
    bencher.iter_batched(
        || request(token),
        |request| {
            let response = service.call(request).now_or_never();
            assert!(response.is_some());
            response
        },
        BatchSize::SmallInput,
    );
}

fn request(token: &str) -> Request<()> {
    let mut request = Request::new(());
    let fields = request.headers_mut();
    fields.insert(header::HOST, HeaderValue::from_static("api.example"));
    fields.insert(header::USER_AGENT, HeaderValue::from_static("bench/1.0"));
    fields.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    fields.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, br"));
    if let Ok(field) = HeaderValue::try_from(format!("Bearer {token}")) {
        fields.insert(header::AUTHORIZATION, field);
    }
    request
}

/// What stands behind the gate.
#[derive(Clone)]
struct NoOp;

impl Service<Request<()>> for NoOp {
    type Response = Response<Bytes>;
    type Error = Infallible;
    type Future = Ready<std::result::Result<Response<Bytes>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        black_box(request);
        ready(Ok(Response::new(Bytes::new())))
    }
}

/// The parts of a gate with an embedded store, and keys to sign tokens for it.
struct Bench {
    runtime: Runtime,
    keys: Vec<SigningKey>,
    verifier: Arc<Verifier>,
    ledger: Ledger,
    policy: Policy,
    /// Removed at the end.
    _directory: TempDir,
}

fn bench() -> Bench {
    match Bench::new() {
        Ok(bench) => bench,
        Err(error) => panic!("the bench cannot be set up: {error}"),
    }
}

impl Bench {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let runtime = Runtime::new()?;
        let keys = ALGORITHMS.into_iter().map(SigningKey::generate).collect::<Result<Vec<_>>>()?;
        let jwks: Vec<Value> = keys.iter().map(SigningKey::jwk).collect();
        std::fs::write(directory.path().join("jwks.json"), json!({ "keys": jwks }).to_string())?;
        let config = Config::parse(&configuration(directory.path()), "bench.toml", [])?;
        let options =
            VerifierOptions { forwarded_claims: config.forwarded_claims.clone(), ..VerifierOptions::default() };
        let verifier = Arc::new(Verifier::new(config.issuers.clone(), options)?);
        for (_, loaded) in runtime.block_on(verifier.load()) {
            loaded?;
        }
        // Current all the time, as nothing is ever written by others.
        let cache = Arc::new(MarkerCache::new(config.markers));
        let StoreSettings::Embedded(settings) = &config.store else { return Err("not an embedded store".into()) };
        let store = EmbeddedStore::open(settings, Arc::clone(&cache) as Arc<dyn Watcher>, Clock::System)?;
        cache.heard(std::time::Instant::now());
        let ledger =
            Ledger::new(store as Arc<dyn Store>, cache, config.retention, config.markers.write_timeout, Clock::System);
        let policy = config.routes.first().ok_or("no route")?.policy.clone();
        Ok(Self { runtime, keys, verifier, ledger, policy, _directory: directory })
    }

    fn judge(&self) -> Judge {
        let settings = portcullis::activity::ActivitySettings {
            resolution: Duration::from_secs(60),
            flush_interval: Duration::from_secs(1),
        };
        Judge::new(Parts {
            verifier: Arc::clone(&self.verifier),
            tokens: TokenCache::new(128 << 20),
            ledger: self.ledger.clone(),
            recorder: Arc::new(Recorder::new(settings, Clock::System)),
            sessions: Arc::new(SessionRegister::new(
                RegisterSettings::default(),
                Arc::clone(self.ledger.store()),
                Arc::clone(self.ledger.cache()),
                Clock::System,
            )),
            clock: Clock::System,
            streams: Streams::new(Duration::from_secs(2)),
            verdicts: VerdictMetrics::default(),
            observer: None,
        })
    }

    fn verified(&self, number: usize) -> VerifiedToken {
        match self.verifier.verify(&self.keys[0].token(number)) {
            Ok(verified) => verified,
            Err(error) => panic!("a token does not verify: {error}"),
        }
    }

    fn known(&self, token: &str) -> Arc<KnownToken> {
        let digest = TokenDigest::of(token.as_bytes());
        match self.verifier.verify(token) {
            Ok(token) => {
                let marks = self.ledger.cache().marks(&token.claims);
                Arc::new(KnownToken::new(digest, token, marks, TokenSession::default()))
            }
            Err(error) => panic!("a token does not verify: {error}"),
        }
    }

    fn log_out(&self, subject: &Subject) -> Result<()> {
        let marker = Marker::Logout(Logout { at: Clock::System.now(), clock: MarkerClock::Gateway });
        self.runtime.block_on(self.ledger.write(&MarkerKey::logout(subject), &MarkerRecord::new(marker)))?;
        Ok(())
    }
}

fn configuration(directory: &Path) -> String {
    let quoted = |text: String| toml::Value::from(text).to_string();
    let store = quoted(format!("embedded:{}", directory.join("store").display()));
    let jwks = quoted(directory.join("jwks.json").display().to_string());
    format!(
        r#"
[store]
url = {store}

[markers]
max_staleness = "1h"

[issuers.bench]
issuer = "{ISSUER}"
audiences = ["{AUDIENCE}"]
algorithms = ["RS256", "PS256", "ES256", "EdDSA"]
jwks_file = {jwks}

[[routes]]
name = "api"
upstream = "http://127.0.0.1:3000"
identity = {{ "X-Forwarded-User" = "sub" }}
"#
    )
}

/// The same claims of somebody else.
fn of_subject(claims: &Claims, number: usize) -> Claims {
    let mut claims = claims.clone();
    if let Ok(id) = SubjectId::try_from(&*format!("auth0|someone-else-{number}")) {
        claims.subject.id = id;
    }
    claims
}

/// The second half of the signature is another: as a number it stays below the modulus, so that it takes the arithmetic to
/// tell.
fn with_bad_signature(token: &str) -> String {
    let signature = token.rfind('.').unwrap_or_default();
    let (kept, turned) = token.split_at(signature + (token.len() - signature) / 2);
    // The last character carries padding bits, so it keeps its place.
    let (turned, last) = turned.split_at(turned.len() - 1);
    let (front, back) = turned.split_at(turned.len() / 2);
    format!("{kept}{back}{front}{last}")
}

/// A key of one algorithm; its name is the key's id.
struct SigningKey {
    algorithm: &'static str,
    signer: Signer,
}

enum Signer {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl SigningKey {
    fn generate(algorithm: &'static str) -> Result<Self> {
        let signer = match algorithm {
            "RS256" => Signer::Rsa(RsaKeyPair::generate(KeySize::Rsa2048)?, &signature::RSA_PKCS1_SHA256),
            "PS256" => Signer::Rsa(RsaKeyPair::generate(KeySize::Rsa2048)?, &signature::RSA_PSS_SHA256),
            "ES256" => Signer::Ec(EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING)?),
            _ => Signer::Ed(Ed25519KeyPair::generate()?),
        };
        Ok(Self { algorithm, signer })
    }

    fn jwk(&self) -> Value {
        let mut jwk = match &self.signer {
            Signer::Rsa(pair, _) => {
                let key = pair.public_key();
                let modulus = encode(key.modulus().big_endian_without_leading_zero());
                json!({ "kty": "RSA", "n": modulus, "e": encode(key.exponent().big_endian_without_leading_zero()) })
            }
            Signer::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y) })
            }
            Signer::Ed(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key()) }),
        };
        jwk["kid"] = json!(self.algorithm);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(self.algorithm);
        jwk
    }

    /// A token like those of an Auth0 tenant; about 940 bytes with RSA.
    fn token(&self, number: usize) -> String {
        let issued_at = Clock::System.now().as_secs();
        let header = json!({ "alg": self.algorithm, "typ": "at+jwt", "kid": self.algorithm });
        let claims = json!({
            "iss": ISSUER,
            "sub": format!("auth0|6553da60a54a{number:012}"),
            "aud": [AUDIENCE, "https://tenant.example/userinfo"],
            "iat": issued_at,
            "exp": issued_at + 3600,
            "azp": "my5Ke2dqQ0Gx8cTzWv1LbNpRhYs7JfUa",
            "scope": "openid profile email read:orders write:orders",
            "permissions": ["read:orders", "write:orders"],
            "sid": format!("Vq8sT3kLw2ZrXy0mBnD4{number:012}"),
            "jti": format!("c0NkR7vQpLxS{number:012}"),
        });
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        format!("{message}.{}", encode(self.sign(message.as_bytes())))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let signed = match &self.signer {
            Signer::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).map(|()| signature)
            }
            Signer::Ec(pair) => pair.sign(&random, message).map(|signature| signature.as_ref().to_vec()),
            Signer::Ed(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        };
        match signed {
            Ok(signature) => signature,
            Err(error) => panic!("{} does not sign: {error}", self.algorithm),
        }
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
