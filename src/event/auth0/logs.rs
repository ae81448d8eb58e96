//! The log of an Auth0 tenant, asked for by checkpoint.
//!
//! 1. One gateway of a fleet asks at a time. How far it came is a note in the store, and moves only when what was read is durable;
//!    whoever takes over goes on from there.
//! 2. A full page is followed by the next at once. When there is no more, the next question waits for the interval.
//! 3. The log is ordered by `log_id`, and a record may turn up late, behind what was read already. So what is not older than the
//!    overlap is read again and again until it is; what was taken is known, and left out further on.
//! 4. Where the log has not been read before, and where the tenant does not know the checkpoint any more, the beginning is found
//!    by date.
//! 5. A page that is not whole is not taken at all.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use http::{Method, StatusCode, uri::PathAndQuery};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{
    Deserialize, Serialize,
    de::{IgnoredAny, MapAccess},
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    bookmark::Bookmark,
    framing,
    record::{Codes, RecordReader},
};
use crate::{
    clock::{Clock, Timestamp},
    event::{
        Batch,
        health::{Activity, Health},
        source::{Context, Failure, Running},
    },
    http_client::HttpClient,
    management::{
        loose::{self, Loose, Members},
        pace::backoff,
        tenant::{Answer, Tenant, TenantError, TenantSettings},
    },
    store::StoreError,
    token::{claims::IssuerName, jwks::jittered},
};

/// Records of a page; Auth0 gives no more.
const PAGE: usize = 100;

/// How many records are read again at most: twenty pages, which every tenant may be asked for in a minute.
const MAX_AGAIN: u64 = 2000;

/// The longest id of a record, in bytes: the notes hold some.
const MAX_ID: usize = 256;

/// How many places of the log are remembered.
const MAX_MARKS: usize = 64;

/// How long to wait before asking again when it takes somebody to mend something.
const SLOWLY: Duration = Duration::from_secs(60);

/// Its settings.
#[derive(Clone, PartialEq, Debug)]
pub struct LogsSettings {
    /// The issuer whose users it tells about.
    pub issuer: IssuerName,
    /// Whose log it is.
    pub tenant: TenantSettings,
    /// What is done about each code.
    pub codes: Codes,
    /// How long to wait when there was nothing more.
    pub interval: Duration,
    /// How late a record may turn up.
    pub overlap: Duration,
    /// How far back to begin.
    pub start: Duration,
    /// After how long another gateway takes over from one that died.
    pub lease: Duration,
}

impl LogsSettings {
    /// Whether the log can be read, for a check of the settings.
    pub(crate) async fn probe(&self) -> Result<&'static str, Failure> {
        let tenant = Tenant::new(self.tenant.clone(), HttpClient::new()?, Clock::System);
        tenant.call(Method::GET, &first_since(Clock::System.now().minus(self.start)), None).await?;
        Ok("the tenant lets its log be read")
    }

    pub(crate) fn start(self, context: Context, stop: CancellationToken) -> Result<Running, Failure> {
        let term = self.lease;
        let poller = Poller {
            tenant: Tenant::new(self.tenant, HttpClient::new()?, Clock::System),
            reader: RecordReader::new(self.issuer, self.codes),
            interval: self.interval,
            overlap: self.overlap,
            start: self.start,
            note: format!("checkpoint:{}", context.origin.name).into(),
            context,
        };
        Ok(Running::Asks(Box::pin(async move {
            poller.context.lead_while(term, &stop, |_| poller.run()).await;
        })))
    }
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
enum LogsError {
    #[error("the log cannot be read")]
    Tenant(#[from] TenantError),
    #[error("the tenant does not know the checkpoint any more; the log is read again from {since} on")]
    CheckpointLost { since: Timestamp, source: TenantError },
    #[error("the checkpoint in the store is not readable; the log is read from {since} on")]
    BadNote { since: Timestamp },
    #[error("the checkpoint cannot be kept")]
    Store(#[from] StoreError),
    /// The pipeline has told of it.
    #[error("what was read cannot be stored")]
    NotTaken(#[source] StoreError),
}

/// Asks.
#[derive(Debug)]
struct Poller {
    context: Context,
    tenant: Tenant,
    reader: RecordReader,
    interval: Duration,
    overlap: Duration,
    start: Duration,
    note: Arc<str>,
}

/// What is kept in the store.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
struct Kept {
    /// From when on the log is to be read, where there is no checkpoint; in milliseconds.
    since: i64,
    /// Up to where it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpoint: Option<Mark>,
    /// Places to go back to, the earliest first.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    trail: VecDeque<Mark>,
}

/// A place in the log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
struct Mark {
    log_id: String,
    /// The latest date up to there, in milliseconds.
    at: i64,
    /// How many records were read up to there.
    read: u64,
}

/// From where on the log is read again.
#[derive(PartialEq, Eq, Debug)]
enum Place {
    /// After this record.
    Mark(String),
    /// From the first record on.
    Beginning,
}

/// Where a gateway is that reads.
struct Reading {
    bookmark: Bookmark<Kept>,
    /// What the last answer said to ask for next.
    link: Option<PathAndQuery>,
    /// What was read before is read again, and the checkpoint has not been reached yet; where to go on.
    again: Option<String>,
    /// When to read again next.
    again_at: Instant,
    /// What time it is at the tenant.
    there: Timestamp,
}

/// What came of a question.
enum Step {
    /// It is known where to begin.
    Begun,
    /// There is more.
    More,
    /// That was all.
    Done,
    /// Another gateway went on in the meantime.
    Overtaken,
}

impl Poller {
    fn health(&self) -> &Health {
        &self.context.origin.health
    }

    async fn run(&self) {
        self.health().set(Activity::Connecting);
        let mut failures = 0;
        let mut reading = None;
        loop {
            let step = match &mut reading {
                Some(reading) => self.step(reading).await,
                None => self.load().await.map(|loaded| {
                    reading = Some(loaded);
                    Step::Begun
                }),
            };
            let pause = match step {
                Ok(Step::Overtaken) => return,
                Ok(Step::Begun) => Duration::ZERO,
                Ok(Step::More) => {
                    failures = 0;
                    Duration::ZERO
                }
                Ok(Step::Done) => {
                    failures = 0;
                    jittered(self.interval)
                }
                Err(error) => {
                    // What is in the store may be something else by now.
                    reading = None;
                    let pause = self.failed(&error, failures);
                    failures = failures.saturating_add(1);
                    pause
                }
            };
            sleep(pause).await;
        }
    }

    /// Tells of it; how long to wait.
    fn failed(&self, error: &LogsError, failures: u32) -> Duration {
        let now = self.context.pipeline.now();
        if !matches!(error, LogsError::NotTaken(_)) {
            self.health().failed(now, error);
        }
        self.health().set(Activity::Retrying);
        match error {
            LogsError::Tenant(TenantError::RateLimited { until }) => until.since(now).min(SLOWLY),
            LogsError::Tenant(error) if error.is_lasting() || error.is_final() => jittered(SLOWLY),
            _ => backoff(failures),
        }
    }

    async fn load(&self) -> Result<Reading, LogsError> {
        let (now, since) = (self.context.pipeline.now(), self.beginning());
        let bookmark = Bookmark::load(self.context.pipeline.notes(), &self.note, Kept::from(since)).await?;
        let bookmark = bookmark.ok_or(LogsError::BadNote { since })?;
        // Whoever had the lease before may have missed something late: it is read again at once.
        Ok(Reading { bookmark, link: None, again: None, again_at: Instant::now(), there: now })
    }

    fn beginning(&self) -> Timestamp {
        self.context.pipeline.now().minus(self.start)
    }

    async fn step(&self, reading: &mut Reading) -> Result<Step, LogsError> {
        let Some(checkpoint) = reading.bookmark.kept.checkpoint.clone() else { return self.find(reading).await };
        if reading.link.is_none() && reading.again.is_none() && Instant::now() >= reading.again_at {
            reading.again_at = Instant::now() + self.overlap / 4;
            match reading.bookmark.kept.place_to_read_again(reading.there, self.overlap) {
                Some(Place::Mark(log_id)) => reading.again = Some(log_id),
                // There is no record before the first one that one could go on from.
                Some(Place::Beginning) => drop(self.search(&reading.bookmark.kept).await?),
                None => {}
            }
        }
        let from = reading.again.as_ref().unwrap_or(&checkpoint.log_id);
        let target = match reading.link.take() {
            Some(link) => link.to_string(),
            None => format!("/api/v2/logs?from={}&take={PAGE}", utf8_percent_encode(from, NON_ALPHANUMERIC)),
        };
        let answer = match self.tenant.call(Method::GET, &target, None).await {
            Ok(answer) => answer,
            Err(error) if is_lost(&error) => return self.begin_anew(reading, &checkpoint, error).await,
            Err(error) => return Err(error.into()),
        };
        reading.there = answer.at;
        let page = self.take(&answer).await?;
        let is_full = page.len >= PAGE;
        self.health().set_backlog(if is_full { page.len } else { 0 });
        if reading.again.is_some() {
            if is_full && !page.ids.contains(&checkpoint.log_id) {
                if page.ids.last() == reading.again.as_ref() {
                    reading.again = None;
                    return Ok(Step::Done);
                }
                reading.again = page.ids.last().cloned();
                reading.link = answer.next.filter(is_of_logs);
                return Ok(Step::More);
            }
            reading.again = None;
        }
        let Some(last) = page.ids.last().filter(|last| **last != checkpoint.log_id) else { return Ok(Step::Done) };
        let mut kept = reading.bookmark.kept.clone();
        kept.advance(last, &page, answer.at, self.overlap);
        if !reading.bookmark.replace(kept).await? {
            return Ok(Step::Overtaken);
        }
        if !is_full {
            return Ok(Step::Done);
        }
        reading.link = answer.next.filter(is_of_logs);
        Ok(Step::More)
    }

    /// Looks for the first record since a date, and begins there.
    async fn find(&self, reading: &mut Reading) -> Result<Step, LogsError> {
        let (page, at) = self.search(&reading.bookmark.kept).await?;
        let Some(first) = page.ids.first() else { return Ok(Step::Done) };
        let mut kept = reading.bookmark.kept.clone();
        kept.advance(first, &page, at, self.overlap);
        if !reading.bookmark.replace(kept).await? {
            return Ok(Step::Overtaken);
        }
        tracing::info!(source.name = %self.context.origin.name, "the log is read from here on");
        Ok(Step::Begun)
    }

    /// Takes the first records since a date; pages come after a record, and not with it. When the answer was given.
    async fn search(&self, kept: &Kept) -> Result<(Page, Timestamp), LogsError> {
        // What comes before in order may be later by date.
        let since = Timestamp::from_millis(kept.since).minus(self.overlap);
        let answer = self.tenant.call(Method::GET, &first_since(since), None).await?;
        Ok((self.take(&answer).await?, answer.at))
    }

    async fn begin_anew(
        &self,
        reading: &mut Reading,
        checkpoint: &Mark,
        error: TenantError,
    ) -> Result<Step, LogsError> {
        let since = Timestamp::from_millis(checkpoint.at).min(self.beginning());
        let kept = Kept::from(since);
        if !reading.bookmark.replace(kept).await? {
            return Ok(Step::Overtaken);
        }
        Err(LogsError::CheckpointLost { since, source: error })
    }

    /// Takes a page.
    async fn take(&self, answer: &Answer) -> Result<Page, LogsError> {
        let now = self.context.pipeline.now();
        let (page, batch) = self.read(&answer.body)?;
        self.health().received(now);
        self.health().set(Activity::Connected);
        if !batch.is_empty() {
            self.context.pipeline.take(&self.context.origin, &batch).await.map_err(LogsError::NotTaken)?;
        }
        Ok(page)
    }

    fn read(&self, body: &[u8]) -> Result<(Page, Batch), LogsError> {
        // Of a page that broke off, the rest would be lost.
        if serde_json::from_slice::<Vec<IgnoredAny>>(body).is_err() {
            return Err(TenantError::Malformed.into());
        }
        let (mut page, mut batch) = (Page::default(), Batch::default());
        for record in framing::records(body) {
            page.push(record);
            batch.push(self.reader.read(record));
        }
        if page.len > 0 && page.ids.is_empty() {
            return Err(TenantError::Malformed.into());
        }
        Ok((page, batch))
    }
}

impl Kept {
    /// The log is to be read from here on.
    fn from(since: Timestamp) -> Self {
        Self { since: since.as_millis(), checkpoint: None, trail: VecDeque::new() }
    }

    /// The log was read up to here.
    fn advance(&mut self, last: &str, page: &Page, now: Timestamp, overlap: Duration) {
        let (before, read) = self.checkpoint.as_ref().map_or((i64::MIN, 0), |mark| (mark.at, mark.read));
        // A date of the future must not keep everything after it unsettled.
        let at = page.latest.map_or(now, |date| date.min(now)).as_millis().max(before);
        let mark = Mark { log_id: last.to_owned(), at, read: read.saturating_add(page.len as u64) };
        let is_far = |back: &Mark| {
            Timestamp::from_millis(at).since(Timestamp::from_millis(back.at)) >= overlap / 16
                || mark.read.saturating_sub(back.read) >= MAX_AGAIN / 4
        };
        if self.trail.back().is_none_or(is_far) {
            self.trail.push_back(mark.clone());
        }
        self.checkpoint = Some(mark);
        while self.trail.get(1).is_some_and(|second| second.is_settled(now, overlap)) || self.trail.len() > MAX_MARKS {
            self.trail.pop_front();
        }
    }

    /// Where to begin so that what turned up late is found; `None`: everything is settled.
    fn place_to_read_again(&self, now: Timestamp, overlap: Duration) -> Option<Place> {
        let checkpoint =
            self.checkpoint.as_ref().filter(|mark| !overlap.is_zero() && !mark.is_settled(now, overlap))?;
        let settled = self.trail.iter().rposition(|mark| mark.is_settled(now, overlap));
        let is_near = |mark: &Mark| checkpoint.read.saturating_sub(mark.read) <= MAX_AGAIN;
        let mut places = self.trail.iter().enumerate().skip(settled.unwrap_or_default());
        let (index, mark) = places.find(|(_, mark)| is_near(mark))?;
        let is_first = settled.is_none() && index == 0;
        Some(if is_first { Place::Beginning } else { Place::Mark(mark.log_id.clone()) })
    }
}

impl Mark {
    /// Whether nothing before it turns up any more. A quarter more than the overlap, because that is how often one looks.
    fn is_settled(&self, now: Timestamp, overlap: Duration) -> bool {
        now.since(Timestamp::from_millis(self.at)) >= overlap + overlap / 4
    }
}

/// What asks for the first records since a date.
fn first_since(since: Timestamp) -> String {
    let query = format!("date:[{since} TO *]");
    let query = utf8_percent_encode(&query, NON_ALPHANUMERIC);
    format!("/api/v2/logs?q={query}&sort=date%3A1&page=0&per_page={PAGE}")
}

/// Whether the tenant says that it does not know the checkpoint. How it says so is not documented.
fn is_lost(error: &TenantError) -> bool {
    match error {
        TenantError::Gone => true,
        TenantError::Status { status, .. } => matches!(*status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND),
        _ => false,
    }
}

fn is_of_logs(link: &PathAndQuery) -> bool {
    link.path() == "/api/v2/logs"
}

/// What is to be known of a page.
#[derive(Default, Debug)]
struct Page {
    len: usize,
    /// Those that can be read.
    ids: Vec<String>,
    latest: Option<Timestamp>,
}

impl Page {
    fn push(&mut self, record: &[u8]) {
        let mut head = Head::default();
        // What cannot be read is a gap.
        let _ = loose::read(record, &mut head);
        self.len += 1;
        let id = head.log_id.id().or_else(|| head.id.id()).filter(|id| id.len() <= MAX_ID);
        self.ids.extend(id.map(Into::into));
        self.latest = self.latest.max(head.date.time());
    }
}

/// What of a record says where it is in the log.
#[derive(Default)]
struct Head<'a> {
    log_id: Loose<'a>,
    id: Loose<'a>,
    date: Loose<'a>,
}

impl<'a> Members<'a> for Head<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &[u8], values: &mut A) -> Result<(), A::Error> {
        let member = match name {
            b"log_id" => &mut self.log_id,
            b"_id" => &mut self.id,
            b"date" => &mut self.date,
            _ => return loose::skip(values),
        };
        *member = values.next_value()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERLAP: Duration = Duration::from_secs(60);

    fn second(seconds: i64) -> Timestamp {
        Timestamp::from_secs(1_763_700_000 + seconds)
    }

    fn kept() -> Kept {
        Kept::from(Timestamp::from_millis(0))
    }

    fn page(len: usize, latest: Option<Timestamp>) -> Page {
        Page { len, ids: Vec::new(), latest }
    }

    fn again(kept: &Kept, now: i64) -> Option<Place> {
        kept.place_to_read_again(second(now), OVERLAP)
    }

    /// The number of the place, which is a mark.
    fn number(place: Option<Place>) -> i64 {
        let Some(Place::Mark(log_id)) = place else { panic!("{place:?}") };
        log_id[2..].parse().unwrap()
    }

    #[test]
    fn what_is_not_older_than_the_overlap_is_read_again() {
        let mut kept = kept();
        for at in 0..200 {
            kept.advance(&format!("id{at}"), &page(1, Some(second(at))), second(at), OVERLAP);
        }
        let at = number(again(&kept, 199));
        assert!((115..=124).contains(&at), "{at}");
        assert!(kept.trail.len() < 25, "{}", kept.trail.len());
        assert!(again(&kept, 199 + 74).is_some());
        assert_eq!(again(&kept, 199 + 75), None, "all is settled");
        assert_eq!(kept.place_to_read_again(second(199), Duration::ZERO), None, "not wanted");
    }

    #[test]
    fn at_first_there_is_only_the_beginning_to_go_back_to() {
        let mut kept = kept();
        assert_eq!(again(&kept, 0), None);
        kept.advance("first", &page(1, Some(second(0))), second(1), OVERLAP);
        assert_eq!(again(&kept, 1), Some(Place::Beginning));
        kept.advance("second", &page(1, Some(second(50))), second(50), OVERLAP);
        assert_eq!(again(&kept, 50), Some(Place::Beginning));
        assert_eq!(again(&kept, 80), Some(Place::Mark("first".into())));
    }

    #[test]
    fn an_old_log_is_not_read_twice() {
        let mut kept = kept();
        for at in 0..10_000 {
            kept.advance(&format!("id{at}"), &page(100, Some(second(at))), second(100_000), OVERLAP);
        }
        assert_eq!(again(&kept, 100_000), None);
        assert!(kept.trail.len() <= 2);
    }

    #[test]
    fn a_busy_log_is_read_again_as_far_as_there_is_time() {
        let mut kept = kept();
        for at in 0..600 {
            kept.advance(&format!("id{at}"), &page(100, Some(second(at / 10))), second(at / 10), OVERLAP);
        }
        let at = number(again(&kept, 60));
        assert!((580..600).contains(&at), "{at}");
    }

    #[test]
    fn dates_that_make_no_sense_do_no_harm() {
        let mut kept = kept();
        kept.advance("a", &page(1, Some(Timestamp::MAX)), second(0), OVERLAP);
        kept.advance("b", &page(1, Some(Timestamp::MIN)), second(1), OVERLAP);
        kept.advance("c", &page(1, None), second(2), OVERLAP);
        assert_eq!(kept.checkpoint.as_ref().map(|mark| mark.at), Some(second(2).as_millis()));
        assert_eq!(again(&kept, 200), None);
        for _ in 0..1000 {
            kept.advance("d", &page(1, None), second(2), Duration::ZERO);
        }
        assert!(kept.trail.len() <= MAX_MARKS);
    }

    #[test]
    fn notes_are_read_as_they_were_written() {
        let mut kept = kept();
        assert_eq!(serde_json::from_str::<Kept>(r#"{"since":0}"#).unwrap(), kept);
        kept.advance("9002\"", &page(1, None), second(2), OVERLAP);
        assert_eq!(serde_json::from_str::<Kept>(&serde_json::to_string(&kept).unwrap()).unwrap(), kept);
    }
}
