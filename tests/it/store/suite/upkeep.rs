//! What keeps the index of activity.

use std::{sync::Arc, time::Duration};

use portcullis::{
    activity::upkeep::{Recording, Upkeep, UpkeepSettings, Whose, recording},
    clock::{Clock, ManualClock, Timestamp},
    store::Notes,
    token::claims::{IssuerName, Subject},
};
use tokio_util::sync::CancellationToken;

use super::super::{Bench, subject};
use crate::support::eventually;

suite![
    since_when_activity_is_recorded_is_noted,
    many_gateways_note_it_at_once,
    a_note_that_cannot_be_read_begins_anew,
    of_issuers_that_are_not_recorded_nothing_is_noted,
    whoever_was_not_seen_for_the_retention_is_forgotten,
    upkeep_runs_until_it_is_stopped,
];

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MINUTE: Duration = Duration::from_secs(60);
const SETTINGS: UpkeepSettings = UpkeepSettings { retention: Duration::from_secs(400 * 24 * 60 * 60), max_gap: DAY };

fn issuer(name: &str) -> IssuerName {
    name.try_into().unwrap()
}

fn clock() -> ManualClock {
    ManualClock::new(Timestamp::from_secs(1_763_700_000))
}

/// Of acme and others; of acme activity is recorded.
fn upkeep(bench: &Bench, notes: &Arc<dyn Notes>, clock: &ManualClock) -> Upkeep {
    let (issuers, recorded) = (vec![issuer("acme"), issuer("others")], vec![issuer("acme")]);
    let (store, notes) = (Arc::clone(&bench.store), Arc::clone(notes));
    Upkeep::new(SETTINGS, Whose::new(issuers, recorded), store, notes, Clock::Manual(clock.clone()))
}

async fn noted(bench: &Bench) -> Option<Recording> {
    recording(&*bench.notes, &issuer("acme")).await.unwrap()
}

async fn since_when_activity_is_recorded_is_noted(bench: Bench) {
    let clock = clock();
    let (begin, upkeep) = (clock.now(), upkeep(&bench, &bench.notes, &clock));
    assert_eq!(noted(&bench).await, None);
    upkeep.note().await.unwrap();
    assert_eq!(noted(&bench).await, Some(Recording { since: begin, last: begin }));
    for pause in [MINUTE, Duration::ZERO, DAY, MINUTE] {
        clock.advance(pause);
        upkeep.note().await.unwrap();
        assert_eq!(noted(&bench).await, Some(Recording { since: begin, last: clock.now() }), "after {pause:?}");
    }
    let last = clock.now();
    clock.set(last.minus(MINUTE));
    upkeep.note().await.unwrap();
    assert_eq!(noted(&bench).await, Some(Recording { since: begin, last }), "by a clock that was set back");
    clock.set(last.plus(DAY + Duration::from_millis(1)));
    upkeep.note().await.unwrap();
    assert_eq!(noted(&bench).await, Some(Recording { since: clock.now(), last: clock.now() }), "after too long");
}

async fn many_gateways_note_it_at_once(bench: Bench) {
    let clock = clock();
    let begin = clock.now();
    let mut gateways = Vec::new();
    for _ in 0..6 {
        gateways.push(upkeep(&bench, &bench.another().await, &clock));
    }
    for _ in 0..10 {
        futures_util::future::try_join_all(gateways.iter().map(Upkeep::note)).await.unwrap();
        assert_eq!(noted(&bench).await, Some(Recording { since: begin, last: clock.now() }));
        clock.advance(MINUTE);
    }
}

async fn a_note_that_cannot_be_read_begins_anew(bench: Bench) {
    let clock = clock();
    let upkeep = upkeep(&bench, &bench.notes, &clock);
    assert!(bench.notes.swap_note("recording:acme", None, Some("yes")).await.unwrap());
    assert_eq!(noted(&bench).await, None);
    upkeep.note().await.unwrap();
    assert_eq!(noted(&bench).await, Some(Recording { since: clock.now(), last: clock.now() }));
}

async fn of_issuers_that_are_not_recorded_nothing_is_noted(bench: Bench) {
    upkeep(&bench, &bench.notes, &clock()).note().await.unwrap();
    assert_eq!(recording(&*bench.notes, &issuer("others")).await.unwrap(), None);
}

async fn whoever_was_not_seen_for_the_retention_is_forgotten(bench: Bench) {
    let clock = clock();
    let (oldest, other) = (clock.now().minus(SETTINGS.retention), issuer("others"));
    let older = oldest.minus(Duration::from_millis(1));
    let of_other = |id: &str| Subject { issuer: other.clone(), ..subject(id) };
    let batch = [(subject("a"), older), (subject("b"), oldest), (of_other("a"), older), (of_other("b"), oldest)];
    bench.store.record_activity(&batch).await.unwrap();
    let upkeep = upkeep(&bench, &bench.notes, &clock);
    upkeep.forget().await.unwrap();
    for subject in [subject("a"), of_other("a")] {
        assert_eq!(bench.store.last_activity(&subject).await.unwrap(), None, "{subject:?}");
    }
    for subject in [subject("b"), of_other("b")] {
        assert_eq!(bench.store.last_activity(&subject).await.unwrap(), Some(oldest), "{subject:?}");
    }
    clock.advance(Duration::from_millis(1));
    upkeep.forget().await.unwrap();
    assert_eq!(bench.store.last_activity(&subject("b")).await.unwrap(), None);
}

async fn upkeep_runs_until_it_is_stopped(bench: Bench) {
    let clock = clock();
    let older = clock.now().minus(SETTINGS.retention + DAY);
    bench.store.record_activity(&[(subject("a"), older)]).await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(upkeep(&bench, &bench.notes, &clock).run(stop.clone()));
    eventually("it is noted", async || noted(&bench).await.is_some()).await;
    eventually("who is old is forgotten", async || bench.store.last_activity(&subject("a")).await.unwrap().is_none())
        .await;
    stop.cancel();
    running.await.unwrap();
}
