//! RFC 8935, and what a SET has to be.

use http::Method;
use serde_json::{Value, json};

use super::{count, email, iss_sub, on_both, source, start};
use crate::support::{
    eventually,
    full::{Gate, World, now, subject_path},
    http::{Answer, send},
    keys::SigningKey,
    transmitter::{AUDIENCE, CAEP, RISC, Transmitter, push},
};

/// Asserts a refusal as RFC 8935 §2.4 has it.
#[track_caller]
fn is_refused(answer: &Answer, err: &str) {
    assert_eq!((answer.status.as_u16(), answer.field("content-type")), (400, Some("application/json")), "{answer:?}");
    assert_eq!((answer.field("content-language"), answer.field("cache-control")), (Some("en"), Some("no-store")));
    let body = answer.json();
    assert_eq!(body["err"], err, "{body}");
    assert!(body["description"].as_str().is_some_and(|text| !text.is_empty()));
    assert_eq!(body.as_object().unwrap().len(), 2);
}

#[track_caller]
fn is_taken(answer: &Answer) {
    assert_eq!((answer.status.as_u16(), answer.body.len()), (202, 0), "{answer:?}");
    assert!(answer.field("content-type").is_none());
}

#[tokio::test]
async fn a_session_revoked_of_a_user_ends_all_of_them() {
    on_both(async |world: World, transmitter: Transmitter| {
        let gate = start(&world, &transmitter, "").await;
        let [alice, other, bob] = [("a", "1"), ("a", "2"), ("b", "3")]
            .map(|(sub, sid)| world.token(&format!("auth0|{sub}"), json!({ "sid": sid })));
        gate.expect(&alice, "admit").await;
        let claims = transmitter.claims(
            "jti-1",
            &format!("{CAEP}session-revoked"),
            iss_sub(&world, "auth0|a"),
            json!({ "event_timestamp": now().as_secs() - 5, "initiating_entity": "admin", "reason_admin": { "en": "x" } }),
        );
        let token = transmitter.sign(&claims);
        is_taken(&push(gate.address, &token, &[]).await);
        gate.expect(&alice, "logged_out").await;
        gate.expect(&other, "logged_out").await;
        gate.expect(&bob, "admit").await;
        let logout = gate.look_up("auth0|a").await["logout"].clone();
        assert_eq!((&logout["source"], &logout["by"]), (&json!("shared_signals"), &json!("partner")), "{logout}");
        let at: portcullis::clock::Timestamp = logout["at"].as_str().unwrap().parse().unwrap();
        let event = &claims["events"][&format!("{CAEP}session-revoked")];
        assert_eq!(at.as_secs(), event["event_timestamp"].as_i64().unwrap(), "the time of the event counts");
        assert_eq!(source(&gate).await["state"], "listening");
        // A new login is not affected.
        let fresh = json!({ "iat": now().as_secs(), "exp": now().as_secs() + 60, "sid": "4", "last_logout": at.as_millis() });
        gate.expect(&world.token("auth0|a", fresh), "admit").await;

        for _ in 0..3 {
            is_taken(&push(gate.address, &token, &[]).await);
        }
        assert_eq!((count(&gate, "changed").await, count(&gate, "duplicate").await), (1, 3));
        gate.instance.stop().await;
        let gate = start(&world, &transmitter, "").await;
        is_taken(&push(gate.address, &token, &[]).await);
        assert_eq!(count(&gate, "duplicate").await, 1, "a restart forgets nothing");
        gate.expect(&bob, "admit").await;
    })
    .await;
}

#[tokio::test]
async fn blocks_come_and_go_by_their_own_time() {
    on_both(async |world: World, transmitter: Transmitter| {
        let gate = start(&world, &transmitter, "").await;
        let (alice, bob) = (world.token("auth0|a", json!({})), world.token("auth0|b", json!({})));
        let event = |jti: &str, event: &str, ago: i64| {
            let mut claims = transmitter.claims(jti, &format!("{RISC}{event}"), iss_sub(&world, "auth0|a"), json!({}));
            claims["iat"] = json!(now().as_secs() - ago);
            transmitter.sign(&claims)
        };
        let (disabled, enabled) = (event("d", "account-disabled", 100), event("e", "account-enabled", 50));
        is_taken(&push(gate.address, &disabled, &[]).await);
        gate.expect(&alice, "user_blocked").await;
        gate.expect(&bob, "admit").await;
        is_taken(&push(gate.address, &enabled, &[]).await);
        gate.expect(&alice, "admit").await;
        is_taken(&push(gate.address, &event("late", "account-disabled", 70), &[]).await);
        gate.expect(&alice, "admit").await;
        is_taken(&push(gate.address, &event("again", "account-purged", 10), &[]).await);
        gate.expect(&alice, "user_blocked").await;
    })
    .await;
}

#[tokio::test]
async fn one_session_ends_where_its_id_is_the_one_that_tokens_carry() {
    on_both(async |world: World, transmitter: Transmitter| {
        let gate = start(&world, &transmitter, "opaque = \"session\"\n").await;
        let [one, two, three] = ["one", "two", "three"].map(|sid| world.token("auth0|a", json!({ "sid": sid })));
        let revoked = format!("{CAEP}session-revoked");
        let complex = json!({
            "format": "complex",
            "session": { "format": "opaque", "id": "one" },
            "user": iss_sub(&world, "auth0|a"),
            "tenant": { "format": "opaque", "id": "123456789" },
        });
        is_taken(
            &push(gate.address, &transmitter.sign(&transmitter.claims("1", &revoked, complex, json!({}))), &[]).await,
        );
        gate.expect(&one, "session_ended").await;
        gate.expect(&two, "admit").await;
        let opaque = json!({ "format": "opaque", "id": "two" });
        is_taken(
            &push(gate.address, &transmitter.sign(&transmitter.claims("2", &revoked, opaque, json!({}))), &[]).await,
        );
        gate.expect(&two, "session_ended").await;
        gate.expect(&three, "admit").await;
        // No session can be blocked.
        let claims = transmitter.claims(
            "3",
            &format!("{RISC}account-disabled"),
            json!({ "format": "opaque", "id": "three" }),
            json!({}),
        );
        is_taken(&push(gate.address, &transmitter.sign(&claims), &[]).await);
        gate.expect(&three, "admit").await;
        assert_eq!(count(&gate, "no_subject").await, 1);
    })
    .await;
}

#[tokio::test]
async fn users_are_found_by_their_address_once_they_were_here() {
    on_both(async |world: World, transmitter: Transmitter| {
        let gate = start(&world, &transmitter, "").await;
        let token = |sub: &str, email: &str| world.token(sub, json!({ "email": email }));
        let alice = token("auth0|a", "Alice@Example.com");
        let twin = token("google|a", "alice@example.com");
        let bob = token("auth0|b", "bob@example.com");
        let liar = world.token("auth0|liar", json!({ "email": "alice@example.com", "email_verified": false }));
        let unseen = format!("{CAEP}session-revoked");
        let revoke = async |jti: &str, address: &str| {
            let claims = transmitter.claims(jti, &unseen, email(address), json!({}));
            is_taken(&push(gate.address, &transmitter.sign(&claims), &[]).await);
        };
        revoke("too early", "alice@example.com").await;
        assert_eq!(count(&gate, "no_subject").await, 1);
        for token in [&alice, &twin, &bob, &liar] {
            gate.expect(token, "admit").await;
        }
        let mut attempt = 0;
        eventually("they are found by it", async || {
            attempt += 1;
            revoke(&format!("attempt {attempt}"), "ALICE@example.COM").await;
            gate.verdict(&alice).await == "logged_out" && gate.verdict(&twin).await == "logged_out"
        })
        .await;
        gate.expect(&bob, "admit").await;
        gate.expect(&liar, "admit").await;

        // The address belongs to somebody else now.
        let changed = transmitter.claims(
            "changed",
            &format!("{RISC}identifier-changed"),
            email("bob@example.com"),
            json!({ "new-value": "robert@example.com" }),
        );
        is_taken(&push(gate.address, &transmitter.sign(&changed), &[]).await);
        let before = count(&gate, "no_subject").await;
        revoke("old address", "bob@example.com").await;
        assert_eq!(count(&gate, "no_subject").await, before + 1);
        gate.expect(&bob, "admit").await;
        revoke("new address", "robert@example.com").await;
        gate.expect(&bob, "logged_out").await;
    })
    .await;
}

#[tokio::test]
async fn numbers_tokens_and_aliases_are_found_too() {
    on_both(async |world: World, transmitter: Transmitter| {
        let source = format!(
            "[sources.partner]\ntype = \"shared_signals\"\ntransmitter = \"{}\"\naudiences = [\"{AUDIENCE}\"]\nopaque = \"subject\"\n",
            transmitter.issuer()
        );
        let gate = world.gate().with("ISSUERS_ACME_CLAIMS_PHONE", "phone").route(&source).start().await;
        eventually("the source listens", async || super::source(&gate).await["state"] == "listening").await;
        let send = async |jti: &str, subject: Value| {
            let claims = transmitter.claims(jti, &format!("{CAEP}session-revoked"), subject, json!({}));
            is_taken(&push(gate.address, &transmitter.sign(&claims), &[]).await);
        };
        let known = world.token("auth0|phone", json!({ "phone": "+12065550123" }));
        gate.expect(&known, "admit").await;
        let mut attempt = 0;
        eventually("they are found by their number", async || {
            attempt += 1;
            let subject = json!({ "format": "phone_number", "phone_number": "+1 (206) 555-0123" });
            send(&format!("attempt {attempt}"), subject).await;
            gate.verdict(&known).await == "logged_out"
        })
        .await;

        let [one, other] = ["one", "other"].map(|jti| world.token("auth0|t", json!({ "jti": jti })));
        let iss = &world.issuer.identifier;
        send("token", json!({ "format": "jwt_id", "iss": iss, "jti": "one" })).await;
        gate.expect(&one, "revoked").await;
        gate.expect(&other, "admit").await;

        let aliases = json!({ "format": "aliases", "identifiers": [
            { "format": "account", "uri": "acct:a@example.com" },
            { "format": "iss_sub", "iss": "https://else.example/", "sub": "auth0|x" },
            { "format": "iss_sub", "iss": iss, "sub": "auth0|a" },
            { "format": "opaque", "id": "auth0|b" },
        ] });
        send("aliases", aliases).await;
        gate.expect(&world.token("auth0|a", json!({})), "logged_out").await;
        gate.expect(&world.token("auth0|b", json!({})), "logged_out").await;
        gate.expect(&world.token("auth0|x", json!({})), "admit").await;
    })
    .await;
}

#[tokio::test]
async fn each_fault_has_its_code() {
    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    let gate = start(&world, &transmitter, "").await;
    let alice = world.token("auth0|a", json!({}));
    let good = transmitter.claims("j", &format!("{RISC}account-disabled"), iss_sub(&world, "auth0|a"), json!({}));
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims.as_object_mut().unwrap().retain(|_, value| *value != json!("absent"));
        transmitter.sign(&claims)
    };
    for (name, value, err) in [
        ("iss", json!("https://else.example"), "invalid_issuer"),
        ("iss", json!(world.issuer.identifier), "invalid_issuer"),
        ("iss", json!("absent"), "invalid_issuer"),
        ("aud", json!("https://else.example"), "invalid_audience"),
        ("aud", json!([AUDIENCE.to_uppercase()]), "invalid_audience"),
        ("aud", json!("absent"), "invalid_audience"),
        ("sub", json!("auth0|a"), "invalid_request"),
        ("exp", json!(now().as_secs() + 60), "invalid_request"),
        ("jti", json!("absent"), "invalid_request"),
        ("iat", json!("absent"), "invalid_request"),
        ("events", json!("absent"), "invalid_request"),
        ("events", json!({}), "invalid_request"),
        ("events", json!([]), "invalid_request"),
        ("events", json!({ format!("{RISC}account-disabled"): null }), "invalid_request"),
        ("events", json!({ format!("{CAEP}credential-change"): {} }), "invalid_request"),
        ("sub_id", json!("absent"), "invalid_request"),
        ("sub_id", json!("auth0|a"), "invalid_request"),
        ("sub_id", json!({ "format": "iss_sub", "sub": "auth0|a" }), "invalid_request"),
        ("sub_id", json!({ "format": "complex" }), "invalid_request"),
    ] {
        is_refused(&push(gate.address, &with(name, value), &[]).await, err);
    }

    let stranger = SigningKey::generate("set-key", jsonwebtoken::Algorithm::RS256);
    let unknown = SigningKey::generate("other-key", jsonwebtoken::Algorithm::RS256);
    let header =
        |typ: &str, algorithm: &str, kid: &str| json!({ "typ": typ, "alg": algorithm, "kid": kid }).to_string();
    let set = |header: &str| transmitter.key().compact(header, good.to_string());
    let secret = SigningKey::from_secret("set-key", jsonwebtoken::Algorithm::HS256, &transmitter.key().public_octets());
    for (token, err) in [
        (stranger.compact(header("secevent+jwt", "RS256", "set-key"), good.to_string()), "authentication_failed"),
        (secret.compact(header("secevent+jwt", "HS256", "set-key"), good.to_string()), "authentication_failed"),
        (unknown.compact(header("secevent+jwt", "RS256", "other-key"), good.to_string()), "invalid_key"),
        (set(&header("secevent+jwt", "none", "set-key")), "authentication_failed"),
        (set(&header("secevent+jwt", "PS256", "set-key")), "authentication_failed"),
        (set(&header("JWT", "RS256", "set-key")), "invalid_request"),
        (set(&header("at+jwt", "RS256", "set-key")), "invalid_request"),
        (set(&header("logout+jwt", "RS256", "set-key")), "invalid_request"),
        (set(&json!({ "alg": "RS256", "kid": "set-key" }).to_string()), "invalid_request"),
        (String::new(), "invalid_request"),
        ("a.b.c".to_owned(), "invalid_request"),
        (good.to_string(), "invalid_request"),
        (transmitter.key().compact(header("secevent+jwt", "RS256", "set-key"), b"\xff\xfe"), "invalid_request"),
        (include_str!("../../../fixtures/rfc8935/set.jwt.txt").to_owned(), "invalid_issuer"),
    ] {
        is_refused(&push(gate.address, &token, &[]).await, err);
    }
    gate.expect(&alice, "admit").await;
    is_taken(&push(gate.address, &transmitter.sign(&good), &[]).await);
    gate.expect(&alice, "user_blocked").await;
}

/// A key that is not known is asked for once; until the transmitter can be asked again, nothing is known about it.
#[tokio::test]
async fn a_new_key_is_fetched_and_an_unreachable_one_is_no_fault_of_the_sender() {
    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    let gate = start(&world, &transmitter, "").await;
    let next = SigningKey::generate("next", jsonwebtoken::Algorithm::RS256);
    let claims = transmitter.claims("j", &format!("{RISC}account-disabled"), iss_sub(&world, "auth0|a"), json!({}));
    let header = json!({ "typ": "secevent+jwt", "alg": "RS256", "kid": "next" }).to_string();
    let token = next.compact(&header, claims.to_string());
    transmitter.set(|knobs| {
        knobs.down = true;
        knobs.jwks = Some(json!({ "keys": [next.jwk()] }));
    });
    let answer = push(gate.address, &token, &[]).await;
    assert_eq!(answer.is(503, "keys_unavailable").field("retry-after"), Some("5"));
    transmitter.set(|knobs| knobs.down = false);
    eventually("it is taken", async || push(gate.address, &token, &[]).await.status == 202).await;
    gate.expect(&world.token("auth0|a", json!({})), "user_blocked").await;
}

#[tokio::test]
async fn before_the_transmitter_has_answered_nothing_is_known() {
    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    transmitter.set(|knobs| knobs.down = true);
    let gate = super::launch(&world, &transmitter, "").await;
    eventually("it says so", async || source(&gate).await["state"] == "retrying").await;
    let claims = transmitter.claims("j", &format!("{RISC}account-disabled"), iss_sub(&world, "auth0|a"), json!({}));
    let token = transmitter.sign(&claims);
    push(gate.address, &token, &[]).await.is(503, "keys_unavailable");
    transmitter.set(|knobs| knobs.down = false);
    eventually("it is taken", async || push(gate.address, &token, &[]).await.status == 202).await;
    gate.expect(&world.token("auth0|a", json!({})), "user_blocked").await;
    eventually("it listens", async || source(&gate).await["state"] == "listening").await;
}

/// RFC 8725 §3.11: no kind of token passes for another, whoever signed it.
#[tokio::test]
async fn no_other_token_is_a_set_and_a_set_is_no_other_token() {
    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    // The transmitter is the issuer, and signs everything with one key.
    let mut gate = world.gate();
    gate = gate.with("ISSUERS_ACME_ISSUER", &transmitter.issuer());
    gate = gate.with("ISSUERS_ACME_JWKS_URL", &transmitter.url("/jwks.json"));
    gate = gate.with("ISSUERS_ACME_ALGORITHMS", "RS256").with("ISSUERS_ACME_AUDIENCES", AUDIENCE);
    let source = format!(
        "[sources.partner]\ntype = \"shared_signals\"\ntransmitter = \"{}\"\naudiences = [\"{AUDIENCE}\"]\n",
        transmitter.issuer()
    );
    let gate = gate.route(&source).start().await;
    eventually("the source listens", async || super::source(&gate).await["state"] == "listening").await;
    let at = now().as_secs();
    let sign = |typ: Option<&str>, claims: &Value| {
        let mut header = transmitter.key().header();
        if let Some(typ) = typ {
            header["typ"] = json!(typ);
        }
        transmitter.key().compact(header.to_string(), claims.to_string())
    };
    let user =
        json!({ "iss": transmitter.issuer(), "aud": AUDIENCE, "sub": "a", "iat": at, "exp": at + 60, "jti": "t" });
    let with = |claims: &Value, more: Value| {
        let mut claims = claims.clone();
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    };
    let logout_events = json!({ "events": { "http://schemas.openid.net/event/backchannel-logout": {} }, "sid": "s" });
    let access = sign(Some("at+jwt"), &with(&user, json!({ "client_id": "c", "scope": "read" })));
    gate.expect(&access, "admit").await;
    for (_, typ, claims) in [
        ("access token", Some("at+jwt"), with(&user, json!({ "client_id": "c" }))),
        ("access token", None, user.clone()),
        ("ID token", Some("JWT"), with(&user, json!({ "nonce": "n", "auth_time": at }))),
        ("logout token", Some("logout+jwt"), with(&user, logout_events.clone())),
        ("logout token", Some("JWT"), with(&user, logout_events.clone())),
        // The right type is not enough.
        ("access token", Some("secevent+jwt"), user.clone()),
        ("logout token", Some("secevent+jwt"), with(&user, logout_events)),
    ] {
        is_refused(&push(gate.address, &sign(typ, &claims), &[]).await, "invalid_request");
    }
    let set = transmitter.claims(
        "j",
        &format!("{CAEP}session-presented"),
        json!({ "format": "opaque", "id": "a" }),
        json!({}),
    );
    gate.expect(&sign(Some("secevent+jwt"), &set), "invalid_token").await;
    gate.expect(&sign(Some("at+jwt"), &set), "invalid_token").await;
    gate.expect(&sign(None, &set), "invalid_token").await;
    // With everything that an access token has.
    let both = with(&set, json!({ "sub": "a", "exp": at + 60, "client_id": "c" }));
    for typ in [Some("secevent+jwt"), Some("at+jwt"), Some("JWT"), None] {
        gate.expect(&sign(typ, &both), "invalid_token").await;
        is_refused(&push(gate.address, &sign(typ, &both), &[]).await, "invalid_request");
    }
}

#[tokio::test]
async fn what_is_no_delivery_is_told_so_before_it_is_read() {
    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    let gate = launch_with_credential(&world, &transmitter).await;
    let claims = transmitter.claims("j", &format!("{RISC}account-disabled"), iss_sub(&world, "auth0|a"), json!({}));
    let token = transmitter.sign(&claims);
    let path = "/.portcullis/events/partner";
    for (fields, status, code) in [
        (vec![], 401, "unauthorized"),
        (vec![("authorization", "Bearer wrong")], 401, "unauthorized"),
        (vec![("authorization", "bearer the transmitter")], 401, "unauthorized"),
        (
            vec![("authorization", "Bearer the transmitter"), ("authorization", "Bearer the transmitter")],
            401,
            "unauthorized",
        ),
    ] {
        push(gate.address, &token, &fields).await.is(status, code);
    }
    let credential = ("authorization", "Bearer the transmitter");
    for media_type in ["application/json", "application/jwt", "application/secevent+jwtx", ""] {
        let fields = [credential, ("content-type", media_type)];
        send(gate.address, Method::POST, path, &fields, token.clone()).await.is(415, "media_type");
    }
    let set = ("content-type", "application/secevent+jwt");
    let answer = send(gate.address, Method::GET, path, &[credential, set], "").await;
    assert_eq!(answer.is(405, "method").field("allow"), Some("POST"));
    send(gate.address, Method::POST, path, &[credential, set], "x".repeat(70_000)).await.is(413, "too_large");
    send(gate.address, Method::POST, path, &[credential, set], "x".repeat(5_000_000)).await.is(413, "too_large");
    let fields = [credential, set, ("content-encoding", "br")];
    send(gate.address, Method::POST, path, &fields, token.clone()).await.is(415, "encoding");
    is_refused(
        &send(gate.address, Method::POST, path, &[credential, set], b"\xff\xfe".to_vec()).await,
        "invalid_request",
    );
    gate.expect(&world.token("auth0|a", json!({})), "admit").await;

    let parameters = [credential, ("content-type", "Application/SecEvent+JWT; charset=utf-8")];
    is_taken(&send(gate.address, Method::POST, path, &parameters, format!("{token}\n")).await);
    gate.expect(&world.token("auth0|a", json!({})), "user_blocked").await;
}

async fn launch_with_credential(world: &World, transmitter: &Transmitter) -> Gate {
    let source = format!(
        "[sources.partner]\ntype = \"shared_signals\"\ntransmitter = \"{}\"\naudiences = [\"{AUDIENCE}\"]\n",
        transmitter.issuer()
    );
    let gate =
        world.gate().with("SOURCES_PARTNER_AUTHORIZATION", "Bearer the transmitter").route(&source).start().await;
    eventually("the source listens", async || super::source(&gate).await["state"] == "listening").await;
    gate
}

#[tokio::test]
async fn while_the_store_is_out_the_transmitter_is_to_try_again() {
    let Some(mut world) = World::redis().await else { return };
    let transmitter = Transmitter::start().await;
    let gate = start(&world, &transmitter, "").await;
    let alice = world.token("auth0|a", json!({}));
    let claims = transmitter.claims("j", &format!("{RISC}account-disabled"), iss_sub(&world, "auth0|a"), json!({}));
    let token = transmitter.sign(&claims);
    world.server_mut().kill();
    let answer = push(gate.address, &token, &[]).await;
    assert_eq!(answer.is(503, "not_stored").field("retry-after"), Some("1"));
    let by_address = transmitter.claims("k", &format!("{RISC}account-disabled"), email("a@example.com"), json!({}));
    push(gate.address, &transmitter.sign(&by_address), &[]).await.is(503, "not_stored");
    world.server_mut().restart();
    eventually("it is taken", async || push(gate.address, &token, &[]).await.status == 202).await;
    gate.becomes(&alice, "user_blocked").await;
    assert!(source(&gate).await["failures"].as_u64().unwrap() >= 2);
}

/// What cannot be mapped is taken, counted and does nothing.
#[tokio::test]
async fn what_means_nothing_here_is_taken() {
    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    transmitter.set(|knobs| knobs.critical = vec!["tenant", "user"]);
    let gate = start(&world, &transmitter, "").await;
    let revoked = format!("{CAEP}session-revoked");
    let alice = iss_sub(&world, "auth0|a");
    let mut number = 0;
    for (event, subject, outcome) in [
        ("https://else.example/event".to_owned(), alice.clone(), "unknown_kind"),
        (format!("{CAEP}something-new"), alice.clone(), "unknown_kind"),
        (format!("{CAEP}risk-level-change"), alice.clone(), "ignored"),
        (revoked.clone(), json!({ "format": "iss_sub", "iss": "https://else.example/", "sub": "a" }), "unknown_issuer"),
        (revoked.clone(), json!({ "format": "opaque", "id": "x" }), "no_subject"),
        (revoked.clone(), email("nobody@example.com"), "no_subject"),
        (revoked.clone(), json!({ "format": "account", "uri": "acct:a@example.com" }), "no_subject"),
        (revoked.clone(), json!({ "format": "catalog_item", "catalog_id": "x" }), "no_subject"),
        (revoked.clone(), json!({ "format": "complex", "device": alice }), "no_subject"),
        // Critical, and nothing is known of it.
        (
            revoked.clone(),
            json!({ "format": "complex", "user": alice, "tenant": { "format": "opaque", "id": "1" } }),
            "no_subject",
        ),
    ] {
        let before = count(&gate, outcome).await;
        number += 1;
        let claims = transmitter.claims(&number.to_string(), &event, subject, json!({}));
        is_taken(&push(gate.address, &transmitter.sign(&claims), &[]).await);
        assert_eq!(count(&gate, outcome).await, before + 1, "{event}");
    }
    gate.expect(&world.token("auth0|a", json!({})), "admit").await;

    // A user and a device: the device is passed over, since nothing here knows it.
    let complex = json!({ "format": "complex", "user": alice, "device": alice });
    is_taken(
        &push(gate.address, &transmitter.sign(&transmitter.claims("last", &revoked, complex, json!({}))), &[]).await,
    );
    gate.expect(&world.token("auth0|a", json!({})), "logged_out").await;
}

#[tokio::test]
async fn settings_say_what_events_do() {
    let (world, transmitter) = (World::embedded().await, Transmitter::start().await);
    let lines = "ignored_members = [\"tenant\"]\nsubject_issuers = [\"https://idp.partner.example\"]\n[sources.partner.events]\n\"risk-level-change\" = \"logout\"\n\
                 \"account-disabled\" = \"ignore\"\n\"https://partner.example/breach\" = \"block\"\n";
    transmitter.set(|knobs| knobs.critical = vec!["tenant"]);
    let gate = start(&world, &transmitter, lines).await;
    let send = async |jti: &str, event: &str, subject: Value| {
        is_taken(
            &push(gate.address, &transmitter.sign(&transmitter.claims(jti, event, subject, json!({}))), &[]).await,
        );
    };
    send("1", &format!("{RISC}account-disabled"), iss_sub(&world, "auth0|a")).await;
    gate.expect(&world.token("auth0|a", json!({})), "admit").await;
    send("2", "https://partner.example/breach", iss_sub(&world, "auth0|a")).await;
    gate.expect(&world.token("auth0|a", json!({})), "user_blocked").await;
    let tenant = json!({ "format": "opaque", "id": "1" });
    let complex = json!({ "format": "complex", "user": iss_sub(&world, "auth0|b"), "tenant": tenant });
    send("3", &format!("{CAEP}risk-level-change"), complex).await;
    gate.expect(&world.token("auth0|b", json!({})), "logged_out").await;
    let named = json!({ "format": "iss_sub", "iss": "https://idp.partner.example", "sub": "auth0|c" });
    send("4", &format!("{CAEP}session-revoked"), named).await;
    gate.expect(&world.token("auth0|c", json!({})), "logged_out").await;
    let known = gate.change(Method::GET, &subject_path("auth0|b", ""), Value::Null).await;
    assert_eq!(known["logout"]["reason"], "risk-level-change");
}
