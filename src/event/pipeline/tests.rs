use std::time::Duration;

use proptest::{prelude::*, test_runner::TestRunner};
use tempfile::TempDir;

use super::*;
use crate::{
    clock::ManualClock,
    event::{
        health::SourceMetrics,
        session_event::{EventId, Gap, GapReason},
    },
    marker::{
        Reading, Retention,
        cache::{MarkerCache, MarkerSettings},
    },
    store::{
        Store,
        embedded::{EmbeddedSettings, EmbeddedStore},
    },
    token::claims::IssuerName,
};

const NOW: Timestamp = Timestamp::from_millis(1_763_700_000_000);

/// A way into a store of its own, whose clock stands still.
struct Bench {
    pipeline: Pipeline,
    origin: Origin,
    clock: ManualClock,
    store: Arc<EmbeddedStore>,
    _directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(NOW);
        let cache = Arc::new(MarkerCache::new(MarkerSettings::default()));
        let settings = EmbeddedSettings { directory: directory.path().to_owned() };
        let watcher: Arc<dyn crate::store::Watcher> = Arc::clone(&cache) as _;
        let store = EmbeddedStore::open(&settings, watcher, Clock::Manual(clock.clone())).unwrap();
        let timeout = Duration::from_secs(5);
        let shared: Arc<dyn Store> = Arc::clone(&store) as _;
        let ledger = Ledger::new(shared, cache, Retention::default(), timeout, Clock::Manual(clock.clone()));
        let notes: Arc<dyn Notes> = Arc::clone(&store) as _;
        Self {
            pipeline: Pipeline::new(ledger, notes, Clock::Manual(clock.clone())),
            origin: origin("log"),
            clock,
            store,
            _directory: directory,
        }
    }

    async fn take(&self, events: &[SessionEvent]) -> Taken {
        self.take_from(&self.origin, events).await
    }

    async fn take_from(&self, origin: &Origin, events: &[SessionEvent]) -> Taken {
        self.pipeline.take(origin, &Batch { events: events.to_vec(), gaps: Vec::new() }).await.unwrap()
    }

    /// What is stored, without when it was written.
    async fn stored(&self, key: &MarkerKey) -> Option<MarkerRecord> {
        match self.store.read(key).await.unwrap() {
            Reading::Present(record) => Some(MarkerRecord { written: None, ..record }),
            Reading::Absent => None,
            Reading::Unreadable => panic!("{key:?} is unreadable"),
        }
    }
}

fn origin(name: &str) -> Origin {
    let name: Arc<str> = name.into();
    let health = Health::new(&name, "auth0_log_stream", None, &SourceMetrics::default());
    Origin::new(name, Source::Auth0LogStream, health)
}

fn issuer() -> IssuerName {
    "acme".try_into().unwrap()
}

fn subject(name: &str) -> Subject {
    Subject { issuer: issuer(), id: name.try_into().unwrap() }
}

fn ended(session: &str) -> Happening {
    Happening::SessionEnded { issuer: issuer(), session: session.try_into().unwrap() }
}

fn event(id: &str, millis: i64, happenings: Vec<Happening>) -> SessionEvent {
    let at = Timestamp::from_millis(NOW.as_millis() + millis);
    SessionEvent { id: Some(EventId::new(id)), at, kind: "test".into(), happenings }
}

#[tokio::test]
async fn an_event_becomes_the_marker_that_it_says() {
    let bench = Bench::new();
    let alice = subject("alice");
    let events = [
        event("1", -5000, vec![Happening::LoggedOut(alice.clone())]),
        event("2", -4000, vec![ended("s")]),
        event("3", -3000, vec![Happening::Blocked(alice.clone())]),
        event("4", -2000, vec![Happening::Active(subject("bob"))]),
        event("5", -1000, vec![Happening::TokenRevoked { issuer: issuer(), token: "t".try_into().unwrap() }]),
    ];
    let taken = bench.take(&events).await;
    assert_eq!(taken, Taken { changed: 4, active: 1, ..Taken::default() });
    let at = |millis| Timestamp::from_millis(NOW.as_millis() + millis);
    let marker = async |key| bench.stored(&key).await.unwrap().marker;
    let logout = Logout { at: at(-5000), clock: MarkerClock::Issuer };
    assert_eq!(marker(MarkerKey::logout(&alice)).await, Marker::Logout(logout));
    assert_eq!(marker(MarkerKey::session(&issuer(), &"s".try_into().unwrap())).await, Marker::SessionEnd(at(-4000)));
    let block = Block { blocked: true, at: at(-3000), until: None };
    assert_eq!(marker(MarkerKey::block(&alice)).await, Marker::Block(block));
    assert_eq!(marker(MarkerKey::token(&issuer(), &"t".try_into().unwrap())).await, Marker::TokenRevoked(at(-1000)));
    let record = bench.stored(&MarkerKey::block(&alice)).await.unwrap();
    assert_eq!(record.source.as_deref(), Some("auth0_log_stream"));
    assert_eq!((record.by.as_deref(), record.reason.as_deref()), (Some("log"), Some("test")));
    assert_eq!(bench.store.last_activity(&subject("bob")).await.unwrap(), Some(at(-2000)));
    assert_eq!(bench.store.last_activity(&alice).await.unwrap(), None, "an end is no sign of life");
}

#[tokio::test]
async fn what_was_taken_is_left_out_here_and_elsewhere() {
    let bench = Bench::new();
    let events = [event("1", -1000, vec![ended("s")]), event("2", -900, vec![Happening::Active(subject("bob"))])];
    assert_eq!(bench.take(&events).await.duplicates, 0);
    assert_eq!(bench.take(&events).await.duplicates, 2);
    let twice =
        [events[0].clone(), events[0].clone(), event("3", 0, vec![ended("t")]), event("3", 0, vec![ended("t")])];
    assert_eq!(bench.take(&twice).await, Taken { changed: 1, duplicates: 3, ..Taken::default() }, "within a delivery");
    // Another gateway, or this one after a restart, has the store's memory only: of what changed something.
    let elsewhere = origin("log");
    assert_eq!(bench.take_from(&elsewhere, &events).await, Taken { duplicates: 1, active: 1, ..Taken::default() });
    let other = origin("other");
    let again = bench.take_from(&other, &events[..1]).await;
    assert_eq!(again.duplicates, 0, "ids mean something within their source only");
}

#[tokio::test]
async fn an_event_without_an_id_is_taken_each_time_and_changes_nothing_again() {
    let bench = Bench::new();
    let event = SessionEvent { id: None, ..event("", -1000, vec![ended("s")]) };
    assert_eq!(bench.take(std::slice::from_ref(&event)).await, Taken { changed: 1, ..Taken::default() });
    assert_eq!(bench.take(&[event]).await, Taken { unchanged: 1, ..Taken::default() });
}

#[tokio::test]
async fn a_time_that_lies_ahead_counts_as_now() {
    let bench = Bench::new();
    let (near, far) = (subject("near"), subject("far"));
    bench
        .take(&[
            event("1", 60_000, vec![Happening::LoggedOut(near.clone()), Happening::Active(near.clone())]),
            event("2", 60_001, vec![Happening::LoggedOut(far.clone()), Happening::Active(far.clone())]),
        ])
        .await;
    let logout = async |subject| match bench.stored(&MarkerKey::logout(subject)).await.unwrap().marker {
        Marker::Logout(logout) => (logout.at.since(NOW).as_millis(), logout.clock),
        other => panic!("{other:?}"),
    };
    assert_eq!(logout(&near).await, (60_000, MarkerClock::Issuer), "clocks differ a little");
    assert_eq!(logout(&far).await, (0, MarkerClock::Gateway));
    for subject in [near, far] {
        assert_eq!(bench.store.last_activity(&subject).await.unwrap(), Some(NOW), "activity is never in the future");
    }
}

#[tokio::test]
async fn what_would_stop_nothing_any_more_is_not_stored() {
    let bench = Bench::new();
    let day = 24 * 3600 * 1000;
    let (old, blocked) = (subject("old"), subject("blocked"));
    let taken = bench
        .take(&[
            event("1", -day - 2001, vec![Happening::LoggedOut(old.clone())]),
            event("2", -31 * day, vec![ended("s")]),
            event("3", -365 * day, vec![Happening::Blocked(blocked.clone())]),
        ])
        .await;
    assert_eq!(taken.changed, 1, "a block of long ago is a block");
    assert_eq!(bench.stored(&MarkerKey::logout(&old)).await, None);
    let just = event("4", -day - 1999, vec![Happening::LoggedOut(old.clone())]);
    assert_eq!(bench.take(&[just]).await.changed, 1);
}

#[tokio::test]
async fn the_deleted_are_refused_as_long_as_their_tokens_could_live_and_forgotten() {
    let bench = Bench::new();
    let alice = subject("alice");
    bench.take(&[event("1", -5000, vec![Happening::Active(alice.clone())])]).await;
    bench.take(&[event("2", -1000, vec![Happening::Deleted(alice.clone())])]).await;
    let Marker::Block(block) = bench.stored(&MarkerKey::block(&alice)).await.unwrap().marker else { panic!() };
    assert!(block.holds(NOW));
    let until = NOW.plus(Retention::default().tokens()).minus(Duration::from_secs(1));
    assert!(block.holds(until.minus(Duration::from_millis(1))) && !block.holds(until));
    assert_eq!(bench.store.last_activity(&alice).await.unwrap(), None);
    bench.take(&[event("3", 0, vec![Happening::Active(alice.clone())])]).await;
    bench.take(&[event("4", -500, vec![Happening::Deleted(alice.clone())])]).await;
    assert_eq!(bench.store.last_activity(&alice).await.unwrap(), Some(NOW), "whoever is back is not forgotten");
}

#[tokio::test]
async fn gaps_are_counted_by_their_reason() {
    let bench = Bench::new();
    let gaps = GapReason::ALL.map(|reason| Gap::new(reason, "x")).to_vec();
    let batch = Batch { events: vec![event("1", 0, vec![ended("s")])], gaps };
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.pipeline.take(&bench.origin, &batch).await.unwrap().gaps, GapReason::ALL.len());
    let report = bench.origin.health.report(bench.clock.now(), NOW);
    for reason in GapReason::ALL {
        assert_eq!(report.events[reason.as_str()], 1, "{reason:?}");
    }
    assert_eq!((report.events["changed"], report.lag_ms), (1, Some(1000)));
}

#[tokio::test]
async fn a_store_that_takes_nothing_is_no_reason_to_forget_anything() {
    let bench = Bench::new();
    bench.store.close().await;
    let events = vec![event("1", 0, vec![ended("s")])];
    let batch = Batch { events, gaps: Vec::new() };
    bench.pipeline.take(&bench.origin, &batch).await.unwrap_err();
    assert!(bench.origin.recent.lock().unwrap().newer.is_empty());
    assert_eq!(bench.origin.health.report(NOW, NOW).failures, 1);
}

fn happenings() -> impl Strategy<Value = Happening> {
    let name = prop_oneof![Just("alice"), Just("bob")];
    (name, 0..6_u8).prop_map(|(name, what)| match what {
        0 => Happening::LoggedOut(subject(name)),
        1 => Happening::Blocked(subject(name)),
        2 => Happening::Unblocked(subject(name)),
        3 => Happening::Deleted(subject(name)),
        4 => Happening::Active(subject(name)),
        _ => ended(name),
    })
}

/// Events with times that meet, each with an order in which it comes, and whether it comes twice.
fn histories() -> impl Strategy<Value = (Vec<SessionEvent>, Vec<(usize, bool)>, usize)> {
    let events = prop::collection::vec((0..6_i64, prop::collection::vec(happenings(), 1..3)), 1..10);
    (events, any::<prop::sample::Index>()).prop_flat_map(|(events, split)| {
        let events: Vec<SessionEvent> = events
            .into_iter()
            .enumerate()
            .map(|(number, (millis, happenings))| event(&number.to_string(), -millis, happenings))
            .collect();
        let order: Vec<usize> = (0..events.len()).collect();
        let doubled = prop::collection::vec(any::<bool>(), events.len());
        let size = split.index(events.len()) + 1;
        (Just(events), (Just(order).prop_shuffle(), doubled), Just(size))
            .prop_map(|(events, (order, doubled), size)| (events, order.into_iter().zip(doubled).collect(), size))
    })
}

/// Any order of events, in any deliveries, with any repetitions, leaves the same markers.
#[test]
fn orders_deliveries_and_repetitions_do_not_matter() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = ProptestConfig { cases: 48, ..ProptestConfig::default() };
    let run = TestRunner::new(config).run(&histories(), |(events, order, size)| {
        runtime.block_on(async {
            let (straight, crooked) = (Bench::new(), Bench::new());
            straight.take(&events).await;
            let mut coming: Vec<SessionEvent> = order.iter().map(|(place, _)| events[*place].clone()).collect();
            coming.extend(order.iter().filter(|(_, twice)| *twice).map(|(place, _)| events[*place].clone()));
            for delivery in coming.chunks(size) {
                crooked.take(delivery).await;
            }
            for name in ["alice", "bob"] {
                let keys = [
                    MarkerKey::logout(&subject(name)),
                    MarkerKey::block(&subject(name)),
                    MarkerKey::session(&issuer(), &name.try_into().unwrap()),
                ];
                for key in keys {
                    prop_assert_eq!(straight.stored(&key).await, crooked.stored(&key).await, "{:?}", key);
                }
            }
            Ok(())
        })
    });
    run.unwrap();
}
