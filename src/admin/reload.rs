//! `/v1/reload`: the configuration is read again.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};

use super::{
    Admin, Peer,
    answer::{Answer, Refusal, ok},
};
use crate::{
    config::{Place, Problem},
    reload::{NoReload, Reloads, Report, Trigger},
    telemetry::audit::{self, Actor},
};

/// `POST /v1/reload`
pub(super) async fn reload(State(Admin(admin)): State<Admin>, peer: Peer) -> Answer {
    let result = admin.lasting.readiness.reloads.reload(Trigger::Request).await;
    let refusal = |no: &NoReload| match no {
        NoReload::Off => (StatusCode::CONFLICT, "reload_off"),
        NoReload::NoFile => (StatusCode::CONFLICT, "no_file"),
        NoReload::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
    };
    let actor = Actor { who: "admin".to_owned(), from: Some(peer.0.ip()), event: None };
    match &result {
        Ok(report) => {
            audit::record_reload(&actor, report.outcome.as_str(), report.changed.len(), report.problems.len());
        }
        Err(no) => audit::record_reload(&actor, refusal(no).1, 0, 0),
    }
    let report = result.map_err(|no| {
        let (status, code) = refusal(&no);
        Refusal::new(status, code, no.to_string())
    })?;
    Ok(answer(&report))
}

/// `GET /v1/reload`
pub(super) async fn last(State(Admin(admin)): State<Admin>) -> Response {
    let reloads = &admin.lasting.readiness.reloads;
    let last = reloads.last().map(|report| show(&report));
    ok(&json!({ "since": reloads.since().to_string(), "last": last }))
}

/// What readiness tells of the configuration: nothing that it says.
pub(super) fn state(reloads: &Reloads) -> Value {
    let last = reloads.last().map(|report| {
        json!({
            "at": report.at.to_string(),
            "outcome": report.outcome.as_str(),
            "problems": report.problems.len(),
        })
    });
    json!({ "since": reloads.since().to_string(), "last_reload": last })
}

fn answer(report: &Report) -> Response {
    if report.outcome.is_success() {
        return ok(&show(report));
    }
    let detail = match &report.problems[..] {
        [only] => format!("the configuration is not reloaded: {}", line(only)),
        all => format!("the configuration is not reloaded: it has {} problems", all.len()),
    };
    Refusal::new(StatusCode::CONFLICT, "not_reloaded", detail).with("reload", show(report)).into_response()
}

fn show(report: &Report) -> Value {
    let problems = |problems: &[Problem]| problems.iter().map(problem).collect::<Vec<_>>();
    json!({
        "at": report.at.to_string(),
        "trigger": report.trigger.as_str(),
        "outcome": report.outcome.as_str(),
        "changed": report.changed,
        "problems": problems(&report.problems),
        "warnings": problems(&report.warnings),
    })
}

fn problem(problem: &Problem) -> Value {
    let (place, line) = match &problem.place {
        Place::Position { file, line, .. } => (file.clone(), Some(line)),
        Place::File(file) => (file.clone(), None),
        Place::Variable(name) => (name.clone(), None),
    };
    json!({
        "place": place,
        "line": line,
        "key": problem.key,
        "message": problem.message,
        "hint": problem.hint,
    })
}

/// On one line.
fn line(problem: &Problem) -> String {
    problem.to_string().replace("\n  hint: ", "; ")
}
