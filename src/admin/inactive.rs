//! Who has been inactive, and what a run that blocks them keeps: for `portcullis inactive`, which runs elsewhere.

use std::collections::BTreeMap;

use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{
    Admin,
    answer::{Answer, Refusal, ok},
    body::{self, Body, Members},
    names::{Named, NamedIssuer},
};
use crate::{
    clock::Timestamp,
    inactive::records::{Known, MAX_LOOK_UP, MAX_PAGE, MAX_UNFINISHED, Overview, RecordsError, RunChange},
    store::Seen,
    token::claims::{Subject, SubjectId},
};

/// The largest body, in bytes: as many ids as may be looked up at once, each as long as one may be.
pub(super) const MAX_BODY: usize = 512 * 1024;

/// How many users are told at once, unless asked for fewer or more.
const PAGE: usize = 1000;

/// `?since=<time>&after=<milliseconds>:<subject>&limit=1000`
struct Page {
    since: Timestamp,
    after: Option<Seen>,
    limit: usize,
}

/// Subjects that were not active since, a page at a time.
pub(super) async fn list(
    State(Admin(admin)): State<Admin>,
    NamedIssuer(issuer): NamedIssuer,
    RawQuery(query): RawQuery,
) -> Answer {
    let page = Page::read(query.as_deref().unwrap_or_default())?;
    let records = &admin.lasting.records;
    let overview = match page.after {
        None => Some(records.overview(&issuer, page.since).await.map_err(not_read)?),
        Some(_) => None,
    };
    let seen = records.inactive(&issuer, page.since, page.after.as_ref(), page.limit).await.map_err(not_read)?;
    let next = seen.last().filter(|_| seen.len() == page.limit);
    let subjects =
        seen.iter().map(|seen| json!({ "subject": seen.subject.as_str(), "last_activity": seen.at.to_string() }));
    Ok(ok(&json!({
        "issuer": issuer.as_str(),
        "since": page.since.to_string(),
        "overview": overview.as_ref().map(told),
        "subjects": subjects.collect::<Vec<_>>(),
        "next": next.map(|seen| format!("{}:{}", seen.at.as_millis(), seen.subject.as_str())),
    })))
}

fn told(Overview { now, recorded_since, kept_since, delay, count }: &Overview) -> Value {
    json!({
        "now": now.to_string(),
        "recorded_since": recorded_since.map(|since| since.to_string()),
        "kept_since": kept_since.to_string(),
        "delay_ms": u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        "known": count.known,
        "inactive": count.inactive,
    })
}

impl Page {
    fn read(query: &str) -> Result<Self, Refusal> {
        let (mut since, mut after, mut limit) = (None, None, PAGE);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8().unwrap_or_default();
            match name {
                "since" => since = Some(time(&value)?),
                "after" => {
                    let wanted = || Refusal::invalid("`after` must be what `next` was");
                    let (at, subject) = value.split_once(':').ok_or_else(wanted)?;
                    let at = Timestamp::from_millis(at.parse().map_err(|_| wanted())?);
                    after = Some(Seen { at, subject: subject.try_into().map_err(|_| wanted())? });
                }
                "limit" => {
                    let wanted = || Refusal::invalid(format!("`limit` must be 0 to {MAX_PAGE}"));
                    limit = value.parse().ok().filter(|limit| *limit <= MAX_PAGE).ok_or_else(wanted)?;
                }
                _ => return Err(Refusal::invalid("parameters are `since` (a time), `after` and `limit`")),
            }
        }
        let since =
            since.ok_or_else(|| Refusal::invalid("`since` is missing: the time since when they were not active"))?;
        Ok(Self { since, after, limit })
    }
}

fn time(text: &str) -> Result<Timestamp, Refusal> {
    let value = text.parse::<i64>().map_or_else(|_| json!(text), |millis| json!(millis));
    body::time(&value).map_err(|wanted| Refusal::invalid(format!("`since` must be {wanted}")))
}

/// Which subjects are looked up.
#[derive(Default)]
pub(super) struct Subjects(Vec<SubjectId>);

impl Members for Subjects {
    const NAMES: &'static [&'static str] = &["subjects"];

    fn set(&mut self, _: &str, value: &Value) -> Result<(), &'static str> {
        let ids = value.as_array().filter(|ids| ids.len() <= MAX_LOOK_UP);
        let ids = ids.and_then(|ids| ids.iter().map(|id| id.as_str()?.try_into().ok()).collect());
        self.0 = ids.ok_or("a list of up to 1000 subjects")?;
        Ok(())
    }
}

/// When subjects were last active, and whether they are blocked.
pub(super) async fn look_up(
    State(Admin(admin)): State<Admin>,
    NamedIssuer(issuer): NamedIssuer,
    Body(Subjects(subjects)): Body<Subjects>,
) -> Answer {
    let known = admin.lasting.records.look_up(&issuer, &subjects).await.map_err(not_read)?;
    let told = subjects.iter().zip(known).map(|(subject, Known { last_activity, blocked })| {
        json!({
            "subject": subject.as_str(),
            "last_activity": last_activity.map(|at| at.to_string()),
            "blocked": blocked.map(|block| json!({ "by": block.by, "source": block.source, "at": block.at.to_string() })),
        })
    });
    Ok(ok(&json!({ "issuer": issuer.as_str(), "subjects": told.collect::<Vec<_>>() })))
}

/// Takes a subject for active now.
pub(super) async fn renew(State(Admin(admin)): State<Admin>, subject: Named<SubjectId>) -> Answer {
    let subject = Subject::from(subject);
    admin.lasting.records.renew(&subject).await.map_err(not_written)?;
    Ok(ok(&json!({ "issuer": subject.issuer.as_str(), "subject": subject.id.as_str() })))
}

/// Forgets when a subject was active.
pub(super) async fn forget(State(Admin(admin)): State<Admin>, subject: Named<SubjectId>) -> Answer {
    let subject = Subject::from(subject);
    admin.lasting.records.forget(&subject).await.map_err(not_written)?;
    Ok(ok(&json!({ "issuer": subject.issuer.as_str(), "subject": subject.id.as_str() })))
}

/// What a run wants kept.
#[derive(Default)]
pub(super) struct Change {
    owner: Option<String>,
    change: RunChange,
}

impl Members for Change {
    const NAMES: &'static [&'static str] = &["owner", "progress", "forget_progress", "begin", "end"];

    fn set(&mut self, name: &str, value: &Value) -> Result<(), &'static str> {
        match name {
            "owner" => self.owner = Some(body::words(value)?),
            "progress" => {
                let text = value.as_str().filter(|text| text.len() <= 4096).ok_or("text of up to 4096 bytes")?;
                self.change.progress = Some(Some(text.to_owned()));
            }
            "forget_progress" => {
                if value.as_bool().ok_or("true or false")? {
                    self.change.progress = Some(None);
                }
            }
            "begin" => {
                let begin = value.as_object().filter(|begin| begin.len() <= MAX_UNFINISHED);
                let begin = begin.and_then(|begin| {
                    let text = |(id, value): (&String, &Value)| {
                        let value = value.as_str().filter(|text| text.len() <= 4096)?;
                        is_name(id).then(|| (id.clone(), value.to_owned()))
                    };
                    begin.iter().map(text).collect::<Option<BTreeMap<_, _>>>()
                });
                self.change.begin = begin.ok_or("an object of up to 200 texts")?;
            }
            _ => {
                let end = value.as_array().filter(|end| end.len() <= MAX_UNFINISHED);
                let end = end.and_then(|end| {
                    let name = |id: &Value| id.as_str().filter(|id| is_name(id)).map(str::to_owned);
                    end.iter().map(name).collect::<Option<Vec<_>>>()
                });
                self.change.end = end.ok_or("a list of up to 200 names")?;
            }
        }
        Ok(())
    }
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// How far a run came.
pub(super) async fn run(State(Admin(admin)): State<Admin>, NamedIssuer(issuer): NamedIssuer) -> Answer {
    let state = admin.lasting.records.run(&issuer).await.map_err(not_read)?;
    Ok(ok(&json!({
        "issuer": issuer.as_str(),
        "owner": state.owner,
        "progress": state.progress,
        "unfinished": state.unfinished,
    })))
}

/// Keeps others from running, and keeps what the run wants kept.
pub(super) async fn hold(
    State(Admin(admin)): State<Admin>,
    NamedIssuer(issuer): NamedIssuer,
    Body(Change { owner, change }): Body<Change>,
) -> Answer {
    let owner = owner.ok_or_else(|| Refusal::invalid("`owner` is missing: who runs it"))?;
    if admin.lasting.records.hold(&issuer, &owner, &change).await.map_err(not_written)? {
        return Ok(ok(&json!({ "issuer": issuer.as_str(), "owner": owner })));
    }
    let detail = "another run is under way for this issuer; nothing was changed";
    Err(Refusal::new(StatusCode::CONFLICT, "run_under_way", detail))
}

/// Lets others run.
pub(super) async fn let_go(
    State(Admin(admin)): State<Admin>,
    NamedIssuer(issuer): NamedIssuer,
    Body(Change { owner, .. }): Body<Change>,
) -> Answer {
    let owner = owner.ok_or_else(|| Refusal::invalid("`owner` is missing: who runs it"))?;
    admin.lasting.records.let_go(&issuer, &owner).await.map_err(not_written)?;
    Ok(ok(&json!({ "issuer": issuer.as_str() })))
}

fn not_read(error: RecordsError) -> Refusal {
    match error {
        RecordsError::Store(error) => Refusal::not_read(&error),
        RecordsError::Gateway(message) => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message),
    }
}

fn not_written(error: RecordsError) -> Refusal {
    match error {
        RecordsError::Store(error) => Refusal::not_written(&error),
        RecordsError::Gateway(message) => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message),
    }
}
