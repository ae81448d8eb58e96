//! The audit trail: one line per change of a marker, and per reload that somebody asks for, under the log target `portcullis::audit`.

use std::net::IpAddr;

use crate::{
    marker::{Marker, MarkerKey},
    store::{Merged, StoreError},
};

/// The log target of audit lines, so that they can be sent elsewhere.
pub const TARGET: &str = "portcullis::audit";

/// Who asks for a change, and from where.
#[derive(Clone, Debug)]
pub struct Actor {
    /// Who: `admin`, `self`, or a source of events.
    pub who: String,
    /// The address of the connection.
    pub from: Option<IpAddr>,
    /// The event that it is about, where a source tells it.
    pub event: Option<String>,
}

/// Writes down a change and what became of it.
pub fn record(actor: &Actor, what: &str, key: &MarkerKey, marker: &Marker, result: &Result<Merged, StoreError>) {
    let outcome = match result {
        Ok(Merged { changed: true, .. }) => "changed",
        Ok(Merged { changed: false, .. }) => "unchanged",
        Err(_) => "failed",
    };
    tracing::info!(
        target: TARGET,
        who = actor.who,
        what,
        marker.key = key.as_str(),
        at = %marker.at(),
        from = actor.from.map(tracing::field::display),
        event = actor.event,
        outcome,
        error = result.as_ref().err().map(tracing::field::display),
        "marker"
    );
}

/// Writes down that somebody asked for the configuration to be read again, and what became of it.
pub fn record_reload(actor: &Actor, outcome: &str, changed: usize, problems: usize) {
    tracing::info!(
        target: TARGET,
        who = actor.who,
        what = "reload",
        from = actor.from.map(tracing::field::display),
        outcome,
        changed,
        problems,
        "configuration"
    );
}

/// Writes down what became of a revocation at an issuer, whose marker here has this key.
pub fn record_revocation(
    what: &str,
    key: Option<&MarkerKey>,
    outcome: &str,
    attempts: u32,
    error: Option<&dyn std::error::Error>,
) {
    tracing::info!(
        target: TARGET,
        who = "revocation",
        what,
        marker.key = key.map(MarkerKey::as_str),
        outcome,
        attempts,
        error = error.map(tracing::field::display),
        "revocation at the issuer"
    );
}
