//! The sources of Auth0.

use super::{super::reader::Section, Basis, issuer};
use crate::event::auth0::{
    event_stream::EventStreamSettings, events::EventsSettings, log_stream::LogStreamSettings, logs::LogsSettings,
};

/// `type = "auth0_log_stream"`
pub(super) fn log_stream(section: &Section<'_>, basis: &Basis<'_>) -> Option<LogStreamSettings> {
    Some(LogStreamSettings { issuer: issuer(section, basis)? })
}

/// `type = "auth0_logs"`
pub(super) fn logs(section: &Section<'_>, basis: &Basis<'_>) -> Option<LogsSettings> {
    Some(LogsSettings { issuer: issuer(section, basis)? })
}

/// `type = "auth0_event_stream"`
pub(super) fn event_stream(section: &Section<'_>, basis: &Basis<'_>) -> Option<EventStreamSettings> {
    Some(EventStreamSettings { issuer: issuer(section, basis)? })
}

/// `type = "auth0_events"`
pub(super) fn events(section: &Section<'_>, basis: &Basis<'_>) -> Option<EventsSettings> {
    Some(EventsSettings { issuer: issuer(section, basis)? })
}
