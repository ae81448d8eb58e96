//! Sessions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis::{
    clock::Timestamp,
    session::SessionKey,
    store::{
        Sessions, Store, StoreError,
        sessions::{MAX_SESSIONS, Opening, StoredSession},
    },
    token::claims::{SessionId, Subject},
};
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::{runtime::Runtime, task::JoinSet};

use super::super::{Bench, Home, now, open_redis, sqlite, subject, time};
use crate::support::{eventually, watcher::Recorder};

suite![
    what_nobody_came_upon_is_not_there,
    a_session_is_kept_as_it_was_first_come_upon,
    of_many_who_come_upon_a_session_at_once_one_is_first,
    a_later_login_that_is_told_begins_anew,
    of_many_who_tell_of_a_login_at_once_one_is_first,
    activity_of_sessions_never_goes_back,
    activity_of_sessions_tells_what_was_recorded_before,
    who_may_have_been_active_last_leaves_a_trace,
    large_batches_of_sessions_are_recorded,
    activity_outlives_a_new_login,
    what_is_not_idle_is_not_forgotten,
    a_session_is_kept_longer_but_never_shorter,
    a_session_is_gone_when_its_time_is_over,
    what_cannot_be_read_is_absent_and_replaced,
    ids_of_sessions_are_verbatim,
    pages_are_in_order_without_gaps_or_repetition,
    of_too_many_sessions_the_first_are_forgotten,
    issuers_and_subjects_are_kept_apart,
    limits_are_kept_and_the_first_stay,
    after_close_sessions_are_unavailable,
];

/// How far clocks are apart.
const SKEW: Duration = Duration::from_secs(1);

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn id(text: &str) -> SessionId {
    text.try_into().unwrap()
}

fn key(subject: &Subject, session: &str) -> SessionKey {
    SessionKey { subject: subject.clone(), id: id(session) }
}

/// Somebody comes upon a session of Anna's that began ten seconds ago, of which the token does not say so.
fn opening(session: &str) -> Opening {
    let at = now();
    Opening {
        key: key(&subject("anna"), session),
        started: at.minus(Duration::from_secs(10)),
        told: false,
        at,
        until: at.plus(DAY),
        limits: "v1".into(),
        client: Some("app".try_into().unwrap()),
        gateway: "one".into(),
    }
}

/// What is kept if that is new.
fn anew(opening: &Opening) -> StoredSession {
    StoredSession {
        started: opening.started,
        opened: opening.at,
        active: opening.at,
        until: opening.until,
        limits: Arc::clone(&opening.limits),
        client: opening.client.clone(),
        gateway: Arc::clone(&opening.gateway),
    }
}

async fn open(bench: &Bench, opening: &Opening) -> StoredSession {
    bench.store.sessions().open_session(opening).await.unwrap()
}

async fn read(bench: &Bench, key: &SessionKey) -> Option<StoredSession> {
    bench.store.sessions().session(key).await.unwrap()
}

async fn page(bench: &Bench, subject: &Subject) -> Vec<(SessionId, StoredSession)> {
    bench.store.sessions().sessions_of(subject, None, usize::MAX).await.unwrap()
}

async fn record(bench: &Bench, batch: &[(SessionKey, Timestamp)]) {
    bench.store.sessions().record_session_activity(batch, SKEW).await.unwrap();
}

/// The store as several gateways have it, as far as there can be several.
async fn gateways(bench: &Bench) -> Vec<Arc<dyn Store>> {
    let mut stores = vec![Arc::clone(&bench.store)];
    if let Home::Server(server) = &bench.home {
        for _ in 0..2 {
            stores.push(open_redis(&server.url(), &Recorder::new()).await);
        }
    }
    stores
}

/// What each of these is told if they come at once.
async fn open_at_once(bench: &Bench, openings: Vec<Opening>) -> Vec<StoredSession> {
    let stores = gateways(bench).await;
    let mut tasks = JoinSet::new();
    for (number, opening) in openings.into_iter().enumerate() {
        let store = Arc::clone(&stores[number % stores.len()]);
        tasks.spawn(async move { store.sessions().open_session(&opening).await.unwrap() });
    }
    tasks.join_all().await
}

/// Each method once, about a subject and a session of this one's own.
pub(in super::super) async fn sessions_work(sessions: &dyn Sessions, name: &str) -> Result<(), StoreError> {
    let opening = Opening { key: key(&subject(name), name), ..opening(name) };
    let kept = sessions.open_session(&opening).await?;
    assert_eq!(kept, anew(&opening));
    let active = opening.at.plus(Duration::from_secs(5));
    sessions.record_session_activity(&[(opening.key.clone(), active)], SKEW).await?;
    let kept = StoredSession { active, ..kept };
    assert_eq!(sessions.open_session(&opening).await?, kept);
    assert_eq!(sessions.session(&opening.key).await?, Some(kept.clone()));
    assert_eq!(sessions.sessions_of(&opening.key.subject, None, 10).await?, [(id(name), kept.clone())]);
    let longer = Opening { until: opening.until.plus(DAY), ..opening.clone() };
    assert_eq!(sessions.open_session(&longer).await?, StoredSession { until: longer.until, ..kept });
    sessions.forget_idle_sessions(&opening.key.subject.issuer, active.plus(DAY)).await?;
    sessions.keep_limits(name, "{}").await?;
    assert_eq!(sessions.limits(name).await?.as_deref(), Some("{}"));
    Ok(())
}

/// Leaves something of every kind behind; it is what `kept_sessions` finds.
pub(in super::super) async fn keep_sessions(sessions: &dyn Sessions) -> (Opening, Timestamp) {
    let opening = opening("kept");
    sessions.open_session(&opening).await.unwrap();
    let active = opening.at.plus(Duration::from_secs(5));
    sessions.record_session_activity(&[(opening.key.clone(), active)], SKEW).await.unwrap();
    sessions.keep_limits("v1", "{}").await.unwrap();
    (opening, active)
}

pub(in super::super) async fn kept_sessions(sessions: &dyn Sessions, (opening, active): (Opening, Timestamp)) {
    let kept = Some(StoredSession { active, ..anew(&opening) });
    assert_eq!(sessions.session(&opening.key).await.unwrap(), kept);
    assert_eq!(sessions.limits("v1").await.unwrap().as_deref(), Some("{}"));
}

async fn what_nobody_came_upon_is_not_there(bench: Bench) {
    assert_eq!(read(&bench, &key(&subject("anna"), "a")).await, None);
    assert_eq!(page(&bench, &subject("anna")).await, []);
    assert_eq!(bench.store.sessions().limits("v1").await.unwrap(), None);
    record(&bench, &[]).await;
}

async fn a_session_is_kept_as_it_was_first_come_upon(bench: Bench) {
    let first = opening("a");
    let kept = open(&bench, &first).await;
    assert_eq!(kept, anew(&first), "who was never active was so when it was opened");
    let later = Opening {
        started: first.started.minus(HOUR),
        at: first.at.plus(HOUR),
        limits: "v2".into(),
        client: None,
        gateway: "two".into(),
        ..first.clone()
    };
    assert_eq!(open(&bench, &later).await, kept);
    assert_eq!(read(&bench, &first.key).await, Some(kept.clone()));
    assert_eq!(page(&bench, &first.key.subject).await, [(id("a"), kept)]);
    let nameless = Opening { client: None, gateway: "".into(), limits: "".into(), ..opening("b") };
    assert_eq!(open(&bench, &nameless).await, anew(&nameless));
    assert_eq!(read(&bench, &nameless.key).await, Some(anew(&nameless)));
    let odd = Opening { gateway: "a\nb \u{1}ü".into(), limits: "l m 1\n".into(), ..opening("c") };
    assert_eq!(open(&bench, &odd).await, anew(&odd));
    assert_eq!(read(&bench, &odd.key).await, Some(anew(&odd)));
}

async fn of_many_who_come_upon_a_session_at_once_one_is_first(bench: Bench) {
    for round in 0..5 {
        let first = opening(&format!("session {round}"));
        let openings: Vec<_> = (0..24_u32)
            .map(|number| Opening {
                started: first.started.minus(Duration::from_millis(number.into())),
                limits: format!("v{number}").into(),
                gateway: format!("gateway {number}").into(),
                ..first.clone()
            })
            .collect();
        let told = open_at_once(&bench, openings.clone()).await;
        assert!(told.iter().all(|kept| *kept == told[0]), "{told:?}");
        assert!(openings.iter().any(|opening| anew(opening) == told[0]), "{:?} is nobody's", told[0]);
        assert_eq!(read(&bench, &first.key).await.as_ref(), Some(&told[0]));
    }
}

async fn a_later_login_that_is_told_begins_anew(bench: Bench) {
    let first = Opening { told: true, ..opening("a") };
    let kept = open(&bench, &first).await;
    let later = Opening {
        started: first.started.plus(HOUR),
        at: first.at.plus(HOUR),
        until: first.until.minus(HOUR),
        limits: "v2".into(),
        client: None,
        gateway: "two".into(),
        ..first.clone()
    };
    let untold = Opening { told: false, ..later.clone() };
    assert_eq!(open(&bench, &untold).await, kept, "nobody says so");
    let earlier = Opening { started: first.started.minus(HOUR), ..later.clone() };
    assert_eq!(open(&bench, &earlier).await, kept, "a token of before");
    let same = Opening { started: first.started, ..later.clone() };
    assert_eq!(open(&bench, &same).await, kept, "the same login");
    let anew = StoredSession { until: first.until, ..anew(&later) };
    assert_eq!(open(&bench, &later).await, anew, "kept no shorter than before");
    assert_eq!(open(&bench, &first).await, anew, "a token of before");
    assert_eq!(read(&bench, &first.key).await, Some(anew));
}

async fn of_many_who_tell_of_a_login_at_once_one_is_first(bench: Bench) {
    let first = opening("a");
    open(&bench, &first).await;
    let openings: Vec<_> = (0..24_u32)
        .map(|number| Opening {
            told: true,
            started: first.started.plus(HOUR),
            at: first.at.plus(HOUR),
            gateway: format!("gateway {number}").into(),
            ..first.clone()
        })
        .collect();
    let told = open_at_once(&bench, openings).await;
    assert!(told.iter().all(|kept| *kept == told[0] && *kept.gateway != *first.gateway), "{told:?}");
}

async fn activity_of_sessions_never_goes_back(bench: Bench) {
    let (a, b) = (opening("a"), opening("b"));
    let at = |seconds| a.at.plus(Duration::from_secs(seconds));
    open(&bench, &a).await;
    open(&bench, &b).await;
    let active = async |opening: &Opening| read(&bench, &opening.key).await.unwrap().active;
    record(&bench, &[(a.key.clone(), a.at.minus(HOUR))]).await;
    assert_eq!(active(&a).await, a.at, "not before it was opened");
    record(&bench, &[(a.key.clone(), at(5)), (b.key.clone(), at(1)), (a.key.clone(), at(3))]).await;
    assert_eq!(active(&a).await, at(5), "within one batch");
    record(&bench, &[(a.key.clone(), at(4)), (b.key.clone(), at(2))]).await;
    assert_eq!([active(&a).await, active(&b).await], [at(5), at(2)]);
    assert_eq!(open(&bench, &a).await, StoredSession { active: at(5), ..anew(&a) });
    let actives: Vec<_> = page(&bench, &a.key.subject).await.into_iter().map(|(_, kept)| kept.active).collect();
    assert_eq!(actives, [at(5), at(2)]);
    record(&bench, &[(key(&subject("anna"), "nobody came upon it"), at(1))]).await;
    assert_eq!(page(&bench, &a.key.subject).await.len(), 2, "that alone keeps no session");
}

async fn activity_of_sessions_tells_what_was_recorded_before(bench: Bench) {
    let (a, b) = (opening("a"), opening("b"));
    open(&bench, &a).await;
    open(&bench, &b).await;
    let at = |seconds| a.at.plus(Duration::from_secs(seconds));
    let entry = |opening: &Opening, seconds| (opening.key.clone(), at(seconds));
    let before = async |batch: &[_]| bench.store.sessions().record_session_activity(batch, SKEW).await.unwrap();
    assert_eq!(before(&[]).await, []);
    assert_eq!(before(&[entry(&a, 5), entry(&b, 6)]).await, [None, None], "opened only");
    let batch = [entry(&b, 9), entry(&a, 10), entry(&a, 20), entry(&b, 2)];
    assert_eq!(before(&batch).await, [at(6), at(5), at(10), at(9)].map(Some), "in the order of the batch");
    assert_eq!(before(&[entry(&a, 1)]).await, [Some(at(20))]);
}

/// Whoever recorded a time must see that another one, whose clock may be behind, did so too.
async fn who_may_have_been_active_last_leaves_a_trace(bench: Bench) {
    let first = opening("a");
    open(&bench, &first).await;
    let at = |millis: u64| first.at.plus(HOUR + Duration::from_millis(millis));
    let record = async |millis| {
        let batch = [(first.key.clone(), at(millis))];
        bench.store.sessions().record_session_activity(&batch, SKEW).await.unwrap();
        read(&bench, &first.key).await.unwrap().active
    };
    assert_eq!(record(5000).await, at(5000));
    assert_eq!(record(4000).await, at(5000), "a skew before: that was no later");
    assert_eq!(record(4001).await, at(5001));
    assert_eq!(record(5001).await, at(5002), "at the very same time");
    assert_eq!(record(5003).await, at(5003), "later");
    assert_eq!(record(4003).await, at(5003));
}

async fn large_batches_of_sessions_are_recorded(bench: Bench) {
    let ids: Vec<_> = (0..40).map(|number| opening(&format!("session {number}"))).collect();
    for opening in &ids {
        open(&bench, opening).await;
    }
    let at = |number: usize| ids[0].at.plus(Duration::from_secs(60 + number as u64));
    let batch: Vec<_> = (0..2500).map(|number| (ids[number % 40].key.clone(), at(number))).collect();
    record(&bench, &batch).await;
    for (number, opening) in ids.iter().enumerate() {
        let last = 2480 + number - if number < 20 { 0 } else { 40 };
        assert_eq!(read(&bench, &opening.key).await.unwrap().active, at(last), "{number}");
    }
}

async fn activity_outlives_a_new_login(bench: Bench) {
    let first = opening("a");
    open(&bench, &first).await;
    let active = first.at.plus(2 * HOUR);
    record(&bench, &[(first.key.clone(), active)]).await;
    let again = Opening { told: true, started: first.at, at: first.at.plus(HOUR), ..first };
    assert_eq!(open(&bench, &again).await, StoredSession { active, ..anew(&again) });
}

async fn what_is_not_idle_is_not_forgotten(bench: Bench) {
    let openings: Vec<_> = (0..200).map(|number| opening(&format!("session {number}"))).collect();
    let at = |number: usize| openings[0].at.plus(Duration::from_secs(60 + number as u64));
    for opening in &openings {
        open(&bench, opening).await;
    }
    let batch: Vec<_> = openings.iter().enumerate().map(|(n, opening)| (opening.key.clone(), at(n))).collect();
    record(&bench, &batch).await;
    let sessions = bench.store.sessions();
    sessions.forget_idle_sessions(&"other".try_into().unwrap(), at(1000)).await.unwrap();
    sessions.forget_idle_sessions(&"acme".try_into().unwrap(), at(100)).await.unwrap();
    for (number, opening) in openings.iter().enumerate() {
        let active = read(&bench, &opening.key).await.expect("the session stays").active;
        let forgotten = number < 100 && matches!(bench.home, Home::Server(_));
        assert_eq!(active, if forgotten { opening.at } else { at(number) }, "{number}");
    }
}

async fn a_session_is_kept_longer_but_never_shorter(bench: Bench) {
    let first = opening("a");
    let kept = open(&bench, &first).await;
    let until = |until: Timestamp| Opening { until, ..first.clone() };
    assert_eq!(open(&bench, &until(first.at.plus(HOUR))).await, kept, "not shorter");
    assert_eq!(open(&bench, &until(first.until.plus(HOUR))).await, kept, "not worth a write");
    let longer = first.until.plus(HOUR + Duration::from_millis(1));
    let prolonged = StoredSession { until: longer, ..kept };
    assert_eq!(open(&bench, &until(longer)).await, prolonged);
    assert_eq!(read(&bench, &first.key).await, Some(prolonged.clone()));
    assert_eq!(open(&bench, &first).await, prolonged);
    // What is kept for a moment only shortens nothing of the same subject's.
    let brief = Opening { until: now().plus(Duration::from_millis(200)), ..opening("b") };
    open(&bench, &brief).await;
    eventually("it is gone", async || read(&bench, &brief.key).await.is_none()).await;
    assert_eq!(read(&bench, &first.key).await, Some(prolonged));
    let extreme = Opening { until: Timestamp::MAX, ..opening("c") };
    open(&bench, &extreme).await;
    assert!(read(&bench, &extreme.key).await.unwrap().until > now().plus(1000 * 365 * DAY));
}

async fn a_session_is_gone_when_its_time_is_over(bench: Bench) {
    let long = opening("long");
    open(&bench, &long).await;
    for (name, subject) in [("alone", "bert"), ("beside", "anna")] {
        let until = now().plus(Duration::from_millis(500));
        let first = Opening { key: key(&super::super::subject(subject), name), until, ..opening(name) };
        open(&bench, &first).await;
        record(&bench, &[(first.key.clone(), first.at.plus(HOUR))]).await;
        assert!(read(&bench, &first.key).await.is_some() || now() >= until, "it is kept");
        eventually("it is gone", async || read(&bench, &first.key).await.is_none()).await;
        assert!(now() >= until.minus(Duration::from_millis(5)), "it went early");
        assert!(page(&bench, &first.key.subject).await.iter().all(|(id, _)| *id != first.key.id));
        let again = Opening { gateway: "two".into(), limits: "v2".into(), until: now().plus(DAY), ..opening(name) };
        let again = Opening { key: first.key.clone(), ..again };
        assert_eq!(open(&bench, &again).await.gateway, again.gateway, "as if it were new");
        assert_eq!(read(&bench, &first.key).await.unwrap().opened, again.at);
    }
    assert_eq!(read(&bench, &long.key).await, Some(anew(&long)));
    let over = Opening { until: time(0), ..opening("over") };
    assert_eq!(open(&bench, &over).await, anew(&over));
    assert_eq!(read(&bench, &over.key).await, None);
}

/// Puts something in the place of a session past the store.
fn spoil(bench: &Bench, key: &SessionKey, session: &[u8], origin: Option<&[u8]>) {
    match &bench.home {
        Home::Directory(directory) => {
            // Whatever else is in the way of reading it, columns have their types.
            let (column, value) = origin.map_or(("limits", session), |origin| ("client", origin));
            let update = format!("UPDATE sessions SET {column} = CAST(?1 AS TEXT) WHERE id = ?2");
            assert_eq!(sqlite(directory.path()).execute(&update, (value, key.id.as_str())).unwrap(), 1);
        }
        Home::Server(server) => {
            let name = format!("portcullis:sessions:acme:{}", key.subject.id.as_str());
            let (id, from) = (key.id.as_str(), format!("\u{1}{}", key.id.as_str()));
            let mut client = server.client();
            ::redis::cmd("HSET").arg(&name).arg(id).arg(session).exec(&mut client).unwrap();
            match origin {
                Some(origin) => ::redis::cmd("HSET").arg(&name).arg(from).arg(origin).exec(&mut client).unwrap(),
                None => ::redis::cmd("HDEL").arg(&name).arg(from).exec(&mut client).unwrap(),
            }
        }
    }
}

async fn what_cannot_be_read_is_absent_and_replaced(bench: Bench) {
    let at = now().as_millis();
    let good = format!("{at} 0 86400000 v1");
    let strange = format!("{at} 0 86400000 \u{fffd}").replace('\u{fffd}', "");
    let not_text = [strange.as_bytes(), b"\xff"].concat();
    let far = format!("{at} 99999999999999999999 0 v1");
    let cases: [(&[u8], Option<&[u8]>); 8] = [
        (b"\xff", None),
        (b"\xff\xfe", Some(b"\xff")),
        (&not_text, Some(b"\xff")),
        (b"{}", Some(b"\x02\n")),
        (good.as_bytes(), Some(b"a\x02b\ngateway")),
        (good.as_bytes(), Some(b"\xff\ngateway")),
        (far.as_bytes(), Some(b"\x02")),
        (b"-5 0 0 v1", Some(b"\x02")),
    ];
    for (number, (session, origin)) in cases.into_iter().enumerate() {
        let first = opening(&format!("session {number}"));
        open(&bench, &first).await;
        spoil(&bench, &first.key, session, origin);
        assert_eq!(read(&bench, &first.key).await, None, "{number}");
        assert!(page(&bench, &first.key.subject).await.iter().all(|(id, _)| *id != first.key.id), "{number}");
        let again = Opening { gateway: "two".into(), ..opening(&format!("session {number}")) };
        assert_eq!(open(&bench, &again).await, anew(&again), "{number}");
        assert_eq!(read(&bench, &first.key).await, Some(anew(&again)), "{number}");
    }
    assert_eq!(page(&bench, &subject("anna")).await.len(), cases.len());
}

async fn ids_of_sessions_are_verbatim(bench: Bench) {
    let longest = subject(&"é".repeat(127));
    let long = subject(&"x".repeat(255));
    let ids =
        ["auth0|1", "a:b:c", "a b", "100%", "%3A", "日本 🦀", "a\"b'c\\", "*?[x]", "{tag}", "1", &"x".repeat(255)];
    let mut keys: Vec<_> = ids.iter().map(|id| key(&subject(id), id)).collect();
    keys.extend(ids.iter().map(|id| key(&subject("anna"), &format!("{}2", &id[..id.len() - id.len() / 255]))));
    for subject in [longest, long] {
        let id = SessionId::of_login(&subject.id, now());
        keys.push(SessionKey { subject, id });
    }
    let mut kept = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        let opening = Opening { key: key.clone(), gateway: format!("gateway {number}").into(), ..opening("a") };
        assert_eq!(read(&bench, key).await, None, "{key:?}");
        assert_eq!(open(&bench, &opening).await, anew(&opening));
        let active = opening.at.plus(Duration::from_secs(number as u64));
        record(&bench, &[(key.clone(), active)]).await;
        kept.push(StoredSession { active, ..anew(&opening) });
    }
    for (key, kept) in keys.iter().zip(&kept) {
        assert_eq!(read(&bench, key).await.as_ref(), Some(kept), "{key:?}");
        assert!(page(&bench, &key.subject).await.contains(&(key.id.clone(), kept.clone())), "{key:?}");
    }
    assert_eq!(page(&bench, &subject("anna")).await.len(), ids.len());
}

async fn pages_are_in_order_without_gaps_or_repetition(bench: Bench) {
    let ids: BTreeSet<_> = (0..137_u32).map(|n| id(&format!("{:x}é{n}", n.wrapping_mul(0x9e37_79b9)))).collect();
    for (number, session) in ids.iter().enumerate() {
        let opening = Opening { key: SessionKey { subject: subject("anna"), id: session.clone() }, ..opening("a") };
        open(&bench, &opening).await;
        record(&bench, &[(opening.key, opening.at.plus(Duration::from_secs(number as u64)))]).await;
    }
    let all = page(&bench, &subject("anna")).await;
    assert!(all.iter().map(|(id, _)| id).eq(&ids));
    for limit in [1, 10, 137, 1000] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = bench.store.sessions().sessions_of(&subject("anna"), after.as_ref(), limit).await.unwrap();
            assert!(page.len() <= limit);
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            found.extend(page);
        }
        assert_eq!(found, all, "{limit} at a time");
    }
    assert_eq!(bench.store.sessions().sessions_of(&subject("anna"), None, 0).await.unwrap(), []);
    let nowhere = id(&format!("{}!", all[9].0.as_str()));
    let page = bench.store.sessions().sessions_of(&subject("anna"), Some(&nowhere), 1).await.unwrap();
    assert_eq!(page[0].0, all[10].0, "after one that is not there any more");
}

async fn of_too_many_sessions_the_first_are_forgotten(bench: Bench) {
    let at = now();
    let number = |number: usize| {
        // Not in the order of the numbers, and the last of two that were opened at once.
        let name = format!("{:08x}", u32::try_from(number).unwrap().wrapping_mul(0x9e37_79b9));
        let millis = Duration::from_millis(number as u64 / 2);
        Opening { at: at.plus(millis), until: at.plus(DAY), ..opening(&name) }
    };
    let until = now().plus(Duration::from_millis(300));
    open(&bench, &Opening { until, ..number(500) }).await;
    for each in (0..MAX_SESSIONS).filter(|each| *each != 500) {
        open(&bench, &number(each)).await;
    }
    let other = Opening { key: key(&subject("bert"), "b"), at: at.minus(DAY), ..opening("b") };
    open(&bench, &other).await;
    eventually("one is over", async || now() > until).await;
    let names = async || page(&bench, &subject("anna")).await.into_iter().map(|(id, _)| id).collect::<BTreeSet<_>>();
    let numbers = |range: std::ops::Range<usize>| {
        range.filter(|each| *each != 500).map(|each| number(each).key.id).collect::<BTreeSet<_>>()
    };
    assert_eq!(names().await, numbers(0..MAX_SESSIONS));
    open(&bench, &number(MAX_SESSIONS)).await;
    assert_eq!(names().await, numbers(0..MAX_SESSIONS + 1), "there was room");
    let first_of_two = |a: usize| if number(a).key.id < number(a + 1).key.id { a } else { a + 1 };
    open(&bench, &number(MAX_SESSIONS + 1)).await;
    let mut expected = numbers(0..MAX_SESSIONS + 2);
    expected.remove(&number(first_of_two(0)).key.id);
    assert_eq!(names().await, expected, "of two the one with the lower id");
    open(&bench, &number(MAX_SESSIONS + 2)).await;
    assert_eq!(names().await, numbers(2..MAX_SESSIONS + 3));
    let early = Opening { at: at.minus(DAY), ..opening("early") };
    assert_eq!(open(&bench, &early).await, anew(&early));
    assert_eq!(read(&bench, &early.key).await, Some(anew(&early)), "what has just been opened is kept");
    assert_eq!(names().await.len(), MAX_SESSIONS);
    assert!(read(&bench, &other.key).await.is_some(), "somebody else's are");
}

async fn issuers_and_subjects_are_kept_apart(bench: Bench) {
    let (anna, bert) = (subject("anna"), subject("bert"));
    let elsewhere = Subject { issuer: "other".try_into().unwrap(), id: anna.id.clone() };
    let of = |subject: &Subject, session: &str, gateway: &str| Opening {
        key: key(subject, session),
        gateway: gateway.into(),
        ..opening(session)
    };
    let openings = [of(&anna, "a", "one"), of(&elsewhere, "a", "two"), of(&bert, "b", "three")];
    for opening in &openings {
        assert_eq!(open(&bench, opening).await, anew(opening));
    }
    let later = now().plus(HOUR);
    record(&bench, &[(openings[1].key.clone(), later), (key(&bert, "a"), now().plus(Duration::ZERO))]).await;
    assert_eq!(read(&bench, &openings[1].key).await.unwrap().active, later);
    for opening in [&openings[0], &openings[2]] {
        assert!(read(&bench, &opening.key).await.unwrap().active < later);
        assert_eq!(page(&bench, &opening.key.subject).await.len(), 1);
    }
    assert_eq!(read(&bench, &key(&bert, "a")).await, None, "not his");
    let taken = of(&bert, "a", "four");
    assert_eq!(open(&bench, &taken).await.gateway, taken.gateway, "it is his now");
    assert_eq!(page(&bench, &bert).await.len(), 2);
    assert_eq!(read(&bench, &openings[1].key).await.unwrap().gateway, openings[1].gateway);
}

async fn limits_are_kept_and_the_first_stay(bench: Bench) {
    let sessions = bench.store.sessions();
    sessions.keep_limits("v1", "{\"a\":1}").await.unwrap();
    sessions.keep_limits("v1", "{\"a\":2}").await.unwrap();
    sessions.keep_limits("v2", "ü").await.unwrap();
    assert_eq!(sessions.limits("v1").await.unwrap().as_deref(), Some("{\"a\":1}"));
    assert_eq!(sessions.limits("v2").await.unwrap().as_deref(), Some("ü"));
    assert_eq!(sessions.limits("v3").await.unwrap(), None);
    assert_eq!(bench.notes.note("v1").await.unwrap(), None, "they are no notes");
    let refused = |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::Refused { .. })));
    refused(sessions.keep_limits("", "{}").await);
    refused(sessions.keep_limits("v\n", "{}").await);
    refused(sessions.keep_limits("v4", &"x".repeat(64 * 1024 + 1)).await);
    refused(sessions.limits("").await.map(drop));
}

async fn after_close_sessions_are_unavailable(bench: Bench) {
    let sessions = bench.store.sessions();
    sessions_work(sessions, "a").await.unwrap();
    let opening = opening("a");
    bench.store.close().await;
    let unavailable = |result: Result<(), StoreError>, what: &str| {
        assert!(matches!(result, Err(StoreError::Unavailable { .. })), "{what}: {result:?}");
    };
    unavailable(sessions.open_session(&opening).await.map(drop), "open_session");
    unavailable(sessions.session(&opening.key).await.map(drop), "session");
    unavailable(sessions.sessions_of(&opening.key.subject, None, 1).await.map(drop), "sessions_of");
    unavailable(
        sessions.record_session_activity(&[(opening.key, now())], SKEW).await.map(drop),
        "record_session_activity",
    );
    unavailable(sessions.forget_idle_sessions(&"acme".try_into().unwrap(), now()).await, "forget_idle_sessions");
    unavailable(sessions.keep_limits("v1", "{}").await, "keep_limits");
    unavailable(sessions.limits("v1").await.map(drop), "limits");
}

/// What happens to one of a few sessions.
#[derive(Clone, Debug)]
enum Step {
    Open { session: usize, started: u64, told: bool, hours: u64 },
    Active { session: usize, after: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let open = (0..4_usize, 0..5_u64, any::<bool>(), 1..6_u64).prop_map(|(session, started, told, hours)| Step::Open {
        session,
        started,
        told,
        hours,
    });
    let active = (0..4_usize, 0..40_u64).prop_map(|(session, after)| Step::Active { session, after });
    prop::collection::vec(prop_oneof![open, active], 1..25)
}

/// The rules, as they would be without any store.
fn expected(kept: Option<&StoredSession>, opening: &Opening) -> StoredSession {
    match kept {
        None => anew(opening),
        Some(kept) if opening.told && opening.started > kept.started => {
            StoredSession { active: kept.active.max(opening.at), until: kept.until.max(opening.until), ..anew(opening) }
        }
        Some(kept) if opening.until.since(kept.until) > HOUR => StoredSession { until: opening.until, ..kept.clone() },
        Some(kept) => kept.clone(),
    }
}

fn any_steps_lead_to_what_the_rules_say(runtime: &Runtime, store: &dyn Store) {
    let (begin, subjects) = (now(), AtomicUsize::new(0));
    let mut runner = TestRunner::new(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() });
    runner
        .run(&steps(), |steps| {
            let number = subjects.fetch_add(1, Ordering::SeqCst);
            let issuer = format!("i{number}").as_str().try_into().unwrap();
            let anna = Subject { issuer, id: "anna".try_into().unwrap() };
            let mut model = BTreeMap::<SessionId, StoredSession>::new();
            let at = |seconds: u64| begin.plus(Duration::from_secs(seconds));
            for (turn, step) in (0..).zip(steps) {
                match step {
                    Step::Open { session, started, told, hours } => {
                        let opening = Opening {
                            key: key(&anna, &session.to_string()),
                            started: at(started),
                            told,
                            at: at(10 + turn),
                            until: begin.plus(DAY + u32::try_from(hours).unwrap() * HOUR / 2),
                            limits: format!("v{turn}").into(),
                            client: None,
                            gateway: format!("gateway {turn}").into(),
                        };
                        let kept = expected(model.get(&opening.key.id), &opening);
                        let told = runtime.block_on(store.sessions().open_session(&opening)).unwrap();
                        prop_assert_eq!(&told, &kept);
                        model.insert(opening.key.id, kept);
                    }
                    Step::Active { session, after } => {
                        let key = key(&anna, &session.to_string());
                        let Some(kept) = model.get_mut(&key.id) else { continue };
                        kept.active = kept.active.max(at(after));
                        runtime
                            .block_on(store.sessions().record_session_activity(&[(key, at(after))], Duration::ZERO))
                            .unwrap();
                    }
                }
            }
            let page = runtime.block_on(store.sessions().sessions_of(&anna, None, 10)).unwrap();
            prop_assert_eq!(page, model.into_iter().collect::<Vec<_>>());
            Ok(())
        })
        .unwrap();
}

#[test]
fn any_steps_lead_to_what_the_rules_say_embedded() {
    let runtime = Runtime::new().unwrap();
    let bench = Bench::embedded();
    any_steps_lead_to_what_the_rules_say(&runtime, &*bench.store);
}

#[test]
fn any_steps_lead_to_what_the_rules_say_redis() {
    let runtime = Runtime::new().unwrap();
    if let Some(bench) = runtime.block_on(Bench::redis()) {
        any_steps_lead_to_what_the_rules_say(&runtime, &*bench.store);
    }
}
