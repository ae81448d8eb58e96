//! What the embedded store promises besides.

use std::{
    env,
    error::Error as _,
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use portcullis::{
    clock::{Clock, ManualClock},
    marker::{MarkerKey, Reading},
    session::SessionKey,
    store::{
        Notes, Sessions, Store,
        embedded::{EmbeddedOpenError, EmbeddedSettings, EmbeddedStore},
        sessions::Opening,
    },
};

use super::{
    database, logout, open_embedded, sqlite, subject,
    suite::{
        notes::{keep_notes, kept_notes, notes_work},
        sessions::{keep_sessions, kept_sessions, sessions_work},
    },
    time,
};
use crate::support::{
    eventually,
    watcher::{Recorder, Told},
};

fn open(directory: &std::path::Path) -> Result<Arc<EmbeddedStore>, EmbeddedOpenError> {
    let settings = EmbeddedSettings { directory: directory.to_owned() };
    EmbeddedStore::open(&settings, Recorder::new(), Clock::System)
}

#[tokio::test]
async fn what_was_written_is_there_after_a_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let (key, anna) = (MarkerKey::logout(&subject("anna")), subject("anna"));
    let store = open(directory.path()).unwrap();
    store.merge(&key, &logout(time(1)), None).await.unwrap();
    store.record_activity(&[(anna.clone(), time(2))]).await.unwrap();
    store.close().await;
    let store = open(directory.path()).unwrap();
    assert_eq!(store.read(&key).await.unwrap(), Reading::Present(logout(time(1))));
    assert_eq!(store.last_activity(&anna).await.unwrap(), Some(time(2)));
}

/// Requests wait for reads of markers; nobody waits for counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_questions_hold_up_no_read_of_a_marker() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    let key = MarkerKey::logout(&subject("anna"));
    store.merge(&key, &logout(time(1)), None).await.unwrap();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) \
                INSERT INTO activity SELECT 'acme', 'user-' || i, i % 1000 FROM n";
    sqlite(directory.path()).execute(fill, []).unwrap();
    let acme = subject("anna").issuer;
    let answered = Arc::new(AtomicUsize::new(0));
    for _ in 0..40 {
        let (store, acme, answered) = (Arc::clone(&store), acme.clone(), Arc::clone(&answered));
        tokio::spawn(async move {
            assert_eq!(store.count_activity(&acme, time(0)).await.unwrap().known, 300_000);
            answered.fetch_add(1, Ordering::SeqCst);
        });
    }
    // The answer comes behind the first parts of the counts.
    store.last_activity(&subject("anna")).await.unwrap();
    for _ in 0..20 {
        assert_eq!(store.read(&key).await.unwrap(), Reading::Present(logout(time(1))));
    }
    let soon = answered.load(Ordering::SeqCst);
    assert!(soon < 40, "20 markers were read after {soon} counts of 40");
    eventually("all are counted", async || answered.load(Ordering::SeqCst) == 40).await;
    store.close().await;
}

#[tokio::test]
async fn the_directory_is_made_and_belongs_to_one_at_a_time() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("a/b");
    let store = open(&directory).unwrap();
    let error = open(&directory).unwrap_err();
    assert!(matches!(error, EmbeddedOpenError::InUse { .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("store directory `{}` is in use by another process", directory.display()));
    store.close().await;
    open(&directory).unwrap();
}

#[test]
fn a_newer_schema_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    close(&open(directory.path()).unwrap());
    sqlite(directory.path()).pragma_update(None, "user_version", 4).unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, EmbeddedOpenError::Newer { found: 4, known: 3, .. }), "{error:?}");
}

/// What was in the file when there were markers and activity only.
const FIRST_SCHEMA: &str = "\
CREATE TABLE markers (key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL, expires INTEGER) STRICT, WITHOUT ROWID;
CREATE INDEX markers_expires ON markers (expires) WHERE expires IS NOT NULL;
CREATE TABLE activity (issuer TEXT NOT NULL, subject TEXT NOT NULL, seen INTEGER NOT NULL, PRIMARY KEY (issuer, subject))
    STRICT, WITHOUT ROWID;
CREATE INDEX activity_seen ON activity (issuer, seen);
INSERT INTO markers (key, value) VALUES ('logout:acme:anna', CAST('1763700000123' AS BLOB));
INSERT INTO activity VALUES ('acme', 'anna', 1763700000002);
PRAGMA application_id = 0x506f7274; PRAGMA user_version = 1;";

/// What came to it when there were notes, but no sessions.
const SECOND_STEP: &str = "\
CREATE TABLE seen (source TEXT NOT NULL, place INTEGER NOT NULL, event BLOB NOT NULL, PRIMARY KEY (source, place))
    STRICT, WITHOUT ROWID;
CREATE TABLE notes (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE jobs (queue TEXT NOT NULL, id TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (queue, id)) STRICT, WITHOUT ROWID;
CREATE TABLE sets (name TEXT NOT NULL PRIMARY KEY, until INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX sets_until ON sets (until);
CREATE TABLE members (name TEXT NOT NULL, member TEXT NOT NULL, PRIMARY KEY (name, member)) STRICT, WITHOUT ROWID;
INSERT INTO notes VALUES ('checkpoint', '900');
PRAGMA user_version = 2;";

/// The statements that made everything in the file.
fn schema(directory: &std::path::Path) -> Vec<String> {
    let connection = sqlite(directory);
    let mut select = connection.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").unwrap();
    select.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn a_file_of_the_first_schema_is_taken_on() {
    let directory = tempfile::tempdir().unwrap();
    sqlite(directory.path()).execute_batch(FIRST_SCHEMA).unwrap();
    for name in ["one", "again"] {
        let store = open(directory.path()).unwrap();
        let marker = store.read(&MarkerKey::logout(&subject("anna"))).await.unwrap();
        assert_eq!(marker.present().unwrap().marker.at(), time(123));
        assert_eq!(store.last_activity(&subject("anna")).await.unwrap(), Some(time(2)));
        notes_work(&*store, name).await.unwrap();
        sessions_work(&*store, name).await.unwrap();
        store.close().await;
    }
    is_of_the_latest_schema(directory.path()).await;
}

#[tokio::test]
async fn a_file_of_the_second_schema_is_taken_on() {
    let directory = tempfile::tempdir().unwrap();
    sqlite(directory.path()).execute_batch(&format!("{FIRST_SCHEMA}{SECOND_STEP}")).unwrap();
    for name in ["one", "again"] {
        let store = open(directory.path()).unwrap();
        assert_eq!(store.note("checkpoint").await.unwrap().as_deref(), Some("900"));
        assert_eq!(store.last_activity(&subject("anna")).await.unwrap(), Some(time(2)));
        sessions_work(&*store, name).await.unwrap();
        store.close().await;
    }
    is_of_the_latest_schema(directory.path()).await;
}

async fn is_of_the_latest_schema(directory: &std::path::Path) {
    let version = sqlite(directory).pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    assert_eq!(version.unwrap(), 3);
    let fresh = tempfile::tempdir().unwrap();
    open(fresh.path()).unwrap().close().await;
    assert_eq!(schema(directory), schema(fresh.path()));
}

#[test]
fn a_file_that_cannot_be_taken_on_is_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    sqlite(directory.path()).execute_batch(FIRST_SCHEMA).unwrap();
    sqlite(directory.path()).execute_batch("CREATE TABLE sets (x)").unwrap();
    let before = schema(directory.path());
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, EmbeddedOpenError::Unusable { .. }), "{error:?}");
    assert_eq!(schema(directory.path()), before, "all of it or nothing");
}

#[tokio::test]
async fn notes_and_sessions_are_there_after_a_reopening_but_leases_end_with_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    keep_notes(&*store).await;
    let kept = keep_sessions(&*store).await;
    store.close().await;
    let store = open(directory.path()).unwrap();
    kept_notes(&*store).await;
    kept_sessions(&*store, kept).await;
    assert!(store.lease("poll", "other", Duration::from_secs(60)).await.unwrap(), "nobody else is left to have it");
}

#[tokio::test]
async fn sets_that_are_over_are_removed_with_their_members() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(time(0));
    let settings = EmbeddedSettings { directory: directory.path().to_owned() };
    let store = EmbeddedStore::open(&settings, Recorder::new(), Clock::Manual(clock.clone())).unwrap();
    let set = |name: &str| [(name.to_owned(), "a".to_owned()), (name.to_owned(), "b".to_owned())];
    store.add_members(&set("brief"), Duration::from_secs(1)).await.unwrap();
    store.add_members(&set("long"), Duration::from_secs(2)).await.unwrap();
    clock.set(time(999));
    assert_eq!(store.members("brief").await.unwrap().len(), 2);
    clock.set(time(1000));
    assert_eq!(store.members("brief").await.unwrap().len(), 0, "even before they are removed");
    eventually("they are removed", async || {
        let count = "SELECT (SELECT count(*) FROM sets), (SELECT count(*) FROM members)";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
        sqlite(directory.path()).query_row(count, [], row).unwrap() == (1, 2)
    })
    .await;
    assert_eq!(store.members("long").await.unwrap().len(), 2);
}

#[tokio::test]
async fn sessions_whose_time_is_over_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(time(0));
    let settings = EmbeddedSettings { directory: directory.path().to_owned() };
    let store = EmbeddedStore::open(&settings, Recorder::new(), Clock::Manual(clock.clone())).unwrap();
    let opening = |id: &str, until| Opening {
        key: SessionKey { subject: subject("anna"), id: id.try_into().unwrap() },
        started: time(0),
        told: false,
        at: time(0),
        until,
        limits: "v1".into(),
        client: None,
        gateway: "one".into(),
    };
    let (brief, long) = (opening("brief", time(1000)), opening("long", time(1001)));
    store.open_session(&brief).await.unwrap();
    store.open_session(&long).await.unwrap();
    clock.set(time(999));
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(store.session(&brief.key).await.unwrap().is_some(), "not before its time");
    clock.set(time(1000));
    assert_eq!(store.session(&brief.key).await.unwrap(), None, "even before it is removed");
    eventually("it is removed", async || {
        let count = "SELECT count(*), max(id) FROM sessions";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?));
        sqlite(directory.path()).query_row(count, [], row).is_ok_and(|row| row == (1, "long".to_owned()))
    })
    .await;
}

#[tokio::test]
async fn nothing_that_is_asked_of_notes_and_sessions_takes_a_scan() {
    let directory = tempfile::tempdir().unwrap();
    let _store = open(directory.path()).unwrap();
    for query in [
        "SELECT coalesce(max(place), 0) FROM seen WHERE source = 'a'",
        "DELETE FROM seen WHERE source = 'a' AND place <= 5 RETURNING event",
        "SELECT id, value FROM jobs WHERE queue = 'a' ORDER BY id LIMIT 1 OFFSET 1",
        "SELECT name FROM sets WHERE until <= 5 LIMIT 10",
        "SELECT * FROM sessions WHERE issuer = 'a' AND subject = 'a' AND id > 'a' AND until > 5 ORDER BY id",
        "SELECT count(*) FROM sessions WHERE issuer = 'a' AND subject = 'a'",
        "SELECT issuer, id FROM sessions WHERE until <= 5 LIMIT 10",
        "SELECT id FROM sessions WHERE issuer = 'a' AND active < 5 ORDER BY active LIMIT 10",
        "SELECT member FROM members JOIN sets USING (name) WHERE name = 'a' AND until > 5",
    ] {
        let connection = sqlite(directory.path());
        let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
        let plan: Vec<String> = explain.query_map([], |row| row.get(3)).unwrap().collect::<Result<_, _>>().unwrap();
        assert!(!plan.is_empty() && plan.iter().all(|step| step.starts_with("SEARCH")), "{query}: {plan:?}");
    }
}

#[test]
fn a_database_of_another_program_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    sqlite(directory.path()).execute_batch("CREATE TABLE theirs (x)").unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, EmbeddedOpenError::Foreign { .. }), "{error:?}");
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(database(directory.path()), "not a database ".repeat(1000)).unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, EmbeddedOpenError::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains(&database(directory.path()).display().to_string()), "{error}");
}

#[tokio::test]
async fn a_closed_store_is_one_file() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..40 {
        let store = open(directory.path()).unwrap();
        store.merge(&MarkerKey::logout(&subject("auth0|1")), &logout(time(round)), None).await.unwrap();
        store.close().await;
        let log = directory.path().join("portcullis.db-wal");
        assert!(!log.exists(), "round {round}: what was written is not in the file yet");
    }
}

/// Between fork and exec, a process that is being started holds copies of all handles.
#[tokio::test]
async fn a_process_that_is_being_started_does_not_keep_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let busy = Arc::new(AtomicBool::new(true));
    let starter = {
        let busy = Arc::clone(&busy);
        thread::spawn(move || {
            while busy.load(Ordering::Relaxed) {
                Command::new("sh").arg("-c").arg(":").current_dir("/").status().unwrap();
            }
        })
    };
    for round in 0..100 {
        let store = open(directory.path()).unwrap_or_else(|error| panic!("round {round}: {error}"));
        store.close().await;
    }
    busy.store(false, Ordering::Relaxed);
    starter.join().unwrap();
}

#[tokio::test]
async fn damaged_markers_are_noticed_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    for number in 0..500 {
        store.merge(&MarkerKey::logout(&subject(&number.to_string())), &logout(time(1)), None).await.unwrap();
    }
    store.close().await;
    let file = database(directory.path());
    let mut bytes = fs::read(&file).unwrap();
    let page = bytes.len() - 4096;
    assert!(page > 4 * 4096, "the markers fill several pages");
    for start in (4 * 4096..=page).step_by(4096) {
        bytes[start..start + 64].fill(0xA5);
    }
    fs::write(&file, bytes).unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, EmbeddedOpenError::Damaged { .. }), "{error:?}");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    let error = open(&file.join("store")).unwrap_err();
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
    assert!(error.source().is_some());
}

#[tokio::test]
async fn the_watcher_hears_of_it_at_the_start_and_while_it_lives() {
    let directory = tempfile::tempdir().unwrap();
    let watcher = Recorder::new();
    let store = open_embedded(directory.path(), &watcher);
    assert_eq!(watcher.told()[..2], [Told::Reset, Told::Heard]);
    eventually("it is heard again", async || watcher.count(&Told::Heard) > 3).await;
    assert_eq!(watcher.count(&Told::Reset), 1, "what is known stays known");
    store.close().await;
    let heard = watcher.count(&Told::Heard);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(watcher.count(&Told::Heard), heard, "a store whose writer ended is silent");
}

#[tokio::test]
async fn expired_markers_are_not_read_even_before_they_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(time(0));
    let settings = EmbeddedSettings { directory: directory.path().to_owned() };
    let store = EmbeddedStore::open(&settings, Recorder::new(), Clock::Manual(clock.clone())).unwrap();
    let key = MarkerKey::logout(&subject("a"));
    store.merge(&key, &logout(time(0)), Some(time(1000))).await.unwrap();
    clock.set(time(999));
    assert_eq!(store.read(&key).await.unwrap(), Reading::Present(logout(time(0))));
    clock.set(time(1000));
    assert_eq!(store.read(&key).await.unwrap(), Reading::Absent);
    eventually("it is removed", async || {
        let count = "SELECT count(*) FROM markers";
        sqlite(directory.path()).query_row(count, [], |row| row.get::<_, i64>(0)).unwrap() == 0
    })
    .await;
}

#[tokio::test]
async fn who_was_seen_before_is_found_by_an_index() {
    let directory = tempfile::tempdir().unwrap();
    let _store = open(directory.path()).unwrap();
    let query = "EXPLAIN QUERY PLAN SELECT subject FROM activity WHERE issuer = 'acme' AND seen < 5 ORDER BY seen";
    let plan: String = sqlite(directory.path()).query_row(query, [], |row| row.get(3)).unwrap();
    assert!(plan.contains("USING COVERING INDEX activity_seen"), "{plan}");
}

const CHILD_DIRECTORY: &str = "PORTCULLIS_TEST_STORE";

#[tokio::test]
async fn a_killed_process_loses_no_acknowledged_marker() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "store::embedded::acknowledge_until_killed", "--ignored", "--nocapture"])
        .env(CHILD_DIRECTORY, directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = 0;
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut killed = false;
    for line in lines.map_while(Result::ok) {
        let Some((_, number)) = line.split_once("acknowledged ") else { continue };
        acknowledged = number.parse::<usize>().unwrap();
        if acknowledged >= 200 && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the child ended by itself after {acknowledged}");
    let store = open(directory.path()).unwrap();
    for number in 1..=acknowledged {
        let read = store.read(&MarkerKey::logout(&subject(&number.to_string()))).await.unwrap();
        assert_eq!(read, Reading::Present(logout(time(1))), "marker {number} of {acknowledged}");
    }
}

#[tokio::test]
#[ignore = "the child of `a_killed_process_loses_no_acknowledged_marker`"]
async fn acknowledge_until_killed() {
    let Some(directory) = env::var_os(CHILD_DIRECTORY).map(PathBuf::from) else { return };
    let store = open(&directory).unwrap();
    for number in 1..100_000 {
        store.merge(&MarkerKey::logout(&subject(&number.to_string())), &logout(time(1)), None).await.unwrap();
        println!("acknowledged {number}");
    }
}

/// Closes a store outside of a runtime.
fn close(store: &EmbeddedStore) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(store.close());
}
