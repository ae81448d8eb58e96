//! Admitted requests leave a trace: seldom, soon, truthfully.

use http::StatusCode;
use portcullis::{activity::Recording, clock::Timestamp};
use serde_json::json;

use super::on_both_stores;
use crate::support::{
    eventually,
    full::{Backing, Gate, World, now},
};

on_both_stores!(
    a_thousand_requests_cost_one_write_per_subject,
    each_resolution_is_written_once,
    a_stop_writes_what_waits,
    only_the_admitted_are_active,
    upkeep_runs_with_the_gate,
);

const ALICE: &str = "auth0|alice";

/// When the store itself says that the subject was active.
fn stored(world: &World, sub: &str) -> Option<Timestamp> {
    let millis = match &world.store {
        Backing::Embedded(directory) => {
            let database = rusqlite::Connection::open(directory.path().join("portcullis.db")).unwrap();
            database.query_row("SELECT seen FROM activity WHERE subject = ?1", [sub], |row| row.get(0)).ok()
        }
        Backing::Redis(_) | Backing::Url(_) => (0..64).find_map(|shard| {
            let score: Option<f64> = world.command(&["ZSCORE", &format!("portcullis:seen:acme:{shard:02}"), sub]);
            #[expect(clippy::cast_possible_truncation, reason = "a time in milliseconds")]
            score.map(|score| score as i64)
        }),
    };
    millis.map(Timestamp::from_millis)
}

async fn written(gate: &Gate) -> f64 {
    gate.metric("portcullis_activity_written_total").await
}

/// How many members Redis was asked to add to sorted sets.
fn redis_writes(world: &World) -> Option<u64> {
    if let Backing::Embedded(_) = world.store {
        return None;
    }
    let stats: String = world.command(&["INFO", "commandstats"]);
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_zadd:calls="));
    Some(calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap()))
}

async fn a_thousand_requests_cost_one_write_per_subject(world: World) {
    let gate = world.gate().with("ACTIVITY_FLUSH_INTERVAL", "20ms").start().await;
    let tokens: Vec<(usize, String)> =
        (0..10).map(|id| (id, world.token(&format!("auth0|{}", id % 5), json!({"jti": id.to_string()})))).collect();
    let begun = now();
    futures_util::future::join_all(tokens.iter().map(|(id, token)| {
        let gate = &gate;
        async move {
            for _ in 0..100 {
                assert_eq!(gate.verdict(token).await, "admit", "{id}");
            }
        }
    }))
    .await;
    eventually("all subjects are written", async || written(&gate).await > 4.5).await;
    let ended = now();
    for id in 0..5 {
        let sub = format!("auth0|{id}");
        let shown = gate.look_up(&sub).await["last_activity"].as_str().unwrap().parse().unwrap();
        assert!((begun..=ended).contains(&shown), "{shown} is not within {begun} and {ended}");
        assert_eq!(stored(&world, &sub), Some(shown));
    }
    // More requests within the resolution, and enough time for flushes that would write them.
    for (_, token) in &tokens {
        gate.expect(token, "admit").await;
    }
    gate.instance.stop().await;
    if let Some(writes) = redis_writes(&world) {
        assert!(writes <= 5, "{writes} writes for 5 subjects");
    }
}

async fn each_resolution_is_written_once(world: World) {
    let gate = world.gate().with("ACTIVITY_RESOLUTION", "1s").with("ACTIVITY_FLUSH_INTERVAL", "20ms").start().await;
    let token = world.token(ALICE, json!({}));
    let begun = now();
    let mut last = None;
    eventually("three writes", async || {
        gate.expect(&token, "admit").await;
        let seen = stored(&world, ALICE);
        assert!(seen >= last, "activity went back from {last:?} to {seen:?}");
        assert!(seen.is_none_or(|seen| seen <= now()), "activity of the future");
        last = seen;
        written(&gate).await > 2.5
    })
    .await;
    let took = now().since(begun).as_millis();
    assert!(took >= 2000, "three writes in {took} ms");
    assert!(last.is_some_and(|last| now().since(last).as_millis() < 2000), "older than resolution and flush together");
}

async fn a_stop_writes_what_waits(world: World) {
    let gate = world.gate().with("ACTIVITY_FLUSH_INTERVAL", "1m").start().await;
    let begun = now();
    // The first flush comes at the start.
    eventually("alice is active", async || {
        gate.expect(&world.token(ALICE, json!({})), "admit").await;
        true
    })
    .await;
    for id in 0..30 {
        gate.expect(&world.token(&format!("auth0|{id}"), json!({})), "admit").await;
    }
    let shown: Timestamp = gate.look_up("auth0|29").await["last_activity"].as_str().unwrap().parse().unwrap();
    assert_eq!(stored(&world, "auth0|29"), None, "what waits is shown, and not yet written");
    assert!(gate.instance.stop().await, "nothing had to be cut off");
    for id in 0..30 {
        let seen = stored(&world, &format!("auth0|{id}")).expect("written by the stop");
        assert!((begun..=now()).contains(&seen));
    }
    assert_eq!(stored(&world, "auth0|29"), Some(shown));
}

async fn only_the_admitted_are_active(world: World) {
    let gate = world.gate().with("ACTIVITY_FLUSH_INTERVAL", "20ms").start().await;
    gate.change(http::Method::PUT, "/v1/subjects/acme/auth0%7Calice/block", json!(null)).await;
    gate.expect(&world.token(ALICE, json!({})), "user_blocked").await;
    gate.expect(&world.token("auth0|expired", json!({"exp": now().as_secs() - 10})), "token_expired").await;
    let explained =
        gate.admin(http::Method::POST, "/v1/explain", json!({"token": world.token("auth0|explained", json!({}))}));
    assert_eq!(explained.await.status, StatusCode::OK);
    gate.expect(&world.token("auth0|bob", json!({})), "admit").await;
    eventually("bob is active", async || stored(&world, "auth0|bob").is_some()).await;
    for sub in [ALICE, "auth0|expired", "auth0|explained"] {
        assert_eq!(gate.look_up(sub).await["last_activity"], json!(null), "{sub}");
        assert_eq!(stored(&world, sub), None, "{sub}");
    }
}

/// Since when activity is recorded, as it is noted.
fn recording(world: &World) -> Option<Recording> {
    let note: Option<String> = match &world.store {
        Backing::Embedded(directory) => {
            let database = rusqlite::Connection::open(directory.path().join("portcullis.db")).unwrap();
            let select = "SELECT value FROM notes WHERE name = 'recording:acme'";
            database.query_row(select, [], |row| row.get(0)).ok()
        }
        Backing::Redis(_) | Backing::Url(_) => world.command(&["GET", "portcullis:n:note:recording:acme"]),
    };
    note.map(|note| Recording::decode(&note).unwrap())
}

async fn upkeep_runs_with_the_gate(world: World) {
    let begun = now();
    let gate = world.gate().with("ACTIVITY_FLUSH_INTERVAL", "20ms").with("ACTIVITY_RETENTION", "1d").start().await;
    eventually("it is noted", async || recording(&world).is_some()).await;
    let first = recording(&world).unwrap();
    assert!((begun..=now()).contains(&first.since), "{first:?}");
    gate.expect(&world.token("auth0|bob", json!({})), "admit").await;
    eventually("bob is active", async || stored(&world, "auth0|bob").is_some()).await;
    assert!(gate.instance.stop().await);

    // Of somebody who was last seen two days ago.
    let (ago, old) = (now().as_millis() - 2 * 86_400_000, "auth0|old");
    match &world.store {
        Backing::Embedded(directory) => {
            let database = rusqlite::Connection::open(directory.path().join("portcullis.db")).unwrap();
            database.execute("INSERT INTO activity VALUES ('acme', ?1, ?2)", (old, ago)).unwrap();
        }
        Backing::Redis(_) | Backing::Url(_) => {
            world.command::<()>(&["ZADD", "portcullis:seen:acme:00", &ago.to_string(), old]);
        }
    }
    let gate = world.gate().with("ACTIVITY_RETENTION", "1d").start().await;
    eventually("who is old is forgotten", async || stored(&world, old).is_none()).await;
    assert!(stored(&world, "auth0|bob").is_some(), "who is not stays");
    eventually("it is noted again", async || recording(&world).unwrap().last > first.last).await;
    assert_eq!(recording(&world).unwrap().since, first.since, "a restart is no gap");
    assert!(gate.instance.stop().await);
}
