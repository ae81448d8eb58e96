//! Header fields: what stops at the gate, and what it adds.

use http::Method;

use super::{HTTP1, HTTP2, client, each_pair, route};
use crate::support::{
    client::{Raw, request},
    gate::TestGate,
    upstream::{RawUpstream, StreamBody},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_one_connection_stop_here() {
    let gate = TestGate::start("").await;
    let fields = "Connection: close, X-Hop, keep-alive\r\nConnection: x-second\r\nX-Hop: 1\r\nx-second: 2\r\nX-Kept: 3\r\n\
                  Keep-Alive: timeout=5\r\nProxy-Connection: close\r\nProxy-Authorization: Basic eDp5\r\nTE: gzip\r\n\
                  Upgrade: websocket\r\n";
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n{fields}\r\n", gate.good_token());
    assert!(Raw::exchange(gate.address(), head).await.starts_with("HTTP/1.1 200"));
    let got = gate.upstream.last();
    let mut names: Vec<&str> = got.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    let expected = [
        "authorization",
        "host",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-user",
        "x-kept",
        "x-request-id",
    ];
    assert_eq!(names, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_the_upstreams_connection_stop_here() {
    let upstream = RawUpstream::start(|mut stream, _| async move {
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await;
        let head = "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-Kept: 2\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n\
                    Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        let _ = stream.write_all(head.as_bytes()).await;
    })
    .await;
    let gate = TestGate::start(&upstream.route("")).await;
    for version in [HTTP1, HTTP2] {
        let sent = request(version, Method::GET, "/", &gate.good_token()).body(StreamBody::from("")).unwrap();
        let reply = client(version, &gate).await.fetch(sent).await;
        assert_eq!(reply.text(), "ok");
        let mut names: Vec<&str> = reply.headers.keys().map(http::HeaderName::as_str).collect();
        names.retain(|name| *name != "transfer-encoding");
        names.sort_unstable();
        assert_eq!(names, ["date", "x-kept", "x-request-id"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_gate_adds_cannot_be_stripped() {
    let gate = TestGate::start("").await;
    let listed = "Connection: close, x-forwarded-user, X-Forwarded-For, x-forwarded-proto, x-forwarded-host, via\r\n";
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n{listed}\r\n", gate.good_token());
    assert!(Raw::exchange(gate.address(), head).await.starts_with("HTTP/1.1 200"));
    let got = gate.upstream.last();
    assert_eq!(got.values("x-forwarded-user"), ["auth0|alice"]);
    assert_eq!(got.values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(got.values("x-forwarded-proto"), ["http"]);
    assert_eq!(got.values("x-forwarded-host"), ["a"]);
    assert_eq!(got.values("via"), ["1.1 portcullis"]);
    // A token that is listed is not there: the request is refused, and never passes as somebody else's.
    let head = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, authorization\r\nAuthorization: Bearer {}\r\n\r\n",
        gate.good_token()
    );
    assert!(Raw::exchange(gate.address(), head).await.starts_with("HTTP/1.1 401"));
    assert_eq!(gate.upstream.hits(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_says_who_they_are_by_themselves() {
    const IDENTITY: &str = "identity = { \"X-Forwarded-User\" = \"sub\", \"X-Scope-Of-User\" = \"scope\" }";
    each_pair(async |downstream, upstream| {
        let toml = [
            route(upstream, IDENTITY),
            route(upstream, "path = \"/optional\"\nauth = \"optional\""),
            // This one adds nothing, and must let nothing through either: the upstream is the same.
            route(upstream, "path = \"/none\"\nauth = \"none\"\nidentity = {}"),
        ];
        let gate = TestGate::start(&toml.concat()).await;
        let spoofed = |path: &str, token: &str| {
            let mut builder = request(downstream, Method::GET, path, token);
            let names = [
                "x-forwarded-user",
                "x_forwarded_user",
                "x-forwarded_user",
                "x.forwarded.user",
                "x-scope-of-user",
                "x_scope-of_user",
                "portcullis-stale",
                "portcullis_stale",
            ];
            for name in names {
                builder = builder.header(name, "mallory").header(name, "auth0|alice");
            }
            builder.header("x-forwardeduser", "kept").body(StreamBody::from("")).unwrap()
        };
        let mut client = client(downstream, &gate).await;
        let token = gate.good_token();
        let cases = [
            ("/", &*token, &["auth0|alice"][..], &["openid read:orders"][..]),
            ("/optional", &*token, &["auth0|alice"], &[]),
            ("/optional", "", &[], &[]),
            ("/none", "", &[], &[]),
            ("/none", &*token, &[], &[]),
        ];
        for (path, token, user, scope) in cases {
            assert_eq!(client.fetch(spoofed(path, token)).await.status.as_u16(), 200, "{path}");
            let got = gate.upstream.last();
            assert_eq!((&*got.values("x-forwarded-user"), &*got.values("x-scope-of-user")), (user, scope), "{path}");
            let folded = got.headers.keys().filter(|name| {
                let name = name.as_str().replace(['_', '.'], "-");
                name == "x-forwarded-user" || name == "x-scope-of-user" || name == "portcullis-stale"
            });
            assert_eq!(
                folded.count(),
                usize::from(!user.is_empty()) + usize::from(!scope.is_empty()),
                "{path}: {got:?}"
            );
            assert_eq!(got.values("x-forwardeduser"), ["kept"]);
        }
    })
    .await;
}

const TOLD: [(&str, &str); 8] = [
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-For", "7.7.7.7"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Port", "443"),
    ("X-Real-IP", "6.6.6.6"),
    ("Forwarded", "for=6.6.6.6"),
    ("Via", "1.0 before"),
];

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_not_believed() {
    each_pair(async |downstream, upstream| {
        let gate = TestGate::start(&route(upstream, "")).await;
        let mut builder =
            request(downstream, Method::GET, "/", &gate.good_token()).header("x_forwarded_for", "6.6.6.6");
        for (name, value) in TOLD {
            builder = builder.header(name, value);
        }
        client(downstream, &gate).await.fetch(builder.body(StreamBody::from("")).unwrap()).await;
        let got = gate.upstream.last();
        assert_eq!(got.values("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(got.values("x-forwarded-host"), ["api.example"]);
        assert_eq!(got.values("x-forwarded-proto"), ["http"]);
        for name in ["x-forwarded-port", "x-real-ip", "forwarded", "x_forwarded_for"] {
            assert!(!got.headers.contains_key(name), "{name}");
        }
        let ours = if downstream == HTTP2 { "2 portcullis" } else { "1.1 portcullis" };
        assert_eq!(got.values("via"), ["1.0 before", ours]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_in_front_are_believed() {
    let toml = format!("[listener]\ntrusted_proxies = [\"127.0.0.0/8\"]\n{}", route(HTTP1, ""));
    let gate = TestGate::start(&toml).await;
    let mut builder = request(HTTP1, Method::GET, "/", &gate.good_token()).header("x-forwarded-user", "mallory");
    for (name, value) in TOLD {
        builder = builder.header(name, value);
    }
    client(HTTP1, &gate).await.fetch(builder.body(StreamBody::from("")).unwrap()).await;
    let got = gate.upstream.last();
    assert_eq!(got.values("x-forwarded-for"), ["6.6.6.6, 7.7.7.7, 127.0.0.1"]);
    assert_eq!(got.values("x-forwarded-host"), ["evil.example"]);
    assert_eq!(got.values("x-forwarded-proto"), ["https"]);
    assert_eq!(got.values("x-forwarded-port"), ["443"]);
    assert_eq!(got.values("forwarded"), ["for=6.6.6.6"]);
    assert_eq!(got.values("x-forwarded-user"), ["auth0|alice"], "identity is nobody's to tell");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_sees_the_host_that_it_should() {
    each_pair(async |downstream, upstream| {
        for preserve in [true, false] {
            let gate = TestGate::start(&route(upstream, &format!("preserve_host = {preserve}"))).await;
            let sent = request(downstream, Method::GET, "/x", &gate.good_token()).body(StreamBody::from("")).unwrap();
            client(downstream, &gate).await.fetch(sent).await;
            let got = gate.upstream.last();
            let own = gate.upstream.address().to_string();
            let expected = if preserve { "api.example" } else { &own };
            if upstream == HTTP2 {
                assert_eq!((got.authority.as_deref(), got.values("host")), (Some(expected), vec![]));
            } else {
                assert_eq!((got.authority.as_deref(), got.values("host")), (None, vec![expected]));
            }
            assert_eq!(got.values("x-forwarded-host"), ["api.example"]);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_is_not_asked_to_continue() {
    let gate = TestGate::start("").await;
    let head = |token: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let reply = Raw::exchange(gate.address(), head("nonsense")).await;
    assert!(reply.starts_with("HTTP/1.1 401"), "{reply}");
    assert_eq!(gate.upstream.hits(), 0);

    let mut raw = Raw::connect(gate.address()).await;
    raw.write(head(&gate.good_token())).await;
    assert_eq!(raw.read_until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    raw.write("body").await;
    assert!(raw.read_until("ok").await.starts_with("HTTP/1.1 200"));
    let got = gate.upstream.last();
    assert_eq!((&got.body[..], got.values("expect")), (&b"body"[..], vec!["100-continue"]));

    let odd = head(&gate.good_token()).replace("100-continue", "miracles");
    let reply = Raw::exchange(gate.address(), odd).await;
    assert!(reply.starts_with("HTTP/1.1 417") && reply.contains("\"code\":\"expectation\""), "{reply}");
    assert_eq!(gate.upstream.hits(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn max_forwards_is_counted_down() {
    let gate = TestGate::start(&route(HTTP1, "auth = \"none\"")).await;
    let head =
        |left: &str| format!("OPTIONS / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nMax-Forwards: {left}\r\n\r\n");
    assert!(Raw::exchange(gate.address(), head("0")).await.starts_with("HTTP/1.1 204"));
    assert_eq!(gate.upstream.hits(), 0);
    assert!(Raw::exchange(gate.address(), head("7")).await.starts_with("HTTP/1.1 200"));
    assert_eq!(gate.upstream.last().values("max-forwards"), ["6"]);
}

/// No content has no length, but where a method would have some (RFC 9110 §8.6).
#[tokio::test(flavor = "multi_thread")]
async fn a_length_is_said_where_it_is_expected() {
    each_pair(async |downstream, upstream| {
        let gate = TestGate::start(&route(upstream, "auth = \"none\"")).await;
        let mut client = client(downstream, &gate).await;
        for (method, expected) in [(Method::GET, vec![]), (Method::POST, vec!["0"]), (Method::DELETE, vec![])] {
            let sent = request(downstream, method.clone(), "/", "").body(StreamBody::from("")).unwrap();
            assert_eq!(client.fetch(sent).await.status, 200);
            assert_eq!(gate.upstream.last().values("content-length"), expected, "{method}");
        }
    })
    .await;
}
