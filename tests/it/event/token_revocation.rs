//! Global Token Revocation, as Okta sends it, and as others do.

use http::{Method, StatusCode};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::{deliver, outcomes, with, worlds};
use crate::support::{
    client::Reply,
    eventually,
    full::{Gate, Setup, World, now, request},
    keys::{SigningKey, TestIssuer},
};

const SOURCE: &str = "okta";
const ENDPOINT: &str = "https://gateway.example/.portcullis/events/okta";
const SIGNER: &str = "https://acme.okta.example";
const SIGNER_KEYS: &str = "/oauth2/v1/keys";
const CLIENT: &str = "0oa1gjh63g214q0Hq0g4";
const SECRET: &str = "f5641763544a7b24b08e4f74045";

/// A world, and Okta beside it.
struct Org {
    world: World,
    signer: TestIssuer,
}

impl Org {
    fn beside(world: World) -> Self {
        let signer = TestIssuer::with_algorithms(SIGNER, &[Algorithm::RS256]);
        world.keys.put(SIGNER_KEYS, signer.jwks().to_string());
        Self { world, signer }
    }

    async fn embedded() -> Self {
        Self::beside(World::embedded().await)
    }

    /// A gate with a source for Okta, and these settings of it besides.
    fn gate(&self, settings: &str) -> Setup<'_> {
        self.world.gate().route(&format!(
            "[sources.{SOURCE}]\ntype = \"token_revocation\"\naudiences = [\"{ENDPOINT}\"]\nsigner = \"{SIGNER}\"\n\
             jwks_url = \"{}\"\n{settings}",
            self.world.keys.url(SIGNER_KEYS)
        ))
    }

    /// The claims of the JWT that Okta makes for a request.
    fn claims(&self, jti: &str) -> Value {
        let now = now().as_secs();
        json!({ "jti": jti, "iss": self.signer.identifier, "sub": CLIENT, "aud": ENDPOINT, "exp": now + 300, "nbf": now - 300, "iat": now })
    }

    /// The JWT, with these members of header and payload instead.
    fn assertion(&self, jti: &str, header: Value, claims: Value) -> String {
        sign(&self.signer.keys[0], header, &with(self.claims(jti), claims))
    }

    fn good(&self, jti: &str) -> String {
        self.assertion(jti, json!({}), json!({}))
    }

    fn about(&self, sub: &str) -> Value {
        json!({ "sub_id": { "format": "iss_sub", "iss": self.world.issuer.identifier, "sub": sub } })
    }

    fn token(&self, sub: &str, changes: Value) -> String {
        self.world.token(sub, changes)
    }
}

fn sign(key: &SigningKey, header: Value, claims: &Value) -> String {
    let header = with(with(json!({ "typ": "global-token-revocation+jwt" }), key.header()), header);
    key.compact(header.to_string(), claims.to_string())
}

async fn send(gate: &Gate, bearer: &str, body: &Value) -> Reply {
    let authorization = format!("Bearer {bearer}");
    let fields = [("content-type", "application/json"), ("authorization", &*authorization)];
    deliver(gate, SOURCE, &fields, body.to_string()).await
}

#[track_caller]
fn is_taken(reply: &Reply) {
    assert_eq!((reply.status, reply.text()), (StatusCode::NO_CONTENT, ""));
    assert_eq!(reply.headers["cache-control"], "no-store");
}

#[track_caller]
fn is(reply: &Reply, status: u16, code: &str, what: &str) {
    assert_eq!((reply.status.as_u16(), &*reply.code()), (status, code), "{what}: {}", reply.text());
    assert_eq!(reply.headers["cache-control"], "no-store");
    assert!(!reply.text().contains("alice"), "{}", reply.text());
}

#[tokio::test]
async fn a_request_of_okta_ends_all_sessions_of_the_user() {
    for world in worlds().await {
        let org = Org::beside(world);
        let gate = org.gate(&format!("clients = [\"{CLIENT}\"]\n")).start().await;
        let alice = [json!({}), json!({ "sid": "two" }), json!({ "sid": null })];
        let alice = alice.map(|changes| org.token("auth0|alice", changes));
        let bob = org.token("auth0|bob", json!({}));
        for token in alice.iter().chain([&bob]) {
            gate.expect(token, "admit").await;
        }
        is_taken(&send(&gate, &org.good("jti"), &org.about("auth0|alice")).await);
        for token in &alice {
            gate.expect(token, "logged_out").await;
        }
        gate.expect(&org.token("auth0|alice", json!({ "iat": now().as_secs() })), "logged_out").await;
        gate.expect(&bob, "admit").await;

        // Timed by the gateway, whose clock may differ from the issuer's; who logs in anew and knows of it comes in.
        let logout = gate.look_up("auth0|alice").await["logout"].clone();
        assert_eq!(
            (&logout["clock"], &logout["source"], &logout["by"]),
            (&json!("gateway"), &json!("token_revocation"), &json!(SOURCE))
        );
        let at: portcullis::clock::Timestamp = logout["at"].as_str().unwrap().parse().unwrap();
        let again = json!({ "iat": now().as_secs(), "last_logout": at.as_millis() });
        gate.expect(&org.token("auth0|alice", again), "admit").await;
    }
}

#[tokio::test]
async fn a_user_who_was_never_here_is_logged_out_as_well() {
    let org = Org::embedded().await;
    let gate = org.gate("").start().await;
    is_taken(&send(&gate, &org.good("jti"), &org.about("auth0|carol")).await);
    gate.expect(&org.token("auth0|carol", json!({})), "logged_out").await;
}

#[tokio::test]
async fn subjects_are_named_in_several_ways() {
    let org = Org::embedded().await;
    let settings = format!("subject_issuers = [\"{SIGNER}\"]\n");
    let gate = org.gate(&settings).with("ISSUERS_ACME_CLAIMS_EMAIL", "email").start().await;
    let iss = &org.world.issuer.identifier;
    for (number, subject) in [
        json!({ "format": "iss_sub", "iss": iss, "sub": "user-0" }),
        json!({ "format": "opaque", "id": "user-1" }),
        json!({ "format": "iss_sub", "iss": SIGNER, "sub": "user-2" }),
        json!({ "format": "aliases", "identifiers": [
            { "format": "did", "url": "did:example:1" }, { "format": "iss_sub", "iss": SIGNER, "sub": "user-3" },
        ] }),
        json!({ "format": "email", "email": "User-4@Company.Example" }),
    ]
    .into_iter()
    .enumerate()
    {
        let sub = format!("user-{number}");
        let token = org.token(&sub, json!({ "email": format!("User-{number}@company.example") }));
        gate.expect(&token, "admit").await;
        let member = if number % 2 == 0 { "sub_id" } else { "subject" };
        let body = json!({ member: subject });
        let mut attempt = 0;
        // Who is known by which address is written a moment after the request.
        eventually(&format!("{subject} is taken"), async || {
            attempt += 1;
            let reply = send(&gate, &org.good(&format!("{number} {attempt}")), &body).await;
            if reply.status != StatusCode::NO_CONTENT {
                is(&reply, 404, "unknown_subject", "not yet");
                assert_eq!(subject["format"], "email");
            }
            reply.status == StatusCode::NO_CONTENT
        })
        .await;
        gate.expect(&token, "logged_out").await;
    }
    gate.expect(&org.token("user-9", json!({})), "admit").await;
}

#[tokio::test]
async fn whom_nothing_here_stands_for_is_not_said_to_be_logged_out() {
    let org = Org::embedded().await;
    let second = format!(
        "issuer = \"acme\"\n[issuers.second]\nissuer = \"https://second.example/\"\naudiences = [\"api\"]\njwks_url = \"{}\"\n",
        org.world.keys.url(SIGNER_KEYS)
    );
    let gate = org.gate(&second).start().await;
    let iss = &org.world.issuer.identifier;
    for (number, (subject, status, code)) in [
        (
            json!({ "format": "iss_sub", "iss": "https://second.example/", "sub": "auth0|alice" }),
            404,
            "unknown_subject",
        ),
        (json!({ "format": "iss_sub", "iss": "https://other.example/", "sub": "auth0|alice" }), 404, "unknown_subject"),
        (json!({ "format": "iss_sub", "iss": SIGNER, "sub": "auth0|alice" }), 404, "unknown_subject"),
        (json!({ "format": "email", "email": "alice@company.example" }), 404, "unknown_subject"),
        (json!({ "format": "jwt_id", "iss": iss, "jti": "t" }), 400, "subject_format"),
        (json!({ "format": "did", "url": "did:example:alice" }), 400, "subject_format"),
        (json!({ "format": "catalog_item", "id": "alice" }), 400, "subject_format"),
        (json!({ "format": "iss_sub", "iss": iss }), 400, "malformed"),
        (json!({ "format": "iss_sub", "iss": iss, "sub": "auth0|alice", "email": "a@b" }), 400, "malformed"),
        (json!({ "iss": iss, "sub": "auth0|alice" }), 400, "malformed"),
        (json!("auth0|alice"), 400, "malformed"),
        (json!(null), 400, "malformed"),
    ]
    .into_iter()
    .enumerate()
    {
        let reply = send(&gate, &org.good(&number.to_string()), &json!({ "sub_id": subject })).await;
        is(&reply, status, code, &subject.to_string());
    }
    let about = org.about("auth0|alice");
    let both = with(about.clone(), json!({ "subject": about["sub_id"] }));
    for (number, body) in [json!({}), json!([about]), both].into_iter().enumerate() {
        let reply = send(&gate, &org.good(&format!("body {number}")), &body).await;
        is(&reply, 400, "malformed", &body.to_string());
    }
    gate.expect(&org.token("auth0|alice", json!({})), "admit").await;
    for issuer in ["acme", "second"] {
        let path = format!("/v1/subjects/{issuer}/auth0%7Calice");
        assert_eq!(gate.change(Method::GET, &path, Value::Null).await["logout"], Value::Null, "{issuer}");
    }
    assert!((outcomes(&gate, SOURCE, "malformed").await - 8.0).abs() < 0.1);
    assert!(outcomes(&gate, SOURCE, "no_subject").await + outcomes(&gate, SOURCE, "unknown_issuer").await > 6.0);
}

#[tokio::test]
async fn nobody_else_logs_users_out() {
    for world in worlds().await {
        let org = Org::beside(world);
        let gate = org.gate(&format!("clients = [\"{CLIENT}\"]\n")).with("SOURCES_OKTA_TOKEN", SECRET).start().await;
        let (seconds, about) = (now().as_secs(), org.about("auth0|alice"));
        let changed = |header, claims| org.assertion("jti", header, claims);
        let stranger = SigningKey::generate("key-1", Algorithm::RS256);
        let logout = json!({ "events": { "http://schemas.openid.net/event/backchannel-logout": {} } });
        for (what, bearer) in [
            ("a wrong secret", "f5641763544a7b24b08e4f74046".to_owned()),
            ("a part of the secret", SECRET[1..].to_owned()),
            ("an access token", org.token("auth0|alice", json!({ "aud": ENDPOINT }))),
            ("a JWT of the issuer", sign(&org.world.issuer.keys[0], json!({}), &org.claims("jti"))),
            ("another key", sign(&stranger, json!({}), &org.claims("jti"))),
            ("no signature", changed(json!({ "alg": "none" }), json!({}))),
            ("an ID token", changed(json!({ "typ": "JWT" }), json!({}))),
            ("no type", changed(json!({ "typ": "absent" }), json!({}))),
            ("a logout token", changed(json!({ "typ": "logout+jwt" }), logout)),
            ("a security event", changed(json!({ "typ": "secevent+jwt" }), json!({}))),
            ("an access token of Okta", changed(json!({ "typ": "at+jwt" }), json!({}))),
            ("another issuer", changed(json!({}), json!({ "iss": "https://other.okta.example" }))),
            ("a slash more", changed(json!({}), json!({ "iss": format!("{SIGNER}/") }))),
            ("another endpoint", changed(json!({}), json!({ "aud": "https://gateway.example/" }))),
            ("no audience", changed(json!({}), json!({ "aud": "absent" }))),
            ("over", changed(json!({}), json!({ "exp": seconds - 60 }))),
            ("without end", changed(json!({}), json!({ "exp": "absent" }))),
            ("for a day", changed(json!({}), json!({ "exp": seconds + 86_400 }))),
            ("of tomorrow", changed(json!({}), json!({ "iat": seconds + 86_400, "exp": seconds + 86_700 }))),
            ("not yet", changed(json!({}), json!({ "nbf": seconds + 60 }))),
            ("without a beginning", changed(json!({}), json!({ "iat": "absent" }))),
            ("without an id", changed(json!({}), json!({ "jti": "absent" }))),
        ] {
            let reply = send(&gate, &bearer, &about).await;
            is(&reply, 401, "unauthorized", what);
            assert!(reply.headers["www-authenticate"].to_str().unwrap().ends_with("error=\"invalid_token\""), "{what}");
        }
        let reply = send(&gate, &changed(json!({}), json!({ "sub": "another application" })), &about).await;
        is(&reply, 403, "forbidden", "another client");
        let basic = format!("Basic {SECRET}");
        let bearer = format!("Bearer {SECRET}");
        for fields in [
            &[][..],
            &[("authorization", "Bearer ")],
            &[("authorization", SECRET)],
            &[("authorization", &*basic)],
            &[("authorization", &*bearer), ("authorization", &*bearer)],
        ] {
            let reply = deliver(&gate, SOURCE, fields, about.to_string()).await;
            is(&reply, 401, "unauthorized", &format!("{fields:?}"));
            assert_eq!(reply.headers["www-authenticate"], "Bearer realm=\"portcullis events\"");
        }
        for method in [Method::GET, Method::PUT] {
            let reply = gate.send(request(method, &format!("/.portcullis/events/{SOURCE}"), SECRET)).await;
            is(&reply, 405, "method", "another method");
        }
        gate.expect(&org.token("auth0|alice", json!({})), "admit").await;
        assert_eq!(gate.look_up("auth0|alice").await["logout"], Value::Null);

        // What the gate itself takes for users is no way around it, nor the other way round.
        gate.expect(&org.good("jti"), "invalid_token").await;
        is_taken(&send(&gate, &org.good("jti"), &about).await);
        gate.expect(&org.token("auth0|alice", json!({})), "logged_out").await;
    }
}

#[tokio::test]
async fn a_sender_that_does_not_sign_has_a_secret() {
    let org = Org::embedded().await;
    let setup = org.world.gate().route("[sources.okta]\ntype = \"token_revocation\"");
    let gate = setup.with("SOURCES_OKTA_TOKEN", SECRET).start().await;
    is(&send(&gate, &org.good("jti"), &org.about("auth0|alice")).await, 401, "unauthorized", "nobody signs here");
    is_taken(&send(&gate, SECRET, &json!({ "sub_id": { "format": "opaque", "id": "auth0|alice" } })).await);
    gate.expect(&org.token("auth0|alice", json!({})), "logged_out").await;
}

#[tokio::test]
async fn the_issuer_itself_may_sign() {
    let world = World::embedded().await;
    let gate = world.gate().route(&format!(
        "[sources.okta]\ntype = \"token_revocation\"\naudiences = [\"https://elsewhere.example\", \"{ENDPOINT}\"]"
    ));
    let gate = gate.start().await;
    let seconds = now().as_secs();
    let claims = json!({
        "jti": "jti", "iss": world.issuer.identifier, "aud": [ENDPOINT], "iat": seconds, "exp": seconds + 60,
    });
    let body = json!({ "sub_id": { "format": "opaque", "id": "auth0|alice" } });
    let typed = |typ: &str| sign(&world.issuer.keys[0], json!({ "typ": typ }), &claims);
    is(&send(&gate, &typed("JWT"), &body).await, 401, "unauthorized", "an ID token");
    is_taken(&send(&gate, &typed("application/global-token-revocation+jwt"), &body).await);
    gate.expect(&world.token("auth0|alice", json!({})), "logged_out").await;
}

#[tokio::test]
async fn a_jwt_is_good_for_one_subject() {
    for world in worlds().await {
        let org = Org::beside(world);
        let gate = org.gate("").start().await;
        let jwt = org.good("jti");
        is_taken(&send(&gate, &jwt, &org.about("auth0|alice")).await);
        let marker = gate.look_up("auth0|alice").await["logout"].clone();
        is_taken(&send(&gate, &jwt, &org.about("auth0|alice")).await);
        assert_eq!(gate.look_up("auth0|alice").await["logout"], marker, "repeated, it changes nothing");
        is(&send(&gate, &jwt, &org.about("auth0|bob")).await, 401, "unauthorized", "replayed");
        gate.expect(&org.token("auth0|bob", json!({})), "admit").await;
        is_taken(&send(&gate, &org.good("another"), &org.about("auth0|bob")).await);
        gate.expect(&org.token("auth0|bob", json!({})), "logged_out").await;
    }
}

#[tokio::test]
async fn while_the_store_is_silent_the_sender_is_asked_to_come_back() {
    let Some(world) = World::redis().await else { return };
    let org = Org::beside(world);
    let setup = org.gate("").with("STORE_RESPONSE_TIMEOUT", "500ms").with("MARKERS_WRITE_TIMEOUT", "500ms");
    let gate = setup.start().await;
    let (jwt, about) = (org.good("jti"), org.about("auth0|alice"));
    org.world.server().stop();
    for _ in 0..2 {
        let reply = send(&gate, &jwt, &about).await;
        is(&reply, 503, "not_stored", "silent");
        assert_eq!(reply.headers["retry-after"], "1");
    }
    org.world.server().cont();
    eventually("the store takes it", async || send(&gate, &jwt, &about).await.status == StatusCode::NO_CONTENT).await;
    gate.becomes(&org.token("auth0|alice", json!({})), "logged_out").await;
    gate.expect(&org.token("auth0|bob", json!({})), "admit").await;
}

#[tokio::test]
async fn the_signer_may_change_its_keys() {
    let org = Org::embedded().await;
    let gate = org.gate("").start().await;
    eventually("the keys are asked for", async || org.world.keys.hits(SIGNER_KEYS) > 0).await;
    is_taken(&send(&gate, &org.good("jti"), &org.about("auth0|alice")).await);
    let hits = org.world.keys.hits(SIGNER_KEYS);
    let next = SigningKey::generate("key-2", Algorithm::RS256);
    org.world.keys.put(SIGNER_KEYS, json!({ "keys": [next.jwk()] }).to_string());
    is_taken(&send(&gate, &sign(&next, json!({}), &org.claims("new")), &org.about("auth0|bob")).await);
    gate.expect(&org.token("auth0|bob", json!({})), "logged_out").await;
    is(&send(&gate, &org.good("old"), &org.about("auth0|carol")).await, 401, "unauthorized", "the old key");
    for number in 0..20 {
        let header = json!({ "kid": format!("made up {number}") });
        is(&send(&gate, &sign(&next, header, &org.claims("x")), &json!({})).await, 401, "unauthorized", "made up");
    }
    assert_eq!(org.world.keys.hits(SIGNER_KEYS), hits + 1, "no flood reaches the signer");
}

#[tokio::test]
async fn a_jwt_whose_key_cannot_be_had_may_be_good() {
    let org = Org::embedded().await;
    org.world.keys.answer(SIGNER_KEYS, StatusCode::INTERNAL_SERVER_ERROR, "");
    let gate = org.gate("").start().await;
    let (jwt, about) = (org.good("jti"), org.about("auth0|alice"));
    let reply = send(&gate, &jwt, &about).await;
    is(&reply, 503, "keys_unavailable", "no keys");
    assert_eq!(reply.headers["retry-after"], "1");
    org.world.keys.put(SIGNER_KEYS, org.signer.jwks().to_string());
    eventually("the keys have come", async || send(&gate, &jwt, &about).await.status == StatusCode::NO_CONTENT).await;
    gate.expect(&org.token("auth0|alice", json!({})), "logged_out").await;
}
