//! What ends a stream, and how it looks to its client.

use http_body_util::BodyExt;
use portcullis::clock::Timestamp;
use serde_json::json;

use super::*;
use crate::support::{
    client::Raw,
    full::{MARGIN, now},
    upstream::RawUpstream,
};

/// The default of `markers.max_staleness`.
const MAX_STALENESS: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_block_ends_the_streams_of_its_subject_alone_each_in_its_way() {
    for upstream in ["http1", "http2"] {
        let world = World::embedded().await;
        let gate = world.gate().route(&format!("protocol = \"{upstream}\"")).start().await;
        for (version, path, expected) in [
            (HTTP1, "/long", End::Cut),
            (HTTP2, "/long", End::Cut),
            (HTTP1, "/events", End::Whole(None)),
            (HTTP2, "/events", End::Whole(None)),
            (HTTP2, "/grpc", End::Whole(Some(("16".to_owned(), "user_blocked".to_owned())))),
        ] {
            println!("{version:?} {path} in front of {upstream}");
            let feeds = Feeds::of(&world);
            let mut alices = Flow::begin(version, &gate, path, &world.token(ALICE, json!({}))).await;
            let mut bobs = Flow::begin(version, &gate, path, &world.token(BOB, json!({}))).await;
            for (subject, flow) in [(ALICE, &mut alices), (BOB, &mut bobs)] {
                feeds.send(subject, "\0\0\0\0\x05hello").await;
                assert_eq!(flow.next().await.unwrap(), "\0\0\0\0\x05hello");
            }
            until_open(&gate, 2.0).await;
            let judged = gate.metric("portcullis_streams_judged_total").await;
            block(&gate, ALICE).await;
            let begun = Instant::now();
            assert_eq!(alices.end().await, expected);
            let took = begun.elapsed();
            assert!(took < MAX_STALENESS + MARGIN, "{took:?}");
            eventually("the upstream is let go", async || feeds.is_closed(ALICE)).await;
            until_open(&gate, 1.0).await;
            let touched = gate.metric("portcullis_streams_judged_total").await - judged;
            assert!(touched < 1.5, "{touched} streams were judged again");
            // The other one never notices.
            feeds.send(BOB, "\0\0\0\0\x02on").await;
            assert_eq!(bobs.next().await.unwrap(), "\0\0\0\0\x02on");
            drop(bobs);
            until_open(&gate, 0.0).await;
            gate.change(Method::DELETE, &subject_path(ALICE, "/block"), Value::Null).await;
        }
        assert!((ended(&gate, "user_blocked", true).await - 5.0).abs() < 0.5);
        assert!(ended(&gate, "user_blocked", false).await < 0.5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_another_program_writes_ends_streams() {
    let Some(world) = World::redis().await else { return };
    let gate = world.gate().start().await;
    let at = now().as_millis().to_string();
    for (key, reason) in [
        ("logout:acme:auth0|alice", "logged_out"),
        ("block:acme:auth0|alice", "user_blocked"),
        ("session:acme:session of auth0|alice", "session_ended"),
        ("token:acme:t", "revoked"),
        ("issuer:acme", "revoked"),
    ] {
        println!("{key}");
        let feeds = Feeds::of(&world);
        let key = format!("portcullis:m:{key}");
        let token = world.token(ALICE, json!({ "jti": "t", "auth_time": null }));
        let flow = Flow::begin(HTTP1, &gate, "/events", &token).await;
        until_open(&gate, 1.0).await;
        let before = ended(&gate, reason, true).await;
        world.command::<()>(&["SET", &key, &at]);
        let begun = Instant::now();
        assert_eq!(flow.end().await, End::Whole(None));
        assert!(begun.elapsed() < MAX_STALENESS + MARGIN, "{:?}", begun.elapsed());
        assert!((ended(&gate, reason, true).await - before - 1.0).abs() < 0.5);
        world.command::<()>(&["DEL", &key]);
        drop(feeds);
        gate.becomes(&token, "admit").await;
    }
}

/// Whatever comes right after the request was admitted, before it counts as a stream, is found when it does.
#[tokio::test(flavor = "multi_thread")]
async fn a_marker_that_comes_before_the_stream_is_entered_is_not_missed() {
    let world = World::embedded().await;
    let gate = world.gate().start().await;
    for (number, path) in ["/long", "/events", "/wait"].into_iter().cycle().take(12).enumerate() {
        let feeds = Feeds::of(&world);
        let subject = format!("user {number}");
        let token = world.token(&subject, json!({}));
        let begun = Instant::now();
        if path == "/wait" {
            let mut client = Client::connect(HTTP2, gate.address).await;
            let waiting = request(HTTP2, Method::GET, path, &token).body(StreamBody::from("")).unwrap();
            let reply = tokio::spawn(async move { client.fetch(waiting).await });
            eventually("it has arrived", async || feeds.0.lock().unwrap().contains_key(&subject)).await;
            block(&gate, &subject).await;
            let reply = reply.await.unwrap();
            assert_eq!((reply.status, reply.code().as_str()), (StatusCode::UNAUTHORIZED, "user_blocked"));
        } else {
            let flow = Flow::begin(HTTP1, &gate, path, &token).await;
            // Some markers come at once, some at the very moment of the entry.
            let early = Duration::from_millis(if number < 6 { 0 } else { 950 + 20 * number as u64 });
            tokio::time::sleep_until(tokio::time::Instant::from_std(begun + early)).await;
            block(&gate, &subject).await;
            assert_ne!(flow.end().await, End::Whole(Some(Default::default())));
        }
        let took = begun.elapsed();
        assert!(took < MAX_STALENESS + MARGIN, "{path}: {took:?}");
    }
}

/// A request that is not answered yet is refused after all; a gRPC call in its own way.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_still_waits_is_refused() {
    let world = World::embedded().await;
    let gate = world.gate().start().await;
    let _feeds = Feeds::of(&world);
    let token = world.token(ALICE, json!({}));
    for version in [HTTP1, HTTP2] {
        for is_call in [false, true] {
            let mut client = Client::connect(version, gate.address).await;
            let mut waiting = request(version, Method::POST, "/wait", &token);
            if is_call {
                waiting = waiting.header("content-type", "application/grpc");
            }
            let waiting = waiting.body(StreamBody::from("")).unwrap();
            let reply = tokio::spawn(async move { client.fetch(waiting).await });
            until_open(&gate, 1.0).await;
            block(&gate, ALICE).await;
            let reply = reply.await.unwrap();
            if is_call {
                assert_eq!((reply.status, &reply.headers["grpc-status"]), (StatusCode::OK, &"16".parse().unwrap()));
                assert_eq!(reply.headers["grpc-message"], "user_blocked");
            } else {
                assert_eq!((reply.status, reply.code().as_str()), (StatusCode::UNAUTHORIZED, "user_blocked"));
                assert!(reply.headers.contains_key("www-authenticate"));
            }
            gate.change(Method::DELETE, &subject_path(ALICE, "/block"), Value::Null).await;
            gate.becomes(&token, "admit").await;
        }
    }
}

/// A message of gRPC that is under way is let through, if it does not take long; then the trailers come.
#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_ends_between_two_messages() {
    let world = World::embedded().await;
    let gate = world.gate().start().await;
    for (number, rest) in [Some("lo\0\0\0\0\x09next"), None].into_iter().enumerate() {
        let feeds = Feeds::of(&world);
        let subject = format!("user {number}");
        let mut flow = Flow::begin(HTTP2, &gate, "/grpc", &world.token(&subject, json!({}))).await;
        feeds.send(&subject, "\0\0\0\0\x05hel").await;
        flow.next().await.unwrap();
        until_open(&gate, 1.0).await;
        let before = ended(&gate, "user_blocked", true).await;
        block(&gate, &subject).await;
        if let Some(rest) = rest {
            eventually("it is to end", async || ended(&gate, "user_blocked", true).await > before).await;
            // Whether the rest is in time is the machine's to say.
            let _ = feeds.sender(&subject).send(Ok(Frame::data(rest.into()))).await;
            match flow.next().await {
                Ok(part) => {
                    assert_eq!(part, "lo", "what begins another message is not let through");
                    let status = ("16".to_owned(), "user_blocked".to_owned());
                    assert_eq!(flow.end().await, End::Whole(Some(status)));
                }
                Err(end) => assert_eq!(end, End::Cut),
            }
        } else {
            assert_eq!(flow.end().await, End::Cut);
        }
        until_open(&gate, 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_takes_its_stream_along() {
    let world = World::embedded().await;
    let gate = world.gate().with("MARKERS_CLOCK_SKEW", "0s").start().await;
    let feeds = Feeds::of(&world);
    let expires = now().as_secs() + 3;
    let short = Flow::begin(HTTP1, &gate, "/events", &world.token(ALICE, json!({ "exp": expires }))).await;
    let mut long = Flow::begin(HTTP1, &gate, "/events", &world.token(BOB, json!({}))).await;
    assert_eq!(short.end().await, End::Whole(None));
    let late = now().since(Timestamp::from_secs(expires));
    assert!(now() >= Timestamp::from_secs(expires) && late < MARGIN, "{late:?}");
    assert!((ended(&gate, "token_expired", true).await - 1.0).abs() < 0.5);
    feeds.send(BOB, "on").await;
    assert_eq!(long.next().await.unwrap(), "on");
}

/// An open stream is no activity; what its user does besides keeps it alive.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_idle_takes_its_stream_along() {
    let world = World::embedded().await;
    let gate = world
        .gate()
        .with("ACTIVITY_RESOLUTION", "1s")
        .with("ACTIVITY_FLUSH_INTERVAL", "10ms")
        .with("SESSION_IDLE_LIMIT", "2100ms")
        .with("MARKERS_CLOCK_SKEW", "0s")
        .start()
        .await;
    let _feeds = Feeds::of(&world);
    let token = world.token(ALICE, json!({}));
    let mut flow = Flow::begin(HTTP1, &gate, "/events", &token).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        // Any request of the session counts, refused by the upstream or not.
        let mut client = Client::connect(HTTP1, gate.address).await;
        let sent = request(HTTP1, Method::GET, "/", &token).body(StreamBody::from("")).unwrap();
        client.send(sent).await.unwrap();
        assert!(timeout(Duration::from_millis(300), flow.response.body_mut().frame()).await.is_err(), "it goes on");
    }
    let idle_since = Instant::now();
    assert_eq!(flow.end().await, End::Whole(None));
    let idle = idle_since.elapsed();
    assert!(idle > Duration::from_millis(1500) && idle < Duration::from_millis(2100) + MARGIN, "{idle:?}");
    assert!((ended(&gate, "idle_timeout", true).await - 1.0).abs() < 0.5);
    // It is over for good, as if a request had come.
    gate.becomes(&token, "session_ended").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_observe_mode_streams_are_counted_and_go_on() {
    let world = World::embedded().await;
    let gate = world.gate().route("mode = \"observe\"").start().await;
    let feeds = Feeds::of(&world);
    let mut flow = Flow::begin(HTTP1, &gate, "/long", &world.token(ALICE, json!({}))).await;
    until_open(&gate, 1.0).await;
    block(&gate, ALICE).await;
    eventually("it is counted", async || ended(&gate, "user_blocked", false).await > 0.5).await;
    feeds.send(ALICE, "on").await;
    assert_eq!(flow.next().await.unwrap(), "on");
    block(&gate, ALICE).await;
    feeds.send(ALICE, "and on").await;
    assert_eq!(flow.next().await.unwrap(), "and on");
    assert!((ended(&gate, "user_blocked", false).await - 1.0).abs() < 0.5, "once");
}

/// Nobody asked for a token, so there is none to end the stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_token_has_no_session() {
    let world = World::embedded().await;
    let gate = world.gate().route("auth = \"optional\"\nbody_idle_timeout = \"1500ms\"").start().await;
    let (sender, body) = StreamBody::channel();
    let body = Mutex::new(Some(body));
    world.upstream.handle(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async { Response::new(body) }
    });
    let mut flow = Flow::begin(HTTP1, &gate, "/long", "").await;
    sender.send(Ok(Frame::data("on".into()))).await.unwrap();
    assert_eq!(flow.next().await.unwrap(), "on");
    // Time limits hold as before.
    assert_eq!(flow.end().await, End::Cut);
    assert!(open(&gate).await < 0.5);
}

/// Whoever does not read does not hear of the end; what they send stops all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_ends_with_its_session_though_it_reads_nothing() {
    for (version, upstream) in [(HTTP1, "http1"), (HTTP2, "http1"), (HTTP2, "http2")] {
        println!("{version:?} in front of {upstream}");
        let world = World::embedded().await;
        let gate = world.gate().route(&format!("protocol = \"{upstream}\"")).start().await;
        let (feeds, uploads) = (Feeds::default(), Arc::new(Mutex::new(Vec::new())));
        let (kept, reading) = (feeds.clone(), Arc::clone(&uploads));
        world.upstream.handle(move |request| {
            let (sender, body) = StreamBody::channel();
            kept.0.lock().unwrap().insert(ALICE.to_owned(), sender);
            let mut upload = request.into_body();
            reading.lock().unwrap().push(tokio::spawn(async move { while let Some(Ok(_)) = upload.frame().await {} }));
            async { Response::new(body) }
        });
        let mut client = Client::connect(version, gate.address).await;
        let (parts, body) = StreamBody::channel();
        let token = world.token(ALICE, json!({}));
        let request = request(version, Method::POST, "/both", &token).body(body).unwrap();
        parts.send(Ok(Frame::data("first".into()))).await.unwrap();
        let _unread = client.send(request).await.unwrap();
        // Until nobody takes any more of the response.
        let sender = feeds.sender(ALICE);
        let much = || Ok(Frame::data(Bytes::from(vec![b'x'; 64 * 1024])));
        while let Ok(sent) = timeout(Duration::from_millis(500), sender.send(much())).await {
            sent.unwrap();
        }
        until_open(&gate, 1.0).await;
        block(&gate, ALICE).await;
        eventually("the upstream gets no more", async || {
            let _ = parts.try_send(Ok(Frame::data("more".into())));
            uploads.lock().unwrap()[0].is_finished()
        })
        .await;
    }
}

/// What waits for an upstream that has no room for it does not go on when there is some, once the session is over.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_room_ends_with_its_session() {
    let (noted, mut seen) = mpsc::channel(2);
    let go = Arc::new(tokio::sync::Notify::new());
    let cue = Arc::clone(&go);
    let upstream = RawUpstream::start(move |stream, _| {
        let (noted, cue) = (noted.clone(), Arc::clone(&cue));
        async move {
            // Room for the first word of the content.
            let mut builder = h2::server::Builder::new();
            builder.initial_window_size(5);
            let mut requests = builder.handshake::<_, Bytes>(stream).await.unwrap();
            while let Some(Ok((request, mut answer))) = requests.accept().await {
                if request.method() == Method::GET {
                    answer.send_response(Response::new(()), true).unwrap();
                    continue;
                }
                let (noted, cue) = (noted.clone(), Arc::clone(&cue));
                tokio::spawn(async move {
                    let mut content = request.into_body();
                    noted.send(content.data().await.unwrap().ok()).await.unwrap();
                    let mut response = answer.send_response(Response::new(()), false).unwrap();
                    // Its client takes nothing of it.
                    response.send_data(vec![b'x'; 16 << 20].into(), false).unwrap();
                    cue.notified().await;
                    content.flow_control().release_capacity(5).unwrap();
                    noted.send(content.data().await.and_then(Result::ok)).await.unwrap();
                });
            }
        }
    })
    .await;
    let world = World::embedded().await;
    let route = format!("\n{}name = \"room\"\npath = \"/room\"\nprotocol = \"http2\"", upstream.route(""));
    let gate = world.gate().route(&route).start().await;
    let mut raw = Raw::connect(gate.address).await;
    let token = world.token(ALICE, json!({}));
    // Whoever has an answer has heard how much room there is.
    raw.write(format!("GET /room HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n")).await;
    assert!(raw.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
    let head =
        format!("POST /room HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 10\r\n\r\nfirst");
    raw.write(head).await;
    assert_eq!(seen.recv().await.unwrap().unwrap(), "first");
    // It is the last of it.
    raw.write("never").await;
    eventually("the request has become a stream", async || open_on(&gate, "room").await > 0.5).await;
    block(&gate, ALICE).await;
    eventually("the session has ended", async || ended_on(&gate, "room", "user_blocked", true).await > 0.5).await;
    go.notify_one();
    assert_eq!(seen.recv().await.unwrap(), None);
}
