//! Key sets over real sockets: how they come, how they change, and what happens when they do not come.

use std::{
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::join_all};
use http::StatusCode;
use jsonwebtoken::Algorithm;
use portcullis::token::{
    TokenFault,
    claims::IssuerName,
    issuer::{IssuerSettings, KeySource},
    jwks::{JwksError, KeySetStatus},
    verify::{Unverified, Verifier, VerifierOptions},
};
use serde_json::json;
use tokio::runtime::Handle;

use super::NOW;
use crate::support::{
    eventually,
    jwks_server::JwksServer,
    keys::{SigningKey, TestIssuer},
};

const JWKS: &str = "/jwks.json";
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// An issuer, its server, and a verifier that fetches its keys from there.
struct Setting {
    issuer: TestIssuer,
    server: JwksServer,
    verifier: Arc<Verifier>,
}

impl Setting {
    async fn start(change: impl FnOnce(IssuerSettings) -> IssuerSettings) -> Self {
        let issuer = TestIssuer::new("https://issuer.example/");
        let server = JwksServer::start().await;
        server.put(JWKS, issuer.jwks().to_string());
        let settings = change(issuer.settings("main", KeySource::Url(server.url(JWKS).parse().unwrap())));
        let verifier = Verifier::new(vec![settings], VerifierOptions::default()).unwrap();
        Self { issuer, server, verifier: Arc::new(verifier) }
    }

    async fn loaded(change: impl FnOnce(IssuerSettings) -> IssuerSettings) -> Self {
        let setting = Self::start(change).await;
        setting.load().await.unwrap();
        setting
    }

    async fn load(&self) -> Result<KeySetStatus, Arc<JwksError>> {
        self.verifier.load().await.remove(0).1
    }

    fn status(&self) -> KeySetStatus {
        self.verifier.status().remove(0).1
    }

    /// A token of the key at this place.
    fn token(&self, key: usize) -> String {
        self.issuer.keys[key].token(&self.issuer.claims(NOW))
    }

    /// Adds a key to the issuer and publishes it.
    fn publish_new_key(&mut self) -> usize {
        let id = format!("key-{}", self.issuer.keys.len() + 1);
        self.issuer.keys.push(SigningKey::generate(&id, Algorithm::ES256));
        self.server.put(JWKS, self.issuer.jwks().to_string());
        self.issuer.keys.len() - 1
    }
}

fn no_rate_limit(settings: IssuerSettings) -> IssuerSettings {
    IssuerSettings { refetch_interval: Duration::ZERO, ..settings }
}

fn main_issuer() -> IssuerName {
    IssuerName::try_from("main").unwrap()
}

#[tokio::test]
async fn nothing_is_known_before_the_first_fetch() {
    let setting = Setting::start(|settings| settings).await;
    let token = setting.token(0);
    assert_eq!(setting.verifier.verify(&token).err(), Some(Unverified::KeysUnavailable));
    assert!(!setting.verifier.is_ready());
    assert_eq!(setting.status(), KeySetStatus::default());

    assert_eq!(setting.load().await.unwrap().keys, 1);
    assert!(setting.verifier.is_ready());
    assert!(setting.verifier.verify(&token).is_ok());
}

#[tokio::test]
async fn a_request_before_the_first_fetch_causes_it() {
    let setting = Setting::start(|settings| settings).await;
    assert!(setting.verifier.verify_or_refetch(&setting.token(0)).await.is_ok());
}

#[tokio::test]
async fn a_thousand_requests_with_a_new_key_cause_one_fetch() {
    one_fetch_for_a_thousand(Setting::loaded(no_rate_limit).await).await;
    one_fetch_for_a_thousand(Setting::loaded(|settings| settings).await).await;
}

async fn one_fetch_for_a_thousand(mut setting: Setting) {
    let new = setting.publish_new_key();
    let (token, verifier) = (setting.token(new), Arc::clone(&setting.verifier));
    setting.server.hold();
    let callers = tokio::spawn(async move {
        let outcomes = join_all((0..1000).map(|_| verifier.verify_or_refetch(&token))).await;
        outcomes.into_iter().flatten().count()
    });
    eventually("the fetch arrives", async || setting.server.hits(JWKS) == 2).await;
    setting.server.release();
    assert_eq!(callers.await.unwrap(), 1000);
    assert_eq!(setting.server.hits(JWKS), 2);
}

/// Whoever asks in the very moment in which another begins to fetch waits for that fetch, and is not told that there is none to come.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_slips_past_a_fetch_that_begins() {
    const CALLERS: usize = 4;
    for _ in 0..300 {
        let setting = Setting::loaded(|settings| settings).await;
        setting.server.hold();
        let barrier = Barrier::new(CALLERS);
        let runtime = Handle::current();
        let waiting = std::thread::scope(|scope| {
            let caller = || {
                let _guard = runtime.enter();
                let issuer = main_issuer();
                let mut refetch = Box::pin(setting.verifier.refetch_for(&issuer));
                barrier.wait();
                let waits = refetch.as_mut().now_or_never().is_none();
                // With whoever waits for it, the fetch would end.
                barrier.wait();
                waits
            };
            let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(caller)).collect();
            callers.into_iter().map(|caller| caller.join().unwrap()).filter(|waits| *waits).count()
        });
        assert_eq!(waiting, CALLERS);
    }
}

#[tokio::test]
async fn fetches_for_any_reason_are_one() {
    let setting = Setting::start(no_rate_limit).await;
    setting.server.hold();
    let (verifier, token) = (Arc::clone(&setting.verifier), setting.token(0));
    let waiting = tokio::spawn(async move {
        tokio::join!(verifier.load(), verifier.load(), verifier.verify_or_refetch(&token)).2.is_ok()
    });
    eventually("the fetch arrives", async || setting.server.hits(JWKS) == 1).await;
    setting.server.release();
    assert!(waiting.await.unwrap());
    assert_eq!(setting.server.hits(JWKS), 1);
}

#[tokio::test]
async fn a_fetch_survives_the_request_that_began_it() {
    let mut setting = Setting::loaded(no_rate_limit).await;
    let new = setting.publish_new_key();
    let token = setting.token(new);
    let call = || {
        let (verifier, token) = (Arc::clone(&setting.verifier), token.clone());
        tokio::spawn(async move { verifier.verify_or_refetch(&token).await.is_ok() })
    };
    setting.server.hold();
    let first = call();
    eventually("the fetch arrives", async || setting.server.hits(JWKS) == 2).await;
    let second = call();
    tokio::task::yield_now().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    setting.server.release();
    assert!(second.await.unwrap());
    assert_eq!(setting.server.hits(JWKS), 2);

    // With nobody left to wait for it, a fetch ends, and the next request begins another.
    let newer = setting.publish_new_key();
    let token = setting.token(newer);
    setting.server.hold();
    let (verifier, abandoned) = (Arc::clone(&setting.verifier), token.clone());
    let only = tokio::spawn(async move { verifier.verify_or_refetch(&abandoned).await.is_ok() });
    eventually("the fetch arrives", async || setting.server.hits(JWKS) == 3).await;
    only.abort();
    assert!(only.await.unwrap_err().is_cancelled());
    setting.server.release();
    assert!(setting.verifier.verify_or_refetch(&token).await.is_ok());
}

#[tokio::test]
async fn unknown_keys_cause_few_fetches() {
    let mut setting = Setting::loaded(|settings| settings).await;
    for n in 0..50 {
        let forger = SigningKey::generate(&format!("forged-{n}"), Algorithm::ES256);
        let token = forger.token(&setting.issuer.claims(NOW));
        let refused = setting.verifier.verify_or_refetch(&token).await.err();
        assert_eq!(refused, Some(Unverified::UnknownKey { issuer: main_issuer() }));
    }
    assert_eq!(setting.server.hits(JWKS), 2);

    // Also asked for by name; a background or first fetch is not held back by it.
    setting.verifier.refetch_for(&main_issuer()).await;
    assert_eq!(setting.server.hits(JWKS), 2);
    let new = setting.publish_new_key();
    setting.load().await.unwrap();
    assert!(setting.verifier.verify(&setting.token(new)).is_ok());
}

#[tokio::test]
async fn bad_tokens_of_known_keys_cause_no_fetch() {
    let setting = Setting::loaded(no_rate_limit).await;
    let forged = SigningKey::generate("key-1", Algorithm::ES256).token(&setting.issuer.claims(NOW));
    assert_eq!(setting.verifier.verify_or_refetch(&forged).await.err(), Some(TokenFault::Signature.into()));
    assert_eq!(setting.verifier.verify_or_refetch("a.b").await.err(), Some(TokenFault::NotCompact.into()));
    assert_eq!(setting.server.hits(JWKS), 1);
}

#[tokio::test]
async fn rotation_retires_what_is_gone_and_keeps_what_stays() {
    let mut setting = Setting::loaded(no_rate_limit).await;
    let first = setting.verifier.verify(&setting.token(0)).unwrap().key;
    let new = setting.publish_new_key();
    let second = setting.verifier.verify_or_refetch(&setting.token(new)).await.unwrap().key;
    assert!(first.is_current() && second.is_current());
    let again = setting.verifier.verify(&setting.token(0)).unwrap().key;
    assert!(Arc::ptr_eq(&first, &again));

    let old_token = setting.token(0);
    setting.issuer.keys.remove(0);
    setting.server.put(JWKS, setting.issuer.jwks().to_string());
    setting.load().await.unwrap();
    assert!(!first.is_current());
    assert!(second.is_current());
    assert_eq!(setting.verifier.verify(&old_token).err(), Some(Unverified::UnknownKey { issuer: main_issuer() }));
}

#[tokio::test]
async fn a_new_key_under_an_old_kid_replaces_it() {
    let mut setting = Setting::loaded(|settings| settings).await;
    let old = setting.verifier.verify(&setting.token(0)).unwrap().key;
    let old_token = setting.token(0);
    setting.issuer.keys[0] = SigningKey::generate("key-1", Algorithm::ES256);
    setting.server.put(JWKS, setting.issuer.jwks().to_string());
    setting.load().await.unwrap();
    assert!(!old.is_current());
    assert!(setting.verifier.verify(&setting.token(0)).unwrap().key.is_current());
    assert_eq!(setting.verifier.verify(&old_token).err(), Some(TokenFault::Signature.into()));
}

#[tokio::test]
async fn an_issuer_may_withdraw_all_its_keys() {
    let setting = Setting::loaded(|settings| settings).await;
    let key = setting.verifier.verify(&setting.token(0)).unwrap().key;
    setting.server.put(JWKS, r#"{"keys":[]}"#);
    assert_eq!(setting.load().await.unwrap().keys, 0);
    assert!(!key.is_current());
    assert!(matches!(setting.verifier.verify(&setting.token(0)), Err(Unverified::UnknownKey { .. })));
}

#[tokio::test]
async fn one_broken_key_does_not_spoil_the_rest() {
    let setting = Setting::start(|settings| settings).await;
    let mut jwks = setting.issuer.jwks();
    let keys = jwks["keys"].as_array_mut().unwrap();
    keys.insert(0, json!({"kty": "EC", "crv": "P-256", "kid": "broken", "x": "AA", "y": "AA"}));
    keys.insert(0, json!("not even an object"));
    keys.push(json!({"kty": "AKP", "kid": "of-the-future", "pub": "AA"}));
    setting.server.put(JWKS, jwks.to_string());
    let status = setting.load().await.unwrap();
    assert_eq!((status.keys, status.skipped), (1, 3));
    assert!(setting.verifier.verify(&setting.token(0)).is_ok());
}

#[tokio::test]
async fn keys_stay_while_the_issuer_is_down() {
    let mut setting = Setting::loaded(no_rate_limit).await;
    let token = setting.token(0);
    let key = setting.verifier.verify(&token).unwrap().key;
    setting.server = JwksServer::start().await;
    let fetched_at = setting.status().fetched_at;

    assert!(matches!(*setting.load().await.unwrap_err(), JwksError::Unreachable { .. }));
    assert!(setting.verifier.verify(&token).is_ok());
    assert!(key.is_current());
    let status = setting.status();
    assert_eq!((status.keys, status.fetched_at), (1, fetched_at));
    assert!(status.last_error.unwrap().contains("unreachable"));
    assert!(setting.verifier.is_ready());
}

#[tokio::test]
async fn answers_that_are_no_key_set_change_nothing() {
    let setting = Setting::loaded(|settings| settings).await;
    let expect = async |what: &str| {
        let error = setting.load().await.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert!(setting.verifier.verify(&setting.token(0)).is_ok());
        assert_eq!(setting.status().last_error, Some(error));
    };
    for text in ["", "<html>", "[]", "{}", r#"{"keys":null}"#, r#"{"keys":{}}"#] {
        setting.server.put(JWKS, text);
        let error = setting.load().await.unwrap_err();
        assert!(matches!(*error, JwksError::Malformed(_)), "{text}: {error}");
        assert!(setting.verifier.verify(&setting.token(0)).is_ok());
    }
    for status in [
        StatusCode::NOT_FOUND,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::NO_CONTENT,
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::TEMPORARY_REDIRECT,
    ] {
        setting.server.answer(JWKS, status, "");
        expect(status.as_str()).await;
    }
    assert_eq!(setting.server.hits("/elsewhere"), 0);

    let padding = " ".repeat(512 * 1024);
    setting.server.put(JWKS, format!("{}{padding}", setting.issuer.jwks()));
    expect("longer than 524288 bytes").await;

    setting.server.put(JWKS, setting.issuer.jwks().to_string());
    assert_eq!(setting.load().await.unwrap().last_error, None);
}

#[tokio::test]
async fn a_slow_issuer_holds_nobody_longer_than_the_timeout() {
    let setting = Setting::start(|settings| IssuerSettings {
        fetch_timeout: Duration::from_millis(50),
        refetch_interval: Duration::ZERO,
        ..settings
    })
    .await;
    setting.server.hold();
    let start = Instant::now();
    assert!(matches!(*setting.load().await.unwrap_err(), JwksError::TimedOut));
    let refused = setting.verifier.verify_or_refetch(&setting.token(0)).await.err();
    assert_eq!(refused, Some(Unverified::KeysUnavailable));
    assert!(start.elapsed() < Duration::from_secs(4));
    setting.server.release();
    assert!(setting.verifier.verify_or_refetch(&setting.token(0)).await.is_ok());
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_an_error() {
    let issuer = TestIssuer::new("https://issuer.example/");
    let server = JwksServer::start().await;
    let url = server.url(JWKS);
    drop(server);
    let settings = issuer.settings("main", KeySource::Url(url.parse().unwrap()));
    let verifier = Verifier::new(vec![settings], VerifierOptions::default()).unwrap();
    assert!(matches!(&*verifier.load().await.remove(0).1.unwrap_err(), JwksError::Unreachable { .. }));
}

/// An issuer whose identifier is the URL of its own server, with what its discovery document says.
async fn discovering(document: impl FnOnce(&JwksServer) -> serde_json::Value) -> (Setting, Result<(), Arc<JwksError>>) {
    let server = JwksServer::start().await;
    let issuer = TestIssuer::new(&server.url("/"));
    server.put(JWKS, issuer.jwks().to_string());
    server.put(DISCOVERY, document(&server).to_string());
    let settings = issuer.settings("main", KeySource::Discovery);
    let verifier = Arc::new(Verifier::new(vec![settings], VerifierOptions::default()).unwrap());
    let setting = Setting { issuer, server, verifier };
    let loaded = setting.load().await.map(|_| ());
    (setting, loaded)
}

#[tokio::test]
async fn discovery_leads_to_the_keys() {
    let (setting, loaded) =
        discovering(|server| json!({"issuer": server.url("/"), "jwks_uri": server.url(JWKS)})).await;
    loaded.unwrap();
    assert!(setting.verifier.verify(&setting.token(0)).is_ok());
}

#[tokio::test]
async fn the_discovery_document_must_be_that_of_the_issuer() {
    for other in ["", "/other/"] {
        let (setting, loaded) =
            discovering(|server| json!({"issuer": server.url(other), "jwks_uri": server.url(JWKS)})).await;
        assert!(matches!(*loaded.unwrap_err(), JwksError::IssuerMismatch { .. }), "{other}");
        assert_eq!(setting.server.hits(JWKS), 0);
        assert!(!setting.verifier.is_ready());
    }
}

#[tokio::test]
async fn discovered_keys_come_over_tls_or_loopback() {
    for uri in ["http://issuer.example/jwks.json", "file:///etc/keys.json", "jwks.json"] {
        let (_, loaded) = discovering(|server| json!({"issuer": server.url("/"), "jwks_uri": uri})).await;
        assert!(matches!(*loaded.unwrap_err(), JwksError::Insecure { .. }), "{uri}");
    }
    let (_, loaded) = discovering(|server| json!({"issuer": server.url("/")})).await;
    assert!(matches!(*loaded.unwrap_err(), JwksError::Discovery { .. }));
}

#[tokio::test]
async fn a_key_set_file_is_read_again() {
    let mut issuer = TestIssuer::new("https://issuer.example/");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), issuer.jwks().to_string()).unwrap();
    let settings = issuer.settings("main", KeySource::File(file.path().to_owned()));
    let verifier = Verifier::new(vec![settings], VerifierOptions::default()).unwrap();
    verifier.load().await;
    issuer.keys.push(SigningKey::generate("key-2", Algorithm::ES256));
    std::fs::write(file.path(), issuer.jwks().to_string()).unwrap();
    let token = issuer.keys[1].token(&issuer.claims(NOW));
    assert!(verifier.verify_or_refetch(&token).await.is_ok());

    drop(file);
    assert!(matches!(&*verifier.load().await.remove(0).1.unwrap_err(), JwksError::File { .. }));
    assert!(verifier.verify(&token).is_ok());
}

#[tokio::test]
async fn the_background_refresh_sees_a_rotation() {
    let mut setting =
        Setting::loaded(|settings| IssuerSettings { refresh_interval: Duration::from_secs(1), ..settings }).await;
    let refreshing = setting.verifier.start();
    let new = setting.publish_new_key();
    let token = setting.token(new);
    eventually("the new key is at hand", async || setting.verifier.verify(&token).is_ok()).await;
    refreshing.stop().await;
}

#[tokio::test]
async fn the_background_refresh_tries_again_until_the_issuer_answers() {
    let setting = Setting::start(|settings| settings).await;
    setting.server.answer(JWKS, StatusCode::SERVICE_UNAVAILABLE, "");
    let refreshing = setting.verifier.start();
    eventually("the first attempt fails", async || setting.status().last_error.is_some()).await;
    assert!(!setting.verifier.is_ready());
    setting.server.put(JWKS, setting.issuer.jwks().to_string());
    eventually("the keys are at hand", async || setting.verifier.is_ready()).await;
    drop(refreshing);
}

#[tokio::test]
async fn a_stopped_refresh_leaves_a_fetch_behind() {
    let setting = Setting::start(|settings| settings).await;
    setting.server.hold();
    let refreshing = setting.verifier.start();
    eventually("the fetch arrives", async || setting.server.hits(JWKS) == 1).await;
    let start = Instant::now();
    refreshing.stop().await;
    assert!(start.elapsed() < Duration::from_secs(4), "did not wait for the answer");
}
