//! `docs/markers.md` is held to: its examples are run as they stand.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use portcullis::{
    clock::Clock,
    marker::{Block, Kind, Marker, MarkerKey, MarkerRecord, Reading, Unreadable},
    session::SessionKey,
    store::{
        Notes, Sessions, Store, StoreError,
        redis::{RedisSettings, RedisStore},
        sessions::{MAX_SESSIONS, Opening},
    },
};

use super::{
    block, logout, open_redis, subject,
    suite::{activity::index_works, notes::notes_work, sessions::sessions_work},
    time,
};
use crate::support::{eventually, redis::RedisServer, watcher::Recorder};

const PAGE: &str = include_str!("../../../docs/markers.md");

/// The contents of all fences of this kind.
fn fences(kind: &str) -> Vec<&'static str> {
    let opening = format!("```{kind}\n");
    PAGE.split(&opening).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// Commands with the output that the page promises for each.
fn examples() -> Vec<(&'static str, String)> {
    let mut examples: Vec<(&str, String)> = Vec::new();
    for line in fences("sh").into_iter().flat_map(str::lines) {
        match line.strip_prefix("# ") {
            Some(output) => examples.last_mut().expect("a command before its output").1 += output,
            None => examples.push((line, String::new())),
        }
    }
    examples
}

/// What a shell prints for a command of the page.
fn run(server: &RedisServer, command: &str) -> String {
    let script = match command.strip_prefix("redis-cli ") {
        Some(arguments) => format!("redis-cli -h 127.0.0.1 -p {} {arguments}", server.port()),
        None => command.to_owned(),
    };
    let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// The key that a name on the page is of.
fn marker_key(name: &str) -> MarkerKey {
    let mut parts = name.strip_prefix("portcullis:m:").expect("the prefix").splitn(3, ':');
    let kind = parts.next().unwrap();
    let issuer = parts.next().unwrap().try_into().unwrap();
    let id = parts.next().unwrap_or("none");
    match Kind::ALL.into_iter().find(|each| each.as_str() == kind).expect("a kind") {
        Kind::Logout => MarkerKey::logout(&subject(id)),
        Kind::Block => MarkerKey::block(&subject(id)),
        Kind::Session => MarkerKey::session(&issuer, &id.try_into().unwrap()),
        Kind::Token => MarkerKey::token(&issuer, &id.try_into().unwrap()),
        Kind::Client => MarkerKey::client(&issuer, &id.try_into().unwrap()),
        Kind::Issuer => MarkerKey::issuer(&issuer),
    }
}

#[tokio::test]
async fn the_examples_are_markers_and_are_pushed() {
    let Some(server) = RedisServer::start() else { return };
    let watcher = Recorder::new();
    let store = open_redis(&server.url(), &watcher).await;
    let mut kinds = Vec::new();
    for (command, expected) in examples() {
        watcher.forget();
        assert_eq!(run(&server, command), expected, "{command}");
        let Some(rest) = command.strip_prefix("redis-cli SET '") else { continue };
        let key = marker_key(rest.split('\'').next().unwrap());
        assert!(matches!(store.read(&key).await.unwrap(), Reading::Present(_)), "{command}");
        eventually(command, async || watcher.was_told_of(key.as_str())).await;
        kinds.push(key.kind());
    }
    for kind in Kind::ALL {
        assert!(kinds.contains(&kind), "no example of {kind:?}");
    }
    assert_eq!(store.last_activity(&subject("auth0|123")).await.unwrap(), Some(time(123)));
}

#[tokio::test]
async fn the_examples_say_what_the_page_says_they_do() {
    let Some(server) = RedisServer::start() else { return };
    let store = open_redis(&server.url(), &Recorder::new()).await;
    for (command, _) in examples() {
        run(&server, command);
    }
    let until = "2099-01-01T00:00:00Z".parse().unwrap();
    let timed = Marker::Block(Block { blocked: true, at: time(123), until: Some(until) });
    let read = async |id| store.read(&MarkerKey::block(&subject(id))).await.unwrap().present().unwrap();
    assert_eq!(read("auth0|456").await, MarkerRecord::new(timed));
    assert_eq!(read("auth0|123").await, MarkerRecord { by: Some("help desk".to_owned()), ..block(time(456), false) });
}

#[test]
fn what_the_page_calls_unreadable_is() {
    let values: Vec<_> = fences("text").into_iter().flat_map(str::lines).collect();
    assert!(values.len() > 5);
    for value in values {
        for kind in Kind::ALL {
            assert_eq!(MarkerRecord::decode(kind, value.as_bytes()), Err(Unreadable), "{value}");
        }
    }
}

/// The example that makes a user, and a URL for it.
fn gateway_user(server: &RedisServer) -> (String, String) {
    let (line, _) = examples().into_iter().find(|(line, _)| line.contains("SETUSER gateway")).unwrap();
    (line.to_owned(), format!("redis://gateway:correct%20horse@127.0.0.1:{}/", server.port()))
}

#[tokio::test]
async fn the_documented_user_may_do_all_that_a_gateway_does() {
    let Some(server) = RedisServer::start_with(&["--appendonly", "yes"]) else { return };
    let (line, url) = gateway_user(&server);
    run(&server, &line);
    let watcher = Recorder::new();
    let store = open_redis(&url, &watcher).await;
    let key = MarkerKey::logout(&subject("a"));
    store.merge(&key, &logout(time(1)), None).await.unwrap();
    store.merge(&key, &logout(time(2)), Some(super::now().plus(Duration::from_secs(60)))).await.unwrap();
    assert_eq!(store.read(&key).await.unwrap(), Reading::Present(logout(time(2))));
    store.record_activity(&[(subject("a"), time(1))]).await.unwrap();
    assert_eq!(store.last_activity(&subject("a")).await.unwrap(), Some(time(1)));
    store.forget_activity(&[(subject("a"), time(1))]).await.unwrap();
    assert_eq!(store.last_activity(&subject("a")).await.unwrap(), None);
    index_works(&*store, "index").await.unwrap();
    notes_work(&*store, "logs").await.unwrap();
    sessions_work(&*store, "logs").await.unwrap();
    assert_eq!(store.report().await.unwrap().warnings, [""; 0]);
    watcher.forget();
    run(&server, "redis-cli DEL portcullis:m:logout:acme:a");
    eventually("it is pushed", async || watcher.was_told_of(key.as_str())).await;
}

#[tokio::test]
async fn what_may_not_be_checked_is_told() {
    let Some(server) = RedisServer::start() else { return };
    let (line, url) = gateway_user(&server);
    run(&server, &line.replace(" +config\\|get", "").replace(" +time", ""));
    let warnings = open_redis(&url, &Recorder::new()).await.report().await.unwrap().warnings;
    assert!(
        warnings.len() == 2 && warnings.iter().all(|warning| warning.contains("could not be checked")),
        "{warnings:?}"
    );
    run(&server, &line.replace(" +info", ""));
    let warnings = open_redis(&url, &Recorder::new()).await.report().await.unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("could not be checked"), "{warnings:?}");
}

#[tokio::test]
async fn a_lacking_permission_is_named() {
    let Some(server) = RedisServer::start() else { return };
    let (line, url) = gateway_user(&server);
    run(&server, &line.replace(" +client\\|tracking", ""));
    let settings = RedisSettings::from_url(&url).unwrap();
    let store = RedisStore::open(&settings, Recorder::new(), Clock::System).unwrap();
    let key = MarkerKey::logout(&subject("a"));
    eventually("it is refused", async || match store.read(&key).await {
        Err(error) => error.to_string().contains("NOPERM") && error.to_string().contains("docs/markers.md"),
        Ok(_) => panic!("read without tracking"),
    })
    .await;
}

/// Whether everything that a gateway does works with this user, and the server can be checked.
async fn serves(server: &RedisServer, url: &str, patience: Duration) -> bool {
    let replica_timeout = Duration::from_millis(20);
    let settings = RedisSettings { replicas: 1, replica_timeout, ..RedisSettings::from_url(url).unwrap() };
    let store = RedisStore::open(&settings, Recorder::new(), Clock::System).unwrap();
    let (key, nobody) = (MarkerKey::logout(&subject("a")), MarkerKey::logout(&subject("nobody")));
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let _: String = server.ask(&["SCRIPT", "FLUSH"]).unwrap();
        let known = store.lacks(&nobody) && matches!(store.read(&key).await, Ok(Reading::Present(_)));
        let written = !matches!(
            store.merge(&key, &logout(super::now()), None).await,
            Err(StoreError::Unavailable { .. } | StoreError::Refused { .. })
        );
        let again = store.merge(&key, &logout(super::now()), None).await;
        let active = store.record_activity(&[(subject("a"), time(1))]).await.is_ok()
            && store.last_activity(&subject("a")).await.is_ok()
            && store.forget_activity(&[(subject("a"), time(1))]).await.is_ok()
            && index_works(&*store, "index").await.is_ok();
        let noted = noted(&store).await && keeps_sessions(&store).await;
        let warnings = store.report().await.map(|report| report.warnings).unwrap_or_default();
        let checked = matches!(&warnings[..], [disk, replicas]
            if disk.starts_with("nothing is written to disk") && replicas.starts_with("0 of 1 replicas"));
        if known && written && matches!(again, Err(StoreError::NotReplicated { .. })) && active && noted && checked {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

/// Whether all is permitted that a gateway does with notes. No replica has the jobs.
async fn noted(store: &RedisStore) -> bool {
    let jobs = store.put_jobs("a", &[("a".to_owned(), "1".to_owned())]).await;
    if !matches!(jobs, Err(StoreError::NotReplicated { .. })) {
        return false;
    }
    let done = async {
        store.remember("a", &[[1; 16]], 10).await?;
        store.seen("a", &[[1; 16]]).await?;
        store.swap_note("a", None, Some("1")).await?;
        store.swap_note("a", Some("1"), None).await?;
        store.note("a").await?;
        store.lease("a", "me", Duration::from_secs(60)).await?;
        store.release("a", "me").await?;
        store.leader("a").await?;
        store.jobs("a", 10).await?;
        store.remove_jobs("a", &["a".to_owned()]).await?;
        store.add_members(&[("a".to_owned(), "1".to_owned())], Duration::from_secs(60)).await?;
        store.members("a").await?;
        store.remove_set("a").await
    };
    done.await.is_ok()
}

/// Whether all is permitted that a gateway does with sessions.
async fn keeps_sessions(store: &RedisStore) -> bool {
    let now = super::now();
    let id = format!("s{}", now.as_millis());
    let opening = Opening {
        key: SessionKey { subject: subject("crowd"), id: (&*id).try_into().unwrap() },
        started: now,
        told: false,
        at: now,
        until: now.plus(Duration::from_secs(200_000)),
        limits: "v1".into(),
        client: None,
        gateway: "one".into(),
    };
    let done = async {
        // There are too many already, so that some have to go.
        store.open_session(&opening).await?;
        store.session(&opening.key).await?;
        store.record_session_activity(&[(opening.key.clone(), now)], Duration::from_secs(1)).await?;
        store.sessions_of(&opening.key.subject, None, 10).await?;
        store.forget_idle_sessions(&opening.key.subject.issuer, now.plus(Duration::from_secs(1))).await?;
        store.keep_limits("v1", "{}").await?;
        store.limits("v1").await
    };
    done.await.is_ok()
}

/// As many sessions of one subject as there may be.
fn crowd(server: &RedisServer) {
    let mut fields = ::redis::cmd("HSET");
    fields.arg("portcullis:sessions:acme:crowd");
    for number in 0..MAX_SESSIONS {
        fields.arg(number).arg(format!("{} 0 100000000 v1", super::now().as_millis()));
        fields.arg(format!("\u{1}{number}")).arg("\none");
    }
    fields.exec(&mut server.client()).unwrap();
}

/// Nothing less would do.
#[tokio::test]
async fn each_permission_of_the_documented_user_is_needed() {
    let Some(server) = RedisServer::start() else { return };
    let (line, url) = gateway_user(&server);
    let line = format!("{line} +wait");
    run(&server, &line);
    crowd(&server);
    assert!(serves(&server, &url, Duration::from_secs(10)).await, "with all of them it works");
    let words: Vec<&str> = line.split(' ').collect();
    for (at, word) in words.iter().enumerate() {
        let permission = word.trim_matches(['\'', '(', ')']);
        if !permission.starts_with(['+', '~']) {
            continue;
        }
        let without = word.replace(permission, "");
        let line = [&words[..at], &[&*without], &words[at + 1..]].concat().join(" ");
        assert_eq!(run(&server, &line), "OK", "{line}");
        crowd(&server);
        assert!(!serves(&server, &url, Duration::from_millis(700)).await, "{permission} is not needed, number {at}");
    }
}

/// And it can do nothing else.
#[tokio::test]
async fn the_documented_user_may_do_nothing_else() {
    let Some(server) = RedisServer::start() else { return };
    run(&server, &gateway_user(&server).0);
    let may = |command: &[&str]| -> bool {
        let answer: String = server.ask(&[&["ACL", "DRYRUN", "gateway"], command].concat()).unwrap();
        answer == "OK"
    };
    assert!(may(&["GET", "portcullis:m:issuer:acme"]) && may(&["ZSCORE", "portcullis:seen:acme:00", "a"]));
    assert!(may(&["DEL", "portcullis:n:set:a"]) && may(&["ZRANGE", "portcullis:n:seen:logs", "0", "-1"]));
    assert!(may(&["HGETALL", "portcullis:sessions:acme:a"]) && may(&["ZSCORE", "portcullis:active:acme:00", "a"]));
    assert!(may(&["ZRANGE", "portcullis:seen:acme:00", "0", "-1"]) && may(&["ZCARD", "portcullis:seen:acme:00"]));
    let others: [&[&str]; 21] = [
        &["GET", "secret"],
        &["SET", "portcullis:other", "1"],
        &["EVAL", "return 1", "1", "secret"],
        &["DEL", "portcullis:m:issuer:acme"],
        &["KEYS", "*"],
        &["FLUSHALL"],
        &["CONFIG", "SET", "maxmemory", "1"],
        &["CLIENT", "KILL", "TYPE", "normal"],
        &["ACL", "LIST"],
        &["MONITOR"],
        &["SHUTDOWN"],
        &["REPLICAOF", "NO", "ONE"],
        &["SUBSCRIBE", "channel"],
        &["ZRANGE", "portcullis:active:acme:00", "0", "-1"],
        &["DEL", "portcullis:seen:acme:00"],
        &["HGETALL", "portcullis:n:jobs:a"],
        &["SADD", "portcullis:m:issuer:acme", "a"],
        &["DEL", "portcullis:sessions:acme:a"],
        &["HSET", "portcullis:m:issuer:acme", "a", "1"],
        &["PEXPIREAT", "portcullis:m:issuer:acme", "1"],
        &["ZADD", "portcullis:m:issuer:acme", "1", "a"],
    ];
    for command in others {
        assert!(!may(command), "{command:?}");
    }
}
