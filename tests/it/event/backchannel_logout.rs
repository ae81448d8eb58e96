//! OpenID Connect Back-Channel Logout, with tokens of the issuer.

use http::{Method, Request, StatusCode};
use http_body_util::Full;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::{deliver, outcomes, with, worlds};
use crate::support::{
    client::Reply,
    eventually,
    full::{Gate, KEYS, Setup, World, now, request},
    keys::{AUDIENCE, SigningKey},
};

const SOURCE: &str = "acme-logout";
const CLIENT: &str = "TuhNLv7ulXD3RfyLlSMbOvszzwJJFPpO";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// What Auth0 sends, and what the specification shows.
const PAYLOADS: [&str; 2] = [
    include_str!("../../fixtures/auth0/backchannel/logout-token.payload.json"),
    include_str!("../../fixtures/oidc/logout-token.payload.json"),
];

/// A gate with the source, and these settings of it besides.
fn gate<'w>(world: &'w World, settings: &str) -> Setup<'w> {
    world.gate().route(&format!(
        "[sources.{SOURCE}]\ntype = \"backchannel_logout\"\naudiences = [\"{CLIENT}\", \"s6BhdRkqt3\"]\n{settings}"
    ))
}

/// A payload as it is sent now.
fn payload(world: &World, published: &str, jti: &str, changes: Value) -> Value {
    let iat = now().as_secs() - 2;
    let today = json!({ "iss": world.issuer.identifier, "iat": iat, "exp": iat + 120, "jti": jti });
    with(with(serde_json::from_str(published).unwrap(), today), changes)
}

/// A logout token of Alice's session `one`.
fn claims(world: &World, jti: &str, changes: Value) -> Value {
    with(payload(world, PAYLOADS[0], jti, json!({ "sub": "auth0|alice", "sid": "one" })), changes)
}

/// Signs with the issuer's key under the header that Auth0 sends, with these members instead.
fn sign(world: &World, header: Value, claims: &Value) -> String {
    sign_with(&world.issuer.keys[0], header, claims)
}

fn sign_with(key: &SigningKey, header: Value, claims: &Value) -> String {
    let published: Value =
        serde_json::from_str(include_str!("../../fixtures/auth0/backchannel/logout-token.header.json")).unwrap();
    let header = with(with(published, key.header()), header);
    key.compact(header.to_string(), claims.to_string())
}

async fn send(gate: &Gate, token: &str) -> Reply {
    deliver(gate, SOURCE, &[FORM], format!("logout_token={token}")).await
}

/// 200, and not to be kept.
#[track_caller]
fn is_taken(reply: &Reply) {
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, ""));
    assert_eq!(reply.headers["cache-control"], "no-store");
}

/// 400 in the form of the specification; what it says.
#[track_caller]
fn is_refused(reply: &Reply, what: &str) -> String {
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{what}");
    assert_eq!(reply.headers["cache-control"], "no-store", "{what}");
    assert_eq!(reply.headers["content-type"], "application/json", "{what}");
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(body["error"], "invalid_request", "{what}");
    assert_eq!(body.as_object().unwrap().len(), 2, "{what}");
    body["error_description"].as_str().unwrap().to_owned()
}

#[track_caller]
fn comes_later(reply: &Reply) {
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{}", reply.text());
    assert_eq!(reply.headers["retry-after"], "1");
    assert_eq!(reply.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn a_logout_token_ends_its_session_and_no_other() {
    for world in worlds().await {
        let gate = gate(&world, "").start().await;
        for (index, published) in PAYLOADS.into_iter().enumerate() {
            let claims = payload(&world, published, &format!("jti-{index}"), json!({}));
            let (sub, sid) = (claims["sub"].as_str().unwrap(), claims["sid"].as_str().unwrap());
            let ended = [
                world.token(sub, json!({ "sid": sid })),
                world.token(sub, json!({ "sid": sid, "jti": "refreshed", "iat": now().as_secs() })),
            ];
            let others = [
                world.token(sub, json!({ "sid": "another" })),
                world.token(sub, json!({ "sid": null })),
                world.token("auth0|bob", json!({})),
            ];
            for token in ended.iter().chain(&others) {
                gate.expect(token, "admit").await;
            }
            is_taken(&send(&gate, &sign(&world, json!({}), &claims)).await);
            for token in &ended {
                gate.expect(token, "session_ended").await;
            }
            for token in &others {
                gate.expect(token, "admit").await;
            }
        }
        assert!((outcomes(&gate, SOURCE, "changed").await - 2.0).abs() < 0.1);
    }
}

#[tokio::test]
async fn a_token_without_a_session_logs_the_user_out() {
    for world in worlds().await {
        let gate = gate(&world, "").start().await;
        let before = [json!({}), json!({ "sid": "two" }), json!({ "sid": null })];
        let before = before.map(|changes| world.token("auth0|alice", changes));
        let bob = world.token("auth0|bob", json!({}));
        let claims = claims(&world, "jti", json!({ "sid": "absent", "aud": ["someone else", "s6BhdRkqt3"] }));
        is_taken(&send(&gate, &sign(&world, json!({ "typ": "logout+jwt" }), &claims)).await);
        for token in &before {
            gate.expect(token, "logged_out").await;
        }
        gate.expect(&bob, "admit").await;

        let second = claims["iat"].as_i64().unwrap();
        let at = gate.look_up("auth0|alice").await["logout"]["at"].as_str().unwrap().to_owned();
        let at: portcullis::clock::Timestamp = at.parse().unwrap();
        let of = |changes| world.token("auth0|alice", changes);
        gate.expect(&of(json!({ "iat": second + 1 })), "admit").await;
        gate.expect(&of(json!({ "iat": second })), "logged_out").await;
        gate.expect(&of(json!({ "iat": second + 1, "auth_time": second - 1 })), "logged_out").await;
        // A login right after the logout, in the same second, that knows of it.
        let knowing = json!({ "iat": second, "auth_time": second, "last_logout": at.as_millis() });
        gate.expect(&of(knowing), "admit").await;
    }
}

#[tokio::test]
async fn a_token_that_comes_again_changes_nothing() {
    for world in worlds().await {
        let gate = gate(&world, "").start().await;
        let token = sign(&world, json!({}), &claims(&world, "jti", json!({ "sid": "absent" })));
        is_taken(&send(&gate, &token).await);
        let marker = gate.look_up("auth0|alice").await["logout"].clone();
        for _ in 0..3 {
            is_taken(&send(&gate, &token).await);
        }
        assert_eq!(gate.look_up("auth0|alice").await["logout"], marker);
        assert!((outcomes(&gate, SOURCE, "changed").await - 1.0).abs() < 0.1);
        assert!((outcomes(&gate, SOURCE, "duplicate").await - 3.0).abs() < 0.1);
        gate.instance.stop().await;

        let gate = self::gate(&world, "").start().await;
        is_taken(&send(&gate, &token).await);
        assert!((outcomes(&gate, SOURCE, "duplicate").await - 1.0).abs() < 0.1, "remembered by the store");
        assert_eq!(gate.look_up("auth0|alice").await["logout"], marker);
    }
}

#[tokio::test]
async fn a_session_that_nobody_knows_is_over_already() {
    let world = World::embedded().await;
    let gate = gate(&world, "").start().await;
    let claims = claims(&world, "jti", json!({ "sub": "auth0|nobody", "sid": "unheard of" }));
    is_taken(&send(&gate, &sign(&world, json!({}), &claims)).await);
}

#[tokio::test]
async fn what_is_no_good_logout_token_changes_nothing() {
    for world in worlds().await {
        let gate = gate(&world, "").start().await;
        let seconds = now().as_secs();
        let stranger = SigningKey::generate("key-1", Algorithm::ES256);
        let good = claims(&world, "jti", json!({}));
        let mut refused: Vec<(String, String)> = [
            json!({ "iss": "https://other.example/" }),
            json!({ "iss": "absent" }),
            json!({ "aud": AUDIENCE }),
            json!({ "aud": "absent" }),
            json!({ "aud": [] }),
            json!({ "iat": "absent" }),
            json!({ "iat": seconds + 60 }),
            json!({ "exp": "absent" }),
            json!({ "exp": seconds - 60 }),
            json!({ "jti": "absent" }),
            json!({ "sub": "absent", "sid": "absent" }),
            json!({ "sid": "" }),
            json!({ "events": "absent" }),
            json!({ "events": [EVENT] }),
            json!({ "events": { EVENT: null } }),
            json!({ "events": { EVENT: [] } }),
            json!({ "events": { "https://schemas.openid.net/event/backchannel-logout": {} } }),
            json!({ "nonce": "n" }),
            json!({ "nonce": null }),
        ]
        .into_iter()
        .map(|changes| (changes.to_string(), sign(&world, json!({}), &with(good.clone(), changes))))
        .collect();
        for header in ["at+jwt", "secevent+jwt", "dpop+jwt", "global-token-revocation+jwt", "Application/at+jwt"] {
            refused.push((header.to_owned(), sign(&world, json!({ "typ": header }), &good)));
        }
        for header in [json!({ "alg": "none" }), json!({ "alg": "HS256" }), json!({ "crit": ["exp"] })] {
            refused.push((header.to_string(), sign(&world, header, &good)));
        }
        let token = sign(&world, json!({}), &good);
        let (message, signature) = token.rsplit_once('.').unwrap();
        refused.push(("another key".to_owned(), sign_with(&stranger, json!({}), &good)));
        refused.push(("without its signature".to_owned(), format!("{message}.")));
        refused.push(("five parts".to_owned(), format!("{message}.{signature}.{signature}.{signature}")));
        refused.push(("no token at all".to_owned(), "logout".to_owned()));

        for (what, token) in &refused {
            let described = is_refused(&send(&gate, token).await, what);
            assert!(!described.contains("alice") && !described.contains("one") && described.is_ascii(), "{described}");
        }
        gate.expect(&world.token("auth0|alice", json!({ "sid": "one" })), "admit").await;
        assert_eq!(gate.look_up("auth0|alice").await["logout"], Value::Null);
        let session = gate.change(Method::GET, "/v1/sessions/acme/one", Value::Null).await;
        assert_eq!(session["end"], Value::Null, "{session}");
        #[expect(clippy::cast_precision_loss, reason = "a few dozen")]
        let expected = refused.len() as f64;
        assert!((outcomes(&gate, SOURCE, "turned_away").await - expected).abs() < 0.1);
        is_taken(&send(&gate, &token).await);
        gate.expect(&world.token("auth0|alice", json!({ "sid": "one" })), "session_ended").await;
    }
}

/// Each kind of token of one issuer, in the place of each other.
#[tokio::test]
async fn no_other_kind_of_token_logs_anybody_out() {
    let world = World::embedded().await;
    let gate = gate(&world, "").start().await;
    let iat = now().as_secs() - 2;
    let base = json!({ "iss": world.issuer.identifier, "sub": "auth0|alice", "aud": CLIENT, "iat": iat, "exp": iat + 120, "jti": "x" });
    let sign = |header: Value, claims: Value| sign(&world, header, &with(base.clone(), claims));
    let set = json!({ "events": { "https://schemas.openid.net/secevent/caep/event-type/session-revoked": {} }, "exp": "absent" });
    for (what, token) in [
        ("an access token", sign(json!({}), json!({ "scope": "read", "sid": "one" }))),
        ("an access token of RFC 9068", sign(json!({ "typ": "at+jwt" }), json!({ "client_id": CLIENT }))),
        ("an ID token", sign(json!({}), json!({ "nonce": "n", "sid": "one", "auth_time": iat }))),
        ("an ID token without a nonce", sign(json!({}), json!({ "sid": "one" }))),
        ("a security event token", sign(json!({ "typ": "secevent+jwt" }), set.clone())),
        ("a security event token without its type", sign(json!({}), set)),
        (
            "a DPoP proof",
            sign(json!({ "typ": "dpop+jwt" }), json!({ "htm": "POST", "htu": "https://gateway.example/" })),
        ),
        ("a revocation", sign(json!({ "typ": "global-token-revocation+jwt" }), json!({}))),
    ] {
        is_refused(&send(&gate, &token).await, what);
    }
    gate.expect(&world.token("auth0|alice", json!({ "sid": "one" })), "admit").await;

    // And the other way round, even one that is for the API.
    for header in ["JWT", "logout+jwt"] {
        let claims = claims(&world, "jti", json!({ "aud": AUDIENCE }));
        gate.expect(&super::backchannel_logout::sign(&world, json!({ "typ": header }), &claims), "invalid_token").await;
    }
}

#[tokio::test]
async fn the_request_is_a_form_with_one_token() {
    let world = World::embedded().await;
    let gate = gate(&world, "max_body = \"4KiB\"\n").start().await;
    let token = sign(&world, json!({}), &claims(&world, "jti", json!({})));
    let one = format!("logout_token={token}");
    for (what, content_type, body) in [
        ("no content type", None, one.clone()),
        ("JSON", Some("application/json"), json!({ "logout_token": token }).to_string()),
        ("a form that is called JSON", Some("application/json"), one.clone()),
        ("parts", Some("multipart/form-data; boundary=x"), one.clone()),
        ("nothing", Some(FORM.1), String::new()),
        ("an empty token", Some(FORM.1), "logout_token=".to_owned()),
        ("another parameter", Some(FORM.1), format!("token={token}")),
        ("two tokens", Some(FORM.1), format!("{one}&{one}")),
        ("too much", Some(FORM.1), format!("{one}&padding={}", "x".repeat(5000))),
    ] {
        let fields: Vec<_> = content_type.map(|value| ("content-type", value)).into_iter().collect();
        is_refused(&deliver(&gate, SOURCE, &fields, body).await, what);
    }
    let path = format!("/.portcullis/events/{SOURCE}");
    for method in [Method::GET, Method::PUT, Method::HEAD] {
        let reply = gate.send(request(method, &format!("{path}?logout_token={token}"), "")).await;
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(
            (&reply.headers["allow"], &reply.headers["cache-control"]),
            (&"POST".parse().unwrap(), &"no-store".parse().unwrap())
        );
    }
    gate.expect(&world.token("auth0|alice", json!({ "sid": "one" })), "admit").await;

    let fields = [("content-type", "Application/X-WWW-Form-Urlencoded; charset=UTF-8")];
    is_taken(&deliver(&gate, SOURCE, &fields, format!("state=x&{one}&other=")).await);
    gate.expect(&world.token("auth0|alice", json!({ "sid": "one" })), "session_ended").await;
}

#[tokio::test]
async fn the_settings_say_how_strict_to_be() {
    let world = World::embedded().await;
    let gate = gate(&world, "strict_typ = true\nmax_age = \"2m\"\n").start().await;
    let sign = |header: Value, jti: &str, changes| sign(&world, header, &claims(&world, jti, changes));
    is_refused(&send(&gate, &sign(json!({}), "1", json!({}))).await, "JWT");
    is_refused(&send(&gate, &sign(json!({ "typ": "absent" }), "2", json!({}))).await, "no type");
    let typed = || json!({ "typ": "logout+jwt" });
    let old = json!({ "exp": "absent", "iat": now().as_secs() - 180 });
    is_refused(&send(&gate, &sign(typed(), "3", old)).await, "too old");
    is_taken(&send(&gate, &sign(typed(), "4", json!({ "exp": "absent" }))).await);
    gate.expect(&world.token("auth0|alice", json!({ "sid": "one" })), "session_ended").await;
}

#[tokio::test]
async fn while_the_store_is_silent_the_sender_is_asked_to_come_back() {
    let Some(world) = World::redis().await else { return };
    let setup = gate(&world, "").with("STORE_RESPONSE_TIMEOUT", "500ms").with("MARKERS_WRITE_TIMEOUT", "500ms");
    let gate = setup.start().await;
    let token = sign(&world, json!({}), &claims(&world, "jti", json!({})));
    world.server().stop();
    comes_later(&send(&gate, &token).await);
    comes_later(&send(&gate, &token).await);
    world.server().cont();
    eventually("the store takes it", async || send(&gate, &token).await.status == StatusCode::OK).await;
    gate.becomes(&world.token("auth0|alice", json!({ "sid": "one" })), "session_ended").await;
    gate.expect(&world.token("auth0|alice", json!({ "sid": "two" })), "admit").await;
}

#[tokio::test]
async fn an_unknown_key_is_asked_for_once() {
    let world = World::embedded().await;
    let gate = gate(&world, "").start().await;
    let hits = world.keys.hits(KEYS);
    let next = SigningKey::generate("key-2", Algorithm::ES256);
    let mut set = world.issuer.jwks();
    set["keys"].as_array_mut().unwrap().push(next.jwk());
    world.keys.put(KEYS, set.to_string());

    is_taken(&send(&gate, &sign_with(&next, json!({}), &claims(&world, "jti", json!({})))).await);
    gate.expect(&world.token("auth0|alice", json!({ "sid": "one" })), "session_ended").await;
    assert_eq!(world.keys.hits(KEYS), hits + 1);

    for number in 0..50 {
        let key = SigningKey::generate(&format!("made up {number}"), Algorithm::ES256);
        is_refused(&send(&gate, &sign_with(&key, json!({}), &claims(&world, "x", json!({})))).await, "made up");
    }
    assert_eq!(world.keys.hits(KEYS), hits + 1, "no flood reaches the issuer");
}

#[tokio::test]
async fn a_token_whose_key_cannot_be_had_may_be_good() {
    let world = World::embedded().await;
    let gate = gate(&world, "").with("ISSUERS_ACME_REFETCH_INTERVAL", "1s").start().await;
    let next = SigningKey::generate("key-2", Algorithm::ES256);
    world.keys.answer(KEYS, StatusCode::INTERNAL_SERVER_ERROR, "");
    let token = sign_with(&next, json!({}), &claims(&world, "jti", json!({})));
    comes_later(&send(&gate, &token).await);

    let mut set = world.issuer.jwks();
    set["keys"].as_array_mut().unwrap().push(next.jwk());
    world.keys.put(KEYS, set.to_string());
    eventually("the key has come", async || send(&gate, &token).await.status == StatusCode::OK).await;
    gate.expect(&world.token("auth0|alice", json!({ "sid": "one" })), "session_ended").await;
}

#[tokio::test]
async fn another_source_is_not_reached_by_its_name() {
    let world = World::embedded().await;
    let gate = gate(&world, "").start().await;
    let token = sign(&world, json!({}), &claims(&world, "jti", json!({})));
    let reply = deliver(&gate, "acme", &[FORM], format!("logout_token={token}")).await;
    assert_eq!((reply.status, &*reply.code()), (StatusCode::NOT_FOUND, "no_endpoint"));
    let bare = Request::builder().method(Method::POST).uri("/.portcullis/events/").header("host", "api.example");
    assert_eq!(gate.send(bare.body(Full::default()).unwrap()).await.status, StatusCode::NOT_FOUND);
}

/// Nobody is known before the body is read, so anyone can keep a delivery open for a while.
#[tokio::test]
async fn slow_senders_hold_up_nobody_else() {
    let world = World::embedded().await;
    let other = "max_body = \"4MiB\"\n[sources.other]\ntype = \"backchannel_logout\"\naudiences = [\"s6BhdRkqt3\"]\n";
    let gate = gate(&world, other).start().await;
    let head = format!(
        "POST /.portcullis/events/{SOURCE} HTTP/1.1\r\nhost: api.example\r\ncontent-type: {}\r\ncontent-length: 100\r\n\r\n",
        FORM.1
    );
    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut stream = tokio::net::TcpStream::connect(gate.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let token = sign(&world, json!({}), &claims(&world, "jti", json!({ "aud": "s6BhdRkqt3" })));
    eventually("there is no place left", async || send(&gate, &token).await.status == StatusCode::SERVICE_UNAVAILABLE)
        .await;
    comes_later(&send(&gate, &token).await);
    is_taken(&deliver(&gate, "other", &[FORM], format!("logout_token={token}")).await);
    drop(slow);
    eventually("there are places again", async || send(&gate, &token).await.status == StatusCode::OK).await;
}
