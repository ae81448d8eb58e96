//! Notes, and activity that is forgotten.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis::store::{
    Notes, StoreError,
    notes::{MAX_MEMBERS, MAX_NAME_LENGTH, MAX_NOTE_LENGTH, NoteDigest},
};
use tokio::task::JoinSet;

use super::super::{Bench, subject, time};
use crate::support::eventually;

suite![
    events_are_remembered_by_source,
    events_that_were_remembered_first_are_forgotten,
    large_batches_of_events_are_remembered_in_their_order,
    a_note_is_replaced_only_if_it_is_what_was_expected,
    of_many_who_replace_a_note_at_once_one_does,
    of_many_who_want_a_lease_at_once_one_gets_it,
    a_lease_is_renewed_and_released_by_its_owner_only,
    a_lease_is_over_when_its_term_is,
    jobs_stay_until_they_are_removed,
    no_job_of_many_is_always_left_out,
    many_jobs_are_put_and_removed,
    a_set_holds_its_members_once_and_a_hundred_at_most,
    a_set_is_forgotten_some_time_after_it_was_last_added_to,
    names_and_values_out_of_bounds_are_refused,
    names_are_verbatim_and_of_their_kind,
    activity_is_forgotten_unless_it_is_later,
    after_close_notes_are_unavailable,
];

/// Long enough for every test.
const LONG: Duration = Duration::from_secs(60);

/// How much earlier a clock that counts whole milliseconds may be.
const SLACK: Duration = Duration::from_millis(5);

fn event(number: u128) -> NoteDigest {
    // Not in the order of the numbers.
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_le_bytes()
}

fn events(numbers: std::ops::Range<u128>) -> Vec<NoteDigest> {
    numbers.map(event).collect()
}

fn job(id: &str, value: &str) -> (String, String) {
    (id.to_owned(), value.to_owned())
}

async fn members(notes: &dyn Notes, set: &str) -> Vec<String> {
    let mut members = notes.members(set).await.unwrap();
    members.sort();
    members
}

/// Each method once, about names of this one's own.
pub(in super::super) async fn notes_work(notes: &dyn Notes, name: &str) -> Result<(), StoreError> {
    notes.remember(name, &events(0..2), 10).await?;
    assert_eq!(notes.seen(name, &events(1..3)).await?, [true, false]);
    assert!(notes.swap_note(name, None, Some("1")).await?);
    assert_eq!(notes.note(name).await?.as_deref(), Some("1"));
    assert!(notes.swap_note(name, Some("1"), None).await?);
    assert!(notes.lease(name, "me", LONG).await?);
    assert_eq!(notes.leader(name).await?.as_deref(), Some("me"));
    notes.release(name, "me").await?;
    assert_eq!(notes.leader(name).await?, None);
    notes.put_jobs(name, &[job("a", "1")]).await?;
    assert_eq!(notes.jobs(name, 10).await?, (vec![job("a", "1")], 1));
    notes.remove_jobs(name, &["a".to_owned()]).await?;
    notes.add_members(&[job(name, "a"), job(&format!("{name} 2"), "b")], LONG).await?;
    assert_eq!(notes.members(name).await?, ["a"]);
    notes.remove_set(name).await?;
    assert_eq!(notes.members(name).await?, [""; 0]);
    Ok(())
}

/// Leaves something of every kind behind.
pub(in super::super) async fn keep_notes(notes: &dyn Notes) {
    notes.remember("logs", &events(0..5), 3).await.unwrap();
    assert!(notes.swap_note("checkpoint", None, Some("900")).await.unwrap());
    assert!(notes.lease("poll", "one", LONG).await.unwrap());
    notes.put_jobs("revoke", &[job("a", "1")]).await.unwrap();
    notes.add_members(&[job("sessions", "a")], LONG).await.unwrap();
}

/// It is there, apart from the lease, and goes on from where it was.
pub(in super::super) async fn kept_notes(notes: &dyn Notes) {
    assert_eq!(notes.seen("logs", &events(0..5)).await.unwrap(), [false, false, true, true, true]);
    notes.remember("logs", &[event(5)], 3).await.unwrap();
    assert_eq!(notes.seen("logs", &events(2..6)).await.unwrap(), [false, true, true, true]);
    assert!(notes.swap_note("checkpoint", Some("900"), Some("901")).await.unwrap());
    assert_eq!(notes.jobs("revoke", 5).await.unwrap(), (vec![job("a", "1")], 1));
    assert_eq!(members(notes, "sessions").await, ["a"]);
}

async fn events_are_remembered_by_source(bench: Bench) {
    let notes = &bench.notes;
    assert_eq!(notes.seen("logs", &[]).await.unwrap(), [false; 0]);
    assert_eq!(notes.seen("logs", &events(0..3)).await.unwrap(), [false; 3]);
    notes.remember("logs", &[], 10).await.unwrap();
    notes.remember("logs", &[event(2), event(0), event(2)], 10).await.unwrap();
    let asked = [event(0), event(1), event(2), event(0)];
    assert_eq!(notes.seen("logs", &asked).await.unwrap(), [true, false, true, true]);
    assert_eq!(notes.seen("others", &asked).await.unwrap(), [false; 4]);
}

async fn events_that_were_remembered_first_are_forgotten(bench: Bench) {
    let notes = &bench.notes;
    notes.remember("other", &events(0..4), 4).await.unwrap();
    notes.remember("logs", &events(0..3), 5).await.unwrap();
    // Repeated, it is where it was.
    notes.remember("logs", &[event(0)], 5).await.unwrap();
    notes.remember("logs", &events(3..5), 5).await.unwrap();
    assert_eq!(notes.seen("logs", &events(0..5)).await.unwrap(), [true; 5], "five are not too many");
    notes.remember("logs", &events(5..7), 5).await.unwrap();
    let [no, yes] = [false, true];
    assert_eq!(notes.seen("logs", &events(0..7)).await.unwrap(), [no, no, yes, yes, yes, yes, yes]);
    notes.remember("logs", &[event(7)], 2).await.unwrap();
    assert_eq!(notes.seen("logs", &events(0..8)).await.unwrap(), [no, no, no, no, no, no, yes, yes]);
    notes.remember("logs", &[event(8)], usize::MAX).await.unwrap();
    assert_eq!(notes.seen("logs", &events(6..9)).await.unwrap(), [yes; 3]);
    assert_eq!(notes.seen("other", &events(0..4)).await.unwrap(), [yes; 4], "each source has its own");
}

async fn large_batches_of_events_are_remembered_in_their_order(bench: Bench) {
    bench.notes.remember("logs", &events(0..3000), 1200).await.unwrap();
    let seen = bench.notes.seen("logs", &events(0..3000)).await.unwrap();
    assert_eq!(seen.len(), 3000);
    for (number, seen) in seen.into_iter().enumerate() {
        assert_eq!(seen, number >= 1800, "{number}");
    }
}

async fn a_note_is_replaced_only_if_it_is_what_was_expected(bench: Bench) {
    let notes = &bench.notes;
    let swap = async |expected, value| notes.swap_note("checkpoint", expected, value).await.unwrap();
    assert_eq!(notes.note("checkpoint").await.unwrap(), None);
    assert!(!swap(Some("a"), Some("b")).await);
    assert!(swap(None, None).await);
    assert!(swap(None, Some("")).await);
    assert_eq!(notes.note("checkpoint").await.unwrap().as_deref(), Some(""), "nothing in it is something");
    assert!(!swap(None, Some("b")).await);
    assert!(swap(Some(""), Some("ünï\0\"code\"")).await);
    assert!(!swap(Some("b"), None).await);
    assert_eq!(notes.note("checkpoint").await.unwrap().as_deref(), Some("ünï\0\"code\""));
    assert!(swap(Some("ünï\0\"code\""), None).await);
    assert_eq!(notes.note("checkpoint").await.unwrap(), None);
}

async fn of_many_who_replace_a_note_at_once_one_does(bench: Bench) {
    let gateways = [Arc::clone(&bench.notes), bench.another().await];
    let mut expected = None;
    for round in 0..10 {
        let mut tasks = JoinSet::new();
        for number in 0..8 {
            let (notes, expected) = (Arc::clone(&gateways[number % 2]), expected.clone());
            tasks.spawn(async move {
                let value = format!("{round} {number}");
                let won = notes.swap_note("a", expected.as_deref(), Some(&value)).await.unwrap();
                won.then_some(value)
            });
        }
        let winners: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        assert_eq!(bench.notes.note("a").await.unwrap().as_ref(), winners.first());
        expected = winners.into_iter().next();
    }
}

async fn of_many_who_want_a_lease_at_once_one_gets_it(bench: Bench) {
    let gateways = [Arc::clone(&bench.notes), bench.another().await];
    for round in 0..10 {
        let lease = format!("lease {round}");
        let mut tasks = JoinSet::new();
        for number in 0..8 {
            let (notes, lease) = (Arc::clone(&gateways[number % 2]), lease.clone());
            tasks.spawn(async move {
                let owner = number.to_string();
                notes.lease(&lease, &owner, LONG).await.unwrap().then_some(owner)
            });
        }
        let owners: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        assert_eq!(owners.len(), 1, "round {round}: {owners:?}");
        for notes in &gateways {
            assert_eq!(notes.leader(&lease).await.unwrap().as_ref(), owners.first());
        }
    }
}

async fn a_lease_is_renewed_and_released_by_its_owner_only(bench: Bench) {
    let notes = &bench.notes;
    assert_eq!(notes.leader("poll").await.unwrap(), None);
    assert!(notes.lease("poll", "one", LONG).await.unwrap());
    assert!(notes.lease("poll", "one", LONG).await.unwrap());
    assert!(!notes.lease("poll", "other", LONG).await.unwrap());
    assert!(notes.lease("another", "other", LONG).await.unwrap());
    notes.release("poll", "other").await.unwrap();
    notes.release("nothing", "other").await.unwrap();
    assert_eq!(notes.leader("poll").await.unwrap().as_deref(), Some("one"));
    notes.release("poll", "one").await.unwrap();
    assert_eq!(notes.leader("poll").await.unwrap(), None);
    assert!(notes.lease("poll", "other", Duration::MAX).await.unwrap());
    assert_eq!(notes.leader("poll").await.unwrap().as_deref(), Some("other"));
}

async fn a_lease_is_over_when_its_term_is(bench: Bench) {
    let notes = &bench.notes;
    let term = Duration::from_millis(400);
    assert!(notes.lease("poll", "one", Duration::from_millis(1)).await.unwrap());
    // Renewed, it lasts for the new term.
    let since = Instant::now();
    assert!(notes.lease("poll", "one", term).await.unwrap());
    eventually("the other gets it", async || notes.lease("poll", "other", LONG).await.unwrap()).await;
    assert!(since.elapsed() + SLACK >= term, "after {:?} already", since.elapsed());
    assert!(!notes.lease("poll", "one", term).await.unwrap());
    assert_eq!(notes.leader("poll").await.unwrap().as_deref(), Some("other"));
    notes.lease("brief", "one", Duration::ZERO).await.unwrap();
    eventually("it is nobody's", async || notes.leader("brief").await.unwrap().is_none()).await;
}

async fn jobs_stay_until_they_are_removed(bench: Bench) {
    let notes = &bench.notes;
    assert_eq!(notes.jobs("revoke", 5).await.unwrap(), (vec![], 0));
    notes.put_jobs("revoke", &[]).await.unwrap();
    notes.put_jobs("revoke", &[job("a", "1"), job("b", ""), job("c", "3")]).await.unwrap();
    notes.put_jobs("revoke", &[job("a", "one")]).await.unwrap();
    notes.put_jobs("other", &[job("a", "theirs")]).await.unwrap();
    let (mut jobs, count) = notes.jobs("revoke", 5).await.unwrap();
    jobs.sort();
    assert_eq!((jobs, count), (vec![job("a", "one"), job("b", ""), job("c", "3")], 3));
    let (some, count) = notes.jobs("revoke", 2).await.unwrap();
    assert_eq!((some.len(), count), (2, 3));
    assert_ne!(some[0].0, some[1].0);
    assert_eq!(notes.jobs("revoke", 0).await.unwrap(), (vec![], 3));
    notes.remove_jobs("revoke", &[]).await.unwrap();
    notes.remove_jobs("revoke", &["a".to_owned(), "c".to_owned(), "x".to_owned()]).await.unwrap();
    assert_eq!(notes.jobs("revoke", usize::MAX).await.unwrap(), (vec![job("b", "")], 1));
    assert_eq!(notes.jobs("other", 5).await.unwrap(), (vec![job("a", "theirs")], 1));
}

async fn no_job_of_many_is_always_left_out(bench: Bench) {
    let jobs: Vec<_> = (0..20).map(|number| job(&number.to_string(), "x")).collect();
    bench.notes.put_jobs("revoke", &jobs).await.unwrap();
    let mut found = BTreeSet::new();
    eventually("each is found", async || {
        let (some, count) = bench.notes.jobs("revoke", 3).await.unwrap();
        assert_eq!((some.len(), count), (3, 20));
        found.extend(some);
        found.len() == 20
    })
    .await;
}

async fn many_jobs_are_put_and_removed(bench: Bench) {
    let jobs: Vec<_> = (0..1700).map(|number| job(&number.to_string(), &"x".repeat(100))).collect();
    bench.notes.put_jobs("revoke", &jobs).await.unwrap();
    let (some, count) = bench.notes.jobs("revoke", 2000).await.unwrap();
    assert_eq!((some.len(), count), (1700, 1700));
    let ids: Vec<_> = jobs.into_iter().skip(1).map(|(id, _)| id).collect();
    bench.notes.remove_jobs("revoke", &ids).await.unwrap();
    assert_eq!(bench.notes.jobs("revoke", 2000).await.unwrap(), (vec![job("0", &"x".repeat(100))], 1));
}

async fn a_set_holds_its_members_once_and_a_hundred_at_most(bench: Bench) {
    let notes = &*bench.notes;
    assert_eq!(members(notes, "sessions").await, [""; 0]);
    notes.add_members(&[], LONG).await.unwrap();
    let added = [job("sessions", "b"), job("other", "c"), job("sessions", "a"), job("sessions", "b")];
    notes.add_members(&added, LONG).await.unwrap();
    notes.add_members(&[job("sessions", "a")], LONG).await.unwrap();
    assert_eq!(members(notes, "sessions").await, ["a", "b"]);
    assert_eq!(members(notes, "other").await, ["c"]);
    notes.remove_set("sessions").await.unwrap();
    assert_eq!(members(notes, "sessions").await, [""; 0]);
    notes.remove_set("sessions").await.unwrap();

    let many: Vec<_> = (0..150).map(|number| job("other", &number.to_string())).collect();
    notes.add_members(&many, LONG).await.unwrap();
    notes.add_members(&[job("other", "one more")], LONG).await.unwrap();
    let kept = members(notes, "other").await;
    assert_eq!(kept.len(), MAX_MEMBERS);
    assert!(kept.contains(&"c".to_owned()) && kept.contains(&"98".to_owned()) && !kept.contains(&"99".to_owned()));
    let sets: Vec<_> = (0..1200).map(|number| job(&format!("set {number}"), "a")).collect();
    notes.add_members(&sets, LONG).await.unwrap();
    for (set, _) in sets.iter().step_by(299).chain(sets.last()) {
        assert_eq!(members(notes, set).await, ["a"], "{set}");
    }
}

async fn a_set_is_forgotten_some_time_after_it_was_last_added_to(bench: Bench) {
    let notes = &*bench.notes;
    let keep = Duration::from_millis(500);
    notes.add_members(&[job("kept", "a")], Duration::from_millis(300)).await.unwrap();
    notes.add_members(&[job("kept", "a"), job("always", "c")], Duration::MAX).await.unwrap();
    let since = Instant::now();
    notes.add_members(&[job("brief", "a"), job("brief", "b")], keep).await.unwrap();
    assert_eq!(members(notes, "brief").await, ["a", "b"]);
    eventually("it is forgotten", async || notes.members("brief").await.unwrap().is_empty()).await;
    assert!(since.elapsed() + SLACK >= keep, "after {:?} already", since.elapsed());
    notes.add_members(&[job("brief", "c")], LONG).await.unwrap();
    assert_eq!(members(notes, "brief").await, ["c"], "it begins anew");
    assert_eq!(members(notes, "kept").await, ["a"], "what was added to again is kept for longer");
    assert_eq!(members(notes, "always").await, ["c"]);
}

async fn names_and_values_out_of_bounds_are_refused(bench: Bench) {
    let notes = &*bench.notes;
    let refused = |result: Result<(), StoreError>, what: &str| {
        assert!(matches!(result, Err(StoreError::Refused { .. })), "{what}: {result:?}");
    };
    for name in ["", "a\nb", "a\0", &"x".repeat(MAX_NAME_LENGTH + 1)] {
        refused(notes.seen(name, &[]).await.map(drop), "seen");
        refused(notes.remember(name, &[], 1).await, "remember");
        refused(notes.note(name).await.map(drop), "note");
        refused(notes.swap_note(name, None, None).await.map(drop), "swap_note");
        refused(notes.lease(name, "a", LONG).await.map(drop), "lease");
        refused(notes.release(name, "a").await, "release");
        refused(notes.leader(name).await.map(drop), "leader");
        refused(notes.put_jobs(name, &[]).await, "put_jobs");
        refused(notes.put_jobs("a", &[job("a", "a"), job(name, "a")]).await, "put_jobs");
        refused(notes.jobs(name, 1).await.map(drop), "jobs");
        refused(notes.remove_jobs(name, &[]).await, "remove_jobs");
        refused(notes.add_members(&[job("a", "a"), job(name, "a")], LONG).await, "add_members");
        refused(notes.members(name).await.map(drop), "members");
        refused(notes.remove_set(name).await, "remove_set");
    }
    let long = "x".repeat(MAX_NOTE_LENGTH + 1);
    refused(notes.swap_note("a", None, Some(&long)).await.map(drop), "swap_note");
    refused(notes.lease("a", &long, LONG).await.map(drop), "lease");
    refused(notes.put_jobs("a", &[job("a", "a"), job("b", &long)]).await, "put_jobs");
    refused(notes.add_members(&[job("a", "a"), job("a", &long)], LONG).await, "add_members");
    assert_eq!(notes.jobs("a", 9).await.unwrap().1, 0, "nothing of what is refused is done");
    assert_eq!(members(notes, "a").await, [""; 0]);

    let (name, value) = ("é".repeat(MAX_NAME_LENGTH / 2), "x".repeat(MAX_NOTE_LENGTH));
    assert!(notes.swap_note(&name, None, Some(&value)).await.unwrap());
    assert_eq!(notes.note(&name).await.unwrap(), Some(value.clone()));
    notes.put_jobs(&name, &[job(&name, &value)]).await.unwrap();
    assert_eq!(notes.jobs(&name, 1).await.unwrap(), (vec![job(&name, &value)], 1));
}

async fn names_are_verbatim_and_of_their_kind(bench: Bench) {
    for name in ["a", "a:b:c", "a b", "100%", "日本 🦀", "a\"b'c\\", "*?[x]", "{tag} x", "{", "m:logout:acme:a"] {
        notes_work(&*bench.notes, name).await.unwrap();
    }
}

async fn activity_is_forgotten_unless_it_is_later(bench: Bench) {
    let store = &bench.store;
    let seen: Vec<_> = (0..1500).map(|number| (subject(&format!("user {number}")), time(number))).collect();
    store.record_activity(&seen).await.unwrap();
    store.forget_activity(&[]).await.unwrap();
    // Every third at its very time, every third before it, every third not at all.
    let forgotten: Vec<_> = seen
        .iter()
        .enumerate()
        .filter_map(|(number, (subject, at))| match number % 3 {
            0 => Some((subject.clone(), *at)),
            1 => Some((subject.clone(), at.minus(Duration::from_millis(1)))),
            _ => None,
        })
        .collect();
    store.forget_activity(&forgotten).await.unwrap();
    for (number, (subject, at)) in seen.iter().enumerate() {
        let expected = (number % 3 != 0).then_some(*at);
        assert_eq!(store.last_activity(subject).await.unwrap(), expected, "{number}");
    }
    let (anna, elsewhere) = (subject("anna"), "other".try_into().unwrap());
    let other = portcullis::token::claims::Subject { issuer: elsewhere, id: anna.id.clone() };
    store.record_activity(&[(anna.clone(), time(1)), (other.clone(), time(1))]).await.unwrap();
    store.forget_activity(&[(anna.clone(), time(5)), (subject("nobody"), time(5))]).await.unwrap();
    assert_eq!(store.last_activity(&anna).await.unwrap(), None);
    assert_eq!(store.last_activity(&other).await.unwrap(), Some(time(1)), "only one of them was meant");
}

async fn after_close_notes_are_unavailable(bench: Bench) {
    let notes = &*bench.notes;
    notes_work(notes, "a").await.unwrap();
    bench.store.close().await;
    let unavailable = |result: Result<(), StoreError>, what: &str| {
        assert!(matches!(result, Err(StoreError::Unavailable { .. })), "{what}: {result:?}");
    };
    unavailable(notes.seen("a", &[event(1)]).await.map(drop), "seen");
    unavailable(notes.remember("a", &[event(1)], 1).await, "remember");
    unavailable(notes.note("a").await.map(drop), "note");
    unavailable(notes.swap_note("a", None, None).await.map(drop), "swap_note");
    unavailable(notes.lease("a", "a", LONG).await.map(drop), "lease");
    unavailable(notes.release("a", "a").await, "release");
    unavailable(notes.leader("a").await.map(drop), "leader");
    unavailable(notes.put_jobs("a", &[job("a", "a")]).await, "put_jobs");
    unavailable(notes.jobs("a", 1).await.map(drop), "jobs");
    unavailable(notes.remove_jobs("a", &["a".to_owned()]).await, "remove_jobs");
    unavailable(notes.add_members(&[job("a", "a")], LONG).await, "add_members");
    unavailable(notes.members("a").await.map(drop), "members");
    unavailable(notes.remove_set("a").await, "remove_set");
    unavailable(bench.store.forget_activity(&[(subject("a"), time(1))]).await, "forget_activity");
}
