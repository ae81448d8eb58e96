//! Scripts of other origins.

use http::{HeaderMap, Method, Version};

use crate::{
    proxy::{HTTP1, HTTP2, client, route},
    support::{
        client::{Reply, request},
        gate::TestGate,
        upstream::{StreamBody, text},
    },
};

const APP: &str = "https://app.test";
const CORS: &str = "cors = { origins = [\"https://app.test\", \"https://*.team.test\"], methods = [\"GET\", \"PUT\"], \
                    headers = [\"Authorization\", \"X-One\"], expose = [\"X-Total\"], credentials = true, max_age = \"1h\" }";

async fn send(gate: &TestGate, version: Version, method: Method, token: &str, fields: &[(&str, &str)]) -> Reply {
    let mut builder = request(version, method, "/", token);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    client(version, gate).await.fetch(builder.body(StreamBody::from("")).unwrap()).await
}

fn field<'a>(fields: &'a HeaderMap, name: &str) -> Option<&'a str> {
    assert!(fields.get_all(name).iter().nth(1).is_none(), "{name} is there twice: {fields:?}");
    fields.get(name).map(|value| value.to_str().unwrap())
}

fn vary(fields: &HeaderMap) -> Vec<String> {
    let all = fields.get_all("vary").iter().flat_map(|value| value.to_str().unwrap().split(','));
    let mut names: Vec<String> = all.map(|name| name.trim().to_ascii_lowercase()).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn preflights_are_answered_by_the_gate() {
    for version in [HTTP1, HTTP2] {
        let gate = TestGate::start(&route(HTTP1, CORS)).await;
        for (origin, allowed) in
            [(APP, true), ("https://x.team.test", true), ("https://evil.test", false), ("null", false)]
        {
            let asked = [
                ("origin", origin),
                ("access-control-request-method", "PUT"),
                ("access-control-request-headers", "authorization,x-one"),
            ];
            let reply = send(&gate, version, Method::OPTIONS, "", &asked).await;
            assert_eq!((reply.status.as_u16(), reply.body.len()), (204, 0), "{origin}");
            let fields = &reply.headers;
            assert_eq!(field(fields, "access-control-allow-origin"), allowed.then_some(origin));
            assert_eq!(field(fields, "access-control-allow-methods"), allowed.then_some("GET, PUT"));
            assert_eq!(field(fields, "access-control-allow-headers"), allowed.then_some("Authorization, X-One"));
            assert_eq!(field(fields, "access-control-allow-credentials"), allowed.then_some("true"));
            assert_eq!(field(fields, "access-control-max-age"), allowed.then_some("3600"));
            assert_eq!(
                vary(fields),
                ["access-control-request-headers", "access-control-request-method", "origin"],
                "{origin}"
            );
        }
        assert_eq!(gate.upstream.hits(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_admits_nothing_else() {
    let gate = TestGate::start(&route(HTTP1, CORS)).await;
    let method = ("access-control-request-method", "PUT");
    for (name, how, fields) in [
        ("no origin", Method::OPTIONS, &[method][..]),
        ("no method", Method::OPTIONS, &[("origin", APP)]),
        ("neither", Method::OPTIONS, &[]),
        ("another method", Method::PUT, &[("origin", APP), method]),
        ("looking", Method::HEAD, &[("origin", APP), method]),
    ] {
        assert_eq!(send(&gate, HTTP1, how, "", fields).await.status.as_u16(), 401, "{name}");
    }
    assert_eq!(gate.upstream.hits(), 0);
    // With a token, an `OPTIONS` request that is none goes on.
    assert_eq!(send(&gate, HTTP1, Method::OPTIONS, &gate.good_token(), &[("origin", APP)]).await.status.as_u16(), 200);
    assert_eq!(gate.upstream.last().method, Method::OPTIONS);
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_read_answers_and_refusals() {
    for version in [HTTP1, HTTP2] {
        let gate = TestGate::start(&route(HTTP1, CORS)).await;
        // The upstream would let everybody read.
        gate.upstream.answer(|_| {
            let mut response = text("mine");
            let fields = response.headers_mut();
            fields.insert("access-control-allow-origin", "*".parse().unwrap());
            fields.insert("access-control-allow-methods", "DELETE".parse().unwrap());
            fields.insert("access-control-expose-headers", "*".parse().unwrap());
            fields.insert("vary", "Accept-Encoding".parse().unwrap());
            response
        });
        let token = gate.good_token();
        for (token, status) in [(&*token, 200), ("nonsense", 401)] {
            for (origin, allowed) in [(Some(APP), true), (Some("https://evil.test"), false), (None, false)] {
                let fields: Vec<_> = origin.map(|origin| ("origin", origin)).into_iter().collect();
                let reply = send(&gate, version, Method::GET, token, &fields).await;
                assert_eq!(reply.status.as_u16(), status);
                let fields = &reply.headers;
                let origin = origin.filter(|_| allowed);
                assert_eq!(field(fields, "access-control-allow-origin"), origin, "{status}");
                assert_eq!(field(fields, "access-control-allow-credentials"), allowed.then_some("true"));
                assert_eq!(field(fields, "access-control-expose-headers"), allowed.then_some("X-Total"));
                assert_eq!(field(fields, "access-control-allow-methods"), None);
                let varies = if status == 200 { &["accept-encoding", "origin"][..] } else { &["origin"] };
                assert_eq!(vary(fields), varies, "{status}");
            }
        }
        // Two origins are none.
        let reply = send(&gate, version, Method::GET, &token, &[("origin", APP), ("origin", APP)]).await;
        assert_eq!(field(&reply.headers, "access-control-allow-origin"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_origin_may_be_allowed_without_cookies() {
    let gate = TestGate::start(&route(HTTP1, "auth = \"none\"\ncors.origins = [\"*\"]")).await;
    let reply = send(&gate, HTTP1, Method::GET, "", &[("origin", "https://anywhere.test")]).await;
    assert_eq!(field(&reply.headers, "access-control-allow-origin"), Some("*"));
    assert_eq!(field(&reply.headers, "access-control-allow-credentials"), None);
    assert!(vary(&reply.headers).is_empty(), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_a_limit_can_be_read_too() {
    let gate = TestGate::start(&route(HTTP1, &format!("{CORS}\nlimits.per_address = \"1/h\""))).await;
    let fields = [("origin", APP), ("access-control-request-method", "PUT")];
    // Preflights are nobody's to count: scripts could not tell why they fail.
    for _ in 0..3 {
        assert_eq!(send(&gate, HTTP1, Method::OPTIONS, "", &fields).await.status.as_u16(), 204);
    }
    assert_eq!(send(&gate, HTTP1, Method::GET, &gate.good_token(), &fields).await.status.as_u16(), 200);
    let reply = send(&gate, HTTP1, Method::GET, &gate.good_token(), &fields).await;
    assert_eq!((reply.status.as_u16(), &*reply.code()), (429, "rate_limited"));
    assert_eq!(field(&reply.headers, "access-control-allow-origin"), Some(APP));
}

/// `session.origins` lets pages read refusals of every route; a route's own answer comes before it.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_session_still_read_refusals() {
    let toml = format!("[session]\norigins = [\"https://pages.test\"]\n{}", route(HTTP1, CORS));
    let gate = TestGate::start(&toml).await;
    for (origin, token, told) in [
        ("https://pages.test", "", Some("https://pages.test")),
        ("https://pages.test", &*gate.good_token(), None),
        (APP, "", Some(APP)),
        ("https://evil.test", "", None),
    ] {
        let reply = send(&gate, HTTP1, Method::GET, token, &[("origin", origin)]).await;
        assert_eq!(field(&reply.headers, "access-control-allow-origin"), told, "{origin}");
    }
}
