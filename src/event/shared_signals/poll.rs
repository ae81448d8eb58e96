//! Poll-based delivery: the gate asks, and acknowledges with the next question (RFC 8936).
//!
//! 1. A question waits at the transmitter until there is something to tell (`returnImmediately: false`), and a little less long than
//!    the gate waits for the answer.
//! 2. A SET is acknowledged when what it says is durable, and refused with an error when it is at fault (`setErrs`); never both. What
//!    can be neither, because the store or the transmitter's keys are out, comes again.
//! 3. What comes again although it was acknowledged is acknowledged again.
//! 4. Acknowledgements that do not go with a question, because there is a pause before the next, go alone (`maxEvents: 0`,
//!    `returnImmediately: true`).
//! 5. After failures the gate waits, longer each time; after an empty answer that came at once, a little.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use http::{Method, Uri};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    fault::{Code, Refused, SetFault},
    intake::Intake,
    retry::Retry,
    set::SecurityEventToken,
    transmitter::{Transmitter, TransmitterError, parse},
};
use crate::event::{health::Activity, session_event::Batch};

/// How the gate asks.
#[derive(Clone, Debug)]
pub(super) struct PollSettings {
    /// The least time between two questions that find nothing. A transmitter that lets a question wait is asked no more often by it.
    pub(super) every: Duration,
    /// How long an answer may take: longer than the transmitter lets a question wait.
    pub(super) timeout: Duration,
    /// The most SETs of one answer.
    pub(super) max_events: usize,
    /// The longest answer, in bytes.
    pub(super) max_answer: usize,
}

/// An answer (RFC 8936 §2.3). Whether there is more (`moreAvailable`) need not be known: after SETs, the gate asks again at once.
#[derive(Default, Deserialize)]
struct Answer {
    #[serde(default)]
    sets: BTreeMap<String, String>,
}

/// What is to be told with the next question.
#[derive(Default)]
struct Verdicts {
    taken: BTreeSet<String>,
    refused: BTreeMap<String, SetFault>,
}

impl Verdicts {
    fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.refused.is_empty()
    }

    fn question(&self, max_events: usize, at_once: bool) -> Value {
        let mut question = json!({ "maxEvents": max_events, "returnImmediately": at_once });
        if !self.taken.is_empty() {
            question["ack"] = json!(self.taken);
        }
        if !self.refused.is_empty() {
            question["setErrs"] = self.refused.iter().map(|(jti, fault)| (jti.clone(), fault.json())).collect();
        }
        question
    }
}

/// Asks again and again, until it is dropped.
pub(super) async fn poll(intake: &Intake, transmitter: &Transmitter, uri: &Uri, settings: &PollSettings) {
    let health = &intake.context.origin.health;
    let (mut retry, mut storing) = (Retry::default(), Retry::default());
    let mut verdicts = Verdicts::default();
    let mut before = BTreeSet::new();
    loop {
        let asked = Instant::now();
        let question = verdicts.question(settings.max_events, false);
        let answer = match ask(transmitter, uri, &question, settings).await {
            Ok(answer) => answer,
            Err(error) => {
                health.failed(intake.context.pipeline.now(), &error);
                health.set(Activity::Retrying);
                if error.status().is_some_and(|status| status.as_u16() == 400) {
                    // It may be what was told that is not liked. What it was about comes again.
                    verdicts = Verdicts::default();
                }
                sleep(retry.wait(error.retry_after())).await;
                continue;
            }
        };
        retry = Retry::default();
        health.received(intake.context.pipeline.now());
        intake.works();
        let found: BTreeSet<String> = answer.sets.keys().cloned().collect();
        let is_new = found.iter().any(|jti| !before.contains(jti));
        let taken = take(intake, answer.sets).await;
        let is_stored = taken.is_ok();
        verdicts = taken.unwrap_or_else(|verdicts| verdicts);
        before = found;
        if is_stored && is_new {
            storing = Retry::default();
            continue;
        }
        // There is nothing new, or the store does not take it.
        if !verdicts.is_empty() {
            match ask(transmitter, uri, &verdicts.question(0, true), settings).await {
                Ok(_) => verdicts = Verdicts::default(),
                Err(error) => health.failed(intake.context.pipeline.now(), &error),
            }
        }
        let pause = if is_stored { settings.every.saturating_sub(asked.elapsed()) } else { storing.wait(None) };
        sleep(pause).await;
    }
}

async fn ask(
    transmitter: &Transmitter,
    uri: &Uri,
    question: &Value,
    settings: &PollSettings,
) -> Result<Answer, TransmitterError> {
    let answer =
        transmitter.call_within(Method::POST, uri, Some(question), settings.max_answer, settings.timeout).await?;
    if answer.body().is_empty() {
        // What acknowledges only may be answered so.
        return Ok(Answer::default());
    }
    parse(uri, &answer, "that of a poll")
}

/// Reads all of them, and stores what they say at once. `Err`: some were not stored, or nothing is known about them yet; here is what
/// can be told about the others.
async fn take(intake: &Intake, sets: BTreeMap<String, String>) -> Result<Verdicts, Verdicts> {
    let (mut verdicts, mut batch, mut complete) = (Verdicts::default(), Batch::default(), true);
    let mut refuse = |jti, refused| match refused {
        Refused::Fault(fault) => {
            intake.refused(&fault);
            verdicts.refused.insert(jti, fault);
        }
        Refused::NotReady => complete = false,
        Refused::Store(error) => {
            intake.context.origin.health.failed(intake.context.pipeline.now(), &error);
            complete = false;
        }
    };
    let mut verified = Vec::with_capacity(sets.len());
    for (jti, token) in sets {
        match verify(intake, &jti, &token).await {
            Ok(set) => verified.push((jti, set)),
            Err(refused) => refuse(jti, refused),
        }
    }
    // They come in no order, and an address may have become somebody else's meanwhile.
    verified.sort_by_key(|(_, set)| set.issued_at.earliest());
    let mut read = BTreeSet::new();
    for (jti, set) in verified {
        match intake.batch(&set).await {
            Ok(found) => {
                batch.events.extend(found.events);
                batch.gaps.extend(found.gaps);
                read.insert(jti);
            }
            Err(refused) => refuse(jti, refused),
        }
    }
    if read.is_empty() || intake.take(&batch).await.is_ok() {
        verdicts.taken = read;
    } else {
        complete = false;
    }
    if complete { Ok(verdicts) } else { Err(verdicts) }
}

/// Verifies a SET that came under a name, which must be its `jti` (RFC 8936 §2.3).
async fn verify(intake: &Intake, name: &str, token: &str) -> Result<SecurityEventToken, Refused> {
    let set = intake.keys.verify(token).await?;
    if *set.jti == *name {
        return Ok(set);
    }
    Err(SetFault::new(Code::InvalidRequest, "the SET has another `jti` than it is called by").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn questions_have_the_published_form() {
        let mut verdicts = Verdicts::default();
        assert!(verdicts.is_empty());
        assert_eq!(verdicts.question(7, false), json!({ "maxEvents": 7, "returnImmediately": false }));
        verdicts.taken.insert("4d3559ec67504aaba65d40b0363faad8".to_owned());
        verdicts.taken.insert("3d0c3cf797584bd193bd0fb1bd4e7d30".to_owned());
        let mut ack_only = published(include_str!("../../../tests/fixtures/rfc8936/poll-ack-only.json"));
        ack_only["ack"].as_array_mut().unwrap().reverse();
        assert_eq!(verdicts.question(0, true), ack_only);

        let mut verdicts = Verdicts::default();
        verdicts.taken.insert("3d0c3cf797584bd193bd0fb1bd4e7d30".to_owned());
        let fault = SetFault::new(Code::AuthenticationFailed, "The SET could not be authenticated");
        verdicts.refused.insert("4d3559ec67504aaba65d40b0363faad8".to_owned(), fault);
        let mut both = published(include_str!("../../../tests/fixtures/rfc8936/poll-ack-and-errors.json"));
        both["maxEvents"] = json!(1);
        assert_eq!(verdicts.question(1, true), both);
    }
}
