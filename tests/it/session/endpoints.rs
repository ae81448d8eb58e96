//! `/.portcullis/session`, and the module for browsers.

use aws_lc_rs::digest::{SHA384, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use portcullis::clock::Timestamp;

use super::*;

const SESSION: &str = "/.portcullis/session";
const CONTINUE: &str = "/.portcullis/session/continue";
const MODULE: &str = "/.portcullis/session.js";
const APP: &str = "https://app.example";

async fn ask(gate: &Gate, method: Method, path: &str, token: &str, fields: &[(&'static str, &str)]) -> Reply {
    let mut request = request(method, path, token);
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    gate.send(request).await
}

fn active(reply: &Reply) -> Timestamp {
    read(reply)["last_activity"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_tells_what_is_left_and_more_of_it_is_asked_for() {
    let world = World::embedded().await;
    let gate = with_idle(&world, "30m")
        .with("SESSION_ABSOLUTE_LIMIT", "8h")
        .route("session.idle_limit = \"10m\"")
        .start()
        .await;
    let login = now().as_secs() - 60;
    let token = world.token(ALICE, json!({ "auth_time": login }));
    gate.expect(&token, "admit").await;
    let told = ask(&gate, Method::GET, SESSION, &token, &[]).await;
    assert_eq!(told.headers["cache-control"], "no-store");
    let session = read(&told);
    assert_eq!((&session["idle_limit"], &session["absolute_limit"]), (&json!(1800), &json!(28_800)));
    assert_eq!(session["started"], Timestamp::from_secs(login).to_string());
    assert!((1790..=1800).contains(&session["idle"].as_u64().unwrap()), "{session}");
    assert!((28_730..=28_740).contains(&session["absolute"].as_u64().unwrap()), "{session}");
    assert_eq!(told.headers["portcullis-session-idle"], session["idle"].to_string());
    assert_eq!(told.headers["portcullis-session-absolute"], session["absolute"].to_string());
    let of_route = read(&ask(&gate, Method::GET, "/.portcullis/session?route=api", &token, &[]).await);
    assert_eq!((&of_route["idle_limit"], &of_route["absolute_limit"]), (&json!(600), &json!(28_800)));

    let before = active(&told);
    eventually("time passes", async || now() > before).await;
    assert_eq!(active(&ask(&gate, Method::GET, SESSION, &token, &[]).await), before, "to ask is no activity");
    let user = [("portcullis-activity", "user")];
    let asked = active(&ask(&gate, Method::GET, SESSION, &token, &user).await);
    assert!(asked > before, "unless somebody is behind it");
    eventually("time passes", async || now() > asked).await;
    let background = [("portcullis-activity", "background")];
    assert_eq!(active(&ask(&gate, Method::POST, CONTINUE, &token, &background).await), asked);
    assert!(active(&ask(&gate, Method::POST, CONTINUE, &token, &[]).await) > asked);
    assert_eq!(ask(&gate, Method::HEAD, SESSION, &token, &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_without_limits_has_none() {
    let world = World::embedded().await;
    let gate = world.gate().start().await;
    let session = read(&ask(&gate, Method::GET, SESSION, &token(&world, "one"), &[]).await);
    for member in ["idle", "absolute", "idle_limit", "absolute_limit", "started", "last_activity"] {
        assert_eq!(session[member], Value::Null, "{member}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_elsewhere_is_refused_here() {
    let world = World::embedded().await;
    let gate = with_idle(&world, "1h").start().await;
    let one = token(&world, "one");
    for path in [SESSION, CONTINUE] {
        let method = if path == SESSION { Method::GET } else { Method::POST };
        let missing = ask(&gate, method.clone(), path, "", &[]).await;
        assert_eq!((missing.status.as_u16(), missing.code().as_str()), (401, "missing_token"));
        assert!(missing.headers.contains_key("www-authenticate"));
        assert_eq!(ask(&gate, method.clone(), path, "x.y.z", &[]).await.code(), "invalid_token");
        let wrong = ask(&gate, method.clone(), &format!("{path}?route=nowhere"), &one, &[]).await;
        assert_eq!((wrong.status.as_u16(), wrong.code().as_str()), (400, "invalid_parameters"));
        for other in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            if other != method {
                let reply = ask(&gate, other, path, &one, &[]).await;
                assert_eq!((reply.status.as_u16(), reply.code().as_str()), (405, "method"), "{path}");
                assert!(reply.headers.contains_key("allow"));
            }
        }
    }
    assert_eq!(gate.log_out(&one, "").await.status, 204);
    assert_eq!(ask(&gate, Method::POST, CONTINUE, &one, &[]).await.code(), "session_ended");
}

/// A browser sends a cookie whoever asks it to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_on_by_cookie_only_where_the_site_or_a_trusted_page_asks() {
    let world = World::embedded().await;
    let gate = with_idle(&world, "1h").with("ISSUERS_ACME_COOKIE", "token").with("SESSION_ORIGINS", APP).start().await;
    let cookie = format!("token={}", token(&world, "one"));
    let go_on = async |fields: &[(&'static str, &str)]| {
        let fields: Vec<_> = fields.iter().copied().chain([("cookie", &*cookie)]).collect();
        ask(&gate, Method::POST, CONTINUE, "", &fields).await
    };
    for fields in [
        &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")][..],
        &[("sec-fetch-site", "same-site"), ("origin", "https://app.example.evil.example")],
        &[("origin", "null")],
    ] {
        let refused = go_on(fields).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (403, "cross_site"), "{fields:?}");
        assert!(!refused.headers.contains_key("access-control-allow-origin"));
    }
    assert_eq!(go_on(&[("sec-fetch-site", "same-origin")]).await.status, 200);
    let trusted = go_on(&[("sec-fetch-site", "cross-site"), ("origin", APP)]).await;
    assert_eq!(trusted.status, 200);
    assert_eq!(trusted.headers["access-control-allow-origin"], APP);
    assert_eq!(trusted.headers["access-control-allow-credentials"], "true");
    let out = [("cookie", &*cookie), ("sec-fetch-site", "cross-site"), ("origin", APP)];
    assert_eq!(ask(&gate, Method::POST, "/.portcullis/logout", "", &out).await.status, 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_of_trusted_origins_may_ask_and_read_refusals() {
    let world = World::embedded().await;
    let gate = with_idle(&world, "1h").with("SESSION_ORIGINS", APP).start().await;
    let preflight = [("origin", APP), ("access-control-request-method", "POST")];
    for path in [SESSION, CONTINUE, "/.portcullis/logout"] {
        let reply = ask(&gate, Method::OPTIONS, path, "", &preflight).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.headers["access-control-allow-origin"]),
            (204, &APP.parse().unwrap())
        );
        let allowed = reply.headers["access-control-allow-headers"].to_str().unwrap().to_ascii_lowercase();
        assert!(allowed.contains("authorization") && allowed.contains("portcullis-activity"), "{allowed}");
        assert_eq!(reply.headers["vary"], "Origin");
        let evil = [("origin", "https://evil.example"), ("access-control-request-method", "POST")];
        let reply = ask(&gate, Method::OPTIONS, path, "", &evil).await;
        assert!(!reply.headers.contains_key("access-control-allow-origin") && reply.status == 405);
    }
    let one = token(&world, "one");
    let told = ask(&gate, Method::GET, SESSION, &one, &[("origin", APP)]).await;
    assert!(told.headers["access-control-expose-headers"].to_str().unwrap().contains("Portcullis-Session-Idle"));
    for path in ["/", SESSION] {
        let refused = ask(&gate, Method::GET, path, "x.y.z", &[("origin", APP)]).await;
        assert_eq!(
            (refused.code().as_str(), &refused.headers["access-control-allow-origin"]),
            ("invalid_token", &APP.parse().unwrap())
        );
        let refused = ask(&gate, Method::GET, path, "x.y.z", &[("origin", "https://evil.example")]).await;
        assert!(!refused.headers.contains_key("access-control-allow-origin"));
    }
    let answered = ask(&gate, Method::GET, "/", &one, &[("origin", APP)]).await;
    assert!(!answered.headers.contains_key("access-control-allow-origin"), "an upstream's answer is its own to share");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_module_is_served_with_its_version_and_integrity() {
    let world = World::embedded().await;
    let gate = world.gate().start().await;
    let module = ask(&gate, Method::GET, MODULE, "", &[]).await;
    assert_eq!(
        (module.status.as_u16(), &module.headers["content-type"]),
        (200, &"text/javascript; charset=utf-8".parse().unwrap())
    );
    assert_eq!(module.headers["access-control-allow-origin"], "*");
    assert_eq!(module.headers["x-content-type-options"], "nosniff");
    assert_eq!(module.headers["cache-control"], "no-cache");
    assert_eq!(module.text(), include_str!("../../../web/session/session.js"));

    let described = ask(&gate, Method::GET, "/.portcullis/session.json", "", &[]).await;
    let described: Value = serde_json::from_slice(&described.body).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(described["version"], version);
    assert_eq!(described["integrity"], format!("sha384-{}", STANDARD.encode(digest(&SHA384, &module.body))));
    assert!(module.text().contains(&format!("VERSION = '{version}'")), "the module knows its version");
    let package: Value = serde_json::from_str(include_str!("../../../web/session/package.json")).unwrap();
    assert_eq!(package["version"], version);

    let pinned = ask(&gate, Method::GET, described["url"].as_str().unwrap(), "", &[]).await;
    assert!(pinned.headers["cache-control"].to_str().unwrap().contains("immutable"));
    assert_eq!(pinned.body, module.body);
    let other = ask(&gate, Method::GET, "/.portcullis/session.js?v=0.0.0", "", &[]).await;
    assert_eq!(other.headers["cache-control"], "no-cache", "another version is not this one");

    let tag = module.headers["etag"].to_str().unwrap();
    for known in [tag.to_owned(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
        let unchanged = ask(&gate, Method::GET, MODULE, "", &[("if-none-match", &known)]).await;
        assert_eq!((unchanged.status.as_u16(), unchanged.body.len()), (304, 0), "{known}");
    }
    assert_eq!(ask(&gate, Method::GET, MODULE, "", &[("if-none-match", "\"x\"")]).await.status, 200);
    assert_eq!(ask(&gate, Method::POST, MODULE, "", &[]).await.status, 405);
    let head = ask(&gate, Method::HEAD, MODULE, "", &[]).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}

/// Nobody goes on here with a session who could not on the route.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_route_everything_is_as_on_that_route() {
    let world = World::embedded().await;
    let upstream = world.upstream.url();
    let gate = with_idle(&world, "1h")
        .route(&format!(
            "[[routes]]\nname = \"news\"\npath = \"/news\"\nactivity = false\nupstream = \"{upstream}\"\n\
             [[routes]]\nname = \"staff\"\npath = \"/staff\"\nscopes = [\"admin\"]\nsession.idle_limit = \"1d\"\nupstream = \"{upstream}\""
        ))
        .with("SESSION_ABSOLUTE_LIMIT", "2d")
        .start()
        .await;
    let one = token(&world, "one");
    gate.expect(&one, "admit").await;
    let before = active(&ask(&gate, Method::GET, SESSION, &one, &[]).await);
    eventually("time passes", async || now() > before).await;
    let user = [("portcullis-activity", "user")];
    assert_eq!(active(&ask(&gate, Method::POST, "/.portcullis/session/continue?route=news", &one, &[]).await), before);
    assert_eq!(active(&ask(&gate, Method::GET, "/.portcullis/session?route=news", &one, &user).await), before);
    let staff = ask(&gate, Method::POST, "/.portcullis/session/continue?route=staff", &one, &[]).await;
    assert_eq!((staff.status.as_u16(), staff.code().as_str()), (403, "insufficient_scope"));
    assert!(staff.headers["www-authenticate"].to_str().unwrap().contains("scope=\"admin\""));
    assert_eq!(ask(&gate, Method::GET, "/.portcullis/session?route=nowhere", "", &[]).await.code(), "missing_token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preflight_passes_where_it_may_and_nothing_else_does() {
    let world = World::embedded().await;
    let gate = world
        .gate()
        .route(&format!(
            "preflights = \"pass\"\n[[routes]]\nname = \"shut\"\npath = \"/shut\"\nupstream = \"{}\"",
            world.upstream.url()
        ))
        .start()
        .await;
    let preflight = [("origin", APP), ("access-control-request-method", "PUT")];
    assert_eq!(ask(&gate, Method::OPTIONS, "/", "", &preflight).await.status, 200);
    assert_eq!(world.upstream.last().method, Method::OPTIONS);
    let hits = world.upstream.hits();
    for (method, path, token, fields) in [
        (Method::OPTIONS, "/shut", "", &preflight[..]),
        (Method::OPTIONS, "/", "", &preflight[..1]),
        (Method::OPTIONS, "/", "", &preflight[1..]),
        (Method::PUT, "/", "", &preflight),
        (Method::OPTIONS, "/", "x.y.z", &preflight),
    ] {
        let refused = ask(&gate, method, path, token, fields).await;
        assert_eq!(refused.status, 401, "{path} {fields:?}");
    }
    assert_eq!(world.upstream.hits(), hits);
}
