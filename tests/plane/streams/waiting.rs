//! Requests that were admitted and have to wait before they are sent: for a place, for a connection.

use serde_json::json;
use tokio::{io::AsyncReadExt as _, task::JoinHandle};

use super::*;
use crate::support::{client::Reply, full::MARGIN, upstream::RawUpstream};

/// The default of `markers.max_staleness`.
const MAX_STALENESS: Duration = Duration::from_secs(2);

const ONE_PLACE: &str = "limits = { max_requests = 1, max_waiting = 8, max_wait = \"30s\" }";

/// A request that is under way.
fn ask(version: Version, gate: &Gate, path: &str, token: &str, is_call: bool) -> JoinHandle<Reply> {
    let (address, path, token) = (gate.address, path.to_owned(), token.to_owned());
    tokio::spawn(async move {
        let mut client = Client::connect(version, address).await;
        let method = if is_call { Method::POST } else { Method::GET };
        let mut asked = request(version, method, &path, &token);
        if is_call {
            asked = asked.header("content-type", "application/grpc");
        }
        client.fetch(asked.body(StreamBody::from("")).unwrap()).await
    })
}

/// Waits until this many requests are being served, those that wait included.
async fn until_in_flight(gate: &Gate, count: f64) {
    eventually("they are under way", async || (gate.metric("portcullis_requests_in_flight").await - count).abs() < 0.5)
        .await;
}

/// Their session ends while they wait, and the place is theirs a moment later: nothing of it may reach the upstream.
async fn is_judged_again(world: &World) {
    let gate = world.gate().route(ONE_PLACE).start().await;
    for (number, version) in [HTTP1, HTTP2].into_iter().enumerate() {
        for is_call in [false, true] {
            let feeds = Feeds::of(world);
            let subject = format!("user {number} {is_call}");
            let token = world.token(&subject, json!({}));
            let held = Flow::begin(HTTP1, &gate, "/long", &world.token(BOB, json!({}))).await;
            let waiting = ask(version, &gate, "/long", &token, is_call);
            until_in_flight(&gate, 2.0).await;
            let told = gate.metric("portcullis_marker_changes_total").await;
            block(&gate, &subject).await;
            // Whoever stores it elsewhere has it told in its own time.
            eventually("the gate is told", async || gate.metric("portcullis_marker_changes_total").await > told).await;
            drop(held);
            let reply = waiting.await.unwrap();
            if is_call {
                assert_eq!((reply.status, &reply.headers["grpc-status"]), (StatusCode::OK, &"16".parse().unwrap()));
                assert_eq!(reply.headers["grpc-message"], "user_blocked");
            } else {
                assert_eq!((reply.status, reply.code().as_str()), (StatusCode::UNAUTHORIZED, "user_blocked"));
            }
            assert!(!feeds.0.lock().unwrap().contains_key(&subject), "the upstream saw it");
            until_in_flight(&gate, 0.0).await;
        }
    }
    assert!((ended(&gate, "user_blocked", true).await - 4.0).abs() < 0.5, "each is counted once");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waited_for_a_place_is_judged_again_before_it_is_taken() {
    is_judged_again(&World::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waited_for_a_place_is_judged_again_by_what_redis_told() {
    let Some(world) = World::redis().await else { return };
    is_judged_again(&world).await;
}

/// Whoever is still to be waited for is not: the wait is over with the session.
async fn ends(world: &World) {
    let gate = world.gate().route(ONE_PLACE).start().await;
    let feeds = Feeds::of(world);
    let held = Flow::begin(HTTP1, &gate, "/long", &world.token(BOB, json!({}))).await;
    until_open(&gate, 1.0).await;
    let waiting = ask(HTTP1, &gate, "/long", &world.token(ALICE, json!({})), false);
    let other = ask(HTTP1, &gate, "/", &world.token("carol", json!({})), false);
    // A wait that lasts is looked after like anything else that does.
    until_open(&gate, 3.0).await;
    block(&gate, ALICE).await;
    let begun = Instant::now();
    let reply = waiting.await.unwrap();
    assert_eq!((reply.status, reply.code().as_str()), (StatusCode::UNAUTHORIZED, "user_blocked"));
    assert!(begun.elapsed() < MAX_STALENESS + MARGIN, "{:?}", begun.elapsed());
    assert!(!feeds.0.lock().unwrap().contains_key(ALICE), "the upstream saw it");
    assert!(!other.is_finished(), "nobody else is concerned");
    drop(held);
    assert_eq!(other.await.unwrap().status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_a_place_ends_with_the_session() {
    ends(&World::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_a_place_ends_with_a_session_that_redis_ends() {
    let Some(world) = World::redis().await else { return };
    ends(&world).await;
}

/// An upstream that lets itself be connected to and never finishes the handshake.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_a_connection_ends_with_the_session() {
    let upstream = RawUpstream::start(|mut stream, _| async move {
        let mut nothing = [0; 64];
        while stream.read(&mut nothing).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    for settings in ["", "protocol = \"http2\"\n"] {
        let world = World::embedded().await;
        let slow = format!(
            "[[routes]]\nname = \"slow\"\npath = \"/slow\"\nupstream = \"https://{}\"\nconnect_timeout = \"30s\"\n{settings}",
            upstream.address()
        );
        let gate = world.gate().route(&slow).start().await;
        let waiting = ask(HTTP1, &gate, "/slow", &world.token(ALICE, json!({})), false);
        eventually("the wait lasts", async || open_on(&gate, "slow").await > 0.5).await;
        block(&gate, ALICE).await;
        let begun = Instant::now();
        let reply = waiting.await.unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (StatusCode::UNAUTHORIZED, "user_blocked"));
        assert!(begun.elapsed() < MAX_STALENESS + MARGIN, "{:?}", begun.elapsed());
    }
}

/// What nobody ended goes on, and is sent.
#[tokio::test(flavor = "multi_thread")]
async fn who_waited_and_is_welcome_is_served() {
    let world = World::embedded().await;
    let gate = world.gate().route(ONE_PLACE).start().await;
    let _feeds = Feeds::of(&world);
    let held = Flow::begin(HTTP1, &gate, "/long", &world.token(BOB, json!({}))).await;
    let waiting: Vec<_> = (0..3)
        .map(|number| ask(HTTP1, &gate, "/", &world.token(&format!("user {number}"), json!({})), false))
        .collect();
    until_open(&gate, 4.0).await;
    drop(held);
    for reply in waiting {
        assert_eq!(reply.await.unwrap().status, StatusCode::OK);
    }
    until_open(&gate, 0.0).await;
}
