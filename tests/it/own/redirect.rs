//! `/.portcullis/logout` that leads on to the issuer.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::support::{
    client::Reply,
    eventually,
    full::{Gate, Setup, World, now},
};

const LOGOUT: &str = "/.portcullis/logout";

/// What a browser says of a page that the person opened.
const OPENED: [(&str, &str); 3] =
    [("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];

/// An embedded store, and a Redis unless there is none.
async fn worlds() -> Vec<World> {
    let mut worlds = vec![World::embedded().await];
    worlds.extend(World::redis().await);
    worlds
}

/// The logout of Auth0, from which people may return to an application and its previews.
fn auth0(world: &World) -> Setup<'_> {
    world
        .gate()
        .with("ISSUERS_ACME_LOGOUT_KIND", "auth0")
        .with("ISSUERS_ACME_LOGOUT_RETURN_URLS", "https://app.example/out,https://*.preview.example/")
        .with("ISSUERS_ACME_COOKIE", "token")
}

struct Ask<'a> {
    method: Method,
    query: &'a str,
    fields: Vec<(&'a str, &'a str)>,
    form: Option<&'a str>,
}

fn post(query: &str) -> Ask<'_> {
    Ask { method: Method::POST, query, fields: Vec::new(), form: None }
}

fn get(query: &str) -> Ask<'_> {
    Ask { method: Method::GET, ..post(query) }
}

impl<'a> Ask<'a> {
    fn with(mut self, fields: &[(&'a str, &'a str)]) -> Self {
        self.fields.extend_from_slice(fields);
        self
    }

    fn form(mut self, form: &'a str) -> Self {
        self.form = Some(form);
        self.with(&[("content-type", "application/x-www-form-urlencoded")])
    }

    /// By `Authorization`.
    async fn bearing(self, gate: &Gate, token: &str) -> Reply {
        let bearer = format!("Bearer {token}");
        Ask { fields: [("authorization", &*bearer)].into_iter().chain(self.fields).collect(), ..self }.send(gate).await
    }

    /// By cookie.
    async fn keeping(self, gate: &Gate, token: &str) -> Reply {
        let cookie = format!("theme=dark; token={token}");
        Ask { fields: [("cookie", &*cookie)].into_iter().chain(self.fields).collect(), ..self }.send(gate).await
    }

    async fn send(self, gate: &Gate) -> Reply {
        let uri = format!("{LOGOUT}{}", self.query);
        let mut request = Request::builder().method(self.method).uri(uri).header("host", "api.example");
        for (name, value) in self.fields {
            request = request.header(name, value);
        }
        let body = Bytes::copy_from_slice(self.form.unwrap_or_default().as_bytes());
        gate.send(request.body(Full::new(body)).unwrap()).await
    }
}

fn field<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// Where a redirect leads, and with which parameters.
#[track_caller]
fn leads_to(reply: &Reply) -> (&str, Vec<(String, String)>) {
    assert_eq!(reply.status, StatusCode::SEE_OTHER, "{reply:?}");
    assert_eq!(field(reply, "cache-control"), "no-store");
    let (endpoint, query) = field(reply, "location").split_once('?').unwrap_or((field(reply, "location"), ""));
    let decode = |text: &str| percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let pair = |pair: &str| {
        pair.split_once('=').map_or((decode(pair), String::new()), |(name, value)| (decode(name), decode(value)))
    };
    (endpoint, query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect())
}

#[track_caller]
fn leads_to_auth0(reply: &Reply, parameters: &[(&str, &str)]) {
    let (endpoint, found) = leads_to(reply);
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    assert_eq!((endpoint, found), ("https://issuer.example/v2/logout", parameters));
}

const TO_APP: [(&str, &str); 2] = [("client_id", "web-app"), ("returnTo", "https://app.example/out")];

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_with_a_return_url_leads_on_to_the_issuer() {
    for world in worlds().await {
        let gate = auth0(&world).start().await;
        let ways = [
            post("?returnTo=https%3A%2F%2Fapp.example%2Fout"),
            post("?post_logout_redirect_uri=https://app.example/out"),
            post("").form("returnTo=https%3A%2F%2Fapp.example%2Fout"),
            post("").form("post_logout_redirect_uri=https%3A%2F%2Fapp.example%2Fout&x=y"),
        ];
        for (number, way) in ways.into_iter().enumerate() {
            let token = world.token("auth0|alice", json!({ "sid": format!("s{number}") }));
            gate.expect(&token, "admit").await;
            leads_to_auth0(&way.bearing(&gate, &token).await, &TO_APP);
            gate.expect(&token, "session_ended").await;
        }
        let (one, other) =
            (world.token("auth0|bob", json!({ "sid": "b1" })), world.token("auth0|bob", json!({ "sid": "b2" })));
        let reply = post("").form("returnTo=https://a.preview.example/?x&everywhere=true").bearing(&gate, &one).await;
        leads_to_auth0(&reply, &[("client_id", "web-app"), ("returnTo", "https://a.preview.example/?x")]);
        gate.expect(&other, "logged_out").await;
        // Without one, everything is as it was.
        let token = world.token("auth0|carol", json!({}));
        let reply = post("").bearing(&gate, &token).await;
        assert_eq!((reply.status, field(&reply, "location")), (StatusCode::NO_CONTENT, ""));
        gate.instance.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_get_the_url_since_they_cannot_follow_it() {
    let world = World::embedded().await;
    let gate = auth0(&world).with("ISSUERS_ACME_LOGOUT_FEDERATED", "true").start().await;
    let token = world.token("auth0|alice", json!({}));
    let reply =
        post("?returnTo=https://app.example/out").with(&[("accept", "application/json")]).bearing(&gate, &token).await;
    assert_eq!((reply.status, field(&reply, "content-type")), (StatusCode::OK, "application/json"));
    let expected =
        "https://issuer.example/v2/logout?client_id=web-app&returnTo=https%3A%2F%2Fapp.example%2Fout&federated";
    assert_eq!(serde_json::from_str::<Value>(reply.text()).unwrap(), json!({ "logout_url": expected }));
    gate.expect(&token, "session_ended").await;
    // To the issuer, and no further.
    let token = world.token("auth0|bob", json!({}));
    let reply = post("?returnTo=").with(&[("accept", "application/json")]).bearing(&gate, &token).await;
    let expected = json!({ "logout_url": "https://issuer.example/v2/logout?client_id=web-app&federated" });
    assert_eq!(serde_json::from_str::<Value>(reply.text()).unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_is_not_allowed_is_refused_before_anything_ends() {
    let world = World::embedded().await;
    let gate = auth0(&world).start().await;
    let token = world.token("auth0|alice", json!({}));
    for url in [
        "https://evil.example/",
        "https://app.example/",
        "https://app.example/out/..",
        "http://app.example/out",
        "//app.example/out",
        "https:/app.example/out",
        "https://app.example@evil.example/out",
        "https://evil.example%5C@app.example/out",
        "https://app.example.evil.example/out",
        "https://app.example:444/out",
        "https://preview.example/",
        "https://a.b.preview.example/",
        "https://evil.example%23.preview.example/",
        "https://evil.example%2F.preview.example/",
        "javascript%3Aalert(1)",
        "https://app.example%00.evil.example/out",
        "https://app.example/out%0D%0ASet-Cookie:x=y",
        "%20https://app.example/out",
    ] {
        for everywhere in ["", "&everywhere"] {
            let query = format!("?returnTo={url}{everywhere}");
            for ask in [post(&query), get(&query).with(&OPENED)] {
                let reply = ask.bearing(&gate, &token).await;
                assert_eq!((reply.status, &*reply.code()), (StatusCode::BAD_REQUEST, "return_url"), "{url}");
                assert!(!reply.headers.contains_key("location") && !reply.headers.contains_key("set-cookie"));
            }
        }
    }
    let twice = "?returnTo=https://app.example/out&post_logout_redirect_uri=https://app.example/out";
    let long = format!("?returnTo=https://app.example/out%3F{}", "x".repeat(2048));
    let state = format!("?returnTo=https://app.example/out&state={}", "x".repeat(513));
    for query in [twice, &long, &state, "?returnTo=%ff"] {
        let reply = post(query).bearing(&gate, &token).await;
        assert_eq!((reply.status, &*reply.code()), (StatusCode::BAD_REQUEST, "invalid_parameters"), "{query}");
    }
    let form = "x".repeat(9000);
    assert_eq!(post("").form(&form).bearing(&gate, &token).await.code(), "invalid_parameters");
    gate.expect(&token, "admit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_nothing_left_to_end_is_led_on_all_the_same() {
    let world = World::embedded().await;
    let gate = auth0(&world).start().await;
    let ended = world.token("auth0|ended", json!({}));
    post("").bearing(&gate, &ended).await;
    let blocked = world.token("auth0|blocked", json!({}));
    gate.change(Method::PUT, "/v1/subjects/acme/auth0%7Cblocked/block", json!({})).await;
    let long_ago = now().as_secs() - 7200;
    let expired = world.token("auth0|expired", json!({ "iat": long_ago, "exp": long_ago + 60 }));
    for token in [&ended, &blocked, &expired] {
        let reply = post("?returnTo=https://app.example/out").bearing(&gate, token).await;
        leads_to_auth0(&reply, &TO_APP);
        // But nobody is told that all sessions ended who did not get that.
        let reply = post("?returnTo=https://app.example/out&everywhere").bearing(&gate, token).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{reply:?}");
    }
    for token in ["garbage", &format!("{ended}x")] {
        let reply = post("?returnTo=https://app.example/out").bearing(&gate, token).await;
        leads_to_auth0(&reply, &TO_APP[1..]);
    }
    leads_to_auth0(&post("?returnTo=https://app.example/out").send(&gate).await, &TO_APP[1..]);
    // Two tokens: which of them should end, nobody knows.
    let bearer = format!("Bearer {}", world.token("auth0|alice", json!({})));
    let two = [("authorization", &*bearer), ("authorization", &*bearer)];
    assert_eq!(post("?returnTo=https://app.example/out").with(&two).send(&gate).await.code(), "invalid_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_acts_at_once_only_where_the_person_meant_it() {
    let world = World::embedded().await;
    let gate =
        auth0(&world).with("ISSUERS_ACME_LOGOUT_ORIGINS", "https://app.example,http://localhost:3000").start().await;
    let (site, mode, dest) = ("sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest");
    let cross = |referrer| vec![(site, "cross-site"), (mode, "navigate"), (dest, "document"), ("referer", referrer)];
    let acts = [
        OPENED.to_vec(),
        vec![(site, "same-origin"), (mode, "navigate"), (dest, "document")],
        cross("https://app.example/account?x"),
        cross("http://localhost:3000/"),
        cross("https://APP.example/"),
    ];
    let asks = [
        vec![],
        vec![(site, "cross-site"), (mode, "navigate"), (dest, "document")],
        vec![(site, "same-site"), (mode, "navigate"), (dest, "document")],
        vec![(site, "same-origin"), (mode, "no-cors"), (dest, "image")],
        vec![(site, "same-origin"), (mode, "navigate"), (dest, "iframe")],
        vec![(site, "none"), (mode, "navigate")],
        vec![(site, "same-origin"), (mode, "navigate"), (dest, "document"), ("sec-purpose", "prefetch;prerender")],
        cross("https://evil.example/https://app.example/"),
        cross("https://app.example.evil.example/"),
        cross("https://app.example@evil.example/"),
        cross("https://app.example:444/"),
        cross("http://app.example/"),
        // Without Fetch Metadata, not even a referrer helps.
        vec![("referer", "https://app.example/")],
    ];
    for fields in acts {
        let token = world.token("auth0|alice", json!({ "sid": format!("{fields:?}") }));
        let reply = get("?returnTo=https://app.example/out").with(&fields).keeping(&gate, &token).await;
        leads_to_auth0(&reply, &TO_APP);
        gate.expect(&token, "session_ended").await;
    }
    let token = world.token("auth0|alice", json!({ "sid": "kept" }));
    for fields in asks {
        let reply = get("?returnTo=https://app.example/out").with(&fields).keeping(&gate, &token).await;
        assert_eq!((reply.status, field(&reply, "location")), (StatusCode::OK, ""), "{fields:?}");
        assert!(reply.text().contains("<h1>Log out?</h1>") && !reply.headers.contains_key("set-cookie"));
        gate.expect(&token, "admit").await;
    }
    // Nowhere to come back to, but out.
    leads_to_auth0(&get("").with(&OPENED).keeping(&gate, &token).await, &TO_APP[..1]);
    for method in [Method::PUT, Method::HEAD, Method::DELETE, Method::OPTIONS] {
        let reply = Ask { method, ..post("") }.keeping(&gate, &token).await;
        assert_eq!((reply.status, field(&reply, "allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, POST"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_for_the_same_and_nobody_can_frame_it() {
    let world = World::embedded().await;
    let gate = auth0(&world).start().await;
    let token = world.token("auth0|alice", json!({}));
    let query = "?returnTo=https://app.example/out%3Fa%3D%22%3E%3Cscript%3E&everywhere&state=%3Cx%3E&issuer=acme";
    let reply = get(query).keeping(&gate, &token).await;
    let page = reply.text();
    assert!(page.contains("<h1>Log out everywhere?</h1>"), "{page}");
    assert!(!page.contains("<script") && !page.contains("<x>"), "{page}");
    let policy = field(&reply, "content-security-policy");
    for rule in ["default-src 'none'", "style-src 'sha256-", "base-uri 'none'", "frame-ancestors 'none'"] {
        assert!(policy.contains(rule), "{policy}");
    }
    let others = ["x-frame-options", "cache-control", "referrer-policy", "x-content-type-options"];
    assert_eq!(others.map(|name| field(&reply, name)), ["DENY", "no-store", "same-origin", "nosniff"]);

    let inputs: Vec<String> = page
        .split("<input type=\"hidden\" name=\"")
        .skip(1)
        .map(|input| {
            let (name, rest) = input.split_once("\" value=\"").unwrap();
            format!("{name}={}", rest.split_once('"').unwrap().0)
        })
        .collect();
    assert_eq!(
        inputs,
        [
            "post_logout_redirect_uri=https://app.example/out?a=&quot;&gt;&lt;script&gt;",
            "state=&lt;x&gt;",
            "issuer=acme",
            "everywhere=true"
        ]
    );
    // The button, with what stands in the form where the URL is a good one; and the same from another site.
    let form = "post_logout_redirect_uri=https%3A%2F%2Fapp.example%2Fout&everywhere=true";
    let forged = post("").form(form).with(&[("sec-fetch-site", "cross-site")]).keeping(&gate, &token).await;
    assert_eq!(forged.code(), "cross_site");
    gate.expect(&token, "admit").await;
    let reply = post("").form(form).with(&[("sec-fetch-site", "same-origin")]).keeping(&gate, &token).await;
    leads_to_auth0(&reply, &TO_APP);
    gate.expect(&token, "logged_out").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_that_carried_the_token_is_removed() {
    let world = World::embedded().await;
    let removed = |reply: &Reply| -> Vec<String> {
        reply.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let gate = auth0(&world).start().await;
    let host_only = "token=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax";
    let token = world.token("auth0|alice", json!({}));
    for _ in 0..2 {
        let reply = get("?returnTo=https://app.example/out").with(&OPENED).keeping(&gate, &token).await;
        assert_eq!(removed(&reply), [host_only], "ended or not");
    }
    assert_eq!(removed(&post("").keeping(&gate, "garbage").await), [""; 0], "refused");
    let reply = post("").with(&[("sec-fetch-site", "same-origin")]).keeping(&gate, &token).await;
    assert_eq!((reply.status, removed(&reply)), (StatusCode::NO_CONTENT, vec![host_only.to_owned()]));
    let reply = post("?returnTo=https://app.example/out").bearing(&gate, &token).await;
    assert_eq!(removed(&reply), [""; 0], "there was none");
    gate.instance.stop().await;

    let gate = auth0(&world)
        .with("ISSUERS_ACME_COOKIE", "__Secure-token")
        .with("ISSUERS_ACME_LOGOUT_COOKIE_DOMAIN", "acme.example")
        .start()
        .await;
    let cookie = format!("__Secure-token={}", world.token("auth0|bob", json!({})));
    let reply = get("").with(&OPENED).with(&[("cookie", &cookie)]).send(&gate).await;
    let host_only = "__Secure-token=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax; Secure";
    assert_eq!(removed(&reply), [format!("{host_only}; Domain=acme.example"), host_only.to_owned()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_logout_of_an_openid_provider_is_found_by_discovery() {
    const DISCOVERY: &str = "/.well-known/openid-configuration";
    let mut world = World::embedded().await;
    world.issuer.identifier = world.keys.url("/");
    let metadata =
        |endpoint: Value| json!({ "issuer": world.keys.url("/"), "end_session_endpoint": endpoint }).to_string();
    let end = world.keys.url("/end?tenant=1");
    world.keys.put(DISCOVERY, metadata(json!(end)));
    let gate = world
        .gate()
        .with("ISSUERS_ACME_LOGOUT_RETURN_URLS", "https://app.example/out?x=1")
        .with("ISSUERS_ACME_LOGOUT_DEFAULT_RETURN_URL", "https://app.example/out?x=1")
        .with("ISSUERS_ACME_REFRESH_INTERVAL", "1s")
        .with("ISSUERS_ACME_REFETCH_INTERVAL", "1s")
        .start()
        .await;
    let token = world.token("auth0|alice", json!({ "sid": "s/1" }));
    let ask = |query| get(query).with(&OPENED);
    eventually("the logout is found", async || ask("").send(&gate).await.status == StatusCode::SEE_OTHER).await;

    let expected = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let back = ("post_logout_redirect_uri", "https://app.example/out?x=1");
    let reply = ask("?state=a%26b").bearing(&gate, &token).await;
    let (endpoint, parameters) = leads_to(&reply);
    assert_eq!(endpoint, world.keys.url("/end"));
    let all = [("tenant", "1"), ("client_id", "web-app"), back, ("logout_hint", "s/1"), ("state", "a&b")];
    assert_eq!(parameters, expected(&all));
    // Letter by letter.
    assert_eq!(
        ask("?post_logout_redirect_uri=https://app.example/out").bearing(&gate, &token).await.code(),
        "return_url"
    );
    assert_eq!(leads_to(&ask("").send(&gate).await).1, expected(&[("tenant", "1"), back]));

    // A document that is not believed, or cannot be had, changes nothing.
    for document in [
        json!({ "issuer": "https://evil.example/", "end_session_endpoint": "https://evil.example/end" }).to_string(),
        metadata(json!("http://evil.example/end")),
        metadata(json!("javascript:alert(1)")),
        "nonsense".to_owned(),
    ] {
        let asked = world.keys.hits(DISCOVERY);
        world.keys.put(DISCOVERY, document);
        eventually("it is fetched", async || world.keys.hits(DISCOVERY) > asked + 1).await;
        assert_eq!(leads_to(&ask("").send(&gate).await).0, world.keys.url("/end"));
    }
    // One that names no logout does: out of here, and no further.
    world.keys.put(DISCOVERY, metadata(Value::Null));
    eventually("the logout is gone", async || ask("").send(&gate).await.status == StatusCode::OK).await;
    let token = world.token("auth0|bob", json!({}));
    let reply = ask("").bearing(&gate, &token).await;
    assert!(reply.text().contains("You may still be logged in at the login service"), "{}", reply.text());
    gate.expect(&token, "session_ended").await;
    let reply = ask("").with(&[("accept", "application/json")]).send(&gate).await;
    assert_eq!(reply.text(), r#"{"logout_url":null}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_led_on_before_the_logout_is_stored() {
    let Some(mut world) = World::redis().await else { return };
    let gate = auth0(&world).with("MARKERS_MAX_STALENESS", "1s").with("MARKERS_WRITE_TIMEOUT", "1s").start().await;
    let (one, other) = (world.token("auth0|alice", json!({})), world.token("auth0|bob", json!({})));
    gate.expect(&one, "admit").await;
    gate.expect(&other, "admit").await;
    let address = gate.address;
    world.server_mut().kill();
    for token in [&one, &other] {
        let ask = post("?returnTo=https://app.example/out");
        let bearer = format!("Bearer {token}");
        let uri = format!("{LOGOUT}{}", ask.query);
        let request = Request::post(uri).header("host", "api.example").header("authorization", bearer);
        let mut client = crate::support::client::Client::http1(address).await;
        let reply = client.fetch(request.body(Full::<Bytes>::default()).unwrap()).await;
        assert_eq!((reply.status, &*reply.code()), (StatusCode::SERVICE_UNAVAILABLE, "not_stored"));
        assert_eq!((field(&reply, "retry-after"), field(&reply, "location")), ("1", ""));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_without_a_logout_leads_nowhere() {
    let world = World::embedded().await;
    let gate = world.gate().start().await;
    let token = world.token("auth0|alice", json!({}));
    for url in ["https://app.example/out", "https://issuer.example/"] {
        let query = format!("?returnTo={url}");
        let reply = post(&query).bearing(&gate, &token).await;
        assert_eq!((reply.status, &*reply.code()), (StatusCode::BAD_REQUEST, "return_url"));
        assert_eq!(get(&query).with(&OPENED).bearing(&gate, &token).await.status, StatusCode::METHOD_NOT_ALLOWED);
    }
    gate.expect(&token, "admit").await;
}
