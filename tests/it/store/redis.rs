//! What the Redis store promises besides.

use std::time::{Duration, Instant};

use portcullis::{
    clock::Clock,
    marker::{MarkerKey, Reading},
    session::SessionKey,
    store::{
        Notes, Sessions, Store, StoreError,
        redis::{InvalidRedisSettings, RedisSettings, RedisStore},
        sessions::Opening,
    },
};
use redis::Connection;

use super::{
    logout, now, open_redis, raw_key, subject,
    suite::{
        notes::{keep_notes, kept_notes, notes_work},
        sessions::sessions_work,
    },
    time,
};
use crate::support::{
    eventually,
    redis::RedisServer,
    watcher::{Recorder, Told},
};

fn run(connection: &mut Connection, command: &[&str]) {
    redis::cmd(command[0]).arg(&command[1..]).exec(connection).unwrap();
}

#[expect(clippy::needless_pass_by_value, reason = "reads better")]
fn is_unavailable<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Unavailable { .. }))
}

/// How long a call takes at most: the response timeout, and some for a busy machine.
const DEADLINE: Duration = Duration::from_millis(1500);

async fn within_deadline<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("an answer within the deadline")
}

fn opening(id: &str, until: Duration) -> Opening {
    let at = now();
    Opening {
        key: SessionKey { subject: subject("anna"), id: id.try_into().unwrap() },
        started: at,
        told: false,
        at,
        until: at.plus(until),
        limits: "0123456789abcdef".into(),
        client: Some("my5Ke2dqQ0Gx8cTzWv1LbNpRhYs7JfUa".try_into().unwrap()),
        gateway: "portcullis-7d9f8b6c5d-x2x4".into(),
    }
}

#[tokio::test]
async fn the_sessions_of_a_user_are_packed_and_expire_with_the_last_of_them() {
    let Some(server) = RedisServer::start() else { return };
    let store = open_redis(&server.url(), &Recorder::new()).await;
    let ask = |command: &[&str]| server.ask::<i64>(&[command, &["portcullis:sessions:acme:anna"]].concat()).unwrap();
    let [brief, long] =
        [("Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4", 2), ("a", 3)].map(|(id, secs)| opening(id, Duration::from_secs(secs)));
    for (opening, last) in [(&long, &long), (&brief, &long)] {
        store.open_session(opening).await.unwrap();
        assert_eq!(ask(&["PEXPIRETIME"]), last.until.as_millis());
    }
    let encoding: String = server.ask(&["OBJECT", "ENCODING", "portcullis:sessions:acme:anna"]).unwrap();
    assert_eq!(encoding, "listpack");
    let later = Opening { until: long.until.plus(Duration::from_secs(4000)), ..brief.clone() };
    store.open_session(&later).await.unwrap();
    assert_eq!(ask(&["PEXPIRETIME"]), later.until.as_millis());
    store.open_session(&opening("c", Duration::from_millis(50))).await.unwrap();
    assert_eq!(ask(&["PEXPIRETIME"]), later.until.as_millis());
}

#[tokio::test]
async fn sessions_whose_time_is_over_are_taken_from_a_hash_that_stays() {
    let Some(server) = RedisServer::start() else { return };
    let store = open_redis(&server.url(), &Recorder::new()).await;
    let fields = || server.ask::<i64>(&["HLEN", "portcullis:sessions:acme:anna"]).unwrap();
    for number in 0..8 {
        store.open_session(&opening(&format!("brief {number}"), Duration::from_millis(100))).await.unwrap();
        store.open_session(&opening("long", Duration::from_secs(60))).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
    for number in 0..8 {
        store.open_session(&opening(&format!("{number}"), Duration::from_secs(60))).await.unwrap();
    }
    assert_eq!(fields(), 2 * 9);
    assert_eq!(store.sessions_of(&subject("anna"), None, 100).await.unwrap().len(), 9);
}

#[tokio::test]
async fn a_key_of_another_type_holds_no_sessions() {
    let Some(server) = RedisServer::start() else { return };
    let store = open_redis(&server.url(), &Recorder::new()).await;
    server.ask::<String>(&["SET", "portcullis:sessions:acme:anna", "1"]).unwrap();
    let opening = opening("a", Duration::from_secs(60));
    assert_eq!(store.session(&opening.key).await.unwrap(), None);
    assert_eq!(store.sessions_of(&subject("anna"), None, 1).await.unwrap(), []);
    let Err(StoreError::Refused { message, .. }) = store.open_session(&opening).await else { panic!("it was kept") };
    assert!(message.contains("delete it"), "{message}");
}

#[tokio::test]
async fn who_was_idle_is_forgotten_in_bites() {
    const MANY: u32 = 40_000;
    let Some(server) = RedisServer::start() else { return };
    let store = open_redis(&server.url(), &Recorder::new()).await;
    let entry = |number: u32| {
        let key = SessionKey { subject: subject("anna"), id: (&*number.to_string()).try_into().unwrap() };
        (key, time(number.into()))
    };
    store.record_session_activity(&(0..MANY).map(entry).collect::<Vec<_>>(), Duration::ZERO).await.unwrap();
    let left = || {
        let count = |shard| server.ask::<u32>(&["ZCARD", &format!("portcullis:active:acme:{shard:02}")]).unwrap();
        (0..64).map(count).sum::<u32>()
    };
    assert_eq!(left(), MANY);
    store.forget_idle_sessions(&"acme".try_into().unwrap(), time(0)).await.unwrap();
    assert_eq!(left(), MANY, "the first was active at that moment");
    store.forget_idle_sessions(&"acme".try_into().unwrap(), time(39_990)).await.unwrap();
    assert_eq!(left(), 10);
}

#[tokio::test]
async fn changes_by_other_programs_reach_the_watcher() {
    let Some(server) = RedisServer::start() else { return };
    let watcher = Recorder::new();
    let store = open_redis(&server.url(), &watcher).await;
    let key = MarkerKey::logout(&subject("auth0|1"));
    let name = raw_key(&key);
    let mut other = server.client();
    let soon = now().plus(Duration::from_millis(100)).as_millis().to_string();
    let commands: [&[&str]; 5] = [
        &["SET", &name, "1763700000123"],
        &["DEL", &name],
        &["SET", &name, "1763700000123", "PXAT", &soon],
        &["RENAME", "elsewhere", &name],
        &["UNLINK", &name],
    ];
    run(&mut other, &["SET", "elsewhere", "1763700000123"]);
    for command in commands {
        eventually("all earlier pushes have come", async || {
            run(&mut other, &["SET", "portcullis:m:issuer:fence", "1763700000123"]);
            watcher.was_told_of("issuer:fence")
        })
        .await;
        watcher.forget();
        run(&mut other, command);
        eventually(&format!("{} is told", command[0]), async || watcher.was_told_of(key.as_str())).await;
        if command.contains(&"PXAT") {
            watcher.forget();
            eventually("expiry is told", async || watcher.was_told_of(key.as_str())).await;
            assert_eq!(store.read(&key).await.unwrap(), Reading::Absent);
        }
    }
}

#[tokio::test]
async fn a_flush_resets() {
    let Some(server) = RedisServer::start() else { return };
    let watcher = Recorder::new();
    let _store = open_redis(&server.url(), &watcher).await;
    for flush in ["FLUSHALL", "FLUSHDB"] {
        run(&mut server.client(), &["SET", "portcullis:m:issuer:acme", "1763700000123"]);
        watcher.forget();
        run(&mut server.client(), &[flush]);
        eventually(flush, async || watcher.was_told(&Told::Reset)).await;
    }
}

#[tokio::test]
async fn activity_sessions_and_notes_are_not_pushed() {
    let Some(server) = RedisServer::start() else { return };
    let watcher = Recorder::new();
    let store = open_redis(&server.url(), &watcher).await;
    watcher.forget();
    store.record_activity(&[(subject("a"), time(1))]).await.unwrap();
    sessions_work(&*store, "m:logout:acme:a").await.unwrap();
    notes_work(&*store, "m:logout:acme:a").await.unwrap();
    run(&mut server.client(), &["SET", "other:m:logout:acme:a", "1763700000123"]);
    run(&mut server.client(), &["SET", "portcullis:m:issuer:fence", "1763700000123"]);
    eventually("the fence is told", async || watcher.was_told_of("issuer:fence")).await;
    let changed: Vec<_> = watcher.told().into_iter().filter(|told| matches!(told, Told::Changed(_))).collect();
    assert_eq!(changed, [Told::Changed("issuer:fence".to_owned())]);
}

#[tokio::test]
async fn a_server_that_was_killed_is_unavailable_and_comes_back() {
    let Some(mut server) = RedisServer::start() else { return };
    let watcher = Recorder::new();
    let store = open_redis(&server.url(), &watcher).await;
    let key = MarkerKey::logout(&subject("a"));
    store.merge(&key, &logout(time(1)), None).await.unwrap();
    watcher.forget();
    server.kill();
    eventually("reads are unavailable", async || is_unavailable(store.read(&key).await)).await;
    eventually("writes are unavailable", async || is_unavailable(store.merge(&key, &logout(time(2)), None).await))
        .await;
    let start = Instant::now();
    assert!(is_unavailable(store.read(&key).await) && is_unavailable(store.last_activity(&subject("a")).await));
    assert!(start.elapsed() < Duration::from_millis(500), "without a connection the answer comes at once");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!watcher.was_told(&Told::Reset), "what is known stays until it is too old");
    watcher.forget();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(watcher.told(), [], "silence");

    server.restart();
    eventually("reads are back", async || store.read(&key).await.is_ok()).await;
    assert_eq!(watcher.told()[..2], [Told::Reset, Told::Heard], "nothing known before counts any more");
    assert_eq!(store.read(&key).await.unwrap(), Reading::Absent, "this server kept nothing");
    eventually("writes are back", async || store.merge(&key, &logout(time(3)), None).await.is_ok()).await;
    watcher.forget();
    run(&mut server.client(), &["DEL", &raw_key(&key)]);
    eventually("pushes are back", async || watcher.was_told_of(key.as_str())).await;
}

#[tokio::test]
async fn a_server_that_comes_late_is_found() {
    let Some(mut server) = RedisServer::start() else { return };
    server.kill();
    let watcher = Recorder::new();
    let store =
        RedisStore::open(&RedisSettings::from_url(&server.url()).unwrap(), watcher.clone(), Clock::System).unwrap();
    let key = MarkerKey::logout(&subject("a"));
    assert!(is_unavailable(store.read(&key).await));
    assert!(is_unavailable(store.report().await));
    assert_eq!(watcher.told(), []);
    server.restart();
    eventually("it is found", async || store.read(&key).await.is_ok()).await;
}

#[tokio::test]
async fn a_server_that_hangs_is_noticed_and_heard_again() {
    let Some(server) = RedisServer::start() else { return };
    let watcher = Recorder::new();
    let store = open_redis(&server.url(), &watcher).await;
    let key = MarkerKey::logout(&subject("a"));
    store.merge(&key, &logout(time(1)), None).await.unwrap();
    server.stop();
    // An answer from before may still be under way.
    tokio::time::sleep(Duration::from_millis(50)).await;
    watcher.forget();
    assert!(is_unavailable(within_deadline(store.read(&key)).await));
    assert!(is_unavailable(within_deadline(store.merge(&key, &logout(time(2)), None)).await));
    assert!(is_unavailable(within_deadline(store.record_activity(&[(subject("a"), time(1))])).await));
    assert!(is_unavailable(within_deadline(store.report()).await));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(watcher.told(), [], "nothing is heard, and nothing forgotten");
    server.cont();
    eventually("it is heard", async || watcher.was_told(&Told::Heard)).await;
    let told = watcher.told();
    let first = told.iter().position(|told| *told == Told::Heard).unwrap();
    assert!(told[..first].contains(&Told::Reset), "after a silence that long nothing is known: {told:?}");
    eventually("reads are back", async || store.read(&key).await.is_ok()).await;
    eventually("writes are back", async || store.merge(&key, &logout(time(3)), None).await.is_ok()).await;
}

#[tokio::test]
async fn a_killed_connection_is_made_anew() {
    let Some(server) = RedisServer::start() else { return };
    let watcher = Recorder::new();
    let store = open_redis(&server.url(), &watcher).await;
    let key = MarkerKey::logout(&subject("a"));
    for round in 0..3 {
        watcher.forget();
        run(&mut server.client(), &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        eventually("it is reset", async || watcher.was_told(&Told::Reset)).await;
        eventually("reads are back", async || store.read(&key).await.is_ok()).await;
        eventually("writes are back", async || store.merge(&key, &logout(time(round)), None).await.is_ok()).await;
        watcher.forget();
        run(&mut server.client(), &["DEL", &raw_key(&key)]);
        eventually("pushes are back", async || watcher.was_told_of(key.as_str())).await;
    }
}

#[tokio::test]
async fn a_lost_connection_is_noticed_before_the_next_heartbeat() {
    let Some(server) = RedisServer::start() else { return };
    let watcher = Recorder::new();
    let settings =
        RedisSettings { heartbeat: Duration::from_secs(3600), ..RedisSettings::from_url(&server.url()).unwrap() };
    let store = RedisStore::open(&settings, watcher.clone(), Clock::System).unwrap();
    eventually("it is connected", async || store.report().await.is_ok()).await;
    watcher.forget();
    run(&mut server.client(), &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually("it is reset", async || watcher.was_told(&Told::Reset)).await;
}

#[tokio::test]
async fn it_is_heard_while_it_answers() {
    let Some(server) = RedisServer::start() else { return };
    let watcher = Recorder::new();
    let _store = open_redis(&server.url(), &watcher).await;
    assert_eq!(watcher.told()[..2], [Told::Reset, Told::Heard]);
    eventually("it is heard again and again", async || watcher.count(&Told::Heard) > 4).await;
    assert_eq!(watcher.count(&Told::Reset), 1);
}

#[tokio::test]
async fn a_key_of_another_type_is_unreadable() {
    let Some(server) = RedisServer::start() else { return };
    let store = open_redis(&server.url(), &Recorder::new()).await;
    let key = MarkerKey::block(&subject("a"));
    run(&mut server.client(), &["RPUSH", &raw_key(&key), "x"]);
    assert_eq!(store.read(&key).await.unwrap(), Reading::Unreadable);
    let record = super::block(time(1), true);
    let Err(StoreError::Refused { message, .. }) = store.merge(&key, &record, None).await else { panic!("merged") };
    assert!(message.starts_with("WRONGTYPE") && message.contains("delete it"), "{message}");
}

#[tokio::test]
async fn the_expiry_is_the_servers_too() {
    let Some(server) = RedisServer::start() else { return };
    let store = open_redis(&server.url(), &Recorder::new()).await;
    let (key, expires) = (MarkerKey::logout(&subject("a")), now().plus(Duration::from_secs(3600)));
    store.merge(&key, &logout(time(1)), Some(expires)).await.unwrap();
    let expiry = |key| redis::cmd("PEXPIRETIME").arg(raw_key(key)).query::<i64>(&mut server.client()).unwrap();
    assert_eq!(expiry(&key), expires.as_millis());
    let forever = MarkerKey::block(&subject("a"));
    store.merge(&forever, &super::block(time(1), true), None).await.unwrap();
    assert_eq!(expiry(&forever), -1);
}

#[tokio::test]
async fn a_forgotten_script_is_sent_again() {
    let Some(server) = RedisServer::start() else { return };
    let store = open_redis(&server.url(), &Recorder::new()).await;
    for round in 0..3 {
        run(&mut server.client(), &["SCRIPT", "FLUSH"]);
        assert!(store.merge(&MarkerKey::logout(&subject("a")), &logout(time(round)), None).await.unwrap().changed);
    }
}

#[tokio::test]
async fn notes_are_there_after_a_restart() {
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut server) = RedisServer::start_with(&options) else { return };
    let store = open_redis(&server.url(), &Recorder::new()).await;
    keep_notes(&*store).await;
    server.kill();
    server.restart();
    eventually("it is back", async || store.report().await.is_ok()).await;
    kept_notes(&*store).await;
    assert!(!store.lease("poll", "other", Duration::from_secs(60)).await.unwrap(), "another gateway has it");
}

#[tokio::test]
async fn scripts_about_notes_and_sessions_that_were_forgotten_are_sent_again() {
    let Some(server) = RedisServer::start() else { return };
    let store = open_redis(&server.url(), &Recorder::new()).await;
    run(&mut server.client(), &["SCRIPT", "FLUSH"]);
    store.record_activity(&[(subject("a"), time(1))]).await.unwrap();
    store.forget_activity(&[(subject("a"), time(1))]).await.unwrap();
    assert_eq!(store.last_activity(&subject("a")).await.unwrap(), None);
    notes_work(&*store, "a").await.unwrap();
    sessions_work(&*store, "a").await.unwrap();
}

#[tokio::test]
async fn a_note_of_another_type_says_what_to_do() {
    let Some(server) = RedisServer::start() else { return };
    let store = open_redis(&server.url(), &Recorder::new()).await;
    for (key, command) in
        [("seen:a", "SET"), ("jobs:a", "SET"), ("set:a", "SET"), ("note:a", "RPUSH"), ("lease:a", "RPUSH")]
    {
        run(&mut server.client(), &[command, &format!("portcullis:n:{key}"), "x"]);
    }
    let told = |what: &str, result: Result<(), StoreError>| {
        let Err(StoreError::Refused { message, .. }) = result else { panic!("{what}: {result:?}") };
        assert!(message.starts_with("WRONGTYPE") && message.contains("delete it"), "{what}: {message}");
    };
    told("seen", store.seen("a", &[[1; 16]]).await.map(drop));
    told("remember", store.remember("a", &[[1; 16]], 1).await);
    told("note", store.note("a").await.map(drop));
    told("swap_note", store.swap_note("a", None, None).await.map(drop));
    told("lease", store.lease("a", "a", Duration::from_secs(1)).await.map(drop));
    told("put_jobs", store.put_jobs("a", &[("a".to_owned(), "a".to_owned())]).await);
    told("jobs", store.jobs("a", 1).await.map(drop));
    told("add_members", store.add_members(&[("a".to_owned(), "a".to_owned())], Duration::from_secs(1)).await);
    told("members", store.members("a").await.map(drop));
}

#[tokio::test]
async fn two_gateways_merging_at_once_lose_nothing() {
    let Some(server) = RedisServer::start() else { return };
    let (here, there) = (Recorder::new(), Recorder::new());
    let stores = [open_redis(&server.url(), &here).await, open_redis(&server.url(), &there).await];
    let key = MarkerKey::logout(&subject("a"));
    for round in 0..20 {
        let [one, other] = [0, 1].map(|n| (&stores[n], logout(time(round * 2 + i64::try_from(n).unwrap()))));
        let merges = tokio::join!(other.0.merge(&key, &other.1, None), one.0.merge(&key, &one.1, None));
        merges.0.unwrap();
        merges.1.unwrap();
        assert_eq!(one.0.read(&key).await.unwrap(), Reading::Present(other.1), "round {round}");
    }
    here.forget();
    stores[1].merge(&key, &logout(time(1000)), None).await.unwrap();
    eventually("the other gateway is told", async || here.was_told_of(key.as_str())).await;
}

#[tokio::test]
async fn what_the_server_refuses_says_what_to_do() {
    let Some(server) = RedisServer::start() else { return };
    let store = open_redis(&server.url(), &Recorder::new()).await;
    let key = MarkerKey::logout(&subject("a"));
    let refusal = async || match store.merge(&key, &logout(time(1)), None).await {
        Err(StoreError::Refused { message, .. }) => message,
        other => panic!("{other:?}"),
    };
    run(&mut server.client(), &["CONFIG", "SET", "maxmemory", "1"]);
    let message = refusal().await;
    assert!(message.starts_with("OOM") && message.contains("maxmemory"), "{message}");
    let activity = store.record_activity(&[(subject("a"), time(1))]).await;
    assert!(
        matches!(activity, Err(StoreError::Refused { ref message, .. }) if message.starts_with("OOM")),
        "{activity:?}"
    );
    run(&mut server.client(), &["CONFIG", "SET", "maxmemory", "0"]);
    run(&mut server.client(), &["REPLICAOF", "127.0.0.1", "1"]);
    let message = refusal().await;
    assert!(message.starts_with("READONLY") && message.contains("primary"), "{message}");
    let report = store.report().await.unwrap();
    assert!(report.warnings.iter().any(|warning| warning.contains("replica")), "{report:?}");
}

#[tokio::test]
async fn the_report_warns_of_eviction() {
    let Some(server) = RedisServer::start() else { return };
    let store = open_redis(&server.url(), &Recorder::new()).await;
    run(&mut server.client(), &["CONFIG", "SET", "appendonly", "yes"]);
    assert_eq!(store.report().await.unwrap().warnings, [""; 0]);
    run(&mut server.client(), &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let warnings = store.report().await.unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("maxmemory-policy allkeys-lru"), "{warnings:?}");
}

async fn refusal_at(url: &str) -> String {
    let store = RedisStore::open(&RedisSettings::from_url(url).unwrap(), Recorder::new(), Clock::System).unwrap();
    let key = MarkerKey::logout(&subject("a"));
    eventually("it is refused", async || matches!(store.read(&key).await, Err(StoreError::Refused { .. }))).await;
    let errors = [store.read(&key).await.map(drop), store.report().await.map(drop)];
    let shown = format!("{store:?} {errors:?} {}", errors[0].clone().unwrap_err());
    store.close().await;
    shown
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_shown() {
    let Some(server) = RedisServer::start_with(&["--requirepass", "s3cret"]) else { return };
    let port = server.port();
    let shown = refusal_at(&format!("redis://:hunter2@127.0.0.1:{port}/")).await;
    assert!(shown.contains("check user and password") && !shown.contains("hunter2"), "{shown}");
    let shown = refusal_at(&format!("redis://nobody:hunter2@127.0.0.1:{port}/")).await;
    assert!(shown.contains("check user and password") && !shown.contains("hunter2"), "{shown}");
    let shown = refusal_at(&server.url()).await;
    assert!(shown.contains("password"), "{shown}");

    let watcher = Recorder::new();
    let store = open_redis(&format!("redis://:s3cret@127.0.0.1:{port}/0"), &watcher).await;
    let report = store.report().await.unwrap();
    assert!(report.description.ends_with(&format!("at 127.0.0.1:{port}/0")), "{report:?}");
    assert!(!format!("{store:?} {report:?}").contains("s3cret"));
}

#[test]
fn settings_are_checked_and_never_shown() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let good = RedisSettings::from_url("redis://:hunter2@127.0.0.1:1/").unwrap();
    assert!(!format!("{good:?}").contains("hunter2"));
    let open = |settings: RedisSettings| {
        let error = RedisStore::open(&settings, Recorder::new(), Clock::System).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hunter2"));
        error
    };
    for url in ["", "http://:hunter2@x/", "redis://:hunter2@/", "redis://u:hunter2@x:port/", "redis://u:hunter2@x/db"] {
        let error = RedisSettings::from_url(url).unwrap_err();
        assert!(matches!(error, InvalidRedisSettings::Url(_)), "{url}");
        assert!(!format!("{error:?} {error}").contains("hunter2"));
    }
    assert_eq!(open(RedisSettings { prefix: "a b".to_owned(), ..good.clone() }), InvalidRedisSettings::Prefix);
    assert_eq!(open(RedisSettings { heartbeat: Duration::ZERO, ..good }), InvalidRedisSettings::Zero);
}

#[tokio::test]
async fn a_unix_socket_will_do() {
    let Some(server) = RedisServer::start() else { return };
    let watcher = Recorder::new();
    let store = open_redis(&server.unix_url(), &watcher).await;
    let key = MarkerKey::logout(&subject("a"));
    store.merge(&key, &logout(time(1)), None).await.unwrap();
    assert_eq!(store.read(&key).await.unwrap(), Reading::Present(logout(time(1))));
}

#[tokio::test]
async fn a_server_without_tls_is_unavailable_to_a_tls_url() {
    let Some(server) = RedisServer::start() else { return };
    let url = server.url().replace("redis://", "rediss://");
    let store = RedisStore::open(&RedisSettings::from_url(&url).unwrap(), Recorder::new(), Clock::System).unwrap();
    let reason = async || store.read(&MarkerKey::logout(&subject("a"))).await.unwrap_err();
    eventually("the attempt fails", async || {
        matches!(reason().await, StoreError::Unavailable { source, .. } if source.to_string() != "not connected yet")
    })
    .await;
}
