//! Idle and absolute limits, on one gateway and on several.

use portcullis::clock::Timestamp;

use super::*;
use crate::{gate::on_both_stores, support::upstream::text};

on_both_stores!(
    an_idle_session_is_refused_and_stays_ended,
    a_session_that_is_plainly_alive_asks_nobody,
    activity_keeps_a_session_alive_and_background_does_not,
    a_session_is_over_when_it_is_as_old_as_it_may_be,
    a_session_that_does_not_tell_its_start_begins_when_it_is_first_seen,
    a_token_may_shorten_its_session,
    without_a_session_id_the_login_names_the_session,
    clients_are_told_what_is_left,
    a_raised_limit_is_for_new_sessions_and_a_lowered_one_for_all,
    activity_on_a_route_without_limits_counts_where_there_are_some,
    in_observe_mode_nothing_ends,
    what_was_active_before_a_restart_is_remembered,
    a_logout_of_a_session_whose_time_is_up_is_a_logout,
);

async fn an_idle_session_is_refused_and_stays_ended(world: World) {
    let gate = short(&world).start().await;
    let (one, other) = (token(&world, "one"), token(&world, "other"));
    let begun = Instant::now();
    gate.expect(&one, "admit").await;
    gate.expect(&other, "admit").await;
    let idle = until_idle(&gate, &one, begun).await;
    assert!(idle >= IDLE, "after {idle:?}");
    gate.expect(&one, "session_ended").await;
    let refreshed = world.token(ALICE, json!({ "sid": "one", "iat": now().as_secs(), "jti": "refreshed" }));
    gate.expect(&refreshed, "session_ended").await;
    let known = gate.change(Method::GET, "/v1/sessions/acme/one", Value::Null).await;
    assert_eq!((&known["end"]["reason"], &known["end"]["source"]), (&json!("idle_timeout"), &json!("idle")));
    // Each session has its own time.
    gate.expect(&token(&world, "third"), "admit").await;
    assert!(gate.verdicts("session_ended").await >= 2.0);
}

async fn a_session_that_is_plainly_alive_asks_nobody(world: World) {
    let gate = with_idle(&world, "30m").with("ACTIVITY_RESOLUTION", "1m").start().await;
    let one = token(&world, "one");
    let refreshed = world.token(ALICE, json!({ "sid": "one", "jti": "refreshed" }));
    for _ in 0..200 {
        gate.expect(&one, "admit").await;
        gate.expect(&refreshed, "admit").await;
    }
    // The first request asks, and nothing is written twice within the resolution.
    let asked = gate.metric("portcullis_session_opens_total").await;
    assert!(asked < 1.5, "{asked}");
    eventually("it is written", async || gate.metric("portcullis_session_activity_written_total").await > 0.5).await;
    let written = gate.metric("portcullis_session_activity_written_total").await;
    assert!(written <= 2.0, "{written}");
}

async fn activity_keeps_a_session_alive_and_background_does_not(world: World) {
    let polled = "[[routes]]\nname = \"news\"\npath = \"/news\"\nactivity = false\nupstream = ";
    let gate = short(&world).route(&format!("{polled}\"{}\"", world.upstream.url())).start().await;
    let tokens = ["active", "background", "polled"].map(|session| token(&world, session));
    let [active, in_background, polled] = &tokens;
    let begun = Instant::now();
    for token in &tokens {
        gate.expect(token, "admit").await;
    }
    let mut ended = [false, false];
    eventually("whom nobody is behind is idle", async || {
        gate.expect(active, "admit").await;
        ended[0] |= verdict(&background(&gate, in_background).await) != "admit";
        ended[1] |= verdict(&gate.send(request(Method::GET, "/news", polled)).await) != "admit";
        ended == [true, true]
    })
    .await;
    assert!(begun.elapsed() >= IDLE);
    gate.expect(active, "admit").await;
    gate.expect(in_background, "session_ended").await;
    gate.expect(polled, "session_ended").await;
}

async fn a_session_is_over_when_it_is_as_old_as_it_may_be(world: World) {
    let gate = world.gate().with("SESSION_ABSOLUTE_LIMIT", "1h").start().await;
    let logged_in = |ago: i64| world.token(ALICE, json!({ "auth_time": now().as_secs() - ago }));
    gate.expect(&logged_in(3590), "admit").await;
    let old = gate.get(&logged_in(3600)).await;
    assert_eq!((old.status.as_u16(), old.code().as_str()), (401, "reauthentication_required"));
    let challenge = old.headers["www-authenticate"].to_str().unwrap();
    assert!(challenge.contains("error=\"insufficient_user_authentication\""), "{challenge}");
    assert!(challenge.contains("max_age=\"3600\""), "{challenge}");
    // Another login helps, in the same session too.
    gate.expect(&logged_in(1), "admit").await;
    gate.expect(&logged_in(3601), "reauthentication_required").await;
}

async fn a_session_that_does_not_tell_its_start_begins_when_it_is_first_seen(world: World) {
    let gate = world.gate().with("SESSION_ABSOLUTE_LIMIT", "1500ms").start().await;
    let one = token(&world, "one");
    let begun = Instant::now();
    eventually("it is over", async || gate.verdict(&one).await == "reauthentication_required").await;
    assert!(begun.elapsed() >= Duration::from_millis(1500));
    gate.expect(&world.token(ALICE, json!({ "sid": "one", "jti": "refreshed" })), "reauthentication_required").await;
    gate.expect(&token(&world, "two"), "admit").await;
}

async fn a_token_may_shorten_its_session(world: World) {
    let gate = world
        .gate()
        .with("SESSION_ABSOLUTE_LIMIT", "1h")
        .with("ISSUERS_ACME_CLAIMS_SESSION_EXPIRY", "session_expiry")
        .start()
        .await;
    let until =
        |expiry: i64| world.token(ALICE, json!({ "session_expiry": expiry, "auth_time": now().as_secs() - 60 }));
    let left = |reply: Reply| reply.headers["portcullis-session-absolute"].to_str().unwrap().parse::<i64>().unwrap();
    let short = left(gate.get(&until(now().as_secs() + 120)).await);
    assert!((117..=120).contains(&short), "{short}");
    let long = left(gate.get(&until(now().as_secs() + 86_400)).await);
    assert!((3535..=3540).contains(&long), "it never lengthens: {long}");
    let over = gate.get(&until(now().as_secs() - 1)).await;
    assert_eq!(over.code(), "reauthentication_required");
    let challenge = over.headers["www-authenticate"].to_str().unwrap();
    assert!(challenge.contains("max_age=\"0\""), "an earlier login does not help: {challenge}");

    let unlimited = world.gate().with("ISSUERS_ACME_CLAIMS_SESSION_EXPIRY", "session_expiry");
    gate.instance.stop().await;
    let gate = unlimited.start().await;
    let left = left(gate.get(&until(now().as_secs() + 60)).await);
    assert!((57..=60).contains(&left), "{left}");
    gate.expect(&until(now().as_secs()), "reauthentication_required").await;
}

async fn without_a_session_id_the_login_names_the_session(world: World) {
    let gate = short(&world).start().await;
    let login = now().as_secs() - 100;
    let of_login = |login: i64, jti: &str| world.token(ALICE, json!({ "sid": null, "auth_time": login, "jti": jti }));
    let begun = Instant::now();
    gate.expect(&of_login(login, "a"), "admit").await;
    let idle = until_idle(&gate, &of_login(login, "b"), begun).await;
    assert!(idle >= IDLE, "after {idle:?}");
    gate.expect(&of_login(login, "c"), "session_ended").await;
    gate.expect(&of_login(login + 1, "d"), "admit").await;
    let known = gate.change(Method::GET, &format!("/v1/sessions/acme/auth0%7Calice@{login}000"), Value::Null).await;
    assert_eq!(known["end"]["reason"], "idle_timeout");
    // Without a time of login either, each token is a session of its own.
    let issued = |ago: i64| world.token(ALICE, json!({ "sid": null, "iat": now().as_secs() - ago }));
    let old = issued(200);
    gate.expect(&old, "admit").await;
    assert_eq!(read(&look(&gate, &old).await)["started"], Timestamp::from_secs(now().as_secs() - 200).to_string());
    until_idle(&gate, &old, Instant::now()).await;
    gate.expect(&old, "session_ended").await;
    gate.expect(&issued(100), "admit").await;
}

async fn clients_are_told_what_is_left(world: World) {
    let open = "[[routes]]\nname = \"free\"\npath = \"/free\"\nauth = \"optional\"\nupstream = ";
    let gate = with_idle(&world, "30m")
        .with("SESSION_ABSOLUTE_LIMIT", "8h")
        .route(&format!("session.idle_limit = \"10m\"\n{open}\"{}\"", world.upstream.url()))
        .start()
        .await;
    world.upstream.answer(|request| {
        let mut response = text("ok");
        if request.headers.contains_key("origin") {
            response.headers_mut().insert("access-control-allow-origin", HeaderValue::from_static("*"));
        }
        response
    });
    let token = world.token(ALICE, json!({ "auth_time": now().as_secs() - 3600 }));
    let reply = gate.get(&token).await;
    assert_eq!(reply.headers["portcullis-session-idle"], "600");
    let absolute: i64 = reply.headers["portcullis-session-absolute"].to_str().unwrap().parse().unwrap();
    assert!((25_195..=25_200).contains(&absolute), "{absolute}");
    assert!(!reply.headers.contains_key("access-control-expose-headers"), "nobody asked from elsewhere");

    let mut cross_origin = request(Method::GET, "/free", &token);
    cross_origin.headers_mut().insert("origin", HeaderValue::from_static("https://app.example"));
    let reply = gate.send(cross_origin).await;
    assert_eq!(reply.headers["portcullis-session-idle"], "1800", "the issuer's, where the route has none");
    let exposed = reply.headers["access-control-expose-headers"].to_str().unwrap();
    assert!(exposed.contains("Portcullis-Session-Idle") && exposed.contains("Portcullis-Session-Absolute"));

    let anonymous = gate.send(request(Method::GET, "/free", "")).await;
    assert_eq!(anonymous.status, 200);
    let refused = gate.get("nonsense").await;
    for reply in [anonymous, refused] {
        assert!(!reply.headers.contains_key("portcullis-session-idle"));
    }
    assert!(background(&gate, &token).await.headers.contains_key("portcullis-session-idle"));
}

async fn a_raised_limit_is_for_new_sessions_and_a_lowered_one_for_all(world: World) {
    let gate = short(&world).start().await;
    let old = token(&world, "old");
    let begun = Instant::now();
    gate.expect(&old, "admit").await;
    gate.instance.stop().await;
    let gate = with_idle(&world, "1h").start().await;
    gate.expect(&token(&world, "new"), "admit").await;
    assert_eq!(read(&look(&gate, &token(&world, "new")).await)["idle_limit"], 3600);
    let idle = until_idle(&gate, &old, begun).await;
    assert!(idle >= IDLE, "after {idle:?}");

    let long = token(&world, "long");
    gate.expect(&long, "admit").await;
    gate.instance.stop().await;
    let gate = short(&world).start().await;
    let begun = Instant::now();
    gate.expect(&long, "admit").await;
    until_idle(&gate, &long, begun).await;
}

async fn activity_on_a_route_without_limits_counts_where_there_are_some(world: World) {
    let free = "[[routes]]\nname = \"free\"\npath = \"/free\"\nupstream = ";
    let gate = world
        .gate()
        .with("ACTIVITY_RESOLUTION", "1s")
        .with("ACTIVITY_FLUSH_INTERVAL", "10ms")
        .route(&format!("session.idle_limit = \"2100ms\"\n{free}\"{}\"", world.upstream.url()))
        .start()
        .await;
    let (one, other) = (token(&world, "one"), token(&world, "other"));
    gate.expect(&one, "admit").await;
    gate.expect(&other, "admit").await;
    let begun = Instant::now();
    eventually("the limit is over", async || {
        assert_eq!(gate.send(request(Method::GET, "/free", &one)).await.status, 200);
        begun.elapsed() > IDLE + Duration::from_millis(200)
    })
    .await;
    gate.expect(&one, "admit").await;
    gate.expect(&other, "idle_timeout").await;
}

async fn in_observe_mode_nothing_ends(world: World) {
    let gate = short(&world).with("MODE", "observe").start().await;
    let one = token(&world, "one");
    let admitted = gate.get(&one).await;
    assert_eq!(admitted.status, 200);
    assert!(!admitted.headers.contains_key("portcullis-session-idle"), "nobody is warned of what will not come");
    // Requests in the background are what can be watched without keeping the session alive.
    eventually("it is seen to be idle", async || {
        assert_eq!(background(&gate, &one).await.status, 200);
        gate.verdicts("idle_timeout").await > 0.0
    })
    .await;
    for path in ["/.portcullis/session", "/.portcullis/session?route=api"] {
        let told = read(&gate.send(request(Method::GET, path, &one)).await);
        assert_eq!((&told["idle"], &told["idle_limit"]), (&Value::Null, &json!(2)), "{path}");
    }
    let known = gate.change(Method::GET, "/v1/sessions/acme/one", Value::Null).await;
    assert_eq!(known["end"], Value::Null);
}

async fn what_was_active_before_a_restart_is_remembered(world: World) {
    let gate = with_idle(&world, "1h").start().await;
    let one = token(&world, "one");
    gate.expect(&one, "admit").await;
    let before: Timestamp = read(&look(&gate, &one).await)["last_activity"].as_str().unwrap().parse().unwrap();
    eventually("time passes", async || now() > before).await;
    gate.expect(&one, "admit").await;
    let shown = read(&look(&gate, &one).await);
    gate.instance.stop().await;
    let gate = with_idle(&world, "1h").start().await;
    let after = read(&look(&gate, &one).await);
    for member in ["started", "last_activity"] {
        assert_eq!(after[member], shown[member], "{member}");
    }
}

async fn a_logout_of_a_session_whose_time_is_up_is_a_logout(world: World) {
    let gate = short(&world).with("SESSION_ABSOLUTE_LIMIT", "1h").start().await;
    let idle = token(&world, "idle");
    gate.expect(&idle, "admit").await;
    eventually("it is idle", async || {
        let left = look(&gate, &idle).await;
        left.status == 401
    })
    .await;
    assert_eq!(gate.log_out(&idle, "").await.status, 204);
    let old = world.token(ALICE, json!({ "sid": "old", "auth_time": now().as_secs() - 3600 }));
    gate.expect(&old, "reauthentication_required").await;
    assert_eq!(gate.log_out(&old, "").await.status, 204);
    gate.expect(&old, "session_ended").await;
}

/// Two gateways over one Redis.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_active_on_another_gateway_is_not_refused_here() {
    let Some(world) = World::redis().await else { return };
    let (here, there) = (short(&world).start().await, short(&world).start().await);
    let one = token(&world, "one");
    here.expect(&one, "admit").await;
    let begun = Instant::now();
    eventually("the limit is over here, twice", async || {
        there.expect(&one, "admit").await;
        begun.elapsed() > 2 * IDLE
    })
    .await;
    here.expect(&one, "admit").await;
    assert!(here.metric("portcullis_session_opens_total").await >= 2.0, "it asked before it would have refused");

    until_idle(&here, &one, Instant::now()).await;
    there.expect(&one, "session_ended").await;
    here.expect(&one, "session_ended").await;
}

/// Many at once come upon a session on several gateways: it is kept once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_kept_once_whoever_comes_upon_it() {
    let Some(world) = World::redis().await else { return };
    let gates = [with_idle(&world, "1h").start().await, with_idle(&world, "1h").start().await];
    let tokens: Vec<String> =
        (0..20).map(|number| world.token(ALICE, json!({ "sid": "one", "jti": number.to_string() }))).collect();
    let asked = tokens.iter().flat_map(|token| gates.iter().map(move |gate| look(gate, token)));
    let told = futures_util::future::join_all(asked).await;
    let starts: std::collections::BTreeSet<String> =
        told.iter().map(|reply| read(reply)["started"].to_string()).collect();
    assert_eq!(starts.len(), 1, "{starts:?}");
    let opens = gates[0].metric("portcullis_session_opens_total").await;
    assert!(opens < 20.0, "those who ask at once share a question: {opens}");
    let page = gates[0].change(Method::GET, "/v1/subjects/acme/auth0%7Calice/sessions", Value::Null).await;
    assert_eq!(page["sessions"].as_array().unwrap().len(), 1, "{page}");
}
