//! Markers that have to be on replicas.

use std::time::{Duration, Instant};

use portcullis::{
    clock::{Clock, Timestamp},
    marker::{MarkerKey, Reading},
    store::{
        Notes, Store, StoreError,
        redis::{RedisSettings, RedisStore},
    },
};

use super::{logout, now, raw_key, subject, time};
use crate::support::{eventually, redis::RedisServer, watcher::Recorder};

/// For those who are told that they waited in vain.
const REPLICA_TIMEOUT: Duration = Duration::from_millis(300);

/// For those who are not: a replica may have to wait for its disk.
const LONG: Duration = Duration::from_secs(20);

/// A store that wants its markers on one replica, and waits for it for so long.
async fn open(server: &RedisServer, replica_timeout: Duration) -> std::sync::Arc<RedisStore> {
    let settings = RedisSettings { replicas: 1, replica_timeout, ..RedisSettings::from_url(&server.url()).unwrap() };
    let store = RedisStore::open(&settings, Recorder::new(), Clock::System).unwrap();
    eventually("the store is connected", async || store.report().await.is_ok()).await;
    store
}

async fn replica_of(primary: &RedisServer) -> RedisServer {
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &primary.port().to_string()]).unwrap();
    // An online replica is sent nothing before its first acknowledgement.
    eventually("the replica is in step", async || {
        let mut client = primary.client();
        redis::cmd("SET").arg("step").arg(1).exec(&mut client).unwrap();
        redis::cmd("WAIT").arg(1).arg(50).query::<u32>(&mut client).unwrap() == 1
    })
    .await;
    replica
}

fn options() -> [&'static str; 4] {
    ["--repl-diskless-sync-delay", "0", "--appendonly", "yes"]
}

#[tokio::test]
async fn a_marker_that_no_replica_has_is_not_acknowledged_but_holds() {
    let Some(primary) = RedisServer::start_with(&options()) else { return };
    let store = open(&primary, REPLICA_TIMEOUT).await;
    let warnings = store.report().await.unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.starts_with("0 of 1 replicas are connected")), "{warnings:?}");
    let key = MarkerKey::logout(&subject("a"));
    let expires = now().plus(Duration::from_secs(3600));
    for _ in 0..2 {
        let refused = store.merge(&key, &logout(time(1)), Some(expires)).await.unwrap_err();
        assert!(matches!(refused, StoreError::NotReplicated { wanted: 1, reached: 0, .. }), "{refused}");
    }
    assert_eq!(store.read(&key).await.unwrap(), Reading::Present(logout(time(1))));

    // What changes nothing is waited for all the same, and keeps its expiry.
    let replica = replica_of(&primary).await;
    let patient = open(&primary, LONG).await;
    let merged = patient.merge(&key, &logout(time(1)), Some(Timestamp::MAX)).await.unwrap();
    assert!(!merged.changed);
    assert_eq!(replica.ask::<String>(&["GET", &raw_key(&key)]).unwrap(), logout(time(1)).encode());
    assert_eq!(primary.ask::<i64>(&["PEXPIRETIME", &raw_key(&key)]).unwrap(), expires.as_millis());
    assert_eq!(store.report().await.unwrap().warnings, [""; 0]);
}

#[tokio::test]
async fn an_acknowledged_marker_is_on_the_replica() {
    let Some(primary) = RedisServer::start_with(&options()) else { return };
    let replica = replica_of(&primary).await;
    let store = open(&primary, LONG).await;
    for round in 0..200 {
        let key = MarkerKey::logout(&subject(&round.to_string()));
        store.merge(&key, &logout(time(round)), None).await.unwrap();
        // A replica takes in what it has acknowledged before it answers anything else.
        assert!(replica.ask::<bool>(&["EXISTS", &raw_key(&key)]).unwrap(), "round {round}");
    }
}

/// What is still to be done must not be lost; of other notes the latest may be.
#[tokio::test]
async fn jobs_are_waited_for_as_markers_are() {
    let Some(primary) = RedisServer::start_with(&options()) else { return };
    let store = open(&primary, REPLICA_TIMEOUT).await;
    let jobs = [("a".to_owned(), "1".to_owned())];
    let refused = store.put_jobs("revoke", &jobs).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotReplicated { wanted: 1, reached: 0, .. }), "{refused}");
    store.remember("logs", &[[1; 16]], 10).await.unwrap();
    let replica = replica_of(&primary).await;
    eventually("it is acknowledged", async || store.put_jobs("revoke", &jobs).await.is_ok()).await;
    assert_eq!(replica.ask::<String>(&["HGET", "portcullis:n:jobs:revoke", "a"]).unwrap(), "1");
}

/// One `WAIT` serves everyone: many writers at once are told in time, also that they were in vain.
#[tokio::test]
async fn many_writers_wait_for_a_silent_replica_together() {
    let Some(primary) = RedisServer::start_with(&options()) else { return };
    let replica = replica_of(&primary).await;
    let store = open(&primary, REPLICA_TIMEOUT).await;
    replica.stop();
    let begun = Instant::now();
    let writes = (0..100).map(|id| {
        let store = &store;
        async move { store.merge(&MarkerKey::logout(&subject(&id.to_string())), &logout(time(1)), None).await }
    });
    let answers = futures_util::future::join_all(writes).await;
    let took = begun.elapsed();
    for answer in answers {
        let refused = answer.unwrap_err();
        assert!(matches!(refused, StoreError::NotReplicated { reached: 0, .. }), "{refused:?}");
    }
    assert!(took < 10 * REPLICA_TIMEOUT, "{took:?} is as if each had waited for itself");

    replica.cont();
    eventually("markers are acknowledged again", async || {
        store.merge(&MarkerKey::logout(&subject("b")), &logout(time(2)), None).await.is_ok()
    })
    .await;
}
