//! The store of a running gate, through its admin listener.

use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    cli::admin::{Asked, Gate, subject_path},
    clock::Timestamp,
    inactive::records::{BlockedBy, Known, Overview, Records, RecordsError, RunChange, RunState},
    store::{ActivityCount, Seen},
    token::claims::{IssuerName, Subject, SubjectId},
};

/// How often a gate is asked that does not answer, and the pause in between: it may be restarted.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// A gate whose store is asked.
#[derive(Debug)]
pub(super) struct Remote(pub(super) Gate);

impl Remote {
    /// Asks until there is an answer: repeating any of it is harmless. A conflict is `None`.
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Option<Value>, RecordsError> {
        let mut attempt = 1;
        loop {
            match self.0.ask_once(method.clone(), path, body).await {
                Asked::Done(answer) => return Ok(Some(answer)),
                Asked::Conflict => return Ok(None),
                Asked::Failed { error, again } => {
                    if !again || attempt >= ATTEMPTS {
                        return Err(RecordsError::Gateway(format!("{error:#}")));
                    }
                }
            }
            attempt += 1;
            sleep(PAUSE).await;
        }
    }

    async fn know(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, RecordsError> {
        self.ask(method, path, body).await?.ok_or_else(|| RecordsError::Gateway("the gate refused".to_owned()))
    }
}

fn issuer_path(issuer: &IssuerName, rest: &str) -> String {
    format!("/v1/issuers/{}/{rest}", encoded(issuer.as_str()))
}

fn encoded(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

fn malformed() -> RecordsError {
    RecordsError::Gateway("the gate's answer is not what this version expects; are both of one version?".to_owned())
}

/// A time that may be absent.
fn time(value: &Value) -> Result<Option<Timestamp>, RecordsError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => text.parse().map(Some).map_err(|_| malformed()),
        _ => Err(malformed()),
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn list(value: &Value) -> Result<&Vec<Value>, RecordsError> {
    value.as_array().ok_or_else(malformed)
}

#[async_trait]
impl Records for Remote {
    async fn overview(&self, issuer: &IssuerName, since: Timestamp) -> Result<Overview, RecordsError> {
        let path = issuer_path(issuer, &format!("inactive?limit=0&since={}", since.as_millis()));
        let answer = self.know(Method::GET, &path, None).await?;
        let overview = &answer["overview"];
        let number = |name: &str| overview[name].as_u64().ok_or_else(malformed);
        Ok(Overview {
            now: time(&overview["now"])?.ok_or_else(malformed)?,
            recorded_since: time(&overview["recorded_since"])?,
            kept_since: time(&overview["kept_since"])?.ok_or_else(malformed)?,
            delay: Duration::from_millis(number("delay_ms")?),
            count: ActivityCount { known: number("known")?, inactive: number("inactive")? },
        })
    }

    async fn inactive(
        &self,
        issuer: &IssuerName,
        since: Timestamp,
        after: Option<&Seen>,
        limit: usize,
    ) -> Result<Vec<Seen>, RecordsError> {
        let after = after.map_or_else(String::new, |after| {
            format!("&after={}", encoded(&format!("{}:{}", after.at.as_millis(), after.subject.as_str())))
        });
        let path = issuer_path(issuer, &format!("inactive?limit={limit}&since={}{after}", since.as_millis()));
        let answer = self.know(Method::GET, &path, None).await?;
        let seen = list(&answer["subjects"])?.iter().map(|seen| {
            let subject = seen["subject"].as_str().and_then(|id| id.try_into().ok()).ok_or_else(malformed)?;
            Ok(Seen { at: time(&seen["last_activity"])?.ok_or_else(malformed)?, subject })
        });
        seen.collect()
    }

    async fn look_up(&self, issuer: &IssuerName, users: &[SubjectId]) -> Result<Vec<Known>, RecordsError> {
        let ids: Vec<_> = users.iter().map(SubjectId::as_str).collect();
        let answer =
            self.know(Method::POST, &issuer_path(issuer, "activity"), Some(&json!({ "subjects": ids }))).await?;
        let known = list(&answer["subjects"])?;
        if known.len() != users.len() {
            return Err(malformed());
        }
        let known = known.iter().map(|known| {
            let block = &known["blocked"];
            let blocked = if block.is_null() {
                None
            } else {
                let at = time(&block["at"]).ok().flatten().unwrap_or(Timestamp::MIN);
                Some(BlockedBy { by: text(&block["by"]), source: text(&block["source"]), at })
            };
            Ok(Known { last_activity: time(&known["last_activity"])?, blocked })
        });
        known.collect()
    }

    async fn block(&self, subject: &Subject, blocked: bool, by: &str, reason: &str) -> Result<(), RecordsError> {
        let path = format!("{}/block", subject_path(subject.issuer.as_str(), subject.id.as_str()));
        let method = if blocked { Method::PUT } else { Method::DELETE };
        self.know(method, &path, Some(&json!({ "by": by, "reason": reason }))).await.map(drop)
    }

    async fn renew(&self, subject: &Subject) -> Result<(), RecordsError> {
        let path = format!("{}/activity", subject_path(subject.issuer.as_str(), subject.id.as_str()));
        self.know(Method::PUT, &path, None).await.map(drop)
    }

    async fn forget(&self, subject: &Subject) -> Result<(), RecordsError> {
        let path = format!("{}/activity", subject_path(subject.issuer.as_str(), subject.id.as_str()));
        self.know(Method::DELETE, &path, None).await.map(drop)
    }

    async fn run(&self, issuer: &IssuerName) -> Result<RunState, RecordsError> {
        let answer = self.know(Method::GET, &issuer_path(issuer, "inactive/run"), None).await?;
        let unfinished = answer["unfinished"].as_object().ok_or_else(malformed)?;
        let unfinished = unfinished.iter().filter_map(|(id, value)| Some((id.clone(), text(value)?)));
        Ok(RunState {
            owner: text(&answer["owner"]),
            progress: text(&answer["progress"]),
            unfinished: unfinished.collect(),
        })
    }

    async fn hold(&self, issuer: &IssuerName, owner: &str, change: &RunChange) -> Result<bool, RecordsError> {
        let mut body = json!({ "owner": owner });
        match &change.progress {
            Some(Some(progress)) => body["progress"] = json!(progress),
            Some(None) => body["forget_progress"] = json!(true),
            None => {}
        }
        if !change.begin.is_empty() {
            body["begin"] = json!(change.begin);
        }
        if !change.end.is_empty() {
            body["end"] = json!(change.end);
        }
        Ok(self.ask(Method::PUT, &issuer_path(issuer, "inactive/run"), Some(&body)).await?.is_some())
    }

    async fn let_go(&self, issuer: &IssuerName, owner: &str) -> Result<(), RecordsError> {
        let body = json!({ "owner": owner });
        self.know(Method::DELETE, &issuer_path(issuer, "inactive/run"), Some(&body)).await.map(drop)
    }
}
