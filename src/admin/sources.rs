//! Sources of events: how they are, and taking what was exported of one.

use std::collections::BTreeMap;

use axum::{
    body::Bytes,
    extract::{FromRequest, Path, Request, State},
    http::StatusCode,
};
use serde_json::json;

use super::{
    Admin, CurrentAdmin,
    answer::{Answer, Refusal, ok},
};

/// The most records that are taken at once, in bytes.
pub(super) const MAX_BODY: usize = 4 * 1024 * 1024;

/// How each source is.
pub(super) async fn list(State(Admin(admin)): State<Admin>) -> Answer {
    Ok(ok(&json!({ "sources": admin.lasting.readiness.sources.reports() })))
}

/// Takes records as if the source had sent them just now. Those that were taken before are left out.
pub(super) async fn take(
    State(Admin(admin)): State<Admin>,
    Path(name): Path<String>,
    Records(body): Records,
) -> Answer {
    let Some(context) = admin.lasting.readiness.sources.find(&name) else {
        let detail = "there is no such source; GET /v1/sources lists them";
        return Err(Refusal::new(StatusCode::NOT_FOUND, "no_source", detail));
    };
    let Some(reader) = &context.reader else {
        let detail = "records of this source are signed for one delivery, and cannot be taken again";
        return Err(Refusal::new(StatusCode::CONFLICT, "not_replayable", detail));
    };
    let batch = reader.read_all(&body);
    let taken = context.pipeline.take(&context.origin, &batch).await;
    let taken = taken.map_err(|error| Refusal::not_written(&error))?;
    let mut gaps = BTreeMap::<_, usize>::new();
    for gap in &batch.gaps {
        *gaps.entry(gap.reason.as_str()).or_default() += 1;
    }
    Ok(ok(&json!({
        "records": batch.len(),
        "changed": taken.changed,
        "unchanged": taken.unchanged,
        "duplicates": taken.duplicates,
        "active": taken.active,
        "gaps": gaps,
    })))
}

/// A body of records.
pub(super) struct Records(Bytes);

impl FromRequest<CurrentAdmin> for Records {
    type Rejection = Refusal;

    async fn from_request(request: Request, admin: &CurrentAdmin) -> Result<Self, Refusal> {
        Bytes::from_request(request, admin).await.map(Self).map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let detail = format!("{} MiB of records are taken at once", MAX_BODY / 1024 / 1024);
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
            }
            _ => Refusal::invalid("the body did not arrive"),
        })
    }
}
