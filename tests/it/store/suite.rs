//! What every store promises.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis::{
    marker::{Block, Kind, Logout, Marker, MarkerClock, MarkerKey, MarkerRecord, Reading},
    store::{Merged, Store, StoreError},
    token::claims::Subject,
};
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::runtime::Runtime;

use super::{Bench, block, logout, now, subject, time};
use crate::support::eventually;

macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Bench::embedded()).await;
            })*
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(bench) = super::Bench::redis().await {
                    super::$name(bench).await;
                }
            })*
        }
    };
}

pub(super) mod activity;
pub(super) mod notes;
pub(super) mod sessions;
mod upkeep;

suite![
    an_unknown_key_is_absent,
    every_kind_survives_the_round_trip,
    the_merge_rule_holds_in_both_orders_and_for_duplicates,
    a_tombstone_stops_an_older_block,
    an_expired_marker_is_absent_and_the_watcher_is_told,
    a_marker_that_has_expired_already_is_absent,
    an_extreme_expiry_is_accepted,
    unreadable_values_read_so_and_are_replaced_by_a_merge,
    foreign_spellings_are_read,
    a_record_that_nobody_could_read_is_refused,
    the_watcher_is_told_when_it_is_stored_and_before_the_acknowledgement,
    an_unchanged_merge_tells_nobody,
    concurrent_merges_lose_nothing,
    activity_never_goes_back,
    large_activity_batches_are_recorded,
    ids_are_verbatim,
    the_report_says_what_it_is,
    after_close_everything_is_unavailable,
];

async fn merge(bench: &Bench, key: &MarkerKey, record: &MarkerRecord) -> Merged {
    bench.store.merge(key, record, None).await.unwrap()
}

async fn present(bench: &Bench, key: &MarkerKey) -> MarkerRecord {
    bench.store.read(key).await.unwrap().present().expect("a marker")
}

async fn an_unknown_key_is_absent(bench: Bench) {
    assert_eq!(bench.store.read(&MarkerKey::logout(&subject("nobody"))).await.unwrap(), Reading::Absent);
    assert_eq!(bench.store.last_activity(&subject("nobody")).await.unwrap(), None);
}

fn one_of_each_kind() -> Vec<(MarkerKey, MarkerRecord)> {
    let issuer = "acme".try_into().unwrap();
    let blocked = Marker::Block(Block { blocked: true, at: time(2), until: Some(time(90_000)) });
    vec![
        (MarkerKey::logout(&subject("a")), logout(time(1))),
        (
            MarkerKey::block(&subject("a")),
            MarkerRecord {
                marker: blocked,
                by: Some("ops".to_owned()),
                reason: Some("\"stolen\"\nünïcode".to_owned()),
                written: Some(time(7)),
                source: Some("help desk".to_owned()),
            },
        ),
        (MarkerKey::session(&issuer, &"s".try_into().unwrap()), MarkerRecord::new(Marker::SessionEnd(time(3)))),
        (MarkerKey::token(&issuer, &"j".try_into().unwrap()), MarkerRecord::new(Marker::TokenRevoked(time(4)))),
        (MarkerKey::client(&issuer, &"c".try_into().unwrap()), MarkerRecord::new(Marker::NotBefore(time(5)))),
        (MarkerKey::issuer(&issuer), MarkerRecord::new(Marker::NotBefore(time(6)))),
    ]
}

async fn every_kind_survives_the_round_trip(bench: Bench) {
    let markers = one_of_each_kind();
    assert_eq!(markers.len(), Kind::ALL.len());
    for (key, record) in &markers {
        assert_eq!(merge(&bench, key, record).await, Merged { record: record.clone(), changed: true });
    }
    for (key, record) in &markers {
        assert_eq!(present(&bench, key).await, *record, "{key:?}");
    }
}

async fn the_merge_rule_holds_in_both_orders_and_for_duplicates(bench: Bench) {
    let issuer = "acme".try_into().unwrap();
    let end = |millis| MarkerRecord::new(Marker::SessionEnd(time(millis)));
    let session = |id: &str| MarkerKey::session(&issuer, &id.try_into().unwrap());
    let logged_out = |id: &str| MarkerKey::logout(&subject(id));
    let cases = [
        (logged_out("1"), [logout(time(1)), logout(time(2))], logout(time(2))),
        (logged_out("2"), [logout(time(2)), logout(time(1))], logout(time(2))),
        (session("1"), [end(1), end(2)], end(1)),
        (session("2"), [end(2), end(1)], end(1)),
    ];
    for (key, written, expected) in cases {
        for record in written.iter().chain(&written) {
            let merged = merge(&bench, &key, record).await;
            assert_eq!(merged.record, present(&bench, &key).await, "the answer is what is stored");
        }
        assert_eq!(present(&bench, &key).await, expected);
    }
}

async fn a_tombstone_stops_an_older_block(bench: Bench) {
    let key = MarkerKey::block(&subject("a"));
    merge(&bench, &key, &block(time(10), true)).await;
    merge(&bench, &key, &block(time(20), false)).await;
    let late = merge(&bench, &key, &block(time(15), true)).await;
    assert_eq!(late, Merged { record: block(time(20), false), changed: false });
    assert_eq!(present(&bench, &key).await, block(time(20), false));
    assert!(merge(&bench, &key, &block(time(30), true)).await.changed);
}

async fn an_expired_marker_is_absent_and_the_watcher_is_told(bench: Bench) {
    let key = MarkerKey::logout(&subject("a"));
    let record = logout(time(1));
    let expires = now().plus(Duration::from_millis(700));
    bench.store.merge(&key, &record, Some(expires)).await.unwrap();
    assert_eq!(present(&bench, &key).await, record);
    bench.watcher.forget();
    eventually("it expires", async || bench.store.read(&key).await.unwrap() == Reading::Absent).await;
    assert!(now() >= expires.minus(Duration::from_millis(5)), "it expired early");
    eventually("the watcher is told", async || bench.watcher.was_told_of(key.as_str())).await;
    let later = merge(&bench, &key, &logout(time(0))).await;
    assert_eq!(later, Merged { record: logout(time(0)), changed: true }, "what has expired merges with nothing");
}

async fn a_marker_that_has_expired_already_is_absent(bench: Bench) {
    for (id, expires) in [("a", time(0)), ("b", portcullis::clock::Timestamp::MIN)] {
        let key = MarkerKey::logout(&subject(id));
        bench.store.merge(&key, &logout(time(1)), Some(expires)).await.unwrap();
        assert_eq!(bench.store.read(&key).await.unwrap(), Reading::Absent);
    }
}

async fn an_extreme_expiry_is_accepted(bench: Bench) {
    let key = MarkerKey::logout(&subject("a"));
    bench.store.merge(&key, &logout(time(1)), Some(portcullis::clock::Timestamp::MAX)).await.unwrap();
    assert_eq!(present(&bench, &key).await, logout(time(1)));
}

async fn unreadable_values_read_so_and_are_replaced_by_a_merge(bench: Bench) {
    let long = format!(r#"{{"at":1763700000123,"reason":"{}"}}"#, "x".repeat(4096));
    let values: [&[u8]; 9] = [
        b"",
        b"yes",
        b"1763700000",
        b"\xff\xfe",
        br#"{"at":1763700000}"#,
        br#"{"when":1763700000123}"#,
        br#"{"at":1763700000123"#,
        br#"["at"]"#,
        long.as_bytes(),
    ];
    for (number, value) in values.iter().enumerate() {
        let key = MarkerKey::logout(&subject(&number.to_string()));
        bench.plant(&key, value);
        assert_eq!(bench.store.read(&key).await.unwrap(), Reading::Unreadable, "value {number}");
        assert_eq!(merge(&bench, &key, &logout(time(1))).await, Merged { record: logout(time(1)), changed: true });
        assert_eq!(present(&bench, &key).await, logout(time(1)), "value {number}");
    }
}

async fn foreign_spellings_are_read(bench: Bench) {
    let gateway = |millis| MarkerRecord::new(Marker::Logout(Logout { at: time(millis), clock: MarkerClock::Gateway }));
    let key = MarkerKey::logout(&subject("a"));
    for value in ["1763700000123", "1763700000123\n", r#"{"at":"2025-11-21T04:40:00.123Z","unknown":1}"#] {
        bench.plant(&key, value.as_bytes());
        assert_eq!(present(&bench, &key).await, gateway(123), "{value}");
        assert!(!merge(&bench, &key, &gateway(123)).await.changed, "{value} says the same");
        assert_eq!(bench.peek()(key.as_str()).unwrap(), value.as_bytes(), "and is left alone");
    }
}

async fn a_record_that_nobody_could_read_is_refused(bench: Bench) {
    let key = MarkerKey::logout(&subject("a"));
    let seconds = logout(portcullis::clock::Timestamp::from_millis(1_763_700_000));
    let verbose = MarkerRecord { reason: Some("x".repeat(5000)), ..logout(time(1)) };
    for record in [seconds, verbose, block(time(1), true)] {
        let refused = bench.store.merge(&key, &record, None).await;
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    }
    assert_eq!(bench.store.read(&key).await.unwrap(), Reading::Absent);
}

async fn the_watcher_is_told_when_it_is_stored_and_before_the_acknowledgement(bench: Bench) {
    let peek = bench.peek();
    let early = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&early);
    bench.watcher.on_change(move |key| {
        if peek(key).is_none() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    for number in 0..50 {
        let key = MarkerKey::logout(&subject(&number.to_string()));
        merge(&bench, &key, &logout(time(1))).await;
        assert!(bench.watcher.was_told_of(key.as_str()), "marker {number} was acknowledged before the watcher knew");
    }
    assert_eq!(early.load(Ordering::SeqCst), 0, "told before it was stored");
}

async fn an_unchanged_merge_tells_nobody(bench: Bench) {
    let key = MarkerKey::logout(&subject("a"));
    merge(&bench, &key, &logout(time(2))).await;
    // A push of the first write may still be under way: the second key's comes after it.
    let marker = MarkerKey::logout(&subject("b"));
    bench.plant(&marker, b"1763700000123");
    if matches!(bench.home, super::Home::Server(_)) {
        eventually("the push arrives", async || bench.watcher.was_told_of(marker.as_str())).await;
    }
    bench.watcher.forget();
    assert!(!merge(&bench, &key, &logout(time(1))).await.changed);
    assert!(!bench.watcher.was_told_of(key.as_str()));
}

async fn concurrent_merges_lose_nothing(bench: Bench) {
    let key = MarkerKey::logout(&subject("a"));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..12 {
        let (store, key) = (Arc::clone(&bench.store), key.clone());
        tasks.spawn(async move { store.merge(&key, &logout(time((number * 7) % 12)), None).await });
    }
    while let Some(merged) = tasks.join_next().await {
        merged.unwrap().unwrap();
    }
    assert_eq!(present(&bench, &key).await, logout(time(11)));
}

async fn activity_never_goes_back(bench: Bench) {
    let (anna, bert) = (subject("anna"), subject("bert"));
    let record = async |batch: &[(Subject, i64)]| {
        let batch: Vec<_> = batch.iter().map(|(subject, millis)| (subject.clone(), time(*millis))).collect();
        bench.store.record_activity(&batch).await.unwrap();
    };
    record(&[(anna.clone(), 5), (bert.clone(), 1), (anna.clone(), 3)]).await;
    assert_eq!(bench.store.last_activity(&anna).await.unwrap(), Some(time(5)), "within one batch");
    record(&[(anna.clone(), 4), (bert.clone(), 2)]).await;
    assert_eq!(bench.store.last_activity(&anna).await.unwrap(), Some(time(5)));
    assert_eq!(bench.store.last_activity(&bert).await.unwrap(), Some(time(2)));
    record(&[]).await;
    let elsewhere = Subject { issuer: "other".try_into().unwrap(), id: anna.id.clone() };
    assert_eq!(bench.store.last_activity(&elsewhere).await.unwrap(), None);
}

async fn large_activity_batches_are_recorded(bench: Bench) {
    let batch: Vec<_> = (0..2500).map(|number| (subject(&format!("user-{number}")), time(number))).collect();
    bench.store.record_activity(&batch).await.unwrap();
    for (subject, seen) in batch.iter().step_by(499).chain(batch.last()) {
        assert_eq!(bench.store.last_activity(subject).await.unwrap(), Some(*seen), "{seen}");
    }
}

async fn ids_are_verbatim(bench: Bench) {
    let ids = ["auth0|1", "a:b:c", "a b", "100%", "%3A", "日本 🦀", "a\"b'c\\", "*?[x]", "{tag}", &"x".repeat(255)];
    for (number, id) in (0..).zip(ids) {
        let key = MarkerKey::logout(&subject(id));
        assert_eq!(bench.store.read(&key).await.unwrap(), Reading::Absent, "{id}");
        merge(&bench, &key, &logout(time(number))).await;
        assert!(bench.watcher.was_told_of(&format!("logout:acme:{id}")), "{id}");
        bench.store.record_activity(&[(subject(id), time(number))]).await.unwrap();
    }
    for (number, id) in (0..).zip(ids) {
        assert_eq!(present(&bench, &MarkerKey::logout(&subject(id))).await, logout(time(number)), "{id}");
        assert_eq!(bench.store.last_activity(&subject(id)).await.unwrap(), Some(time(number)), "{id}");
    }
}

async fn the_report_says_what_it_is(bench: Bench) {
    let report = bench.store.report().await.unwrap();
    let (product, warnings) = match bench.home {
        super::Home::Directory(_) => ("SQLite 3.", 0),
        super::Home::Server(_) => ("redis 7.", 1),
    };
    assert!(report.description.contains(product), "{report:?}");
    assert_eq!(report.warnings.len(), warnings, "{report:?}");
}

async fn after_close_everything_is_unavailable(bench: Bench) {
    let key = MarkerKey::logout(&subject("a"));
    merge(&bench, &key, &logout(time(1))).await;
    bench.store.close().await;
    bench.store.close().await;
    let unavailable = |error: StoreError| matches!(error, StoreError::Unavailable { .. });
    assert!(unavailable(bench.store.read(&key).await.unwrap_err()));
    assert!(unavailable(bench.store.merge(&key, &logout(time(2)), None).await.unwrap_err()));
    assert!(unavailable(bench.store.record_activity(&[(subject("a"), time(1))]).await.unwrap_err()));
    assert!(unavailable(bench.store.last_activity(&subject("a")).await.unwrap_err()));
    assert!(unavailable(bench.store.report().await.unwrap_err()));
}

/// Records about one key of some kind. Few different times, so that ties are common.
fn records() -> impl Strategy<Value = (Kind, Vec<MarkerRecord>)> {
    let by = prop::option::of("[a-c]");
    let parts = (0..4_i64, any::<bool>(), prop::option::of(0..3_i64), by, prop::option::of(0..3_i64));
    (prop::sample::select(&Kind::ALL[..]), prop::collection::vec(parts, 1..6)).prop_map(|(kind, parts)| {
        let record = |(at, flag, until, by, written): (i64, bool, Option<i64>, Option<String>, Option<i64>)| {
            let at = time(at);
            let marker = match kind {
                Kind::Logout => {
                    Marker::Logout(Logout { at, clock: if flag { MarkerClock::Issuer } else { MarkerClock::Gateway } })
                }
                Kind::Block => Marker::Block(Block { blocked: flag, at, until: until.map(time) }),
                Kind::Session => Marker::SessionEnd(at),
                Kind::Token => Marker::TokenRevoked(at),
                Kind::Client | Kind::Issuer => Marker::NotBefore(at),
            };
            MarkerRecord { by, written: written.map(time), ..MarkerRecord::new(marker) }
        };
        (kind, parts.into_iter().map(record).collect())
    })
}

/// A key that nobody else uses. (That of an issuer has its name for an id.)
fn unique_key(kind: Kind, number: usize) -> MarkerKey {
    let issuer = format!("i{number}").as_str().try_into().unwrap();
    let subject = Subject { issuer, id: "a".try_into().unwrap() };
    match kind {
        Kind::Logout => MarkerKey::logout(&subject),
        Kind::Block => MarkerKey::block(&subject),
        Kind::Session => MarkerKey::session(&subject.issuer, &"a".try_into().unwrap()),
        Kind::Token => MarkerKey::token(&subject.issuer, &"a".try_into().unwrap()),
        Kind::Client => MarkerKey::client(&subject.issuer, &"a".try_into().unwrap()),
        Kind::Issuer => MarkerKey::issuer(&subject.issuer),
    }
}

/// Whatever order and however often: the same record stays, and it is the one that the rule picks.
fn any_order_gives_what_the_rule_gives(runtime: &Runtime, store: &dyn Store) {
    let numbers = AtomicUsize::new(0);
    let shuffled = records().prop_flat_map(|(kind, records)| {
        let twice = [records.clone(), records.clone()].concat();
        (Just(kind), Just(records), Just(twice).prop_shuffle())
    });
    let mut runner = TestRunner::new(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() });
    runner
        .run(&shuffled, |(kind, records, written)| {
            let key = unique_key(kind, numbers.fetch_add(1, Ordering::SeqCst));
            let expected = records.into_iter().reduce(MarkerRecord::merge).unwrap();
            let stored = runtime.block_on(async {
                for record in &written {
                    store.merge(&key, record, None).await.unwrap();
                }
                store.read(&key).await.unwrap()
            });
            prop_assert_eq!(stored, Reading::Present(expected));
            Ok(())
        })
        .unwrap();
}

#[test]
fn any_order_gives_what_the_rule_gives_embedded() {
    let runtime = Runtime::new().unwrap();
    let bench = Bench::embedded();
    any_order_gives_what_the_rule_gives(&runtime, &*bench.store);
}

#[test]
fn any_order_gives_what_the_rule_gives_redis() {
    let runtime = Runtime::new().unwrap();
    if let Some(bench) = runtime.block_on(Bench::redis()) {
        any_order_gives_what_the_rule_gives(&runtime, &*bench.store);
    }
}
