//! All users by an export: a job of the tenant writes them into a file, which is downloaded.
//!
//! 1. The job is begun and looked at with growing pauses until it is done. One that fails, or that the tenant does not know any
//!    more, is replaced by another, twice at most, as long as nothing of it was listed.
//! 2. The file is downloaded from where the job says: `https` or loopback, and without the token. The link is good for a minute, so
//!    that one is asked for just before.
//! 3. The file is read as it comes; what is held does not grow with it. One that stands still, breaks off or ends before its end
//!    is downloaded again, by a new link. What was listed of it already is passed over, and must be the same.
//! 4. So each line is listed once. What it takes for a line to be listed is to be whole, not that the file is: the checksum comes
//!    last.

pub mod lines;

use std::{
    hash::{DefaultHasher, Hasher as _},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use self::lines::{Damaged, Lines};
use super::{
    listing::{BATCH, Listed},
    pace::doubled,
    tenant::{ExportFault, TenantError},
    user::{Exported, ORDERED, User, UserReader},
    users::{Users, can_repeat, encoded, found},
};
use crate::{
    http_client,
    token::{claims::MAX_ID_LENGTH, jwks::jittered},
};

/// How often a job that came to nothing is replaced.
const REPLACED: u32 = 2;

/// How long the tenant keeps an export; by then it is of no use.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The longest line. A user's metadata, of which only one member is asked for, has room in it.
const LONGEST_LINE: usize = 1024 * 1024;

/// What is told of an export.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Job {
    id: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    status: String,
    connection_id: Option<String>,
    location: Option<String>,
    percentage_done: Option<f64>,
    time_left_seconds: Option<f64>,
}

/// Lists users by an export.
pub(super) struct Exporter {
    users: Users,
    taken: Taken,
    sender: mpsc::Sender<Listed>,
}

/// Nobody wants to know any more, or it failed.
enum Stopped {
    Unwanted,
    Failed(TenantError),
}

impl From<TenantError> for Stopped {
    fn from(error: TenantError) -> Self {
        Self::Failed(error)
    }
}

impl Exporter {
    pub(super) fn new(users: Users, sender: mpsc::Sender<Listed>) -> Self {
        let taken = Taken::new(users.reader.clone());
        Self { users, taken, sender }
    }

    pub(super) async fn run(mut self, connection: Option<&str>, job: Option<Box<str>>) -> Result<(), TenantError> {
        match self.list(connection, job).await {
            Err(Stopped::Failed(error)) => Err(error),
            Ok(()) | Err(Stopped::Unwanted) => Ok(()),
        }
    }

    async fn list(&mut self, connection: Option<&str>, job: Option<Box<str>>) -> Result<(), Stopped> {
        let connection = match connection {
            Some(name) => Some(self.users.connection_id(name).await?),
            None => None,
        };
        let mut job = match job {
            Some(job) => job,
            None => self.begin(connection.as_deref()).await?,
        };
        let mut replaced = 0;
        loop {
            self.send(Listed::Job(job.clone())).await?;
            let error = match self.follow(&job, connection.as_deref()).await {
                Err(Stopped::Failed(error)) => error,
                other => return other,
            };
            let is_lost = matches!(error, TenantError::Export { fault: ExportFault::Failed | ExportFault::Gone, .. });
            // What was listed of it would be listed again.
            if !is_lost || replaced >= REPLACED || self.taken.lines > 0 {
                return Err(error.into());
            }
            replaced += 1;
            self.users.observer.retrying(replaced, &error);
            job = self.begin(connection.as_deref()).await?;
        }
    }

    async fn begin(&self, connection: Option<&str>) -> Result<Box<str>, TenantError> {
        let asked = order(&self.users.reader, connection);
        let begun = self.users.ask(Method::POST, "/api/v2/jobs/users-exports", Some(&asked)).await?;
        let job: Job = begun.json()?;
        let is_id = !job.id.is_empty() && job.id.len() <= MAX_ID_LENGTH && !job.id.chars().any(char::is_control);
        if is_id { Ok(job.id.into()) } else { Err(TenantError::Malformed) }
    }

    /// Lists what a job comes to.
    async fn follow(&mut self, job: &str, connection: Option<&str>) -> Result<(), Stopped> {
        let mut failures = 0;
        loop {
            let location = self.location(job, connection).await?;
            let before = self.taken.lines;
            let failed = self.download(job, &location).await;
            self.flush(1).await?;
            let error = match failed {
                Err(Stopped::Failed(error)) => error,
                other => return other,
            };
            if self.taken.lines > before {
                failures = 0;
            }
            failures += 1;
            // A link that is refused is replaced by another.
            let is_renewable = matches!(&error, TenantError::Status { status, .. } if status.is_client_error());
            if failures >= self.users.patience.attempts || !(is_renewable || can_repeat(&error)) {
                return Err(error.into());
            }
            self.users.observer.retrying(failures, &error);
            sleep(doubled(self.users.patience.pause, failures - 1)).await;
        }
    }

    /// Waits until the file is there.
    async fn location(&self, job: &str, connection: Option<&str>) -> Result<Box<str>, TenantError> {
        let export = |fault| TenantError::Export { job: job.into(), fault };
        let path = format!("/api/v2/jobs/{}", encoded(job));
        let patience = self.users.patience;
        let begun = Instant::now();
        let mut pause = patience.poll;
        loop {
            let told: Job = found(self.users.read(&path).await)?.ok_or_else(|| export(ExportFault::Gone))?;
            let is_of = |asked: &str| told.connection_id.as_deref().is_none_or(|connection| connection == asked);
            let is_ours = connection.map_or(told.connection_id.is_none(), is_of);
            if !is_ours || told.kind.is_some_and(|kind| kind != "users_export") {
                return Err(export(ExportFault::Foreign));
            }
            match (&*told.status, told.location) {
                ("completed", Some(location)) => {
                    self.users.observer.exporting(Some(100), Some(Duration::ZERO));
                    return Ok(location.into());
                }
                ("failed", _) => return Err(export(ExportFault::Failed)),
                _ => {}
            }
            let left = told.time_left_seconds.and_then(|left| Duration::try_from_secs_f64(left).ok());
            self.users.observer.exporting(told.percentage_done.and_then(percent), left);
            if begun.elapsed() >= KEPT {
                return Err(export(ExportFault::Endless));
            }
            sleep(jittered(left.map_or(pause, |left| pause.min(left.max(patience.poll))))).await;
            pause = (pause * 3 / 2).min(patience.longest_poll.max(patience.poll));
        }
    }

    async fn download(&mut self, job: &str, location: &str) -> Result<(), Stopped> {
        let fault = |fault| TenantError::Export { job: job.into(), fault };
        // Links are secrets of a kind: what is wrong with one is not shown.
        let uri = http_client::secure(location).map_err(|_| fault(ExportFault::Insecure))?;
        let stalled = self.users.patience.stalled;
        let mut request = Request::new(Full::<Bytes>::default());
        *request.uri_mut() = uri;
        let response = timeout(stalled, self.users.tenant.http().open(request)).await;
        let response = response.map_err(|_| TenantError::TimedOut)?.map_err(TenantError::from)?;
        if response.status() != StatusCode::OK {
            let code = "the download of the export".into();
            return Err(TenantError::Status { status: response.status(), code }.into());
        }
        self.taken.begin_again();
        let mut lines = Lines::new(LONGEST_LINE);
        let mut body = response.into_body();
        let mut downloaded = 0;
        loop {
            let frame = timeout(stalled, body.frame()).await.map_err(|_| TenantError::TimedOut)?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| TenantError::Unreachable(error.into()))?;
            let Ok(data) = frame.into_data() else { continue };
            downloaded += data.len() as u64;
            self.users.observer.downloaded(downloaded);
            for piece in data.chunks(lines::PART) {
                let pushed = lines.push(piece, |line| self.taken.take(line));
                self.taken.check().map_err(fault)?;
                self.flush(BATCH).await?;
                pushed.map_err(|Damaged| TenantError::Malformed)?;
            }
        }
        let finished = lines.finish(|line| self.taken.take(line));
        self.taken.check().map_err(fault)?;
        finished.map_err(|Damaged| TenantError::Malformed)?;
        if self.taken.is_behind() {
            return Err(fault(ExportFault::Changed).into());
        }
        Ok(())
    }

    /// Hands on what was taken, if there are so many.
    async fn flush(&mut self, least: usize) -> Result<(), Stopped> {
        while self.taken.users.len() >= least.max(1) {
            let rest = self.taken.users.split_off(self.taken.users.len().min(BATCH));
            let batch = std::mem::replace(&mut self.taken.users, rest);
            self.send(Listed::Users(batch)).await?;
        }
        if self.taken.unreadable > 0 && (least <= 1 || self.taken.unreadable >= BATCH as u64) {
            let unreadable = std::mem::take(&mut self.taken.unreadable);
            self.send(Listed::Unreadable(unreadable)).await?;
        }
        Ok(())
    }

    async fn send(&self, listed: Listed) -> Result<(), Stopped> {
        self.sender.send(listed).await.map_err(|_| Stopped::Unwanted)
    }
}

/// What an export is to hold.
fn order(reader: &UserReader, connection: Option<&str>) -> Value {
    let mut fields = vec![json!({ "name": "user_id", "export_as": ORDERED })];
    fields.extend(["blocked", "created_at", "last_login", "logins_count"].map(|name| json!({ "name": name })));
    fields.push(json!({ "name": format!("app_metadata.{}", reader.member()), "export_as": "last_active" }));
    let mut order = json!({ "format": "json", "fields": fields });
    if let Some(connection) = connection {
        order["connection_id"] = connection.into();
    }
    order
}

fn percent(number: f64) -> Option<u8> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 100")]
    (0.0..=100.0).contains(&number).then_some(number as u8)
}

/// What was taken of a file, through all of its downloads.
struct Taken {
    reader: UserReader,
    /// How many lines, and their digest.
    lines: u64,
    digest: DefaultHasher,
    /// The same of this download, up to there.
    passed: u64,
    passing: DefaultHasher,
    /// What was not handed on yet.
    users: Vec<User>,
    unreadable: u64,
    /// Whether there was a line of an export that was begun elsewhere.
    is_foreign: bool,
}

impl Taken {
    fn new(reader: UserReader) -> Self {
        let (digest, passing) = (DefaultHasher::new(), DefaultHasher::new());
        Self { reader, lines: 0, digest, passed: 0, passing, users: Vec::new(), unreadable: 0, is_foreign: false }
    }

    fn begin_again(&mut self) {
        self.passed = 0;
        self.passing = DefaultHasher::new();
    }

    fn take(&mut self, line: Option<&[u8]>) {
        if self.is_behind() {
            self.passed += 1;
            digest(&mut self.passing, line);
            return;
        }
        // One that has changed is not taken any further.
        if self.check().is_err() {
            return;
        }
        digest(&mut self.passing, line);
        self.digest = self.passing.clone();
        self.lines += 1;
        self.passed += 1;
        match line.map(|line| self.reader.read_exported(line)) {
            Some(Exported::User(user)) => self.users.push(user),
            Some(Exported::Unreadable) | None => self.unreadable += 1,
            Some(Exported::Foreign) => self.is_foreign = true,
        }
    }

    /// Whether this download has not come as far as one before.
    fn is_behind(&self) -> bool {
        self.passed < self.lines
    }

    /// Whether it is the file that it should be, so far.
    fn check(&self) -> Result<(), ExportFault> {
        let is_same = self.is_behind() || self.passing.finish() == self.digest.finish();
        match (is_same, self.is_foreign) {
            (true, false) => Ok(()),
            (false, _) => Err(ExportFault::Changed),
            (true, true) => Err(ExportFault::Foreign),
        }
    }
}

fn digest(hasher: &mut DefaultHasher, line: Option<&[u8]>) {
    hasher.write(line.unwrap_or_default());
    hasher.write_u8(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str) -> String {
        json!({ ORDERED: id, "created_at": 1_777_680_000 }).to_string()
    }

    #[test]
    fn what_was_taken_is_passed_over_when_it_comes_again() {
        let mut taken = Taken::new(UserReader::default());
        let lines = ["a", "b", "", "c"].map(line);
        taken.take(Some(lines[0].as_bytes()));
        taken.take(None);
        taken.take(Some(b"{"));
        assert_eq!((taken.users.len(), taken.unreadable, taken.lines), (1, 2, 3));
        taken.begin_again();
        assert!(taken.is_behind());
        taken.take(Some(lines[0].as_bytes()));
        taken.take(None);
        taken.take(Some(b"{"));
        assert!(!taken.is_behind() && taken.check().is_ok());
        lines[1..].iter().for_each(|line| taken.take(Some(line.as_bytes())));
        let ids: Vec<_> = taken.users.iter().map(|user| user.id.as_str()).collect();
        assert_eq!((ids, taken.unreadable, taken.lines), (vec!["a", "b", "c"], 3, 6));
        assert!(taken.check().is_ok());
    }

    #[test]
    fn another_file_is_not_gone_on_with() {
        for other in [[line("b"), line("a")], [line("a"), "{".to_owned()], [line("a"), line("c")]] {
            let mut taken = Taken::new(UserReader::default());
            taken.take(Some(line("a").as_bytes()));
            taken.take(Some(line("b").as_bytes()));
            taken.begin_again();
            for line in &other {
                taken.take(Some(line.as_bytes()));
            }
            taken.take(Some(line("d").as_bytes()));
            assert_eq!(taken.check(), Err(ExportFault::Changed), "{other:?}");
            assert_eq!(taken.users.len(), 2, "{other:?}");
        }
    }

    #[test]
    fn what_was_exported_by_somebody_else_is_not_taken() {
        for (text, is_foreign) in [
            (r#"{"user_id":"a","created_at":1777680000}"#, true),
            (r#"{"user_id":"","created_at":1777680000}"#, true),
            (r#"{"portcullis_user_id":"a","created_at":1777680000}"#, false),
            (r#"{"portcullis_user_id":7}"#, false),
            ("{}", false),
            ("[", false),
        ] {
            let mut taken = Taken::new(UserReader::default());
            taken.take(Some(text.as_bytes()));
            assert_eq!(taken.check().is_err(), is_foreign, "{text}");
            assert!(taken.users.is_empty() || !is_foreign);
        }
    }
}
