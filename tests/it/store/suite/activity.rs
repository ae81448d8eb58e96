//! The index of activity: who has been inactive since when.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use portcullis::{
    clock::Timestamp,
    store::{ActivityCount, Seen, Store, StoreError},
    token::claims::{IssuerName, Subject, SubjectId},
};
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::runtime::Runtime;

use super::super::{Bench, Home, sqlite, subject, time};

suite![
    nobody_is_inactive_at_an_issuer_without_activity,
    many_of_the_same_moment_are_paged_evenly,
    pages_larger_than_a_bite_are_full,
    pages_are_in_order_however_subjects_are_spread,
    what_nobody_can_read_is_left_out,
    whoever_comes_back_is_no_longer_inactive,
    issuers_have_indexes_of_their_own,
    subjects_are_counted,
    many_are_looked_up_at_once,
    whoever_is_not_seen_for_long_is_forgotten,
    after_close_the_index_is_unavailable,
];

fn issuer(name: &str) -> IssuerName {
    name.try_into().unwrap()
}

fn acme() -> IssuerName {
    issuer("acme")
}

fn seen(at: Timestamp, id: &str) -> Seen {
    Seen { at, subject: id.try_into().unwrap() }
}

fn of(issuer: &IssuerName, id: &str) -> Subject {
    Subject { issuer: issuer.clone(), id: id.try_into().unwrap() }
}

/// All pages of this size, one after the other.
async fn pages(
    store: &dyn Store,
    issuer: &IssuerName,
    before: Timestamp,
    size: usize,
) -> Result<Vec<Vec<Seen>>, StoreError> {
    let mut pages = Vec::<Vec<Seen>>::new();
    loop {
        assert!(pages.len() < 1000, "pages without end");
        let after = pages.last().and_then(|page| page.last());
        let page = store.inactive(issuer, before, after, size).await?;
        if page.is_empty() {
            return Ok(pages);
        }
        pages.push(page);
    }
}

async fn everyone(store: &dyn Store, issuer: &IssuerName, before: Timestamp, size: usize) -> Vec<Seen> {
    pages(store, issuer, before, size).await.unwrap().concat()
}

/// Each method once, about an issuer of this name.
pub(in super::super) async fn index_works(store: &dyn Store, name: &str) -> Result<(), StoreError> {
    let issuer = issuer(name);
    let ids: Vec<_> = (0..200).map(|n| format!("user-{n:03}")).collect();
    let all: Vec<_> = (0..).zip(&ids).map(|(n, id)| seen(time(n / 20), id)).collect();
    let batch: Vec<_> = all.iter().map(|seen| (of(&issuer, seen.subject.as_str()), seen.at)).collect();
    store.record_activity(&batch).await?;
    let subjects: Vec<_> = all.iter().map(|seen| seen.subject.clone()).collect();
    let times: Vec<_> = all.iter().map(|seen| Some(seen.at)).collect();
    assert_eq!(store.last_activities(&issuer, &subjects).await?, times);
    assert_eq!(pages(store, &issuer, time(8), 70).await?.concat(), all[..160]);
    assert_eq!(store.count_activity(&issuer, time(8)).await?, ActivityCount { known: 200, inactive: 160 });
    store.forget_inactive(&issuer, time(5)).await?;
    assert_eq!(pages(store, &issuer, time(100), 70).await?.concat(), all[100..]);
    store.forget_inactive(&issuer, time(100)).await
}

async fn nobody_is_inactive_at_an_issuer_without_activity(bench: Bench) {
    let (store, acme) = (&*bench.store, acme());
    assert_eq!(store.inactive(&acme, Timestamp::MAX, None, 10).await.unwrap(), []);
    assert_eq!(store.count_activity(&acme, Timestamp::MAX).await.unwrap(), ActivityCount::default());
    assert_eq!(store.last_activities(&acme, &[]).await.unwrap(), []);
    assert_eq!(store.last_activities(&acme, &["a".try_into().unwrap()]).await.unwrap(), [None]);
    store.forget_inactive(&acme, Timestamp::MAX).await.unwrap();
    store.record_activity(&[(subject("a"), time(1))]).await.unwrap();
    for limits in [Timestamp::MIN, Timestamp::from_millis(0), time(1)] {
        assert_eq!(store.inactive(&acme, limits, None, 10).await.unwrap(), [], "before {limits}");
    }
    assert_eq!(store.inactive(&acme, Timestamp::MAX, None, 0).await.unwrap(), []);
    assert_eq!(store.inactive(&acme, time(2), None, usize::MAX).await.unwrap(), [seen(time(1), "a")]);
    assert_eq!(store.inactive(&acme, time(2), Some(&seen(time(2), "a")), 10).await.unwrap(), []);
    assert_eq!(store.inactive(&acme, time(2), Some(&seen(Timestamp::MAX, "a")), 10).await.unwrap(), []);
}

async fn fill(store: &dyn Store, count: usize, at: impl Fn(usize) -> Timestamp) -> Vec<Seen> {
    let batch: Vec<_> = (0..count).map(|n| (subject(&format!("auth0|{n:x}")), at(n))).collect();
    store.record_activity(&batch).await.unwrap();
    let mut all: Vec<_> = batch.into_iter().map(|(subject, at)| Seen { at, subject: subject.id }).collect();
    all.sort();
    all
}

async fn many_of_the_same_moment_are_paged_evenly(bench: Bench) {
    let all = fill(&*bench.store, 5000, |_| time(7)).await;
    for size in [333, 1000, 4999] {
        let pages = pages(&*bench.store, &acme(), time(8), size).await.unwrap();
        assert!(pages[..pages.len() - 1].iter().all(|page| page.len() == size), "all but the last are full");
        assert_eq!(pages.concat(), all);
    }
    assert_eq!(everyone(&*bench.store, &acme(), time(7), 1000).await, []);
    // From where nobody stands, or nobody any more.
    let behind = |id: &str| all.iter().filter(|seen| seen.subject.as_str() > id).take(20).cloned().collect::<Vec<_>>();
    for id in ["auth0|7", "auth0|7\u{20ac}", "auth0|", "a", "auth0|ffff"] {
        let page = bench.store.inactive(&acme(), time(8), Some(&seen(time(7), id)), 20).await.unwrap();
        assert_eq!(page, behind(id), "{id}");
    }
}

async fn pages_larger_than_a_bite_are_full(bench: Bench) {
    let all = fill(&*bench.store, 3000, |n| time(i64::try_from(n % 97).unwrap())).await;
    for size in [2999, 3000, 3001, usize::MAX] {
        assert_eq!(bench.store.inactive(&acme(), time(97), None, size).await.unwrap(), all[..3000.min(size)]);
    }
}

/// More of a set belong on a page than are read of it at once.
async fn pages_are_in_order_however_subjects_are_spread(bench: Bench) {
    let all: Vec<_> = (0..2000).map(|n| seen(time(n / 3), &format!("user-{n:04}"))).collect();
    if let Home::Server(server) = &bench.home {
        let mut pipeline = ::redis::pipe();
        for (n, seen) in (0..).zip(&all) {
            let set = if n < 1200 { 3 } else { 40 + n % 5 / 4 };
            pipeline.zadd(format!("portcullis:seen:acme:{set:02}"), seen.subject.as_str(), seen.at.as_millis());
        }
        pipeline.exec(&mut server.client()).unwrap();
    } else {
        let batch: Vec<_> = all.iter().map(|seen| (of(&acme(), seen.subject.as_str()), seen.at)).collect();
        bench.store.record_activity(&batch).await.unwrap();
    }
    for size in [10, 100, 700, usize::MAX] {
        assert_eq!(everyone(&*bench.store, &acme(), time(10_000), size).await, all, "in pages of {size}");
    }
}

/// As another program would write it, or a defect.
fn plant(bench: &Bench, score: &str, member: &[u8]) {
    match &bench.home {
        Home::Directory(directory) => {
            let write = "INSERT INTO activity (issuer, subject, seen) VALUES ('acme', CAST(?1 AS TEXT), ?2)";
            sqlite(directory.path()).execute(write, (member, score.parse::<i64>().unwrap())).unwrap();
        }
        Home::Server(server) => {
            let mut add = ::redis::cmd("ZADD");
            add.arg("portcullis:seen:acme:17").arg(score).arg(member);
            add.exec(&mut server.client()).unwrap();
        }
    }
}

async fn what_nobody_can_read_is_left_out(bench: Bench) {
    let all = fill(&*bench.store, 300, |n| time(i64::try_from(n % 3).unwrap())).await;
    let moment = time(1).as_millis().to_string();
    for member in [&b"\xff\xfe"[..], b"a\nb", &[b'x'; 300], b"auth0|1\xc3", b"auth0|2\0"] {
        plant(&bench, &moment, member);
    }
    if matches!(bench.home, Home::Server(_)) {
        for score in ["-inf", "-5", "1763700000001.5", "1e300", "inf"] {
            plant(&bench, score, format!("at {score}").as_bytes());
        }
    }
    for size in [1, 7, 100, 1000] {
        assert_eq!(everyone(&*bench.store, &acme(), time(3), size).await, all, "in pages of {size}");
    }
    // More than are read at once, in front of all others.
    match &bench.home {
        Home::Directory(directory) => {
            let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1700) \
                        INSERT INTO activity SELECT 'acme', char(10) || i, ?1 FROM n";
            sqlite(directory.path()).execute(fill, [time(0).as_millis()]).unwrap();
        }
        Home::Server(server) => {
            let mut add = ::redis::cmd("ZADD");
            add.arg("portcullis:seen:acme:17");
            for n in 0..1700 {
                add.arg(time(0).as_millis()).arg(format!("\n{n}"));
            }
            add.exec(&mut server.client()).unwrap();
        }
    }
    for size in [100, 1000] {
        assert_eq!(everyone(&*bench.store, &acme(), time(3), size).await, all, "in pages of {size}");
    }
}

async fn whoever_comes_back_is_no_longer_inactive(bench: Bench) {
    let store = &*bench.store;
    let all = fill(store, 100, |n| time(i64::try_from(n).unwrap())).await;
    let first = store.inactive(&acme(), time(100), None, 10).await.unwrap();
    assert_eq!(first, all[..10]);
    // The last of the page, and the first of the next one.
    let back = [&all[9], &all[10]].map(|seen| (of(&acme(), seen.subject.as_str()), time(100)));
    store.record_activity(&back).await.unwrap();
    let next = store.inactive(&acme(), time(100), first.last(), 10).await.unwrap();
    assert_eq!(next, all[11..21]);
    assert_eq!(store.inactive(&acme(), time(100), None, 10).await.unwrap(), [&all[..9], &all[11..12]].concat());
}

async fn issuers_have_indexes_of_their_own(bench: Bench) {
    let (store, other) = (&*bench.store, issuer("acm"));
    store
        .record_activity(&[(subject("a"), time(1)), (subject("b"), time(2)), (of(&other, "a"), time(3))])
        .await
        .unwrap();
    assert_eq!(everyone(store, &acme(), time(9), 1).await, [seen(time(1), "a"), seen(time(2), "b")]);
    assert_eq!(everyone(store, &other, time(9), 1).await, [seen(time(3), "a")]);
    store.forget_inactive(&acme(), time(9)).await.unwrap();
    assert_eq!(store.last_activity(&subject("a")).await.unwrap(), None);
    assert_eq!(store.last_activity(&of(&other, "a")).await.unwrap(), Some(time(3)));
}

async fn subjects_are_counted(bench: Bench) {
    fill(&*bench.store, 1000, |n| time(i64::try_from(n % 10).unwrap())).await;
    for (before, inactive) in [(time(0), 0), (time(1), 100), (time(9), 900), (time(10), 1000), (Timestamp::MAX, 1000)] {
        let count = bench.store.count_activity(&acme(), before).await.unwrap();
        assert_eq!(count, ActivityCount { known: 1000, inactive }, "before {before}");
    }
}

async fn many_are_looked_up_at_once(bench: Bench) {
    let all = fill(&*bench.store, 2500, |n| time(i64::try_from(n % 9).unwrap())).await;
    let mut expected: Vec<_> = all.iter().rev().map(|seen| (seen.subject.clone(), Some(seen.at))).collect();
    expected.insert(1200, ("nobody".try_into().unwrap(), None));
    expected.push(expected[0].clone());
    let (ids, times): (Vec<SubjectId>, Vec<_>) = expected.into_iter().unzip();
    assert_eq!(bench.store.last_activities(&acme(), &ids).await.unwrap(), times);
}

async fn whoever_is_not_seen_for_long_is_forgotten(bench: Bench) {
    let store = &*bench.store;
    let all = fill(store, 3000, |n| time(i64::try_from(n % 100).unwrap())).await;
    store.forget_inactive(&acme(), time(0)).await.unwrap();
    assert_eq!(store.count_activity(&acme(), time(0)).await.unwrap().known, 3000);
    store.forget_inactive(&acme(), time(70)).await.unwrap();
    assert_eq!(everyone(store, &acme(), time(100), 1000).await, all[2100..]);
    store.forget_inactive(&acme(), Timestamp::MAX).await.unwrap();
    assert_eq!(store.count_activity(&acme(), time(100)).await.unwrap(), ActivityCount::default());
}

async fn after_close_the_index_is_unavailable(bench: Bench) {
    bench.store.close().await;
    let (store, acme) = (&*bench.store, acme());
    let errors = [
        store.last_activities(&acme, &["a".try_into().unwrap()]).await.unwrap_err(),
        store.inactive(&acme, time(1), None, 10).await.unwrap_err(),
        store.count_activity(&acme, time(1)).await.unwrap_err(),
        store.forget_inactive(&acme, time(1)).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    }
}

/// What is known of two issuers' subjects, how pages are read, and who is active before each of them.
#[derive(Clone, Debug)]
struct Story {
    known: Vec<(bool, SubjectId, i64)>,
    before: i64,
    size: usize,
    moves: Vec<Vec<(SubjectId, i64)>>,
}

fn stories() -> impl Strategy<Value = Story> {
    // Few, of which some begin as others do, and some sort otherwise in languages than in bytes.
    let id = prop_oneof![
        "[ab]{1,3}".boxed(),
        prop::sample::select(vec!["Z", "z", "é", "e", "ab:", "ab|", "a b", "{ab}"]).prop_map(str::to_owned).boxed(),
        "user-[0-9]{1,2}".boxed(),
    ]
    .prop_map(|id| SubjectId::try_from(&*id).unwrap());
    let known = prop::collection::vec((any::<bool>(), id.clone(), 0..6_i64), 0..80);
    let moves = prop::collection::vec(prop::collection::vec((id, 0..9_i64), 0..4), 0..8);
    (known, 0..7_i64, 1..25_usize, moves).prop_map(|(known, before, size, moves)| Story { known, before, size, moves })
}

/// Whatever is stored, and whoever is active while pages are read: the pages are in order; whoever stays is given exactly once, whoever
/// comes back at most once; and counts and look-ups say the same as the model.
fn pages_are_those_of_a_plain_model(runtime: &Runtime, store: &dyn Store) {
    let numbers = AtomicUsize::new(0);
    let mut runner = TestRunner::new(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() });
    runner
        .run(&stories(), |story| {
            let number = numbers.fetch_add(1, Ordering::SeqCst);
            let (ours, other) = (issuer(&format!("p{number}")), issuer(&format!("p{number}-other")));
            let mut model = BTreeMap::<SubjectId, Timestamp>::new();
            let batch: Vec<_> = (story.known.iter())
                .map(|(ours_is_it, id, at)| {
                    let issuer = if *ours_is_it { &ours } else { &other };
                    (Subject { issuer: issuer.clone(), id: id.clone() }, time(*at))
                })
                .collect();
            let put = |model: &mut BTreeMap<_, _>, batch: &[(Subject, Timestamp)]| {
                for (subject, at) in batch.iter().filter(|(subject, _)| subject.issuer == ours) {
                    let kept = model.entry(subject.id.clone()).or_insert(*at);
                    *kept = (*kept).max(*at);
                }
                runtime.block_on(store.record_activity(batch)).unwrap();
            };
            put(&mut model, &batch);
            let (before, begin) = (time(story.before), model.clone());

            let count = runtime.block_on(store.count_activity(&ours, before)).unwrap();
            let inactive = model.values().filter(|at| **at < before).count();
            prop_assert_eq!((count.known, count.inactive), (model.len() as u64, inactive as u64));
            let ids: Vec<_> = story.known.iter().map(|(_, id, _)| id.clone()).collect();
            let times: Vec<_> = ids.iter().map(|id| model.get(id).copied()).collect();
            prop_assert_eq!(runtime.block_on(store.last_activities(&ours, &ids)).unwrap(), times);

            let (mut given, mut returned) = (Vec::<Seen>::new(), BTreeSet::new());
            for turn in 0.. {
                let expected: Vec<_> = (model.iter())
                    .map(|(subject, at)| Seen { at: *at, subject: subject.clone() })
                    .filter(|seen| seen.at < before && given.last().is_none_or(|last| seen > last))
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .take(story.size)
                    .collect();
                let page = runtime.block_on(store.inactive(&ours, before, given.last(), story.size)).unwrap();
                prop_assert_eq!(&page, &expected);
                prop_assert!(turn < 1000, "pages without end");
                if page.is_empty() {
                    break;
                }
                given.extend(page);
                if let Some(moves) = story.moves.get(turn) {
                    returned.extend(moves.iter().map(|(id, _)| id.clone()));
                    let batch: Vec<_> = (moves.iter())
                        .map(|(id, at)| (Subject { issuer: ours.clone(), id: id.clone() }, time(*at)))
                        .collect();
                    put(&mut model, &batch);
                }
            }
            prop_assert!(given.is_sorted() && given.iter().collect::<BTreeSet<_>>().len() == given.len());
            for (id, at) in &begin {
                let times = given.iter().filter(|seen| seen.subject == *id).count();
                // Whoever moves to another time that is long ago may be found at both.
                let long_ago = |(subject, at): &(SubjectId, i64)| subject == id && time(*at) < before;
                if !returned.contains(id) {
                    prop_assert_eq!(times, usize::from(*at < before));
                } else if !story.moves.iter().flatten().any(long_ago) {
                    prop_assert!(times <= 1, "somebody who came back was given {times} times");
                }
            }

            runtime.block_on(store.forget_inactive(&ours, before)).unwrap();
            let left = runtime.block_on(everyone(store, &ours, Timestamp::MAX, 50));
            let expected: BTreeSet<_> = (model.into_iter())
                .map(|(subject, at)| Seen { at, subject })
                .filter(|seen| seen.at >= before)
                .collect();
            prop_assert_eq!(left, expected.into_iter().collect::<Vec<_>>());
            Ok(())
        })
        .unwrap();
}

#[test]
fn pages_are_those_of_a_plain_model_embedded() {
    let runtime = Runtime::new().unwrap();
    let bench = Bench::embedded();
    pages_are_those_of_a_plain_model(&runtime, &*bench.store);
}

#[test]
fn pages_are_those_of_a_plain_model_redis() {
    let runtime = Runtime::new().unwrap();
    if let Some(bench) = runtime.block_on(Bench::redis()) {
        pages_are_those_of_a_plain_model(&runtime, &*bench.store);
    }
}
