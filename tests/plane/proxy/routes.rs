//! Which route a request takes, and what the route asks of it.

use std::{io::Write, sync::Arc};

use http::Method;
use serde_json::json;

use super::{HTTP1, HTTP2, client, each_pair, route};
use crate::support::{
    client::{Raw, Reply, request},
    gate::TestGate,
    keys::TestIssuer,
    upstream::{StreamBody, TestUpstream, text},
};

/// An upstream that answers with its name.
async fn named(name: &'static str) -> Arc<TestUpstream> {
    let upstream = TestUpstream::start().await;
    upstream.answer(move |_| text(name));
    Arc::new(upstream)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_host_and_the_longest_prefix_win() {
    let routes: [(&str, &str, &str); 6] = [
        ("every", "", "/"),
        ("every health", "", "/health"),
        ("wildcard", "\"*.example.com\"", "/"),
        ("exact v1", "\"api.example.com\"", "/v1"),
        ("exact users", "\"api.example.com\"", "/v1/users"),
        ("several", "\"one.test\", \"two.test\"", "/"),
    ];
    let mut upstreams = Vec::new();
    for (name, ..) in routes {
        upstreams.push(named(name).await);
    }
    let route = |((_, hosts, path), upstream): (&(&str, &str, &str), &Arc<TestUpstream>)| {
        let hosts = if hosts.is_empty() { String::new() } else { format!("hosts = [{hosts}]") };
        let url = upstream.url();
        format!("[[routes]]\npath = \"{path}\"\nupstream = \"{url}\"\nauth = \"none\"\n{hosts}\n")
    };
    let toml: String = routes.iter().zip(&upstreams).map(route).collect();
    let gate = TestGate::start(&toml).await;
    for (host, path, name) in [
        ("api.example.com", "/v1", "exact v1"),
        ("API.EXAMPLE.com:8080", "/v1/x", "exact v1"),
        ("api.example.com.", "/v1/users/7?x=/", "exact users"),
        ("api.example.com", "/v1/users2", "exact v1"),
        ("api.example.com", "/v10", "wildcard"),
        ("other.example.com", "/v1", "wildcard"),
        ("a.b.example.com", "/", "wildcard"),
        ("example.com", "/", "every"),
        ("badexample.com", "/health/x", "every health"),
        ("two.test", "/health", "several"),
        ("127.0.0.1:1", "/x", "every"),
    ] {
        for version in [HTTP1, HTTP2] {
            let builder =
                http::Request::get(if version == HTTP2 { format!("http://{host}{path}") } else { path.to_owned() });
            let builder = if version == HTTP2 { builder.version(version) } else { builder.header("host", host) };
            let reply = client(version, &gate).await.fetch(builder.body(StreamBody::from("")).unwrap()).await;
            assert_eq!(reply.text(), name, "{host} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_route_there_is_nothing() {
    let gate = TestGate::start(&route(HTTP1, "path = \"/v1\"\nauth = \"none\"")).await;
    let reply = gate.get("/v2", "").await;
    assert_eq!((reply.status.as_u16(), &*reply.code()), (404, "no_route"));
    assert_eq!(gate.get("/v1", "").await.text(), "ok");
}

fn challenge(reply: &Reply) -> &str {
    reply.headers.get("www-authenticate").map(|value| value.to_str().unwrap()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_ask_for_what_they_are_told_to() {
    each_pair(async |downstream, upstream| {
        let toml = [
            route(upstream, "realm = \"shop\"\ndescribe = false"),
            route(upstream, "path = \"/optional\"\nauth = \"optional\""),
            route(upstream, "path = \"/none\"\nauth = \"none\""),
            route(upstream, "path = \"/orders\"\nscopes = [\"read:orders\", \"write:orders\"]\ndescribe = false"),
        ];
        let gate = TestGate::start(&toml.concat()).await;
        let mut client = client(downstream, &gate).await;
        let good = gate.good_token();
        let writer = gate.token(json!({"scope": "write:orders read:orders"}));
        let expired = gate.token(json!({"exp": 1}));
        let cases: [(&str, &str, u16, &str, &str); 12] = [
            ("/", &good, 200, "", ""),
            ("/", "", 401, "missing_token", "Bearer realm=\"shop\""),
            ("/", &expired, 401, "token_expired", "Bearer realm=\"shop\", error=\"invalid_token\""),
            ("/", "nonsense", 401, "invalid_token", "Bearer realm=\"shop\", error=\"invalid_token\""),
            ("/", "a b", 400, "invalid_request", "Bearer realm=\"shop\", error=\"invalid_request\""),
            ("/optional", "", 200, "", ""),
            ("/optional", &good, 200, "", ""),
            (
                "/optional",
                &expired,
                401,
                "token_expired",
                "Bearer realm=\"portcullis\", error=\"invalid_token\", error_description=\"The access token expired\"",
            ),
            ("/none", "", 200, "", ""),
            ("/none", "nonsense", 200, "", ""),
            ("/orders", &writer, 200, "", ""),
            (
                "/orders",
                &good,
                403,
                "insufficient_scope",
                "Bearer realm=\"portcullis\", error=\"insufficient_scope\", scope=\"read:orders write:orders\"",
            ),
        ];
        for (path, token, status, code, expected) in cases {
            for method in [Method::GET, Method::POST] {
                let sent = request(downstream, method, path, token).body(StreamBody::from("")).unwrap();
                let reply = client.fetch(sent).await;
                assert_eq!(
                    (reply.status.as_u16(), &*reply.code(), challenge(&reply)),
                    (status, code, expected),
                    "{path} {token}"
                );
            }
            // A refusal of HEAD has a header only.
            let sent = request(downstream, Method::HEAD, path, token).body(StreamBody::from("")).unwrap();
            let reply = client.fetch(sent).await;
            assert_eq!((reply.status.as_u16(), challenge(&reply), &reply.body[..]), (status, expected, &b""[..]));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_takes_tokens_of_its_own_issuers_only() {
    let other = TestIssuer::new("https://other.example/");
    let mut jwks = tempfile::NamedTempFile::new().unwrap();
    jwks.write_all(other.jwks().to_string().as_bytes()).unwrap();
    let toml = format!(
        "[issuers.main]\n[issuers.other]\nissuer = \"{}\"\naudiences = [\"https://api.example\"]\nalgorithms = [\"ES256\"]\njwks_file = \"{}\"\n{}{}{}",
        other.identifier,
        jwks.path().display(),
        route(HTTP1, "path = \"/main\"\nissuers = [\"main\"]"),
        route(HTTP1, "path = \"/other\"\nissuers = [\"other\"]"),
        route(HTTP1, "path = \"/both\""),
    );
    let gate = TestGate::start(&toml).await;
    let theirs = other.token(&other.claims(crate::support::gate::now() - 10));
    let ours = gate.good_token();
    for (path, token, status) in [
        ("/main", &ours, 200),
        ("/main", &theirs, 401),
        ("/other", &ours, 401),
        ("/other", &theirs, 200),
        ("/both", &ours, 200),
        ("/both", &theirs, 200),
    ] {
        assert_eq!(gate.get(path, token).await.status.as_u16(), status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_from_cookies_and_fields_too_but_only_one() {
    const PLACES: &str = "cookie = \"token\"\nheader = \"X-Token\"\n";
    let toml = [route(HTTP1, PLACES), route(HTTP1, &format!("path = \"/kept\"\nforward_token = false\n{PLACES}"))];
    let gate = TestGate::start(&toml.concat()).await;
    let token = gate.good_token();
    let fetch = async |path: &str, version, fields: &[(&str, String)]| {
        let mut builder = request(version, Method::GET, path, "");
        for (name, value) in fields {
            builder = builder.header(*name, value);
        }
        client(version, &gate).await.fetch(builder.body(StreamBody::from("")).unwrap()).await
    };
    let bearer = ("authorization", format!("Bearer {token}"));
    let cookie = ("cookie", format!("a=1; token={token}; b=2"));
    let field = ("x-token", token.clone());
    let other = ("cookie", "token2=x".to_owned());
    for version in [HTTP1, HTTP2] {
        for place in [&bearer, &cookie, &field] {
            let reply = fetch("/", version, &[place.clone(), other.clone()]).await;
            assert_eq!(reply.status.as_u16(), 200, "{}", place.0);
            let got = gate.upstream.last();
            assert!(got.values(place.0)[0].contains(&token), "{got:?}");
            // Where the token stays, so does nothing else.
            assert_eq!(fetch("/kept", version, &[place.clone(), other.clone()]).await.status.as_u16(), 200);
            let got = gate.upstream.last();
            let shown: String = got.headers.values().map(|value| value.to_str().unwrap()).collect();
            assert!(!shown.contains(&token), "{got:?}");
            assert!(got.values("cookie")[0].contains("token2=x"), "{got:?}");
            assert_eq!(got.values("x-forwarded-user"), ["auth0|alice"]);
            if place.0 == "cookie" {
                assert_eq!(got.values("cookie"), ["a=1; b=2; token2=x"]);
            }
        }
        for two in [
            [&bearer, &cookie],
            [&bearer, &field],
            [&cookie, &field],
            [&bearer, &bearer],
            [&cookie, &cookie],
            [&field, &field],
        ] {
            let reply = fetch("/", version, &two.map(Clone::clone)).await;
            assert_eq!((reply.status.as_u16(), &*reply.code()), (400, "invalid_request"), "{} {}", two[0].0, two[1].0);
        }
        // Never from the query.
        assert_eq!(fetch(&format!("/?access_token={token}&token={token}"), version, &[]).await.code(), "missing_token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn observing_lets_through_what_is_signed() {
    let toml = [route(HTTP1, ""), route(HTTP1, "path = \"/watched\"\nmode = \"observe\"\nscopes = [\"admin\"]")];
    let gate = TestGate::start(&toml.concat()).await;
    let gone = gate.token(json!({"sub": "auth0|bob", "sid": "s1"}));
    let head = format!(
        "POST /.portcullis/logout?everywhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {gone}\r\n\r\n"
    );
    assert!(Raw::exchange(gate.address(), head).await.starts_with("HTTP/1.1 204"));
    let stranger = TestIssuer::new("https://issuer.example/");
    let cases: [(String, u16, u16); 7] = [
        (gate.good_token(), 200, 200),
        (gate.token(json!({"exp": 1})), 401, 200),
        (gone, 401, 200),
        (gate.token(json!({"aud": "https://elsewhere.example"})), 401, 200),
        (stranger.token(&gate.claims()), 401, 401),
        ("nonsense".to_owned(), 401, 401),
        (String::new(), 401, 401),
    ];
    for (index, (token, enforced, observed)) in cases.iter().enumerate() {
        assert_eq!(gate.get("/", token).await.status.as_u16(), *enforced, "case {index}");
        assert_eq!(gate.get("/watched", token).await.status.as_u16(), *observed, "case {index}");
    }
}

/// `Some`: what the upstream gets. `None`: it gets nothing.
const TRICKS: [(&str, Option<&str>); 51] = [
    ("/public", Some("/public")),
    ("/public/", Some("/public/")),
    ("/public/x?q=/admin&r=%2e%2e%2f;//", Some("/public/x?q=/admin&r=%2e%2e%2f;//")),
    ("//public//x", Some("/public/x")),
    ("/./public/./x/.", Some("/public/x/")),
    ("/x/../public", Some("/public")),
    ("/%70ublic/%7Euser", Some("/public/~user")),
    ("/admin/../public", Some("/public")),
    ("/public/x%20y%3f", Some("/public/x%20y%3F")),
    ("/public/a;b=c", Some("/public/a;b=c")),
    ("/public/x%2526y", Some("/public/x%2526y")),
    ("/public?", Some("/public?")),
    ("/public/caf%c3%a9", Some("/public/caf%C3%A9")),
    ("/admin", None),
    ("/admin/", None),
    ("//admin", None),
    ("/./admin", None),
    ("/public/../admin", None),
    ("/public/./../admin", None),
    ("/public//../admin", None),
    ("/public/x/../../admin", None),
    ("/public/%2e%2e/admin", None),
    ("/public/%2E./admin", None),
    ("/public/.%2e/admin", None),
    ("/public%2f..%2fadmin", None),
    ("/public/..%2fadmin", None),
    ("/public/..%5cadmin", None),
    ("/public\\..\\admin", None),
    ("/public/..\\admin", None),
    ("/public/..;/admin", None),
    ("/public/..;x=y/admin", None),
    ("/public/.;/../admin", None),
    ("/public/%252e%252e/admin", None),
    ("/public/%25%32%65%25%32%65/admin", None),
    ("/public/%252e%252e%252fadmin", None),
    ("/public/%c0%ae%c0%ae/admin", None),
    ("/public/%00/../admin", None),
    ("/public/../../admin", None),
    ("/publicity", None),
    ("/%61dmin", None),
    ("/public%3b/../admin", None),
    // Those who take these for `/public` would serve `/` by its rules, and those who do not the other way round.
    ("/Public", None),
    ("/public.", None),
    ("/public%20", None),
    ("/public..", None),
    ("/public%20./x", None),
    ("/public.;x/y", None),
    ("/public;x", None),
    ("/PUBLIC/../public/X", Some("/public/X")),
    ("/public/x.", Some("/public/x.")),
    ("/public/x%20/Y", Some("/public/x%20/Y")),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_gets_around_its_route() {
    for upstream in [HTTP1, HTTP2] {
        let toml = [route(upstream, ""), route(upstream, "path = \"/public\"\nauth = \"none\"")];
        let gate = TestGate::start(&toml.concat()).await;
        for (target, expected) in TRICKS {
            let before = gate.upstream.hits();
            let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let reply = Raw::exchange(gate.address(), head).await;
            let got = gate.upstream.requests().get(before).map(|got| got.target.clone());
            assert_eq!(got.as_deref(), expected, "{target}: {reply}");
            let status = &reply[9..12];
            let refused = matches!(status, "400" | "401" | "404");
            assert!(if expected.is_some() { status == "200" } else { refused }, "{target}: {reply}");
        }
        // With a token, what is served is the one form of the path.
        let reply = gate.get("/public/../admin/%7e?x=..//", &gate.good_token()).await;
        assert_eq!((reply.status.as_u16(), &*gate.upstream.last().target), (200, "/admin/~?x=..//"));
    }
}
