//! Times of tokens, cached or not; places of tokens; modes.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::on_both_stores;
use crate::support::{
    client::Raw,
    full::{MARGIN, World, now, request, verdict},
    keys::SigningKey,
};

on_both_stores!(
    a_token_expires_although_it_is_cached,
    times_are_checked,
    a_token_comes_from_one_place_only,
    tokens_of_an_issuer_come_from_its_places,
    long_tokens_are_not_looked_at,
    observed_verdicts_are_counted_and_let_through,
    optional_routes_take_no_bad_tokens,
    routes_ask_for_scopes,
    the_upstream_learns_who_it_is_and_no_more,
);

const ALICE: &str = "auth0|alice";

async fn a_token_expires_although_it_is_cached(world: World) {
    let gate = world.gate().with("MARKERS_CLOCK_SKEW", "0s").start().await;
    let expires = now().as_secs() + 2;
    let token = world.token(ALICE, json!({"exp": expires}));
    gate.expect(&token, "admit").await;
    gate.becomes(&token, "token_expired").await;
    let late = now().as_millis() - expires * 1000;
    assert!(late >= 0, "refused {} ms before it expired", -late);
    assert!(u128::try_from(late).unwrap() <= MARGIN.as_millis(), "refused {late} ms after it expired");
    gate.expect(&token, "token_expired").await;
}

async fn times_are_checked(world: World) {
    let gate = world.gate().start().await;
    let now = now().as_secs();
    for (claims, expected) in [
        (json!({"iat": now - 100, "exp": now - 100 + 86_400}), "admit"),
        (json!({"iat": now - 100, "exp": now - 100 + 86_401}), "token_lifetime"),
        (json!({"iat": now - 100_000, "exp": now + 10}), "token_lifetime"),
        (json!({"iat": -9_000_000_000_i64}), "token_lifetime"),
        (json!({"exp": now - 10}), "token_expired"),
        (json!({"exp": now - 10, "nbf": now + 100}), "token_expired"),
        (json!({"nbf": now - 1}), "admit"),
        (json!({"nbf": now + 100}), "invalid_token"),
        (json!({"iat": now + 100}), "invalid_token"),
        (json!({"iat": null}), "invalid_token"),
        (json!({"exp": null}), "invalid_token"),
        (json!({"sub": null}), "invalid_token"),
        (json!({"aud": "https://other.example"}), "invalid_token"),
        (json!({"exp": "soon"}), "invalid_token"),
    ] {
        let token = world.token(ALICE, claims.clone());
        assert_eq!(gate.verdict(&token).await, expected, "{claims}");
        assert_eq!(gate.verdict(&token).await, expected, "{claims}, the second time");
    }
}

async fn a_token_comes_from_one_place_only(world: World) {
    let gate = world.gate().route("cookie = \"token\"\nheader = \"X-Token\"").start().await;
    let token = world.token(ALICE, json!({}));
    let bearer = format!("Bearer {token}");
    let (cookie, quoted) = (format!("a=b; token={token}"), format!("token=\"{token}\"; a=b"));
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("authorization", &bearer)], "admit"),
        (&[("cookie", &cookie)], "admit"),
        (&[("cookie", &quoted)], "admit"),
        (&[("x-token", &token)], "admit"),
        (&[("authorization", &bearer), ("cookie", &cookie)], "invalid_request"),
        (&[("authorization", &bearer), ("x-token", &token)], "invalid_request"),
        (&[("authorization", &bearer), ("authorization", &bearer)], "invalid_request"),
        (&[("cookie", &cookie), ("cookie", &cookie)], "invalid_request"),
        (&[("authorization", &format!("{bearer}, {bearer}"))], "invalid_request"),
        (&[("authorization", "Bearer")], "invalid_request"),
        (&[("authorization", "Basic YTpi")], "missing_token"),
        (&[("x-other", &token)], "missing_token"),
    ];
    for (fields, expected) in cases {
        let mut request = request(Method::GET, "/?access_token=nothing", "");
        for (name, value) in *fields {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let reply = gate.send(request).await;
        let names: Vec<_> = fields.iter().map(|(name, _)| name).collect();
        assert_eq!(verdict(&reply), *expected, "{names:?}");
        if *expected == "invalid_request" {
            assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        }
    }
    let hits = world.upstream.hits();
    let in_query = request(Method::GET, &format!("/?access_token={token}"), "");
    assert_eq!(verdict(&gate.send(in_query).await), "missing_token", "a token in the query is never read");
    assert_eq!(world.upstream.hits(), hits);
}

async fn tokens_of_an_issuer_come_from_its_places(world: World) {
    let other = "[issuers.other]\nissuer = \"https://other.example/\"\naudiences = [\"a\"]\ncookie = \"other\"\n\
                 algorithms = [\"HS256\"]\n";
    let gate = world
        .gate()
        .with("ISSUERS_OTHER_SECRET", "0123456789abcdef0123456789abcdef")
        .with("ISSUERS_ACME_COOKIE", "acme")
        .route(other)
        .start()
        .await;
    let token = world.token(ALICE, json!({}));
    for (cookie, expected) in [("acme", "admit"), ("other", "invalid_token")] {
        let mut request = request(Method::GET, "/", "");
        request.headers_mut().insert("cookie", format!("{cookie}={token}").parse().unwrap());
        assert_eq!(verdict(&gate.send(request).await), expected, "{cookie}");
    }
}

async fn long_tokens_are_not_looked_at(world: World) {
    let gate = world.gate().with("LISTENER_MAX_HEADER_SIZE", "32KiB").start().await;
    let token = |padding: usize| world.token(ALICE, json!({"padding": "x".repeat(padding)}));
    gate.expect(&token(10_000), "admit").await;
    let reply = gate.get(&token(13_000)).await;
    assert_eq!((reply.status, &*reply.code()), (StatusCode::UNAUTHORIZED, "invalid_token"));
    // The rest of a header that is too long is not read, so the answer to it may be lost with the connection.
    let mut raw = Raw::connect(gate.address).await;
    let _ = raw
        .0
        .write_all(format!("GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}", token(40_000)).as_bytes())
        .await;
    let answer = raw.read_to_end().await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

async fn observed_verdicts_are_counted_and_let_through(world: World) {
    let gate = world.gate().route("mode = \"observe\"").start().await;
    let token = world.token(ALICE, json!({}));
    gate.expect(&token, "admit").await;
    assert_eq!(gate.log_out(&token, "?everywhere").await.status, StatusCode::NO_CONTENT, "its own endpoints enforce");
    gate.expect(&token, "admit").await;
    assert_eq!(world.upstream.last().values("x-forwarded-user"), [ALICE]);
    assert!((gate.verdicts("logged_out").await - 1.0).abs() < 0.1);
    assert!((gate.verdicts("admit").await - 1.0).abs() < 0.1);
    let wrong_audience = world.token(ALICE, json!({"aud": "https://other.example"}));
    gate.expect(&wrong_audience, "admit").await;
    assert!(world.upstream.last().values("x-forwarded-user").is_empty(), "not a token for this API");

    let forged = SigningKey::generate("key-1", jsonwebtoken::Algorithm::ES256);
    let forged = forged.token(&world.issuer.claims(now().as_secs() - 10));
    gate.expect(&forged, "invalid_token").await;
    gate.expect("", "missing_token").await;
    gate.expect("not a token", "invalid_request").await;
}

async fn optional_routes_take_no_bad_tokens(world: World) {
    let gate = world.gate().route("auth = \"optional\"").start().await;
    let token = world.token(ALICE, json!({}));
    gate.expect("", "admit").await;
    assert!(world.upstream.last().values("x-forwarded-user").is_empty());
    gate.expect(&token, "admit").await;
    assert_eq!(world.upstream.last().values("x-forwarded-user"), [ALICE]);
    gate.log_out(&token, "").await;
    gate.expect(&token, "session_ended").await;
    gate.expect("a.b.c", "invalid_token").await;
    gate.expect("", "admit").await;
    assert!((gate.verdicts("anonymous").await - 2.0).abs() < 0.1);
}

async fn routes_ask_for_scopes(world: World) {
    let gate = world.gate().route("scopes = [\"read:orders\", \"write:orders\"]").start().await;
    for (claims, expected) in [
        (json!({"scope": "read:orders write:orders"}), "admit"),
        (json!({"scope": "read:orders", "permissions": ["write:orders"]}), "admit"),
        (json!({"scope": "read:orders"}), "insufficient_scope"),
        (json!({"scope": null}), "insufficient_scope"),
        (json!({"scope": "read:orders write:orders2"}), "insufficient_scope"),
    ] {
        assert_eq!(gate.verdict(&world.token(ALICE, claims.clone())).await, expected, "{claims}");
    }
    let blocked = world.token(ALICE, json!({"scope": null}));
    gate.change(Method::PUT, "/v1/subjects/acme/auth0%7Calice/block", json!(null)).await;
    gate.expect(&blocked, "user_blocked").await;
}

async fn the_upstream_learns_who_it_is_and_no_more(world: World) {
    let route =
        "identity = { \"X-User\" = \"sub\", \"X-Mail\" = \"email\" }\nforward_token = false\ncookie = \"token\"";
    let gate = world.gate().route(route).start().await;
    let mut with_mail = request(Method::GET, "/", &world.token(ALICE, json!({"email": "alice@acme.example"})));
    for (name, value) in [("X-User", "mallory"), ("x_user", "mallory"), ("X-Mail", "mallory"), ("cookie", "a=b")] {
        with_mail.headers_mut().append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    assert_eq!(verdict(&gate.send(with_mail).await), "admit");
    let seen = world.upstream.last();
    assert_eq!((seen.values("x-user"), seen.values("x-mail")), (vec![ALICE], vec!["alice@acme.example"]));
    assert!(seen.values("x_user").is_empty() && seen.values("authorization").is_empty());
    assert_eq!(seen.values("cookie"), ["a=b"]);

    let mut without_mail = request(Method::GET, "/", &world.token(ALICE, json!({})));
    without_mail.headers_mut().insert("x-mail", "mallory@acme.example".parse().unwrap());
    without_mail.headers_mut().insert("connection", "x-user, close".parse().unwrap());
    assert_eq!(verdict(&gate.send(without_mail).await), "admit");
    let seen = world.upstream.last();
    assert_eq!((seen.values("x-user"), seen.values("x-mail")), (vec![ALICE], vec![]));
}

/// What is cached is the verification only: verdicts of one route do not leak into another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_route_judges_by_its_own_policy() {
    let world = World::embedded().await;
    let url = world.upstream.url();
    let routes = format!(
        "[[routes]]\npath = \"/admin\"\nupstream = \"{url}\"\nscopes = [\"admin\"]\n\
         [[routes]]\npath = \"/open\"\nupstream = \"{url}\"\nauth = \"none\"\n\
         [[routes]]\npath = \"/watched\"\nupstream = \"{url}\"\nscopes = [\"admin\"]\nmode = \"observe\""
    );
    let gate = world.gate().route(&routes).start().await;
    let token = world.token(ALICE, json!({}));
    for _ in 0..3 {
        for (path, expected) in
            [("/", "admit"), ("/admin", "insufficient_scope"), ("/open", "admit"), ("/watched", "admit")]
        {
            assert_eq!(verdict(&gate.send(request(Method::GET, path, &token)).await), expected, "{path}");
        }
    }
    tokio::time::timeout(Duration::from_secs(5), gate.instance.stop()).await.unwrap();
}
