use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicUsize},
};

use tempfile::TempDir;

use super::*;
use crate::{
    activity::{ActivitySettings, Recorder, upkeep::UpkeepSettings},
    clock::{Clock, ManualClock},
    inactive::{
        exclusion::Exclusions,
        progress::Progress,
        records::Direct,
        report::{Line, Lines, Report},
    },
    management::{listing::Listing, observer::Observer},
    marker::{
        Retention,
        cache::{MarkerCache, MarkerSettings},
        ledger::Ledger,
    },
    store::{
        Notes, Store, StoreError, Watcher,
        embedded::{EmbeddedSettings, EmbeddedStore},
        notes::NoteDigest,
    },
    token::claims::Subject,
};

const NOW: Timestamp = Timestamp::from_millis(1_763_700_000_000);
const DAY: Duration = Duration::from_secs(86_400);
const USERS: usize = 12;
const LIMIT: u64 = 5;

/// Notes that take so many writes and no more, as if whoever writes were gone.
#[derive(Debug)]
struct Mortal {
    notes: Arc<EmbeddedStore>,
    left: AtomicUsize,
}

impl Mortal {
    fn write(&self) -> Result<(), StoreError> {
        let spent = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        spent.map(drop).map_err(|_| StoreError::timed_out(&"notes".into()))
    }
}

#[async_trait]
impl Notes for Mortal {
    async fn seen(&self, source: &str, events: &[NoteDigest]) -> Result<Vec<bool>, StoreError> {
        self.notes.seen(source, events).await
    }

    async fn remember(&self, source: &str, events: &[NoteDigest], capacity: usize) -> Result<(), StoreError> {
        self.notes.remember(source, events, capacity).await
    }

    async fn note(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.notes.note(name).await
    }

    async fn swap_note(&self, name: &str, expected: Option<&str>, value: Option<&str>) -> Result<bool, StoreError> {
        self.write()?;
        self.notes.swap_note(name, expected, value).await
    }

    async fn lease(&self, name: &str, owner: &str, term: Duration) -> Result<bool, StoreError> {
        self.write()?;
        self.notes.lease(name, owner, term).await
    }

    async fn release(&self, name: &str, owner: &str) -> Result<(), StoreError> {
        self.notes.release(name, owner).await
    }

    async fn leader(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.notes.leader(name).await
    }

    async fn put_jobs(&self, queue: &str, jobs: &[(String, String)]) -> Result<(), StoreError> {
        self.write()?;
        self.notes.put_jobs(queue, jobs).await
    }

    async fn jobs(&self, queue: &str, limit: usize) -> Result<(Vec<(String, String)>, usize), StoreError> {
        self.notes.jobs(queue, limit).await
    }

    async fn remove_jobs(&self, queue: &str, ids: &[String]) -> Result<(), StoreError> {
        self.write()?;
        self.notes.remove_jobs(queue, ids).await
    }

    async fn add_members(&self, sets: &[(String, String)], keep: Duration) -> Result<(), StoreError> {
        self.notes.add_members(sets, keep).await
    }

    async fn members(&self, set: &str) -> Result<Vec<String>, StoreError> {
        self.notes.members(set).await
    }

    async fn remove_set(&self, set: &str) -> Result<(), StoreError> {
        self.notes.remove_set(set).await
    }
}

#[derive(Debug)]
struct Silent;

impl Observer for Silent {}
impl Progress for Silent {}

/// Users who have all been inactive, and what blocks them.
struct Bench {
    tools: Tools,
    notes: Arc<Mortal>,
    directory: TempDir,
}

fn issuer() -> IssuerName {
    "acme".try_into().unwrap()
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::Manual(ManualClock::new(NOW));
        let cache = Arc::new(MarkerCache::new(MarkerSettings::default()));
        let settings = EmbeddedSettings { directory: directory.path().join("store") };
        let watcher: Arc<dyn Watcher> = Arc::clone(&cache) as _;
        let store = EmbeddedStore::open(&settings, watcher, clock.clone()).unwrap();
        let seen: Vec<_> = (0..USERS)
            .map(|number| Subject { issuer: issuer(), id: (&*format!("auth0|{number:02}")).try_into().unwrap() })
            .map(|subject| (subject, NOW.minus(200 * DAY)))
            .collect();
        store.record_activity(&seen).await.unwrap();
        let notes = Arc::new(Mortal { notes: Arc::clone(&store), left: AtomicUsize::new(0) });
        let timeout = Duration::from_secs(5);
        let ledger = Ledger::new(store, cache, Retention::default(), timeout, clock.clone());
        let activity = ActivitySettings::default();
        let recorder = Arc::new(Recorder::new(activity, clock.clone()));
        let records =
            Direct::new(ledger, recorder, Arc::clone(&notes) as _, activity, UpkeepSettings::default(), clock.clone());
        let tools = Tools { records: Arc::new(records), users: None, progress: Arc::new(Silent), clock };
        Self { tools, notes, directory }
    }

    /// A run that writes so often and no more, with nobody else about.
    async fn run(&self, writes: usize) -> Result<(), InactiveError> {
        self.tools.records.let_go(&issuer(), "gateway").await?;
        self.notes.left.store(writes, Ordering::Relaxed);
        let question = Question {
            issuer: issuer(),
            since: NOW.minus(90 * DAY),
            recorded_since: Some(NOW.minus(300 * DAY)),
            login_lifetime: None,
            last_active_lifetime: None,
            exclusions: Exclusions::default(),
            listing: Listing::default(),
        };
        let mut run = Run::begin(self.tools.clone(), question, "90d", "gateway").await?;
        let path = self.directory.path().join("report.ndjson");
        let mut report = Report::open(&path, &run.header("test").await?, &run.unfinished())?;
        let mut sink = |line: &UserLine| Ok(report.write(&Line::User(line.clone()))?);
        let mut outcomes = Outcomes::new();
        run.repair(&mut outcomes, &mut sink).await?;
        let plan = run.find().await?;
        run.block(&plan, Some(LIMIT), None, &mut outcomes, &mut sink).await?;
        run.end(true).await
    }

    async fn blocked(&self) -> BTreeSet<String> {
        let users: Vec<SubjectId> =
            (0..USERS).map(|number| (&*format!("auth0|{number:02}")).try_into().unwrap()).collect();
        let known = self.tools.records.look_up(&issuer(), &users).await.unwrap();
        let blocked = users.iter().zip(known).filter(|(_, known)| known.blocked.is_some());
        blocked.map(|(user, _)| user.as_str().to_owned()).collect()
    }

    /// Whom the report tells of, sorted.
    fn reported(&self) -> Vec<String> {
        let lines = Lines::open(&self.directory.path().join("report.ndjson")).unwrap();
        let users = lines.filter_map(|line| if let Line::User(line) = line.unwrap() { Some(line.user) } else { None });
        let mut users: Vec<String> = users.collect();
        users.sort_unstable();
        users
    }
}

/// Whichever of its writes is the last one, the run that goes on blocks as many as were to be blocked, and tells of everybody once.
#[tokio::test]
async fn a_limit_holds_wherever_a_run_is_cut_off() {
    let mut ends_whole = false;
    for writes in 0.. {
        let bench = Bench::new().await;
        if bench.run(writes).await.is_ok() {
            assert!(writes > 2 * usize::try_from(LIMIT).unwrap(), "{writes}");
            ends_whole = true;
        } else {
            bench.run(usize::MAX).await.unwrap();
        }
        let blocked = bench.blocked().await;
        assert_eq!(blocked.len() as u64, LIMIT, "after {writes} writes: {blocked:?}");
        assert_eq!(bench.reported(), Vec::from_iter(blocked), "after {writes} writes");
        if ends_whole {
            break;
        }
    }
}

/// The run that goes on may be cut off as well.
#[tokio::test]
async fn a_limit_holds_however_often_a_run_is_cut_off() {
    // With fewer, nobody is ever done with.
    for writes in 8..20 {
        let bench = Bench::new().await;
        let mut runs = 1;
        while bench.run(writes).await.is_err() {
            runs += 1;
            assert!(runs < 100, "with {writes} writes it never ends");
        }
        let blocked = bench.blocked().await;
        assert_eq!(blocked.len() as u64, LIMIT, "{writes} writes at a time: {blocked:?}");
        assert_eq!(bench.reported(), Vec::from_iter(blocked), "{writes} writes at a time");
    }
}
